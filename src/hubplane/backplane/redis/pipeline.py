"""`CommandPipeline`: commands in the order of calls, one write per turn of the event loop, replies in order.

When nothing is under way, the first command of a turn goes ahead of that write, so that Redis works meanwhile. While
there is no connection, commands wait, within limits. It neither opens connections nor reads a clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any  # a reply is whatever the command answers

from hubplane.backplane.redis.access import read_command, refusal
from hubplane.backplane.redis.connection import RedisConnection, RedisProtocolError, describe_error, unavailable
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.resp import NOTHING, PushNotification, ReplyError, pack_command
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError

__all__ = ["CommandPipeline"]


class CommandPipeline:
    """The outgoing half of a backplane.

    Args:
        options: Limits, deadline and policy.
        clock: Dates each turn's commands; `expire` compares against it.
    """

    def __init__(self, options: RedisOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._timeout = options.async_timeout
        self._fail_fast = options.backlog == "fail_fast"
        self._max_bytes = options.backlog_bytes
        self._max_commands = options.backlog_messages
        self._ping = pack_command((options.command("PING") or "PING",))
        self._connection: RedisConnection | None = None
        self._held = False
        self._last_error: BackplaneUnavailableError | None = None
        self._loop = asyncio.get_running_loop()
        # Everything unanswered, in order: first the `_awaiting` commands that were sent, then those of `_out`.
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._awaiting = 0
        self._out: list[bytes] = []
        # What was sent on this connection and may be unanswered, by the number of the first of each write: only a
        # refusal asks which command it meets.
        self._flights: deque[tuple[int, list[bytes]]] = deque()
        self._sent = 0
        self._out_bytes = 0
        self._turn_noted = False
        # (deadline, how many commands had been submitted by then), one per turn; and how many were given up.
        self._deadlines: deque[tuple[float, int]] = deque()
        self._submitted = 0
        self._given_up = 0
        self._ignored: asyncio.Future[Any] = self._loop.create_future()
        self._ignored.set_result(None)

    @property
    def unsent(self) -> int:
        """Commands that wait to be sent."""
        return len(self._out)

    def submit(
        self, command: bytes, name: str, channel: str = "", future: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Queue one packed command; the future gets its reply.

        Args:
            command: The bytes to send.
            name: The command's name, for error texts.
            channel: The same for its channel.
            future: Gets the reply instead of a new one; from `take_unsent` of another pipeline.

        Raises:
            BackplaneUnavailableError: From the future: no connection, no answer in time, too much waiting, or Redis
                refused the command (then the cause is the reply).
        """
        if future is None:
            future = self._loop.create_future()
        waiting = self._out_bytes + len(command)
        if waiting > self._max_bytes or len(self._out) >= self._max_commands:
            self._flush()
            if self._out:
                future.set_exception(BackplaneUnavailableError(self._overflow(name, channel)))
                return future
            waiting = len(command)
        if self._fail_fast and self._connection is None:
            future.set_exception(self._unavailable(_no_connection(name, channel)))
            return future
        self._pending.append(future)
        self._out.append(command)
        self._out_bytes = waiting
        self._submitted += 1
        if not self._turn_noted:
            self._turn_noted = True
            self._loop.call_soon(self._end_turn)
            if not self._awaiting:
                # Nothing is under way: Redis may as well work while this turn goes on.
                self._flush()
        return future

    def _overflow(self, name: str, channel: str) -> str:
        return (
            f"{_no_connection(name, channel)}; {len(self._out)} commands of {self._out_bytes} bytes are waiting, "
            f"and the limit is {self._max_commands} commands and {self._max_bytes} bytes."
        )

    def _end_turn(self) -> None:
        self._turn_noted = False
        answered = self._submitted - len(self._pending)
        deadlines = self._deadlines
        while deadlines and deadlines[0][1] <= answered:
            deadlines.popleft()
        deadlines.append((self._clock.monotonic() + self._timeout, self._submitted))
        self._flush()

    def _flush(self) -> None:
        connection = self._connection
        if self._out and connection is not None and connection.writable and not self._held:
            out, self._out = self._out, []
            self._out_bytes = 0
            self._note_flight(out)
            connection.write(b"".join(out))

    def _note_flight(self, commands: list[bytes]) -> None:
        flights = self._flights
        answered = self._sent - self._awaiting
        while flights and flights[0][0] + len(flights[0][1]) <= answered:
            flights.popleft()
        flights.append((self._sent, commands))
        self._sent += len(commands)
        self._awaiting += len(commands)

    def hold(self, *, held: bool) -> None:
        """Keep commands back although there is a connection, or let them go."""
        self._held = held
        if not held:
            self._flush()

    def attach(self, connection: RedisConnection) -> None:
        """Send through `connection` from here on, what waits first."""
        self._connection = connection
        self._last_error = None
        connection.drain = self._drain
        connection.on_writable = self._flush
        self._flush()

    def detach(self, error: BackplaneUnavailableError) -> None:
        """There is no connection: what was sent is unconfirmed; what was not may wait for the next one."""
        self._connection = None
        self._last_error = error
        lost = self._awaiting
        self._forget_flights()
        for _ in range(lost):
            _fail(self._pending.popleft(), self._unavailable(f"Not confirmed: {describe_error(error)}."))
        if self._fail_fast:
            self._drop_unsent(len(self._out), f"Not sent: {describe_error(error)}.")

    def take_unsent(self) -> list[tuple[bytes, asyncio.Future[Any]]]:
        """Give away the commands that were not sent, in order, with their futures; somebody else sends them."""
        commands, self._out = self._out, []
        self._out_bytes = 0
        futures = [self._pending.pop() for _ in commands]
        self._submitted -= len(commands)
        self._given_up = min(self._given_up, self._submitted)
        self._deadlines = deque((when, min(upto, self._submitted)) for when, upto in self._deadlines)
        return [(command, future) for command, future in zip(commands, reversed(futures), strict=True)]

    def probe(self) -> None:
        """Send a PING whose answer nobody waits for."""
        connection = self._connection
        if connection is not None and connection.writable:
            self._flush()
            if not self._out:
                self._pending.append(self._ignored)
                self._submitted += 1
                self._note_flight([self._ping])
                connection.write(self._ping)

    def _forget_flights(self) -> None:
        self._awaiting = self._sent = 0
        self._flights.clear()

    def close(self) -> None:
        """Send what waits, if possible, and fail everything that is unconfirmed."""
        self._flush()
        self._connection = None
        self._forget_flights()
        self._out.clear()
        self._out_bytes = 0
        self._fail_fast = True
        error = self._last_error = BackplaneUnavailableError("The backplane is not running.")
        while self._pending:
            _fail(self._pending.popleft(), self._unavailable(f"Not confirmed: {describe_error(error)}."))

    def expire(self, now: float) -> None:
        """Fail what has waited for longer than the deadline; the answer of what was sent is still taken in."""
        upto = self._given_up
        while self._deadlines and self._deadlines[0][0] <= now:
            upto = self._deadlines.popleft()[1]
        answered = self._submitted - len(self._pending)
        if upto <= max(answered, self._given_up):
            return
        milliseconds = round(self._timeout * 1000)
        sent = answered + self._awaiting
        start = max(self._given_up, answered)
        text = f"Timeout awaiting response ({milliseconds}ms); the message may have been delivered all the same."
        for future in islice(self._pending, start - answered, min(upto, sent) - answered):
            _fail(future, self._unavailable(text))
        if upto > sent:
            text = (
                "The message timed out in the backlog attempting to send because no connection became available "
                f"({milliseconds}ms)"
            )
            if self._last_error is not None:
                text += f" - Last Connection Exception: {self._last_error}"
            self._drop_unsent(upto - sent, text)
        self._given_up = upto

    def _drop_unsent(self, count: int, text: str) -> None:
        self._pending.rotate(-self._awaiting)
        for _ in range(count):
            _fail(self._pending.popleft(), self._unavailable(text))
        self._pending.rotate(self._awaiting)
        self._out_bytes -= sum(map(len, self._out[:count]))
        del self._out[:count]

    def _unavailable(self, text: str) -> BackplaneUnavailableError:
        return unavailable(text, self._last_error)

    def _drain(self, gets: Callable[[], object]) -> None:
        popleft = self._pending.popleft
        while (reply := gets()) is not NOTHING:
            if type(reply) is PushNotification:
                continue
            if not self._awaiting:
                raise RedisProtocolError("Redis answered a command that was never sent")
            self._awaiting -= 1
            future = popleft()
            if future.done():
                continue
            if isinstance(reply, ReplyError):
                future.set_exception(self._refusal(reply))
            else:
                future.set_result(reply)

    def _refusal(self, reply: ReplyError) -> BackplaneUnavailableError:
        position = self._sent - self._awaiting - 1
        for first, commands in self._flights:
            if first <= position < first + len(commands):
                name, channel = read_command(commands[position - first])
                usual = next((word for word, alias in self._options.command_map.items() if alias.upper() == name), name)
                if usual in {"PUBLISH", "SPUBLISH"}:
                    text = f"Redis refused the command {usual} {channel}"
                    return refusal(text, reply, self._options, command=usual, channel=channel)
                return refusal(f"Redis refused the command {usual}", reply, self._options, command=usual)
        return refusal("Redis refused the command", reply, self._options, command="")


def _fail(future: asyncio.Future[Any], error: BackplaneUnavailableError) -> None:
    if not future.done():
        future.set_exception(error)


def _no_connection(name: str, channel: str) -> str:
    text = f"No connection is active/available to service this operation: {name}"
    return f"{text} {channel}" if channel else text
