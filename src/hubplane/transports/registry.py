"""Token -> connection: who was negotiated, who is connected, and when an entry expires.

Source: signalr-server sections 1.2 (expiry) and 2.5 (states).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from hubplane.clock import Clock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.transport import TransportKind, Verdict
from hubplane.errors import LocalProtocolError
from hubplane.options import TransportOptions
from hubplane.telemetry.base import NO_TELEMETRY, Telemetry
from hubplane.transports.upload import Upload

__all__ = ["ConnectionEntry", "ConnectionRegistry", "EntryState", "RegistryFullError"]


class EntryState(Enum):
    """Where an entry stands; signalr-server section 2.5."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    DISPOSED = "disposed"


class RegistryFullError(LocalProtocolError):
    """More clients have negotiated without connecting than the registry keeps."""


class ConnectionEntry:
    """One token's connection.

    Attributes:
        token: The secret key of every later request.
        connection_id: The public id.
        state: Where it stands.
        created_at: When it was negotiated, in monotonic seconds.
        kind: The transport that has claimed it; None before that.
        connection: The connection, once a transport has claimed it.
        upload: What arrives by POST; None before the first one, and for WebSockets.
        started_at: When a transport has claimed it, in monotonic seconds; None before that, and once it is disposed of.
        is_stateful: Whether stateful reconnect was promised in negotiation.
        owner: The id of the user it belongs to; None for nobody.
    """

    __slots__ = (
        "connection",
        "connection_id",
        "created_at",
        "is_stateful",
        "kind",
        "owner",
        "started_at",
        "state",
        "token",
        "upload",
    )

    def __init__(
        self,
        token: str,
        connection_id: str,
        *,
        created_at: float,
        is_stateful: bool = False,
        owner: str | None = None,
    ) -> None:
        self.token = token
        self.connection_id = connection_id
        self.state = EntryState.INACTIVE
        self.created_at = created_at
        self.kind: TransportKind | None = None
        self.connection: HubConnection | None = None
        self.upload: Upload | None = None
        self.started_at: float | None = None
        self.is_stateful = is_stateful
        self.owner = owner


