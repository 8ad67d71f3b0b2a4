"""One connection's progress through the hub protocol: bytes in, messages out, and what the clock demands.

State by state, what changes it (`HubSession.failure` is set in every row that names a fault):

========== ============================================ ==========
State      Event                                        Next state
========== ============================================ ==========
HANDSHAKE  a request that can be met                    OPEN
HANDSHAKE  a faulty, oversized or late request          CLOSED
OPEN       a faulty or oversized message, silence       CLOSED
any        `close()`                                    CLOSED
CLOSED     bytes, ticks                                 CLOSED; they are ignored
========== ============================================ ==========

Source: signalr-server sections 3, 4, 5.6 and 5.14.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Enum
from typing import TypeVar

from hubplane.errors import ClientTimeoutError, HandshakeError, RemoteProtocolError
from hubplane.options import HubOptions
from hubplane.protocol.framing import RECORD_SEPARATOR, FramingError, frame_length
from hubplane.protocol.handshake import HANDSHAKE_CANCELED, parse_handshake_request, select_protocol
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.messages import HandshakeRequest, HubMessage, Ping

__all__ = ["HubSession", "SessionState", "ping_bytes"]

FaultT = TypeVar("FaultT", bound=RemoteProtocolError)


class SessionState(Enum):
    """Where a session stands; the module's table has the transitions."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    CLOSED = "closed"


# Looking a member up in its class takes longer than all else that the steady state does with it.
_HANDSHAKE, _OPEN, _CLOSED = SessionState.HANDSHAKE, SessionState.OPEN, SessionState.CLOSED


