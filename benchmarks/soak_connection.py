"""A connection of the soak, over one socket or several: what its client sends and hears, and how it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import deque
from typing import Any, Protocol

from soak_ledger import Ledger, Life
from soak_wire import (
    ACK,
    CANCEL,
    CLOSE,
    CODECS,
    COMPLETION,
    INVOCATION,
    ITEM,
    PING,
    SEQUENCE,
    STREAM,
    HttpLine,
    WebSocketLine,
)

__all__ = ["LONG", "Connection", "Fleet", "World"]

PATIENCE = 45.0
"""Seconds after which a call of a client that reads has been forgotten: group commands may take 30."""
LONG = 2.0
"""Seconds after which a call holds up what its client sends behind it, answers to others among them."""
AWAY_LONGEST = 8.0
"""The nodes' `disconnect_timeout`."""


class Fleet(Protocol):
    """What a client knows of the nodes."""

    def ports(self) -> list[tuple[str, int]]:
        """Names and ports of the nodes that serve."""
        ...

    def was_troubled(self, begin: float, end: float) -> bool:
        """Whether Redis had trouble at some time in between, so that commands may fail."""
        ...

    def is_alive(self, node: str) -> bool:
        """Whether it serves, as far as its owner did not end it."""
        ...


class Owner(Protocol):
    """What a connection knows of its client."""

    world: World
    transport: str
    codec: str
    random: random.Random


class World:
    """What all clients share."""

    def __init__(self, fleet: Fleet, ledger: Ledger) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.living: dict[str, Connection] = {}
        self.stopping = False
        self.groups = itertools.count()


