"""The members of a JSON object, one by one."""

from __future__ import annotations

import json
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.protocol import json_reader
from hubplane.protocol.json_reader import NOT_JSON, Member, is_too_deep, members, token_name

NO_TOKENS = (
    "The input does not contain any JSON tokens. Expected the input to start with a valid JSON token, when "
    "isFinalBlock is true."
)
UNCLOSED = (
    "Expected depth to be zero at the end of the JSON payload. There is an open JSON object or array that should be "
    "closed."
)


def test_members_come_in_order_with_their_bytes() -> None:
    """Names, values and the values' own bytes, white space around them left out; what stands behind is ignored."""
    body = ' { "a" : [1, 2] ,"é":"\\u00e9", "a":null}{"b":1}'.encode()
    assert list(members(body)) == [
        Member("a", [1, 2], b"[1, 2]"),
        Member("é", "é", b'"\\u00e9"'),
        Member("a", None, b"null"),
    ]
    assert list(members(b"{}x")) == []


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    """Bad UTF-8 inside a string is not this reader's business."""
    assert list(members(b'{"a":"\xff"}')) == [Member("a", "\udcff", b'"\xff"')]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("", f"{NO_TOKENS} LineNumber: 0 | BytePositionInLine: 0."),
        ("hello", "'h' is an invalid start of a value. LineNumber: 0 | BytePositionInLine: 0."),
        (
            "nothing",
            "'nothing' is an invalid JSON literal. Expected the literal 'null'. LineNumber: 0 | BytePositionInLine: 1.",
        ),
        (
            '{"a":tru}',
            "'tru' is an invalid JSON literal. Expected the literal 'true'. LineNumber: 0 | BytePositionInLine: 8.",
        ),
        ("\ufeff{}", "'0xEF' is an invalid start of a value. LineNumber: 0 | BytePositionInLine: 0."),
        ('{"a":1', f"{UNCLOSED} LineNumber: 0 | BytePositionInLine: 6."),
        ('{"é":\n x}', "'x' is an invalid start of a value. LineNumber: 1 | BytePositionInLine: 1."),
        (
            "{a:1}",
            "'a' is an invalid start of a property name. Expected a '\"'. LineNumber: 0 | BytePositionInLine: 1.",
        ),
        ('{"a" 1}', "'1' is invalid after a property name. Expected a ':'. LineNumber: 0 | BytePositionInLine: 5."),
        (
            '{"a":1 2}',
            "'2' is invalid after a value. Expected either ',', '}', or ']'. LineNumber: 0 | BytePositionInLine: 7.",
        ),
        ('{"a":NaN}', "'N' is an invalid start of a value. LineNumber: 0 | BytePositionInLine: 5."),
        ('{"a":[1,\x01]}', "'0x01' is an invalid start of a value. LineNumber: 0 | BytePositionInLine: 8."),
    ],
)
def test_what_is_no_json_is_told_with_its_place(body: str, text: str) -> None:
    """The text says what is wrong, in which line, and at which byte of it."""
    with pytest.raises(RemoteProtocolError) as fault:
        list(members(body.encode()))
    assert fault.value.detail == text
    assert fault.value.error_type == NOT_JSON


@pytest.mark.parametrize(
    ("body", "token"),
    [("[1]", "Array"), ('"x"', "String"), ("1", "Number"), ("1.5", "Number"), ("true", "True"), ("null", "Null")],
)
def test_what_is_no_object_is_named(body: str, token: str) -> None:
    """Another kind of value is told by its name."""
    with pytest.raises(RemoteProtocolError) as fault:
        list(members(body.encode()))
    assert fault.value.detail == f"Unexpected JSON Token Type '{token}'. Expected a JSON Object."
    assert fault.value.error_type == "InvalidDataException"


def test_tokens_have_names() -> None:
    """Each kind of value has .NET's name."""
    values: list[object] = [{}, [], "", 1, 1.5, None, True, False]
    assert [token_name(value) for value in values] == [
        "Object",
        "Array",
        "String",
        "Number",
        "Number",
        "Null",
        "True",
        "False",
    ]


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 64 + b"]" * 64, False),
        (b"[" * 65 + b"]" * 65, True),
        (b'{"a":' * 65 + b"1" + b"}" * 65, True),
        (b'{"a":' + b"[" * 63 + b"]" * 63 + b"}", False),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", True),
        (b'[{"a":' * 32 + b"1" + b"}]" * 32, False),
        (b'[{"a":' * 32 + b"[]" + b"}]" * 32, True),
        (b"[" + b"[[]]," * 100 + b"[]]", False),
        (b'["' + b"[" * 200 + b'"]', False),
        (b'["\\"' + b"[" * 200 + b'"]', False),
        (b'["\\\\",' + b"[" * 64 + b"]" * 65, True),
        (b"[" * 65, False),
        (b"[" * 65 + b']"' + b"[" * 100, True),
        (b"[" * 65 + b"]" * 65 + b'"\\', True),
        (b"[" * 64 + b"]" * 64 + b'"[\\', False),
        (b"[" * 200, True),
        (b"x" * 500, False),
    ],
)
def test_depth_is_counted_outside_of_strings(body: bytes, deep: bool) -> None:
    """64 levels pass, 65 do not; brackets in strings are text."""
    assert is_too_deep(body) is deep


def test_depth_is_found_in_linear_time() -> None:
    """A megabyte of quotes in an unfinished string takes no longer than a megabyte of text."""
    assert is_too_deep(b"[" * 65 + b'"' + b'\\"' * 500_000)


def depth(value: object) -> int:
    """How many levels of arrays and objects a value has."""
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


TEXT = st.text(st.sampled_from('[]{}"\\é\nx'), max_size=6)


@given(
    st.recursive(
        TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=30
    ),
    st.integers(1, 5),
)
def test_depth_is_that_of_the_value(value: object, limit: int) -> None:
    """Whatever brackets, quotes and backslashes stand in its strings, a text is as deep as the value it means."""
    body = b" " * 128 + json.dumps(value).encode()
    with patch.object(json_reader, "MAX_DEPTH", limit):
        assert is_too_deep(body) is (depth(value) > limit)


@given(st.binary(max_size=40))
def test_garbage_is_read_or_refused(body: bytes) -> None:
    """Any bytes are members or a fault, nothing else."""
    try:
        found = list(members(body))
    except RemoteProtocolError:
        return
    assert all(member.raw in body for member in found)
