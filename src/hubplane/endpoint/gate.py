"""Who may send a request to one hub: asked for every HTTP request, before a transport's room sees it.

Source: signalr-server sections 1.7 and 5.10.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from hubplane.auth.origins import may_open
from hubplane.auth.users import Authenticator, authenticate, expiry, is_authenticated
from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.hubs.authorization import AuthorizationContext, is_allowed, policies_of
from hubplane.options import TransportOptions

__all__ = ["Gate"]

logger = logging.getLogger(__name__)


class Gate:
    """Authentication, authorization and origins of one hub.

    Args:
        hub_type: The hub class, with its policies.
        authenticators: Asked in order for the user of a request.
        options: Origins, and whether connections end with their logins.
        clock: Compares expiry times with now.
    """

    __slots__ = (
        "_allowed_origins",
        "_authenticators",
        "_clock",
        "_hub_type",
        "_policies",
        "_renews",
        "_watches_expiry",
    )

    def __init__(
        self,
        hub_type: type,
        *,
        authenticators: Sequence[Authenticator],
        options: TransportOptions,
        clock: Clock,
    ) -> None:
        self._hub_type = hub_type
        self._authenticators = tuple(authenticators)
        self._policies = policies_of(hub_type)
        self._allowed_origins = options.allowed_origins
        self._watches_expiry = options.close_on_authentication_expiration
        # Where logins are refreshed, that also decides which one counts.
        self._renews = self._watches_expiry and not options.enable_authentication_refresh
        self._clock = clock

    async def refusal(self, request: ConnectionRequest) -> int | None:
        """Set the request's user, and say with which status to turn the request away; None lets it in.

        Exceptions of authenticators and policies come out.
        """
        is_websocket = request.scope["type"] == "websocket"
        if is_websocket and not may_open(request, self._allowed_origins):
            logger.warning(
                "A WebSocket was refused: pages of %.100r may not open it (TransportOptions.allowed_origins).",
                request.header("origin"),
            )
            return 403
        if self._authenticators:
            await authenticate(request, self._authenticators)
        if self._policies:
            user = request.user
            if not is_authenticated(user):
                return 401
            asked = AuthorizationContext(user=user, request=request, hub_type=self._hub_type)
            if not await is_allowed(self._policies, asked):
                return 403
        return None

    def expires_at(self, request: ConnectionRequest) -> float | None:
        """When a connection ends because the login of `request` expires, in monotonic seconds; None for never."""
        if not self._watches_expiry:
            return None
        moment = expiry(request.user)
        return None if moment is None else self._clock.monotonic() + moment - self._clock.wall()

    def renew(self, connection: HubConnection, request: ConnectionRequest) -> None:
        """The login of the latest request counts: long polling brings a new one with each poll.

        A request without a login, as with one that has expired, leaves the present one as it is.
        """
        if self._renews and is_authenticated(request.user):
            connection.expires_at = self.expires_at(request)
