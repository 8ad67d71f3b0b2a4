"""As much of a Redis server as pub/sub needs, in the event loop of its test, and our Redis backplane in front of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from random import Random
from typing import NamedTuple, cast

from hubplane.backplane.redis.client import ClientSource, RedisClient
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.connection import RedisConnection
from hubplane.backplane.redis.events import RedisConnectionError, RedisFailure
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.resp import NOTHING, new_reader
from hubplane.clock import Clock
from hubplane.testing.fakes import SeededIds

__all__ = ["MemoryRedis", "NamedNode", "Sent", "WiredBackplane", "turns"]


class Sent(NamedTuple):
    """What a node sent, for one channel: several channels may have shared a command.

    Attributes:
        socket: Number of the connection, from 1 on.
        command: SUBSCRIBE, UNSUBSCRIBE or PUBLISH.
        channel: As on the wire, with the prefix.
        payload: Of a PUBLISH.
    """

    socket: int
    command: str
    channel: str
    payload: bytes


class _Socket(asyncio.Transport):
    """The server's end of one connection; it answers in a later turn of the loop, as sockets do."""

    def __init__(self, server: MemoryRedis, number: int, protocol: RedisConnection) -> None:
        super().__init__()
        self.number = number
        self.channels: dict[bytes, None] = {}
        self.open = True
        self._server = server
        self._protocol = protocol
        self._reader = new_reader()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Everything is taken at once."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._reader.feed(bytes(data))
        while self.open and (command := self._reader.gets()) is not NOTHING:
            self._server.serve(self, cast("list[bytes]", command))

    def is_closing(self) -> bool:
        return not self.open

    def close(self) -> None:
        if self.open:
            self.open = False
            self.channels.clear()
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def reply(self, data: bytes) -> None:
        """Send bytes to the client."""
        asyncio.get_running_loop().call_soon(self._receive, data)

    def push(self, *words: bytes) -> None:
        """Send a push of words; a word of digits behind a colon is a number."""
        self.reply(b">%d\r\n" % len(words) + b"".join(map(_word, words)))

    def _receive(self, data: bytes) -> None:
        if self.open:
            self._protocol.data_received(data)


def _word(word: bytes) -> bytes:
    return word + b"\r\n" if word.startswith(b":") else b"$%d\r\n%b\r\n" % (len(word), word)


class MemoryRedis:
    """The server; it runs from the start.

    Attributes:
        sent: What it was sent of the three commands of pub/sub, in order.
        connects: How many connections it has accepted.
    """

    def __init__(self, *, running: bool = True) -> None:
        self.sent: list[Sent] = []
        self.connects = 0
        self._running = running
        self._sockets: list[_Socket] = []

    def start(self) -> None:
        """Take connections; nothing is left of an earlier run."""
        self._running = True

    def stop(self) -> None:
        """End all connections, and take none."""
        self._running = False
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()

    def channels(self) -> list[str]:
        """The answer to PUBSUB CHANNELS, sorted."""
        return sorted({channel.decode() for socket in self._sockets for channel in socket.channels})

    def connect(self, endpoint: Endpoint) -> RedisConnection:
        """A connection after its handshake.

        Raises:
            RedisConnectionError: The server is stopped.
        """
        if not self._running:
            raise RedisConnectionError(
                f"Cannot connect to Redis at {endpoint}: refused.",
                endpoint=endpoint,
                failure=RedisFailure.UNABLE_TO_CONNECT,
            )
        self.connects += 1
        connection = RedisConnection(endpoint)
        connection.resp = 3
        connection.role, connection.server, connection.version, connection.mode = (
            "master",
            "redis",
            "7.0.15",
            "standalone",
        )
        socket = _Socket(self, self.connects, connection)
        self._sockets.append(socket)
        connection.connection_made(socket)
        return connection

    def serve(self, socket: _Socket, command: list[bytes]) -> None:
        """Carry out one command."""
        match command:
            case [b"SUBSCRIBE" | b"UNSUBSCRIBE" as name, *channels]:
                for channel in channels:
                    self._note(socket, name, channel)
                    if name == b"SUBSCRIBE":
                        socket.channels[channel] = None
                    else:
                        socket.channels.pop(channel, None)
                    socket.push(name.lower(), channel, b":%d" % len(socket.channels))
            case [b"PUBLISH", channel, payload]:
                self._note(socket, b"PUBLISH", channel, payload)
                hearing = [other for other in self._sockets if channel in other.channels]
                for other in hearing:
                    other.push(b"message", channel, payload)
                socket.reply(b":%d\r\n" % len(hearing))
            case [b"PUBSUB", b"NUMSUB", *channels]:
                words = b"".join(
                    _word(channel) + b":%d\r\n" % sum(channel in other.channels for other in self._sockets)
                    for channel in channels
                )
                socket.reply(b"*%d\r\n" % (2 * len(channels)) + words)
            case [b"PING"]:
                socket.reply(b"+PONG\r\n")
            case _:
                raise AssertionError(f"Redis in memory does not know {command!r}")

    def _note(self, socket: _Socket, name: bytes, channel: bytes, payload: bytes = b"") -> None:
        self.sent.append(Sent(socket.number, name.decode(), channel.decode(), payload))


class _Source(ClientSource):
    """Opens connections to a server in memory."""

    def __init__(self, server: MemoryRedis, endpoint: Endpoint) -> None:
        super().__init__(factory=_unused)
        self._server = server
        self._endpoint = endpoint

    async def connect(self, _endpoint: Endpoint, _options: RedisOptions) -> RedisConnection:
        return self._server.connect(self._endpoint)


async def _unused(_log: logging.LoggerAdapter[logging.Logger]) -> RedisClient:
    raise NotImplementedError


class WiredBackplane(RedisBackplane):
    """Our Redis backplane: all of it but the opening of sockets and the handshake.

    Args:
        server: What it connects to.
        configuration: Its configuration string.
        clock: For its deadlines and pauses.
        random: Jitter between its attempts to connect.
    """

    def __init__(self, server: MemoryRedis, configuration: str, *, clock: Clock, random: Random | None = None) -> None:
        options = parse(configuration)
        # Connections that come from a source have no addresses to show, so the configured ones are shown here.
        self._addresses = options.addresses
        super().__init__(options, clock=clock, random=random, source=_Source(server, options.addresses[0]))

    @property
    def endpoints(self) -> Sequence[str]:
        """The servers of the configuration."""
        return [str(address) for address in self._addresses]


class NamedNode(SeededIds):
    """Ids of a node whose server name was recorded."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def node_name(self) -> str:
        return self._name


async def turns(count: int = 40) -> None:
    """Let everything that can happen now happen."""
    for _ in range(count):
        await asyncio.sleep(0)
