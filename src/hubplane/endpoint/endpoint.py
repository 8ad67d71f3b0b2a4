"""One hub, wired: dispatcher, lifetime manager, router and the tasks they need.

Source: docs/architecture.md, "Who owns what".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from hubplane.auth.users import Authenticator, identifier, is_authenticated
from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest, HubConnectionContext
from hubplane.connection.stateful import StatefulConnection
from hubplane.connection.transport import TransportKind, Verdict
from hubplane.endpoint.gate import Gate
from hubplane.endpoint.refresh import AuthenticationRefresh, RefreshHook
from hubplane.endpoint.runner import ConnectionRunner
from hubplane.errors import ConfigurationError
from hubplane.hubs.context import HubContext
from hubplane.hubs.dispatcher import HubDispatcher
from hubplane.hubs.factories import HubFactory
from hubplane.hubs.filters import FilterFactory
from hubplane.hubs.hub import Hub
from hubplane.hubs.tracing import HubSpans
from hubplane.ids import IdSource
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.replay import StatefulSession
from hubplane.protocol.session import HubSession
from hubplane.supervisor import Supervisor
from hubplane.telemetry.base import DROPPED_CONNECTIONS, NO_TELEMETRY, Telemetry
from hubplane.transports.ownership import Ownership
from hubplane.transports.redirect import NegotiateHook
from hubplane.transports.registry import ConnectionRegistry
from hubplane.transports.router import TransportRouter
from hubplane.transports.websocket import SubProtocolSelector

__all__ = ["HubEndpoint", "HubRuntime", "HubSettings", "default_user_id", "select_protocols"]

logger = logging.getLogger(__name__)

_TEXT_ONLY = (TransferFormat.TEXT,)
_FORMATS = (TransferFormat.TEXT, TransferFormat.BINARY)


def select_protocols(protocols: Sequence[HubProtocol], options: HubOptions) -> dict[str, HubProtocol]:
    """The protocols a hub speaks, by name, in the order of registration.

    Raises:
        ConfigurationError: `supported_protocols` names one that is not registered.
    """
    registered = {protocol.name: protocol for protocol in protocols}
    if options.supported_protocols is None:
        return registered
    wanted = {name.lower() for name in options.supported_protocols}
    if unknown := wanted - registered.keys():
        raise ConfigurationError(
            f"HubOptions.supported_protocols names {', '.join(sorted(unknown))!s}, "
            f"but only {', '.join(registered)} are registered."
        )
    return {name: protocol for name, protocol in registered.items() if name in wanted}


def default_user_id(connection: HubConnectionContext) -> str | None:
    """The user's id from what an authenticator or authentication middleware put into ``scope["user"]``.

    A mapping of claims gives its ``sub``, or .NET's names for it; Starlette's and Django's user objects give
    `identity`, `username`, `display_name` or `get_username()`, in this order, when they are authenticated.

    Source: signalr-server section 5.10.
    """
    return identifier(connection.request.user)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRuntime:
    """What the hubs of a process share.

    Attributes:
        protocols: The registered hub protocols, in order.
        cork: Flushes the outbound buffers of all connections.
        clock: Where time comes from.
        ids: Where ids come from.
        telemetry: Told what happens.
    """

    protocols: tuple[HubProtocol, ...]
    cork: Cork
    clock: Clock
    ids: IdSource
    telemetry: Telemetry = NO_TELEMETRY


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSettings:
    """How one hub is served.

    Attributes:
        options: How the hub behaves.
        transport_options: How clients reach it.
        hub_factory: Makes a hub instance per call; None for the class itself.
        filters: Hub filters, outermost first.
        user_id: Computes a connection's user id, once, at the handshake.
        authenticators: Asked in order for the user of each request.
        negotiate: Asked before a negotiate request is answered.
        on_authentication_refresh: Asked before a connection gets a new login.
        sub_protocol_selector: Chooses a WebSocket sub-protocol; None chooses none.
    """

    options: HubOptions
    transport_options: TransportOptions
    hub_factory: HubFactory | None = None
    filters: tuple[FilterFactory, ...] = ()
    user_id: Callable[[HubConnectionContext], str | None] = default_user_id
    authenticators: tuple[Authenticator, ...] = ()
    negotiate: NegotiateHook | None = None
    on_authentication_refresh: RefreshHook | None = None
    sub_protocol_selector: SubProtocolSelector | None = None


class HubEndpoint:
    """Everything one mapped hub owns. `run` starts and ends it; the edges ask `gate`, then talk to `router`.

    Args:
        hub_type: The user's hub class.
        hub_name: Its name on the backplane.
        lifetime: Where its connections are known.
        settings: How it is served.
        runtime: What it shares with the other hubs of the process.
    """

    def __init__(
        self,
        hub_type: type[Hub],
        hub_name: str,
        *,
        lifetime: HubLifetimeManager,
        settings: HubSettings,
        runtime: HubRuntime,
    ) -> None:
        self.hub_type = hub_type
        self.hub_name = hub_name
        self.lifetime = lifetime
        self._options = settings.options
        self._transport_options = settings.transport_options
        self._protocols = select_protocols(runtime.protocols, settings.options)
        self._cork = runtime.cork
        self._clock = runtime.clock
        self._user_id = settings.user_id
        self._telemetry = runtime.telemetry
        self._supervisor = Supervisor(f"hub {hub_name}")
        self._connections: set[HubConnection] = set()
        self._idle: asyncio.Event | None = None
        self._stopping = False
        self.dispatcher = HubDispatcher(
            hub_type,
            options=settings.options,
            lifetime=lifetime,
            protocols=tuple(self._protocols.values()),
            filters=settings.filters,
            hub_factory=settings.hub_factory,
            supervisor=self._supervisor,
            spans=HubSpans(runtime.telemetry, hub_name) if runtime.telemetry.traces else None,
        )
        self.context = HubContext(lifetime)
        self.registry = ConnectionRegistry(runtime.clock, settings.transport_options, telemetry=runtime.telemetry)
        self.gate = Gate(
            hub_type,
            authenticators=settings.authenticators,
            options=settings.transport_options,
            clock=runtime.clock,
        )
        ownership = Ownership(self._user_of)
        self.refresh = AuthenticationRefresh(
            is_enabled=settings.transport_options.enable_authentication_refresh,
            registry=self.registry,
            ownership=ownership,
            clock=runtime.clock,
            expires_at=self.gate.expires_at,
            user_id=settings.user_id,
            hook=settings.on_authentication_refresh,
        )
        self.router = TransportRouter(
            self.registry,
            settings.transport_options,
            connect=self.connect,
            serve=self.serve,
            ids=runtime.ids,
            clock=runtime.clock,
            start_task=self._supervisor.start,
            ownership=ownership,
            renew=self.gate.renew,
            negotiate_hook=settings.negotiate,
            refresh=self.refresh,
            sub_protocol_selector=settings.sub_protocol_selector,
            stateful=self if settings.transport_options.allow_stateful_reconnects else None,
        )

    @asynccontextmanager
    async def run(self, *, grace: float) -> AsyncIterator[None]:
        """Serve while inside; leaving says goodbye to every client and awaits everything.

        Args:
            grace: Seconds that hub methods and disconnect callbacks have to finish; then they are cancelled.
        """
        self._stopping = False
        self._supervisor.open()
        self.context.open()
        async with self.lifetime.run():
            try:
                yield
            finally:
                await self._stop(grace)

    async def _stop(self, grace: float) -> None:
        self._stopping = True
        for connection in list(self._connections):
            connection.shutting_down()
        deadline = self._clock.monotonic() + grace
        if self._connections:
            self._idle = asyncio.Event()
            try:
                async with asyncio.timeout(grace):
                    await self._idle.wait()
            except TimeoutError:
                logger.warning(
                    "%d connections of hub %s did not end within %s s; they are cut.",
                    len(self._connections),
                    self.hub_name,
                    grace,
                )
                for connection in list(self._connections):
                    if connection.transport is not None:
                        connection.transport.abort()
        await self._supervisor.close(grace=max(0.0, deadline - self._clock.monotonic()))
        self.registry.close()

    def connect(
        self, request: ConnectionRequest, connection_id: str, kind: TransportKind = TransportKind.WEB_SOCKETS
    ) -> HubConnection:
        """Make the connection for a client that has reached us; its transport is attached later."""
        connection = HubConnection(
            connection_id,
            request=request,
            session=HubSession(
                self._protocols,
                self._options,
                now=self._clock.monotonic(),
                transfer_formats=_TEXT_ONLY if kind is TransportKind.SERVER_SENT_EVENTS else _FORMATS,
            ),
            cork=self._cork,
            options=self._transport_options,
        )
        connection.expires_at = self.gate.expires_at(request)
        return connection

    def connect_stateful(self, request: ConnectionRequest, connection_id: str) -> StatefulConnection:
        """Make the connection for a client that was promised stateful reconnect."""
        connection = StatefulConnection(
            connection_id,
            request=request,
            session=StatefulSession(
                self._protocols, self._options, now=self._clock.monotonic(), transfer_formats=_FORMATS
            ),
            cork=self._cork,
            options=self._transport_options,
            hub_options=self._options,
            clock=self._clock,
        )
        connection.expires_at = self.gate.expires_at(request)
        return connection

    async def may_resume(self, connection: StatefulConnection, request: ConnectionRequest) -> bool:
        """Whether `request` comes from the user that the connection belongs to, with a login that counts.

        Exceptions of the application's user id provider, and of its refresh hook, come out.
        """
        if self._user_id(self.connect(request, connection.connection_id)) != connection.user_identifier:
            return False
        return await self.refresh.reauthenticate(connection, request)

    def _user_of(self, request: ConnectionRequest, connection_id: str) -> str | None:
        if not is_authenticated(request.user):
            return None
        if self._user_id is default_user_id:
            return identifier(request.user)
        return self._user_id(self.connect(request, connection_id))

    def resumed(self, connection: StatefulConnection, request: ConnectionRequest) -> float | None:
        """`request` becomes the connection's: when its login ends that, in monotonic seconds; None for never."""
        if not self.refresh.is_enabled:
            return self.gate.expires_at(request)
        self.refresh.keep_login(connection, request)
        return connection.expires_at

    async def serve(self, connection: HubConnection) -> None:
        """Run a connection from its handshake until its transport is closing."""
        runner = ConnectionRunner(
            connection,
            dispatcher=self.dispatcher,
            lifetime=self.lifetime,
            supervisor=self._supervisor,
            detailed_errors=self._options.enable_detailed_errors,
            slots=self._options.maximum_parallel_invocations_per_client,
            user_id=self._user_id,
        )
        self._connections.add(connection)
        try:
            if self._stopping:
                connection.shutting_down()
            await runner.run()
        finally:
            self._connections.discard(connection)
            if self._idle is not None and not self._connections:
                self._idle.set()
            if connection.verdict not in {None, Verdict.SHUTDOWN}:
                self._telemetry.count(DROPPED_CONNECTIONS, {"hubplane.reason": connection.verdict.value})

    def connections(self) -> tuple[HubConnection, ...]:
        """A snapshot of the connections being served, handshakes included."""
        return tuple(self._connections)
