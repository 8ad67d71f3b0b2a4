"""The MessagePack hub protocol."""

from __future__ import annotations

from typing import Any  # a message that is none

import pytest

from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
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
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol

PROTOCOL: HubProtocol = MessagePackHubProtocol()


def test_it_introduces_itself() -> None:
    """Its name, version and format are those of the handshake."""
    assert (PROTOCOL.name, PROTOCOL.version, PROTOCOL.transfer_format) == ("messagepack", 2, TransferFormat.BINARY)


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (Invocation("Send", ["hi", 42]), "0f 96 01 80 c0 a4 53 65 6e 64 92 a2 68 69 2a 90"),
        (Invocation("Ask", (), "s1"), "0c 96 01 80 a2 73 31 a3 41 73 6b 90 90"),
        (Invocation("Ask", Raw(b"\x90"), "s1"), "0c 96 01 80 a2 73 31 a3 41 73 6b 90 90"),
        (StreamItem("7", 42), "06 94 02 80 a1 37 2a"),
        (Completion("7"), "06 94 03 80 a1 37 02"),
        (Completion("7", result=None), "07 95 03 80 a1 37 03 c0"),
        (Completion("7", result=42), "07 95 03 80 a1 37 03 2a"),
        (Completion("7", "Error", 1), "0c 95 03 80 a1 37 01 a5 45 72 72 6f 72"),
        (StreamInvocation("7", "Counter", [10]), "10 96 04 80 a1 37 a7 43 6f 75 6e 74 65 72 91 0a 90"),
        (CancelInvocation("7"), "05 93 05 80 a1 37"),
        (Ping(), "02 91 06"),
        (Close(), "04 93 07 c0 c2"),
        (Close(None, allow_reconnect=True), "04 93 07 c0 c3"),
        (Close("bye", allow_reconnect=True), "07 93 07 a3 62 79 65 c3"),
        (Ack(36), "03 92 08 24"),
        (Ack(200), "04 92 08 cc c8"),
        (Sequence_(19), "03 92 09 13"),
        (
            Invocation("method", [42], "xyz", ["1"], {"x": "y"}),
            "17 96 01 81 a1 78 a1 79 a3 78 79 7a a6 6d 65 74 68 6f 64 91 2a 91 a1 31",
        ),
    ],
)
@pytest.mark.row("B80", "B83", "B84", "B157")
def test_frames_are_written_byte_for_byte(message: HubMessage, frame: str) -> None:
    """Each message of the reference's table has its bytes; headers are a map, also when there are none."""
    assert PROTOCOL.encode(message).hex(" ") == frame


@pytest.mark.parametrize("result", ["hello", None, 1.0, {"a": [1]}, "x" * 200, "a\ud800"])
def test_results_are_written_alike_on_the_short_way(result: object) -> None:
    """`encode_result` and `item_encoder` write what `encode` writes."""
    assert PROTOCOL.encode_result("17", result) == PROTOCOL.encode(Completion("17", result=result))
    assert PROTOCOL.item_encoder("17")(result) == PROTOCOL.encode(StreamItem("17", result))


@pytest.mark.parametrize("value", [object(), 2**64])
@pytest.mark.row("X18")
def test_what_cannot_be_written_raises(value: object) -> None:
    """A value without MessagePack raises from every message that carries it."""
    for message in (Invocation("x", [value]), StreamItem("1", value), Completion("1", result=value)):
        with pytest.raises((TypeError, OverflowError)):
            PROTOCOL.encode(message)
    with pytest.raises((TypeError, OverflowError)):
        PROTOCOL.encode_result("1", value)


def test_what_is_no_message_raises() -> None:
    """Only messages can be encoded."""
    message: Any = "hello"
    with pytest.raises(TypeError, match="str is no hub message"):
        PROTOCOL.encode(message)


@pytest.mark.row("B87")
def test_bin_and_str_stay_apart() -> None:
    """Bytes are written as bin and text as str, and free parameters get what was sent."""
    (body,), _ = PROTOCOL.split(PROTOCOL.encode(Invocation("x", [b"a", "a"])), None)
    message = PROTOCOL.decode(body)
    assert isinstance(message, Invocation)
    assert isinstance(message.arguments, Raw)
    assert bytes(message.arguments).hex() == "92c40161a161"
    assert PROTOCOL.argument_decoder([object, object])(message.arguments) == (b"a", "a")
