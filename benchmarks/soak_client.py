"""A client of the soak: comes, works, suffers, comes back; and writes into the ledger what it did and heard."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from soak_ledger import Ledger, Life, Stay
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

__all__ = ["Client", "Fleet", "World"]

PATIENCE = 45.0
"""Seconds after which a call of a client that reads has been forgotten: group commands may take 30."""
UNDER_WAY = 0.5
"""Seconds before a client leaves a group, of which it may miss what is published then."""
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

    def __init__(self, client: Client, life: Life, token: str, port: int) -> None:
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


class Client:
    """One client, over many connections.

    Args:
        index: Its number; decides its user, its group and, with `kinds`, how it speaks.
        world: What all share.
        seed: Its own chance.
        pace: Mean seconds between two works.
    """

    KINDS = (
        ("websocket", "json"),
        ("stateful", "json"),
        ("websocket", "messagepack"),
        ("stateful", "messagepack"),
        ("sse", "json"),
        ("websocket", "json"),
        ("polling", "json"),
        ("websocket", "messagepack"),
        ("polling", "messagepack"),
        ("stateful", "json"),
    )

    def __init__(self, index: int, world: World, seed: str, pace: float) -> None:
        self.world = world
        self.transport, self.codec = self.KINDS[index % len(self.KINDS)]
        self.kind = f"{self.transport} {self.codec}"
        self.user = f"u{index // 3}"
        self.group = f"g{index % 23}"
        self.random = random.Random(f"{seed}/{index}")
        self.pace = pace
        self.connection: Connection | None = None
        self.lock = asyncio.Lock()

    async def run(self) -> None:
        """Come back until the world stops; the last connection stays."""
        await asyncio.sleep(self.random.uniform(0, 3))
        while not self.world.stopping:
            try:
                connection = await self.connect()
            except (OSError, TimeoutError):
                connection = None
            if connection is None:
                await asyncio.sleep(self.random.uniform(0.2, 1))
                continue
            self.connection = connection
            work = asyncio.gather(*(self.work(connection) for _ in range(2)))
            over = asyncio.ensure_future(connection.over.wait())
            await asyncio.wait((work, over), return_when=asyncio.FIRST_COMPLETED)
            if connection.life.ended is None and self.world.stopping:
                over.cancel()
                return
            with contextlib.suppress(asyncio.CancelledError):
                await work
            connection.free()
            await asyncio.sleep(self.random.choice((0, 0.1, 1)))

    # -- connecting ---------------------------------------------------------------------------------------------

    async def connect(self) -> Connection | None:
        """A connection whose hub has answered once; None when it did not come to that."""
        ports = self.world.fleet.ports()
        if not ports:
            return None
        node, port = self.random.choice(ports)
        answer = bytearray()
        line = await HttpLine.opened(port, answer.extend, lambda: None)
        stateful = "&useStatefulReconnect=true" if self.transport == "stateful" else ""
        status = await line.request("POST", f"/soak/negotiate?negotiateVersion=1{stateful}")
        if status != 200:
            line.close()
            return None
        found = json.loads(answer)
        life = Life(found["connectionId"], node, self.kind, self.user)
        connection = Connection(self, life, found["connectionToken"] + f"&user={self.user}", port)
        self.world.ledger.lives[life.connection_id] = life
        begun = time.time()
        for channel in ("Soak:all", f"Soak:user:{self.user}", f"Soak:connection:{life.connection_id}"):
            life.stays[channel] = [Stay(begun)]
        if not await self.open(connection, line):
            connection.end("not opened")
            connection.free()
            return None
        connection.tasks.append(asyncio.get_running_loop().create_task(connection.pulse()))
        how, _ = await connection.invoke("Echo", 1)
        if how:
            connection.end("no first answer")
            connection.free()
            return None
        now = time.time()
        for stays in life.stays.values():
            stays[0].begin = now
        self.world.living[life.connection_id] = connection
        await self.join(connection, life, self.group)
        return connection

    async def open(self, connection: Connection, line: HttpLine) -> bool:
        """Open the transport, and shake hands."""
        loop = asyncio.get_running_loop()
        hello = {"protocol": self.codec, "version": 2 if self.transport == "stateful" else 1}
        handshake = json.dumps(hello).encode() + b"\x1e"
        if self.transport in {"websocket", "stateful"}:
            line.close()
            websocket = await WebSocketLine.opened(connection.port, connection.bytes_came, connection.socket_ended)
            connection.websocket = websocket
            if await websocket.upgrade(f"/soak?id={connection.token}") != 101:
                return False
            websocket.frame(handshake, 1)
        else:

            def lost() -> None:
                connection.end("socket ended")

            connection.poster = line
            line.on_data = lambda _: None
            line.on_end = lost
            if self.transport == "polling":
                connection.stream = await HttpLine.opened(connection.port, connection.bytes_came, lost)
                if await connection.stream.request("GET", f"/soak?id={connection.token}") != 200:
                    return False
                connection.tasks.append(loop.create_task(connection.poll()))
            else:
                connection.stream = await HttpLine.opened(connection.port, Events(connection.bytes_came).feed, lost)
                connection.tasks.append(loop.create_task(connection.listen()))
            connection.outgoing.append(handshake)
            connection.outgoing_wakes.set()
            connection.tasks.append(loop.create_task(connection.post()))
        try:
            error = await asyncio.wait_for(asyncio.shield(connection.shaken), 15)
        except TimeoutError:
            if self.world.fleet.is_alive(connection.life.node):
                self.world.ledger.blame(f"{self.kind} client {connection.life.connection_id}: no answer to a handshake")
            return False
        return error is None

    # -- working ------------------------------------------------------------------------------------------------

    async def work(self, connection: Connection) -> None:
        """Works, one after the other, until the connection or the world ends."""
        rng = self.random
        works: tuple[tuple[Callable[[Connection], Any], int], ...] = (
            (self.publish_some, 50),
            (self.echo, 10),
            (self.download, 8),
            (self.cancelled_download, 4),
            (self.upload, 6),
            (self.both_ways, 6),
            (self.ask, 12),
            (self.come_and_go, 6),
            (self.remote_group, 8),
        )
        while connection.life.ended is None and not self.world.stopping:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(connection.over.wait(), rng.expovariate(0.5 / self.pace))
                return
            if self.world.stopping:
                return
            (work,) = rng.choices([one for one, _ in works], [weight for _, weight in works])
            await work(connection)

    def judge(self, connection: Connection, what: str, begun: float, text: str, *, excused: bool = False) -> None:
        """A call failed: was that to be expected?"""
        kind = text.partition(" HubException: ")[2].partition(":")[0] or text[:60]
        self.world.ledger.figures[f"failed: {what.split(maxsplit=1)[0]}, {kind}"] += 1
        excused = excused and "No node acknowledged within" not in text
        if not excused and not self.world.fleet.was_troubled(begun, time.time()):
            self.world.ledger.blame(f"{self.kind} client {connection.life.connection_id}: {what} failed: {text}")

    async def publish(self, connection: Connection, kind: str, name: str, channel: str, pad: int = 0) -> None:
        """Publish one message, and note what became of it."""
        message = self.world.ledger.publish(connection.life.connection_id, channel, time.time())
        how, text = await connection.invoke("Publish", kind, name, channel, message.number, "x" * pad)
        if not how:
            message.done = time.time()
        elif how == "error":
            self.judge(connection, f"Publish to {channel}", message.sent, text)

    async def publish_some(self, connection: Connection) -> None:
        """One message, or many at once."""
        rng = self.random
        kind = rng.choices(("all", "group", "user", "connection"), (8, 40, 26, 26))[0]
        living = list(self.world.living.values())
        name = {
            "all": "",
            "group": f"g{rng.randrange(23)}",
            "user": rng.choice(living).life.user if living else "u0",
            "connection": rng.choice(living).life.connection_id if living else connection.life.connection_id,
        }[kind]
        channel = "Soak:all" if kind == "all" else f"Soak:{kind}:{name}"
        count = rng.choice((1, 1, 3, 10)) if kind != "all" else 1
        pad = rng.choice((0, 0, 0, 100, 4_000))
        await asyncio.gather(*(self.publish(connection, kind, name, channel, pad) for _ in range(count)))

    async def echo(self, connection: Connection) -> None:
        """Call and compare."""
        begun, value = time.time(), self.random.random()
        how, result = await connection.invoke("Echo", [value, "ä" * self.random.randrange(300)])
        if how == "error":
            self.judge(connection, "Echo", begun, result)
        elif not how and result[0] != value:
            self.world.ledger.blame(f"Echo answered {result!r} to {value!r}")

    async def download(self, connection: Connection) -> None:
        """A stream to the client, whole and in order."""
        count, begun = self.random.choice((0, 1, 50, 300)), time.time()
        number, future, _ = connection.call("Counter", count, stream=True)
        how, text = await future
        items = connection.items.pop(number, [])
        if how == "error":
            self.judge(connection, "Counter", begun, text)
        elif items != list(range(len(items))) or (not how and len(items) != count):
            self.world.ledger.blame(
                f"{self.kind} client {connection.life.connection_id}: a stream of {count} broke: {items}"
            )

    async def cancelled_download(self, connection: Connection) -> None:
        """A stream that the client cancels."""
        number, future, _ = connection.call("Counter", 100_000, stream=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(connection.over.wait(), self.random.uniform(0, 0.3))
        if connection.life.ended is None:
            connection.send({"type": CANCEL, "invocationId": number})
        await future
        items = connection.items.pop(number, [])
        if items != list(range(len(items))):
            self.world.ledger.blame(f"{self.kind} client {connection.life.connection_id}: a cancelled stream broke")

    async def send_items(self, connection: Connection, stream: str, items: list[int]) -> None:
        """Stream items to the node."""
        for item in items:
            if connection.life.ended is not None:
                return
            connection.send({"type": ITEM, "invocationId": stream, "item": item})
            if item % 16 == 15:
                await asyncio.sleep(0.01)
        if connection.life.ended is None:
            connection.send({"type": COMPLETION, "invocationId": stream})

    async def upload(self, connection: Connection) -> None:
        """A stream to the node, whole and in order."""
        items, begun = list(range(self.random.choice((0, 1, 40, 120)))), time.time()
        _, future, (stream,) = connection.call("Total", uploads=1)
        await self.send_items(connection, stream, items)
        how, result = await future
        if how == "error":
            self.judge(connection, "Total", begun, result)
        elif not how and result != items:
            self.world.ledger.blame(f"{self.kind} client {connection.life.connection_id}: an upload broke: {result}")

    async def both_ways(self, connection: Connection) -> None:
        """A stream in each direction."""
        sent, begun = list(range(self.random.choice((0, 1, 40, 120)))), time.time()
        number, future, (stream,) = connection.call("Both", stream=True, uploads=1)
        await self.send_items(connection, stream, sent)
        how, text = await future
        items = connection.items.pop(number, [])
        if how == "error":
            self.judge(connection, "Both", begun, text)
        elif not how and items != sent:
            self.world.ledger.blame(
                f"{self.kind} client {connection.life.connection_id}: an echoed stream broke: {items}"
            )

    def other(self, connection: Connection) -> Connection:
        """Some client that lives."""
        return self.random.choice(list(self.world.living.values()) or [connection])

    async def ask(self, connection: Connection) -> None:
        """Ask another client by way of the nodes."""
        target, number, begun = self.other(connection), self.random.randrange(1_000_000), time.time()
        how, result = await connection.invoke("Ask", target.life.connection_id, number)
        if how == "error":
            # A client that asks itself, and others that wait for it, wait for one call at a time.
            excused = target is connection or target.life.was_troubled(begun - 1, time.time())
            self.judge(
                connection, f"Ask {target.life.kind} {target.life.connection_id}", begun, result, excused=excused
            )
        elif not how and result != number + 1:
            self.world.ledger.blame(f"Ask answered {result!r} to {number}")

    async def join(self, connection: Connection, life: Life, group: str) -> bool:
        """Let a connection join a group, and note since when it is certain."""
        stay, channel = Stay(time.time()), f"Soak:group:{group}"
        life.stays[channel].append(stay)
        how, text = await connection.invoke("Join", life.connection_id, group)
        if not how and life.ended is None:
            stay.begin = time.time()
        elif how == "error":
            self.judge(
                connection,
                f"Join {life.kind}",
                stay.asked,
                text,
                excused=life.was_troubled(stay.asked - 1, time.time()),
            )
        return not how

    async def leave(self, connection: Connection, life: Life, group: str) -> bool:
        """Let it leave, and note since when that is certain."""
        stay, begun = life.stays[f"Soak:group:{group}"][-1], time.time()
        # A node takes a client of its own out at once, while what was published just before is still on its way from
        # Redis; so does the original.
        stay.end = min(stay.end, begun - UNDER_WAY)
        how, text = await connection.invoke("Leave", life.connection_id, group)
        if not how:
            stay.over = time.time()
        elif how == "error":
            self.judge(connection, f"Leave {life.kind}", begun, text, excused=life.was_troubled(begun - 1, time.time()))
        return not how

    async def come_and_go(self, connection: Connection) -> None:
        """Leave the own group, and join it again."""
        async with self.lock:  # the stays of a group are one after the other
            await self.leave(connection, connection.life, self.group)
            await self.join(connection, connection.life, self.group)

    async def remote_group(self, connection: Connection) -> None:
        """Put another client into a group of its own, send to it, take it out, send again."""
        target, group = self.other(connection).life, f"r{next(self.world.groups)}"
        channel = f"Soak:group:{group}"
        await self.join(connection, target, group)
        for _ in range(3):
            await self.publish(connection, "group", group, channel)
        await asyncio.sleep(UNDER_WAY)
        if await self.leave(connection, target, group):
            await self.publish(connection, "group", group, channel)


class Events:
    """Server-Sent Events, to the bytes of messages."""

    def __init__(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        self._buffer = b""

    def feed(self, data: bytes) -> None:
        """A piece of the stream."""
        *events, self._buffer = (self._buffer + data).split(b"\r\n\r\n")
        for event in events:
            lines = [line[6:] for line in event.split(b"\r\n") if line.startswith(b"data: ")]
            if lines:
                self._on_data(b"\r\n".join(lines))
