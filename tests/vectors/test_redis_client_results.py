"""Clients asked across nodes: the asking node and the asked one each do what the recorded ones did."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any  # recorded JSON

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import (
    BackplaneUnavailableError,
    ClientResultError,
    ConnectionClosedError,
    HubException,
    RemoteProtocolError,
)
from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.envelope import decode_completion, decode_invocation
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, HubMessage
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.supervisor import Supervisor
from hubplane.testing.fakes import FakeClock
from hubplane.testing.recording import RecordedClient, RecordingBackplane

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-client-results.json").read_text(encoding="utf-8"))
ENTRIES: dict[str, Any] = {entry["name"]: entry for entry in RECORDED["entries"]}
HUB = "Vectors.VectorHub"
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
LEVELS = {"Warning": logging.WARNING, "Error": logging.ERROR}

ASKED = {name: entry for name, entry in ENTRIES.items() if entry["published"]}
ANSWERED = {name: entry for name, entry in ASKED.items() if len(entry["published"]) > 1}

# What the caller asked for, where it was no int.
STRINGS = (
    "json/string",
    "messagepack/string",
    "json/void",
    "messagepack/void",
    "json/error-empty",
    "json/large-result",
)
NULLABLE = ("json/null-for-string", "messagepack/null-for-string")
OBJECTS = (
    "json/order-and-space",
    "json/object",
    "messagepack/object",
    "json/poco",
    "messagepack/poco",
    "messagepack/poco-camel",
)
RESULT_TYPES: dict[str, object] = {
    **dict.fromkeys(STRINGS, str),
    **dict.fromkeys(NULLABLE, str | None),
    **dict.fromkeys(OBJECTS, object),
}
# .NET raises an exception without a text of its own here, hubplane gives None (signalr-server 5.13).
VOID = {"json/void", "messagepack/void", "json/void-for-int", "json/error-empty"}
# Values that the recorder shows as .NET objects.
VALUES: dict[str, object] = {
    "json/order-and-space": {"b": 1, "a": "<"},
    "json/object": {"a": [1, "x"]},
    "messagepack/object": {"a": [1, "x"]},
    "json/poco": {"id": 1, "name": "n", "child": {"depth": 2}, "color": 5},
    "messagepack/poco": {"Id": 1, "Name": "n", "Child": {"Depth": 2}, "Color": "Green"},
    "messagepack/poco-camel": {"id": 1, "name": "n"},
}


def unhex(value: Any) -> bytes:
    """Recorded bytes."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return b"".join(bytes.fromhex(part) * times for part, times in value["parts"])


class RecordedIds:
    """The recorded names of node A."""

    def __init__(self, node: str, invocation_id: str = "") -> None:
        self._node = node
        self._invocation_id = invocation_id

    def connection_id(self) -> str:
        raise NotImplementedError

    def node_name(self) -> str:
        return self._node

    def invocation_id(self) -> str:
        return self._invocation_id


class Node:
    """A node alone with what the recorder saw of the other one."""

    def __init__(self, entry: Any, letter: str) -> None:
        volatile = entry["volatile"]
        self.backplane = RecordingBackplane()
        self.routes = BackplaneRoutes()
        self.clock = FakeClock()
        self.manager = ScaleoutHubLifetimeManager(
            HUB,
            backplane=self.backplane,
            routes=self.routes,
            protocols=tuple(PROTOCOLS.values()),
            clock=self.clock,
            ids=RecordedIds(volatile[f"server_{letter}"], volatile.get("invocation_id", "")),
        )
        self.supervisor = Supervisor("caller")

    async def enter(self, stack: AsyncExitStack) -> None:
        """Run it."""
        await stack.enter_async_context(self.backplane.run(self.routes))
        await stack.enter_async_context(self.manager.run())
        stack.push_async_callback(self.supervisor.close)

    def deliver(self, channel: str, payload: bytes) -> None:
        """Bring a message."""
        assert self.backplane.sink is not None
        self.backplane.sink.deliver(channel, payload)

    def answered(self, connection: HubConnection, message: HubMessage) -> None:
        """The endpoint's part."""
        if isinstance(message, Completion):
            self.manager.set_connection_result(connection, message)

    async def ask(self, entry: Any) -> asyncio.Task[object]:
        """Ask as the recorded node did, and check that the same bytes go out."""
        recorded = entry["published"][0]
        payload = unhex(recorded["payload_hex"])
        question = json.loads(decode_invocation(payload).payloads["json"].rstrip(b"\x1e"))
        call = self.supervisor.start(
            self.manager.invoke_connection(
                recorded["channel"].removeprefix(f"{HUB}:connection:"),
                question["target"],
                question["arguments"],
                RESULT_TYPES.get(entry["name"], int),
                timeout=None,
            ),
            "ask",
        )
        await self.backplane.published_count(1)
        assert self.backplane.published == [(recorded["channel"], payload)]
        return call


