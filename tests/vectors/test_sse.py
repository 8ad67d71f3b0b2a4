"""Recorded event streams and POSTs of ASP.NET Core 10: ours have the same status, headers and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # the replay of the conftest

import pytest

from hubplane.options import HubOptions

Replaying = Callable[..., Any]
Recorded = Callable[[str], dict[str, Any]]

POSTS = (
    "post-handshake",
    "post-ping-and-invocation",
    "post-burst",
    "post-newlines",
    "post-big",
    "post-close",
)


@pytest.mark.row("B39")
async def test_recorded_opening(replaying: Replaying, recording: Recorded) -> None:
    """Headers and a comment line leave at once, before the client has sent anything."""
    async with replaying() as replay:
        stream = await replay.begin(recording("sse")["open"])
        stream.check(complete=False)
        assert stream.headers["x-accel-buffering"] == "no"


@pytest.mark.row("B39", "B40", "B57", "B60")
async def test_recorded_session(replaying: Replaying, recording: Recorded) -> None:
    """A whole session is the recorded stream: handshake, result, five messages in one event, the Close message."""
    records = recording("sse")
    async with replaying() as replay:
        stream = await replay.begin(records["session"])
        for name in POSTS:
            await replay.play(records[name])
        stream.check()
        await replay.play(records["post-after-end"])


@pytest.mark.row("B42")
async def test_recorded_binary_handshake(replaying: Replaying, recording: Recorded) -> None:
    """The binary protocol is refused in the handshake, and the stream ends."""
    records = recording("sse")
    async with replaying() as replay:
        stream = await replay.begin(records["messagepack-handshake"])
        await replay.play(records["messagepack-handshake-post"])
        stream.check()


@pytest.mark.row("B58")
async def test_recorded_post_before_get(replaying: Replaying, recording: Recorded) -> None:
    """What is posted before the GET is kept for it; until then the connection cannot be deleted."""
    records = recording("sse")
    async with replaying() as replay:
        await replay.play(records["http/delete-unattached"])
        await replay.play(records["http/post-before-get"])
        (await replay.begin(records["posted-before-get"])).check(complete=False)


@pytest.mark.row("B44")
async def test_recorded_pings(replaying: Replaying, recording: Recorded) -> None:
    """Pings arrive as events, one for each interval; the hub's abort is a Close message and the end."""
    records = recording("sse")
    async with replaying("/fast", HubOptions(keep_alive_interval=1.0)) as replay:
        stream = await replay.begin(records["pings-and-abort"])
        handshake = records["post-handshake"]
        handshake.target = "/fast?id=TOKEN"
        await replay.play(handshake)
        await replay.seconds(2)
        handshake.body = b'{"type":1,"target":"Abort","arguments":[]}\x1e'
        await replay.play(handshake)
        stream.check()


@pytest.mark.row("B12", "B13", "B17", "B18", "B20", "B21")
async def test_recorded_refusals(replaying: Replaying, recording: Recorded) -> None:
    """On a connection whose stream is open, everything else that HTTP knows is refused as recorded."""
    records = recording("sse")
    async with replaying() as replay:
        await replay.begin(records["open"])
        refused = [name for name in records if name.startswith("http/") and "before-get" not in name]
        refused.remove("http/delete-unattached")
        refused.remove("http/get-public-id")
        assert len(refused) == 14
        for name in refused:
            await replay.play(records[name])


@pytest.mark.parametrize("name", ["accept-list", "accept-upper-case", "accept-parameter"])
async def test_recorded_accept(replaying: Replaying, recording: Recorded, name: str) -> None:
    """The media type alone in the Accept header, in any case, among others, asks for events; with a parameter not."""
    async with replaying() as replay:
        (await replay.begin(recording("sse")[name])).check(complete=name == "accept-parameter")
