"""Stateful reconnect through a whole hub on a fake clock: sockets that break off, come back, take over or stay away."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.transports.stateful_node import Node, Socket, node

from hubplane.connection.transport import CloseReason
from hubplane.options import HubOptions, TransportOptions

RS = b"\x1e"
TEXT_OF_SEQUENCE_ERROR = "Sequence ID greater than amount of messages we've received."


async def reconnected(running: Node, token: str, sequence: int = 1) -> Socket:
    """The client's next socket, whose first message is looked at."""
    socket = await running.open(token)
    assert socket.messages[0] == {"type": 9, "sequenceId": sequence}
    return socket


# -- who gets it ------------------------------------------------------------------------------------------------------


@pytest.mark.row("B141", "B148")
async def test_version_1_turns_it_off() -> None:
    """With handshake version 1 the connection is a plain one: a second socket gets 409, a broken one ends it, 404."""
    async with node() as running:
        token, socket = await running.client(version=1)
        assert (await running.open(token)).rejected == 409
        socket.call("Echo", "x", invocation_id="0")
        await running.seconds(3)
        assert socket.messages == [{"type": 3, "invocationId": "0", "result": "x"}]
        socket.cut()
        await running.settle()
        assert running.log == ["connected", "x", ("gone", None)]
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B141")
async def test_not_negotiated() -> None:
    """A client that did not negotiate it does not have it, whatever version its handshake names."""
    async with node() as running:
        token = running.negotiate(stateful=False)
        socket = await running.open(token)
        socket.send({"protocol": "json", "version": 2}, {"type": 1, "target": "Echo", "arguments": ["x"]})
        await running.seconds(2)
        assert socket.messages == [{}]
        assert (await running.open(token)).rejected == 409
        socket.cut()
        await running.settle()
        assert running.log == ["connected", "x", ("gone", None)]


@pytest.mark.row("B141")
async def test_a_socket_that_breaks_before_the_handshake() -> None:
    """Before the handshake there is nothing to come back to."""
    async with node() as running:
        token = running.negotiate()
        socket = await running.open(token)
        assert (await running.open(token)).rejected == 409
        socket.cut()
        await running.settle()
        assert running.endpoint.connections() == ()
        assert (await running.open(token)).rejected == 404


async def test_a_client_that_leaves_before_its_first_socket_is_open() -> None:
    """A client that goes away during the upgrade leaves nothing behind."""
    async with node() as running:
        token = running.negotiate()
        socket = await running.open(token, held=True)
        assert (await running.open(token)).rejected == 409
        socket.lost_early = True
        socket.opening.set()
        await socket.task
        assert len(running.endpoint.registry) == 0


# -- counting ---------------------------------------------------------------------------------------------------------


@pytest.mark.row("B142", "B151")
async def test_acknowledgements() -> None:
    """Within a second of counted messages they are acknowledged, once; pings alone are not."""
    async with node() as running:
        _, socket = await running.client()
        socket.send({"type": 6}, {"type": 6})
        await running.seconds(3)
        assert socket.messages == []
        socket.call("Echo", "a")
        socket.call("Echo", "b")
        socket.send({"type": 6})
        await running.seconds(1)
        assert socket.messages == [{"type": 8, "sequenceId": 2}]
        await running.seconds(3)
        assert len(socket.messages) == 1


@pytest.mark.row("B151", "B152")
async def test_one_counter_for_every_path() -> None:
    """Results, direct messages, broadcasts, group messages, items and questions share one counter; pings have none."""
    async with node(options=HubOptions(keep_alive_interval=1)) as running:
        token, socket = await running.client()
        clients = running.endpoint.context.clients
        socket.call("Echo", "a", invocation_id="0")
        await running.seconds(2)
        await clients.all.send("All")
        await clients.client("id1").send("One")
        await clients.group("everybody").send("Group")
        socket.send({"type": 4, "invocationId": "1", "target": "Count", "arguments": [1, 1]})
        socket.call("Ask", invocation_id="2")
        await running.seconds(2)
        kinds = [message["type"] for message in socket.messages]
        assert 6 in kinds
        assert 8 in kinds
        counted = [message for message in socket.messages if message["type"] not in {6, 8}]
        assert len(counted) == 7
        socket.cut()
        again = await reconnected(running, token)
        assert again.messages[1:] == counted
        again.send({"type": 9, "sequenceId": 4}, {"type": 8, "sequenceId": 7})
        again.cut()
        await reconnected(running, token, sequence=8)


