"""Hub messages as JSON objects, each followed by a record separator.

Decoding takes one pass of msgspec over a struct with every member there is. What that pass refuses, and what it cannot
judge, goes to `read_message`, which looks at the members one by one and finds ASP.NET Core's verdict.

Source: signalr-server section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any  # Any: a value, or a message of the type that a table names

import msgspec
from msgspec import UNSET, UnsetType, inspect

from hubplane.errors import RemoteProtocolError
from hubplane.protocol import reading
from hubplane.protocol.dotnet_values import parse_datetime, parse_time, parse_timedelta
from hubplane.protocol.framing import split_records
from hubplane.protocol.hub_protocol import ArgumentDecoder, ItemEncoder, TransferFormat, ValueDecoder
from hubplane.protocol.json_messages import BAD_JSON, read_message
from hubplane.protocol.json_reader import MAX_DEPTH, is_too_deep
from hubplane.protocol.json_values import write_json
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

__all__ = ["JsonHubProtocol"]

_ABSENT = Raw(b"")
_ARGUMENTS = b'"arguments"'
_BRACKET = b"["[0]
_SHALLOW = 128  # bytes that cannot hold 65 opening and 65 closing brackets


class _Envelope(msgspec.Struct):
    """Any message: the members of all types together, for ASP.NET Core checks them whatever the type is."""

    type: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
    invocationId: str = ""  # noqa: N815 - the wire's names
    target: str | UnsetType = UNSET
    arguments: Raw = _ABSENT
    streamIds: list[str] | UnsetType = UNSET  # noqa: N815
    headers: dict[str, str] | UnsetType = UNSET
    item: Raw = _ABSENT
    result: Raw = _ABSENT
    error: str | UnsetType = UNSET
    allowReconnect: bool = False  # noqa: N815
    sequenceId: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | UnsetType = UNSET  # noqa: N815


class JsonHubProtocol:
    """The hub protocol ``json``."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """``json``."""
        return "json"

    @property
    def version(self) -> int:
        """2."""
        return 2

    @property
    def transfer_format(self) -> TransferFormat:
        """Text."""
        return TransferFormat.TEXT

    def split(self, buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
        """Cut `buffer` at its record separators; see `HubProtocol.split`."""
        return split_records(buffer, limit)

    def decode(self, body: bytes) -> HubMessage | None:
        """Turn one JSON object into a message; None for an unknown type. What follows the object is ignored.

        Raises:
            RemoteProtocolError: The message is malformed; the texts are those of section 4.2.
        """
        if len(body) > _SHALLOW and body.count(b"[") + body.count(b"{") > MAX_DEPTH and is_too_deep(body):
            raise RemoteProtocolError(BAD_JSON)
        try:
            envelope = _decode(body)
        except (ValueError, RecursionError):
            return read_message(body)
        kind = envelope.type
        if kind in {1, 4}:
            target = envelope.target
            behind = body.find(_ARGUMENTS) + len(_ARGUMENTS)
            if (
                target is UNSET
                or envelope.arguments is _ABSENT
                # They must be an array, and given once.
                or (body[behind + 1] != _BRACKET and memoryview(envelope.arguments)[0] != _BRACKET)
                or body.find(_ARGUMENTS, behind) >= 0
            ):
                return read_message(body)
            invocation_id = envelope.invocationId
            if kind == 1:
                return Invocation(
                    target,
                    envelope.arguments,
                    invocation_id or None,
                    envelope.streamIds or (),
                    envelope.headers or None,
                )
            if not invocation_id:
                return read_message(body)
            return StreamInvocation(
                invocation_id, target, envelope.arguments, envelope.streamIds or (), envelope.headers or None
            )
        maker = _MAKERS.get(kind)
        if maker is None:
            return None if envelope.arguments is _ABSENT else read_message(body)
        message = maker(envelope) if envelope.arguments is _ABSENT else None
        return message or read_message(body)

    def encode(self, message: HubMessage) -> bytes:
        """Turn a message into JSON and a record separator.

        Raises:
            TypeError, ValueError, OverflowError: A value cannot be written as JSON, or `message` is no hub message.
        """
        writer = _WRITERS.get(type(message))
        if writer is None:
            raise TypeError(f"{type(message).__name__} is no hub message.")
        return writer(message)

    def encode_result(self, invocation_id: str, result: object) -> bytes:
        """The same as `encode(Completion(invocation_id, result=result))`."""
        if invocation_id.isalnum() and invocation_id.isascii():
            return b'{"type":3,"invocationId":"%b","result":%b}\x1e' % (invocation_id.encode(), write_json(result))
        return b'{"type":3,"invocationId":%b,"result":%b}\x1e' % (write_json(invocation_id), write_json(result))

    def item_encoder(self, invocation_id: str) -> ItemEncoder:
        """Make a writer for the items of a stream; see `HubProtocol.item_encoder`."""
        head = b'{"type":2,"invocationId":' + write_json(invocation_id) + b',"item":'
        write = write_json  # a local name: it is called for each item

        def encode_item(item: object) -> bytes:
            return head + write(item) + b"}\x1e"

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

_decode = msgspec.json.Decoder(_Envelope).decode


def _stream_item(envelope: _Envelope) -> HubMessage | None:
    if not envelope.invocationId or envelope.item is _ABSENT:
        return None
    return StreamItem(envelope.invocationId, envelope.item, envelope.headers or None)


def _completion(envelope: _Envelope) -> HubMessage | None:
    error = envelope.error
    result = envelope.result
    if not envelope.invocationId:
        return None
    if result is _ABSENT:
        return Completion(envelope.invocationId, None if error is UNSET else error, headers=envelope.headers or None)
    if error is not UNSET:
        return None
    return Completion(envelope.invocationId, None, result, envelope.headers or None)


def _cancel(envelope: _Envelope) -> HubMessage | None:
    return CancelInvocation(envelope.invocationId, envelope.headers or None) if envelope.invocationId else None


def _close(envelope: _Envelope) -> HubMessage:
    return Close(None if envelope.error is UNSET else envelope.error, envelope.allowReconnect)


def _ack(envelope: _Envelope) -> HubMessage | None:
    return None if envelope.sequenceId is UNSET else Ack(envelope.sequenceId)


def _sequence(envelope: _Envelope) -> HubMessage | None:
    return None if envelope.sequenceId is UNSET else Sequence_(envelope.sequenceId)


# Each makes its message, or None when something is missing or wrong.
_MAKERS: dict[int, Callable[[_Envelope], HubMessage | None]] = {
    2: _stream_item,
    3: _completion,
    5: _cancel,
    6: lambda _envelope: Ping(),
    7: _close,
    8: _ack,
    9: _sequence,
}


def _typed_decoder(type_: object) -> Callable[[Raw], object]:
    return msgspec.json.Decoder(type_, dec_hook=reading.read_custom).decode


def _split(raw: Raw) -> list[Raw]:
    return _items(raw)


def _parse(raw: Raw, exact: bool) -> object:  # noqa: FBT001 - the signature that ValueFormat asks for
    return (_parse_exactly if exact else _parse_value)(raw)


_items = msgspec.json.Decoder(list[Raw]).decode
_parse_value = msgspec.json.Decoder().decode
_parse_exactly = msgspec.json.Decoder(float_hook=Decimal).decode


def _text_leaf(parse: Callable[[str], object]) -> reading.Leaf:
    def leaf(_node: Any, value: object) -> object:
        parsed = parse(value) if isinstance(value, str) else None
        return value if parsed is None else parsed

    return leaf


def _float_leaf(_node: Any, value: object) -> object:
    return float(value) if type(value) is Decimal else value


def _decimal_leaf(_node: Any, value: object) -> object:
    return Decimal(value) if type(value) is int else value


def _free_leaf(_node: Any, value: object) -> object:
    if isinstance(value, list):
        return [_free_leaf(_node, item) for item in value]
    if isinstance(value, dict):
        return {key: _free_leaf(_node, item) for key, item in value.items()}
    return _float_leaf(_node, value)


_FORMAT = reading.ValueFormat(
    decoder=_typed_decoder,
    parse=_parse,
    split=_split,
    no_array=reading.BINDING_FAILED,
    leaves={
        inspect.TimeDeltaType: _text_leaf(parse_timedelta),
        inspect.TimeType: _text_leaf(parse_time),
        inspect.DateTimeType: _text_leaf(parse_datetime),
    },
    plain_leaves={
        inspect.DecimalType: _decimal_leaf,
        inspect.FloatType: _float_leaf,
        inspect.AnyType: _free_leaf,
        inspect.CustomType: _free_leaf,
    },
    ready_made=(datetime, time, timedelta, Decimal),
    misread=frozenset(),
    count_first=False,
    text_keys=True,
    mends_text=False,
)


# -- writing ----------------------------------------------------------------------------------------------------


def _headers(headers: Mapping[str, str] | None) -> bytes:
    return b',"headers":' + write_json(dict(headers)) if headers else b""


def _call(kind: bytes, message: Invocation | StreamInvocation) -> bytes:
    arguments = message.arguments
    return b"".join(
        (
            b'{"type":',
            kind,
            _headers(message.headers),
            b',"invocationId":' + write_json(message.invocation_id) if message.invocation_id else b"",
            b',"target":',
            write_json(message.target),
            b',"arguments":',
            write_json(arguments if isinstance(arguments, Raw) else list(arguments)),
            b',"streamIds":' + write_json(list(message.stream_ids)) if message.stream_ids else b"",
            b"}\x1e",
        )
    )


def _with_id(kind: bytes, message: StreamItem | Completion | CancelInvocation, tail: bytes) -> bytes:
    head = b'{"type":' + kind + _headers(message.headers)
    return head + b',"invocationId":' + write_json(message.invocation_id) + tail + b"}\x1e"


def _write_completion(message: Completion) -> bytes:
    if message.error is not None:
        return _with_id(b"3", message, b',"error":' + write_json(message.error))
    if message.result is UNSET_RESULT:
        return _with_id(b"3", message, b"")
    return _with_id(b"3", message, b',"result":' + write_json(message.result))


def _write_close(message: Close) -> bytes:
    error = b"" if message.error is None else b',"error":' + write_json(message.error)
    return b'{"type":7' + error + (b',"allowReconnect":true' if message.allow_reconnect else b"") + b"}\x1e"


# Any: each entry takes the message type that it stands under.
_WRITERS: dict[type, Callable[[Any], bytes]] = {
    Invocation: lambda message: _call(b"1", message),
    StreamItem: lambda message: _with_id(b"2", message, b',"item":' + write_json(message.item)),
    Completion: _write_completion,
    StreamInvocation: lambda message: _call(b"4", message),
    CancelInvocation: lambda message: _with_id(b"5", message, b""),
    Ping: lambda _message: b'{"type":6}\x1e',
    Close: _write_close,
    Ack: lambda message: b'{"type":8,"sequenceId":%d}\x1e' % message.sequence_id,
    Sequence_: lambda message: b'{"type":9,"sequenceId":%d}\x1e' % message.sequence_id,
}
