"""The upgrade request, when nothing about it is unusual.

uvicorn's HTTP parser has already checked the head and hands it on normalised. Requests that are fine in the plainest
way are recognised here; anything else is left to the WebSocket library, which knows the right answer to each mistake.

Source: RFC 6455 section 4.2.
"""

from __future__ import annotations

import binascii
import hashlib
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["Upgrade", "accepted_head", "parse_upgrade", "rejected_head"]

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Scopes live as long as their connections: they share the names of the usual headers.
_NAMES = {
    name: name
    for name in (
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"authorization",
        b"cache-control",
        b"connection",
        b"cookie",
        b"host",
        b"origin",
        b"pragma",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
        b"upgrade",
        b"user-agent",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-real-ip",
        b"x-requested-with",
        b"x-signalr-user-agent",
    )
}
_ONLY_ONCE = (b"sec-websocket-key", b"sec-websocket-version", b"upgrade", b"connection")


class Upgrade(NamedTuple):
    """An upgrade request in good order.

    Attributes:
        path: Percent-decoded.
        raw_path: As it came.
        query_string: Behind the question mark.
        headers: In order, names in lower case.
        subprotocols: What the client offers.
        key: The Sec-WebSocket-Key.
    """

    path: str
    raw_path: bytes
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    subprotocols: list[str]
    key: bytes


def parse_upgrade(head: bytes) -> Upgrade | None:
    """Read the head of a request, which ends with an empty line; None when the library shall judge it."""
    lines = head.split(b"\r\n")
    method, _, rest = lines[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if method != b"GET" or version != b"HTTP/1.1" or not target.startswith(b"/") or not target.isascii():
        return None
    headers: list[tuple[bytes, bytes]] = []
    for line in lines[1:-2]:
        name, _, value = line.partition(b":")
        name = name.lower()
        headers.append((_NAMES.get(name, name), value.strip(b" \t")))
    fields = dict(headers)
    if len(fields) != len(headers):
        names = [name for name, _ in headers]
        if any(names.count(name) > 1 for name in _ONLY_ONCE):
            return None
    key = fields.get(b"sec-websocket-key", b"")
    if (
        fields.get(b"upgrade", b"").lower() != b"websocket"
        or fields.get(b"sec-websocket-version") != b"13"
        or not _has_upgrade(fields.get(b"connection", b"").lower())
        or not _is_key(key)
        or fields.get(b"content-length", b"0") != b"0"
        or b"transfer-encoding" in fields
    ):
        return None
    raw_path, _, query_string = target.partition(b"?")
    path = raw_path.decode("ascii")
    return Upgrade(
        unquote(path) if "%" in path else path,
        raw_path,
        query_string,
        headers,
        _subprotocols(headers) if b"sec-websocket-protocol" in fields else [],
        key,
    )


def _has_upgrade(connection: bytes) -> bool:
    return connection == b"upgrade" or b"upgrade" in [option.strip(b" \t") for option in connection.split(b",")]


def _is_key(key: bytes) -> bool:
    """Whether it is the base64 form of 16 bytes."""
    if len(key) != 24:
        return False
    try:
        return len(binascii.a2b_base64(key, strict_mode=True)) == 16
    except binascii.Error:
        return False


def _subprotocols(headers: list[tuple[bytes, bytes]]) -> list[str]:
    return [
        option.strip()
        for name, value in headers
        if name == b"sec-websocket-protocol"
        for option in value.decode("latin-1").split(",")
    ]


def accepted_head(key: bytes, fields: bytes, subprotocol: str | None) -> bytes:
    """The answer that opens the WebSocket.

    Args:
        key: The request's Sec-WebSocket-Key.
        fields: Further header lines, each with its line end.
        subprotocol: The chosen sub-protocol, if any.
    """
    accept = binascii.b2a_base64(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest(), newline=False)
    if subprotocol is not None:
        fields += b"sec-websocket-protocol: %b\r\n" % subprotocol.encode("latin-1")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"upgrade: websocket\r\n"
        b"connection: Upgrade\r\n"
        b"sec-websocket-accept: %b\r\n%b\r\n" % (accept, fields)
    )


def rejected_head(status: int, fields: bytes, content_type: str | None, length: int) -> bytes:
    """The head of any other answer; the connection ends with it.

    Args:
        status: The HTTP status.
        fields: Further header lines, each with its line end.
        content_type: The media type of the body, if any.
        length: Bytes in the body.
    """
    phrase = HTTPStatus(status).phrase.encode("ascii")
    if content_type is not None:
        fields += b"content-type: %b\r\n" % content_type.encode("latin-1")
    if status != HTTPStatus.NO_CONTENT:  # which has none (RFC 9110 section 8.6)
        fields += b"content-length: %d\r\n" % length
    return b"HTTP/1.1 %d %b\r\n%bconnection: close\r\n\r\n" % (status, phrase, fields)