# -- losing and regaining the socket ----------------------------------------------------------------------------------


@pytest.mark.row("B143", "B144")
async def test_a_socket_breaks_and_another_one_comes() -> None:
    """Calls go on without a socket; the next one begins with Sequence, then come the unacknowledged bytes."""
    async with node() as running:
        token, socket = await running.client()
        clients = running.endpoint.context.clients
        await clients.all.send("M", "a")
        await running.settle()
        socket.send({"type": 8, "sequenceId": 1})
        socket.call("Slow", "later", invocation_id="0")
        await clients.all.send("M", "b")
        await running.settle()
        before = socket.transport.batches[-1].payload
        socket.cut()
        await clients.group("everybody").send("M", "c")
        running.gate.set()
        await running.seconds(10)
        assert socket.task.done()
        again = await running.open(token)
        kept = b'{"type":1,"target":"M","arguments":["c"]}\x1e{"type":3,"invocationId":"0","result":"later"}\x1e'
        assert again.transport.batches[0].payload == b'{"type":9,"sequenceId":2}\x1e' + before + kept
        again.send({"type": 9, "sequenceId": 2})
        again.call("Whoami", invocation_id="1")
        await running.settle()
        assert again.messages[-1] == {"type": 3, "invocationId": "1", "result": ["id1", None]}
        assert running.log == ["connected"]


@pytest.mark.row("B145")
async def test_nothing_to_replay() -> None:
    """With everything acknowledged the sequence is one above the last message, and nothing follows it."""
    async with node() as running:
        token, socket = await running.client()
        socket.cut()
        socket = await reconnected(running, token)
        socket.call("Echo", "x", invocation_id="0")
        await running.settle()
        socket.send({"type": 8, "sequenceId": 1})
        socket.cut()
        again = await reconnected(running, token, sequence=2)
        assert len(again.messages) == 1


@pytest.mark.row("B144")
async def test_repeated_calls_are_dropped() -> None:
    """Calls that the client sends again run once, and are acknowledged once more, for that was lost."""
    async with node() as running:
        token, socket = await running.client()
        socket.call("Echo", "a")
        socket.call("Echo", "b")
        await running.seconds(1)
        assert socket.messages == [{"type": 8, "sequenceId": 2}]
        socket.cut()
        again = await running.open(token)
        again.send({"type": 9, "sequenceId": 1})
        for text in "abc":
            again.call("Echo", text)
        await running.seconds(1)
        assert running.log == ["connected", "a", "b", "c"]
        assert again.messages[-1] == {"type": 8, "sequenceId": 3}


@pytest.mark.row("B144")
async def test_half_a_call_is_sent_again() -> None:
    """A call that broke off in the middle is counted when it comes whole, as early as the next socket opens."""
    async with node() as running:
        token, socket = await running.client()
        call = b'{"type":1,"target":"Echo","arguments":["x"]}\x1e'
        socket.raw(call + call[:20])
        await running.settle()
        socket.cut()
        await running.open(token, b'{"type":9,"sequenceId":2}\x1e' + call)
        assert running.log == ["connected", "x", "x"]


@pytest.mark.row("B146")
@pytest.mark.parametrize("detailed", [False, True])
async def test_sequence_too_high(detailed: bool) -> None:
    """A sequence number from the future ends the connection with an error; details name it."""
    async with node(options=HubOptions(enable_detailed_errors=detailed)) as running:
        token, socket = await running.client()
        socket.cut()
        again = await reconnected(running, token)
        again.send({"type": 9, "sequenceId": 7})
        await running.settle()
        text = "Connection closed with an error."
        if detailed:
            text += f" InvalidOperationException: {TEXT_OF_SEQUENCE_ERROR}"
        assert again.messages[1:] == [{"type": 7, "error": text, "allowReconnect": True}]
        assert again.transport.closed is CloseReason.NORMAL
        assert running.log[-1] == ("gone", TEXT_OF_SEQUENCE_ERROR)


