"""A new login for a client that stays connected: ``POST {hub}/refresh``, and later requests of its connection.

Source: signalr-server appendix C.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import TypeAlias
from weakref import WeakKeyDictionary

from hubplane.auth.users import expiry, is_authenticated, is_same_login
from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.refreshed import announce
from hubplane.connection.request import ConnectionRequest
from hubplane.transports.exchange import HttpExchange
from hubplane.transports.ownership import Ownership
from hubplane.transports.registry import ConnectionEntry, ConnectionRegistry

__all__ = ["AuthenticationRefresh", "AuthenticationRefreshContext", "RefreshHook"]

logger = logging.getLogger(__name__)

_JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthenticationRefreshContext:
    """A new login that a client wants to go on with.

    Attributes:
        request: The HTTP request that brought it.
        connection_id: The connection's public id.
        previous_user: Whom the connection belongs to so far.
        new_user: Whom the new login names.
        expires_at: When the new login expires, in seconds since 1970; None for never.
    """

    request: ConnectionRequest
    connection_id: str
    previous_user: object | None
    new_user: object
    expires_at: float | None


RefreshHook: TypeAlias = Callable[[AuthenticationRefreshContext], bool | Awaitable[bool]]
"""True accepts the login. Plain functions run on the event loop: they must not wait."""


class AuthenticationRefresh:
    """Gives connections of one hub new logins.

    Args:
        is_enabled: `TransportOptions.enable_authentication_refresh`.
        registry: Where connections are found.
        ownership: Knows whose they are, before their handshake.
        clock: Tells how long a login lasts.
        expires_at: When a connection with the login of a request ends, in monotonic seconds; None for never.
        user_id: Computes the user's id of a connection.
        hook: Asked before a login is accepted; None accepts all.
    """

    __slots__ = ("_clock", "_expires_at", "_hook", "_latest", "_ownership", "_registry", "_user_id", "is_enabled")

    def __init__(
        self,
        *,
        is_enabled: bool,
        registry: ConnectionRegistry,
        ownership: Ownership,
        clock: Clock,
        expires_at: Callable[[ConnectionRequest], float | None],
        user_id: Callable[[HubConnection], str | None],
        hook: RefreshHook | None = None,
    ) -> None:
        self.is_enabled = is_enabled
        self._registry = registry
        self._ownership = ownership
        self._clock = clock
        self._expires_at = expires_at
        self._user_id = user_id
        self._hook = hook
        # The logins that were accepted last, while the hub may still see the one before.
        self._latest: WeakKeyDictionary[HubConnection, object] = WeakKeyDictionary()

    async def handle(self, exchange: HttpExchange) -> None:
        """Answer a request to ``refresh``. Exceptions of the hook come out."""
        request = exchange.request
        if request.scope["method"] != "POST":
            await exchange.respond(405)
            return
        if not self.is_enabled:
            await _refuse(exchange, 404, b"refresh_disabled")
            return
        token = request.query_value("id")
        if not token:
            await _refuse(exchange, 400, b"missing_connection_token")
            return
        entry = self._registry.get(token)
        if entry is None:
            await _refuse(exchange, 404, b"connection_not_found")
        elif entry.token == entry.connection_id:
            # The id is public, so anybody could refresh anybody.
            await _refuse(exchange, 400, b"unsupported_negotiate_version")
        elif not is_authenticated(request.user):
            await _refuse(exchange, 401, b"invalid_token")
        elif not (_has_user(entry) or self._ownership.admits(entry, request)) or (
            entry.connection is not None and not await self._is_accepted(entry.connection, request)
        ):
            await _refuse(exchange, 403, b"permission_change_rejected")
        else:
            if entry.connection is not None:
                self._take(entry.connection, request)
            lifetime = self.lifetime(request)
            body = b"{}" if lifetime is None else b'{"tokenLifetimeSeconds":%d}' % lifetime
            await exchange.respond(200, body, content_type=_JSON)

    async def reauthenticate(self, connection: HubConnection, request: ConnectionRequest) -> bool:
        """A later request takes a connection on, such as a poll: what its login changes.

        A login that is older, or the same, or nobody's, changes nothing.

        Args:
            connection: The client; its transport may be attached or not.
            request: The poll, or the socket that takes over.

        Returns:
            False when the application refuses the new login. The connection has been ended; answer `request` with 403.
        """
        user = request.user
        if (
            not self.is_enabled
            or not is_authenticated(user)
            or self._is_stale(connection, user)
            or is_same_login(self._user_of(connection), user)
        ):
            return True
        if await self._is_accepted(connection, request):
            self._take(connection, request)
            return True
        if self._is_stale(connection, user):  # a newer one has come while the application thought about this one
            return True
        connection.abort()
        if connection.transport is not None:
            connection.transport.abort()
        return False

    def keep_login(self, connection: HubConnection, request: ConnectionRequest) -> None:
        """Let `request`, which takes the connection on, go on with the login that the hub sees.

        Its own is older, or on its way to the hub.
        """
        if self.is_enabled and not is_same_login(connection.request.user, request.user):
            request.take_login(connection.request)

    def lifetime(self, request: ConnectionRequest) -> int | None:
        """For how many seconds the login of a request will last; None when it lasts for ever, or not any more."""
        moment = expiry(request.user)
        seconds = 0.0 if moment is None else moment - self._clock.wall()
        return int(seconds) if seconds > 0 else None

    async def _is_accepted(self, connection: HubConnection, request: ConnectionRequest) -> bool:
        if self._hook is None:
            return True
        answer = self._hook(
            AuthenticationRefreshContext(
                request=request,
                connection_id=connection.connection_id,
                previous_user=self._user_of(connection),
                new_user=request.user,
                expires_at=expiry(request.user),
            )
        )
        accepted = bool(await answer if isawaitable(answer) else answer)
        if not accepted:
            logger.info("A new login was refused.", extra={"connection_id": connection.connection_id})
        return accepted

    def _take(self, connection: HubConnection, request: ConnectionRequest) -> None:
        user = request.user
        if connection.ended or self._is_stale(connection, user):
            return
        if not connection.protocol_name:  # before the handshake nobody has seen the first login
            self._latest[connection] = user
            connection.request.take_login(request)
            connection.expires_at = self._expires_at(request)
        elif self._identifier(connection, request) != connection.user_identifier:
            logger.warning(
                "A new login is of another user. The connection is ended.",
                extra={"connection_id": connection.connection_id},
            )
            connection.abort()
        else:
            self._latest[connection] = user
            connection.expires_at = self._expires_at(request)
            # A copy: a socket's own request becomes the connection's before the hub sees the login.
            announce(connection, ConnectionRequest(dict(request.scope)))

    def _identifier(self, connection: HubConnection, request: ConnectionRequest) -> str | None:
        """The user's id as it would be; the hub sees nothing of it yet."""
        asked = copy.copy(connection)
        asked.request = ConnectionRequest(dict(connection.request.scope))
        asked.request.take_login(request)
        return self._user_id(asked)

    def _user_of(self, connection: HubConnection) -> object | None:
        return self._latest.get(connection, connection.request.user)

    def _is_stale(self, connection: HubConnection, user: object | None) -> bool:
        present, new = expiry(self._user_of(connection)), expiry(user)
        return present is not None and new is not None and new < present


def _has_user(entry: ConnectionEntry) -> bool:
    """Whether its connection knows its user; another one then ends it."""
    return entry.connection is not None and bool(entry.connection.protocol_name)


async def _refuse(exchange: HttpExchange, status: int, error: bytes) -> None:
    await exchange.respond(status, b'{"error":"%b"}' % error, content_type=_JSON)
