"""Long polling: what a poll is answered, when, and what becomes of a connection that nobody polls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any  # the stand-ins of the conftest

import pytest

from hubplane.connection.transport import TransportKind
from hubplane.transports.registry import EntryState

Running = Callable[..., Any]

NO_CACHE = {"cache-control": "no-cache, no-store", "pragma": "no-cache", "expires": "Thu, 01 Jan 1970 00:00:00 GMT"}
DATA = "application/octet-stream"
GOODBYE = b'{"type":7,"allowReconnect":true}\x1e'


def messages(body: bytes) -> list[Any]:
    """The hub messages of a body, which ends behind a whole one."""
    assert body.endswith(b"\x1e")
    return [json.loads(record) for record in body.split(b"\x1e")[:-1]]


@pytest.mark.row("B45", "B50")
async def test_first_poll_is_answered_at_once(running: Running) -> None:
    """The first poll starts the connection and is answered empty; the connection then waits for the next."""
    async with running() as live:
        first = await live.poll()
        assert first.answer.outcome == (200, DATA, b"")
        assert first.answer.headers == NO_CACHE
        assert (live.entry.kind, live.entry.state) == (TransportKind.LONG_POLLING, EntryState.INACTIVE)
        pending = await live.poll()
        assert pending.pending
        assert live.entry.state is EntryState.ACTIVE


async def test_hub_sees_the_first_request(running: Running) -> None:
    """The request that hub code sees is the one of the first poll, as long as the connection lives."""
    async with running() as live:
        first = await live.begin("GET", query="?id=token&first=1")
        await live.begin("GET", query="?id=token&second=1")
        assert live.entry.connection.request is first.answer.request


@pytest.mark.row("B46", "B51")
async def test_output_between_polls_waits_for_the_next(running: Running) -> None:
    """What the hub says while no poll is open is in the next one, several messages in one body."""
    async with running() as live:
        await live.polling()
        for number in range(3):
            await live.call("echo", str(number), invocation_id=str(number))
        poll = await live.poll()
        assert poll.answer.content_type == DATA
        assert poll.answer.headers == NO_CACHE
        assert [message["result"] for message in messages(poll.answer.body)] == ["0", "1", "2"]
        assert (await live.poll()).pending


async def test_client_that_polls_too_rarely_is_disconnected(running: Running) -> None:
    """What waits for a poll is bounded as for every other client: above the limit it is disconnected."""
    async with running(outbound_buffer_limit=1_000) as live:
        await live.polling()
        for _ in range(3):
            await live.call("echo", "x" * 400, invocation_id="1")
        assert (await live.poll()).answer.status == 404
        assert live.log == [("gone", None)]


async def test_stream_fills_a_poll(running: Running) -> None:
    """A stream goes on between polls until enough waits, and then waits for the next poll."""
    async with running(transport_max_buffer_size=1_000) as live:
        await live.polling()
        await live.post(b'{"type":4,"invocationId":"1","target":"count","arguments":[1000]}\x1e')
        assert 10 < len(live.log) < 30
        items: list[int] = []
        while len(items) < 1000:
            found = messages((await live.poll()).answer.body)
            assert len(found) > 5
            items += [message["item"] for message in found if message["type"] == 2]
        assert items == list(range(1000))


@pytest.mark.row("B47", "B50")
async def test_idle_poll_is_answered_after_the_poll_timeout(running: Running) -> None:
    """After 90 s without data a poll is answered with 200 and nothing."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
        await live.seconds(89)
        assert poll.pending
        await live.seconds(1)
        assert poll.answer.outcome == (200, "text/plain", b"")
        assert poll.answer.headers == NO_CACHE


@pytest.mark.row("B55")
async def test_no_pings_and_no_client_timeout(running: Running) -> None:
    """However long a client just polls, it gets no ping and is not timed out, even if it has pinged once."""
    async with running() as live:
        await live.polling()
        await live.post(b'{"type":6}\x1e')
        for _ in range(3):
            poll = await live.poll()
            await live.seconds(90)
            assert poll.answer.outcome == (200, "text/plain", b"")
        assert live.log == []


@pytest.mark.row("B48")
async def test_newer_poll_replaces_the_open_one(running: Running) -> None:
    """A second poll is not an error: the first is answered with 204, and the data goes to the second."""
    async with running() as live:
        await live.polling()
        first = await live.poll()
        second = await live.poll()
        assert first.answer.outcome == (204, "text/plain", b"")
        assert first.answer.headers == NO_CACHE
        await live.call("echo", "here", invocation_id="1")
        assert messages(second.answer.body)[0]["result"] == "here"


