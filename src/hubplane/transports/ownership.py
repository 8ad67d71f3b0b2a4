"""Whose a connection token is: a login that came with it keeps other users' logins out.

Source: docs/how-to/users.md, "Whose a connection is".
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from hubplane.connection.request import ConnectionRequest
from hubplane.transports.registry import ConnectionEntry

__all__ = ["Ownership"]

logger = logging.getLogger(__name__)


class Ownership:
    """Binds tokens to users, and compares later requests with them. Requests without a login cost nothing.

    Args:
        user_of: The id of the user whose login a request carries, from the request and the connection's id; None for
            nobody. Its exceptions come out of every method here.
    """

    __slots__ = ("_user_of",)

    def __init__(self, user_of: Callable[[ConnectionRequest, str], str | None]) -> None:
        self._user_of = user_of

    def owner(self, request: ConnectionRequest, connection_id: str) -> str | None:
        """Whose the connection is that `request` negotiates; None for nobody's."""
        return None if request.user is None else self._user_of(request, connection_id)

    def admits(self, entry: ConnectionEntry, request: ConnectionRequest, *, claims: bool = False) -> bool:
        """Whether `request` may use the token of `entry`: not when both have a user, and another one.

        Args:
            entry: A token's connection.
            request: A later request that names the token.
            claims: Whether the request wants to be the connection's transport; then a token that is nobody's becomes
                its user's.
        """
        claims = claims and entry.connection is None
        if request.user is None or (entry.owner is None and not claims):
            return True
        user = self._user_of(request, entry.connection_id)
        if user is None:
            return True
        if entry.owner is None:
            entry.owner = user
        if entry.owner == user:
            return True
        logger.warning(
            "A request with the connection token of another user was refused.",
            extra={"connection_id": entry.connection_id},
        )
        return False
