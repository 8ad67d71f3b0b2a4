"""A server may cancel a request at any of its awaits: the connection ends or goes on, and nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest

import pytest

Running = Callable[..., Any]

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
TURNS = range(14)


async def turn(count: int) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing_is_left(live: Any) -> None:
    """After the time that a client may stay away."""
    await live.seconds(18)
    await live.seconds(18)
    assert live.endpoint.connections() == ()
    assert len(live.endpoint.registry) == 0
    assert live.endpoint.registry.unclaimed == 0
    tasks = [task.get_name() for task in asyncio.all_tasks() if "live" in task.get_name()]
    assert tasks == []


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("posted", [b"", HANDSHAKE])
async def test_events(running: Running, turns: int, posted: bytes) -> None:
    """A stream of events that is cancelled ends its connection, before, in and behind the handshake."""
    async with running() as live:
        if posted:
            await live.post(posted)
        stream = asyncio.ensure_future(live.events())
        await turn(turns + 1)
        live.requests[-1].task.cancel()
        await stream
        await nothing_is_left(live)


@pytest.mark.parametrize("turns", TURNS)
@pytest.mark.parametrize("which", ["first", "second", "replacing", "answered"])
async def test_polls(running: Running, turns: int, which: str) -> None:
    """A poll that is cancelled leaves the connection to the next one, and without any the connection ends."""
    async with running() as live:
        await live.post(HANDSHAKE)
        if which != "first":
            await live.poll()
            await live.poll()
        if which == "replacing":
            await live.poll()
        asking = asyncio.ensure_future(live.poll())
        await turn(1)
        if which == "answered":
            await live.post(b'{"type":1,"invocationId":"1","target":"echo","arguments":["x"]}\x1e')
        await turn(turns)
        live.requests[-1].task.cancel()
        await asking
        if which == "replacing":
            again = await live.poll()
            await live.post(b'{"type":1,"invocationId":"1","target":"echo","arguments":["x"]}\x1e')
            assert again.answer.status == 200
            assert b'"result":"x"' in again.answer.body
        await nothing_is_left(live)


@pytest.mark.parametrize("turns", TURNS)
async def test_deletes(running: Running, turns: int) -> None:
    """So does a DELETE, with a poll open."""
    async with running() as live:
        await live.polling()
        await live.poll()
        deleting = asyncio.ensure_future(live.begin("DELETE"))
        await turn(turns + 2)
        live.requests[-1].task.cancel()
        await deleting
        await nothing_is_left(live)
