"""Recorded polls, POSTs and DELETEs of ASP.NET Core 10: ours are answered with the same status, headers and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # the replay of the conftest

import pytest

from hubplane.options import HubOptions, TransportOptions

Replaying = Callable[..., Any]
Recorded = Callable[[str], dict[str, Any]]

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


async def play_session(replay: Any, records: dict[str, Any], protocol: str) -> None:
    """First poll to replaced poll, as recorded for both hub protocols."""
    await replay.play(records[f"{protocol}/first-poll"])
    for poll, post in (("poll-handshake", "post-handshake"), ("poll-result", "post-ping-and-invocation")):
        pending = await replay.begin(records[f"{protocol}/{poll}"])
        assert pending.status is None
        await replay.play(records[f"{protocol}/{post}"])
        pending.check()
    for post, poll in (("post-burst", "poll-burst"), ("post-big", "poll-big")):
        await replay.play(records[f"{protocol}/{post}"])
        await replay.play(records[f"{protocol}/{poll}"])
    replaced = await replay.begin(records[f"{protocol}/poll-replaced"])
    replacing = await replay.begin(records[f"{protocol}/poll-replacing"])
    replaced.check()
    await replay.play(records[f"{protocol}/post-for-replacing"])
    replacing.check()


@pytest.mark.row("B45", "B46", "B48", "B50", "B51", "B56", "B57", "B60")
@both_protocols
async def test_recorded_session(replaying: Replaying, recording: Recorded, protocol: str) -> None:
    """A whole session is answered as recorded: handshake, result, several messages in one body, a replaced poll."""
    async with replaying() as replay:
        await play_session(replay, recording("long-polling"), protocol)


@pytest.mark.row("B53")
async def test_recorded_delete(replaying: Replaying, recording: Recorded) -> None:
    """DELETE gives the open poll a Close message, and every later request 404."""
    records = recording("long-polling")
    async with replaying() as replay:
        await play_session(replay, records, "json")
        pending = await replay.begin(records["json/poll-open-at-delete"])
        await replay.play(records["json/delete"])
        pending.check()
        for name in ("json/poll-after-delete", "json/post-after-delete", "json/delete-again"):
            await replay.play(records[name])


@pytest.mark.row("B54")
async def test_recorded_close(replaying: Replaying, recording: Recorded) -> None:
    """When the hub's side has ended, a poll fetches the Close message, the next gets 204, the one behind it 404."""
    closing = [record for name, record in recording("long-polling").items() if name.startswith("json/close/")]
    assert len(closing) == 7
    async with replaying() as replay:
        for record in closing:
            await replay.play(record)


async def test_recorded_close_in_messagepack(replaying: Replaying, recording: Recorded) -> None:
    """The same with the binary protocol, at the end of a session."""
    records = recording("long-polling")
    async with replaying() as replay:
        await play_session(replay, records, "messagepack")
        for name, record in records.items():
            if name.startswith("messagepack/close/"):
                await replay.play(record)


async def test_recorded_bad_handshake(replaying: Replaying, recording: Recorded) -> None:
    """A refused handshake is told to a poll, and the next one gets 204."""
    async with replaying() as replay:
        for name, record in recording("long-polling").items():
            if name.startswith("bad-handshake/"):
                await replay.play(record)


@pytest.mark.row("B12", "B13", "B50")
async def test_recorded_errors(replaying: Replaying, recording: Recorded) -> None:
    """A poll without an id, or with an unknown one, is refused, uncached."""
    records = recording("long-polling")
    async with replaying() as replay:
        for name in ("error/unknown-id", "error/no-id"):
            await replay.play(records[name])


@pytest.mark.row("B47", "B55")
async def test_recorded_timeout(replaying: Replaying, recording: Recorded) -> None:
    """A poll without data is answered after the poll timeout, empty, twice in a row, and no ping ever comes."""
    records = recording("long-polling")
    options, transport_options = HubOptions(keep_alive_interval=1.0), TransportOptions(poll_timeout=2.0)
    async with replaying("/fastpoll", options, transport_options) as replay:
        for name in ("timeout/first-poll", "timeout/post-handshake", "timeout/poll-handshake"):
            await replay.play(records[name])
        for name in ("timeout/poll-idle", "timeout/poll-idle-again"):
            pending = await replay.begin(records[name])
            await replay.seconds(1)
            assert pending.status is None
            await replay.seconds(1)
            pending.check()
        await replay.play(records["timeout/delete"])
