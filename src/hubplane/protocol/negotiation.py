"""What negotiate asks and answers, without the HTTP around it.

Source: signalr-server sections 1.2 and 1.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from hubplane.errors import RemoteProtocolError
from hubplane.options import HttpTransportType
from hubplane.protocol.json_values import write_json

__all__ = [
    "NegotiateRedirect",
    "NegotiateRequest",
    "encode_negotiate_error",
    "encode_negotiate_redirect",
    "encode_negotiate_response",
    "parse_negotiate_query",
]

LATEST_VERSION: Final = 1

_INTEGER = re.compile(r"[ \t-\r]*([+-]?[0-9]+)[ \t-\r]*\0*")
_TRANSPORTS = (
    (HttpTransportType.WEB_SOCKETS, b'{"transport":"WebSockets","transferFormats":["Text","Binary"]}'),
    (HttpTransportType.SERVER_SENT_EVENTS, b'{"transport":"ServerSentEvents","transferFormats":["Text"]}'),
    (HttpTransportType.LONG_POLLING, b'{"transport":"LongPolling","transferFormats":["Text","Binary"]}'),
)


class NegotiateRequest(msgspec.Struct, frozen=True):
    """What a client asks of negotiate.

    Attributes:
        version: The version that both sides speak, 0 or 1; with 0 the connection id is its own token.
        use_stateful_reconnect: Whether the client asked for stateful reconnect.
    """

    version: int
    use_stateful_reconnect: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NegotiateRedirect:
    """Where a client is to go instead; it negotiates there, and follows at most 100 of these.

    Attributes:
        url: Another hub's address, such as ``https://other.example/chat?room=1``; clients keep its query.
        access_token: The token for that server, sent instead of the application's own; None to go on with that.

    Raises:
        ValueError: The address is not absolute: only a browser could tell what is meant.
    """

    url: str
    access_token: str | None = None

    def __post_init__(self) -> None:
        if not self.url.lower().startswith(("https://", "http://")):
            raise ValueError(f"NegotiateRedirect.url begins with https:// or http://, not as {self.url!r} does.")


def parse_negotiate_query(query: Sequence[tuple[str, str]], *, minimum_version: int = 0) -> NegotiateRequest:
    """Read the query of a negotiate request; keys without regard to case, unknown ones are ignored.

    Args:
        query: The decoded pairs of the query string, in order.
        minimum_version: The lowest version that this server accepts.

    Raises:
        RemoteProtocolError: The version cannot be read or is not supported; `detail` is the text for
            `encode_negotiate_error`.
    """
    version = 0
    asked = [value for key, value in query if key.lower() == "negotiateversion"]
    if asked:
        # .NET joins repeated values with commas, which makes them no integer.
        match = _INTEGER.fullmatch(",".join(asked))
        version = int(match[1]) if match and len(match[1]) < 20 else 2**31
        if not -(2**31) <= version < 2**31:
            raise RemoteProtocolError("The client requested a non-integer protocol version.")
    if version < minimum_version:
        raise RemoteProtocolError(
            f"The client requested version '{version}', but the server does not support this version."
        )
    stateful = ",".join(value for key, value in query if key.lower() == "usestatefulreconnect")
    return NegotiateRequest(min(version, LATEST_VERSION), stateful.strip(" \t\n\v\f\r\0").lower() == "true")


def encode_negotiate_response(
    *,
    version: int,
    connection_id: str,
    connection_token: str | None,
    transports: HttpTransportType,
    use_stateful_reconnect: bool = False,
    token_lifetime: int | None = None,
) -> bytes:
    """Write the answer to a negotiate request, members in ASP.NET Core's order.

    Args:
        version: The version of the request.
        connection_id: The public id; in version 0 also the key of later requests.
        connection_token: The secret key of later requests; not written in version 0.
        transports: The transports offered; leave WebSockets out where the host cannot upgrade.
        use_stateful_reconnect: Whether the client asked for it and gets it.
        token_lifetime: Seconds that the login of the request lasts, for clients that refresh it; not in version 0.
    """
    parts = [b"{"]
    if use_stateful_reconnect:
        parts.append(b'"useStatefulReconnect":true,')
    parts.append(b'"negotiateVersion":%d,"connectionId":%b' % (version, write_json(connection_id)))
    if version > 0:
        parts.append(b',"connectionToken":' + write_json(connection_token))
    offered = b",".join(text for transport, text in _TRANSPORTS if transport in transports)
    parts.append(b',"availableTransports":[' + offered + b"]")
    if token_lifetime is not None and version > 0:
        parts.append(b',"tokenLifetimeSeconds":%d' % token_lifetime)
    parts.append(b"}")
    return b"".join(parts)


def encode_negotiate_error(text: str) -> bytes:
    """Write the answer to a negotiate request that is refused; it goes out with status 200."""
    return b'{"error":%b}' % write_json(text)


def encode_negotiate_redirect(redirect: NegotiateRedirect) -> bytes:
    """Write the answer that sends a client elsewhere; without a token it has no such member, as Java reads no null."""
    token = b"" if redirect.access_token is None else b',"accessToken":' + write_json(redirect.access_token)
    return b'{"url":%b%b}' % (write_json(redirect.url), token)