@pytest.mark.row("X13", "B115")
@pytest.mark.parametrize("name", ANSWERED)
async def test_asking_node(name: str) -> None:
    """The question goes out as recorded, and the recorded answer gives the recorded result or error."""
    entry = ENTRIES[name]
    node = Node(entry, "a")
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        call = await node.ask(entry)
        answer = entry["published"][1]
        node.deliver(answer["channel"], unhex(answer["payload_hex"]))
        if name == "cancelled-then-late-answer":
            # The recorded caller had given up by then.
            assert await call == 99
            return
        await asyncio.wait((call,))
        check_outcome(entry, call)


def check_outcome(entry: Any, call: asyncio.Task[object]) -> None:
    """The caller got what the recorded one got."""
    name = entry["name"]
    outcome = entry["outcome"]
    if name in VOID:
        assert call.result() is None
    elif outcome["ok"]:
        expected = VALUES.get(name, outcome["result"]["value"])
        if outcome["result"]["type"] == "System.Int32":
            expected = int(outcome["result"]["value"])
        assert call.result() == expected
    else:
        error = call.exception()
        message = outcome["exception"]["message"]
        if message == "Connection disconnected.":
            # .NET's HubException, but a client of the same node that leaves is an I/O error there; here both are one.
            assert isinstance(error, ConnectionClosedError)
            assert str(error) == f"Connection '{error.connection_id}' disconnected."
            return
        assert type(error) is HubException
        if message.startswith("Error trying to deserialize"):
            # The reason is in the words of the reader.
            assert str(error).startswith("Error trying to deserialize result to int. ")
        else:
            assert str(error) == message


SPELLED_DIFFERENTLY = {"json/string", "json/order-and-space"}


@pytest.mark.row("X16")
@pytest.mark.parametrize("name", ANSWERED)
async def test_asked_node(name: str) -> None:
    """The client gets the recorded question, and its recorded answer (or its leaving) makes the recorded completion.

    Only JSON's spelling may differ, as between any two writers: hex digits of escapes, and a blank before the result.
    """
    entry = ENTRIES[name]
    question, answer = entry["published"]
    channel = question["channel"]
    node = Node(entry, "b")
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        client = RecordedClient(
            channel.removeprefix(f"{HUB}:connection:"), PROTOCOLS[entry["client_protocol"]], on_answer=node.answered
        )
        await node.manager.on_connected(client.connection)
        node.deliver(channel, unhex(question["payload_hex"]))
        client.received()
        assert client.transport.sent == b"".join(map(unhex, entry["client_received"]))
        if "disconnect" in name:
            client.disconnect()
        for data in entry["client_sent"]:
            client.send_raw(unhex(data))
    ((published_on, payload),) = node.backplane.published
    expected = unhex(answer["payload_hex"])
    assert published_on == answer["channel"]
    if name in SPELLED_DIFFERENTLY:
        ours, theirs = (decode_completion(each) for each in (payload, expected))
        assert ours.protocol == theirs.protocol == "json"
        assert list(json.loads(ours.payload[:-1]).items()) == list(json.loads(theirs.payload[:-1]).items())
        assert ours.payload.endswith(b"\x1e")
    else:
        assert payload == expected


FORGED = {name: entry for name, entry in ENTRIES.items() if name.startswith("forged/")}