@pytest.mark.row("B146")
async def test_sequence_too_high_in_the_first_moment() -> None:
    """Also bytes that end the connection as early as the socket opens are answered behind Sequence, by a Close."""
    async with node() as running:
        token, socket = await running.client()
        socket.cut()
        again = await running.open(token, b'{"type":9,"sequenceId":7}\x1e')
        assert [message["type"] for message in again.messages] == [9, 7]
        assert again.transport.closed is CloseReason.NORMAL


@pytest.mark.row("B147")
async def test_taking_over_from_a_socket_that_is_still_open() -> None:
    """A new socket takes over at once, whatever becomes of the old one, which is closed with 1000 in the background."""
    async with node() as running:
        token, old = await running.client()
        old.call("Echo", "a", invocation_id="0")
        await running.settle()
        old.raw(b'{"type":1,"target":')
        new = await reconnected(running, token)
        assert new.messages[1:] == [{"type": 3, "invocationId": "0", "result": "a"}]
        assert old.transport.closed is CloseReason.NORMAL
        assert old.finishing == TransportOptions().close_timeout
        old.call("Echo", "too late")
        new.call("Echo", "b", invocation_id="1")
        await running.settle()
        assert new.messages[-1] == {"type": 3, "invocationId": "1", "result": "b"}
        assert len(old.messages) == 1
        old.close()
        await old.task
        assert old.transport.aborted
        new.call("Echo", "c")
        await running.settle()
        assert running.log == ["connected", "a", "b", "c"]


@pytest.mark.row("B147")
async def test_taking_over_from_a_socket_that_takes_nothing() -> None:
    """An old socket that takes no bytes is dropped at once instead, with all that waits in it."""
    async with node() as running:
        token, old = await running.client()
        old.take_no_more()
        new = await reconnected(running, token)
        assert old.transport.aborted
        assert old.finishing is not None
        new.call("Echo", "x", invocation_id="0")
        await running.settle()
        assert new.messages[-1]["result"] == "x"


@pytest.mark.row("B144")
async def test_a_long_replay() -> None:
    """Much that is sent again leaves in several writes of whole messages, no faster than the new socket takes them."""
    async with node() as running:
        token, socket = await running.client()
        socket.cut()
        for number in range(300):
            await running.endpoint.context.clients.all.send("M", number, "x" * 1_000)
        again = await running.open(token, held=True)
        again.transport.on_send = again.take_no_more
        again.opening.set()
        await running.settle()
        assert again.listener is not None
        for count in range(1, 6):
            assert len(again.transport.batches) == count
            assert all(batch.payload.endswith(RS) for batch in again.transport.batches)
            again.listener.resume_writing()
            await running.settle()
        assert max(len(batch.payload) for batch in again.transport.batches) < 67_000
        await running.endpoint.context.clients.all.send("M", 300, "")
        again.listener.resume_writing()
        await running.settle()
        assert [message["arguments"][0] for message in again.messages[1:]] == list(range(301))


async def test_the_goodbye_stands_behind_everything() -> None:
    """A Close message leaves behind all that is still to be sent again, even if the socket takes nothing just then."""
    async with node() as running:
        token, socket = await running.client()
        socket.cut()
        for number in range(300):
            await running.endpoint.context.clients.all.send("M", number, "x" * 1_000)
        again = await running.open(token, held=True)
        again.transport.on_send = again.take_no_more
        again.opening.set()
        await running.settle()
        running.connection().abort()
        await running.settle()
        assert [message["type"] for message in again.messages] == [9, *[1] * 300, 7]