class HubSession:
    """One connection's state machine. It reads no clock and does no I/O.

    Args:
        protocols: The protocols that the hub speaks, by name in lower case.
        options: The hub's options.
        now: Monotonic seconds at which the connection began.
        transfer_formats: What the connection's transport can carry.

    Attributes:
        state: Where it stands.
        protocol: The hub protocol, once the handshake has chosen it.
        version: The version of the handshake, 0 before it.
        failure: What the client did wrong; nothing that came behind it is looked at.
    """

    __slots__ = (
        "_buffer",
        "_heard",
        "_limit",
        "_needed",
        "_options",
        "_pinged_at",
        "_pings",
        "_protocols",
        "_quiet_since",
        "_transfer_formats",
        "failure",
        "protocol",
        "state",
        "version",
    )

    def __init__(
        self,
        protocols: Mapping[str, HubProtocol],
        options: HubOptions,
        *,
        now: float,
        transfer_formats: Collection[TransferFormat],
    ) -> None:
        self.state: SessionState = _HANDSHAKE
        self.protocol: HubProtocol | None = None
        self.version = 0
        self.failure: RemoteProtocolError | None = None
        self._protocols = protocols
        self._options = options
        self._transfer_formats = transfer_formats
        self._limit = options.maximum_receive_message_size
        self._buffer: bytearray | None = None  # an unfinished message
        self._needed = 0  # its size, as far as its length prefix tells
        self._pinged_at = now
        self._quiet_since = now
        self._heard = False  # a message came since the last tick
        self._pings = False  # the client has pinged, so its silence has a meaning

    def receive_data(self, data: bytes) -> list[HandshakeRequest | HubMessage]:
        """Take bytes from the client and return the messages that they complete, in order.

        Never raises for what a client does: the messages before a fault are returned, the fault is in `failure`.
        """
        messages: list[HandshakeRequest | HubMessage] = []
        if self._buffer is not None or self.state is not _OPEN:
            data = self._complete(data, messages)
        protocol = self.protocol
        if protocol is None or not data:
            return messages
        fault: RemoteProtocolError | None = None
        try:
            bodies, rest = protocol.split(data, self._limit)
            if rest:
                self._keep(rest, protocol)
        except RemoteProtocolError as error:
            fault = error
            bodies = error.bodies if isinstance(error, FramingError) else []
        if bodies:
            self._heard = True
            decode = protocol.decode
            try:
                for body in bodies:
                    message = decode(body)
                    if message is not None:
                        if type(message) is Ping:
                            self._pings = True
                        messages.append(message)
            except RemoteProtocolError as error:
                fault = error
        if fault is not None:
            self._fail(fault)
        return messages

    def tick(self, now: float, *, busy: bool) -> bool:
        """Judge the clock; to be called about once a second.

        Args:
            now: Monotonic seconds.
            busy: Whether the hub, not the client, is what holds messages up; such time is no silence.

        Returns:
            Whether a Ping is to be sent: every `keep_alive_interval` since the last one, or since the beginning.

        Raises:
            ClientTimeoutError: A client that has pinged was silent for longer than `client_timeout_interval`.
            HandshakeError: The handshake took longer than `handshake_timeout`.
        """
        options = self._options
        if self.state is _OPEN:
            if self._heard or busy:
                self._heard = False
                self._quiet_since = now
            elif self._pings and now - self._quiet_since > options.client_timeout_interval:
                raise self._fail(ClientTimeoutError())
            if now - self._pinged_at >= options.keep_alive_interval:
                self._pinged_at = now
                return True
        elif self.state is _HANDSHAKE and now - self._quiet_since > options.handshake_timeout:
            raise self._fail(HandshakeError(HANDSHAKE_CANCELED))
        return False

    def close(self) -> None:
        """Ignore everything from now on, and forget what was unfinished."""
        self.state = _CLOSED
        self._buffer = None

    # -- what is not whole messages in an open session -------------------------------------------------------------

    def _complete(self, data: bytes, messages: list[HandshakeRequest | HubMessage]) -> bytes:
        """Return the bytes to be cut into hub messages now; none while a message is unfinished."""
        if self.state is _HANDSHAKE:
            return self._shake_hands(data, messages)
        buffer, protocol = self._buffer, self.protocol
        if buffer is None or protocol is None:
            return b""
        try:
            if not self._has_complete(buffer, data, protocol):
                return b""
        except FramingError as fault:
            self._fail(fault)
            return b""
        self._buffer = None
        return bytes(buffer)

    def _has_complete(self, buffer: bytearray, data: bytes, protocol: HubProtocol) -> bool:
        """Put `data` behind the unfinished message, and tell whether that completes it.

        However small the pieces are, each byte is looked at once.
        """
        limit = self._limit
        buffer += data
        if protocol.transfer_format is TransferFormat.TEXT:
            if RECORD_SEPARATOR in data:
                return True
            if limit is not None and len(buffer) > limit:
                raise FramingError.too_large(limit, [])
            return False
        if len(buffer) >= self._needed:
            self._needed = frame_length(buffer)  # the prefix may have been unfinished
        if len(buffer) >= self._needed:
            return True
        if limit is not None and self._needed > limit:
            raise FramingError.too_large(limit, [])
        return False

    def _keep(self, rest: bytes, protocol: HubProtocol) -> None:
        self._buffer = bytearray(rest)
        if protocol.transfer_format is TransferFormat.BINARY:
            self._needed = frame_length(rest)

    def _shake_hands(self, data: bytes, messages: list[HandshakeRequest | HubMessage]) -> bytes:
        """Take the handshake request out of `data`; return what stands behind it."""
        buffer = self._buffer
        limit = self._limit
        end = data.find(RECORD_SEPARATOR)
        size = (len(buffer) if buffer else 0) + (end + 1 if end >= 0 else len(data))
        if limit is not None and size > limit:
            self._fail(HandshakeError(HANDSHAKE_CANCELED))
            return b""
        if end < 0:
            if buffer is None:
                buffer = self._buffer = bytearray()
            buffer += data
            return b""
        body = data[:end] if buffer is None else bytes(buffer) + data[:end]
        self._buffer = None
        try:
            request = parse_handshake_request(body)
            self.protocol = select_protocol(request, self._protocols, self._transfer_formats)
        except HandshakeError as fault:
            self._fail(fault)
            return b""
        self.version = request.version
        self.state = _OPEN
        self._heard = True
        messages.append(request)
        return data[end + 1 :]

    def _fail(self, fault: FaultT) -> FaultT:
        self.failure = fault
        self.close()
        return fault


def ping_bytes(protocol: HubProtocol) -> bytes:
    """The bytes of a Ping in `protocol`, made once per class of protocols."""
    kind = type(protocol)
    if kind not in _pings:
        _pings[kind] = protocol.encode(Ping())
    return _pings[kind]


_pings: dict[type[HubProtocol], bytes] = {}