@pytest.mark.row("B49", "B50")
async def test_of_two_polls_that_replace_a_third_one_is_refused(running: Running) -> None:
    """Of three polls at one time one gets 204, one waits, one gets 409."""
    async with running() as live:
        await live.polling()
        first = await live.poll()
        first.answer.gate.clear()
        second = await live.poll()
        third = await live.poll()
        assert third.answer.outcome == (409, "text/plain", b"")
        assert third.answer.headers == NO_CACHE
        first.answer.gate.set()
        await live.settle()
        assert first.answer.status == 204
        assert second.pending
        await live.call("echo", "here", invocation_id="1")
        assert second.answer.status == 200


@pytest.mark.parametrize("turns", range(8))
async def test_poll_between_the_end_of_one_and_its_successor(running: Running, turns: int) -> None:
    """A poll that comes while the replaced one has its answer and the replacing one has not woken is not forgotten."""
    async with running() as live:
        await live.polling()
        first = await live.poll()
        first.answer.gate.clear()
        second = await live.poll()
        first.answer.gate.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        third = await live.poll()
        assert first.answer.status == 204
        await live.call("echo", "here", invocation_id="1")
        assert sorted([second.answer.status, third.answer.status]) in ([200, 204], [200, 409])


@pytest.mark.row("B52", "B126")
async def test_connection_ends_without_polls(running: Running) -> None:
    """15 s without a poll end the connection, without an error; later requests get 404."""
    async with running() as live:
        await live.polling()
        await live.seconds(15)
        assert live.log == []
        await live.seconds(1)
        assert live.log == [("gone", None)]
        assert (await live.poll()).answer.outcome == (404, "text/plain", b"No Connection with that ID")
        assert len(live.endpoint.registry) == 0


async def test_open_poll_keeps_the_connection(running: Running) -> None:
    """The 15 s count from the end of the last poll, not from its beginning."""
    async with running() as live:
        await live.polling()
        await live.poll()
        await live.seconds(60)
        await live.call("echo", "", invocation_id="1")
        await live.seconds(15)
        assert live.log == []
        await live.seconds(1)
        assert live.log == [("gone", None)]


async def test_client_that_leaves_its_poll_may_come_back(running: Running) -> None:
    """A poll whose client goes away loses nothing: what comes later is in the next poll."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
        poll.leave()
        await live.settle()
        assert poll.pending
        assert poll.task.done()
        assert live.entry.state is EntryState.INACTIVE
        await live.call("echo", "kept", invocation_id="1")
        assert messages((await live.poll()).answer.body)[0]["result"] == "kept"


async def test_cancelled_poll_leaves_the_connection(running: Running) -> None:
    """A poll that the server cancels is one that has gone, even while it replaces another."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
        poll.task.cancel()
        await live.settle()
        assert live.entry.state is EntryState.INACTIVE
        first = await live.poll()
        first.answer.gate.clear()
        second = await live.poll()
        second.task.cancel()
        await live.settle()
        first.answer.gate.set()
        third = await live.poll()
        assert third.pending
        await live.call("echo", "kept", invocation_id="1")
        assert third.answer.status == 200


@pytest.mark.row("B53", "B126")
async def test_delete_after_the_handshake(running: Running) -> None:
    """DELETE releases the open poll with the Close message; the hub's callback runs once, later requests get 404."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
        delete = await live.begin("DELETE")
        assert delete.answer.outcome == (202, "text/plain", b"")
        assert delete.answer.headers == {}
        assert poll.answer.outcome == (200, DATA, GOODBYE)
        assert live.log == [("gone", None)]
        for method in ("GET", "POST", "DELETE"):
            assert (await live.begin(method, b"x")).answer.status == 404


@pytest.mark.row("B53")
async def test_delete_before_the_handshake(running: Running) -> None:
    """Before the handshake DELETE releases the open poll with 204."""
    async with running() as live:
        await live.poll()
        poll = await live.poll()
        assert (await live.begin("DELETE")).answer.status == 202
        assert poll.answer.outcome == (204, "text/plain", b"")
        assert (await live.poll()).answer.status == 404
        assert live.log == []


async def test_delete_without_a_poll(running: Running) -> None:
    """DELETE between polls, or behind a Close message that nobody fetched, leaves nothing behind."""
    for close_first in (False, True):
        async with running() as live:
            await live.polling()
            if close_first:
                await live.post(b'{"type":7}\x1e')
            assert (await live.begin("DELETE")).answer.status == 202
            assert live.log == [("gone", None)]
            assert len(live.endpoint.registry) == 0
            assert live.entry.connection.lost


@pytest.mark.row("B54")
async def test_close_message_before_the_end(running: Running) -> None:
    """When the hub's side has ended, one poll fetches the rest with the Close message, the next gets 204."""
    async with running() as live:
        await live.polling()
        await live.call("echo", "last words", invocation_id="1")
        await live.post(b'{"type":7}\x1e')
        assert live.log == [("gone", None)]
        body = messages((await live.poll()).answer.body)
        assert (body[0]["result"], body[1]) == ("last words", {"type": 7})
        assert (await live.poll()).answer.outcome == (204, "text/plain", b"")
        assert (await live.poll()).answer.status == 404