@pytest.mark.row("B147")
async def test_two_new_sockets() -> None:
    """Of several new sockets the last one to open is used, and what the others report is ignored."""
    async with node() as running:
        token, socket = await running.client()
        socket.call("Echo", "a", invocation_id="0")
        await running.settle()
        socket.cut()
        one, two = await running.open(token, held=True), await running.open(token, held=True)
        two.opening.set()
        one.opening.set()
        await running.settle()
        assert (one.transport.closed, two.transport.closed) == (None, CloseReason.NORMAL)
        for name in ("pause_writing", "resume_writing", "shutting_down"):
            getattr(two.listener, name)()
        two.cut()
        one.call("Echo", "b", invocation_id="1")
        await running.settle()
        assert [message["type"] for message in one.messages] == [9, 3, 3]
        assert running.log == ["connected", "a", "b"]


async def test_a_new_socket_that_never_opens() -> None:
    """A client that gives its new socket up during the upgrade still has the old one."""
    async with node() as running:
        token, socket = await running.client()
        new = await running.open(token, held=True)
        new.lost_early = True
        new.opening.set()
        await new.task
        socket.call("Echo", "x", invocation_id="0")
        await running.settle()
        assert socket.messages == [{"type": 3, "invocationId": "0", "result": "x"}]


@pytest.mark.row("B143")
async def test_a_stream_goes_on() -> None:
    """A stream whose client loses its socket goes on; every item arrives, in order."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=2_000)) as running:
        token, socket = await running.client()
        socket.send({"type": 4, "invocationId": "s", "target": "Count", "arguments": [200, 100]})
        await running.settle()
        socket.cut()
        await running.settle()
        made = running.log[-1]
        assert isinstance(made, int)
        assert made < 20
        items: list[int] = []
        while len(items) < 200:
            first = len(items) + 1
            again = await reconnected(running, token, first)
            items += [int(message["item"]) for message in again.messages if message["type"] == 2]
            again.send({"type": 8, "sequenceId": len(items)})
            again.cut()
        assert items == list(range(200))


@pytest.mark.row("B143", "B144")
async def test_a_clients_stream_goes_on() -> None:
    """A client's stream that breaks off, and is sent again from its beginning, arrives whole, once and in order."""
    async with node() as running:
        token, socket = await running.client()
        sent: list[dict[str, object]] = [
            {"type": 1, "invocationId": "0", "target": "Total", "arguments": [], "streamIds": ["u"]},
            *({"type": 2, "invocationId": "u", "item": number} for number in range(50)),
            {"type": 3, "invocationId": "u"},
        ]
        for reached in (10, 25, 40):
            socket.send(*sent[:reached])
            await running.settle()
            socket.cut()
            socket = await reconnected(running, token)
            socket.send({"type": 9, "sequenceId": 1})
        socket.send(*sent)
        await running.settle()
        assert socket.messages[-1] == {"type": 3, "invocationId": "0", "result": list(range(50))}


@pytest.mark.row("B143")
async def test_connected_only_once() -> None:
    """A socket that breaks while `on_connected` is running changes nothing: calls wait for it, and it runs once."""
    async with node() as running:
        running.hub_type.slow_start = asyncio.Event()
        token = running.negotiate()
        socket = await running.open(token)
        socket.send({"protocol": "json", "version": 2}, {"type": 1, "target": "Echo", "arguments": ["x"]})
        await running.settle()
        socket.cut()
        again = await reconnected(running, token)
        assert running.log == []
        running.hub_type.slow_start.set()
        await running.settle()
        assert running.log == ["connected", "x"]
        again.close()


@pytest.mark.row("B143")
async def test_a_question_waits_for_the_client() -> None:
    """A client that is asked while it is away gets the question with its next socket, and its answer is taken."""
    async with node() as running:
        token, socket = await running.client()
        socket.call("Ask", invocation_id="0")
        socket.cut()
        await running.settle()
        again = await running.open(token)
        question = again.messages[1]
        again.send({"type": 9, "sequenceId": 2}, {"type": 3, "invocationId": question["invocationId"], "result": "42"})
        await running.settle()
        assert again.messages[2] == {"type": 3, "invocationId": "0", "result": "42"}


async def test_reading_stays_paused() -> None:
    """A client whose calls pile up is not read on its next socket either, until they are done."""
    async with node(application_max_buffer_size=100) as running:
        token, socket = await running.client()
        for number in range(10):
            socket.call("Slow", str(number))
        assert not socket.transport.reading
        socket.cut()
        again = await running.open(token)
        assert not again.transport.reading
        running.gate.set()
        await running.settle()
        assert again.transport.reading


