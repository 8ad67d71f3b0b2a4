"""Redis absent, stopped and restarted: each recorded call, look and log line of ASP.NET Core, and what is better here.

The recordings are replayed in their own time, on a fake clock, against a Redis in memory. A call is the same when it
succeeds as the recorded one did, or fails with the first sentence of its error, and has ended no later. Whatever
differs is in `BETTER`, and nothing else may differ.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any  # recorded JSON

import pytest
from tests.vectors.redis_in_memory import MemoryRedis, NamedNode, WiredBackplane, turns

from hubplane import Hub, HubApp, HubException
from hubplane.errors import BackplaneError, BackplaneUnavailableError
from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing import MemoryServer
from hubplane.testing.fakes import FakeClock
from hubplane.testing.recording import RecordedClient

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "errors-redis.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, Any] = {entry["name"]: entry for entry in RECORDED["entries"]}
COLD_STARTS = [name for name in ENTRIES if name.startswith("cold-start")]
HUB = "Vectors.VectorHub"
JSON = JsonHubProtocol()
REDIS_CATEGORY = "Microsoft.AspNetCore.SignalR.StackExchangeRedis.RedisHubLifetimeManager"
LEVELS = {"Information": logging.INFO, "Error": logging.ERROR}
KINDS = {
    "All": AudienceKind.ALL,
    "Client": AudienceKind.CONNECTION,
    "Group": AudienceKind.GROUP,
    "User": AudienceKind.USER,
}
VALUES = {"int_1": 1}

SENDS_A_METHOD = "hub method SendAll awaited in a hub method"
NO_SUBSCRIPTION = (
    "The subscription timed out in the backlog attempting to send because no connection became available (5000ms)"
)
MISSING = ("internal:ack", "internal:groups", "internal:return")

# What we do where the original does something else, by scenario and event.
BETTER: dict[str, dict[str, object]] = {
    # The original stays deaf for ever: Redis counts it for messages to all, but nobody handles them, and the other
    # three channels are never subscribed. Here a subscription counts once it is confirmed, and is asked for until then.
    "cold-start-used": {
        "PUBSUB CHANNELS": {f"+{channel}" for channel in MISSING},
        "local client received": [("m", [1])],
    },
    "cold-start-unused-long": {
        "PUBSUB CHANNELS": {f"+{channel}" for channel in MISSING},
        "local client received": [("m", [1])],
    },
    "cold-start-code": {
        "PUBSUB CHANNELS": {f"+{channel}" for channel in MISSING},
        "local client received": [("m", [1])],
    },
    # The original is whole, but only some seconds after Redis is there.
    "cold-start-unused-short": {"PUBSUB CHANNELS": {"+all", *(f"+{channel}" for channel in MISSING)}},
    # A string that does not speak of abortConnect lets the original drop clients and sends, and try anew only when
    # somebody uses the hub. Here nothing is aborted unless the string says so: what is sent waits, and Redis came in
    # time.
    "cold-start-abort-true": {
        "client connects while Redis is absent": "served",
        "call send All": "ok",
        "call send All again": "ok",
        "PUBSUB CHANNELS": {"+all", *(f"+{channel}" for channel in MISSING)},
    },
    "outage": {
        # A different word for what waited: it is no message.
        "call AddToGroup local, first member": NO_SUBSCRIPTION,
        "call AddToGroup local again, same group as the failed one": NO_SUBSCRIPTION,
        # The original closes a new client with 1011 after five seconds.
        "client connects during the outage": "served",
        # The original's Redis client subscribes the group whose first join has failed, and nobody handles it.
        "PUBSUB CHANNELS": {"-group:other"},
    },
    "blink": {},
}


class Pace(Random):
    """Jitter that is always the same."""

    def __init__(self, jitter: float) -> None:
        super().__init__()
        self._jitter = jitter

    def uniform(self, a: float, b: float) -> float:
        return a + self._jitter * (b - a)


class Node:
    """A node of the recorded hub.

    Attributes:
        gaps: What it was told whenever Redis was back.
    """

    def __init__(self, redis: MemoryRedis, clock: FakeClock, entry: Any, letter: str) -> None:
        self.gaps: list[bool] = []
        self.routes = BackplaneRoutes()
        self.routes.listen(self)
        # As recorded, B is the first to be back: what A sent meanwhile leaves when A is back, and finds B hearing.
        pace = Pace(1.0 if letter == "a" else 0.0)
        self.backplane = WiredBackplane(redis, entry["configuration"], clock=clock, random=pace)
        self.manager = ScaleoutHubLifetimeManager(
            HUB,
            backplane=self.backplane,
            routes=self.routes,
            protocols=[JSON, MessagePackHubProtocol()],
            clock=clock,
            ids=NamedNode(entry["servers"][letter]),
        )

    def backplane_lost(self, error: BackplaneError) -> None:
        """Redis was lost."""

    def backplane_restored(self, *, gap: bool) -> None:
        """Redis is back."""
        self.gaps.append(gap)


class Replay:
    """One scenario, replayed.

    Attributes:
        differences: What we did where the original did something else, by event.
        waited: Seconds that each failed call took.
    """

    def __init__(self, name: str) -> None:
        entry = ENTRIES[name]
        self.entry = entry
        self.is_cold = name in COLD_STARTS
        self.redis = MemoryRedis(running=False)
        self.clock = FakeClock(0.0)
        self.nodes = {letter: Node(self.redis, self.clock, entry, letter) for letter in entry["servers"]}
        self.a = self.nodes["a"].manager
        self.clients: dict[str, RecordedClient] = {}
        self.differences: dict[str, object] = {}
        self.waited: list[float] = []
        self._seen: Counter[str] = Counter()
        self._calls: list[asyncio.Future[None]] = []

    async def play(self) -> None:
        """Replay all steps."""
        steps = sorted(self.entry["steps"], key=lambda step: step.get("started_ms", step["ms"]))
        async with AsyncExitStack() as stack:
            for step in steps:
                await self._until(step.get("started_ms", step["ms"]))
                await self._do(step, stack)
            assert all(call.done() for call in self._calls)
            await asyncio.gather(*self._calls)
            assert not any(client.connection.closed for client in self.clients.values())

    async def _until(self, milliseconds: float) -> None:
        while (rest := milliseconds / 1000 - self.clock.monotonic()) > 1e-9:
            await self.clock.elapse(min(rest, 1.0), step=0.05)
            for node in self.nodes.values():
                node.manager.tick(self.clock.monotonic())
        await turns()

    async def _do(self, step: Any, stack: AsyncExitStack) -> None:
        event: str = step["event"]
        match event.split():
            case ["node", letter, "is", "listening"]:
                node = self.nodes[letter.lower()]
                await stack.enter_async_context(node.backplane.run(node.routes))
                await stack.enter_async_context(node.manager.run())
                await self._connect_recorded(letter)
            case ["redis-server", "started"]:
                self.redis.start()
            case ["redis-server", "stopped", _]:
                self._seen = Counter({name: len(client.invocations()) for name, client in self.clients.items()})
                self.redis.stop()
            case ["call", *_]:
                if "of a second local connection" in event:
                    await self._connect("second", step["call"]["ids"][0])
                if event == "call send All with a local client":
                    await self._connect("local", "local")
                self._calls.append(asyncio.ensure_future(self._call(step)))
                await turns()
            case ["client", "connects", *_]:
                await self._connect_new(step)
            case ["PUBSUB", "CHANNELS"]:
                self._look(step["channels"])
            case ["clients", "received", *_]:
                self._receive(event, "a", step["a"])
                self._receive(event, "b", step["b"])
            case ["received"]:
                self._receive(event, "a", step["first"])
                self._receive(event, "second", step["second"])
            case ["local", "client", "received"]:
                self._receive(event, "local", step["messages"])
            case _:
                assert event == SENDS_A_METHOD  # in a test of its own

    # -- clients ------------------------------------------------------------------------------------------------

    async def _connect(self, name: str, connection_id: str, user: str | None = None, node: str = "a") -> None:
        client = self.clients[name] = RecordedClient(connection_id, JSON, user=user)
        await self.nodes[node].manager.on_connected(client.connection)

    async def _connect_recorded(self, letter: str) -> None:
        """The clients that were there before: one on each node, that of A in a group and with a user if anybody was."""
        if self.is_cold:
            return
        channels = next(step["channels"] for step in self.entry["steps"] if "channels" in step)
        ids = [name.rpartition(":connection:")[2] for name in channels if ":connection:" in name]
        # Where it matters which of them was on A, the recorded call says so.
        local = next((step["call"]["ids"][0] for step in self.entry["steps"] if "(local)" in step["event"]), ids[0])
        (remote,) = set(ids) - {local}
        if letter == "B":
            await self._connect("b", remote, node="b")
            return
        has_user = f"{HUB}:user:alice" in channels
        await self._connect("a", local, user="alice" if has_user else None)
        if f"{HUB}:group:room" in channels:
            await self.a.add_to_group(local, "room")

    async def _connect_new(self, step: Any) -> None:
        """A client that connects is served at once: the clock stands still meanwhile."""
        name = step["event"]
        await self._connect(name, name)
        await self.a.send(Audience(AudienceKind.CONNECTION, (name,)), "hello", [])
        assert self.clients[name].invocations() == [("hello", [])]
        if step["ended"]:
            assert step["frames"][-1] == "close 1011"
            self.differences[name] = "served"
        # It leaves as the recorded one did, and leaves nothing behind.
        await self.a.on_disconnected(self.clients.pop(name).connection)

    def _receive(self, event: str, name: str, messages: Sequence[Any]) -> None:
        got = self.clients[name].invocations()
        new = got[self._seen[name] :]
        self._seen[name] = len(got)
        theirs = [(message["target"], message["arguments"]) for message in messages if message["type"] == 1]
        if new != theirs:
            self.differences[event] = new

    # -- calls --------------------------------------------------------------------------------------------------

    async def _call(self, step: Any) -> None:
        event, call, outcome = step["event"], step["call"], step["outcome"]
        started = self.clock.monotonic()
        theirs = "ok" if outcome["ok"] else outcome["exception"]["message"]
        try:
            await self._perform(call)
            ours = "ok"
        except BackplaneUnavailableError as error:
            ours = str(error).partition(" - Last Connection Exception:")[0]
            self.waited.append(self.clock.monotonic() - started)
        if ours != theirs:
            self.differences[event] = ours
        if (ours == "ok") is outcome["ok"]:
            assert self.clock.monotonic() * 1000 <= step["ms"], event

    def _perform(self, call: Any) -> Awaitable[object]:
        manager, ids = self.a, call["ids"]
        if call["op"] == "add":
            return manager.add_to_group(ids[0], call["group"])
        if call["op"] == "remove":
            return manager.remove_from_group(ids[0], call["group"])
        arguments = [VALUES[value] for value in call["values"]]
        if call["op"] == "ask":
            return manager.invoke_connection(ids[0], call["target"], arguments, int, timeout=None)
        return manager.send(Audience(KINDS[call["selector"]], tuple(ids)), call["target"], arguments)

    # -- channels -----------------------------------------------------------------------------------------------

    def _look(self, theirs: Sequence[str]) -> None:
        """Compare channels; in a cold start without those of clients, which came and went between the steps."""
        ours, recorded = (
            {name for name in names if not (self.is_cold and ":connection:" in name)}
            for names in (self.redis.channels(), theirs)
        )
        different = {f"+{_short(name)}" for name in ours - recorded} | {f"-{_short(name)}" for name in recorded - ours}
        if different:
            found = self.differences.setdefault("PUBSUB CHANNELS", set())
            assert isinstance(found, set)
            found |= different


def _short(channel: str) -> str:
    name = channel.removeprefix(f"{HUB}:")
    return name.rpartition(":")[0] if name.startswith(("internal:ack:", "internal:return:")) else name


Event = tuple[int, str, int, str, bool]
"""Id, name, level and text of a log record, and whether it has a cause."""


def events(caplog: pytest.LogCaptureFixture) -> list[Event]:
    """What was logged about Redis, in time; the recordings are of the same levels."""
    return [
        (
            record.__dict__["event_id"],
            record.__dict__["event_name"],
            record.levelno,
            record.getMessage(),
            record.exc_info is not None,
        )
        for record in caplog.records
        if record.name == "hubplane.lifetime.redis_log" and record.levelno > logging.DEBUG
    ]


def recorded_events(entry: Any) -> Counter[Event]:
    """The same of a recorded scenario, all nodes together."""
    return Counter(
        (event["id"], event["name"], LEVELS[event["level"]], event["text"], event["exception"] is not None)
        for log in ("log_a", "log_b")
        for event in entry.get(log, [])
        if event["category"] == REDIS_CATEGORY
    )


@pytest.mark.row("S37", "S40", "S41", "S43", "X11")
@pytest.mark.parametrize("name", ["outage", "blink"])
async def test_redis_goes_and_comes(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every call, every look at Redis, every client and the log are as recorded, but for what is better."""
    caplog.set_level(logging.INFO)
    replay = Replay(name)
    await replay.play()
    assert replay.differences == BETTER[name]
    assert Counter(events(caplog)) == recorded_events(ENTRIES[name])
    assert [event[0] for event in events(caplog)] == [1, 2, 1, 2, 9, 9, 8, 8]
    # The original says nothing about it: what others sent while a node was away is lost to it.
    assert [node.gaps for node in replay.nodes.values()] == [[True], [True]]
    # A bounded wait: as long as the original's, no longer, and none where Redis was back in time.
    assert len(replay.waited) == (8 if name == "outage" else 0)
    assert all(5.0 <= seconds <= 5.3 for seconds in replay.waited)