class ConnectionRegistry:
    """All entries of one hub in this process.

    An entry is unclaimed from `add` to `claim`; at most `max_unclaimed` are kept. The verdict above that: new
    negotiations are refused with `RegistryFullError`, so a flood of them can neither fill the memory nor push out a
    client that is about to connect.

    Args:
        clock: For the age of entries.
        options: `disconnect_timeout` is how long an entry may stay unclaimed, in seconds.
        max_unclaimed: Entries that may be unclaimed at one time.
        telemetry: Told about connections that a transport has claimed.
    """

    __slots__ = (
        "_application_max_buffer_size",
        "_clock",
        "_disconnect_timeout",
        "_entries",
        "_max_unclaimed",
        "_telemetry",
        "_unclaimed",
        "_watched",
    )

    def __init__(
        self,
        clock: Clock,
        options: TransportOptions,
        *,
        max_unclaimed: int = 100_000,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._clock = clock
        self._disconnect_timeout = options.disconnect_timeout
        self._application_max_buffer_size = options.application_max_buffer_size
        self._max_unclaimed = max_unclaimed
        self._telemetry = telemetry
        self._entries: dict[str, ConnectionEntry] = {}
        # In order of creation, so that a tick stops at the first entry that is young enough.
        self._unclaimed: dict[str, ConnectionEntry] = {}
        self._watched: dict[str, Callable[[float], None]] = {}

    def __len__(self) -> int:
        """The number of entries, claimed or not."""
        return len(self._entries)

    def __iter__(self) -> Iterator[ConnectionEntry]:
        """All entries, in order of creation."""
        return iter(tuple(self._entries.values()))

    @property
    def unclaimed(self) -> int:
        """The number of entries that no transport has claimed."""
        return len(self._unclaimed)

    def add(
        self, token: str, connection_id: str, *, is_stateful: bool = False, owner: str | None = None
    ) -> ConnectionEntry:
        """Remember a negotiated connection.

        Args:
            token: The secret key; matched exactly.
            connection_id: The public id.
            is_stateful: Whether stateful reconnect was promised.
            owner: The id of the user who negotiates; None for nobody.

        Raises:
            RegistryFullError: Too many entries are unclaimed.
        """
        if len(self._unclaimed) >= self._max_unclaimed:
            raise RegistryFullError(f"{self._max_unclaimed} negotiated connections wait for their transport already.")
        entry = ConnectionEntry(
            token, connection_id, created_at=self._clock.monotonic(), is_stateful=is_stateful, owner=owner
        )
        self._entries[token] = self._unclaimed[token] = entry
        return entry

    def add_active(self, connection_id: str, kind: TransportKind) -> ConnectionEntry:
        """Remember a connection that skipped negotiation: its id is its token, and it is claimed from the start."""
        entry = ConnectionEntry(connection_id, connection_id, created_at=self._clock.monotonic())
        self._entries[connection_id] = entry
        self._start(entry, kind)
        return entry

    def get(self, token: str) -> ConnectionEntry | None:
        """The entry of `token`, None if there is none."""
        return self._entries.get(token)

    def claim(self, entry: ConnectionEntry, kind: TransportKind) -> None:
        """A transport takes an inactive entry over."""
        self._unclaimed.pop(entry.token, None)
        self._start(entry, kind)

    def _start(self, entry: ConnectionEntry, kind: TransportKind) -> None:
        entry.state = EntryState.ACTIVE
        entry.kind = kind
        entry.started_at = self._clock.monotonic()
        self._telemetry.connection_started(kind.name.lower())

    def upload_of(self, entry: ConnectionEntry) -> Upload:
        """What arrives for an entry by POST; made when it is first asked for."""
        if entry.upload is None:
            entry.upload = Upload(self._application_max_buffer_size)
        return entry.upload

    def watch(self, entry: ConnectionEntry, tick: Callable[[float], None]) -> None:
        """Call `tick(now)` once a second, whether a request is open or not, until `unwatch`."""
        self._watched[entry.token] = tick

    def unwatch(self, entry: ConnectionEntry) -> None:
        """The end of `watch`; idempotent."""
        self._watched.pop(entry.token, None)

    def dispose(self, entry: ConnectionEntry, *, timed_out: bool = False) -> None:
        """Forget an entry; POSTs that wait are refused; idempotent.

        Args:
            entry: A token's connection.
            timed_out: Its client stayed away for too long.
        """
        entry.state = EntryState.DISPOSED
        self._unclaimed.pop(entry.token, None)
        if self._entries.get(entry.token) is entry:
            del self._entries[entry.token]
        if entry.upload is not None:
            entry.upload.end()
        if entry.started_at is not None and entry.kind is not None:
            started_at, entry.started_at = entry.started_at, None
            seconds = self._clock.monotonic() - started_at
            self._telemetry.connection_stopped(entry.kind.name.lower(), _status(entry, timed_out=timed_out), seconds)

    def close(self) -> None:
        """The server has stopped: forget all connections, also of clients that did not fetch their goodbye."""
        for entry in self:
            if entry.started_at is not None:
                self.unwatch(entry)
                self.dispose(entry)

    def tick(self, now: float) -> None:
        """Forget what has been unclaimed for longer than the disconnect timeout, and let watched transports look."""
        for watched in tuple(self._watched.values()):
            watched(now)
        expired = []
        for entry in self._unclaimed.values():
            if now - entry.created_at <= self._disconnect_timeout:
                break
            expired.append(entry)
        for entry in expired:
            self.dispose(entry)


def _status(entry: ConnectionEntry, *, timed_out: bool) -> str:
    """How a connection has ended, in the words of .NET's metrics."""
    connection = entry.connection
    if connection is not None and connection.verdict is Verdict.SHUTDOWN:
        return "app_shutdown"
    return "timeout" if timed_out else "normal_closure"
