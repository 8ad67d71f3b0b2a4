"""Facts about the connections of a node."""

from __future__ import annotations

import pytest

from hubplane.lifetime.table import ConnectionTable, Departure
from hubplane.options import TransportOptions
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.serialized import SerializedHubMessage
from hubplane.testing.recording import RecordedClient

JSON: HubProtocol = JsonHubProtocol()
PACK: HubProtocol = MessagePackHubProtocol()
MESSAGE = SerializedHubMessage({"json": b'{"type":6}\x1e', "messagepack": b"\x02\x91\x06"})


def make(*names: str, user: str | None = None, protocol: HubProtocol = JSON) -> list[RecordedClient]:
    """Clients of one user."""
    return [RecordedClient(name, protocol, user=user) for name in names]


async def test_connections() -> None:
    """A connection is here until it is removed, and is removed once."""
    table = ConnectionTable()
    (client,) = make("c1")
    table.add(client.connection)
    assert table.connections == {"c1": client.connection}
    assert table.remove(client.connection) == Departure((), None)
    assert table.remove(client.connection) is None
    assert table.connections == {}


async def test_another_connection_of_the_same_id() -> None:
    """Removing a connection does not remove another one that took its id."""
    table = ConnectionTable()
    (old,) = make("c1")
    (new,) = make("c1")
    table.add(old.connection)
    table.add(new.connection)
    assert table.remove(old.connection) is None
    assert table.connections == {"c1": new.connection}


async def test_departure() -> None:
    """Whoever leaves last says which groups and which user are left without a connection here."""
    table = ConnectionTable()
    one, two = make("c1", "c2", user="alice")
    for client in (one, two):
        table.add(client.connection)
        assert table.join(client.connection, "both")
    assert table.join(one.connection, "mine")
    assert not table.join(one.connection, "mine")
    assert table.remove(one.connection) == Departure(("mine",), None)
    assert table.has_group("both")
    assert not table.has_group("mine")
    assert table.users() == ["alice"]
    assert table.remove(two.connection) == Departure(("both",), "alice")
    assert not table.has_user("alice")


async def test_leave() -> None:
    """Leaving tells whether the group is empty now; leaving a group that one is not in changes nothing."""
    table = ConnectionTable()
    one, two = make("c1", "c2")
    for client in (one, two):
        table.add(client.connection)
        table.join(client.connection, "g")
    assert not table.leave("c1", "g")
    assert not table.leave("c1", "g")
    assert not table.leave("nobody", "g")
    assert table.leave("c2", "g")
    assert not table.has_group("g")
    assert table.join(one.connection, "g")
    assert table.join(one.connection, "h")
    table.drop_group("g")
    table.drop_group("unknown")
    assert not table.has_group("g")
    assert table.has_group("h")


async def test_names_are_exact() -> None:
    """Groups and users differ by case, and an empty user id is nobody's."""
    table = ConnectionTable()
    (upper,) = make("c1", user="Alice")
    (nobody,) = make("c2", user="")
    table.add(upper.connection)
    table.add(nobody.connection)
    assert table.join(upper.connection, "Room")
    assert table.join(upper.connection, "room")
    assert not table.has_user("alice")
    assert not table.has_user("")


async def test_fan_out_by_protocol() -> None:
    """Every connection gets the bytes of its own protocol, as the same object."""
    table = ConnectionTable()
    clients = [*make("c1", "c2"), *make("c3", protocol=PACK)]
    for client in clients:
        table.add(client.connection)
    table.to_all(MESSAGE)
    assert [client.received() for client in clients] == [[b'{"type":6}'], [b'{"type":6}'], [b"\x91\x06"]]


@pytest.mark.parametrize("excluded", [("c2",), ("c2", "x", "y", "z", "zz"), ["c2", "c2"]])
async def test_excluded(excluded: tuple[str, ...]) -> None:
    """Excluded connections get nothing, however many ids are excluded."""
    table = ConnectionTable()
    clients = make("c1", "c2")
    for client in clients:
        table.add(client.connection)
        table.join(client.connection, "g")
    table.to_all(MESSAGE, excluded)
    table.to_group("g", MESSAGE, excluded)
    table.to_group("unknown", MESSAGE, excluded)
    assert [len(client.received()) for client in clients] == [2, 0]


async def test_user() -> None:
    """A user's message reaches the connections of that user only."""
    table = ConnectionTable()
    alice = make("c1", "c2", user="alice")
    bob = make("c3", user="bob")
    for client in (*alice, *bob):
        table.add(client.connection)
    table.to_user("alice", MESSAGE)
    table.to_user("unknown", MESSAGE)
    assert [len(client.received()) for client in (*alice, *bob)] == [1, 1, 0]


@pytest.mark.row("X12")
async def test_slow_client() -> None:
    """A client that does not read is cut off at its own limit, amid a fan-out, and the others miss nothing."""
    table = ConnectionTable()
    slow = RecordedClient("c1", JSON, transport_options=TransportOptions(outbound_buffer_limit=100))
    (other,) = make("c2")
    for client in (slow, other):
        table.add(client.connection)
    slow.stop_reading()
    for _ in range(50):
        table.to_all(MESSAGE)
    assert len(other.received()) == 50
    assert slow.transport.aborted
    assert slow.connection.closed
