"""`MemoryFleet`: several nodes of one application in one process, behind a backplane in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self  # options are handed through

from hubplane.backplane.base import Backplane
from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.errors import ConfigurationError
from hubplane.testing.hub_client import HubClient
from hubplane.testing.memory_server import AsgiApp, MemoryServer

__all__ = ["MemoryFleet"]


class MemoryFleet:
    """Nodes that share one backplane: ``async with MemoryFleet(make_app, nodes=3) as fleet:``.

    Each node is an application of its own, as in a process of its own; the backplane keeps the promises that the Redis
    one keeps, and can be taken away.

    Args:
        make: Makes the application of one node from its backplane: ``lambda backplane: make_hubs(redis=backplane)``,
            or a FastAPI application around such a `HubApp`.
        nodes: How many.
        timeout: Seconds for start-up, shutdown and each request of a node, and for its clients.

    Raises:
        ConnectError: On entering: a node did not start.
        ConfigurationError: There are to be no nodes; or, on entering, `make` did not use its backplane.
    """

    def __init__(self, make: Callable[[Backplane], AsgiApp], *, nodes: int = 2, timeout: float = 5.0) -> None:
        if nodes < 1:
            raise ConfigurationError(f"A fleet has at least one node, not {nodes}.")
        self._bus = MemoryBus()
        self._backplanes = [MemoryBackplane(self._bus) for _ in range(nodes)]
        self._timeout = timeout
        self._stack = AsyncExitStack()
        self.nodes = tuple(MemoryServer(make(backplane), timeout=timeout) for backplane in self._backplanes)
        """The nodes; each can be stopped, and started again, by itself."""

    async def __aenter__(self) -> Self:
        """Start every node."""
        async with AsyncExitStack() as stack:
            for node, backplane in zip(self.nodes, self._backplanes, strict=True):
                await stack.enter_async_context(node)
                if not (backplane.is_connected or self._bus.is_interrupted):
                    raise ConfigurationError(
                        "A node of the fleet does not use its backplane: what `make` is given belongs into "
                        "HubApp(redis=...), and the framework around it has to run the lifespan of the hubs."
                    )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop every node."""
        await self._stack.aclose()

    def client(self, path: str, *, node: int = 0, **options: Any) -> HubClient:
        """A client of the hub at `path` on one node; `options` are those of `HubClient`."""
        return self.nodes[node].client(path, **{"timeout": self._timeout, **options})

    def interrupt(self) -> None:
        """Take the backplane away, as a broker that stops: sends raise `BackplaneUnavailableError`, clients stay."""
        self._bus.interrupt()

    def resume(self) -> None:
        """Bring it back; what was sent meanwhile is lost, as in Redis."""
        self._bus.resume()
