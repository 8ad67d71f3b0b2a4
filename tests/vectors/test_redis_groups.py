"""Group changes across nodes: two of our nodes send Redis what two of ASP.NET Core's did, command by command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any  # recorded JSON

import pytest

from hubplane.backplane.memory import MemoryBackplane, MemoryBus
from hubplane.errors import AckTimeoutError
from hubplane.lifetime.audience import Audience, AudienceKind
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.fakes import FakeClock
from hubplane.testing.recording import RecordedClient

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-groups.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, Any] = {entry["name"]: entry for entry in RECORDED["entries"]}
HUB = "Vectors.VectorHub"
JSON = JsonHubProtocol()

Command = tuple[str, str, str, str]
"""Node, command, channel, payload in hex."""


class NamedNode:
    """Ids of a node whose name was recorded."""

    def __init__(self, node: str) -> None:
        self._node = node

    def connection_id(self) -> str:
        raise NotImplementedError

    def node_name(self) -> str:
        return self._node

    def invocation_id(self) -> str:
        raise NotImplementedError


class TracedBackplane(MemoryBackplane):
    """Keeps what a real one would have sent to Redis."""

    def __init__(self, bus: MemoryBus, node: str, trace: list[Command]) -> None:
        super().__init__(bus)
        self.letter = node
        self.trace = trace
        self.counts = True
        self._published = asyncio.Event()

    async def traced(self, count: int) -> None:
        """So many commands have been sent."""
        while len(self.trace) < count:
            self._published.clear()
            await self._published.wait()

    async def subscribe(self, channels: Collection[str], *, keep: bool = False) -> None:
        self.trace.extend((self.letter, "SUBSCRIBE", channel, "") for channel in channels)
        await super().subscribe(channels, keep=keep)

    async def unsubscribe(self, channels: Collection[str]) -> None:
        self.trace.extend((self.letter, "UNSUBSCRIBE", channel, "") for channel in channels)
        await super().unsubscribe(channels)

    def publish(self, channel: str, payload: bytes) -> Awaitable[int | None]:
        self.trace.append((self.letter, "PUBLISH", channel, payload.hex()))
        self._published.set()
        return super().publish(channel, payload)

    async def count_subscribers(self, channels: Collection[str]) -> dict[str, int] | None:
        return await super().count_subscribers(channels) if self.counts else None


class Nodes:
    """Nodes A and B as recorded: one connection on A, two on B."""

    def __init__(self) -> None:
        ids = RECORDED["entries"][0]["volatile"]
        self.trace: list[Command] = []
        self.clock = FakeClock()
        bus = MemoryBus()
        self.routes = [BackplaneRoutes(), BackplaneRoutes()]
        self.backplanes = [TracedBackplane(bus, node, self.trace) for node in "AB"]
        self.a, self.b = (
            ScaleoutHubLifetimeManager(
                HUB,
                backplane=backplane,
                routes=routes,
                protocols=[JSON, MessagePackHubProtocol()],
                clock=self.clock,
                ids=NamedNode(ids[f"server_{node}"]),
            )
            for node, backplane, routes in zip("ab", self.backplanes, self.routes, strict=True)
        )
        self.on_a = RecordedClient(ids["connection_on_a"], JSON)
        self.on_b = [RecordedClient(ids[f"connection_{number}_on_b"], JSON) for number in (1, 2)]

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Both nodes, with their clients."""
        async with (
            self.backplanes[0].run(self.routes[0]),
            self.backplanes[1].run(self.routes[1]),
            self.a.run(),
            self.b.run(),
        ):
            await self.a.on_connected(self.on_a.connection)
            for client in self.on_b:
                await self.b.on_connected(client.connection)
            self.trace.clear()
            yield

    async def fill(self) -> None:
        """Bring A's counter to 126, as the recorder did."""
        for _ in range(15, 127):
            await self.a.add_to_group(self.on_b[0].connection_id, "fill")
        self.trace.clear()

    async def add_four(self) -> None:
        """Four more commands for the same group."""
        for _ in range(4):
            await self.a.add_to_group(self.on_b[0].connection_id, "fill")

    def steps(self) -> dict[str, Callable[[], Awaitable[object]]]:
        """The recorded calls, in order; all that is left out is what takes longer than a test may."""
        a, b = self.a, self.b
        one, two = (client.connection_id for client in self.on_b)
        local = self.on_a.connection_id
        return {
            "add-remote-first-member": lambda: a.add_to_group(one, "room"),
            "add-remote-again": lambda: a.add_to_group(one, "room"),
            "add-remote-second-member": lambda: a.add_to_group(two, "room"),
            "add-remote-other-case": lambda: a.add_to_group(one, "Room"),
            "send-to-other-case": lambda: a.send(Audience(AudienceKind.GROUP, ("Room",)), "case", []),
            "remove-remote-not-last": lambda: a.remove_from_group(two, "room"),
            "remove-remote-not-a-member": lambda: a.remove_from_group(two, "room"),
            "remove-remote-last": lambda: a.remove_from_group(one, "room"),
            "add-remote-from-hub": lambda: a.add_to_group(one, "from-hub"),
            "add-local-by-context": lambda: a.add_to_group(local, "local"),
            "remove-local-by-context": lambda: a.remove_from_group(local, "local"),
            "add-remote-unicode": lambda: a.add_to_group(one, "Zürich"),
            "add-remote-empty-name": lambda: a.add_to_group(one, ""),
            "add-remote-long-name": lambda: a.add_to_group(one, "g" * 300),
            "two-concurrent": lambda: asyncio.gather(a.add_to_group(one, "c-one"), a.add_to_group(two, "c-two")),
            "both-directions": lambda: asyncio.gather(a.add_to_group(one, "x-one"), b.add_to_group(local, "x-two")),
            "id-127-128": self.add_four,
        }


