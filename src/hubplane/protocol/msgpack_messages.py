"""ASP.NET Core's verdict on a MessagePack message, item by item and in its words.

Source: signalr-server section 4.3; what it leaves open was asked of a running ASP.NET Core 10.0.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from hubplane.errors import RemoteProtocolError
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
from hubplane.protocol.msgpack_reader import PackReader
from hubplane.protocol.reading import BINDING_FAILED

__all__ = ["ERROR_RESULT", "NO_ARGUMENTS", "VALUE_RESULT", "VOID_RESULT", "read_message"]

NO_ARGUMENTS: Final = "Reading array length for 'arguments' failed."
ERROR_RESULT, VOID_RESULT, VALUE_RESULT = 1, 2, 3

T = TypeVar("T")


def read_message(body: bytes) -> HubMessage | None:
    """Turn one MessagePack array into a message; None for an unknown type. Bytes behind the array are ignored.

    Raises:
        RemoteProtocolError: The message is malformed.
    """
    reader = PackReader(body)
    count = reader.array_length()
    maker = _MAKERS.get(_integer(reader, "messageType", 32))
    return None if maker is None else maker(reader, count)


# -- items ------------------------------------------------------------------------------------------------------


def _read(read: Callable[[], T], what: str) -> T:
    try:
        return read()
    except RemoteProtocolError as fault:
        raise RemoteProtocolError(f"Reading {what} failed.") from fault


def _integer(reader: PackReader, name: str, bits: int) -> int:
    what = f"'{name}' as Int{bits}"
    value = _read(reader.integer, what)
    if not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise RemoteProtocolError(f"Reading {what} failed.")
    return value


def _text(reader: PackReader, name: str) -> str | None:
    return _read(reader.text, f"'{name}' as String")


def _filled(text: str | None, what: str) -> str:
    if not text:
        raise RemoteProtocolError(f"Null or empty {what}.")
    return text


def _headers(reader: PackReader) -> dict[str, str] | None:
    headers = {}
    for index in range(_read(reader.map_length, "map length for 'headers'")):
        name = _filled(_text(reader, f"headers[{index}].Key"), "key in header")
        headers[name] = _filled(_text(reader, f"headers[{index}].Value"), "value in header")
    return headers or None


def _invocation_id(reader: PackReader, message: str) -> str:
    return _filled(_text(reader, "invocationId"), f"invocation ID for {message} message")


def _arguments(reader: PackReader) -> tuple[Raw, str | None]:
    """Read the arguments; when they cannot be, the reason why the call fails, and nothing else is read."""
    start = reader.position
    try:
        reader.array_length()
    except RemoteProtocolError:
        return Raw(b""), NO_ARGUMENTS
    reader.position = start
    try:
        return reader.raw(), None
    except RemoteProtocolError:
        return Raw(b""), BINDING_FAILED


def _stream_ids(reader: PackReader, count: int) -> list[str]:
    if count <= 5:
        return []
    ids = range(_read(reader.array_length, "array length for 'streamIds'"))
    return [_filled(reader.text(), "value in streamIds received") for _ in ids]


# -- messages ---------------------------------------------------------------------------------------------------


def _invocation(reader: PackReader, count: int) -> HubMessage:
    headers = _headers(reader)
    invocation_id = _text(reader, "invocationId") or None
    target = _filled(_text(reader, "target"), "target for Invocation message")
    arguments, fault = _arguments(reader)
    stream_ids = [] if fault else _stream_ids(reader, count)
    return Invocation(target, arguments, invocation_id, stream_ids, headers, fault)


def _stream_invocation(reader: PackReader, count: int) -> HubMessage:
    headers = _headers(reader)
    invocation_id = _invocation_id(reader, "StreamInvocation")
    target = _filled(_text(reader, "target"), "target for StreamInvocation message")
    arguments, fault = _arguments(reader)
    stream_ids = [] if fault else _stream_ids(reader, count)
    return StreamInvocation(invocation_id, target, arguments, stream_ids, headers, fault)


def _stream_item(reader: PackReader, _count: int) -> HubMessage:
    headers = _headers(reader)
    invocation_id = _invocation_id(reader, "StreamItem")
    try:
        item = reader.raw()
    except RemoteProtocolError:
        item = Raw(b"")  # which no type can be read from: the stream ends, the connection stays
    return StreamItem(invocation_id, item, headers)


def _completion(reader: PackReader, _count: int) -> HubMessage:
    headers = _headers(reader)
    invocation_id = _invocation_id(reader, "Completion")
    kind = _integer(reader, "resultKind", 32)
    if kind == ERROR_RESULT:
        return Completion(invocation_id, _text(reader, "error"), headers=headers)
    if kind == VALUE_RESULT:
        return Completion(invocation_id, None, reader.raw(), headers)
    if kind != VOID_RESULT:
        raise RemoteProtocolError("Invalid invocation result kind.")
    return Completion(invocation_id, headers=headers)


def _cancel(reader: PackReader, _count: int) -> HubMessage:
    headers = _headers(reader)
    return CancelInvocation(_invocation_id(reader, "CancelInvocation"), headers)


def _ping(_reader: PackReader, _count: int) -> HubMessage:
    return Ping()


def _close(reader: PackReader, count: int) -> HubMessage:
    error = _text(reader, "error")
    return Close(error, count > 2 and _read(reader.boolean, "'allowReconnect' as Boolean"))


def _ack(reader: PackReader, _count: int) -> HubMessage:
    return Ack(_integer(reader, "sequenceId", 64))


def _sequence(reader: PackReader, _count: int) -> HubMessage:
    return Sequence_(_integer(reader, "sequenceId", 64))


_MAKERS: dict[int, Callable[[PackReader, int], HubMessage]] = {
    1: _invocation,
    2: _stream_item,
    3: _completion,
    4: _stream_invocation,
    5: _cancel,
    6: _ping,
    7: _close,
    8: _ack,
    9: _sequence,
}
