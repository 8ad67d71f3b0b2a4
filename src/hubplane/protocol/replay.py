"""Counting for stateful reconnect: what is to be sent again, and what has been received already.

Both sides of a connection number the messages of types 1 to 5, each direction for itself, from 1. The numbers are never
sent along; they follow from the order. A sender keeps each counted message until it is acknowledged. On a new socket it
says with which number it begins, and sends what it has kept; the receiver drops what it knows.

Source: signalr-server sections 6.2, 6.3 and 6.5.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping

from hubplane.errors import RemoteProtocolError
from hubplane.options import HubOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.messages import Ack, Close, HandshakeRequest, HubMessage, Ping, Sequence_
from hubplane.protocol.session import HubSession

__all__ = ["ReceiptCount", "ReplayLog", "StatefulSession"]

_UNCOUNTED = (Ping, Close, HandshakeRequest)
_FIRST_VERSION = 2


class ReplayLog:
    """Counted messages in order of sending, until they are acknowledged. It has no limit of its own.

    Attributes:
        last: The number of the last message, 0 before the first.
        size: Bytes kept, framing included.
    """

    __slots__ = ("_kept", "last", "size")

    def __init__(self) -> None:
        self._kept: deque[bytes] = deque()
        self.last = 0
        self.size = 0

    @property
    def first(self) -> int:
        """The number of the oldest message kept; where there is none, that of the next to be sent."""
        return self.last - len(self._kept) + 1

    def add(self, payload: bytes) -> None:
        """Count a message that is being sent, as framed bytes, and keep it."""
        self.last += 1
        self.size += len(payload)
        self._kept.append(payload)

    def acknowledge(self, sequence_id: int) -> None:
        """The peer has everything up to `sequence_id`; an id beyond the last one means everything there is."""
        kept = self._kept
        for _ in range(min(sequence_id - self.first + 1, len(kept))):
            self.size -= len(kept.popleft())

    def messages(self) -> list[bytes]:
        """What is to be sent again behind ``Sequence(first)``, oldest first, as the same bytes."""
        return list(self._kept)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._kept.clear()
        self.size = 0


class ReceiptCount:
    """What has been received.

    Attributes:
        next: The number of the counted message that comes next.
        latest: The highest number received, 0 before the first.
    """

    __slots__ = ("_acknowledged", "latest", "next")

    def __init__(self) -> None:
        self.next = 1
        self.latest = 0
        self._acknowledged = 0

    def accept(self) -> bool:
        """Count a message; False for one that was received before, which is to be dropped."""
        current = self.next
        self.next = current + 1
        if current <= self.latest:
            # The peer sends again what it thinks is not acknowledged: an acknowledgement was lost with the socket.
            self._acknowledged = 0
            return False
        self.latest = current
        return True

    def begin_at(self, sequence_id: int) -> None:
        """The peer's next counted message has this number.

        Raises:
            RemoteProtocolError: Messages before it have never arrived.
        """
        if sequence_id > self.next:
            raise RemoteProtocolError(
                "Sequence ID greater than amount of messages we've received.", error_type="InvalidOperationException"
            )
        self.next = sequence_id

    def due(self) -> int | None:
        """The number to acknowledge, None when the peer knows it already or nothing was received."""
        return self.latest if self.latest > self._acknowledged else None

    def acknowledged(self) -> None:
        """`due` has been sent."""
        self._acknowledged = self.latest


class StatefulSession(HubSession):
    """A session that counts, once the handshake has agreed on version 2; with version 1 it is a plain one.

    Acknowledgements and sequence numbers end here, and so do messages that came before; the rest comes out.

    Attributes:
        log: What was sent and is not acknowledged. Whoever writes adds to it, at the moment of writing.
        receipts: What was received.
    """

    __slots__ = ("log", "receipts")

    def __init__(
        self,
        protocols: Mapping[str, HubProtocol],
        options: HubOptions,
        *,
        now: float,
        transfer_formats: Collection[TransferFormat],
    ) -> None:
        super().__init__(protocols, options, now=now, transfer_formats=transfer_formats)
        self.log = ReplayLog()
        self.receipts = ReceiptCount()

    @property
    def counts(self) -> bool:
        """Whether the handshake has agreed on counting."""
        return self.version >= _FIRST_VERSION

    def receive_data(self, data: bytes) -> list[HandshakeRequest | HubMessage]:
        """As `HubSession.receive_data`, without what was received before."""
        messages = super().receive_data(data)
        if not messages or not self.counts:
            return messages
        receipts = self.receipts
        fresh: list[HandshakeRequest | HubMessage] = []
        for message in messages:
            if isinstance(message, Ack):
                self.log.acknowledge(message.sequence_id)
            elif isinstance(message, Sequence_):
                try:
                    receipts.begin_at(message.sequence_id)
                except RemoteProtocolError as fault:
                    self._fail(fault)
                    break
            elif isinstance(message, _UNCOUNTED) or receipts.accept():
                fresh.append(message)
        return fresh

    def socket_lost(self) -> None:
        """Forget the message that the socket broke off in; the client sends it again on the next one."""
        self._buffer = None
