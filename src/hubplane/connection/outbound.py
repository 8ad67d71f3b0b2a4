"""Corked fan-out: what one turn of the event loop brings leaves in one write per connection.

Writers append whole messages; `Cork` flushes every touched buffer once, behind all callbacks of the turn. Buffers whose
pending messages are the same objects in the same order share one joined batch, so a burst of broadcasts is joined and
framed once for all its recipients. No task, no await and no lock per recipient.

Source: docs/architecture.md, "Corked fan-out".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hubplane.connection.transport import OutboundBatch, Transport

__all__ = ["Cork", "OutboundBuffer"]

SLICE = 64
"""Buffers flushed in a row before the event loop gets a turn (docs/decisions/0003-sliced-flush.md)."""


class Cork:
    """Collects the buffers touched in a turn of the loop and flushes them together, a slice at a time.

    Between two slices the loop reads: a broadcast that arrives while an earlier one is still being written joins it in
    the buffers that were not reached yet, and a client that calls meanwhile does not wait for a thousand writes.
    """

    __slots__ = ("_dirty", "_loop")

    def __init__(self) -> None:
        self._dirty: list[OutboundBuffer] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, buffer: OutboundBuffer) -> None:
        """Flush `buffer` behind the callbacks of this turn."""
        if not self._dirty:
            self._loop = loop = asyncio.get_running_loop()
            loop.call_soon(self._flush)
        self._dirty.append(buffer)

    def add_shared(self, buffer: OutboundBuffer) -> None:
        """Flush `buffer`, which has got a message of a fan-out, a turn later.

        Calls that wait for the broker wake in the same turn as what it delivered. They run first: their answers join,
        and what they publish is on its way while the writes of the fan-out keep this node busy.
        """
        if not self._dirty:
            self._loop = loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._flush)
        self._dirty.append(buffer)

    def _flush(self) -> None:
        dirty = self._dirty
        if len(dirty) > SLICE:
            part = dirty[:SLICE]
            del dirty[:SLICE]
        else:
            part = dirty
            self._dirty = []
        batches: dict[bytes | tuple[bytes, ...], OutboundBatch] = {}
        for buffer in part:
            buffer.flush(batches)
        if part is not dirty and self._loop is not None:
            self._loop.call_soon(self._flush)


class OutboundBuffer:
    """The messages that wait to leave on one connection: counted in bytes, bounded, never awaited.

    Args:
        cork: Shared by the connections of a process.
        limit: Bytes that may wait. Above it `on_overflow` is called once and everything pending is dropped.
        on_overflow: The verdict on a peer that does not read: it disconnects that peer.

    Attributes:
        transport: Where the messages go; None while there is none.
        held: The transport takes nothing at the moment.
        blocked: Senders that can wait should: the transport takes nothing, or too much was sent already.
        size: Bytes that wait to leave.
    """

    __slots__ = (
        "_cork",
        "_dirty",
        "_limit",
        "_on_overflow",
        "_pending",
        "_private",
        "blocked",
        "held",
        "size",
        "transport",
    )

    def __init__(self, cork: Cork, limit: int, on_overflow: Callable[[], None]) -> None:
        self.transport: Transport | None = None
        self.held = False
        self.blocked = False
        self.size = 0
        self._cork = cork
        self._limit = limit
        self._on_overflow = on_overflow
        self._pending: list[bytes] = []
        self._dirty = False
        self._private = False

    def append(self, payload: bytes) -> None:
        """Queue a message that only this connection gets."""
        self._private = True
        self._pending.append(payload)
        self.size += len(payload)
        # The same as in append_shared: a call more for every answer is worth a repetition.
        if not self._dirty and not self.held:
            self._dirty = True
            self._cork.add(self)
        elif self.size > self._limit:
            self._overflow()

    def append_shared(self, payload: bytes) -> None:
        """Queue a message that other connections get too, as the same object."""
        self._pending.append(payload)
        self.size += len(payload)
        if not self._dirty and not self.held:
            self._dirty = True
            self._cork.add_shared(self)
        elif self.size > self._limit:
            self._overflow()

    # What stateful reconnect does not count: the hub's pings, and the last message.
    append_uncounted = append_shared

    def _overflow(self) -> None:
        self.clear()
        self._on_overflow()

    def clear(self) -> None:
        """Drop everything pending."""
        self._pending = []
        self.size = 0
        self._private = False

    def flush(self, batches: dict[bytes | tuple[bytes, ...], OutboundBatch] | None = None) -> None:
        """Hand everything pending to the transport, unless that takes nothing.

        Args:
            batches: The batches already made in this flush, to share among buffers with the same content.
        """
        self._dirty = False
        pending = self._pending
        transport = self.transport
        if not pending or self.held or transport is None:
            return
        self._pending = []
        self.size = 0
        if self._private or batches is None:
            self._private = False
            transport.send(OutboundBatch(pending[0] if len(pending) == 1 else b"".join(pending)))
            return
        # Payloads of a fan-out are the same objects for every recipient, so hashing and comparing them is cheap:
        # bytes remember their hash, and identical objects are equal without a look at their content.
        key = pending[0] if len(pending) == 1 else tuple(pending)
        batch = batches.get(key)
        if batch is None:
            batch = batches[key] = OutboundBatch(key if isinstance(key, bytes) else b"".join(key))
        transport.send(batch)

    def flush_all(self) -> None:
        """Hand everything over even if the peer does not take it now: the connection is about to close."""
        self.held = self.blocked = False
        self.flush()

    def block(self) -> None:
        """The peer does not take bytes: keep what is pending until `unblock`."""
        self.held = self.blocked = True

    def unblock(self) -> None:
        """The peer takes bytes again."""
        self.held = self.blocked = False
        if self._pending and not self._dirty:
            self._dirty = True
            self._cork.add(self)
