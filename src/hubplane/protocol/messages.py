"""The messages of the hub protocol, and the handshake that precedes them.

Arguments, items and results that come from a client stay encoded (`Raw`) until the hub method, and so the types, are
known: `ArgumentDecoder` and `ValueDecoder` of `hub_protocol` turn them into objects.

Source: signalr-server sections 3.1 and 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TypeAlias

import msgspec

__all__ = [
    "UNSET_RESULT",
    "Ack",
    "CancelInvocation",
    "Close",
    "Completion",
    "HandshakeRequest",
    "HubMessage",
    "Invocation",
    "NoResult",
    "Ping",
    "Raw",
    "Sequence_",
    "StreamInvocation",
    "StreamItem",
]

Raw: TypeAlias = msgspec.Raw
"""One still encoded value, of the protocol that the connection speaks."""


class NoResult(Enum):
    """The type of `UNSET_RESULT`: a completion that carries neither result nor error."""

    UNSET = "unset"


UNSET_RESULT = NoResult.UNSET


class HandshakeRequest(msgspec.Struct, frozen=True):
    """The first message of a client: the hub protocol it wants, by name and version."""

    protocol: str
    version: int


class Invocation(msgspec.Struct):
    """Type 1: call `target`. Without `invocation_id` no answer is wanted.

    `arguments` is `Raw` (the encoded array) when received, a sequence of objects when it is to be sent. A protocol that
    found `arguments` unreadable as an array stores the reason in `binding_error`; the call then fails, not the
    connection.
    """

    target: str
    arguments: Raw | Sequence[object]
    invocation_id: str | None = None
    stream_ids: Sequence[str] = ()
    headers: Mapping[str, str] | None = None
    binding_error: str | None = None


class StreamInvocation(msgspec.Struct):
    """Type 4: call the streaming method `target`; received only."""

    invocation_id: str
    target: str
    arguments: Raw | Sequence[object]
    stream_ids: Sequence[str] = ()
    headers: Mapping[str, str] | None = None
    binding_error: str | None = None


class StreamItem(msgspec.Struct):
    """Type 2: one item of the stream `invocation_id`; `item` is `Raw` when received."""

    invocation_id: str
    item: object
    headers: Mapping[str, str] | None = None


class Completion(msgspec.Struct):
    """Type 3: the end of a call or stream, with an error, a result (`Raw` when received) or neither."""

    invocation_id: str
    error: str | None = None
    result: object = UNSET_RESULT
    headers: Mapping[str, str] | None = None


class CancelInvocation(msgspec.Struct):
    """Type 5: the client no longer wants the stream `invocation_id`."""

    invocation_id: str
    headers: Mapping[str, str] | None = None


class Ping(msgspec.Struct):
    """Type 6: still here."""


class Close(msgspec.Struct):
    """Type 7: the connection ends; `allow_reconnect` tells automatic clients whether to come back."""

    error: str | None = None
    allow_reconnect: bool = False


class Ack(msgspec.Struct):
    """Type 8 (version 2): everything up to `sequence_id` has arrived."""

    sequence_id: int


class Sequence_(msgspec.Struct):  # noqa: N801 - `Sequence` is a typing word; the wire name is Sequence
    """Type 9 (version 2): the next counted message has the number `sequence_id`."""

    sequence_id: int


HubMessage: TypeAlias = (
    Invocation | StreamInvocation | StreamItem | Completion | CancelInvocation | Ping | Close | Ack | Sequence_
)
