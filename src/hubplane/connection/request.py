"""The HTTP request that opened a connection, as hub code and authentication see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Protocol, cast  # ASGI scopes hold what servers and middleware put there
from urllib.parse import parse_qsl

__all__ = ["ConnectionRequest", "HubConnectionContext"]


class ConnectionRequest:
    """A view of an ASGI scope: path, query, headers, user.

    The scope is kept for the life of the connection, and nothing is parsed before it is asked for.

    Attributes:
        scope: The ASGI connection scope, including what middleware added (``scope["user"]``, ``scope["state"]``).
    """

    __slots__ = ("scope",)

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.scope = scope

    @property
    def path(self) -> str:
        """The path, percent-decoded."""
        return str(self.scope["path"])

    @property
    def query(self) -> list[tuple[str, str]]:
        """All query parameters in order, percent-decoded, empty values kept."""
        raw: bytes = self.scope.get("query_string", b"")
        return parse_qsl(raw.decode("latin-1"), keep_blank_values=True) if raw else []

    def query_value(self, name: str) -> str | None:
        """The first value of a query parameter; its name is matched case-insensitively (row B11)."""
        raw: bytes = self.scope.get("query_string", b"")
        if not raw:
            return None
        wanted = name.lower()
        return next((value for key, value in self.query if key.lower() == wanted), None)

    @property
    def headers(self) -> Iterator[tuple[str, str]]:
        """All request headers in order, names in lower case."""
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"])

    def header(self, name: str) -> str | None:
        """The first value of a header; `name` in any case."""
        wanted = name.lower().encode("latin-1")
        for key, value in self.scope["headers"]:
            if key == wanted:
                found: bytes = value
                return found.decode("latin-1")
        return None

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the peer, as the server reports them."""
        client = self.scope.get("client")
        return (client[0], client[1]) if client else None

    @property
    def user(self) -> object | None:
        """What an authenticator or authentication middleware put into ``scope["user"]``, or None."""
        return self.scope.get("user")

    def take_login(self, other: ConnectionRequest) -> None:
        """Set the user, and what else middleware knows about the login, to those of a later request."""
        scope = cast("MutableMapping[str, Any]", self.scope)
        for key in ("user", "auth"):
            if key in other.scope:
                scope[key] = other.scope[key]

    def authenticated_as(self, user: object) -> None:
        """Set the user, as authentication middleware would: in ``scope["user"]``."""
        cast("MutableMapping[str, Any]", self.scope)["user"] = user


class HubConnectionContext(Protocol):
    """A connection as a `user_id_provider` sees it, before there is a user: what it is to be computed from."""

    @property
    def connection_id(self) -> str:
        """The public id; also that of the connection that a later request is for."""
        ...

    @property
    def request(self) -> ConnectionRequest:
        """The HTTP request that opens the connection, or that comes for it later with a login of its own."""
        ...
