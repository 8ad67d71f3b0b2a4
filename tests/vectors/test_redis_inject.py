"""What ASP.NET Core takes from Redis: the same payloads have the same effect, and the same log records, here."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any  # recorded JSON

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordedClient, RecordingBackplane

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-inject.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, Any] = {entry["name"]: entry for entry in RECORDED["entries"]}
HUB = "Vectors.VectorHub"
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
LEVELS = {"Debug": logging.DEBUG, "Warning": logging.WARNING, "Error": logging.ERROR}
REDIS_CATEGORY = "Microsoft.AspNetCore.SignalR.StackExchangeRedis.RedisHubLifetimeManager"

# What must have happened before.
BEFORE = {"ask/duplicate-id-second": ("ask/duplicate-id-first",), "groups/remove": ("groups/add",)}

# Of the log records with a cause, those whose cause is ours, in our words: .NET has a null argument there.
OWN_CAUSES = {"ask/nil-return-channel"}


class NodeB(SeededIds):
    """The recorded node: a json and a messagepack client of user alice, both in group room."""

    def __init__(self, volatile: Any) -> None:
        super().__init__()
        self.server = volatile["server_b"]
        self.backplane = RecordingBackplane()
        self.routes = BackplaneRoutes()
        self.manager = ScaleoutHubLifetimeManager(
            HUB,
            backplane=self.backplane,
            routes=self.routes,
            protocols=tuple(PROTOCOLS.values()),
            clock=FakeClock(),
            ids=self,
        )
        self.clients = {
            name: RecordedClient(volatile[f"{name}_on_b"], protocol, user="alice", on_answer=self.answered)
            for name, protocol in PROTOCOLS.items()
        }

    def node_name(self) -> str:
        name: str = self.server
        return name

    def answered(self, connection: HubConnection, message: HubMessage) -> None:
        """The endpoint's part."""
        if isinstance(message, Completion):
            self.manager.set_connection_result(connection, message)

    async def connect(self) -> None:
        """Both clients connect and join."""
        for client in self.clients.values():
            await self.manager.on_connected(client.connection)
            await self.manager.add_to_group(client.connection_id, "room")

    def inject(self, entry: Any) -> dict[str, bytes]:
        """Bring a payload, and say what each client got of it."""
        before = {name: len(self.sent(name)) for name in self.clients}
        assert self.backplane.sink is not None
        self.backplane.sink.deliver(entry["channel"], bytes.fromhex(entry["payload_hex"]))
        return {name: self.sent(name)[count:] for name, count in before.items()}

    def sent(self, name: str) -> bytes:
        """Everything a client got."""
        client = self.clients[name]
        client.connection.outbound.flush()
        return client.transport.sent


def answers(entry: Any) -> bool:
    """Whether the recorded client answered (it did so to every question but those that were to collide)."""
    name: str = entry["name"]
    return name.startswith("ask/") and not name.startswith("ask/duplicate")


@pytest.mark.row("X3", "X4", "X5", "X6", "X7", "X13")
@pytest.mark.parametrize("name", ENTRIES)
async def test_inject(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """An injected payload has the recorded effect.

    One difference is meant (design section 6): a client whose protocol is missing from the map misses the message and
    stays, where the original ends its connection.
    """
    entry = ENTRIES[name]
    node = NodeB(entry["volatile"])
    async with node.backplane.run(node.routes), node.manager.run():
        await node.connect()
        for earlier in BEFORE.get(name, ()):
            node.inject(ENTRIES[earlier])
            await node.backplane.published_count(len(ENTRIES[earlier]["published_by_b"]))
        before = len(node.backplane.published)
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            got = node.inject(entry)
            if answers(entry):
                (asked,) = (client for client in node.clients.values() if client.questions())
                asked.send(Completion(asked.questions()[0], result=42))
    # Leaving the manager has ended everything it had to publish.
    check_clients(node, entry, got)
    check_publications(node.backplane.published[before:], entry)
    check_log(caplog, entry)


def check_clients(node: NodeB, entry: Any, got: dict[str, bytes]) -> None:
    """Each client got the recorded bytes, and none was cut off."""
    for name, client in entry["clients"].items():
        expected = b"".join(map(bytes.fromhex, client["received"]))
        if client["connection_ended"]:
            expected = b""
        assert got[name] == expected
        assert not node.clients[name].connection.closed


def check_publications(published: list[tuple[str, bytes]], entry: Any) -> None:
    """The node published the recorded answer, and nothing else."""
    expected = [
        (publication["channel"], bytes.fromhex(publication["payload_hex"])) for publication in entry["published_by_b"]
    ]
    assert published == expected


def check_log(caplog: pytest.LogCaptureFixture, entry: Any) -> None:
    """The recorded events were logged, at their levels, with their texts and causes."""
    expected = [
        (event["id"], LEVELS[event["level"]], event["text"], event["exception"]["message"])
        for event in entry["log_b"]
        if event["category"] == REDIS_CATEGORY
    ]
    logged = [
        (record.__dict__["event_id"], record.levelno, record.getMessage(), str(record.exc_info[1]))
        for record in caplog.records
        if record.name == "hubplane.lifetime.redis_log" and record.exc_info is not None
    ]
    if entry["name"] in OWN_CAUSES:
        expected = [(*event[:3], "") for event in expected]
        logged = [(*event[:3], "") for event in logged]
    assert logged == expected
    missing = [record for record in caplog.records if record.name == "hubplane.connection.hub_connection"]
    assert len(missing) == sum(1 for client in entry["clients"].values() if client["connection_ended"])
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR and not logged]


@pytest.mark.row("X4")
async def test_all_of_it_in_a_row() -> None:
    """A node that has taken every recorded payload on every channel, whole and cut, still delivers the next one."""
    entry = ENTRIES["all/v6"]
    node = NodeB(entry["volatile"])
    channels = {
        f"{HUB}:all",
        f"{HUB}:group:room",
        f"{HUB}:user:alice",
        f"{HUB}:internal:groups",
        f"{HUB}:internal:ack:{node.server}",
        f"{HUB}:internal:return:{node.server}",
        *(f"{HUB}:connection:{client.connection_id}" for client in node.clients.values()),
    }
    async with node.backplane.run(node.routes), node.manager.run():
        await node.connect()
        sink = node.backplane.sink
        assert sink is not None
        for payload in {bytes.fromhex(other["payload_hex"]) for other in ENTRIES.values()}:
            for channel in channels:
                for end in range(0, len(payload), 7):
                    sink.deliver(channel, payload[:end])
                sink.deliver(channel, payload)
        got = node.inject(entry)
        check_clients(node, entry, got)
