"""Tokens and connections: how long an entry lives, and how many may wait."""

from __future__ import annotations

import pytest

from hubplane.connection.transport import TransportKind
from hubplane.options import TransportOptions
from hubplane.telemetry.base import Telemetry
from hubplane.testing.fakes import FakeClock
from hubplane.transports.registry import ConnectionRegistry, EntryState, RegistryFullError


@pytest.fixture
def clock() -> FakeClock:
    """Time in the test's hands."""
    return FakeClock()


@pytest.fixture
def registry(clock: FakeClock) -> ConnectionRegistry:
    """A registry with .NET's timeout and room for three unclaimed entries."""
    return ConnectionRegistry(clock, TransportOptions(), max_unclaimed=3)


def test_entry_is_found_by_its_token_alone(registry: ConnectionRegistry) -> None:
    """A token is matched exactly; the public id is no key."""
    entry = registry.add("Token", "id")
    assert registry.get("Token") is entry
    assert registry.get("token") is None
    assert registry.get("id") is None
    assert (entry.state, entry.connection_id, entry.kind) == (EntryState.INACTIVE, "id", None)


@pytest.mark.row("B22")
def test_unclaimed_entries_expire(registry: ConnectionRegistry, clock: FakeClock) -> None:
    """An entry that no transport claims within 15 seconds is gone; younger ones stay."""
    old = registry.add("old", "1")
    clock.advance(10)
    registry.add("young", "2")
    clock.advance(5)
    registry.tick(clock.monotonic())
    assert registry.get("old") is old
    clock.advance(0.5)
    registry.tick(clock.monotonic())
    assert registry.get("old") is None
    assert old.state is EntryState.DISPOSED
    assert registry.get("young") is not None
    assert registry.unclaimed == 1


def test_claimed_entries_do_not_expire(registry: ConnectionRegistry, clock: FakeClock) -> None:
    """An entry in use stays until it is disposed of."""
    entry = registry.add("token", "id")
    registry.claim(entry, TransportKind.WEB_SOCKETS)
    clock.advance(1_000)
    registry.tick(clock.monotonic())
    assert registry.get("token") is entry
    assert (entry.state, entry.kind) == (EntryState.ACTIVE, TransportKind.WEB_SOCKETS)
    registry.dispose(entry)
    registry.dispose(entry)
    assert registry.get("token") is None
    assert len(registry) == 0


def test_too_many_unclaimed_entries_are_refused(registry: ConnectionRegistry, clock: FakeClock) -> None:
    """A full registry refuses new entries and keeps the old ones; claiming or expiry makes room."""
    entries = [registry.add(f"token{number}", str(number)) for number in range(3)]
    with pytest.raises(RegistryFullError):
        registry.add("one too many", "4")
    assert list(registry) == entries
    registry.claim(entries[0], TransportKind.WEB_SOCKETS)
    registry.add("now", "5")
    clock.advance(16)
    registry.tick(clock.monotonic())
    assert registry.unclaimed == 0
    assert list(registry) == entries[:1]


def test_direct_connections_are_not_counted_as_unclaimed(registry: ConnectionRegistry) -> None:
    """A connection that skipped negotiation is active from the start, and its id is its token."""
    for number in range(5):
        registry.add_active(f"id{number}", TransportKind.WEB_SOCKETS)
    entry = registry.get("id4")
    assert entry is not None
    assert (entry.token, entry.state) == ("id4", EntryState.ACTIVE)
    assert registry.unclaimed == 0


def test_disposing_an_old_entry_keeps_its_successor(registry: ConnectionRegistry) -> None:
    """An entry that was replaced under the same token does not take its successor with it."""
    old = registry.add("token", "1")
    new = registry.add("token", "2")
    registry.dispose(old)
    assert registry.get("token") is new


class Heard(Telemetry):
    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def connection_started(self, transport: str) -> None:
        self.log.append((transport,))

    def connection_stopped(self, transport: str, status: str, seconds: float) -> None:
        self.log.append((transport, status, seconds))


@pytest.mark.row("B154")
def test_connections_are_told_from_claim_to_end(clock: FakeClock) -> None:
    """Each claimed connection is told once when it starts and once when it ends; one merely negotiated, never."""
    heard = Heard()
    registry = ConnectionRegistry(clock, TransportOptions(), telemetry=heard)
    registry.add("unclaimed", "1")
    polled = registry.add("polled", "2")
    clock.advance(3)
    registry.claim(polled, TransportKind.LONG_POLLING)
    direct = registry.add_active("3", TransportKind.WEB_SOCKETS)
    clock.advance(2)
    registry.dispose(polled, timed_out=True)
    registry.dispose(polled)
    clock.advance(1)
    registry.watch(direct, lambda _: None)
    registry.close()
    registry.close()
    assert [entry.token for entry in registry] == ["unclaimed"]
    assert heard.log == [
        ("long_polling",),
        ("web_sockets",),
        ("long_polling", "timeout", 2.0),
        ("web_sockets", "normal_closure", 3.0),
    ]
