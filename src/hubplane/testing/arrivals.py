"""What a server sent to a client and no test has taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple  # arguments are whatever the server sent

from hubplane.errors import ConnectionClosedError
from hubplane.testing.failures import NothingArrivedError

__all__ = ["Arrivals", "ServerCall", "shown"]

_LIMIT = 100_000
_SHOWN = 10


class ServerCall(NamedTuple):
    """The server called a method of the client.

    Attributes:
        target: The method's name, as the server wrote it.
        arguments: Its arguments, as plain values.
    """

    target: str
    arguments: list[Any]


class Arrivals:
    """Calls in order of arrival, and those who wait for one.

    At most 100,000 wait to be taken; `add` refuses more.
    """

    def __init__(self) -> None:
        self.calls: list[ServerCall] = []
        self._waiting: list[tuple[Callable[[ServerCall], bool], asyncio.Future[ServerCall]]] = []
        self._end: str | None = None

    def add(self, call: ServerCall) -> bool:
        """Give `call` to the first who waits for it, or keep it; False when too many are kept already."""
        if self._given(call):
            return True
        if len(self.calls) >= _LIMIT:
            return False
        self.calls.append(call)
        return True

    def _given(self, call: ServerCall) -> bool:
        for position, (wants, waiter) in enumerate(self._waiting):
            if not waiter.done() and wants(call):
                del self._waiting[position]
                waiter.set_result(call)
                return True
        return False

    def end(self, why: str) -> None:
        """Nothing comes any more: whoever waits learns why."""
        self._end = why
        for _, waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ConnectionClosedError("", why))

    async def take(self, target: str, timeout: float, others: Callable[[], Sequence[str]]) -> ServerCall:
        """The first call of `target` that nobody has taken, as soon as there is one.

        Args:
            target: Compared exactly, as .NET's client does.
            timeout: Seconds to wait.
            others: What else to tell when nothing comes.

        Raises:
            NothingArrivedError: None came in time, or the connection has ended.
        """
        for position, call in enumerate(self.calls):
            if call.target == target:
                return self.calls.pop(position)
        wanted = f"No {target!r} arrived"
        if self._end is not None:
            raise NothingArrivedError(f"{wanted}: {self._end} {self._told(target, others())}")
        waiter: asyncio.Future[ServerCall] = asyncio.get_running_loop().create_future()
        entry = (lambda call: call.target == target, waiter)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except asyncio.CancelledError:
            # It came in the very turn in which nobody wanted it any more.
            if _has_result(waiter) and not self._given(waiter.result()):
                self.calls.insert(0, waiter.result())
            raise
        except TimeoutError:
            if _has_result(waiter):
                return waiter.result()
            text = f"{wanted} within {timeout:g} s. {self._told(target, others())}"
            raise NothingArrivedError(text) from None
        except ConnectionClosedError as error:
            raise NothingArrivedError(f"{wanted}: {error} {self._told(target, others())}") from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _told(self, target: str, others: Sequence[str]) -> str:
        came = [f"{call.target}({', '.join(map(repr, call.arguments))})" for call in self.calls]
        told = [f"What did arrive, and was not taken: {shown(came)}." if came else "Nothing else arrived either."]
        if near := next((call.target for call in self.calls if call.target.lower() == target.lower()), None):
            told.append(f"Names are compared exactly: it is {near!r}.")
        return " ".join([*told, *others])


def _has_result(waiter: asyncio.Future[ServerCall]) -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.exception() is None


def shown(items: Sequence[str]) -> str:
    """The first items, shortened, and how many more there are."""
    text = ", ".join(item if len(item) <= 200 else item[:200] + "..." for item in items[:_SHOWN])
    return text if len(items) <= _SHOWN else f"{text} and {len(items) - _SHOWN} more"
