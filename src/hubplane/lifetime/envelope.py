"""The payloads that nodes exchange: MessagePack arrays, byte for byte those of ASP.NET Core.

Writing always takes the smallest form. Reading is as lenient as the original: any width, more items than known, bytes
behind the array; what the original drops raises `EnvelopeError` with the original's text. Invocations have a fast path
through msgspec; only what that refuses goes through the patient reader.

Source: redis-backplane section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hubplane.errors import EnvelopeError
from hubplane.lifetime.msgpack_reader import MsgpackReader

__all__ = [
    "ADD_TO_GROUP",
    "REMOVE_FROM_GROUP",
    "CompletionEnvelope",
    "GroupCommand",
    "InvocationEnvelope",
    "decode_ack",
    "decode_completion",
    "decode_group_command",
    "decode_invocation",
    "encode_ack",
    "encode_completion",
    "encode_group_command",
    "encode_invocation",
]

ADD_TO_GROUP = 1
REMOVE_FROM_GROUP = 2

INT32 = (-(2**31), 2**31 - 1)
BYTE = (0, 255)


class InvocationEnvelope(msgspec.Struct, array_like=True, gc=False):
    """A message to clients.

    Attributes:
        excluded: Connection ids that must not get it; honoured on All and Group channels only.
        payloads: Protocol name to framed hub message; empty bytes for "nothing in this protocol".
        invocation_id: Set when a client is asked for a result.
        return_channel: Where the answer goes, without prefix.
    """

    excluded: Sequence[str]
    payloads: dict[str, bytes]
    invocation_id: str | None = None
    return_channel: str | None = None


class GroupCommand(msgspec.Struct, frozen=True):
    """A change of membership for a connection that may live on any node.

    Attributes:
        command_id: Comes back in the acknowledgement; 32 bits, signed.
        node_name: Who asks, and so where the acknowledgement goes.
        action: `ADD_TO_GROUP` or `REMOVE_FROM_GROUP`; any other does nothing and is acknowledged.
        group: The group.
        connection_id: The connection.
    """

    command_id: int
    node_name: str
    action: int
    group: str
    connection_id: str


class CompletionEnvelope(msgspec.Struct, frozen=True):
    """A client's answer: the framed completion, and the protocol it is written in."""

    protocol: str
    payload: bytes


class _WithRawPayloads(msgspec.Struct, array_like=True, gc=False):
    excluded: list[str]
    payloads: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode_invocation = msgspec.msgpack.Decoder(InvocationEnvelope).decode
_decode_raw_payloads = msgspec.msgpack.Decoder(_WithRawPayloads).decode


def encode_invocation(
    excluded: Sequence[str],
    payloads: Mapping[str, bytes],
    invocation_id: str | None = None,
    return_channel: str | None = None,
) -> bytes:
    """Pack a message to clients; four items when a client is asked for a result.

    Raises:
        UnicodeEncodeError: An id holds a lone surrogate.
    """
    if invocation_id is None:
        return _encode((excluded, payloads))
    return _encode((excluded, payloads, invocation_id, return_channel))


def decode_invocation(payload: bytes) -> InvocationEnvelope:
    """Unpack a message to clients.

    Raises:
        EnvelopeError: The original would drop it too.
    """
    # Three items are read as two, whatever the third is (2.7).
    if not payload or payload[0] == 0x93 or payload[0] > 0x9F:
        return _read_invocation(payload)
    try:
        envelope = _decode_invocation(payload)
        # A name given twice: the first one counts (2.6), but a dictionary keeps the last.
        header = memoryview(_decode_raw_payloads(payload).payloads)[0] if envelope.excluded else payload[2]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _read_invocation(payload)
    if header != 0x80 | len(envelope.payloads):
        return _read_invocation(payload)
    if envelope.invocation_id == "":
        envelope.invocation_id = None
    return envelope


def _read_invocation(payload: bytes) -> InvocationEnvelope:
    reader = MsgpackReader(payload)
    count = _items(reader, 2, "Invocation")
    excluded = [name for _ in range(reader.array()) if (name := reader.string()) is not None]
    payloads: dict[str, bytes] = {}
    for _ in range(reader.map()):
        name = reader.string()
        blob = reader.binary() or b""
        if name is not None:
            payloads.setdefault(name, blob)
    if count <= 3:
        return InvocationEnvelope(excluded, payloads)
    invocation_id = reader.string()
    return InvocationEnvelope(excluded, payloads, invocation_id or None, reader.string())


def encode_group_command(command: GroupCommand) -> bytes:
    """Pack a change of membership."""
    return _encode((command.command_id, command.node_name, command.action, command.group, command.connection_id))


def decode_group_command(payload: bytes) -> GroupCommand:
    """Unpack a change of membership; nil names are empty ones.

    Raises:
        EnvelopeError: It is too short, of other types, or a number is out of range.
    """
    reader = MsgpackReader(payload)
    _items(reader, 5, "GroupCommand")
    return GroupCommand(
        command_id=reader.integer(*INT32),
        node_name=reader.string() or "",
        action=reader.integer(*BYTE),
        group=reader.string() or "",
        connection_id=reader.string() or "",
    )


def encode_ack(command_id: int) -> bytes:
    """Pack an acknowledgement."""
    return _encode((command_id,))


def decode_ack(payload: bytes) -> int:
    """Unpack an acknowledgement: the id of the command.

    Raises:
        EnvelopeError: It is no acknowledgement.
    """
    reader = MsgpackReader(payload)
    _items(reader, 1, "Ack")
    return reader.integer(*INT32)


def encode_completion(protocol: str, payload: bytes) -> bytes:
    """Pack a client's answer, framed in the protocol that the client speaks."""
    return _encode((protocol, payload))


def decode_completion(payload: bytes) -> CompletionEnvelope:
    """Unpack a client's answer.

    Raises:
        EnvelopeError: It is too short or of other types.
    """
    reader = MsgpackReader(payload)
    _items(reader, 2, "CompletionMessage")
    return CompletionEnvelope(protocol=reader.string() or "", payload=reader.binary() or b"")


def _items(reader: MsgpackReader, least: int, kind: str) -> int:
    count = reader.array()
    if count < least:
        raise EnvelopeError(f"Insufficient items in {kind} array.")
    return count
