"""What an encoding of hub messages offers.

Source: signalr-server section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol, TypeAlias

from hubplane.protocol.messages import HubMessage, Raw

__all__ = ["UNWRITABLE", "ArgumentDecoder", "HubProtocol", "ItemEncoder", "TransferFormat", "ValueDecoder"]

ArgumentDecoder: TypeAlias = Callable[[Raw], Sequence[object]]
"""Turns the encoded argument array of a call into objects; raises `BindingError`."""

ValueDecoder: TypeAlias = Callable[[Raw], object]
"""Turns one encoded value into an object; raises `BindingError`."""

ItemEncoder: TypeAlias = Callable[[object], bytes]
"""Turns one item of a stream into a whole message; raises what `HubProtocol.encode` raises."""

UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoding raises for a value that has no form in a protocol."""


class TransferFormat(Enum):
    """What a hub protocol needs from its transport; the value is negotiate's word for it."""

    TEXT = "Text"
    BINARY = "Binary"


class HubProtocol(Protocol):
    """One encoding, stateless and shared by all connections."""

    @property
    def name(self) -> str:
        """The name in handshake and backplane map: ``json``, ``messagepack``."""
        ...

    @property
    def version(self) -> int:
        """Highest version spoken (2); lower ones are the same bytes without types 8 and 9."""
        ...

    @property
    def transfer_format(self) -> TransferFormat:
        """Text or binary."""
        ...

    def split(self, buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
        """Cut `buffer` into the bodies of complete messages (framing removed) and the rest.

        Args:
            buffer: What has arrived and was not yet cut.
            limit: Largest message in bytes, framing included; None for no limit.

        Raises:
            RemoteProtocolError: A message, complete or not, is larger than `limit`, or the framing is broken.
        """
        ...

    def decode(self, body: bytes) -> HubMessage | None:
        """Turn the body of one message into a message; None for an unknown type, which is skipped.

        Raises:
            RemoteProtocolError: The message is malformed.
        """
        ...

    def encode(self, message: HubMessage) -> bytes:
        """Turn a message into bytes, framing included.

        Raises:
            TypeError, ValueError, OverflowError: A value cannot be written in this encoding.
        """
        ...

    def encode_result(self, invocation_id: str, result: object) -> bytes:
        """The same as `encode(Completion(invocation_id, result=result))`, for the hot path."""
        ...

    def item_encoder(self, invocation_id: str) -> ItemEncoder:
        """Make what turns an item into the bytes of `encode(StreamItem(invocation_id, item))`, once per stream."""
        ...

    def argument_decoder(self, types: Sequence[object]) -> ArgumentDecoder:
        """Make a decoder for calls of a method with these parameter types, built once per method.

        The decoder raises `BindingError` with ASP.NET Core's texts: "Invocation provides N argument(s) but target
        expects M.", or "Error binding arguments. Make sure that the types of the provided values match the types of
        the hub method being invoked."
        """
        ...

    def value_decoder(self, type_: object) -> ValueDecoder:
        """Make a decoder for single values (stream items, client results) of a type."""
        ...
