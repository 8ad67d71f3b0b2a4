"""ASP.NET Core's verdicts on JSON messages; the texts beyond the reference were asked of a running 10.0.12."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.json_messages import read_message
from hubplane.protocol.json_protocol import JsonHubProtocol
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

BOUNDS = "Either the JSON value is not in a supported format, or is out of bounds for an Int{}."
DEEP = '{"type":1,"target":"x","arguments":[' + "[" * 70 + "]" * 70 + "]}"


@pytest.mark.parametrize(
    ("body", "text", "error_type"),
    [
        ("hello", "Error reading JSON.", "InvalidDataException"),
        ("", "Error reading JSON.", "InvalidDataException"),
        (DEEP, "Error reading JSON.", "InvalidDataException"),
        ('{"a":' + "[" * 100_000, "Error reading JSON.", "InvalidDataException"),
        ('{"type":6,}', "Error reading JSON.", "InvalidDataException"),
        ("[1]", "Unexpected JSON Token Type 'Array'. Expected a JSON Object.", "InvalidDataException"),
        ("{}", "Missing required property 'type'.", "InvalidDataException"),
        ('{"Type":6}', "Missing required property 'type'.", "InvalidDataException"),
        ('{"type":null}', "Expected 'type' to be of type Number.", "InvalidDataException"),
        ('{"type":"1"}', "Expected 'type' to be of type Number.", "InvalidDataException"),
        ('{"type":true}', "Expected 'type' to be of type Number.", "InvalidDataException"),
        ('{"type":"1", bad', "Expected 'type' to be of type Number.", "InvalidDataException"),
        ('{"type":1.0}', BOUNDS.format(32), "FormatException"),
        ('{"type":2147483648}', BOUNDS.format(32), "FormatException"),
        ('{"type":6,"invocationId":null}', "Expected 'invocationId' to be of type String.", "InvalidDataException"),
        ('{"type":6,"target":1}', "Expected 'target' to be of type String.", "InvalidDataException"),
        ('{"type":7,"error":null}', "Expected 'error' to be of type String.", "InvalidDataException"),
        ('{"type":6,"allowReconnect":null}', "Expected 'allowReconnect' to be true or false.", "InvalidDataException"),
        (
            '{"type":3,"invocationId":"1","arguments":3}',
            "Expected 'arguments' to be of type Array.",
            "InvalidDataException",
        ),
        ('{"type":99,"arguments":{}}', "Expected 'arguments' to be of type Array.", "InvalidDataException"),
        ('{"type":6,"arguments":{}}', "Expected 'arguments' to be of type Array.", "InvalidDataException"),
        ('{"type":6,"streamIds":null}', "Expected 'streamIds' to be of type Array.", "InvalidDataException"),
        ('{"type":6,"streamIds":["1",null]}', "Null value for 'streamIds' is not valid.", "InvalidDataException"),
        (
            '{"type":6,"streamIds":[1]}',
            "Cannot get the value of a token type 'Number' as a string.",
            "InvalidOperationException",
        ),
        ('{"type":6,"headers":[]}', "Expected 'headers' to be of type StartObject.", "InvalidDataException"),
        ('{"type":6,"headers":{"a":null}}', "Expected header 'a' to be of type String.", "InvalidDataException"),
        ('{"type":1}', "Missing required property 'target'.", "InvalidDataException"),
        ('{"type":1,"target":"x"}', "Missing required property 'arguments'.", "InvalidDataException"),
        ('{"type":4,"invocationId":"1"}', "Missing required property 'target'.", "InvalidDataException"),
        ('{"type":4,"target":"x"}', "Missing required property 'arguments'.", "InvalidDataException"),
        ('{"type":4,"target":"x","arguments":[]}', "Missing required property 'invocationId'.", "InvalidDataException"),
        ('{"type":2,"item":1}', "Missing required property 'invocationId'.", "InvalidDataException"),
        ('{"type":2,"invocationId":"1"}', "Missing required property 'item'.", "InvalidDataException"),
        ('{"type":3,"error":"x","result":1}', "Missing required property 'invocationId'.", "InvalidDataException"),
        (
            '{"type":3,"invocationId":"1","error":"x","result":null}',
            "The 'error' and 'result' properties are mutually exclusive.",
            "InvalidDataException",
        ),
        ('{"type":5,"invocationId":""}', "Missing required property 'invocationId'.", "InvalidDataException"),
        ('{"type":8}', "Missing required property 'sequenceId'.", "InvalidDataException"),
        ('{"type":9,"sequenceId":null}', "Missing required property 'sequenceId'.", "InvalidDataException"),
        ('{"type":8,"sequenceId":"1"}', "Expected 'sequenceId' to be of type Number.", "InvalidDataException"),
        ('{"type":8,"sequenceId":1.5}', BOUNDS.format(64), "FormatException"),
        ('{"type":8,"sequenceId":9223372036854775808}', BOUNDS.format(64), "FormatException"),
    ],
)
@pytest.mark.row("B71", "B72")
def test_faults_have_the_words_of_asp_net(body: str, text: str, error_type: str) -> None:
    """Each fault ends the connection with ASP.NET Core's text, read fast or exactly."""
    for read in (read_message, JsonHubProtocol().decode):
        with pytest.raises(RemoteProtocolError) as fault:
            read(body.encode())
        assert (fault.value.detail, fault.value.error_type) == (text, error_type)


