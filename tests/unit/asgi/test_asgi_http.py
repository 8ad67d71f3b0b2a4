"""HTTP exchanges over ASGI: bodies, whole answers, answers in parts, and what ends them from outside."""

from __future__ import annotations

from typing import Any  # ASGI messages

import pytest

from hubplane.asgi.http import AsgiHttpExchange
from hubplane.asgi.stopping import STOPPING_EXTENSION, Stopping, announcing
from hubplane.errors import ConnectionClosedError

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


def exchange_of(
    incoming: list[dict[str, Any]], *, fails: bool = False, extensions: dict[str, Any] | None = None
) -> tuple[AsgiHttpExchange, list[Any]]:
    """An exchange whose server has these messages for it, and what is sent to that."""
    sent: list[Any] = []

    async def receive() -> Any:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        if fails:
            raise OSError("gone")
        sent.append(message)

    return AsgiHttpExchange({**SCOPE, "extensions": extensions}, receive, send), sent


async def test_body_is_read_in_the_servers_pieces() -> None:
    """Pieces come one by one, empty ones are passed over, and behind the last there is nothing."""
    exchange, _ = exchange_of(
        [
            {"type": "http.request", "body": b"one", "more_body": True},
            {"type": "http.request", "more_body": True},
            {"type": "http.request", "body": b"two"},
        ]
    )
    assert [await exchange.read() for _ in range(4)] == [b"one", b"two", b"", b""]


async def test_client_that_leaves_within_its_body() -> None:
    """A body that breaks off is no body."""
    exchange, _ = exchange_of(
        [{"type": "http.request", "body": b"one", "more_body": True}, {"type": "http.disconnect"}]
    )
    assert await exchange.read() == b"one"
    with pytest.raises(ConnectionClosedError):
        await exchange.read()


async def test_answer_in_parts() -> None:
    """An answer of unknown length has no Content-Length, and ends with an empty part."""
    exchange, sent = exchange_of([])
    await exchange.start(200, content_type="text/event-stream", headers=[("pragma", "no-cache")])
    await exchange.write(b"data")
    await exchange.finish()
    assert sent == [
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream"), (b"pragma", b"no-cache")],
        },
        {"type": "http.response.body", "body": b"data", "more_body": True},
        {"type": "http.response.body", "body": b""},
    ]


async def test_answer_to_a_client_that_has_gone() -> None:
    """A server that raises for a client that has gone ends an answer in parts; a whole answer is just lost."""
    exchange, _ = exchange_of([], fails=True)
    await exchange.respond(200)
    for part in (exchange.start(200, content_type="text/plain"), exchange.write(b""), exchange.finish()):
        with pytest.raises(ConnectionClosedError):
            await part


async def test_waiting_for_a_client_to_leave() -> None:
    """The body of a request is passed over until the client leaves."""
    exchange, _ = exchange_of([{"type": "http.request"}, {"type": "http.request"}, {"type": "http.disconnect"}])
    await exchange.wait_gone()


async def test_stopping_server_is_announced() -> None:
    """Requests learn that the server stops, if it can tell; at once when it does already; not after forgetting."""
    stopping = Stopping()
    told: list[str] = []
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    async def nothing(*_: object) -> Any:
        raise AssertionError("nobody asks for anything")

    for kind in ("http", "websocket"):
        await announcing(app, stopping)({"type": kind, "extensions": {"other": {}}}, nothing, nothing)
    assert scopes == [
        {"type": "http", "extensions": {"other": {}, STOPPING_EXTENSION: stopping}},
        {"type": "websocket", "extensions": {"other": {}}},
    ]
    deaf, _ = exchange_of([])
    exchange, _ = exchange_of([], extensions=scopes[0]["extensions"])

    def first() -> None:
        told.append("first")

    def second() -> None:
        told.append("second")

    for each in (deaf, exchange):
        each.on_stop(first)
        each.on_stop(second)
        each.forget_stop(second)
        each.forget_stop(second)
    stopping.stop()
    stopping.stop()
    assert told == ["first"]
    exchange.on_stop(second)
    assert told == ["first", "second"]
