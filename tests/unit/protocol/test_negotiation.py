"""What negotiate asks and answers."""

from __future__ import annotations

import json

import pytest

from hubplane.errors import RemoteProtocolError
from hubplane.options import HttpTransportType
from hubplane.protocol.negotiation import (
    NegotiateRedirect,
    NegotiateRequest,
    encode_negotiate_error,
    encode_negotiate_redirect,
    encode_negotiate_response,
    parse_negotiate_query,
)

ALL = HttpTransportType.WEB_SOCKETS | HttpTransportType.SERVER_SENT_EVENTS | HttpTransportType.LONG_POLLING
NOT_AN_INTEGER = "The client requested a non-integer protocol version."


@pytest.mark.parametrize(
    ("query", "version", "stateful"),
    [
        ([], 0, False),
        ([("negotiateVersion", "0")], 0, False),
        ([("negotiateVersion", "1")], 1, False),
        ([("NEGOTIATEVERSION", " +1 ")], 1, False),
        ([("negotiateVersion", "7"), ("_", "1700000000000"), ("access_token", "x")], 1, False),
        ([("negotiateVersion", "1"), ("useStatefulReconnect", "true")], 1, True),
        ([("UseStatefulReconnect", " True ")], 0, True),
        ([("useStatefulReconnect", "1")], 0, False),
        ([("useStatefulReconnect", "true"), ("useStatefulReconnect", "true")], 0, False),
    ],
)
@pytest.mark.row("B3", "B9")
def test_queries_are_read(query: list[tuple[str, str]], version: int, stateful: bool) -> None:
    """Keys are compared without case, unknown ones ignored; the version is at most 1, and 0 when it is missing."""
    assert parse_negotiate_query(query) == NegotiateRequest(version, stateful)


@pytest.mark.parametrize("values", [["abc"], ["1.0"], [""], ["999999999999"], ["9" * 30], ["1", "0"], ["٣"], ["0x1"]])
@pytest.mark.row("B4")
def test_versions_that_are_no_integers(values: list[str]) -> None:
    """A version that is no 32-bit integer, or given twice, is refused with a text of its own."""
    with pytest.raises(RemoteProtocolError) as fault:
        parse_negotiate_query([("negotiateVersion", value) for value in values])
    assert fault.value.detail == NOT_AN_INTEGER


@pytest.mark.parametrize(
    ("query", "minimum", "version"),
    [([("negotiateVersion", "-1")], 0, -1), ([], 1, 0), ([("negotiateVersion", "0")], 1, 0)],
)
@pytest.mark.row("B5", "B6")
def test_versions_below_the_minimum(query: list[tuple[str, str]], minimum: int, version: int) -> None:
    """A version that is too low is named; a missing one counts as 0."""
    with pytest.raises(RemoteProtocolError) as fault:
        parse_negotiate_query(query, minimum_version=minimum)
    assert (
        fault.value.detail == f"The client requested version '{version}', but the server does not support this version."
    )


@pytest.mark.row("B1")
def test_the_answer_of_version_1() -> None:
    """Version 1 has a token beside the public id; transports stand in ASP.NET Core's order."""
    body = encode_negotiate_response(version=1, connection_id="ID", connection_token="T", transports=ALL)
    assert body == (
        b'{"negotiateVersion":1,"connectionId":"ID","connectionToken":"T","availableTransports":['
        b'{"transport":"WebSockets","transferFormats":["Text","Binary"]},'
        b'{"transport":"ServerSentEvents","transferFormats":["Text"]},'
        b'{"transport":"LongPolling","transferFormats":["Text","Binary"]}]}'
    )


@pytest.mark.row("B2", "B9")
def test_the_answer_of_version_0() -> None:
    """Version 0 has no token, and may have stateful reconnect all the same."""
    body = encode_negotiate_response(
        version=0,
        connection_id="ID",
        connection_token=None,
        transports=HttpTransportType.NONE,
        use_stateful_reconnect=True,
    )
    assert body == b'{"useStatefulReconnect":true,"negotiateVersion":0,"connectionId":"ID","availableTransports":[]}'


@pytest.mark.parametrize(
    ("transports", "names"),
    [
        (HttpTransportType.LONG_POLLING | HttpTransportType.WEB_SOCKETS, ["WebSockets", "LongPolling"]),
        (HttpTransportType.SERVER_SENT_EVENTS, ["ServerSentEvents"]),
    ],
)
@pytest.mark.row("B8")
def test_only_what_is_offered_is_named(transports: HttpTransportType, names: list[str]) -> None:
    """Transports that are not offered are left out, the others keep their order."""
    body = encode_negotiate_response(version=1, connection_id="a", connection_token="b", transports=transports)
    assert [entry["transport"] for entry in json.loads(body)["availableTransports"]] == names


def test_errors_are_written() -> None:
    """An error is an object with one member."""
    assert encode_negotiate_error("it's so") == b'{"error":"it\'s so"}'


def test_redirects_are_written() -> None:
    """A redirect has its address, and its token only where there is one: the Java client reads no null."""
    url = "https://other.example/chat?room=1"
    assert encode_negotiate_redirect(NegotiateRedirect(url=url)) == b'{"url":"https://other.example/chat?room=1"}'
    with_token = encode_negotiate_redirect(NegotiateRedirect(url=url, access_token="T"))
    assert json.loads(with_token) == {"url": url, "accessToken": "T"}


@pytest.mark.parametrize("url", ["", "/chat", "ws://other.example/chat", "other.example"])
def test_a_redirect_says_where_to(url: str) -> None:
    """Only an absolute HTTP address is understood by all clients."""
    with pytest.raises(ValueError, match="begins with https:// or http://"):
        NegotiateRedirect(url=url)
