"""ASP.NET Core's verdicts on MessagePack messages; the texts beyond the reference were asked of a running 10.0.12."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.messages import (
    UNSET_RESULT,
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
from hubplane.protocol.msgpack_messages import read_message
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.reading import BINDING_FAILED

END = "Attempted to read past the end of the stream."
INT32, INT64, STRING = (
    "Reading '{}' as Int32 failed.",
    "Reading '{}' as Int64 failed.",
    "Reading '{}' as String failed.",
)
ECHO = "a44563686f"


def invalid(text: str) -> tuple[str, str]:
    """The common kind of fault."""
    return text, "InvalidDataException"


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("", (END, "EndOfStreamException")),
        ("dc", (END, "EndOfStreamException")),
        ("96 01 80", (END, "EndOfStreamException")),
        ("94 03 80 a130 03", (END, "EndOfStreamException")),
        ("05", ("Unexpected msgpack code 5 (positive fixint) encountered.", "MessagePackSerializationException")),
        ("c0", ("Unexpected msgpack code 192 (nil) encountered.", "MessagePackSerializationException")),
        ("90", invalid(INT32.format("messageType"))),
        ("91 c0", invalid(INT32.format("messageType"))),
        ("91 c1", invalid(INT32.format("messageType"))),
        ("91 cb4018000000000000", invalid(INT32.format("messageType"))),
        ("91 cf0100000000000006", invalid(INT32.format("messageType"))),
        ("96 a131 80 a130 a3416464 920102 90", invalid(INT32.format("messageType"))),
        ("91 01", invalid("Reading map length for 'headers' failed.")),
        ("96 01 c0 a130 a3416464 920102 90", invalid("Reading map length for 'headers' failed.")),
        (f"96 01 81 c0 a161 a130 {ECHO} 9101 90", invalid("Null or empty key in header.")),
        (f"96 01 81 a0 a161 a130 {ECHO} 9101 90", invalid("Null or empty key in header.")),
        (f"96 01 81 a161 c0 a130 {ECHO} 9101 90", invalid("Null or empty value in header.")),
        (f"96 01 81 a161 a0 a130 {ECHO} 9101 90", invalid("Null or empty value in header.")),
        (f"96 01 81 01 a161 a130 {ECHO} 9101 90", invalid(STRING.format("headers[0].Key"))),
        (f"96 01 81 a161 01 a130 {ECHO} 9101 90", invalid(STRING.format("headers[0].Value"))),
        ("92 01 80", invalid(STRING.format("invocationId"))),
        (f"96 01 80 00 {ECHO} 9101 90", invalid(STRING.format("invocationId"))),
        ("93 01 80 a130", invalid(STRING.format("target"))),
        ("96 01 80 a130 01 9101 90", invalid(STRING.format("target"))),
        ("96 01 80 a130 c0 9101 90", invalid("Null or empty target for Invocation message.")),
        ("96 01 80 a130 a0 9101 90", invalid("Null or empty target for Invocation message.")),
        ("96 04 80 c0 a0 90 90", invalid("Null or empty invocation ID for StreamInvocation message.")),
        ("96 04 80 a130 a0 90 90", invalid("Null or empty target for StreamInvocation message.")),
        (f"96 01 80 a130 {ECHO} 9101 c0", invalid("Reading array length for 'streamIds' failed.")),
        (f"96 01 80 a130 {ECHO} 9101 05", invalid("Reading array length for 'streamIds' failed.")),
        (f"96 01 80 a130 {ECHO} 9101 91a0", invalid("Null or empty value in streamIds received.")),
        (f"96 04 80 a130 {ECHO} 9101 91c0", invalid("Null or empty value in streamIds received.")),
        (
            f"96 01 80 a130 {ECHO} 9101 9101",
            ("Unexpected msgpack code 1 (positive fixint) encountered.", "MessagePackSerializationException"),
        ),
        ("94 02 80 c0 01", invalid("Null or empty invocation ID for StreamItem message.")),
        ("95 03 80 c0 03 01", invalid("Null or empty invocation ID for Completion message.")),
        ("93 03 80 a130", invalid(INT32.format("resultKind"))),
        ("95 03 80 a130 a1 05", invalid(INT32.format("resultKind"))),
        ("95 03 80 a130 09 01", invalid("Invalid invocation result kind.")),
        ("94 03 80 a130 01", invalid(STRING.format("error"))),
        ("95 03 80 a130 01 05", invalid(STRING.format("error"))),
        ("93 05 80 c0", invalid("Null or empty invocation ID for CancelInvocation message.")),
        ("92 05 80", invalid(STRING.format("invocationId"))),
        ("93 07 05 c2", invalid(STRING.format("error"))),
        ("93 07 c0 05", invalid("Reading 'allowReconnect' as Boolean failed.")),
        ("91 08", invalid(INT64.format("sequenceId"))),
        ("92 08 a131", invalid(INT64.format("sequenceId"))),
        ("92 08 cfffffffffffffffff", invalid(INT64.format("sequenceId"))),
        ("92 09 cb3ff0000000000000", invalid(INT64.format("sequenceId"))),
    ],
)
@pytest.mark.row("B83", "B84")
def test_faults_have_the_words_of_asp_net(body: str, fault: tuple[str, str]) -> None:
    """Each fault ends the connection with ASP.NET Core's text, read fast or item by item."""
    for read in (read_message, MessagePackHubProtocol().decode):
        with pytest.raises(RemoteProtocolError) as found:
            read(bytes.fromhex(body))
        assert (found.value.detail, found.value.error_type) == fault


