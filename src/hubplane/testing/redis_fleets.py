"""What `RedisCluster` and `RedisSentinels` have in common: several real servers for tests.

All processes are `RedisServer`s of this one: they end with it, and with the fleet's `with` block.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from hubplane.clock import SystemClock
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.redis_server import RedisServer
from hubplane.testing.resp import RespError, RespValue

__all__ = ["RedisFleet", "bytes_of", "fixed_port", "text_of", "wait_until"]

_PATIENCE = 30.0
_STEP = 0.02


def wait_until(check: Callable[[], object], what: str, timeout: float = _PATIENCE) -> None:
    """Block until `check` is true; servers that refuse or cannot be reached meanwhile count as not yet.

    Args:
        check: Asked 50 times a second.
        what: Names the condition in the error.
        timeout: Seconds.

    Raises:
        TimeoutError: It did not become true in time.
    """
    clock, never = SystemClock(), threading.Event()
    end = clock.monotonic() + timeout
    while True:
        with contextlib.suppress(RespError, BackplaneUnavailableError, EOFError, ValueError):
            if check():
                return
        if clock.monotonic() > end:
            raise TimeoutError(f"Not within {timeout:g} s: {what}.")
        never.wait(_STEP)


def fixed_port(taken: set[int]) -> int:
    """A port below those that the system gives to outgoing connections, so that a server can be restarted on it."""
    for _ in range(1_000):
        port = random.SystemRandom().randint(12_000, 31_000)  # noqa: TID251 - ports, for tests
        if port in taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            taken.add(port)
            return port
    raise BackplaneUnavailableError("No free TCP port between 12000 and 31000.")


class RedisFleet:
    """Servers that start and end together."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        self._stack = ExitStack()
        self._ports: set[int] = set()

    def close(self) -> None:
        """Kill all servers and remove their folders."""
        self._stack.close()

    def start(self) -> None:
        """Start every server that does not run; from the thread that the fleet was started in (see `RedisServer`)."""
        for server in self._all():
            server.start()

    def _all(self) -> Sequence[RedisServer]:
        return self.servers

    def interrupt(self) -> None:
        """Kill all servers as if at one moment."""
        for server in self.servers:
            server.pause()
        for server in self.servers:
            server.kill()

    def _begin(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Start everything and return when it works."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def text_of(value: RespValue) -> str:
    """A reply that is text."""
    return bytes_of(value).decode()


def bytes_of(value: RespValue) -> bytes:
    """A reply that is bytes."""
    assert isinstance(value, bytes)
    return value
