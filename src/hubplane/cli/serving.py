"""One process that serves one application with uvicorn and the fast edge."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any  # an ASGI application is any callable that fits

from hubplane.asgi.stopping import Stopping, announcing
from hubplane.cli.loading import load_app
from hubplane.cli.logs import log_config
from hubplane.errors import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["Target", "run_server"]

FAST_EDGE = "hubplane.server:HubWebSocketProtocol"

_SHUTDOWN_SECONDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What to serve.

    Attributes:
        app: ``module:name`` of the application.
        factory: The name is a function that makes it.
        app_dir: Folder to import from.
        log_level: One of `hubplane.cli.logs.LEVELS`.
        label: Which process of the fleet this is, for the log.
    """

    app: str
    factory: bool = False
    app_dir: str = "."
    log_level: str = "info"
    label: str = ""


def run_server(target: Target, listeners: Sequence[socket.socket], *, on_ready: Callable[[], None]) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status: 0, or 1 when the application did not start.

    Args:
        target: What to serve.
        listeners: Sockets that listen already.
        on_ready: Called once, when the application has started and connections are accepted.

    Raises:
        ConfigurationError: The application cannot be found, or the `server` extra is missing.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Serving needs {error.name}, which is not installed: pip install 'hubplane[server,fast,redis]'"
        ) from error
    signals = _Signals()
    with signals:
        app = load_app(target.app, factory=target.factory, app_dir=target.app_dir)
        stopping = Stopping()
        config = uvicorn.Config(
            announcing(app, stopping),
            ws=FAST_EDGE,
            log_config=log_config(target.log_level, target.label),
            # It would write connection tokens and access tokens, which are part of the addresses.
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        )
        signals.server = server = _make_server(config, stopping, on_ready)
        try:
            server.run(sockets=list(listeners))
        except SystemExit as stopped:
            # uvicorn's way to say that the application's start-up failed; the reason is in the log.
            if signals.stopped:
                return 0
            return 1 if stopped.code else 0
    return 0 if server.started or signals.stopped else 1


def _make_server(config: uvicorn.Config, stopping: Stopping, on_ready: Callable[[], None]) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if self.started:
                on_ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Before it waits for requests to end: event streams would not, and open polls only after a while.
            stopping.stop()
            await super().shutdown(sockets=sockets)

    return Server(config)


class _Signals:
    """SIGINT and SIGTERM end the process with status 0 at any time.

    uvicorn handles them while it runs and raises them once more when it has ended; this is who receives that.
    """

    def __init__(self) -> None:
        self.server: uvicorn.Server | None = None
        self.stopped = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        if self.server is None or not self.server.should_exit:
            raise SystemExit(0)