@pytest.mark.parametrize("name", FORGED)
async def test_forged(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever arrives on the return channel either answers the call or is dropped, with the recorded log record."""
    entry = ENTRIES[name]
    node = Node(entry, "a")
    channels = HubChannels(HUB, entry["volatile"]["server_a"])
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        call = await node.ask(entry)
        caplog.clear()
        node.deliver(channels.returns, unhex(entry["forged_return_payload_hex"]))
        logged = [
            (record.__dict__["event_id"], record.levelno, record.getMessage())
            for record in caplog.records
            if record.levelno > logging.INFO
        ]
        assert logged == [(event["id"], LEVELS[event["level"]], event["text"]) for event in entry["log_a"]]
        if entry["outcome"]["ok"]:
            await call
            check_outcome(entry, call)
        else:
            # The recorded caller gave up after two seconds; here a proper answer is still taken.
            completion = PROTOCOLS["json"].encode(Completion(entry["volatile"]["invocation_id"], result=8))
            node.deliver(channels.returns, b"\x92\xa4json\xc4" + bytes([len(completion)]) + completion)
            assert await call == 8


NOBODY = {name: entry for name, entry in ASKED.items() if 0 in entry["publish_replies"].values()}


@pytest.mark.parametrize("name", NOBODY)
async def test_nobody_to_ask(name: str) -> None:
    """Where Redis counts no receiver, and no subscriber either, there is no such connection."""
    entry = ENTRIES[name]
    node = Node(entry, "a")
    node.backplane.receivers = 0
    node.backplane.default_count = 0
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        call = await node.ask(entry)
        with pytest.raises(ClientResultError) as caught:
            await call
    assert str(caught.value) == entry["outcome"]["exception"]["message"]


async def test_a_count_alone_proves_nothing() -> None:
    """A receiver count of 0 is one Redis node's: while the connection's channel has a subscriber, the call waits."""
    entry = ENTRIES["json/int"]
    node = Node(entry, "a")
    node.backplane.receivers = 0
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        call = await node.ask(entry)
        answer = entry["published"][1]
        node.deliver(answer["channel"], unhex(answer["payload_hex"]))
        assert await call == 42


async def test_wrong_client_answers() -> None:
    """Another connection that answers has broken the protocol; the asked one may still answer."""
    entry = ENTRIES["answer-from-another-connection"]
    question, answer = entry["published"]
    node = Node(entry, "b")
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        client = RecordedClient(
            question["channel"].removeprefix(f"{HUB}:connection:"), PROTOCOLS["json"], on_answer=node.answered
        )
        other = RecordedClient("other", PROTOCOLS["json"])
        for each in (client, other):
            await node.manager.on_connected(each.connection)
        node.deliver(question["channel"], unhex(question["payload_hex"]))
        invocation_id = entry["volatile"]["invocation_id"]
        assert not node.manager.set_connection_result(other.connection, Completion(invocation_id, result=13))
        assert isinstance(other.connection.error, RemoteProtocolError)
        assert other.connection.allow_reconnect
        for data in entry["client_sent"]:
            client.send_raw(unhex(data))
    assert node.backplane.published == [(answer["channel"], unhex(answer["payload_hex"]))]


async def test_owner_dies() -> None:
    """When the node that serves the asked client dies, the caller learns it within seconds, where the original waits.

    One look that finds nobody is not enough, for that node may be reconnecting to Redis.
    """
    entry = ENTRIES["owner-killed"]
    node = Node(entry, "a")
    async with AsyncExitStack() as stack:
        await node.enter(stack)
        call = await node.ask(entry)
        looks = 0

        async def look() -> None:
            nonlocal looks
            looks += 1
            node.clock.advance(2)
            node.manager.tick(node.clock.monotonic())
            await node.backplane.counted_count(looks)

        await look()
        node.backplane.default_count = 0
        await look()
        node.backplane.default_count = 1
        await look()
        node.backplane.default_count = 0
        await look()
        node.backplane.refusal = BackplaneUnavailableError("away")
        await look()
        node.backplane.refusal = None
        await look()
        assert not call.done()
        await look()
        with pytest.raises(ClientResultError, match="is gone, and the node that served it with it"):
            await call
