"""Facts about corked outbound buffers."""

from __future__ import annotations

import asyncio

import pytest

from hubplane.connection.outbound import Cork, OutboundBuffer
from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind


class Recorder:
    """A transport that keeps the batches it was given."""

    kind = TransportKind.WEB_SOCKETS

    def __init__(self) -> None:
        self.batches: list[OutboundBatch] = []

    def set_binary(self, binary: bool) -> None: ...

    def send(self, batch: OutboundBatch) -> None:
        self.batches.append(batch)

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self, reason: CloseReason) -> None: ...

    def abort(self) -> None: ...

    @property
    def payloads(self) -> list[bytes]:
        return [batch.payload for batch in self.batches]


def make(cork: Cork, *, limit: int = 100) -> tuple[OutboundBuffer, Recorder, list[str]]:
    """A buffer, what its transport was given, and its overflows."""
    overflows: list[str] = []
    buffer = OutboundBuffer(cork, limit, lambda: overflows.append("overflow"))
    recorder = Recorder()
    buffer.transport = recorder
    return buffer, recorder, overflows


async def a_turn() -> None:
    """Let everything scheduled by now run, and what that schedules."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_one_write_per_turn() -> None:
    """Messages queued in one turn of the loop leave joined, in order, in one write."""
    buffer, recorder, _ = make(Cork())
    buffer.append(b"a")
    buffer.append_shared(b"b")
    buffer.append(b"c")
    assert recorder.payloads == []
    await a_turn()
    assert recorder.payloads == [b"abc"]
    assert buffer.size == 0


async def test_the_next_turn_writes_again() -> None:
    """A buffer can be filled again after a flush."""
    buffer, recorder, _ = make(Cork())
    buffer.append(b"a")
    await a_turn()
    buffer.append(b"b")
    await a_turn()
    assert recorder.payloads == [b"a", b"b"]


async def test_identical_sequences_share_one_batch() -> None:
    """Connections with the same shared messages pending get the same batch object, so it is framed once."""
    cork = Cork()
    first, first_recorder, _ = make(cork)
    second, second_recorder, _ = make(cork)
    third, third_recorder, _ = make(cork)
    one, two = b"one", b"two"
    for buffer in (first, second, third):
        buffer.append_shared(one)
    for buffer in (first, second):
        buffer.append_shared(two)
    await a_turn()
    assert first_recorder.batches[0] is second_recorder.batches[0]
    assert first_recorder.payloads == [b"onetwo"]
    assert third_recorder.payloads == [b"one"]


async def test_order_of_shared_messages_matters() -> None:
    """The same messages in another order make another batch."""
    cork = Cork()
    first, first_recorder, _ = make(cork)
    second, second_recorder, _ = make(cork)
    first.append_shared(b"1")
    first.append_shared(b"2")
    second.append_shared(b"2")
    second.append_shared(b"1")
    await a_turn()
    assert (first_recorder.payloads, second_recorder.payloads) == ([b"12"], [b"21"])


async def test_a_private_message_is_not_shared() -> None:
    """A message for one client alone keeps its buffer out of the shared batches."""
    cork = Cork()
    first, first_recorder, _ = make(cork)
    second, second_recorder, _ = make(cork)
    first.append_shared(b"all")
    second.append_shared(b"all")
    second.append(b"you")
    await a_turn()
    assert (first_recorder.payloads, second_recorder.payloads) == ([b"all"], [b"allyou"])


async def test_a_blocked_buffer_keeps_what_is_pending() -> None:
    """While the peer takes nothing messages wait; they leave together when it does again."""
    buffer, recorder, _ = make(Cork())
    buffer.append(b"a")
    buffer.block()
    await a_turn()
    buffer.append(b"b")
    await a_turn()
    assert recorder.payloads == []
    assert buffer.size == 2
    buffer.unblock()
    await a_turn()
    assert recorder.payloads == [b"ab"]


@pytest.mark.row("X12")
async def test_a_full_buffer_meets_its_verdict() -> None:
    """One byte over the limit drops what is pending and reports the overflow; another buffer notices nothing."""
    cork = Cork()
    slow, recorder, overflows = make(cork, limit=10)
    other, other_recorder, _ = make(cork, limit=10)
    slow.block()
    slow.append(b"x" * 10)
    other.append(b"y" * 10)
    assert overflows == []
    slow.append(b"x")
    assert overflows == ["overflow"]
    assert slow.size == 0
    slow.unblock()
    await a_turn()
    assert recorder.payloads == []
    assert other_recorder.payloads == [b"y" * 10]


async def test_an_unblocked_buffer_has_the_same_limit() -> None:
    """A single turn cannot queue more than the limit either."""
    buffer, _, overflows = make(Cork(), limit=10)
    for _ in range(11):
        buffer.append(b"x")
    assert overflows == ["overflow"]


async def test_flush_all_ignores_the_block() -> None:
    """The last words of a closing connection are handed over even if the peer is slow."""
    buffer, recorder, _ = make(Cork())
    buffer.block()
    buffer.append(b"bye")
    buffer.flush_all()
    assert recorder.payloads == [b"bye"]


async def test_a_buffer_without_transport_waits() -> None:
    """Without a transport nothing leaves and nothing fails."""
    buffer, recorder, _ = make(Cork())
    buffer.transport = None
    buffer.append(b"a")
    await a_turn()
    buffer.transport = recorder
    buffer.append(b"b")
    await a_turn()
    assert recorder.payloads == [b"ab"]
