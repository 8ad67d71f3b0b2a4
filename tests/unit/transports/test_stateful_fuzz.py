"""A client of stateful reconnect whose sockets break anywhere, lose what was under way, and come two at a time."""

from __future__ import annotations

import json
import random
from typing import Any  # JSON

import pytest
from tests.unit.transports.stateful_node import Node, Socket, node

RS = b"\x1e"
PING, CLOSE, ACK, SEQUENCE = 6, 7, 8, 9


class Model:
    """What a client keeps by the protocol: numbers of both directions, and what the server has not acknowledged.

    Attributes:
        got: Counted messages that were new, in order.
    """

    def __init__(self, running: Node, token: str, socket: Socket, chance: random.Random) -> None:
        self.running = running
        self.token = token
        self.socket: Socket | None = socket
        self.chance = chance
        self.got: list[dict[str, Any]] = []
        self.unacknowledged: list[bytes] = []
        self.last_sent = 0
        self.next = 1
        self.latest = 0
        self.read_to = 0
        self.waits_for_sequence = False
        self.calls = 0
        self.broadcasts = 0

    # -- what it does --

    async def call(self) -> None:
        """Call a method, now or on the next socket."""
        message = {"type": 1, "invocationId": str(self.calls), "target": "Echo", "arguments": [str(self.calls)]}
        payload = json.dumps(message).encode() + RS
        self.calls += 1
        self.last_sent += 1
        self.unacknowledged.append(payload)
        if self.socket is not None:
            self.socket.raw(payload)

    async def broadcast(self) -> None:
        """The server sends, whether the client is there or not."""
        size = self.chance.choice([1, 1, 1, 30_000, 70_000])
        await self.running.endpoint.context.clients.all.send("M", self.broadcasts, "x" * size)
        self.broadcasts += 1

    async def acknowledge(self) -> None:
        """Read, and tell how far."""
        self.read()
        if self.socket is not None:
            self.socket.send({"type": ACK, "sequenceId": self.latest})

    async def wait(self) -> None:
        """A second."""
        await self.running.seconds(1)

    async def stall(self) -> None:
        """The socket takes nothing for now."""
        if self.socket is not None:
            self.socket.take_no_more()

    async def go_on(self) -> None:
        """It does again."""
        if self.socket is not None and self.socket.listener is not None:
            self.socket.listener.resume_writing()

    async def cut(self) -> None:
        """The socket breaks; what was under way is lost, from somewhere within a message on."""
        socket, self.socket = self.socket, None
        if socket is None:
            return
        self.read(socket, lose=True)
        if self.chance.random() < 0.5:
            message = {"type": 1, "invocationId": str(self.calls), "target": "Echo", "arguments": [str(self.calls)]}
            payload = json.dumps(message).encode() + RS
            self.calls += 1
            self.last_sent += 1
            self.unacknowledged.append(payload)
            socket.raw(payload[: self.chance.randrange(1, len(payload))])
        socket.cut()

    async def come(self) -> None:
        """A new socket, though the old one may still be open; sometimes two, of which the last one counts."""
        if self.socket is not None:
            self.read(self.socket, lose=True)
        if self.chance.random() < 0.3:
            first = await self.running.open(self.token)
            assert first.rejected is None
        socket = await self.running.open(self.token)
        assert socket.rejected is None, socket.rejected
        self.socket = socket
        self.read_to = 0
        self.waits_for_sequence = True
        first_kept = self.last_sent - len(self.unacknowledged) + 1
        socket.send({"type": SEQUENCE, "sequenceId": first_kept})
        socket.raw(b"".join(self.unacknowledged))

    # -- what it reads --

    def read(self, socket: Socket | None = None, *, lose: bool = False) -> None:
        """Take what has come; `lose` the end of it."""
        socket = socket or self.socket
        if socket is None:
            return
        data = socket.transport.sent[self.read_to :]
        if lose:
            data = data[: self.chance.randrange(len(data) + 1)]
        *records, _ = data.split(RS)
        for record in records:
            self.read_to += len(record) + 1
            self.take(json.loads(record))

    def take(self, message: dict[str, Any]) -> None:
        """One message."""
        kind = message["type"]
        if self.waits_for_sequence:
            assert kind == SEQUENCE, "something stands before the sequence number"
            self.waits_for_sequence = False
        if kind == SEQUENCE:
            assert message["sequenceId"] <= self.next, "messages are missing"
            self.next = message["sequenceId"]
        elif kind == ACK:
            keep = self.last_sent - message["sequenceId"]
            self.unacknowledged = self.unacknowledged[len(self.unacknowledged) - keep :] if keep else []
        elif kind in {PING, CLOSE}:
            assert kind == PING
        else:
            self.next += 1
            if self.next - 1 > self.latest:
                self.latest = self.next - 1
                self.got.append(message)


@pytest.mark.row("B144", "B147", "B152")
@pytest.mark.parametrize("seed", range(40))
async def test_nothing_is_lost_and_nothing_comes_twice(seed: int) -> None:
    """Whatever happens to its sockets, each call is made once, and each answer and broadcast arrives once, in order."""
    chance = random.Random(seed)
    async with node() as running:
        token, socket = await running.client()
        model = Model(running, token, socket, chance)
        steps = [model.call, model.broadcast, model.acknowledge, model.wait, model.stall, model.go_on, model.cut]
        for _ in range(80):
            await chance.choice([*steps, model.come] if model.socket else [model.come, model.broadcast, model.call])()
            if chance.random() < 0.7:
                await running.settle()
            if chance.random() < 0.5:
                model.read()
        await model.come()
        for _ in range(3):
            await running.seconds(2)
            await model.acknowledge()
        await running.settle()
        model.read()
        assert [entry for entry in running.log if entry != "connected"] == [str(n) for n in range(model.calls)]
        results = [message["result"] for message in model.got if message["type"] == 3]
        assert results == [str(n) for n in range(model.calls)]
        assert [message["arguments"][0] for message in model.got if message["type"] == 1] == [*range(model.broadcasts)]
        assert model.unacknowledged == []
        assert running.connection().session.log.size == 0
