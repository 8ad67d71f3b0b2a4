"""A Redis connection without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from hubplane.backplane.redis.connection import RedisConnection
from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.resp import NOTHING, new_reader


class FakeTransport(asyncio.Transport):
    """Takes writes, and tells its protocol of the end in a later turn of the loop, as sockets do."""

    def __init__(self, protocol: RedisConnection) -> None:
        super().__init__()
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.closing = False
        self.aborted = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.lose(None)

    def abort(self) -> None:
        self.aborted = True
        self.lose(None)

    def lose(self, error: Exception | None) -> None:
        if not self.closing:
            self.closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)


class Wire:
    """A `RedisConnection` with a test at the other end.

    Attributes:
        connection: What the code under test uses.
        transport: What it writes to.
    """

    def __init__(self, limit: int = 1_000_000) -> None:
        self.connection = RedisConnection(Endpoint("redis", 6379), limit=limit)
        self.transport = FakeTransport(self.connection)
        self.connection.connection_made(self.transport)

    def commands(self) -> list[list[bytes]]:
        """The commands written since the last call."""
        reader = new_reader()
        for data in self.transport.writes:
            reader.feed(data)
        self.transport.writes.clear()
        found: list[list[bytes]] = []
        while (command := reader.gets()) is not NOTHING:
            found.append(command)
        return found

    def receive(self, *data: bytes) -> None:
        """Bytes arrive."""
        self.connection.data_received(b"".join(data))

    def answer(self, kind: bytes, *channels: bytes) -> None:
        """Redis confirms subscriptions, or takes them back."""
        for channel in channels:
            self.receive(b">3\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n:1\r\n" % (len(kind), kind, len(channel), channel))


@pytest.fixture
def wire() -> Callable[..., Wire]:
    """Makes connections."""
    return Wire
