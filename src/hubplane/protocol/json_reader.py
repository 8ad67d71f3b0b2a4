"""Reads the members of a JSON object in order, with the position and .NET's words for what is wrong.

It is slow, and only used for the handshake and for messages on which msgspec, which decodes a whole message at once,
has given up.

Source: signalr-server sections 3.2 and 4.2.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from hubplane.errors import RemoteProtocolError

__all__ = ["NOT_JSON", "Member", "is_too_deep", "members", "token_name"]

NOT_JSON: Final = "JsonReaderException"
"""The `error_type` of what is no JSON at all."""

MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]*")
_QUOTED = re.compile(rb'"[^"]*+(?:"|\Z)')
_SQUARE = bytes.maketrans(b"{}", b"[]")
_NEITHER_BRACKET_NOR_QUOTE = bytes(code for code in range(256) if code not in b'[]{}"')
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_TOKENS = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number", type(None): "Null"}


class Member(NamedTuple):
    """One member: its name, its value in builtins, and the value's own bytes."""

    name: str
    value: object
    raw: bytes


def members(body: bytes) -> Iterator[Member]:
    """Go through the members of the object that `body` begins with; what stands behind it is not looked at.

    Raises:
        RemoteProtocolError: `body` does not begin with a JSON object; raised when the iteration gets there. The error
            type is `NOT_JSON` if it is no JSON at all.
        RecursionError: A value is nested too deeply even for the interpreter.
    """
    text = body.decode(errors="surrogateescape")
    position = _skip_space(text, 0)
    if position == len(text):
        reason = "The input does not contain any JSON tokens. Expected the input to start with a valid JSON token, "
        raise _fault(reason + "when isFinalBlock is true.", text, position)
    if text[position] != "{":
        value, _ = _value(text, position)
        raise RemoteProtocolError(f"Unexpected JSON Token Type '{token_name(value)}'. Expected a JSON Object.")
    position = _skip_space(text, position + 1)
    if text[position : position + 1] == "}":
        return
    while True:
        if text[position : position + 1] != '"':
            raise _unexpected(text, position, "is an invalid start of a property name. Expected a '\"'.")
        name, position = _value(text, position)
        position = _skip_space(text, position)
        if text[position : position + 1] != ":":
            raise _unexpected(text, position, "is invalid after a property name. Expected a ':'.")
        start = _skip_space(text, position + 1)
        value, position = _value(text, start)
        yield Member(str(name), value, text[start:position].encode(errors="surrogateescape"))
        position = _skip_space(text, position)
        follower = text[position : position + 1]
        if follower == "}":
            return
        if follower != ",":
            raise _unexpected(text, position, "is invalid after a value. Expected either ',', '}', or ']'.")
        position = _skip_space(text, position + 1)


def is_too_deep(body: bytes) -> bool:
    """Whether `body` is nested more than 64 levels deep, the message itself included."""
    if len(body) <= 2 * MAX_DEPTH or body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Most strings are two quotes by now. Taking neighbouring quotes away changes nothing for what is inside of others.
    brackets = body.translate(_SQUARE, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"")
    if b'"' in brackets:
        brackets = _QUOTED.sub(b"", brackets)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")  # the innermost level
        if not brackets:
            return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_constant=_refuse_constant)


def _value(text: str, position: int) -> tuple[object, int]:
    try:
        return _decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
        fault = error.pos
    except ValueError:  # NaN, Infinity, or an integer of more digits than Python converts
        fault = position
    expected = _LITERALS.get(text[fault : fault + 1])
    if expected is not None:
        found = text[fault : fault + len(expected)]
        wrong = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), len(found))
        word = re.split(r"[\s,\]}]", text[fault:], maxsplit=1)[0]
        reason = f"'{word}' is an invalid JSON literal. Expected the literal '{expected}'."
        raise _fault(reason, text, fault + wrong)
    raise _unexpected(text, fault, "is an invalid start of a value.")


def _unexpected(text: str, position: int, what: str) -> RemoteProtocolError:
    if position >= len(text):
        reason = (
            "Expected depth to be zero at the end of the JSON payload. There is an open JSON object or array that "
            "should be closed."
        )
        return _fault(reason, text, len(text))
    found = text[position]
    if not found.isascii() or not found.isprintable():
        found = f"0x{found.encode(errors='surrogateescape')[0]:02X}"
    return _fault(f"'{found}' {what}", text, position)


def _fault(reason: str, text: str, position: int) -> RemoteProtocolError:
    line = text.count("\n", 0, position)
    column = len(text[text.rfind("\n", 0, position) + 1 : position].encode(errors="surrogateescape"))
    return RemoteProtocolError(f"{reason} LineNumber: {line} | BytePositionInLine: {column}.", error_type=NOT_JSON)


def token_name(value: object) -> str:
    """Name the kind of a JSON value as .NET does in its errors."""
    return str(value) if isinstance(value, bool) else _TOKENS[type(value)]


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position