def recorded(name: str) -> list[Command]:
    """What the recorded nodes sent."""
    return [
        (command["node"], command["command"], command["channel"], command.get("payload_hex", ""))
        for command in ENTRIES[name]["commands"]
    ]


async def test_group_changes() -> None:
    """Each recorded change makes both nodes send the recorded commands, in the recorded order.

    Where two changes are under way at once, their commands may mix in another order.
    """
    nodes = Nodes()
    async with nodes.run():
        for name, step in nodes.steps().items():
            if name == "id-127-128":
                await nodes.fill()
            await step()
            ours = list(nodes.trace)
            if name in {"two-concurrent", "both-directions"}:
                assert sorted(ours) == sorted(recorded(name)), name
                for node in "AB":
                    acks = [index for index, entry in enumerate(ours) if entry[0] == node and ":ack:" in entry[2]]
                    joins = [index for index, entry in enumerate(ours) if entry[:2] == (node, "SUBSCRIBE")]
                    assert all(join < ack for join, ack in zip(joins, acks, strict=True)), name
            else:
                assert ours == recorded(name), name
            nodes.trace.clear()
        assert nodes.on_b[0].invocations() == [("case", [])]


UNKNOWN = ("add-unknown-connection", "three-unknown-concurrent", "add-unknown-from-hub")


async def test_unknown_connection_where_nobody_can_count() -> None:
    """Over a carrier that cannot count subscribers, a command for an unknown id is the recorded one, and times out."""
    nodes = Nodes()
    nodes.backplanes[0].counts = False
    async with nodes.run():
        for _ in range(130):
            nodes.a._membership._acks.create("", "")
        calls = [
            asyncio.ensure_future(call)
            for call in (
                nodes.a.add_to_group("nobody", "room"),
                nodes.a.remove_from_group("nobody", "room"),
                nodes.a.remove_from_group("nobody", "room"),
                nodes.a.remove_from_group("nobody", "room"),
                nodes.a.add_to_group("nobody", "room"),
            )
        ]
        await nodes.backplanes[0].traced(len(calls))
        assert nodes.trace == [command for name in UNKNOWN for command in recorded(name)]
        nodes.clock.advance(30)
        nodes.a.tick(nodes.clock.monotonic())
        for call in calls:
            with pytest.raises(AckTimeoutError, match="'nobody'"):
                await call


@pytest.mark.row("X2")
async def test_unknown_connection() -> None:
    """Everywhere else it fails within a second, though the command was published; the original waits 30 to 35 s."""
    nodes = Nodes()
    async with nodes.run():
        for change in (nodes.a.add_to_group, nodes.a.remove_from_group):
            with pytest.raises(AckTimeoutError, match="'nobody' does not exist on any node") as caught:
                await change("nobody", "room")
            assert (caught.value.connection_id, caught.value.group) == ("nobody", "room")
        assert [(node, command, channel) for node, command, channel, _ in nodes.trace] == [
            ("A", "PUBLISH", "Vectors.VectorHub:internal:groups")
        ] * 2
