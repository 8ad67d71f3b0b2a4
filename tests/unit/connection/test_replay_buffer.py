"""Facts about outbound buffers that keep what they have sent."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubplane.connection.outbound import Cork
from hubplane.connection.replay_buffer import CHUNK, ReplayBuffer
from hubplane.protocol.replay import ReplayLog
from hubplane.testing.recording import RecordingTransport


def make(cork: Cork, *, limit: int = 1_000_000, replay_limit: int = 100) -> tuple[ReplayBuffer, RecordingTransport]:
    """A buffer that counts, and where its messages go."""
    buffer = ReplayBuffer(cork, limit, lambda: None, log=ReplayLog(), replay_limit=replay_limit)
    buffer.counting = True
    buffer.transport = transport = RecordingTransport()
    return buffer, transport


def log_of(buffer: ReplayBuffer) -> ReplayLog:
    """What it keeps."""
    return buffer._log


async def a_turn() -> None:
    """Let everything scheduled by now run, and what that schedules."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.row("B152")
async def test_both_ways_of_writing_count() -> None:
    """Messages to one client and to many are counted alike, in the order of writing; uncounted ones only leave."""
    buffer, transport = make(Cork())
    buffer.append(b"a")
    buffer.append_uncounted(b"ping")
    buffer.append_shared(b"b")
    await a_turn()
    assert transport.sent == b"apingb"
    assert log_of(buffer).messages() == [b"a", b"b"]


async def test_batches_are_shared() -> None:
    """In a fan-out the same batch object leaves on connections with and without the feature."""
    cork = Cork()
    (one, first), (two, second) = make(cork), make(cork)
    message = b"to all"
    one.append_shared(message)
    two.append_shared(message)
    await a_turn()
    assert first.batches[0] is second.batches[0]


@pytest.mark.row("B150")
async def test_senders_wait_until_the_limit_is_undercut() -> None:
    """Above the limit senders are to wait, at the limit they still are, below it they are not; writing goes on."""
    buffer, transport = make(Cork(), replay_limit=10)
    buffer.append(b"x" * 10)
    assert not buffer.blocked
    buffer.append(b"y")
    buffer.append(b"z" * 10)
    await a_turn()
    assert len(transport.sent) == 21
    assert buffer.blocked
    log_of(buffer).acknowledge(1)
    assert not buffer.settle()
    log_of(buffer).acknowledge(2)
    assert not buffer.settle(), "ten bytes are left, and fewer than ten are needed"
    log_of(buffer).acknowledge(3)
    assert buffer.settle()


async def test_a_slow_socket_and_a_full_log_are_two_things() -> None:
    """A socket that takes bytes again does not free senders who wait for acknowledgements, nor the other way round."""
    buffer, _ = make(Cork(), replay_limit=10)
    buffer.append(b"x" * 20)
    buffer.block()
    buffer.unblock()
    assert buffer.blocked
    buffer.block()
    log_of(buffer).acknowledge(1)
    assert not buffer.settle()
    buffer.unblock()
    assert not buffer.blocked


async def test_without_a_socket() -> None:
    """Without a socket messages are only kept; it is the log, not the socket, that senders may have to wait for."""
    buffer, transport = make(Cork(), replay_limit=10)
    buffer.append(b"a")
    buffer.block()
    buffer.detach()
    buffer.append_shared(b"b")
    buffer.append_uncounted(b"ping")
    await a_turn()
    assert transport.sent == b""
    assert (buffer.size, buffer.blocked) == (0, False)
    buffer.append(b"x" * 10)
    assert buffer.blocked
    again = RecordingTransport()
    buffer.resume(again, b"sequence")
    assert again.sent == b"sequenceab" + b"x" * 10


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 3 * CHUNK), max_size=12), st.integers(1, 4))
def test_a_replay_in_pieces(sizes: list[int], stop_after: int) -> None:
    """However large messages are, a replay leaves whole, in order and in pieces, each at most a message too long."""

    async def replay() -> None:
        buffer, _ = make(Cork(), limit=10**9)
        buffer.detach()
        for number, size in enumerate(sizes):
            buffer.append(bytes([number]) * size)
        transport = RecordingTransport()
        transport.on_send = lambda: buffer.block() if len(transport.batches) % stop_after == 0 else None
        buffer.resume(transport, b"S")
        for _ in range(len(sizes) + 1):
            buffer.unblock()
            await a_turn()
        assert transport.sent == b"S" + b"".join(log_of(buffer).messages())
        assert buffer.size == 0
        largest = max(sizes, default=0)
        assert all(len(batch.payload) < CHUNK + largest + 1 for batch in transport.batches)

    asyncio.run(replay())