def plain(message: HubMessage | None) -> HubMessage | None:
    """The message with its raw values as bytes, which can be compared."""
    for name in ("arguments", "item", "result"):
        value = getattr(message, name, None)
        if isinstance(value, Raw):
            setattr(message, name, bytes(value))
    if isinstance(message, (Invocation, StreamInvocation)):
        message.stream_ids = list(message.stream_ids)
    return message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"type":1,"target":"x","arguments":[1]}', Invocation("x", b"[1]", None, [])),
        ('{"arguments":[1, 2],"target":"x","type":1}', Invocation("x", b"[1, 2]", None, [])),
        ('{"type":1,"invocationId":"","target":"","arguments":[]}', Invocation("", b"[]", None, [])),
        (
            '{"type":1,"headers":{"a":"b","a":"c"},"invocationId":"1","target":"x","arguments":[],"streamIds":["2"]}',
            Invocation("x", b"[]", "1", ["2"], {"a": "c"}),
        ),
        (
            '{"type":4,"headers":{"a":"b"},"invocationId":"1","target":"x","arguments":[],"streamIds":["2"]}',
            StreamInvocation("1", "x", b"[]", ["2"], {"a": "b"}),
        ),
        ('{"type":2,"invocationId":"1","item":null}', StreamItem("1", b"null")),
        ('{"item":{"a":1},"headers":{"a":"b"},"invocationId":"1","type":2}', StreamItem("1", b'{"a":1}', {"a": "b"})),
        ('{"type":3,"invocationId":"1"}', Completion("1", None, UNSET_RESULT)),
        ('{"type":3,"invocationId":"1","error":"x"}', Completion("1", "x", UNSET_RESULT)),
        ('{"type":3,"invocationId":"1","result":null}', Completion("1", None, b"null")),
        ('{"type":3,"invocationId":"1","result":1,"headers":{"a":"b"}}', Completion("1", None, b"1", {"a": "b"})),
        ('{"type":5,"invocationId":"1"}', CancelInvocation("1")),
        ('{"type":5,"headers":{"a":"b"},"invocationId":"1"}', CancelInvocation("1", {"a": "b"})),
        ('{"type":6}', Ping()),
        ('{"type":6,"invocationId":"9","item":1,"sequenceId":null}', Ping()),
        ('{"type":6,"arguments":[]}', Ping()),
        ('{"\\u0074ype":6}', Ping()),
        ('{"type":6}{"type":7}', Ping()),
        ('{"type":7}', Close()),
        ('{"type":7,"error":"x","allowReconnect":true}', Close("x", allow_reconnect=True)),
        ('{"type":8,"sequenceId":3}', Ack(3)),
        ('{"type":9,"sequenceId":4}', Sequence_(4)),
        ('{"type":0}', None),
        ('{"type":10,"target":"x"}', None),
        ('{"type":-1}', None),
        ('{"unknown":[1],"type":1,"target":"x","arguments":[]}', Invocation("x", b"[]", None, [])),
        ('{"type":1,"target":"x","z":{"arguments":[1]},"arguments":[2]}', Invocation("x", b"[2]", None, [])),
        ('{"type":1,"target":"x","arguments":[{"arguments":[1]}]}', Invocation("x", b'[{"arguments":[1]}]', None, [])),
        ('{"type":1,"target":"x","arguments" : [1]}', Invocation("x", b"[1]", None, [])),
        ('{"type":1,"target":"x","argument\\u0073":[1]}', Invocation("x", b"[1]", None, [])),
        ('{"type":1,"target":"x","arguments":["\\ud800"]}', Invocation("x", b'["\\ud800"]', None, [])),
        ('{"type":1,"target":"a","target":"x","arguments":[]}', Invocation("x", b"[]", None, [])),
    ],
)
@pytest.mark.row("B69", "B70", "B79")
def test_messages_are_read_alike_fast_and_exactly(body: str, message: HubMessage | None) -> None:
    """Any order, unknown members, what follows the object: both ways of reading give the same message."""
    for read in (read_message, JsonHubProtocol().decode):
        assert plain(read(body.encode())) == message


