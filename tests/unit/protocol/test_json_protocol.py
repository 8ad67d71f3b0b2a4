"""The JSON hub protocol."""

from __future__ import annotations

from typing import Any  # a message that is none

import pytest

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    Raw,
    Sequence_,
    StreamInvocation,
    StreamItem,
)

PROTOCOL: HubProtocol = JsonHubProtocol()


def test_it_introduces_itself() -> None:
    """Its name, version and format are those of the handshake."""
    assert (PROTOCOL.name, PROTOCOL.version, PROTOCOL.transfer_format) == ("json", 2, TransferFormat.TEXT)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Invocation("Send", []), '{"type":1,"target":"Send","arguments":[]}'),
        (Invocation("Send", ("é", 1.0)), '{"type":1,"target":"Send","arguments":["é",1]}'),
        (
            Invocation("a\x1eb", [None], "s1", ["1"], {"x": "y"}),
            '{"type":1,"headers":{"x":"y"},"invocationId":"s1","target":"a\\u001Eb","arguments":[null],"streamIds":["1"]}',
        ),
        (Invocation("Send", Raw(b"[1]"), ""), '{"type":1,"target":"Send","arguments":[1]}'),
        (StreamItem("7", 42), '{"type":2,"invocationId":"7","item":42}'),
        (StreamItem("7", None, {"x": "y"}), '{"type":2,"headers":{"x":"y"},"invocationId":"7","item":null}'),
        (Completion("7"), '{"type":3,"invocationId":"7"}'),
        (Completion("7", result=None), '{"type":3,"invocationId":"7","result":null}'),
        (Completion("7", result=[1]), '{"type":3,"invocationId":"7","result":[1]}'),
        (Completion("7", "it's <wrong>", 1), '{"type":3,"invocationId":"7","error":"it\'s <wrong>"}'),
        (Completion("7", ""), '{"type":3,"invocationId":"7","error":""}'),
        (StreamInvocation("7", "Counter", [10]), '{"type":4,"invocationId":"7","target":"Counter","arguments":[10]}'),
        (CancelInvocation("7"), '{"type":5,"invocationId":"7"}'),
        (Ping(), '{"type":6}'),
        (Close(), '{"type":7}'),
        (Close("bye", allow_reconnect=True), '{"type":7,"error":"bye","allowReconnect":true}'),
        (Ack(36), '{"type":8,"sequenceId":36}'),
        (Sequence_(19), '{"type":9,"sequenceId":19}'),
    ],
)
@pytest.mark.row("B78")
def test_messages_are_written_in_order_and_without_what_is_absent(message: HubMessage, text: str) -> None:
    """Each message has ASP.NET Core's members in its order, and ends in a record separator."""
    assert PROTOCOL.encode(message).decode() == text + "\x1e"


@pytest.mark.parametrize("identifier", ["17", "s1", "u3+lXglQNUyFmJiyGzvc9Q", 'a"b', "é", "", "a\x1e"])
@pytest.mark.parametrize("result", ["hello", None, 1.0, {"a": [1]}, "a\x1eb"])
def test_results_are_written_alike_on_the_short_way(identifier: str, result: object) -> None:
    """`encode_result` and `item_encoder` write what `encode` writes."""
    assert PROTOCOL.encode_result(identifier, result) == PROTOCOL.encode(Completion(identifier, result=result))
    assert PROTOCOL.item_encoder(identifier)(result) == PROTOCOL.encode(StreamItem(identifier, result))


@pytest.mark.parametrize("value", [object(), float("nan")])
@pytest.mark.row("X18")
def test_what_cannot_be_written_raises(value: object) -> None:
    """A value without JSON raises from every message that carries it."""
    for message in (Invocation("x", [value]), StreamItem("1", value), Completion("1", result=value)):
        with pytest.raises((TypeError, ValueError)):
            PROTOCOL.encode(message)
    with pytest.raises((TypeError, ValueError)):
        PROTOCOL.encode_result("1", value)


def test_what_is_no_message_raises() -> None:
    """Only messages can be encoded."""
    message: Any = "hello"
    with pytest.raises(TypeError, match="str is no hub message"):
        PROTOCOL.encode(message)


@pytest.mark.row("B75")
def test_large_values_go_both_ways() -> None:
    """A result of 64 KB is written and read back whole."""
    (body,), rest = PROTOCOL.split(PROTOCOL.encode_result("1", "x" * 65536), None)
    message = PROTOCOL.decode(body)
    assert isinstance(message, Completion)
    assert isinstance(message.result, Raw)
    assert PROTOCOL.value_decoder(str)(message.result) == "x" * 65536
    assert rest == b""


@pytest.mark.parametrize(("levels", "passes"), [(63, True), (64, False)])
def test_messages_may_be_64_levels_deep(levels: int, passes: bool) -> None:
    """The message is the first level; the 65th is an error."""
    body = b'{"type":1,"target":"x","arguments":' + b"[" * levels + b"]" * levels + b"}"
    if passes:
        assert isinstance(PROTOCOL.decode(body), Invocation)
    else:
        with pytest.raises(RemoteProtocolError, match="Error reading JSON"):
            PROTOCOL.decode(body)
