"""The outbound buffer of a stateful connection: every counted message goes through it, whoever writes.

Source: signalr-server sections 6.2 and 6.4; what writers meet is hubplane's own: docs/how-to/stateful-reconnect.md.
"""

from __future__ import annotations

from collections.abc import Callable

from hubplane.connection.outbound import Cork, OutboundBuffer
from hubplane.connection.transport import OutboundBatch, Transport
from hubplane.protocol.replay import ReplayLog

__all__ = ["ReplayBuffer"]

CHUNK = 65_536
"""Bytes above which what waits leaves in several writes."""


class ReplayBuffer(OutboundBuffer):
    """An outbound buffer that also keeps what it has sent, for replay.

    Writing never waits. Above `replay_limit` bytes kept, senders that can wait are asked to, until less is kept; above
    the limit of every outbound buffer the client is disconnected at once.

    Args:
        cork: As for every outbound buffer.
        limit: Bytes that may wait or be kept at all.
        on_overflow: The verdict above that.
        log: Where the messages are kept.
        replay_limit: Bytes kept above which senders wait.

    Attributes:
        counting: Messages are counted from now on.
        is_over_limit: More than `replay_limit` was kept, and it has not been undercut since.
    """

    __slots__ = ("_log", "_replay_limit", "counting", "is_over_limit")

    def __init__(
        self, cork: Cork, limit: int, on_overflow: Callable[[], None], *, log: ReplayLog, replay_limit: int
    ) -> None:
        super().__init__(cork, limit, on_overflow)
        self._log = log
        self._replay_limit = replay_limit
        self.counting = False
        self.is_over_limit = False

    def append(self, payload: bytes) -> None:
        """Count and queue a message that only this connection gets."""
        if self._keep(payload):
            super().append(payload)

    def append_shared(self, payload: bytes) -> None:
        """Count and queue a message that other connections get too, as the same object."""
        if self._keep(payload):
            super().append_shared(payload)

    def append_uncounted(self, payload: bytes) -> None:
        """Queue a message that is not counted; without a socket it is dropped."""
        if self.transport is not None:
            super().append_shared(payload)

    def _keep(self, payload: bytes) -> bool:
        """Keep a message for replay; False when it is not to be queued, because there is no socket."""
        if self.counting:
            log = self._log
            log.add(payload)
            if log.size > self._limit:
                self._overflow()
                return False
            if log.size > self._replay_limit:
                self.is_over_limit = self.blocked = True
        return self.transport is not None

    def settle(self) -> bool:
        """Something was acknowledged, or the socket has changed: whether senders may go on."""
        if self.is_over_limit and self._log.size < self._replay_limit:
            self.is_over_limit = False
        self.blocked = self.is_over_limit or (self.held and self.transport is not None)
        return not self.blocked

    def unblock(self) -> None:
        """The peer takes bytes again."""
        super().unblock()
        self.blocked = self.is_over_limit

    def clear(self) -> None:
        """Drop everything, for good."""
        super().clear()
        self._log.clear()

    def detach(self) -> None:
        """The socket is gone: what waited for it is kept for replay, or worth nothing."""
        self.transport = None
        self.held = True
        super().clear()
        self.settle()

    def flush(self, batches: dict[bytes | tuple[bytes, ...], OutboundBatch] | None = None) -> None:
        """As for every buffer; but much leaves in several writes, and only as fast as the socket takes it.

        The client can acknowledge the first one while the others are under way, and a socket that is given up holds
        little.
        """
        if self.size <= CHUNK:
            super().flush(batches)
            return
        self._dirty = False
        while self._pending and not self.held and self.transport is not None:
            size = count = 0
            while count < len(self._pending) and size < CHUNK:
                size += len(self._pending[count])
                count += 1
            payload = b"".join(self._pending[:count])
            del self._pending[:count]
            self.size -= size
            self.transport.send(OutboundBatch(payload))

    def flush_all(self) -> None:
        """Hand everything over, in one write: the connection is about to close."""
        self.held = self.blocked = False
        super().flush()

    def resume(self, transport: Transport, sequence: bytes) -> None:
        """Send everything that is kept on a new socket, behind `sequence`."""
        self.transport = transport
        self._pending = [sequence, *self._log.messages()]
        self._private = True
        self.size = len(sequence) + self._log.size
        self.held = False
        self.flush()