@pytest.mark.row("B143")
async def test_a_slow_socket_that_breaks() -> None:
    """What waited for a socket that took nothing arrives on the next one, once."""
    async with node() as running:
        token, socket = await running.client()
        socket.take_no_more()
        await running.endpoint.context.clients.all.send("M", 1)
        await running.settle()
        assert socket.messages == []
        socket.cut()
        again = await reconnected(running, token)
        await running.settle()
        assert again.messages[1:] == [{"type": 1, "target": "M", "arguments": [1]}]


# -- whose it is ------------------------------------------------------------------------------------------------------


async def test_the_request_is_replaced() -> None:
    """After a reattach the connection's request is the new one."""
    async with node() as running:
        token, socket = await running.client(headers=[(b"x-mark", b"one")])
        socket.cut()
        again = await running.open(token, headers=[(b"x-mark", b"two")])
        again.call("Whoami", invocation_id="0")
        await running.settle()
        assert again.messages[-1]["result"] == ["id1", "two"]


@pytest.mark.parametrize("other", [None, {"sub": "bob"}])
async def test_another_user_is_refused(other: object) -> None:
    """A token opens no socket for another user than its own, nor for nobody; its owner can still come."""
    async with node() as running:
        token, socket = await running.client(user={"sub": "ann"})
        socket.cut()
        assert (await running.open(token, user=other)).rejected == 403
        again = await running.open(token, user={"sub": "ann"})
        assert again.rejected is None


async def test_the_new_login_counts() -> None:
    """With the end of logins watched, a reattach brings the new login's; a client that is away ends with its own."""
    async with node(close_on_authentication_expiration=True) as running:
        now = int(running.clock.wall())
        token, socket = await running.client(user={"sub": "ann", "exp": now + 5})
        socket.cut()
        again = await running.open(token, user={"sub": "ann", "exp": now + 20})
        await running.seconds(10)
        assert running.log == ["connected"]
        again.cut()
        await running.seconds(11)
        assert running.log == ["connected", ("gone", None)]


# -- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.row("B149")
async def test_a_client_that_stays_away() -> None:
    """Away for longer than the disconnect timeout, the connection ends in order, as timed out, and is unknown then."""
    async with node() as running:
        token, socket = await running.client()
        connection = running.connection()
        socket.cut()
        await running.seconds(15)
        assert running.log == ["connected"]
        await running.seconds(1)
        assert running.log == ["connected", ("gone", None)]
        assert connection.timed_out
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B149")
async def test_time_away_does_not_add_up() -> None:
    """Each time the client is away it has the whole time; its silence meanwhile does not count."""
    async with node(options=HubOptions(client_timeout_interval=12)) as running:
        token, socket = await running.client()
        socket.send({"type": 6})
        for _ in range(3):
            socket.cut()
            await running.seconds(14)
            socket = await running.open(token)
            assert socket.rejected is None
            socket.send({"type": 6})
        connection = running.connection()
        await running.seconds(14)
        assert not connection.timed_out
        assert "ClientTimeoutInterval" in str(running.log[-1])


@pytest.mark.row("B148")
async def test_a_close_frame_is_final() -> None:
    """After a Close frame of the client nothing is left to come back to."""
    async with node() as running:
        token, socket = await running.client()
        socket.close()
        await running.settle()
        assert running.log == ["connected", ("gone", None)]
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B148")
async def test_a_close_message_is_final() -> None:
    """A Close message of the client ends the connection, even when its socket breaks off behind it."""
    async with node() as running:
        token, socket = await running.client()
        socket.send({"type": 7})
        socket.cut()
        await running.settle()
        assert running.log == ["connected", ("gone", None)]
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B148")
@pytest.mark.parametrize("is_away", [False, True])
async def test_an_abort_is_final(is_away: bool) -> None:
    """After an abort a new socket is refused: 409, without a socket 204, until all has ended, and 404 afterwards."""
    async with node() as running:
        token, socket = await running.client()
        if is_away:
            socket.cut()
        running.farewell.clear()
        running.connection().abort()
        await running.settle()
        assert socket.messages == ([] if is_away else [{"type": 7}])
        assert (await running.open(token)).rejected == (204 if is_away else 409)
        running.farewell.set()
        await running.settle()
        if not is_away:
            assert socket.transport.closed is CloseReason.NORMAL
            assert socket.finishing == TransportOptions().close_timeout
            assert (await running.open(token)).rejected == 409
            socket.close()
        await socket.task
        assert (await running.open(token)).rejected == 404
        assert len(running.endpoint.registry) == 0


