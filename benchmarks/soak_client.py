"""A client of the soak: comes, works, suffers, comes back; and writes into the ledger what it did and heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from typing import Any

from soak_connection import LONG, Connection, World
from soak_ledger import Life, Stay
from soak_wire import CANCEL, COMPLETION, ITEM, HttpLine, WebSocketLine

__all__ = ["Client"]

UNDER_WAY = 0.5
"""Seconds before a client leaves a group, of which it may miss what is published then."""


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
        excused = excused or self.world.fleet.was_troubled(begun, time.time())
        if not excused or "No node acknowledged within" in text:
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
            # A node runs one call of a client at a time; what stands behind the next one waits, also answers (5.4).
            now = time.time()
            busy = target is connection or any(now - since > LONG for _, since, _ in target.calls.values())
            excused = busy or target.life.was_troubled(begun - 1, now)
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
