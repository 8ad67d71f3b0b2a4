"""HubApp: hubs as an ASGI application, on their own or mounted in a framework."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast  # arguments by name are handed on

from hubplane.asgi.beside import AsgiApp, Beside
from hubplane.asgi.http import Receive, Scope, Send
from hubplane.asgi.serving import serve_lifespan, serve_scope
from hubplane.auth.users import Authenticator
from hubplane.backplane.base import Backplane
from hubplane.clock import Clock, SystemClock
from hubplane.configuration import Configuration, layered, load
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import HubConnectionContext
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings, default_user_id, select_protocols
from hubplane.endpoint.heartbeat import Heartbeat
from hubplane.endpoint.refresh import RefreshHook
from hubplane.errors import ConfigurationError
from hubplane.hubs.context import HubContext
from hubplane.hubs.factories import HubFactory
from hubplane.hubs.filters import FilterFactory
from hubplane.hubs.hub import Hub
from hubplane.ids import IdSource, SystemIds
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.supervisor import Supervisor
from hubplane.telemetry.base import (
    BACKPLANE_CONNECTED,
    BACKPLANE_PUBLISHED,
    BACKPLANE_RECEIVED,
    NO_TELEMETRY,
    Telemetry,
)
from hubplane.transports.redirect import NegotiateHook
from hubplane.transports.websocket import SubProtocolSelector

if TYPE_CHECKING:
    from hubplane.backplane.redis.client import ConnectionFactory, RedisClient
    from hubplane.backplane.redis.events import RedisConnectionFailed, RedisConnectionRestored, RedisGap
    from hubplane.backplane.redis.health import RedisHealth
    from hubplane.backplane.redis.options import RedisOptions

__all__ = ["HubApp"]

logger = logging.getLogger(__name__)


class HubApp:
    """Serves hubs over ASGI 3, under any server, alone or mounted.

    Args:
        redis: A StackExchange.Redis configuration string, a ``redis://`` URL, `RedisOptions`, a redis-py client, which
            stays the caller's, or any `Backplane`. None reads the environment variable ``HUBPLANE_REDIS``; without it
            the hubs form one node in memory. `add_redis` can do more.
        options: Options for all hubs; `add_hub` may override them.
        transport_options: How clients reach the hubs.
        protocols: The hub protocols, in order; JSON and MessagePack by default.
        filters: Hub filters around every hub, outermost first; those of a hub stand inside. A class, or a function that
            makes one, stands for a new filter for each call.
        authenticators: Asked in order who sends a request; the first user found becomes ``scope["user"]``. Where they
            find nobody, the user of the framework's own middleware stays.
        shutdown_timeout: Seconds that hub methods and disconnect callbacks have to finish at shutdown; 5 by default.
        config_file: A TOML file with options; None reads the environment variable ``HUBPLANE_CONFIG``. What the code
            names wins over the environment, which wins over the file.
        telemetry: Told what happens, such as `OpenTelemetry`; None for nobody.
        clock: Where time comes from.
        ids: Where ids come from.

    Raises:
        ConfigurationError: The Redis configuration is wrong, the extra ``hubplane[redis]`` is missing, the file or the
            environment has a mistake, or `telemetry` is no `Telemetry`.
    """

    def __init__(  # noqa: PLR0913 - settings, by name
        self,
        redis: str | RedisOptions | RedisClient | Backplane | None = None,
        *,
        options: HubOptions | None = None,
        transport_options: TransportOptions | None = None,
        protocols: Sequence[HubProtocol] | None = None,
        filters: Sequence[FilterFactory] = (),
        authenticators: Sequence[Authenticator] = (),
        shutdown_timeout: float | None = None,
        config_file: str | os.PathLike[str] | None = None,
        telemetry: Telemetry | None = None,
        clock: Clock | None = None,
        ids: IdSource | None = None,
    ) -> None:
        if telemetry is not None and not isinstance(telemetry, Telemetry):
            raise ConfigurationError(
                f"HubApp(telemetry=...) takes a Telemetry, such as OpenTelemetry(), not {telemetry!r}."
            )
        self._options = options
        self._transport_options = transport_options
        self._filters = tuple(filters)
        self._authenticators = tuple(authenticators)
        self._configuration = configuration = load(os.environ, config_file)
        if shutdown_timeout is None:
            shutdown_timeout = configuration.shutdown_timeout
        self._shutdown_timeout = 5.0 if shutdown_timeout is None else shutdown_timeout
        self._runtime = HubRuntime(
            protocols=tuple(protocols) if protocols is not None else (JsonHubProtocol(), MessagePackHubProtocol()),
            cork=Cork(),
            clock=clock or SystemClock(),
            ids=ids or SystemIds(),
            telemetry=telemetry or NO_TELEMETRY,
        )
        self._endpoints: dict[str, HubEndpoint] = {}
        self._makers: dict[str, Callable[[], HubEndpoint]] = {}
        self._handed_out = False
        self._redis_in_code = redis is not None
        self._backplane = _make_backplane(redis, configuration)
        self._routes = BackplaneRoutes()
        self._supervisor = Supervisor("hubplane")
        self._running = False
        self._stack: AsyncExitStack | None = None

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], /, **arguments: Any) -> HubApp:
        """An app with options from a TOML file: ``HubApp(config_file=path, ...)``.

        Args:
            path: The file.
            arguments: Of `HubApp`, which win over the file.

        Raises:
            ConfigurationError: As for `HubApp`.
        """
        return cls(config_file=path, **arguments)

    # -- set-up -------------------------------------------------------------------------------------------------

    def add_hub(  # noqa: PLR0913 - as above
        self,
        path: str,
        hub_type: type[Hub],
        *,
        hub_name: str | None = None,
        options: HubOptions | None = None,
        transport_options: TransportOptions | None = None,
        hub_factory: HubFactory | None = None,
        filters: Sequence[FilterFactory] = (),
        authenticators: Sequence[Authenticator] | None = None,
        user_id_provider: Callable[[HubConnectionContext], str | None] = default_user_id,
        negotiate: NegotiateHook | None = None,
        on_authentication_refresh: RefreshHook | None = None,
        sub_protocol_selector: SubProtocolSelector | None = None,
    ) -> None:
        """Serve `hub_type` at `path`.

        Args:
            path: Where clients connect, relative to where this app is mounted, such as ``/chat``.
            hub_type: The hub class.
            hub_name: The name on the backplane: the .NET full type name, such as ``MyApp.Hubs.ChatHub``, when .NET
                nodes share it; the Python module and class name by default.
            options: On top of the app's options: those named here win.
            transport_options: On top of the app's transport options, likewise.
            hub_factory: Makes a hub instance for each call: returns it, awaits it, or yields it, as a generator or
                context manager that is closed when the call has ended. It may take the caller's `HubCallerContext`.
                Without one, a constructor's parameters with FastAPI's `Depends` are made.
            filters: Hub filters, outermost first, inside those of the app.
            authenticators: Instead of the app's.
            negotiate: Asked with the `ConnectionRequest` of each negotiate request, and may be async. None goes on
                here, a `NegotiateRedirect` sends the client elsewhere, a `HubException` refuses it with that text.
            user_id_provider: Computes a connection's user id from the connection, once, and for each new login.
            on_authentication_refresh: Asked, async or not, whether a connection may have a new login; None says yes.
            sub_protocol_selector: Chooses among the WebSocket sub-protocols that a client offers, or answers None; by
                default none is chosen.

        Raises:
            ConfigurationError: The path or the hub is already taken, the hub class has a mistake, or the app runs.
        """
        if self._running:
            raise ConfigurationError("Hubs are added before the app starts.")
        if not path.startswith("/") or path.endswith("/"):
            raise ConfigurationError(f"A hub's path starts with '/' and does not end with it: {path!r}.")
        if path in self._endpoints:
            raise ConfigurationError(f"There is already a hub at {path!r}.")
        if any(endpoint.hub_type is hub_type for endpoint in self._endpoints.values()):
            raise ConfigurationError(f"{hub_type.__qualname__} is already served; a hub class has one path.")
        name = hub_name or f"{hub_type.__module__}.{hub_type.__qualname__}"
        layers = self._configuration.layers(path)
        options = layered(HubOptions, *layers, self._options, options)
        make = partial(
            HubEndpoint,
            hub_type,
            name,
            settings=HubSettings(
                options=options,
                transport_options=layered(TransportOptions, *layers, self._transport_options, transport_options),
                hub_factory=hub_factory,
                filters=(*self._filters, *filters),
                user_id=user_id_provider,
                authenticators=self._authenticators if authenticators is None else tuple(authenticators),
                negotiate=negotiate,
                on_authentication_refresh=on_authentication_refresh,
                sub_protocol_selector=sub_protocol_selector,
            ),
            runtime=self._runtime,
        )
        self._makers[path] = lambda: make(lifetime=self._make_lifetime(name, options))
        self._endpoints[path] = self._makers[path]()

    def add_redis(
        self,
        configuration: str | RedisOptions | RedisClient | None = None,
        *,
        configure: Callable[[RedisOptions], RedisOptions] | None = None,
        connection_factory: ConnectionFactory | None = None,
        on_connection_failed: Callable[[RedisConnectionFailed], Awaitable[None] | None] | None = None,
        on_connection_restored: Callable[[RedisConnectionRestored], Awaitable[None] | None] | None = None,
        on_gap: Callable[[RedisGap], Awaitable[None] | None] | None = None,
        **options: Any,
    ) -> None:
        """Use Redis as the backplane of all hubs, with what a string cannot say; before or after `add_hub`.

        Handlers are functions, plain or async; plain ones run on the event loop. They get events in order, one at a
        time, and one that fails is logged. Nothing waits for them.

        Args:
            configuration: A StackExchange.Redis configuration string, a URL, `RedisOptions`, or a redis-py client whose
                settings are used and which stays open. None takes what the environment or the file says, else Redis
                on this machine.
            configure: Gets the options as read so far and returns those to use: ``lambda options:
                dataclasses.replace(options, channel_prefix="MyApp")``.
            connection_factory: An async function that makes a redis-py client whose settings are used, and which is
                closed at the end. It gets a logger for .NET's event 100. Of `configuration` count then the options that
                are no business of a client's: prefix, timeouts, limits.
            on_connection_failed: Gets a `RedisConnectionFailed` when one of the two connections is lost.
            on_connection_restored: Gets a `RedisConnectionRestored` when it works again.
            on_gap: Gets a `RedisGap` when messages may have been missed.
            options: Options by name, such as ``channel_prefix="MyApp"``; they win over `configuration`, and `configure`
                wins over them.

        Raises:
            ConfigurationError: There is a Redis already, the app runs, a context was handed out, the configuration is
                wrong, or the extra ``hubplane[redis]`` is missing.
        """
        if self._redis_in_code:
            raise ConfigurationError("There is a Redis already: it is given once, to HubApp or to add_redis.")
        if self._running or self._handed_out:
            raise ConfigurationError("add_redis comes before the app starts and before `context` is called.")
        from hubplane.asgi.redis import make_redis_backplane  # noqa: PLC0415 - only with the extra `redis`
        from hubplane.backplane.redis.events import RedisHandlers  # noqa: PLC0415

        self._backplane = make_redis_backplane(
            configuration,
            around=self._configuration,
            configure=configure,
            connection_factory=connection_factory,
            handlers=RedisHandlers(
                on_connection_failed=on_connection_failed,
                on_connection_restored=on_connection_restored,
                on_gap=on_gap,
            ),
            hub_names=lambda: [endpoint.hub_name for endpoint in self._endpoints.values()],
            options=options,
        )
        self._redis_in_code = True
        for path, make in self._makers.items():
            self._endpoints[path] = make()

    def _make_lifetime(self, name: str, options: HubOptions) -> HubLifetimeManager:
        # The hub's own choice of protocols decides what is published (row R62).
        protocols = tuple(select_protocols(self._runtime.protocols, options).values())
        if self._backplane is None:
            return LocalHubLifetimeManager(protocols=protocols, ids=self._runtime.ids)
        return ScaleoutHubLifetimeManager(
            name,
            backplane=self._backplane,
            routes=self._routes,
            protocols=protocols,
            clock=self._runtime.clock,
            ids=self._runtime.ids,
        )

    def context(self, hub_type: type[Hub]) -> HubContext:
        """The door to a hub from outside its methods: send, and manage groups.

        Raises:
            ConfigurationError: The hub has not been added.
        """
        for endpoint in self._endpoints.values():
            if endpoint.hub_type is hub_type:
                self._handed_out = True
                return endpoint.context
        raise ConfigurationError(f"{hub_type.__qualname__} has not been added; call add_hub first.")

    @property
    def backplane(self) -> Backplane | None:
        """What connects the nodes; None where the hubs are one node in memory."""
        return self._backplane

    @property
    def hub_names(self) -> dict[str, str]:
        """The name of each hub on the backplane, by the hub's path."""
        return {path: endpoint.hub_name for path, endpoint in self._endpoints.items()}

    def beside(self, app: AsgiApp, *, at: str = "/hubs") -> AsgiApp:
        """An ASGI application of the hubs and `app`, which serves nothing but HTTP, such as Django's.

        Where a framework can mount an application, mount the hubs there instead.

        Args:
            app: Gets all HTTP requests that are not below `at`; no WebSockets, which are refused with 404, and no
                lifespan, which is that of the hubs.
            at: The path of the hubs; a hub added as ``/chat`` is then at ``/hubs/chat``.

        Raises:
            ConfigurationError: `at` does not begin with a slash, or ends with one.
        """
        return Beside(self, app, at)

    # -- life ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Run the app while inside: for ``FastAPI(lifespan=hubs.lifespan)``, or ``async with hubs.lifespan():``.

        Entering does not wait for Redis, unless `RedisOptions.abort_on_connect_fail` is set: clients are served, and
        what needs Redis works once it is there. Leaving tells clients to come back, and gives what they have under way
        `shutdown_timeout` seconds.

        Raises:
            ConfigurationError: The app is already running, or the file is about a hub or a Redis that there
                is not.
            BackplaneUnavailableError: Only with `RedisOptions.abort_on_connect_fail`: Redis was not there.
        """
        if self._running:
            raise ConfigurationError("This HubApp is already running: its lifespan has been entered twice.")
        self._configuration.check_hubs(self._endpoints)
        self._configuration.check_redis(used=self._backplane is not None)
        async with AsyncExitStack() as stack:
            self._supervisor.open()
            stack.push_async_callback(self._supervisor.close)
            if self._backplane is not None:
                await stack.enter_async_context(self._backplane.run(self._routes))
                self._observe_backplane(stack)
            for endpoint in self._endpoints.values():
                await stack.enter_async_context(endpoint.run(grace=self._shutdown_timeout))
            heartbeat = Heartbeat(self._runtime.clock, self._connections, self._ticks())
            self._supervisor.start(heartbeat.run(), "heartbeat", vital=True)
            self._running = True
            stack.callback(self._stopped)
            yield

    def _observe_backplane(self, stack: AsyncExitStack) -> None:
        routes = self._routes
        for name, read in (
            (BACKPLANE_CONNECTED, lambda: int(routes.is_connected)),
            (BACKPLANE_PUBLISHED, lambda: routes.published),
            (BACKPLANE_RECEIVED, lambda: routes.received),
        ):
            stack.callback(self._runtime.telemetry.observe(name, read))

    def _stopped(self) -> None:
        self._running = False

    @property
    def is_connected(self) -> bool:
        """The app runs and reaches all nodes: Redis confirmed everything wanted, or the hubs are one node in memory."""
        return self._running and (self._backplane is None or self._backplane.is_connected)

    def redis_health(self) -> RedisHealth | None:
        """How this node stands with Redis at this moment, for a health endpoint; None where Redis is not used."""
        health: Callable[[], RedisHealth] | None = getattr(self._backplane, "health", None)
        return None if health is None else health()

    def _connections(self) -> Iterator[HubConnection]:
        for endpoint in self._endpoints.values():
            yield from endpoint.connections()

    def _ticks(self) -> tuple[Callable[[float], object], ...]:
        ticks: list[Callable[[float], object]] = []
        for endpoint in self._endpoints.values():
            ticks.append(endpoint.registry.tick)
            ticks.append(endpoint.lifetime.tick)
        return tuple(ticks)

    # -- ASGI ---------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        kind = scope["type"]
        if kind == "lifespan":
            await serve_lifespan(self.lifespan, receive, send)
            return
        if not self._running:
            raise ConfigurationError(
                "This HubApp is not running. Mounted in a framework it needs the framework's lifespan: "
                "FastAPI(lifespan=hubs.lifespan), or enter `async with hubs.lifespan():` in your own."
            )
        await serve_scope(self._endpoints, scope, receive, send)


def _make_backplane(
    redis: str | RedisOptions | RedisClient | Backplane | None, around: Configuration
) -> Backplane | None:
    if redis is None and around.redis is None:
        return None
    # A client of redis-py can publish, too.
    if hasattr(redis, "count_subscribers"):
        return cast("Backplane", redis)
    from hubplane.asgi.redis import make_redis_backplane  # noqa: PLC0415 - only with the extra `redis`

    return make_redis_backplane(redis, around=around)