class Connection:
    """One connection over its life, on one socket or several."""

    def __init__(self, client: Owner, life: Life, token: str, port: int) -> None:
        self.client = client
        self.life = life
        self.world = client.world
        self.ledger = client.world.ledger
        self.token = token
        self.port = port
        self.codec = CODECS[client.codec]
        self.is_stateful = client.transport == "stateful"
        self.calls: dict[str, tuple[asyncio.Future[tuple[str, Any]], float, str]] = {}
        self.items: dict[str, list[Any]] = {}
        self.ids = itertools.count(1)
        self.shaken: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()
        self.buffer = b""
        self.websocket: WebSocketLine | None = None
        self.stream: HttpLine | None = None
        self.poster: HttpLine | None = None
        self.outgoing: deque[bytes] = deque()
        self.outgoing_wakes = asyncio.Event()
        self.holes: list[Any] = []
        self.stalled_until = 0.0
        self.stalled = asyncio.Event()
        self.stalled.set()
        self.tasks: list[asyncio.Task[None]] = []
        self.closed_by_server = False
        # Stateful reconnect
        self.log: deque[bytes] = deque()
        self.first = 1
        self.next = 1
        self.latest = 0
        self.acknowledged = 0
        self.away = False

    # -- out ----------------------------------------------------------------------------------------------------

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, now or once there is a socket again."""
        data = self.codec.encode(message)
        if self.is_stateful and message["type"] <= CANCEL:
            self.log.append(data)
        if self.websocket is not None and not self.away:
            self.websocket.frame(data, 1 if self.codec.is_text else 2)
        elif self.client.transport in {"sse", "polling"}:
            self.outgoing.append(data)
            self.outgoing_wakes.set()

    async def post(self) -> None:
        """Send what waits, in order, by POST."""
        poster = self.poster
        assert poster is not None  # noqa: S101 - made before
        while True:
            await self.outgoing_wakes.wait()
            self.outgoing_wakes.clear()
            while self.outgoing:
                body = b"".join(self.outgoing)
                self.outgoing.clear()
                status = await poster.request("POST", f"/soak?id={self.token}", body)
                if status != 200:
                    self.end(f"POST answered {status}")
                    return

    async def poll(self) -> None:
        """Poll until it is over."""
        line = self.stream
        assert line is not None  # noqa: S101 - made before
        while True:
            await self.stalled.wait()
            status = await line.request("GET", f"/soak?id={self.token}")
            if status != 200:
                self.end(f"a poll answered {status}")
                return

    async def listen(self) -> None:
        """Read events until they end."""
        line = self.stream
        assert line is not None  # noqa: S101 - made before
        status = await line.request("GET", f"/soak?id={self.token}", accept="text/event-stream")
        self.end(f"the events ended with {status}")

    async def pulse(self) -> None:
        """Pings and acknowledgements, and a look at calls that nobody answers."""
        while True:
            await asyncio.sleep(1)
            self.send({"type": PING})
            if self.is_stateful and not self.away and self.latest > self.acknowledged:
                self.acknowledged = self.latest
                self.send({"type": ACK, "sequenceId": self.latest})
            now = time.time()
            for number, (_, since, what) in list(self.calls.items()):
                if now - since > PATIENCE and not self.life.was_troubled(since, now):
                    del self.calls[number]
                    self.ledger.blame(f"{self.life.kind} client {self.life.connection_id}: no answer to {what}")

    # -- in -----------------------------------------------------------------------------------------------------

    def bytes_came(self, data: bytes) -> None:
        """Bytes of messages."""
        self.buffer += data
        if not self.shaken.done():
            answer, found, rest = self.buffer.partition(b"\x1e")
            if not found:
                return
            self.buffer = rest
            self.shaken.set_result(json.loads(answer).get("error"))
        messages, self.buffer = self.codec.split(self.buffer)
        for message in messages:
            if self.life.ended is not None:
                return
            self.came(message)

    def came(self, message: dict[str, Any]) -> None:
        """One message."""
        kind = message["type"]
        if self.is_stateful and not self.is_new(message):
            return
        if kind == INVOCATION:
            self.invoked(message)
        elif kind == ITEM:
            self.items.setdefault(message["invocationId"], []).append(message["item"])
        elif kind == COMPLETION:
            self.answered(message)
        elif kind == CLOSE:
            self.closed_by_server = True
            self.end(f"Close: {message.get('error')}")

    def is_new(self, message: dict[str, Any]) -> bool:
        """Count a message of stateful reconnect; whether it is for the client, and was not here before."""
        kind = message["type"]
        if kind == ACK:
            while self.log and self.first <= message["sequenceId"]:
                self.log.popleft()
                self.first += 1
        elif kind == SEQUENCE:
            if message["sequenceId"] > self.next:
                self.ledger.blame(f"stateful client {self.life.connection_id}: a hole of sequence ids")
            self.next = message["sequenceId"]
        elif kind <= CANCEL:
            self.next += 1
            if self.next - 1 <= self.latest:
                self.ledger.figures["replayed to those who had it"] += 1
                return False
            self.latest = self.next - 1
        return kind not in {ACK, SEQUENCE}

    def answered(self, message: dict[str, Any]) -> None:
        """The end of a call."""
        call = self.calls.pop(message["invocationId"], None)
        if call is None:
            self.ledger.blame(f"{self.life.kind} client {self.life.connection_id}: a second answer: {message}")
        elif not call[0].done():
            if time.time() - call[1] > LONG:
                self.life.troubled.append((call[1], time.time()))
            error = message.get("error")
            call[0].set_result(("error", error) if error else ("", message.get("result")))

    def invoked(self, message: dict[str, Any]) -> None:
        """A message, or a question."""
        if message["target"] == "Message":
            publisher, channel, number, _pad = message["arguments"]
            self.ledger.hear(self.life, publisher, channel, number)
        elif message["target"] == "Ask":
            (number,) = message["arguments"]
            self.send({"type": COMPLETION, "invocationId": message["invocationId"], "result": number + 1})

    # -- calls --------------------------------------------------------------------------------------------------

    def call(self, target: str, *arguments: object, stream: bool = False, uploads: int = 0) -> Any:
        """Call a method: the id, the future of what became of it, and the ids of its uploads."""
        number = str(next(self.ids))
        streams = [str(next(self.ids)) for _ in range(uploads)]
        future: asyncio.Future[tuple[str, Any]] = asyncio.get_running_loop().create_future()
        if self.life.ended is not None:
            future.set_result(("ended", None))
            return number, future, streams
        self.calls[number] = (future, time.time(), f"{target}{arguments!r}"[:100])
        if stream:
            self.items[number] = []
        message: dict[str, Any] = {
            "type": STREAM if stream else INVOCATION,
            "invocationId": number,
            "target": target,
            "arguments": list(arguments),
        }
        if streams:
            message["streamIds"] = streams
        self.send(message)
        self.ledger.figures[f"calls of {target}"] += 1
        return number, future, streams

    async def invoke(self, target: str, *arguments: object) -> tuple[str, Any]:
        """Call, and wait: ``("", result)``, ``("error", text)`` or ``("ended", None)``."""
        _, future, _ = self.call(target, *arguments)
        return await future  # type: ignore[no-any-return]  # see call

    # -- its end and its sufferings -----------------------------------------------------------------------------

    def end(self, why: str) -> None:
        """It is over, as far as this side knows."""
        life = self.life
        if life.ended is not None:
            return
        life.ended = time.time()
        life.why = why
        self.world.living.pop(life.connection_id, None)
        self.ledger.figures[f"ended: {life.kind.split()[0]}, {why.partition(':')[0]}"] += 1
        for stays in life.stays.values():
            stays[-1].end = min(stays[-1].end, life.ended)
        for future, _, _ in self.calls.values():
            if not future.done():
                future.set_result(("ended", None))
        self.calls.clear()
        if not self.shaken.done():
            self.shaken.set_result(why)
        self.over.set()

    def lines(self) -> list[Any]:
        """Its sockets."""
        return [line for line in (self.websocket, self.stream, self.poster) if line is not None]

    def socket_ended(self) -> None:
        """The WebSocket is gone, by itself or cut."""
        websocket = self.websocket
        code = None if websocket is None else websocket.close_code
        if self.is_stateful and code is None and not self.closed_by_server and self.shaken.done():
            if not self.away and self.life.ended is None:
                self.away = True
                self.tasks.append(asyncio.get_running_loop().create_task(self.come_back()))
        else:
            self.end(f"socket ended with {code}")

    def cut(self, how: str) -> None:
        """Cut its sockets."""
        self.ledger.figures[f"cut: {how}"] += 1
        for line in self.lines():
            line.cut(how)
            if how == "blackhole":
                self.holes.append(line)
                asyncio.get_running_loop().call_later(15, line.close)
        if self.is_stateful:
            self.socket_ended()
        else:
            self.end(f"cut ({how})")

    async def stall(self, seconds: float) -> None:
        """Read nothing for a while, but go on pinging."""
        begin = time.time()
        self.life.troubled.append((begin, begin + seconds + 3))
        self.stalled_until = begin + seconds
        self.stalled.clear()
        lines = self.lines()
        for line in lines:
            line.stall()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.over.wait(), seconds)
        self.stalled_until = time.time()
        self.stalled.set()
        for line in lines:
            line.read_on()

    async def come_back(self) -> None:
        """Open the next socket of a stateful connection, some time later."""
        rng = self.client.random
        began = time.time()
        trouble = len(self.life.troubled)
        self.life.troubled.append((began, began + 60))
        late = rng.random() < 0.08
        pause = AWAY_LONGEST + 4 if late else rng.choice((0.0, 0.05, 0.5, 2.0, 4.0))
        await asyncio.sleep(pause)
        while self.life.ended is None:
            try:
                line = await WebSocketLine.opened(self.port, self.bytes_came, lambda: None)
            except OSError:
                self.end("node gone while away")
                return
            self.buffer = b""
            self.websocket = line
            status = await line.upgrade(f"/soak?id={self.token}")
            if status != 101:
                line.close()
                in_time = time.time() - began < AWAY_LONGEST - 1 and self.world.fleet.is_alive(self.life.node)
                # One that did not read, and acknowledged nothing, is given up by its node.
                if in_time and began - self.stalled_until > AWAY_LONGEST:
                    self.ledger.blame(
                        f"stateful client {self.life.connection_id}: refused with {status} within its time"
                    )
                self.end(f"refused while away ({status})")
                return
            line.on_end = self.socket_ended
            replay = self.codec.encode({"type": SEQUENCE, "sequenceId": self.first}) + b"".join(self.log)
            line.frame(replay, 1 if self.codec.is_text else 2)
            self.away = False
            self.acknowledged = 0
            self.ledger.figures["stateful reconnects"] += 1
            self.life.troubled[trouble] = (began, time.time() + 3)
            if line.ended:
                self.socket_ended()
            return

    def free(self) -> None:
        """Close whatever is left."""
        for task in self.tasks:
            task.cancel()
        for line in self.lines():
            line.on_end = lambda: None
            if line not in self.holes:
                line.close()
