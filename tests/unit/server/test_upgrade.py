"""The upgrade request: what is recognised, what is left to the library, and the answers."""

from __future__ import annotations

import pytest

from hubplane.server.upgrade import accepted_head, parse_upgrade, rejected_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    b"Host": b"example.com",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def head(first: bytes = b"GET /hub?id=x HTTP/1.1", *more: tuple[bytes, bytes], **changed: bytes | None) -> bytes:
    """A request; keyword arguments change a header (`None` removes it), further pairs are added."""
    fields = dict(FIELDS)
    for name, value in changed.items():
        key = next(key for key in FIELDS if key.lower().replace(b"-", b"_") == name.encode())
        if value is None:
            del fields[key]
        else:
            fields[key] = value
    lines = [first, *(b"%b: %b" % pair for pair in [*fields.items(), *more])]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def test_plain_request_is_recognised() -> None:
    """Path, query, headers in lower case and key are read."""
    upgrade = parse_upgrade(head(b"GET /a%20b/hub?id=%41&x HTTP/1.1"))
    assert upgrade is not None
    assert upgrade.path == "/a b/hub"
    assert upgrade.raw_path == b"/a%20b/hub"
    assert upgrade.query_string == b"id=%41&x"
    assert upgrade.headers[0] == (b"host", b"example.com")
    assert upgrade.key == KEY
    assert upgrade.subprotocols == []


def test_repeated_and_unusual_headers_are_kept_in_order() -> None:
    """Headers that may come more than once come through, and sub-protocols are gathered from all of theirs."""
    more = [
        (b"Cookie", b"a=1"),
        (b"X-Own", b" spaced\t"),
        (b"Cookie", b"b=2"),
        (b"Sec-WebSocket-Protocol", b"one, two"),
        (b"Sec-WebSocket-Protocol", b"three"),
    ]
    upgrade = parse_upgrade(head(b"GET / HTTP/1.1", *more))
    assert upgrade is not None
    assert upgrade.headers[5:8] == [(b"cookie", b"a=1"), (b"x-own", b"spaced"), (b"cookie", b"b=2")]
    assert upgrade.subprotocols == ["one", "two", "three"]


@pytest.mark.parametrize("connection", [b"upgrade", b"Upgrade", b"keep-alive, Upgrade", b"Upgrade,close"])
@pytest.mark.parametrize("upgrade", [b"websocket", b"WebSocket"])
def test_spellings_of_the_upgrade(connection: bytes, upgrade: bytes) -> None:
    """Tokens are compared without regard to case, among others."""
    assert parse_upgrade(head(connection=connection, upgrade=upgrade)) is not None


@pytest.mark.parametrize(
    "request_head",
    [
        head(b"POST / HTTP/1.1"),
        head(b"GET / HTTP/1.0"),
        head(b"GET http://example.com/ HTTP/1.1"),
        head(b"GET /caf\xc3\xa9 HTTP/1.1"),
        head(b"GET"),
        head(upgrade=b"h2c"),
        head(upgrade=None),
        head(connection=b"keep-alive"),
        head(connection=None),
        head(sec_websocket_version=b"8"),
        head(sec_websocket_version=None),
        head(sec_websocket_key=None),
        head(sec_websocket_key=b"short"),
        head(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZSE="),
        head(sec_websocket_key=b"dGhlIHNhbXBsZSBub25jZ!=="),
        head(b"GET / HTTP/1.1", (b"Sec-WebSocket-Key", KEY)),
        head(b"GET / HTTP/1.1", (b"Upgrade", b"h2c")),
        head(b"GET / HTTP/1.1", (b"Content-Length", b"5")),
        head(b"GET / HTTP/1.1", (b"Transfer-Encoding", b"chunked")),
    ],
)
def test_anything_unusual_is_left_to_the_library(request_head: bytes) -> None:
    """A request that is not fine in the plainest way is not judged here."""
    assert parse_upgrade(request_head) is None


@pytest.mark.row("B33")
def test_accepting_head() -> None:
    """The answer proves the key (the example of RFC 6455, 1.3) and names no sub-protocol and no extension."""
    assert accepted_head(KEY, b"server: x\r\n", None) == (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nserver: x\r\n\r\n"
    )
    assert accepted_head(KEY, b"", "v1").endswith(b"\r\nsec-websocket-protocol: v1\r\n\r\n")


def test_rejecting_head() -> None:
    """Any other answer has its length, unless it cannot have one, and ends the connection."""
    assert rejected_head(404, b"date: now\r\n", None, 26) == (
        b"HTTP/1.1 404 Not Found\r\ndate: now\r\ncontent-length: 26\r\nconnection: close\r\n\r\n"
    )
    assert b"\r\ncontent-type: text/plain\r\n" in rejected_head(409, b"", "text/plain", 0)
    assert b"content-length" not in rejected_head(204, b"", "text/plain", 0)