@pytest.mark.row("X10", "S47")
@pytest.mark.parametrize("name", COLD_STARTS)
async def test_redis_is_absent_at_the_start(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A node that started without Redis is whole soon after it is there, where the original may stay deaf for ever."""
    caplog.set_level(logging.INFO)
    replay = Replay(name)
    await replay.play()
    assert replay.differences == BETTER[name]
    ours, theirs = Counter(events(caplog)), recorded_events(ENTRIES[name])
    assert theirs <= ours
    # One attempt to connect fails, which is 14; the node goes on without, which is 7; 2 is the first time that it is
    # there, and 8 the end of the outage. The original says 14 and 2 only with abortConnect=true, 7 and 8 only without.
    assert sorted(event[0] for event in ours.elements()) == [1, 2, 7, 8, 14]
    assert {event[0] for event in theirs} == ({1, 14, 2} if name == "cold-start-abort-true" else {1, 7, 8})


class VectorHub(Hub):
    """The recorded hub's method."""

    async def send_all(self, text: str) -> None:
        await self.clients.all.send("m", text)


@pytest.mark.row("S39")
async def test_hub_method_that_sends(caplog: pytest.LogCaptureFixture) -> None:
    """A hub method that awaits a send fails with it: its caller and the log get the recorded words."""
    entry = ENTRIES["outage"]
    (step,) = (step for step in entry["steps"] if step["event"] == SENDS_A_METHOD)
    (event,) = (event for event in entry["log_a"] if event["category"] != REDIS_CATEGORY)
    redis, clock = MemoryRedis(), FakeClock()
    app = HubApp(WiredBackplane(redis, entry["configuration"], clock=clock), clock=clock)
    app.add_hub("/vector", VectorHub)
    async with MemoryServer(app) as server, server.client("/vector") as client:
        redis.stop()
        calling = asyncio.ensure_future(client.invoke(step["target"], *step["arguments"]))
        while not calling.done():
            await clock.elapse(0.25, step=0.25)
        with pytest.raises(HubException) as caught:
            await calling
    assert str(caught.value) == step["completion"]["error"]
    (logged,) = (record for record in caplog.records if record.name == "hubplane.hubs.failures")
    assert (logged.__dict__["event_id"], logged.levelno, logged.getMessage()) == (
        event["id"],
        LEVELS[event["level"]],
        event["text"],
    )
    assert logged.exc_info is not None
    cause = logged.exc_info[1]
    assert isinstance(cause, BackplaneUnavailableError)
    assert str(cause).partition(" - Last Connection Exception:")[0] == event["exception"]["message"]


def test_every_scenario_is_replayed() -> None:
    """All seven recordings are, and what is said to be better is about events that were recorded."""
    assert [*COLD_STARTS, "outage", "blink"] == list(ENTRIES)
    assert BETTER.keys() == ENTRIES.keys()
    for name, better in BETTER.items():
        assert better.keys() <= {step["event"] for step in ENTRIES[name]["steps"]}
