"""POSTs: one after the other, kept until a transport attaches, and held up while the hub is behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest

import pytest

Running = Callable[..., Any]

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
OK = (200, "text/plain", b"")
GONE = (404, "text/plain", b"")


def note(value: int) -> bytes:
    """A call that writes a number down."""
    return b'{"type":1,"target":"note","arguments":[%d]}\x1e' % value


@pytest.mark.row("B57")
async def test_several_messages_in_any_pieces(running: Running) -> None:
    """A body may hold several messages and arrive in any pieces; the answer is 200 and nothing."""
    async with running() as live:
        await live.polling()
        body = note(1) + note(2) + note(3)[:10]
        post = await live.post(*(body[at : at + 7] for at in range(0, len(body), 7)))
        assert post.answer.outcome == OK
        assert post.answer.headers == {}
        assert live.log == [1, 2]
        await live.post(note(3)[10:])
        assert live.log == [1, 2, 3]


@pytest.mark.row("B58")
@pytest.mark.parametrize("way", ["polls", "events"])
async def test_post_before_the_transport(running: Running, way: str) -> None:
    """What is posted before a transport has attached is accepted, and processed by the transport that comes."""
    async with running() as live:
        for body in (HANDSHAKE, note(1)):
            assert (await live.post(body)).answer.outcome == OK
        assert live.log == []
        await (live.poll() if way == "polls" else live.events())
        assert live.log == [1]


@pytest.mark.row("B59")
async def test_concurrent_posts(running: Running) -> None:
    """A POST waits for the ones before it, whose bodies may take their time; all succeed, in order."""
    async with running() as live:
        await live.polling()
        first = await live.post()
        first.feed(note(1)[:9], end=False)
        second = await live.post(note(2))
        third = await live.post(note(3))
        assert (first.pending, second.pending, third.pending) == (True, True, True)
        first.feed(note(1)[9:])
        await live.settle()
        assert [post.answer.outcome for post in (first, second, third)] == [OK] * 3
        assert live.log == [1, 2, 3]


@pytest.mark.row("B60")
async def test_post_does_not_wait_for_the_method(running: Running) -> None:
    """A POST is answered when its bytes were taken, not when the hub method has finished."""
    async with running() as live:
        await live.polling()
        assert (await live.call("wait", 1)).answer.outcome == OK
        assert live.log == []


@pytest.mark.row("B61")
async def test_post_beyond_the_limit_waits(running: Running) -> None:
    """While the hub is behind by more than the limit, a POST waits, and succeeds when the hub has caught up."""
    async with running(application_max_buffer_size=200) as live:
        await live.polling()
        await live.call("wait", 0)
        post = await live.post(*(note(number) for number in range(1, 21)))
        assert post.pending
        assert post.answer.chunks.qsize() > 10
        live.gate.set()
        await live.settle()
        assert post.answer.outcome == OK
        assert live.log == list(range(21))


@pytest.mark.row("B61")
@pytest.mark.parametrize("events", [True, False])
async def test_waiting_post_of_a_connection_that_ends(running: Running, events: bool) -> None:
    """A POST that waits while its connection ends gets 404, and so does the one behind it."""
    async with running(application_max_buffer_size=200) as live:
        stream = await (live.events() if events else live.poll())
        await live.post(HANDSHAKE)
        await live.call("wait", 0)
        waiting = await live.post(note(1) * 10)
        behind = await live.post(note(2))
        assert waiting.pending
        if events:
            stream.leave()
        else:
            await live.begin("DELETE")
        await live.settle()
        assert waiting.answer.outcome == behind.answer.outcome == GONE


@pytest.mark.row("B61")
async def test_post_before_the_transport_is_bounded(running: Running) -> None:
    """Bytes for a connection without a transport are kept up to the limit; above it the POST waits for one, or 404."""
    async with running(application_max_buffer_size=200) as live:
        await live.post(HANDSHAKE)
        post = await live.post(*(note(number) for number in range(20)))
        assert post.pending
        await live.poll()
        assert post.answer.outcome == OK
        assert live.log == list(range(20))
    async with running(application_max_buffer_size=200) as live:
        post = await live.post(*(note(number) for number in range(20)))
        await live.seconds(16)
        assert post.answer.outcome == GONE


async def test_unlimited_buffer(running: Running) -> None:
    """A limit of 0 is none."""
    async with running(application_max_buffer_size=0) as live:
        post = await live.post(HANDSHAKE, *(note(number) for number in range(20)))
        assert post.answer.outcome == OK


async def test_client_that_leaves_within_its_body(running: Running) -> None:
    """A body that breaks off gives 400; the connection and the POSTs behind it go on."""
    async with running() as live:
        await live.polling()
        post = await live.post()
        post.feed(note(1), end=False)
        post.leave()
        behind = await live.post(note(2))
        assert post.answer.outcome == (400, "text/plain", b"")
        assert behind.answer.outcome == OK
        assert live.log == [1, 2]


async def test_post_behind_the_close_message(running: Running) -> None:
    """What a client posts after its Close message is taken and ignored until the connection is gone."""
    async with running() as live:
        await live.polling()
        await live.post(b'{"type":7}\x1e')
        assert (await live.post(note(1))).answer.outcome == OK
        assert ("gone", None) in live.log
        assert 1 not in live.log


@pytest.mark.parametrize("how", ["leaves", "deletes", "never connects", "stops polling"])
async def test_endless_body_of_a_connection_that_ends(running: Running, how: str) -> None:
    """A POST whose body does not end gets 404 as soon as its connection ends, and so does the one behind it."""
    async with running() as live:
        if how != "never connects":
            stream = await (live.events() if how == "leaves" else live.poll())
        endless = await live.post()
        endless.feed(HANDSHAKE + note(1), end=False)
        behind = await live.post(note(2))
        assert (endless.pending, behind.pending) == (True, True)
        if how == "leaves":
            stream.leave()
        elif how == "deletes":
            await live.begin("DELETE")
        await live.settle()
        if how in {"never connects", "stops polling"}:
            await live.seconds(17)
        assert endless.answer.outcome == behind.answer.outcome == GONE
        assert endless.task.done()
        assert len(live.endpoint.registry) == 0


async def test_cancelled_post(running: Running) -> None:
    """A server that cancels a POST leaves the connection and the POSTs behind it as they are."""
    async with running() as live:
        await live.polling()
        endless = await live.post()
        endless.feed(note(1), end=False)
        behind = await live.post(note(2))
        endless.task.cancel()
        await live.settle()
        assert endless.task.cancelled()
        assert behind.answer.outcome == OK
        assert live.log == [1, 2]
