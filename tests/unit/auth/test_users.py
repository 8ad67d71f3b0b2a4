"""Facts about bearer tokens and users."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from starlette.authentication import SimpleUser, UnauthenticatedUser

from hubplane.auth.users import authenticate, bearer_token, expiry, is_authenticated, subject
from hubplane.connection.request import ConnectionRequest


def asked(*headers: tuple[str, str], query: str = "", **scope: object) -> ConnectionRequest:
    """A request with these headers and query."""
    return ConnectionRequest(
        {
            "type": "http",
            "path": "/hub",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "query_string": query.encode(),
            **scope,
        }
    )


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ([("authorization", "Bearer T")], "", "T"),
        ([("authorization", "bearer  T ")], "", "T"),
        ([], "access_token=Q%2B", "Q+"),
        ([("authorization", "Bearer T")], "access_token=Q", "T"),
        ([("authorization", "Basic eDp5")], "access_token=Q", "Q"),
        ([("authorization", "Bearer ")], "", None),
        ([], "access_token=", None),
        ([], "id=1", None),
    ],
)
def test_the_header_is_preferred_to_the_query(headers: list[tuple[str, str]], query: str, token: str | None) -> None:
    """A token comes from the Authorization header, else from access_token; other schemes are no tokens."""
    assert bearer_token(asked(*headers, query=query)) == token


async def test_the_first_user_found_counts() -> None:
    """Authenticators are asked in order, async or not, until one finds somebody."""

    async def later(request: ConnectionRequest) -> object:
        return "later"

    request = asked()
    await authenticate(request, [lambda _: None, later, lambda _: "never asked"])
    assert request.user == request.scope["user"] == "later"


async def test_the_frameworks_user_stays_when_nobody_is_found() -> None:
    """An authenticator that finds nobody takes nothing from the middleware's user."""
    request = asked(user="of the framework")
    await authenticate(request, [lambda _: None])
    assert request.user == "of the framework"


@pytest.mark.parametrize(
    ("user", "is_somebody"),
    [
        (None, False),
        (UnauthenticatedUser(), False),
        ({}, False),
        (SimpleUser("ann"), True),
        ({"sub": "ann"}, True),
        (object(), True),
    ],
)
def test_who_is_somebody(user: object, is_somebody: bool) -> None:
    """Frameworks say it with `is_authenticated`; claims, by being there."""
    assert is_authenticated(user) is is_somebody


def test_dotnets_names_of_the_subject_count() -> None:
    """Tokens made by .NET name their subject in other ways."""
    long_name = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/nameidentifier"
    assert subject({"sub": 7}) == "7"
    assert subject({"nameid": "ann"}) == subject({long_name: "ann"}) == "ann"
    assert subject({"name": "ann"}) is None


def test_where_an_expiry_is_found() -> None:
    """Claims have `exp`, user objects `expires_at`; what has neither never expires."""
    assert expiry({"exp": 12}) == expiry(SimpleNamespace(expires_at=12.0)) == 12.0
    assert expiry({}) is expiry(None) is expiry(SimpleUser("ann")) is None