async def test_unfetched_close_message_expires(running: Running) -> None:
    """A Close message that no poll fetches does not keep the connection longer than the disconnect timeout."""
    async with running() as live:
        await live.polling()
        await live.post(b'{"type":7}\x1e')
        await live.seconds(16)
        assert len(live.endpoint.registry) == 0


async def test_handshake_timeout(running: Running) -> None:
    """A client that polls and does not shake hands is told that it took too long."""
    async with running() as live:
        await live.poll()
        poll = await live.poll()
        await live.seconds(16)
        assert messages(poll.answer.body) == [{"error": "Handshake was canceled."}]


@pytest.mark.row("B129")
async def test_shutdown_answers_the_open_poll(running: Running) -> None:
    """A hub that stops sends its Close message to the open poll, with permission to reconnect."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
    assert poll.answer.outcome == (200, DATA, GOODBYE)
    assert live.log == [("gone", None)]


@pytest.mark.row("B129")
async def test_stopping_server_answers_the_open_poll(running: Running) -> None:
    """A server that stops is told by its requests: the open poll ends with the Close message; others have forgotten."""
    async with running() as live:
        await live.polling()
        done = await live.poll()
        poll = await live.poll()
        assert done.answer.stops == []
        (stop,) = poll.answer.stops
        stop()
        await live.settle()
        assert poll.answer.outcome == (200, DATA, GOODBYE)


@pytest.mark.row("B132")
async def test_client_that_does_not_take_an_answer(running: Running) -> None:
    """An answer that is stuck for more than 10 s ends the connection."""
    async with running() as live:
        await live.polling()
        poll = await live.poll()
        poll.answer.gate.clear()
        await live.call("echo", "stuck", invocation_id="1")
        await live.seconds(10)
        assert live.log == []
        await live.seconds(1)
        assert live.log == [("gone", None)]
        assert poll.task.done()
        assert not poll.task.cancelled()


@pytest.mark.row("B17")
async def test_transport_cannot_be_switched(running: Running) -> None:
    """A connection that polls does not become an event stream, and the other way round."""
    async with running() as live:
        await live.polling()
        refused = await live.events()
        assert refused.answer.outcome == (400, "text/plain", b"Cannot change transports mid-connection")
    async with running() as live:
        await live.events()
        refused = await live.poll()
        assert refused.answer.outcome == (400, "text/plain", b"Cannot change transports mid-connection")
        assert refused.answer.headers == NO_CACHE


async def test_poll_of_a_disposed_connection(running: Running) -> None:
    """A connection that is being removed is as good as gone: 404 without a body."""
    async with running() as live:
        live.entry.state = EntryState.DISPOSED
        poll = await live.poll()
        assert poll.answer.outcome == (404, "text/plain", b"")
        assert poll.answer.headers == NO_CACHE


async def test_failed_start_forgets_the_connection(running: Running) -> None:
    """When the hub takes no connections any more, the first poll fails and leaves nothing behind."""
    async with running() as live:
        pass
    with pytest.raises(RuntimeError):
        await (await live.poll()).task
    assert len(live.endpoint.registry) == 0


async def test_replacing_poll_of_a_connection_that_ends(running: Running) -> None:
    """A poll that waits for the one before it, while the connection ends, gets 204."""
    async with running() as live:
        await live.polling()
        first = await live.poll()
        first.answer.gate.clear()
        second = await live.poll()
        live.entry.connection.transport.abort()
        first.answer.gate.set()
        await live.settle()
        assert second.answer.outcome == (204, "text/plain", b"")
        await asyncio.wait_for(second.task, 1)