@pytest.mark.row("B148")
async def test_the_end_is_quicker_than_the_new_socket() -> None:
    """A connection that ends while its new socket is being opened does not use it: it is closed."""
    async with node() as running:
        token, socket = await running.client()
        socket.cut()
        new = await running.open(token, held=True)
        running.connection().abort()
        await running.settle()
        new.opening.set()
        await running.settle()
        assert new.transport.closed is CloseReason.NORMAL
        assert new.messages == []
        assert new.finishing is not None
        new.close()
        await new.task


@pytest.mark.row("B148")
async def test_a_socket_that_takes_nothing_is_final() -> None:
    """A client that takes no bytes for longer than the send timeout is cut, and cannot come back."""
    async with node() as running:
        token, socket = await running.client()
        socket.take_no_more()
        await running.endpoint.context.clients.all.send("M", 1)
        await running.seconds(12)
        assert socket.transport.aborted
        assert running.log == ["connected", ("gone", None)]
        assert (await running.open(token)).rejected == 404


async def test_a_cancelled_request_ends_the_connection() -> None:
    """A server that cancels the socket's request cuts the socket, and with it the connection."""
    async with node() as running:
        _, socket = await running.client()
        socket.task.cancel()
        await asyncio.gather(socket.task, return_exceptions=True)
        assert socket.transport.aborted


async def test_shutdown_with_clients_here_and_away() -> None:
    """When the server stops, clients that are here get a Close message, those that are away end at once."""
    async with node() as running:
        _, here = await running.client()
        _, away = await running.client()
        away.cut()
        await running.settle()
    assert here.messages == [{"type": 7, "allowReconnect": True}]
    assert here.transport.closed is CloseReason.NORMAL
    assert running.log[2:] == [("gone", None)] * 2
    assert running.clock.monotonic() == 1_000.0


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("B150")
async def test_awaiting_senders_wait_for_acknowledgements() -> None:
    """Above the limit a sender that awaits waits, though the socket takes everything; acknowledgements let it go on."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        _, socket = await running.client()
        socket.call("Tell", 100, 100, invocation_id="0")
        await running.settle()
        told = len(socket.messages)
        assert told == 8  # the first one that brings it above 1,000 bytes
        while socket.messages[-1].get("result") != "told":
            socket.send({"type": 8, "sequenceId": len(socket.messages)})
            before = len(socket.messages)
            await running.settle()
            assert len(socket.messages) > before
        assert [int(message["arguments"][0]) for message in socket.messages[:-1]] == list(range(100))


@pytest.mark.row("B150")
async def test_the_limit_without_an_option() -> None:
    """100,000 bytes may wait for their acknowledgement, framing included: the message that exceeds them is the last."""
    async with node() as running:
        _, socket = await running.client()
        socket.call("Tell", 300, 1_000)
        for _ in range(10):
            await running.settle()
        sizes = [len(record + RS) for record in socket.transport.sent.split(RS) if b'"target"' in record]
        assert sum(sizes[:-1]) <= 100_000 < sum(sizes)


@pytest.mark.row("B150")
async def test_a_client_that_does_not_acknowledge_delays_nobody() -> None:
    """Broadcasts reach everybody in the turn in which they are sent, however much one client leaves unacknowledged."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        _, lazy = await running.client()
        _, away = await running.client()
        _, busy = await running.client()
        away.cut()
        for number in range(100):
            await running.endpoint.context.clients.all.send("M", "x" * 100, number)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert busy.messages[-1]["arguments"][1] == number
            assert lazy.messages[-1]["arguments"][1] == number
        assert running.clock.monotonic() == 1_000.0