@pytest.mark.parametrize(
    "body", ['{"unknown":[1],"type":1,"target":"x"}', '{"type":1,"target":"x","z":{"arguments":[1]}}']
)
def test_arguments_elsewhere_are_no_arguments(body: str) -> None:
    """A list in the place where arguments often are, or arguments of an unknown member, do not stand in for them."""
    for read in (read_message, JsonHubProtocol().decode):
        with pytest.raises(RemoteProtocolError, match="Missing required property 'arguments'"):
            read(body.encode())


@pytest.mark.parametrize(
    ("body", "arguments", "fault"),
    [
        (
            '{"type":1,"target":"x","arguments":[1],"arguments":[1,2]}',
            b"[1,2]",
            "Invocation provides 1 argument(s) but target expects 2.",
        ),
        (
            '{"type":4,"invocationId":"1","target":"x","arguments":[1,2],"arguments":[3],"arguments":[1]}',
            b"[1]",
            "Invocation provides 2 argument(s) but target expects 1.",
        ),
        ('{"type":1,"target":"x","arguments":[1,2],"arguments":[3,4]}', b"[3,4]", None),
        ('{"arguments":[1],"arguments":[1,2],"type":1,"target":"x"}', b"[1,2]", None),
        ('{"arguments":[1,2],"type":1,"target":"x","arguments":[3,4]}', b"[1,2]", None),
        (
            '{"arguments":[1,2],"type":1,"target":"x","arguments":[3]}',
            b"[1,2]",
            "Invocation provides 1 argument(s) but target expects 2.",
        ),
    ],
)
def test_repeated_arguments_must_all_fit(body: str, arguments: bytes, fault: str | None) -> None:
    """Those in front of the target are bound last; behind it every one must fit, so their number must not change."""
    for read in (read_message, JsonHubProtocol().decode):
        message = read(body.encode())
        assert isinstance(message, (Invocation, StreamInvocation))
        assert isinstance(message.arguments, Raw)
        assert bytes(message.arguments) == arguments
        assert message.binding_error == fault


@given(
    st.binary(max_size=60)
    | st.dictionaries(
        st.sampled_from(["type", "target", "arguments", "invocationId", "item", "result", "error", "headers"]),
        st.sampled_from(["1", "3", '"x"', "[]", "{}", "null", "true", "1.5", "[1", '{"a":"b"}']),
    ).map(lambda members: ("{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}").encode())
)
def test_both_ways_of_reading_agree(body: bytes) -> None:
    """Whatever the bytes, the fast and the exact way give the same message or the same fault."""
    outcomes = []
    for read in (read_message, JsonHubProtocol().decode):
        try:
            outcomes.append(repr(plain(read(body))))
        except RemoteProtocolError as fault:
            outcomes.append(f"{fault.error_type}: {fault.detail}")
    assert outcomes[0] == outcomes[1]
