"""Streams of one connection: uploads that methods read, downloads that clients receive.

An upload is a bounded buffer between the client and an async iterator; while it is full the connection's input stands
still. A download is a task; each item waits until the client has taken enough of those before it.

Source: signalr-server section 5.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterable, Callable, Generator, Iterable

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import BindingError, ConnectionClosedError, HubException
from hubplane.protocol.hub_protocol import UNWRITABLE, ValueDecoder
from hubplane.protocol.messages import Completion, Raw, StreamItem

__all__ = ["ConnectionStreams", "Download", "UploadStream", "send_items"]

logger = logging.getLogger(__name__)

ITEMS_PER_TURN = 64
BYTES_PER_TURN = 16_384


class UploadStream:
    """What a hub method iterates over: the items that its client sends. One reader at a time.

    Args:
        capacity: Items that may wait.
        decode: Turns an encoded item into an object.
        has_room: Called when a full buffer has room again.
    """

    __slots__ = ("_capacity", "_decode", "_ended", "_error", "_has_room", "_items", "_waiter")

    def __init__(self, capacity: int, decode: ValueDecoder, has_room: Callable[[], None]) -> None:
        self._capacity = capacity
        self._decode = decode
        self._has_room = has_room
        self._items: deque[object] = deque()
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_full(self) -> bool:
        """Whether the next item has to wait."""
        return len(self._items) >= self._capacity

    def put(self, item: Raw) -> bool:
        """Add an item; False when it does not fit the type, which ends the stream with an error (row B111)."""
        try:
            value = self._decode(item)
        except Exception as error:  # types are built by the application's code too
            if not isinstance(error, BindingError):
                logger.exception("An item of an upload stream could not be bound.")
            self.end(HubException("Failed to bind Stream message."))
            return False
        self._items.append(value)
        self._wake()
        return True

    def end(self, error: Exception | None) -> None:
        """No more items; behind those that wait the reader gets `error`, if there is one. The first call counts."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def close(self) -> None:
        """Nobody reads any more."""
        was_full = self.is_full
        self._items.clear()
        self.end(None)
        if was_full:
            self._has_room()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> UploadStream:
        return self

    async def __anext__(self) -> object:
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RuntimeError("This stream is already being read.")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        was_full = self.is_full
        item = self._items.popleft()
        if was_full and not self.is_full:
            self._has_room()
        return item


class Download:
    """One stream towards a client.

    Attributes:
        task: Runs the method and sends its items.
        is_running: The task has begun; before that it cannot be interrupted, only told.
        is_cancelled: The client, or the end of the connection, wants no more items.
    """

    __slots__ = ("is_cancelled", "is_running", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.is_running = False
        self.is_cancelled = False

    def cancel(self) -> None:
        """End the stream soon; idempotent."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.is_running and self.task is not None:
                self.task.cancel()


class ConnectionStreams:
    """The streams of one connection, by the client's ids.

    Attributes:
        downloads: Running streams towards the client, by invocation id.
        active: Calls with streams of either direction that are running.
    """

    __slots__ = ("_connection", "_uploads", "active", "downloads")

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection
        self._uploads: dict[str, UploadStream] = {}
        self.downloads: dict[str, Download] = {}
        self.active = 0
        connection.on_abort(self._cancel_downloads)

    # -- uploads ------------------------------------------------------------------------------------------------

    def is_uploading(self, stream_id: str) -> bool:
        """Whether an upload with this id is open."""
        return stream_id in self._uploads

    def open_upload(self, stream_id: str, capacity: int, decode: ValueDecoder) -> UploadStream:
        """Begin an upload."""
        upload = self._uploads[stream_id] = UploadStream(capacity, decode, self._resume_input)
        return upload

    def close_uploads(self, stream_ids: Iterable[str]) -> None:
        """The method that read these uploads has ended; what still comes for them is ignored (row B113)."""
        for stream_id in stream_ids:
            upload = self._uploads.pop(stream_id, None)
            if upload is not None:
                upload.close()

    def has_room(self, stream_id: str) -> bool:
        """Whether an item for this upload may be taken now."""
        upload = self._uploads.get(stream_id)
        return upload is None or not upload.is_full

    def item(self, message: StreamItem) -> None:
        """An item came; for an unknown upload it is dropped."""
        upload = self._uploads.get(message.invocation_id)
        if upload is not None and not upload.put(message.item):  # type: ignore[arg-type]  # received items are Raw
            del self._uploads[message.invocation_id]

    def complete(self, message: Completion) -> bool:
        """The client ended an upload; False when it is none."""
        upload = self._uploads.pop(message.invocation_id, None)
        if upload is None:
            return False
        upload.end(None if message.error is None else HubException(message.error))
        return True

    def _resume_input(self) -> None:
        on_input = self._connection.on_input
        if on_input is not None:
            on_input()

    # -- downloads ----------------------------------------------------------------------------------------------

    def cancel(self, invocation_id: str) -> None:
        """The client wants no more of a stream; unknown ids are ignored."""
        download = self.downloads.get(invocation_id)
        if download is not None:
            download.cancel()

    def _cancel_downloads(self) -> None:
        for download in tuple(self.downloads.values()):
            download.cancel()

    def connection_ended(self) -> None:
        """Nothing more comes and nothing can be sent."""
        self._cancel_downloads()
        uploads, self._uploads = self._uploads, {}
        for upload in uploads.values():
            upload.end(ConnectionClosedError(self._connection.connection_id, "The underlying connection was closed."))


class _Turn:
    """Awaiting it lets the event loop run everything that is ready."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield


_TURN = _Turn()


async def send_items(
    connection: HubConnection, invocation_id: str, items: AsyncIterable[object], download: Download
) -> None:
    """Send each item as a message, no faster than the client takes them (row B107).

    Returns when the items are exhausted, the connection is closed or nobody wants more of them. What the iterator
    raises comes out. In any case the iterator is closed at the end.
    """
    outbound = connection.outbound
    encode = connection.protocol.item_encoder(invocation_id)
    iterator = aiter(items)
    count = 0
    try:
        async for item in iterator:
            if download.is_cancelled or connection.closed:
                return
            try:
                payload = encode(item)
            except UNWRITABLE as error:
                connection.write_failed(error)
                return
            outbound.append(payload)
            count += 1
            # What was written leaves at the end of a turn of the loop, and only then can the client be found slow. An
            # iterator that never waits by itself must therefore be made to.
            if count % ITEMS_PER_TURN == 0 or outbound.size >= BYTES_PER_TURN:
                await _TURN
            if outbound.blocked:
                await connection.drain()
    finally:
        close = getattr(iterator, "aclose", None)
        if close is not None:
            await close()