@pytest.mark.row("B150")
async def test_a_client_that_never_acknowledges(caplog: pytest.LogCaptureFixture) -> None:
    """Over the limit without any acknowledgement for 5 seconds, the client is let go: Close 1000, no Close message."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        token, socket = await running.client()
        socket.call("Tell", 100, 100, invocation_id="0")
        await running.settle()
        await running.seconds(6)
        assert socket.transport.closed is None
        with caplog.at_level(logging.WARNING):
            await running.seconds(1)
        assert socket.transport.closed is CloseReason.NORMAL
        assert all(message["type"] != 7 for message in socket.messages)
        assert "acknowledges nothing: over 1000 bytes are kept for it" in caplog.text
        assert ("gone", None) in running.log
        assert not running.endpoint.connections()
        socket.close()
        await socket.task
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B150")
async def test_acknowledgements_behind_a_pile_of_calls() -> None:
    """A client that makes many calls at once, and acknowledges behind them, is read on until that is found."""
    options = HubOptions(stateful_reconnect_buffer_size=5_000)
    async with node(options=options, application_max_buffer_size=1_000) as running:
        _, socket = await running.client()
        calls = list(range(200))
        for _ in range(20):
            while calls and socket.transport.reading:
                socket.call("Echo", "x" * 100, invocation_id=str(calls.pop(0)))
                await asyncio.sleep(0)
            if not calls and socket.transport.reading:
                answers = [message for message in socket.messages if message["type"] == 3]
                socket.send({"type": 8, "sequenceId": len(answers)})
            await running.seconds(1)
        answered = [message["invocationId"] for message in socket.messages if message["type"] == 3]
        assert answered == [str(number) for number in range(200)]
        assert ("gone", None) not in running.log


@pytest.mark.row("B150")
async def test_progress_is_enough() -> None:
    """A client that acknowledges slowly, but does, stays, however long it is over the limit."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        _, socket = await running.client()
        for number in range(100):
            await running.endpoint.context.clients.all.send("M", "x" * 100, number)
        for number in range(10):
            await running.seconds(4)
            socket.send({"type": 8, "sequenceId": number + 1})
        assert running.log == ["connected"]


@pytest.mark.row("B150")
async def test_no_acknowledgement_is_expected_from_a_client_that_is_away() -> None:
    """While the client is away only the disconnect timeout counts; the 5 seconds begin anew with its next socket."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        token, socket = await running.client()
        for number in range(100):
            await running.endpoint.context.clients.all.send("M", "x" * 100, number)
        await running.seconds(4)
        socket.cut()
        await running.seconds(12)
        again = await reconnected(running, token)
        assert len(again.messages) == 101
        await running.seconds(6)
        assert running.log == ["connected"]
        await running.seconds(1)
        assert running.log == ["connected", ("gone", None)]


@pytest.mark.row("B150")
@pytest.mark.parametrize("is_away", [False, True])
async def test_the_hard_limit(is_away: bool) -> None:
    """Above the limit of every outbound buffer the client is dropped at once, here or away, and what was kept goes."""
    async with node(outbound_buffer_limit=5_000) as running:
        token, socket = await running.client()
        connection = running.connection()
        if is_away:
            socket.cut()
        for number in range(100):
            await running.endpoint.context.clients.all.send("M", "x" * 100, number)
        assert connection.session.log.size == 0
        await running.settle()
        assert running.log == ["connected", ("gone", None)]
        assert socket.transport.aborted
        assert (await running.open(token)).rejected == 404


@pytest.mark.row("B150")
async def test_a_waiting_sender_wakes_when_the_client_is_gone() -> None:
    """A sender that waits for a client which never comes back goes on when the connection ends."""
    async with node(options=HubOptions(stateful_reconnect_buffer_size=1_000)) as running:
        _, socket = await running.client()
        socket.call("Tell", 100, 100, invocation_id="0")
        await running.settle()
        socket.cut()
        await running.settle()
        assert running.log[-1] == 7
        await running.seconds(16)
        assert ("gone", None) in running.log
        assert running.log.count(99) == 1
