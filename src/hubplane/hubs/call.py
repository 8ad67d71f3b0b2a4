"""What a hub instance is bound to: the call in progress, and what all calls of a connection share.

`Hub.clients`, `groups` and `context` reach everything from the one `HubCall` that the dispatcher stores in the
instance, so no context variables are needed and concurrent calls cannot mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from hubplane.connection.hub_connection import HubConnection
from hubplane.hubs.depends import Solved
from hubplane.hubs.methods import HubMethod
from hubplane.hubs.port import HubPort
from hubplane.hubs.streaming import ConnectionStreams
from hubplane.protocol.hub_protocol import ArgumentDecoder, ValueDecoder

if TYPE_CHECKING:
    from hubplane.hubs.context import HubCallerContext

__all__ = ["CallGate", "CallSite", "HubCall", "MethodBinding", "MethodTable", "ReleaseSlot"]

ReleaseSlot: TypeAlias = Callable[[], Callable[[], None]]
"""Lets the next call of the connection start, and returns what takes the slot back when this call has ended."""


class CallGate(Protocol):
    """What the runner of a connection lets its calls do.

    Attributes:
        looking: `look_behind` was called and has not run yet.
    """

    looking: bool

    def look_behind(self) -> None:
        """A call starts, and something stands behind it or is due after it: see to it in the next turn of the loop."""
        ...

    def release_slot(self) -> Callable[[], None]:
        """A running call waits for its client: let the next one start. What is returned ends that again."""
        ...

    def has_surplus(self) -> bool:
        """Whether there are more workers than slots, because a slot was handed back meanwhile."""
        ...


class MethodBinding:
    """A method with its decoders for one hub protocol.

    Attributes:
        method: The method.
        decode: For its arguments.
        decode_items: For the items of its uploads, in order.
        is_plain: Neither streams nor uploads: a call holds a slot.
        is_direct: Nothing stands around the method: it may be called as it is.
    """

    __slots__ = ("decode", "decode_items", "is_direct", "is_plain", "method")

    def __init__(
        self, method: HubMethod, decode: ArgumentDecoder, decode_items: Sequence[ValueDecoder], *, is_direct: bool
    ) -> None:
        self.method = method
        self.decode = decode
        self.decode_items = decode_items
        self.is_plain = method.is_plain
        self.is_direct = is_direct


MethodTable: TypeAlias = Mapping[str, MethodBinding]
"""Spellings of targets to methods, for one hub protocol."""


class CallSite:
    """What the calls of one connection share.

    Attributes:
        connection: The connection.
        port: The way to the lifetime manager.
        table: The hub's methods, with decoders for the protocol of this connection.
        encode_result: That protocol's `encode_result`.
        variables: The context variables of the request that opened the connection; background calls run in copies.
        context: The caller's context, made when first asked for.
        streams: The connection's streams, made for the first one.
    """

    __slots__ = ("connection", "context", "encode_result", "port", "streams", "table", "variables")

    def __init__(self, connection: HubConnection, port: HubPort, table: MethodTable) -> None:
        self.connection = connection
        self.port = port
        self.table = table
        self.encode_result = connection.protocol.encode_result
        self.variables = copy_context()
        self.context: HubCallerContext | None = None
        self.streams: ConnectionStreams | None = None


class HubCall(msgspec.Struct, eq=False):
    """One run of a hub method or lifecycle callback. A msgspec struct, because one is made for each call, in C.

    Attributes:
        site: What the calls of this connection share.
        release_slot: Given by the runner for calls that hold a slot.
        take_back: What `release_slot` returned: to be called when the call has ended.
        results_allowed: False in `on_connected`, where the client cannot be asked for results (row B118).
        solved: What dependencies have been made for it; None for none.
    """

    site: CallSite
    release_slot: ReleaseSlot | None = None
    take_back: Callable[[], None] | None = None
    results_allowed: bool = True
    solved: Solved | None = None

    def hand_slot_back(self) -> None:
        """The method is about to wait for a client: let the next call start (signalr-server section 5.4)."""
        release = self.release_slot
        if release is not None:
            self.release_slot = None
            self.take_back = release()
