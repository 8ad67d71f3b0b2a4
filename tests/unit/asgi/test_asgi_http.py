"""HTTP exchanges over ASGI: whole answers."""

from __future__ import annotations

from typing import Any  # ASGI messages

import pytest

from hubplane.asgi.http import AsgiHttpExchange

SCOPE = {"type": "http", "method": "POST", "path": "/hub", "query_string": b"", "headers": []}


async def answer(status: int, body: bytes, **more: Any) -> list[Any]:
    """The messages of one answer."""
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body means nothing")

    async def send(message: Any) -> None:
        sent.append(message)

    exchange = AsgiHttpExchange(SCOPE, receive, send)
    assert exchange.request.path == "/hub"
    await exchange.respond(status, body, **more)
    return sent


async def test_answer_has_type_and_length() -> None:
    """An answer is sent whole, with its media type and length."""
    assert await answer(200, b"{}", content_type="application/json") == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
        },
        {"type": "http.response.body", "body": b"{}"},
    ]


@pytest.mark.parametrize(
    ("status", "more", "headers"),
    [
        (405, {}, [(b"content-type", b"text/plain"), (b"content-length", b"0")]),
        (404, {"content_type": None}, [(b"content-length", b"0")]),
        (204, {}, [(b"content-type", b"text/plain")]),
        (
            400,
            {"headers": [("pragma", "no-cache")]},
            [(b"content-type", b"text/plain"), (b"content-length", b"0"), (b"pragma", b"no-cache")],
        ),
    ],
)
async def test_headers(status: int, more: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> None:
    """The media type may be left out, further headers follow, and 204 has no length."""
    assert (await answer(status, b"", **more))[0]["headers"] == headers
