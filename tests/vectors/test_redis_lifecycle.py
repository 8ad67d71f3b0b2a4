"""What a node subscribes, unsubscribes and publishes, from its start to its end: step by step as ASP.NET Core does.

Our own Redis backplane runs, against a Redis in memory that is sent the very bytes. What is meant to differ:

- .NET subscribes each channel in a command of its own. Here channels that are wanted together share one; the order of
  the channels is compared, not the commands.
- .NET's Redis client also subscribes `__Booksleeve_MasterChanged`, for each hub. That is no channel of SignalR's, and
  the recordings leave it out.
- .NET has Redis connections for each hub, and reports each; here one pair, and one report, serves all of them.
- .NET logs the first of a hub's four own channels when it subscribes them, and none when it leaves; here all are.
- What .NET logs as event 100 are the words of its Redis client. Here it is kept for clients that an application makes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any  # recorded JSON

import pytest
from tests.vectors.redis_in_memory import MemoryRedis, NamedNode, Sent, WiredBackplane, turns

from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.fakes import FakeClock
from hubplane.testing.recording import RecordedClient

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-lifecycle.json").read_text(encoding="utf-8"))
WALKS: dict[str, Any] = {walk["name"]: walk for walk in RECORDED["walks"]}
HUB, OTHER = "Vectors.VectorHub", "Vectors.DetailedHub"
JSON = JsonHubProtocol()
LEVELS = {"Trace": logging.DEBUG, "Information": logging.INFO}

# Within these the original's order is that of chance, as the recordings' notes say.
UNORDERED = {"disconnect-user-not-last", "disconnect-anonymous-in-groups", "shutdown-with-clients"}

Event = tuple[int, str, int, str]
"""Id, name, level and text of a log record."""


class Walk:
    """A node with the two recorded hubs, and its clients."""

    def __init__(self, walk: Any) -> None:
        self.prefix = "MyApp:" if "channelPrefix=MyApp:" in walk["configuration"] else ""
        self.redis = MemoryRedis()
        self.clock = FakeClock()
        self.routes = BackplaneRoutes()
        self.backplane = WiredBackplane(self.redis, walk["configuration"], clock=self.clock)
        self.hubs = {
            name: ScaleoutHubLifetimeManager(
                name,
                backplane=self.backplane,
                routes=self.routes,
                protocols=[JSON, MessagePackHubProtocol()],
                clock=self.clock,
                ids=NamedNode(server),
            )
            for name, server in walk["servers"].items()
        }
        ids = {step["name"]: step["connection"] for step in walk["steps"] if "connection" in step}
        self.one = RecordedClient(ids["first-client"], JSON)
        self.two = RecordedClient(ids["second-client-with-user"], JSON, user="alice")
        self.three = RecordedClient(ids["third-client-same-user"], JSON, user="alice")
        self.other = RecordedClient(ids["other-hub-first-client"], JSON)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """The process starts."""
        await self._stack.enter_async_context(self.backplane.run(self.routes))
        for hub in self.hubs.values():
            await self._stack.enter_async_context(hub.run())

    async def rejoin(self) -> None:
        """The first client joins both groups."""
        for group in ("room", "room2"):
            await self.hubs[HUB].add_to_group(self.one.connection_id, group)

    async def stop(self) -> None:
        """The process ends: first its connections, then the hubs, as an endpoint does it."""
        await self.hubs[HUB].on_disconnected(self.two.connection)
        await self.hubs[OTHER].on_disconnected(self.other.connection)
        await self._stack.aclose()

    def steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """What was done, by the recorded names."""
        hub = self.hubs[HUB]
        one, two = self.one.connection_id, self.two.connection_id
        return {
            "node-start": self.start,
            "first-client": lambda: hub.on_connected(self.one.connection),
            "second-client-with-user": lambda: hub.on_connected(self.two.connection),
            "third-client-same-user": lambda: hub.on_connected(self.three.connection),
            "join-first-local-member": lambda: hub.add_to_group(one, "room"),
            "join-second-local-member": lambda: hub.add_to_group(two, "room"),
            "send-group": lambda: hub.send(Audience(AudienceKind.GROUP, ("room",)), "m", [1]),
            "leave-not-last": lambda: hub.remove_from_group(two, "room"),
            "leave-last": lambda: hub.remove_from_group(one, "room"),
            "rejoin": self.rejoin,
            "disconnect-user-not-last": lambda: hub.on_disconnected(self.three.connection),
            "disconnect-anonymous-in-groups": lambda: hub.on_disconnected(self.one.connection),
            "other-hub-first-client": lambda: self.hubs[OTHER].on_connected(self.other.connection),
            "idle-130s": lambda: self.clock.elapse(130),
            "shutdown-with-clients": self.stop,
        }

    def own_channels(self, hub: str) -> list[str]:
        """The four channels of a hub that are subscribed as long as it runs."""
        channels = self.hubs[hub].channels
        return [channels.all, channels.groups, channels.ack, channels.returns]


def commands(sent: list[Sent]) -> list[tuple[str, str, str]]:
    """Command, channel, and payload in hex."""
    return [(entry.command, entry.channel, entry.payload.hex()) for entry in sent]


def recorded_commands(step: Any) -> list[tuple[str, str, str]]:
    """The same of a recorded step."""
    return [(entry["command"], entry["channel"], entry.get("payload_hex", "")) for entry in step["commands"]]


def of_hub(sent: list[tuple[str, str, str]], prefix: str, hub: str) -> list[tuple[str, str, str]]:
    """What concerns one hub: the recorded hubs share no connection, so only that has an order."""
    return [entry for entry in sent if entry[1].startswith(f"{prefix}{hub}:")]


def events(caplog: pytest.LogCaptureFixture) -> list[Event]:
    """What was logged about Redis."""
    return [
        (record.__dict__["event_id"], record.__dict__["event_name"], record.levelno, record.getMessage())
        for record in caplog.records
        if "event_id" in record.__dict__
    ]


def recorded_events(step: Any) -> list[Event]:
    """The same of a recorded step."""
    return [(event["id"], event["name"], LEVELS[event["level"]], event["text"]) for event in step["log"]]


def check_log(walk: Walk, step: Any, logged: list[Event]) -> None:
    """The recorded events were logged, and no others but those that are meant."""
    expected = Counter(recorded_events(step))
    match step["name"]:
        case "node-start":
            for hub in walk.hubs:
                for channel in walk.own_channels(hub)[1:]:
                    expected[3, "Subscribing", logging.DEBUG, f"Subscribing to channel: {channel}."] += 1
            connected = (2, "Connected", logging.INFO, "Connected to Redis.")
            assert expected[connected] == len(walk.hubs)
            expected[connected] = 1
        case "shutdown-with-clients":
            for hub in walk.hubs:
                for channel in walk.own_channels(hub):
                    expected[6, "Unsubscribe", logging.DEBUG, f"Unsubscribing from channel: {channel}."] += 1
        case name if name not in UNORDERED:
            assert logged == recorded_events(step), name
    assert Counter(logged) == expected, step["name"]


@pytest.mark.row("S49")
@pytest.mark.parametrize("name", WALKS)
async def test_walk(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """In each step Redis gets the recorded commands, with channels and bytes, and the log the recorded events."""
    recorded = WALKS[name]
    walk = Walk(recorded)
    steps = walk.steps()
    caplog.set_level(logging.DEBUG)
    for step in recorded["steps"]:
        walk.redis.sent.clear()
        caplog.clear()
        await steps[step["name"]]()
        await turns()
        ours, theirs = commands(walk.redis.sent), recorded_commands(step)
        assert sorted(ours) == sorted(theirs), step["name"]
        if step["name"] not in UNORDERED:
            for hub in walk.hubs:
                mine = of_hub(ours, walk.prefix, hub)
                assert mine == of_hub(theirs, walk.prefix, hub), step["name"]
        check_log(walk, step, events(caplog))
    assert walk.redis.channels() == []
    for client, heard in ((walk.one, True), (walk.two, True), (walk.three, False), (walk.other, False)):
        assert client.invocations() == ([("m", [1])] if heard else [])
    # One pair of connections for both hubs, where the original has a pair, or with RESP3 a connection, for each.
    assert walk.redis.connects == 2
    assert len(recorded["redis_connections"]) == (2 if "protocol=resp3" in recorded["configuration"] else 4)


def test_all_steps_are_replayed() -> None:
    """There are four walks of the same steps, and only the idle time is in but one of them."""
    played = list(Walk(WALKS["string-abortConnect-false"]).steps())
    for name, walk in WALKS.items():
        names = [step["name"] for step in walk["steps"]]
        assert names == [step for step in played if name == "string-abortConnect-false" or step != "idle-130s"]
    assert len(WALKS) == 4
