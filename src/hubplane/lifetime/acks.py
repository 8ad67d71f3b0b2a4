"""Group commands that wait for another node's acknowledgement.

Source: redis-backplane section 3.10.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from hubplane.clock import Clock
from hubplane.errors import AckTimeoutError, BackplaneError

__all__ = ["PendingAcks"]


class _Pending(NamedTuple):
    future: asyncio.Future[None]
    deadline: float
    connection_id: str
    group: str


class PendingAcks:
    """Commands by their id: 1 and upwards, 32 bits signed, so that 2147483647 is followed by -2147483648.

    Args:
        clock: Where deadlines are counted from.
        timeout: Seconds until a command fails; the original's 30.
        first: Id of the first command.
    """

    __slots__ = ("_clock", "_next", "_pending", "_timeout")

    def __init__(self, clock: Clock, *, timeout: float = 30.0, first: int = 1) -> None:
        self._clock = clock
        self._timeout = timeout
        self._next = first
        # In the order of creation, and so of deadlines.
        self._pending: dict[int, _Pending] = {}

    def __len__(self) -> int:
        """How many commands wait."""
        return len(self._pending)

    def create(self, connection_id: str, group: str) -> tuple[int, asyncio.Future[None]]:
        """Take the next id, and expect its acknowledgement.

        The future fails with `AckTimeoutError` after the timeout, at the next `tick`. Call `forget` when nobody waits
        for it any more.
        """
        command_id = self._next
        self._next = (command_id + 1 + 2**31) % 2**32 - 2**31
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        deadline = self._clock.monotonic() + self._timeout
        self._pending[command_id] = _Pending(future, deadline, connection_id, group)
        return command_id, future

    def acknowledge(self, command_id: int) -> None:
        """A node did it; unknown ids are ignored."""
        pending = self._pending.pop(command_id, None)
        if pending is not None and not pending.future.done():
            pending.future.set_result(None)

    def forget(self, command_id: int) -> None:
        """Nobody waits for this command any more."""
        self._pending.pop(command_id, None)

    def tick(self, now: float) -> None:
        """End the commands that nobody acknowledged in time."""
        while self._pending:
            command_id, pending = next(iter(self._pending.items()))
            if pending.deadline > now:
                return
            del self._pending[command_id]
            _fail(
                pending.future,
                AckTimeoutError(
                    pending.connection_id,
                    pending.group,
                    f"No node acknowledged within {self._timeout:g} s a change of group '{pending.group}' "
                    f"for connection '{pending.connection_id}'.",
                ),
            )

    def close(self, error: BackplaneError) -> None:
        """End all commands with `error`."""
        pending, self._pending = self._pending, {}
        for entry in pending.values():
            _fail(entry.future, error)


def _fail(future: asyncio.Future[None], error: BackplaneError) -> None:
    if not future.done():
        future.set_exception(error)
        # Counts as looked at: its command may have failed for another reason, and then nobody awaits it.
        future.exception()
