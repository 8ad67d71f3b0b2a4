"""Facts about a node without a backplane, beyond the contract."""

from __future__ import annotations

import pytest

from hubplane.errors import ClientResultError
from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import SeededIds
from hubplane.testing.recording import RecordedClient

JSON = JsonHubProtocol()


def make() -> LocalHubLifetimeManager:
    """A manager; it fits the contract's type too."""
    manager = LocalHubLifetimeManager(protocols=(JSON,), ids=SeededIds())
    contract: HubLifetimeManager = manager
    assert contract is manager
    return manager


async def connect(manager: LocalHubLifetimeManager, name: str, user: str | None = None) -> RecordedClient:
    """A client that the manager knows."""
    client = RecordedClient(name, JSON, user=user)
    await manager.on_connected(client.connection)
    return client


async def test_groups() -> None:
    """Several groups get a message once each, so a member of two gets it twice."""
    manager = make()
    client = await connect(manager, "c1")
    for group in ("a", "b"):
        await manager.add_to_group("c1", group)
    await manager.send(Audience(AudienceKind.GROUPS, ("a", "b", "c")), "m", [])
    assert len(client.received()) == 2


async def test_empty_group_among_several() -> None:
    """An empty name among several groups is an error, and nobody gets anything."""
    manager = make()
    client = await connect(manager, "c1")
    await manager.add_to_group("c1", "a")
    with pytest.raises(ValueError, match=r"^Cannot send to an empty group name\.$"):
        manager.send(Audience(AudienceKind.GROUPS, ("a", "")), "m", [])
    assert client.received() == []


async def test_users_and_connections_once() -> None:
    """Users and connections get a message once, however often they are named."""
    manager = make()
    client = await connect(manager, "c1", "alice")
    await manager.send(Audience(AudienceKind.USERS, ("alice", "bob", "alice")), "m", [])
    await manager.send(Audience(AudienceKind.CONNECTIONS, ("c1", "x", "c1")), "m", [])
    await manager.send(Audience(AudienceKind.USER, ("alice",)), "m", [])
    assert len(client.received()) == 3


async def test_unknown_connection() -> None:
    """Groups of unknown connections, and of those that are leaving, are left alone."""
    manager = make()
    await manager.add_to_group("nobody", "g")
    await manager.remove_from_group("nobody", "g")
    client = await connect(manager, "c1")
    client.disconnect()
    await manager.add_to_group("c1", "g")
    assert not manager._table.has_group("g")
    manager.tick(0.0)


async def test_stop_while_asking() -> None:
    """When the node stops, whoever waits for a client learns it."""
    manager = make()
    callers = Supervisor("caller")
    async with manager.run():
        client = await connect(manager, "c1")
        call = callers.start(manager.invoke_connection("c1", "Ask", [], int, timeout=None), "ask")
        await client.wait_for(1)
    with pytest.raises(ClientResultError, match="shutting down"):
        await call
