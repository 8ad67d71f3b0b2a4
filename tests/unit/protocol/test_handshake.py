"""The handshake's requests and answers."""

from __future__ import annotations

import pytest

from hubplane.errors import HandshakeError, RemoteProtocolError
from hubplane.protocol.handshake import (
    HANDSHAKE_SUCCESS,
    encode_handshake_error,
    encode_handshake_request,
    parse_handshake_request,
    parse_handshake_response,
    select_protocol,
)
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import HandshakeRequest
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol

PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
GENERIC = "An unexpected error occurred during connection handshake."
BOUNDS = "Either the JSON value is not in a supported format, or is out of bounds for an Int32."


def test_requests_and_answers_have_their_bytes() -> None:
    """Both messages are JSON and a separator, whatever the hub protocol is."""
    request = encode_handshake_request(HandshakeRequest("json", 1))
    assert request.hex() == "7b2270726f746f636f6c223a226a736f6e222c2276657273696f6e223a317d1e"
    assert HANDSHAKE_SUCCESS.hex() == "7b7d1e"
    assert encode_handshake_error("it's <no>\x1e") == b'{"error":"it\'s <no>\\u001E"}\x1e'


@pytest.mark.parametrize(
    ("body", "request_"),
    [
        (b'{"protocol":"json","version":1}', HandshakeRequest("json", 1)),
        (b' { "version" : -1 , "x":{"y":[1]}, "protocol" : "JSON" } x', HandshakeRequest("JSON", -1)),
        (b'{"protocol":"a","protocol":"b","version":2}', HandshakeRequest("b", 2)),
    ],
)
@pytest.mark.row("B68")
def test_requests_are_read(body: bytes, request_: HandshakeRequest) -> None:
    """Order, white space and unknown members do not matter; the last of two equal members counts."""
    assert parse_handshake_request(body) == request_


@pytest.mark.parametrize(
    ("body", "detail", "error_type"),
    [
        (b'{"version":1}', "Missing required property 'protocol'. Message content: {\"version\":1}", ""),
        (b'{"protocol":"j"}', 'Missing required property \'version\'. Message content: {"protocol":"j"}', ""),
        (b"{}", "Missing required property 'protocol'. Message content: {}", ""),
        (b'{"Protocol":"\xff"}', 'Missing required property \'protocol\'. Message content: {"Protocol":"\ufffd"}', ""),
        (b'{"protocol":1}', "Expected 'protocol' to be of type String.", ""),
        (b'{"protocol":null}', "Expected 'protocol' to be of type String.", ""),
        (b'{"version":"1"}', "Expected 'version' to be of type Number.", ""),
        (b'{"version":true}', "Expected 'version' to be of type Number.", ""),
        (
            b'{"protocol":"j","version":null}',
            'Missing required property \'version\'. Message content: {"protocol":"j","version":null}',
            "",
        ),
        (b'{"version":1.5}', BOUNDS, "FormatException"),
        (b'{"version":2147483648}', BOUNDS, "FormatException"),
        (b'["json",1]', "Unexpected JSON Token Type 'Array'. Expected a JSON Object.", ""),
        (
            b"hello",
            "'h' is an invalid start of a value. LineNumber: 0 | BytePositionInLine: 0.",
            "JsonReaderException",
        ),
        (b'{"x":' + b"[" * 100_000, "The JSON is nested too deeply.", ""),
    ],
)
@pytest.mark.row("B64")
def test_malformed_requests_are_refused(body: bytes, detail: str, error_type: str) -> None:
    """Every client gets the same text; what was wrong is kept for those with detailed errors."""
    with pytest.raises(HandshakeError) as fault:
        parse_handshake_request(body)
    assert fault.value.answer == GENERIC
    assert fault.value.detail == detail
    assert fault.value.error_type == (error_type or "InvalidDataException")


@pytest.mark.parametrize("name", ["json", "JSON", "MessagePack"])
@pytest.mark.parametrize("version", [-1, 0, 1, 2])
@pytest.mark.row("B63")
def test_a_protocol_is_found_by_name_and_version(name: str, version: int) -> None:
    """Case does not matter, and every version up to the protocol's own will do."""
    found = select_protocol(HandshakeRequest(name, version), PROTOCOLS, tuple(TransferFormat))
    assert found is PROTOCOLS[name.lower()]


@pytest.mark.parametrize(
    ("name", "version", "answer"),
    [
        ("Protobuf", 1, "The protocol 'Protobuf' is not supported."),
        ("", 1, "The protocol '' is not supported."),
        ("JSON", 3, "The server does not support version 3 of the 'JSON' protocol."),
        (
            "MessagePack",
            1,
            (
                "Cannot use the 'messagepack' protocol on the current transport. "
                "The transport does not support 'Binary' transfer format."
            ),
        ),
        ("messagepack", 3, "The server does not support version 3 of the 'messagepack' protocol."),
    ],
)
@pytest.mark.row("B62")
def test_protocols_that_cannot_be_had(name: str, version: int, answer: str) -> None:
    """The answer names the protocol as the client wrote it; name, version and format are judged in this order."""
    with pytest.raises(HandshakeError) as fault:
        select_protocol(HandshakeRequest(name, version), PROTOCOLS, {TransferFormat.TEXT})
    assert fault.value.answer == answer
    assert fault.value.detail == answer


def test_answers_are_read() -> None:
    """An answer is an error, or none; other members are ignored."""
    assert parse_handshake_response(b"{}") is None
    assert parse_handshake_response(b'{"minorVersion":0,"error":"no"}') == "no"


@pytest.mark.parametrize("body", [b'{"type":6}', b'{"error":1}', b"[]", b"x"])
def test_what_is_no_answer(body: bytes) -> None:
    """A hub message, or anything else, is no answer to a handshake."""
    with pytest.raises(RemoteProtocolError):
        parse_handshake_response(body)
