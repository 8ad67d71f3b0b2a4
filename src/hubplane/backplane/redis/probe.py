"""`Probe`: asks one Redis server what a node would need of it, and believes only what it has tried.

For `hubplane check`. Every question may be refused, by access rules or by a managed Redis that has not the command: a
refusal is an answer too, and the next question is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from hubplane.backplane.redis.connection import RedisConnection, open_connection
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import NOTHING, PushNotification, ReplyError, pack_command
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["LoopPath", "LoopResult", "Probe", "Refusal"]

Answer = TypeVar("Answer")

_NAMES_PER_COMMAND = 1_000


@dataclass(frozen=True, slots=True)
class Refusal:
    """The server would not answer: its words, or that the command map leaves the command out."""

    text: str

    @property
    def by_rights(self) -> bool:
        """Access rules forbid it."""
        return self.text.startswith("NOPERM")

    @property
    def of_channel(self) -> bool:
        """The command is allowed, the channel is not."""
        return self.by_rights and "access" in self.text and "channel" in self.text


@dataclass(frozen=True, slots=True)
class LoopPath:
    """A channel to try.

    Attributes:
        kind: What such a channel is for, in words.
        channel: Its name without the prefix.
        payload: Sent to it; None for a channel that others hear, which is subscribed only.
    """

    kind: str
    channel: str
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What became of a path.

    Attributes:
        path: The path.
        subscribed: Redis confirmed the subscription, or why not.
        receivers: What PUBLISH counted, or why it was not taken; None where nothing was sent.
        seconds: From the PUBLISH until the message was back; None where it did not come.
    """

    path: LoopPath
    subscribed: bool | Refusal
    receivers: int | Refusal | None = None
    seconds: float | None = None

    @property
    def works(self) -> bool:
        """Everything that was tried worked."""
        return self.subscribed is True and (self.path.payload is None or self.seconds is not None)


class Probe:
    """One connection to one server.

    Args:
        connection: Logged in and idle.
        options: Of the node that is checked.
        clock: Measures.
        seconds: To wait for each answer.
    """

    def __init__(self, connection: RedisConnection, options: RedisOptions, *, clock: Clock, seconds: float) -> None:
        self.connection = connection
        self._options = options
        self._clock = clock
        self._seconds = seconds
        self._sharded = options.mode == "sharded"
        self._numsub = "SHARDNUMSUB" if self._sharded else "NUMSUB"
        self._prefix = options.channel_prefix.encode()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, endpoint: Endpoint, options: RedisOptions, *, clock: Clock, seconds: float
    ) -> AsyncIterator[Probe]:
        """Connect and log in exactly as a node does.

        Raises:
            BackplaneUnavailableError: Not possible, and why.
        """
        connection = await open_connection(endpoint, options)
        try:
            yield cls(connection, options, clock=clock, seconds=seconds)
        finally:
            connection.abort()

    async def ask(self, command: str, *arguments: str | bytes | int) -> object:
        """The reply to one command, or a `Refusal`.

        Raises:
            BackplaneUnavailableError: No answer in time, or the connection was lost.
        """
        name = self._options.command(command)
        if not name:
            return Refusal(f"the configuration leaves out the command {command}")
        reply = await self._within(self.connection.call(name, *arguments))
        return Refusal(str(reply)) if isinstance(reply, ReplyError) else reply

    async def info(self, *sections: str) -> dict[str, str] | Refusal:
        """The fields of INFO; RESP3 or not, it is one text."""
        found: dict[str, str] = {}
        for section in sections:
            reply = await self.ask("INFO", section)
            if isinstance(reply, Refusal):
                return reply
            text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
            pairs = (line.partition(":") for line in text.splitlines() if ":" in line and line[0] != "#")
            found.update((name, value) for name, _, value in pairs)
        return found

    async def settings(self, *patterns: str) -> dict[str, str] | Refusal:
        """The values of CONFIG GET."""
        found: dict[str, str] = {}
        for pattern in patterns:
            reply = await self.ask("CONFIG", "GET", pattern)
            if isinstance(reply, Refusal):
                return reply
            found.update(_pairs(reply))
        return found

    async def round_trips(self, count: int) -> list[float] | Refusal:
        """Seconds that each of `count` small commands took, one after the other."""
        words: tuple[str | bytes, ...] = ()
        command = "PING"
        if isinstance(await self.ask(command), Refusal):
            command, words = "PUBSUB", (self._numsub, self._prefix + b"hubplane.check")
        taken: list[float] = []
        for _ in range(count):
            started = self._clock.monotonic()
            reply = await self.ask(command, *words)
            if isinstance(reply, Refusal):
                return reply
            taken.append(self._clock.monotonic() - started)
        return taken

    async def skew(self) -> float | Refusal:
        """Seconds by which the server's clock is ahead of this machine's; exact to half a round trip."""
        before = self._clock.wall()
        reply = await self.ask("TIME")
        after = self._clock.wall()
        if isinstance(reply, Refusal):
            return reply
        if not isinstance(reply, list):
            return Refusal(str(reply)[:80])
        seconds, microseconds = (int(part) for part in reply)
        return float(seconds + microseconds / 1e6 - (before + after) / 2)

    async def channels(self, pattern: str) -> list[str] | Refusal:
        """The channels with subscribers that match a glob pattern, prefix included; unreadable names are left out."""
        reply = await self.ask("PUBSUB", "SHARDCHANNELS" if self._sharded else "CHANNELS", pattern)
        if isinstance(reply, Refusal):
            return reply
        names: list[str] = []
        for name in reply if isinstance(reply, list) else []:
            try:
                names.append(name.decode())
            except UnicodeDecodeError:
                continue
        return names

    async def counts(self, channels: Collection[str]) -> dict[str, int] | Refusal:
        """How many subscribers this server counts for each channel, prefix included."""
        names = list(channels)
        found: dict[str, int] = {}
        for start in range(0, len(names), _NAMES_PER_COMMAND):
            reply = await self.ask("PUBSUB", self._numsub, *names[start : start + _NAMES_PER_COMMAND])
            if isinstance(reply, Refusal):
                return reply
            found.update((name.decode(), int(count)) for name, count in _pairs_of(reply))
        return found

    async def loop_back(self, paths: Iterable[LoopPath], *, at: Endpoint | None = None) -> list[LoopResult]:
        """Subscribe each path on a second connection, publish on this one, and wait for the message.

        Args:
            paths: One after the other.
            at: Where the second connection goes: another node of a Cluster; the same server by default.

        Raises:
            BackplaneUnavailableError: There is no second connection, or one of the two was lost.
        """
        other = await open_connection(at or self.connection.endpoint, self._options)
        try:
            ear = _Ear(other, self._options)
            return [await self._loop(path, ear) for path in paths]
        finally:
            other.abort()

    async def _loop(self, path: LoopPath, ear: _Ear) -> LoopResult:
        channel = self._prefix + path.channel.encode()
        subscribed = await self._within(ear.subscribe(channel))
        if subscribed is not None or path.payload is None:
            return LoopResult(path, subscribed or True)
        heard = ear.expect(path.payload)
        heard.add_done_callback(lambda future: future.cancelled() or future.exception())
        started = self._clock.monotonic()
        receivers = await self.ask("SPUBLISH" if self._sharded else "PUBLISH", channel, path.payload)
        if not isinstance(receivers, int):
            refusal = receivers if isinstance(receivers, Refusal) else Refusal(str(receivers)[:80])
            return LoopResult(path, subscribed=True, receivers=refusal)
        try:
            await self._within(heard)
        except BackplaneUnavailableError:
            if ear.lost:
                raise
            return LoopResult(path, subscribed=True, receivers=receivers)
        return LoopResult(path, True, receivers, self._clock.monotonic() - started)

    async def _within(self, answer: asyncio.Future[Answer]) -> Answer:
        try:
            async with asyncio.timeout(self._seconds):
                return await answer
        except TimeoutError:
            raise BackplaneUnavailableError(
                f"Redis at {self.connection.endpoint} did not answer within {self._seconds:g} s."
            ) from None


