"""Whether the page that opens a WebSocket may: the guard against cross-site WebSocket hijacking.

CORS does not hold for WebSockets. Browsers open them from any page to any server and send along what they keep for that
server, such as cookies; only the ``Origin`` header tells whose page it was. The original allows all origins by default.

Source: signalr-server section 1.7; RFC 6455 section 10.2.
"""

from __future__ import annotations

from collections.abc import Sequence

from hubplane.connection.request import ConnectionRequest

__all__ = ["may_open"]

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def may_open(request: ConnectionRequest, allowed: Sequence[str]) -> bool:
    """Whether a WebSocket request may come from the page it comes from.

    Requests without ``Origin`` are not of a browser. The same origin is told by host and port alone, because behind a
    proxy that ends TLS the server does not know the scheme.

    Args:
        request: The upgrade request.
        allowed: Further origins, in lower case; ``*`` for all. When there are none, a request without what browsers
            send by themselves may come from anywhere.
    """
    origin = request.header("origin")
    if origin is None or "*" in allowed:
        return True
    origin = origin.lower()
    if origin in allowed or _is_same(origin, request.header("host")):
        return True
    return not allowed and not _is_credentialed(request)


def _is_same(origin: str, host: str | None) -> bool:
    scheme, separator, place = origin.partition("://")
    if not separator or not host:
        return False
    default = _DEFAULT_PORTS.get(scheme, "")
    return place.removesuffix(default) == host.lower().removesuffix(default)


def _is_credentialed(request: ConnectionRequest) -> bool:
    """Whether it carries what a browser sends unasked: cookies, a login of HTTP itself, a client certificate."""
    if request.header("cookie") is not None:
        return True
    authorization = request.header("authorization")
    if authorization is not None and not authorization.lower().startswith("bearer "):
        return True
    tls = (request.scope.get("extensions") or {}).get("tls") or {}
    return bool(tls.get("client_cert_chain"))
