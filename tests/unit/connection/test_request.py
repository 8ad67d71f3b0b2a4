"""Facts about the request that opened a connection."""

from __future__ import annotations

import pytest

from hubplane.connection.request import ConnectionRequest


def make(**scope: object) -> ConnectionRequest:
    """A request with this scope."""
    return ConnectionRequest({"path": "/chat", "headers": [], **scope})


@pytest.mark.row("B11")
def test_query_keys_ignore_case() -> None:
    """Query names match in any case, values keep theirs; the first of several wins."""
    request = make(query_string=b"ID=AbC&id=other&x=%C3%A9&empty=")
    assert request.query_value("id") == "AbC"
    assert request.query_value("X") == "é"
    assert request.query_value("empty") == ""
    assert request.query_value("missing") is None
    assert request.query == [("ID", "AbC"), ("id", "other"), ("x", "é"), ("empty", "")]


def test_no_query() -> None:
    """Without a query string there are no parameters."""
    assert make().query == []
    assert make().query_value("id") is None


def test_headers() -> None:
    """Header names match in any case, the first of several wins."""
    request = make(headers=[(b"accept", b"a"), (b"accept", b"b")])
    assert request.header("Accept") == "a"
    assert request.header("origin") is None
    assert list(request.headers) == [("accept", "a"), ("accept", "b")]


def test_client_and_user() -> None:
    """Peer address and user come from the scope, None where the scope has none."""
    assert make().client is None
    assert make().user is None
    assert make(client=["10.0.0.1", 5]).client == ("10.0.0.1", 5)
    assert make(user="ann").user == "ann"
    assert make().path == "/chat"