def plain(message: HubMessage | None) -> HubMessage | None:
    """The message with its raw values as hex, which can be compared."""
    for name in ("arguments", "item", "result"):
        value = getattr(message, name, None)
        if isinstance(value, Raw):
            setattr(message, name, bytes(value).hex())
    if isinstance(message, (Invocation, StreamInvocation)):
        message.stream_ids = list(message.stream_ids)
    return message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"96 01 80 a130 {ECHO} 9101 90", Invocation("Echo", "9101", "0", [])),
        (f"95 01 80 a130 {ECHO} 9101", Invocation("Echo", "9101", "0", [])),
        (f"97 01 80 a130 {ECHO} 9101 90 a178", Invocation("Echo", "9101", "0", [])),
        (f"dc0006 cc01 de0000 c0 {ECHO} dc0000 90", Invocation("Echo", "dc0000", None, [])),
        (f"96 01 80 a0 {ECHO} 90 91a131", Invocation("Echo", "90", None, ["1"])),
        (f"96 01 81a161a162 a130 {ECHO} 90 90 ffff", Invocation("Echo", "90", "0", [], {"a": "b"})),
        (f"96 01 80 a2ffff {ECHO} 90 90", Invocation("Echo", "90", "\ufffd\ufffd", [])),
        (f"96 04 80 a130 {ECHO} 90 91a131", StreamInvocation("0", "Echo", "90", ["1"])),
        (f"95 04 81a161a162 a130 {ECHO} 90", StreamInvocation("0", "Echo", "90", [], {"a": "b"})),
        ("94 02 80 a137 2a", StreamItem("7", "2a")),
        ("95 02 81a161a162 a137 c0 01", StreamItem("7", "c0", {"a": "b"})),
        ("93 02 80 a137", StreamItem("7", "")),
        ("95 03 80 a137 01 a145", Completion("7", "E", UNSET_RESULT)),
        ("95 03 80 a137 01 c0", Completion("7", None, UNSET_RESULT)),
        ("94 03 80 a137 02", Completion("7", None, UNSET_RESULT)),
        ("95 03 80 a137 02 01", Completion("7", None, UNSET_RESULT)),
        ("95 03 81a161a162 a137 03 c0", Completion("7", None, "c0", {"a": "b"})),
        ("95 03 80 a137 ce00000003 c0", Completion("7", None, "c0")),
        ("93 05 80 a137", CancelInvocation("7")),
        ("93 05 81a161a162 a137", CancelInvocation("7", {"a": "b"})),
        ("91 06", Ping()),
        ("91 06 c0c0", Ping()),
        ("92 d3 0000000000000006 c1", Ping()),
        ("92 07 c0", Close()),
        ("93 07 c0 c3", Close(None, allow_reconnect=True)),
        ("93 07 a0 c2", Close("")),
        ("94 07 a3627965 c3 01", Close("bye", allow_reconnect=True)),
        ("92 08 ccc8", Ack(200)),
        ("92 08 d3 0000000000000001", Ack(1)),
        ("92 09 13", Sequence_(19)),
        ("92 00 a178", None),
        ("92 0a a178", None),
        ("92 63 c1", None),
        ("91 ff", None),
    ],
)
@pytest.mark.row("B81", "B84", "B86")
def test_messages_are_read_alike_fast_and_item_by_item(body: str, message: HubMessage | None) -> None:
    """Old and new numbers of items, any widths, what follows: both ways of reading give the same message."""
    for read in (read_message, MessagePackHubProtocol().decode):
        assert plain(read(bytes.fromhex(body))) == message


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("94 01 80 a130 a3416464", "Reading array length for 'arguments' failed."),
        ("96 01 80 a130 a3416464 9201", "Reading array length for 'arguments' failed."),
        ("95 04 80 a130 a3416464 92cc", "Reading array length for 'arguments' failed."),
        (
            "95 01 80 a130 a3416464 91a5",
            BINDING_FAILED,
        ),
        (
            "96 04 80 a130 a3416464 92c1c0 90",
            BINDING_FAILED,
        ),
    ],
)
@pytest.mark.row("B81")
def test_arguments_that_cannot_be_read_fail_the_call_only(body: str, fault: str) -> None:
    """Missing, unfinished or malformed arguments are the call's fault; what stands behind them is not looked at."""
    message = MessagePackHubProtocol().decode(bytes.fromhex(body))
    assert isinstance(message, (Invocation, StreamInvocation))
    assert (message.target, message.invocation_id) == ("Add", "0")
    assert message.binding_error == fault


@given(
    st.binary(max_size=40)
    | st.lists(
        st.sampled_from(["80", "81a161a162", "c0", "a130", "a0", "01", "03", "90", "9101", "91a131", "c3", "c1", "ff"]),
        max_size=7,
    ).map(lambda items: bytes.fromhex(f"{0x90 + len(items):02x}" + "".join(items)))
    | st.tuples(st.integers(1, 9), st.lists(st.sampled_from(["80", "c0", "a130", "02", "9101", "c2"]), max_size=5)).map(
        lambda message: bytes.fromhex(f"{0x91 + len(message[1]):02x}{message[0]:02x}" + "".join(message[1]))
    )
)
def test_both_ways_of_reading_agree(body: bytes) -> None:
    """Whatever the bytes, the fast way and the way item by item give the same message or the same fault."""
    outcomes = []
    for read in (read_message, MessagePackHubProtocol().decode):
        try:
            message = plain(read(body))
        except RemoteProtocolError as fault:
            outcomes.append(f"{fault.error_type}: {fault.detail}")
        else:
            outcomes.append(repr(message))
    if "binding_error=None" not in outcomes[1]:
        assert outcomes[0] == outcomes[1]
    else:
        # What is wrong with arguments shows when they are bound, unless it had to be found before.
        assert outcomes[0].partition("arguments=")[0] == outcomes[1].partition("arguments=")[0]
