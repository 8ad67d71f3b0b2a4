"""Facts about whose pages may open WebSockets."""

from __future__ import annotations

import pytest

from hubplane.auth.origins import may_open
from hubplane.connection.request import ConnectionRequest

COOKIE = (b"cookie", b"session=1")
EVIL = (b"origin", b"https://evil.example")


def opens(*headers: tuple[bytes, bytes], allowed: tuple[str, ...] = (), **scope: object) -> bool:
    """Whether a WebSocket request to chat.example may be opened."""
    request = ConnectionRequest(
        {"type": "websocket", "headers": [(b"host", b"Chat.example"), *headers], "query_string": b"", **scope}
    )
    return may_open(request, allowed)


def test_a_foreign_page_cannot_use_the_browsers_login() -> None:
    """Cookies, logins of HTTP itself and client certificates count only for pages of the same host."""
    assert not opens(EVIL, COOKIE)
    assert not opens((b"origin", b"null"), COOKIE)
    assert not opens(EVIL, (b"authorization", b"Basic eDp5"))
    assert not opens(EVIL, extensions={"tls": {"client_cert_chain": ["PEM"]}})


def test_who_sends_nothing_unasked_may_come_from_anywhere() -> None:
    """A token that the page itself has to know proves enough."""
    assert opens(EVIL)
    assert opens(EVIL, (b"authorization", b"Bearer T"))
    assert opens(EVIL, extensions={"tls": {}})


def test_what_is_no_browser_has_no_origin() -> None:
    """Clients outside of browsers send no Origin; their cookies are their own."""
    assert opens(COOKIE)


@pytest.mark.parametrize(
    ("origin", "host", "is_same"),
    [
        (b"https://chat.example", b"chat.example", True),
        (b"http://CHAT.example", b"Chat.example:80", True),
        (b"https://chat.example", b"chat.example:443", True),
        (b"https://chat.example:8443", b"chat.example:8443", True),
        (b"http://chat.example:443", b"chat.example", False),
        (b"https://chat.example:8443", b"chat.example", False),
        (b"https://chat.example.evil.example", b"chat.example", False),
        (b"https://evil-chat.example", b"chat.example", False),
        (b"chat.example", b"chat.example", False),
        (b"", b"chat.example", False),
    ],
)
def test_the_same_origin_is_host_and_port(origin: bytes, host: bytes, is_same: bool) -> None:
    """The scheme's own port may be left out on both sides."""
    request = ConnectionRequest({"headers": [(b"host", host), (b"origin", origin), COOKIE], "query_string": b""})
    assert may_open(request, ()) is is_same


def test_allowed_origins() -> None:
    """Named origins may use the browser's login; once there are names, nobody else may open anything."""
    allowed = ("https://app.example",)
    assert opens((b"origin", b"https://App.example"), COOKIE, allowed=allowed)
    assert opens((b"origin", b"https://chat.example"), COOKIE, allowed=allowed)
    assert not opens(EVIL, COOKIE, allowed=allowed)
    assert not opens(EVIL, allowed=allowed)
    assert not opens((b"origin", b"http://app.example"), allowed=allowed)
    assert opens(EVIL, COOKIE, allowed=("*",))
