"""Hub messages as MessagePack arrays, each behind its length.

Decoding takes one pass of msgspec over a union of arrays, chosen by their first item. What that pass refuses goes to
`read_message`, which reads item by item and finds ASP.NET Core's verdict.

Source: signalr-server section 4.3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from typing import Annotated, Any, TypeAlias  # Any: a value, or a message of the type that a table names

import msgspec
from msgspec import inspect

from hubplane.protocol import reading
from hubplane.protocol.dotnet_values import date_from_days, enum_member, time_from_ticks, timedelta_from_ticks
from hubplane.protocol.framing import frame, split_frames
from hubplane.protocol.hub_protocol import ArgumentDecoder, ItemEncoder, TransferFormat, ValueDecoder
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
from hubplane.protocol.msgpack_messages import ERROR_RESULT, NO_ARGUMENTS, VALUE_RESULT, VOID_RESULT, read_message
from hubplane.protocol.msgpack_reader import InvalidText, read_value
from hubplane.protocol.msgpack_values import prepared, write_msgpack

__all__ = ["MessagePackHubProtocol"]

_Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]
_Headers: TypeAlias = dict[_Text, _Text]
_Long: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_ABSENT = Raw(b"")


class _Invocation(msgspec.Struct, array_like=True, tag=1):
    headers: _Headers
    invocation_id: str | None
    target: _Text
    arguments: Raw
    stream_ids: tuple[_Text, ...] = ()


class _StreamItem(msgspec.Struct, array_like=True, tag=2):
    headers: _Headers
    invocation_id: _Text
    item: Raw


class _Completion(msgspec.Struct, array_like=True, tag=3):
    headers: _Headers
    invocation_id: _Text
    kind: int
    value: Raw = _ABSENT


class _StreamInvocation(msgspec.Struct, array_like=True, tag=4):
    headers: _Headers
    invocation_id: _Text
    target: _Text
    arguments: Raw
    stream_ids: tuple[_Text, ...] = ()


class _CancelInvocation(msgspec.Struct, array_like=True, tag=5):
    headers: _Headers
    invocation_id: _Text


class _Ping(msgspec.Struct, array_like=True, tag=6):
    pass


class _Close(msgspec.Struct, array_like=True, tag=7):
    error: str | None
    allow_reconnect: bool = False


class _Ack(msgspec.Struct, array_like=True, tag=8):
    sequence_id: _Long


class _Sequence(msgspec.Struct, array_like=True, tag=9):
    sequence_id: _Long


class MessagePackHubProtocol:
    """The hub protocol ``messagepack``."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """``messagepack``."""
        return "messagepack"

    @property
    def version(self) -> int:
        """2."""
        return 2

    @property
    def transfer_format(self) -> TransferFormat:
        """Binary."""
        return TransferFormat.BINARY

    def split(self, buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
        """Cut `buffer` by its length prefixes; see `HubProtocol.split`."""
        return split_frames(buffer, limit)

    def decode(self, body: bytes) -> HubMessage | None:
        """Turn one MessagePack array into a message; None for an unknown type. Bytes behind it are ignored.

        Raises:
            RemoteProtocolError: The message is malformed; the texts are those of section 4.3.
        """
        try:
            found = _decode(body)
        except (ValueError, RecursionError):
            return read_message(body)
        if type(found) is _Invocation:
            return Invocation(
                found.target, found.arguments, found.invocation_id or None, found.stream_ids, found.headers or None
            )
        return _MAKERS[type(found)](found) or read_message(body)

    def encode(self, message: HubMessage) -> bytes:
        """Turn a message into a length and a MessagePack array.

        Raises:
            TypeError, ValueError, OverflowError: A value cannot be written as MessagePack, or `message` is no hub
                message.
        """
        writer = _WRITERS.get(type(message))
        if writer is None:
            raise TypeError(f"{type(message).__name__} is no hub message.")
        return frame(writer(message))

    def encode_result(self, invocation_id: str, result: object) -> bytes:
        """The same as `encode(Completion(invocation_id, result=result))`."""
        return frame(write_msgpack((3, _NO_HEADERS, invocation_id, VALUE_RESULT, prepared(result))))

    def item_encoder(self, invocation_id: str) -> ItemEncoder:
        """Make a writer for the items of a stream; see `HubProtocol.item_encoder`."""

        def encode_item(item: object) -> bytes:
            return frame(write_msgpack((2, _NO_HEADERS, invocation_id, prepared(item))))

        return encode_item

    def argument_decoder(self, types: Sequence[object]) -> ArgumentDecoder:
        """Make a decoder for the arguments of a method; see `HubProtocol.argument_decoder`.

        Raises:
            TypeError: A type cannot be read from a client.
        """
        return reading.argument_decoder(_FORMAT, types)

    def value_decoder(self, type_: object) -> ValueDecoder:
        """Make a decoder for single values of a type.

        Raises:
            TypeError: The type cannot be read from a client.
        """
        return reading.value_decoder(_FORMAT, type_)


# -- reading ----------------------------------------------------------------------------------------------------

_decode = msgspec.msgpack.Decoder(
    _Invocation | _StreamItem | _Completion | _StreamInvocation | _CancelInvocation | _Ping | _Close | _Ack | _Sequence
).decode


def _completion(found: _Completion) -> HubMessage | None:
    headers = found.headers or None
    if found.kind == VALUE_RESULT and found.value is not _ABSENT:
        return Completion(found.invocation_id, None, found.value, headers)
    return Completion(found.invocation_id, headers=headers) if found.kind == VOID_RESULT else None


# Any: each entry takes the array that it stands under, and makes its message, or None to have it read item by item.
_MAKERS: dict[type, Callable[[Any], HubMessage | None]] = {
    _StreamItem: lambda found: StreamItem(found.invocation_id, found.item, found.headers or None),
    _Completion: _completion,
    _StreamInvocation: lambda found: StreamInvocation(
        found.invocation_id, found.target, found.arguments, found.stream_ids, found.headers or None
    ),
    _CancelInvocation: lambda found: CancelInvocation(found.invocation_id, found.headers or None),
    _Ping: lambda _found: Ping(),
    _Close: lambda found: Close(found.error, found.allow_reconnect),
    _Ack: lambda found: Ack(found.sequence_id),
    _Sequence: lambda found: Sequence_(found.sequence_id),
}


def _typed_decoder(type_: object) -> Callable[[Raw], object]:
    return msgspec.msgpack.Decoder(type_, dec_hook=reading.read_custom).decode


def _parse(raw: Raw, _exact: bool) -> object:  # noqa: FBT001 - the signature that ValueFormat asks for
    return read_value(bytes(raw))


def _split(raw: Raw) -> list[Raw]:
    return _items(raw)


_items = msgspec.msgpack.Decoder(list[Raw]).decode


def _number_leaf(make: Callable[[int], object]) -> reading.Leaf:
    def leaf(_node: Any, value: object) -> object:
        made = make(value) if type(value) is int else None
        return value if made is None else made

    return leaf


def _datetime_leaf(_node: Any, value: object) -> object:
    # DateTimeOffset: the wall clock as if it were UTC, and the offset in minutes.
    if isinstance(value, list) and list(map(type, value)) == [datetime, int]:
        return value[0].replace(tzinfo=timezone(timedelta(minutes=value[1])))
    return value


def _enum_leaf(node: inspect.EnumType, value: object) -> object:
    member = enum_member(node.cls, value) if isinstance(value, str) else None
    return value if member is None else member.value


def _bytes_leaf(_node: Any, value: object) -> object:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, InvalidText | list):
        return bytes(value)
    return value


def _free_leaf(_node: Any, value: object) -> object:
    if isinstance(value, InvalidText):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return [_free_leaf(_node, item) for item in value]
    if isinstance(value, dict):
        return {_free_leaf(_node, key): _free_leaf(_node, item) for key, item in value.items()}
    return value


_FORMAT = reading.ValueFormat(
    decoder=_typed_decoder,
    parse=_parse,
    split=_split,
    no_array=NO_ARGUMENTS,
    leaves={
        inspect.EnumType: _enum_leaf,
        inspect.DateTimeType: _datetime_leaf,
        inspect.DateType: _number_leaf(date_from_days),
        inspect.TimeType: _number_leaf(time_from_ticks),
        inspect.TimeDeltaType: _number_leaf(timedelta_from_ticks),
        inspect.BytesType: _bytes_leaf,
        inspect.ByteArrayType: _bytes_leaf,
        # Also for .NET's last moment, which msgspec rounds into the year 10000.
        inspect.AnyType: _free_leaf,
        inspect.CustomType: _free_leaf,
    },
    plain_leaves={
        inspect.StrType: _free_leaf,
    },
    ready_made=(datetime, date, time, timedelta, bytes, bytearray),
    misread=frozenset((inspect.EnumType,)),
    count_first=True,
    text_keys=False,
    mends_text=True,
)


# -- writing ----------------------------------------------------------------------------------------------------

_NO_HEADERS: dict[str, str] = {}


def _call(kind: int, message: Invocation | StreamInvocation) -> bytes:
    arguments = message.arguments
    return write_msgpack(
        (
            kind,
            message.headers or _NO_HEADERS,
            message.invocation_id,
            message.target,
            arguments if isinstance(arguments, Raw) else prepared(list(arguments)),
            list(message.stream_ids),
        )
    )


def _write_completion(message: Completion) -> bytes:
    head = (3, message.headers or _NO_HEADERS, message.invocation_id)
    if message.error is not None:
        return write_msgpack((*head, ERROR_RESULT, message.error))
    if message.result is UNSET_RESULT:
        return write_msgpack((*head, VOID_RESULT))
    return write_msgpack((*head, VALUE_RESULT, prepared(message.result)))


# Any: each entry takes the message type that it stands under.
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    Invocation: lambda message: _call(1, message),
    StreamItem: lambda message: write_msgpack(
        (2, message.headers or _NO_HEADERS, message.invocation_id, prepared(message.item))
    ),
    Completion: _write_completion,
    StreamInvocation: lambda message: _call(4, message),
    CancelInvocation: lambda message: write_msgpack((5, message.headers or _NO_HEADERS, message.invocation_id)),
    Ping: lambda _message: b"\x91\x06",
    Close: lambda message: write_msgpack((7, message.error, message.allow_reconnect)),
    Ack: lambda message: write_msgpack((8, message.sequence_id)),
    Sequence_: lambda message: write_msgpack((9, message.sequence_id)),
}