class _Ear:
    """A subscribed connection: what Redis says on it comes as pushes, in RESP2 as ordinary arrays."""

    def __init__(self, connection: RedisConnection, options: RedisOptions) -> None:
        self._connection = connection
        sharded = options.mode == "sharded"
        self._command = options.command("SSUBSCRIBE" if sharded else "SUBSCRIBE")
        self._confirms, self._brings = (b"ssubscribe", b"smessage") if sharded else (b"subscribe", b"message")
        self._confirmation: asyncio.Future[Refusal | None] | None = None
        self._expected: dict[bytes, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        connection.drain = self._drain
        connection.trouble.add_done_callback(self._ended)

    @property
    def lost(self) -> bool:
        """The connection is gone."""
        return self._connection.error is not None

    def subscribe(self, channel: bytes) -> asyncio.Future[Refusal | None]:
        """Done when Redis has answered."""
        answer = self._confirmation = self._loop.create_future()
        if self._connection.error is not None:
            answer.set_exception(self._connection.error)
        self._connection.write(pack_command((self._command, channel)))
        return answer

    def expect(self, payload: bytes) -> asyncio.Future[None]:
        """Done when this payload has arrived on any channel."""
        return self._expected.setdefault(payload, self._loop.create_future())

    def _drain(self, gets: Callable[[], object]) -> None:
        while (reply := gets()) is not NOTHING:
            if isinstance(reply, ReplyError):
                self._confirmed(Refusal(str(reply)))
            elif isinstance(reply, (list, PushNotification)) and len(reply) == 3:
                if reply[0] == self._confirms:
                    self._confirmed(None)
                elif reply[0] == self._brings and (waiting := self._expected.pop(reply[2], None)) is not None:
                    waiting.set_result(None)

    def _confirmed(self, answer: Refusal | None) -> None:
        if self._confirmation is not None and not self._confirmation.done():
            self._confirmation.set_result(answer)

    def _ended(self, _: object) -> None:
        error = self._connection.error or BackplaneUnavailableError("The connection to Redis was lost.")
        for waiting in (self._confirmation, *self._expected.values()):
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)


def _pairs_of(reply: object) -> list[tuple[bytes, bytes]]:
    """A map (RESP3), or a flat list of names and values."""
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True)) if isinstance(reply, list) else []


def _pairs(reply: object) -> dict[str, str]:
    return {name.decode(): value.decode("utf-8", "replace") for name, value in _pairs_of(reply)}
