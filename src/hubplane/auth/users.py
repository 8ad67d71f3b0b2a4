"""Bearer tokens of requests, and what users of any kind say about themselves.

Source: signalr-server sections 1.7 and 5.10.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from inspect import isawaitable
from typing import TypeAlias

from hubplane.connection.request import ConnectionRequest

__all__ = [
    "Authenticator",
    "authenticate",
    "bearer_token",
    "expiry",
    "identifier",
    "is_authenticated",
    "is_same_login",
    "subject",
]

Authenticator: TypeAlias = Callable[[ConnectionRequest], Awaitable[object | None] | object | None]
"""Turns a request into a user, or None where it finds nobody. Plain functions run on the event loop: be quick."""

# .NET's long name of `sub`, which its own tokens may carry.
_NAME_IDENTIFIER = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"


def bearer_token(request: ConnectionRequest) -> str | None:
    """The token of the ``Authorization: Bearer`` header, else of the query's ``access_token``; None without one.

    Microsoft's clients send it in the query where browsers let them set no header.
    """
    header = request.header("authorization")
    if header is not None:
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    return request.query_value("access_token") or None


async def authenticate(request: ConnectionRequest, authenticators: Sequence[Authenticator]) -> None:
    """Set the request's user to the first one that an authenticator finds.

    When none finds anybody, the user that middleware has set stays.
    """
    for authenticator in authenticators:
        user = authenticator(request)
        if isawaitable(user):
            user = await user
        if user is not None:
            request.authenticated_as(user)
            return


def is_authenticated(user: object | None) -> bool:
    """Whether it is somebody: not None, no empty mapping of claims, and not `is_authenticated` = False."""
    if isinstance(user, Mapping):
        return bool(user)
    return user is not None and bool(getattr(user, "is_authenticated", True))


def is_same_login(one: object | None, other: object | None) -> bool:
    """Whether two requests came with one login: users that are equal, or made of equal attributes, and expire together.

    Users of frameworks seldom define equality, and are made anew for each request.
    """
    if one is other:
        return True
    if expiry(one) != expiry(other):
        return False
    if one == other:
        return True
    if one is None or type(one) is not type(other) or type(one).__eq__ is not object.__eq__:
        return False
    return bool(vars(one)) and vars(one) == vars(other) if hasattr(one, "__dict__") else False


def subject(claims: Mapping[str, object]) -> str | None:
    """Whom claims are about: ``sub``, or .NET's names for it; None for nobody."""
    for name in ("sub", "nameid", _NAME_IDENTIFIER):
        value = claims.get(name)
        if value:
            return str(value)
    return None


def identifier(user: object | None) -> str | None:
    """A user's id, as users of any kind tell it; None for nobody."""
    if user is None:
        return None
    if isinstance(user, Mapping):
        return subject(user)
    if not getattr(user, "is_authenticated", True):
        return None
    for name in ("identity", "username", "display_name"):
        try:
            value = getattr(user, name, None)
        except NotImplementedError:  # Starlette's BaseUser leaves `identity` to its subclasses
            continue
        if value:
            return str(value)
    # Django's own models of users may call it otherwise, such as `email`.
    get_username = getattr(user, "get_username", None)
    return (str(get_username()) or None) if callable(get_username) else None


def expiry(user: object | None) -> float | None:
    """When a login expires, in seconds since 1970: ``exp`` of claims, or a user's `expires_at`; None for never."""
    value = user.get("exp") if isinstance(user, Mapping) else getattr(user, "expires_at", None)
    return float(value) if isinstance(value, (int, float)) else None
