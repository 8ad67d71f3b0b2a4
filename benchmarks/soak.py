"""A fleet under load and faults, judged: ``python benchmarks/soak.py --minutes 2 --seed 1``.

It starts nodes (`soak_node.py`), an embedded Valkey and a few hundred clients of all transports, and by the seed cuts
clients, lets them stop reading, kills and drains nodes, and restarts, freezes and cuts off Redis. At the end it says
what was lost, heard twice or out of order, never answered, or left behind. The exit code is 0 when nothing was.

The seed decides who does what, and when; how the machine runs that is never twice the same.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop
from soak_client import Client
from soak_connection import Connection, World
from soak_ledger import Gap, Ledger
from soak_wire import HttpLine

from hubplane.testing.redis_server import RedisServer
from hubplane.testing.resp import encode_command, read_reply

HERE = Path(__file__).parent
# What a fault of Redis may make fail: from the fault itself until all nodes are whole again, and a little more.
AFTERMATH = 1.0
OWN_CHANNELS = 4
BAD = re.compile(r" (ERROR|CRITICAL) |Traceback|never retrieved|never awaited|Exception ignored|Warning:")
# .NET's own words for an outage, at .NET's own level.
EXPECTED = re.compile(
    r"Connection to Redis failed|Not connected to Redis|Error (connecting|forwarding|processing message for internal)"
)
# What a client is told is logged with its cause, as in .NET; whether it was to be expected is judged by the client.
FAILED_CALL = re.compile(r"hubplane\.hubs\.failures: Failed to invoke hub method")
TOLD = (
    "hubplane.errors.HubException: ",
    "hubplane.errors.ConnectionClosedError: The underlying connection was closed.",
)


class Node:
    """One place in the fleet; its process may be another one later."""

    def __init__(self, number: int, redis: str, folder: Path) -> None:
        self.number = number
        self.port = free_port()
        self.redis = redis
        self.folder = folder
        self.life = 0
        self.process: asyncio.subprocess.Process | None = None
        self.serves = False
        self.base: dict[str, Any] = {}
        self.peak = 0

    @property
    def name(self) -> str:
        """Which node, in which life."""
        return f"node{self.number}.{self.life}"

    async def start(self) -> None:
        """Start it, and return when it serves and has reached Redis."""
        self.life += 1
        run = "from hubplane.cli.main import main; main()"
        command = (sys.executable, "-c", run, "serve", "soak_node:app", "--app-dir", str(HERE))
        with (self.folder / f"{self.name}.out").open("wb") as out, (self.folder / f"{self.name}.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, "--port", str(self.port), "--log-level", "info",
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=log,
                env={**os.environ, "HUBPLANE_REDIS": self.redis},
            )  # fmt: skip
        end = time.monotonic() + 30
        while not (found := await self.state()) or not found["connected"]:
            if time.monotonic() > end or self.process.returncode is not None:
                raise RuntimeError(f"{self.name} did not start; see {self.folder}")
            await asyncio.sleep(0.1)
        self.base = found
        self.serves = True

    async def state(self) -> dict[str, Any]:
        """Its tables; empty when it does not answer."""
        body = bytearray()
        try:
            line = await HttpLine.opened(self.port, body.extend, lambda: None)
        except (OSError, TimeoutError):
            return {}
        try:
            if await asyncio.wait_for(line.request("GET", "/state"), 10) != 200:
                return {}
        except TimeoutError:
            return {}
        finally:
            line.close()
        found: dict[str, Any] = json.loads(body)
        self.peak = max(self.peak, found["resident"])
        return found

    async def end(self, number: signal.Signals) -> int:
        """End its process; the exit status."""
        self.serves = False
        process = self.process
        if process is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        return await process.wait()


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        # One for each kind of fault, for they come at the same time.
        self.of_clients, self.of_nodes, self.of_redis = (
            random.Random(f"{options.seed}/{kind}") for kind in ("clients", "nodes", "redis")
        )
        self.server = None if options.redis else RedisServer()
        self.folder = folder
        self.ledger = Ledger()
        self.world = World(self, self.ledger)
        self.nodes: list[Node] = []
        self.troubles: list[list[float]] = []
        self.faults: Counter[str] = Counter()
        self.begun = time.monotonic()

    # -- what clients ask ---------------------------------------------------------------------------------------

    def ports(self) -> list[tuple[str, int]]:
        """Nodes that serve."""
        return [(node.name, node.port) for node in self.nodes if node.serves]

    def is_alive(self, name: str) -> bool:
        """Whether it serves."""
        return any(node.serves and node.name == name for node in self.nodes)

    def was_troubled(self, begin: float, end: float) -> bool:
        """Whether commands may have failed in between."""
        return any(since <= end and begin <= until for since, until in self.troubles)

    # -- faults -------------------------------------------------------------------------------------------------

    async def command(self, *words: str) -> Any:
        """One command to Redis."""
        if self.server is not None:
            return await asyncio.to_thread(self.server.command, *words)
        return await asyncio.to_thread(foreign_command, self.options.redis, words)

    @contextlib.asynccontextmanager
    async def trouble(self) -> Any:
        """A time in which commands may fail: until all nodes that serve are whole again."""
        window = [time.time() - 0.05, float("inf")]
        self.troubles.append(window)
        try:
            yield
            end = time.monotonic() + 40
            while True:
                states = await asyncio.gather(*(node.state() for node in self.nodes if node.serves))
                if all(state and state["connected"] for state in states):
                    break
                if time.monotonic() > end:
                    self.ledger.blame("a node was not whole again 40 s after a fault of Redis")
                    break
                await asyncio.sleep(0.25)
        finally:
            window[1] = time.time() + AFTERMATH

    async def redis_restart(self) -> None:
        """Redis dies and comes back empty."""
        assert self.server is not None  # noqa: S101 - the plan knows
        async with self.trouble():
            self.server.kill()
            await asyncio.sleep(self.of_redis.choice((0, 0.5, 3)))
            self.server.start()
            await asyncio.sleep(0.5)

    async def redis_cut(self) -> None:
        """Redis closes every subscriber's connection."""
        async with self.trouble():
            await self.command("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.5)

    async def redis_freeze(self) -> None:
        """Redis stands still for three seconds."""
        assert self.server is not None  # noqa: S101 - the plan knows
        async with self.trouble():
            self.server.pause()
            await asyncio.sleep(3)
            self.server.resume()
            await asyncio.sleep(0.5)

    async def node_kill(self) -> None:
        """A node dies, and another comes in its place."""
        node = self.of_nodes.choice(self.nodes)
        await node.end(signal.SIGKILL)
        self.end_clients_of(node, "killed")
        await asyncio.sleep(self.of_nodes.choice((0, 1, 4)))
        await node.start()

    async def node_drain(self) -> None:
        """A node is asked to end, does so in time, and another comes in its place."""
        node = self.of_nodes.choice(self.nodes)
        began = time.monotonic()
        status = await node.end(signal.SIGTERM)
        took = time.monotonic() - began
        self.say(f"{node.name} drained in {took:.1f} s")
        if status or took > 15:
            self.ledger.blame(f"{node.name} ended with status {status} after {took:.1f} s of draining")
        self.end_clients_of(node, "drained")
        await node.start()

    def end_clients_of(self, node: Node, why: str) -> None:
        """Black holes cannot notice that their node is gone."""
        for connection in list(self.world.living.values()):
            if connection.life.node == node.name and connection.away:
                connection.end(f"node {why}")

    def cut_clients(self) -> None:
        """Some clients lose their sockets."""
        living = list(self.world.living.values())
        for connection in self.of_clients.sample(
            living, min(len(living), self.of_clients.randint(1, max(1, len(living) // 20)))
        ):
            if not connection.away:
                connection.cut(self.of_clients.choice(("reset", "end", "blackhole")))

    def stall_clients(self) -> None:
        """Some clients stop reading for a while."""
        living = [one for one in self.world.living.values() if not one.away and one.stalled.is_set()]
        for connection in self.of_clients.sample(living, min(len(living), 3)):
            work = connection.stall(self.of_clients.choice((1, 4, 12)))
            connection.tasks.append(asyncio.get_running_loop().create_task(work))
            self.ledger.figures["stalls"] += 1

    async def torment(self, seconds: float) -> None:
        """Faults by the seed, for so long: of clients, of nodes and of Redis, at the same time."""
        nodes = [self.node_kill, self.node_drain]
        redis = [self.redis_cut] if self.server is None else [self.redis_cut, self.redis_restart, self.redis_freeze]
        end = time.monotonic() + seconds

        async def small() -> None:
            while time.monotonic() < end:
                await asyncio.sleep(self.of_clients.uniform(1, 3))
                self.of_clients.choice((self.cut_clients, self.cut_clients, self.stall_clients))()

        async def large(kinds: list[Any], chance: random.Random) -> None:
            bag: list[Any] = []
            while True:
                await asyncio.sleep(chance.uniform(2, 9))
                if time.monotonic() > end:
                    return
                bag = bag or chance.sample(kinds, len(kinds))
                fault = bag.pop()
                self.say(fault.__name__)
                self.faults[fault.__name__] += 1
                await fault()

        await asyncio.gather(small(), large(nodes, self.of_nodes), large(redis, self.of_redis))

    # -- a run --------------------------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """A line with the time."""
        print(f"{time.monotonic() - self.begun:7.1f}  {text}", flush=True)

    async def run(self) -> bool:
        """Do it all; whether nothing is wrong."""
        if self.server is not None:
            self.server.start()
        try:
            redis = self.options.redis or self.server.url
            self.nodes = [Node(number, redis, self.folder) for number in range(1, self.options.nodes + 1)]
            await asyncio.gather(*(node.start() for node in self.nodes))
            clients = [
                Client(index, self.world, str(self.options.seed), self.options.pace)
                for index in range(self.options.clients)
            ]
            running = [asyncio.get_running_loop().create_task(client.run()) for client in clients]
            self.say(f"{len(self.nodes)} nodes, {len(clients)} clients, seed {self.options.seed}")
            await asyncio.sleep(6)
            await self.torment(60 * self.options.minutes)
            self.say("quiet")
            await self.calm(running, clients)
            await self.leave(clients)
            await self.look_at_the_rest()
        finally:
            for node in self.nodes:
                if node.process is not None and node.process.returncode is None:
                    await node.end(signal.SIGKILL if sys.exc_info()[0] else signal.SIGTERM)
            if self.server is not None:
                self.server.close()
        self.read_logs()
        self.ledger.judge(self.gaps())
        return self.verdict()

    async def calm(self, running: list[asyncio.Task[None]], clients: list[Client]) -> None:
        """No more faults: let everything arrive."""
        await asyncio.sleep(4)
        self.world.stopping = True
        _, late = await asyncio.wait(running, timeout=60)
        for task, client in zip(running, clients, strict=True):
            if task in late:
                waits = [call[2] for call in client.connection.calls.values()] if client.connection else []
                self.ledger.blame(f"{client.kind} client did not come to an end: it waits for {waits}")
                task.cancel()
            elif (error := task.exception()) is not None:
                raise error
        heard = -1
        while heard != self.ledger.figures["messages received"]:
            heard = self.ledger.figures["messages received"]
            await asyncio.sleep(2)
        for connection in self.world.living.values():
            connection.life.whole = not connection.away and connection.stalled.is_set()
            for _, _, what in connection.calls.values():
                self.ledger.blame(f"{connection.life.kind} client {connection.life.connection_id}: no answer to {what}")

    async def leave(self, clients: list[Client]) -> None:
        """All clients go, politely or not."""
        for index, client in enumerate(clients):
            connection: Connection | None = client.connection
            if connection is None:
                continue
            connection.end("the end of the run")
            if index % 2 and connection.websocket is not None and not connection.away:
                connection.websocket.frame((1000).to_bytes(2), 8)
                await asyncio.sleep(0)
            connection.free()

    async def look_at_the_rest(self) -> None:
        """Everything returns to its base."""
        for node in self.nodes:
            end = time.monotonic() + 40
            while left := self.leftovers(node, await node.state()):
                if time.monotonic() > end:
                    self.ledger.wrong += [f"{node.name}: {one}" for one in left]
                    break
                await asyncio.sleep(0.5)
            self.print_memory(node, await node.state())
        channels = sorted(channel.decode() for channel in await self.command("PUBSUB", "CHANNELS", "Soak:*"))
        if len(channels) != 2 + 2 * len(self.nodes):
            self.ledger.blame(f"Redis has subscriptions to {channels}")
        counts = await self.command("PUBSUB", "NUMSUB", *channels)
        for name, count in zip(counts[::2], counts[1::2], strict=True):
            shared = name in {b"Soak:all", b"Soak:internal:groups"}
            if count != (len(self.nodes) if shared else 1):
                self.ledger.blame(f"Redis has {count} subscriptions to {name.decode()}")
        patterns = await self.command("PUBSUB", "NUMPAT")
        if patterns:
            self.ledger.blame(f"Redis has {patterns} subscriptions to patterns")

    def leftovers(self, node: Node, state: dict[str, Any]) -> list[str]:
        """What a node has more or less than in its beginning."""
        if not state:
            return ["no answer"]
        left = [
            f"{name} is {count}, was {node.base['tables'][name]}"
            for name, count in state["tables"].items()
            if count != node.base["tables"][name]
        ]
        before, after = Counter(dict(node.base["tasks"])), Counter(dict(state["tasks"]))
        left += [f"task {name}: {count}" for name, count in (after - before).items()]
        # Its first state may have seen the measurement that follows each connect.
        left += [f"no more task {name}" for name in before - after if not name.endswith("round trip")]
        grown = Counter(state["objects"]) - Counter(node.base["objects"])
        left += [f"{count} more objects of {name}" for name, count in grown.items() if count > 20]
        if state["files"] > node.base["files"] + 3:
            left.append(f"{state['files']} open files, was {node.base['files']}")
        if not state["connected"]:
            left.append("not connected to Redis")
        return left

    def print_memory(self, node: Node, state: dict[str, Any]) -> None:
        """A line about memory."""
        if state:
            self.say(
                f"{node.name}: {node.base['resident']:,} kB at first, {node.peak:,} seen, {state['resident']:,} last; "
                f"objects {node.base['all objects']:,} -> {state['all objects']:,}"
            )

    # -- the verdict --------------------------------------------------------------------------------------------

    def gaps(self) -> dict[str, list[Gap]]:
        """What the nodes reported; a report without a fault is wrong."""
        found: dict[str, list[Gap]] = {}
        for path in sorted(self.folder.glob("*.out")):
            for line in path.read_text().splitlines():
                if line.startswith("{"):
                    gap = json.loads(line)
                    found.setdefault(path.stem, []).append(Gap(gap["since"], gap["until"], frozenset(gap["channels"])))
                    self.ledger.figures["gaps reported"] += 1
                    if not self.was_troubled(gap["since"], gap["until"]):
                        self.ledger.blame(f"{path.stem} reported a gap that nothing explains: {line[:120]}")
        return found

    def read_logs(self) -> None:
        """Errors that nobody expects."""
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_text(errors="replace")
            for record in re.split(r"^(?=\d\d:\d\d:\d\d\.\d{3} )", text, flags=re.MULTILINE):
                if not BAD.search(record) or EXPECTED.search(record):
                    continue
                *_, last = record.strip().splitlines()
                if FAILED_CALL.search(record) is None or not last.startswith(TOLD):
                    self.ledger.blame(f"{path.name}: {record.strip()[:2_000]}")

    def verdict(self) -> bool:
        """Print the figures, and what is wrong."""
        print("\nFaults:", ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items())))
        print(self.ledger.table())
        wrong = self.ledger.wrong
        for sentence in wrong[:60]:
            print(f"WRONG: {sentence}")
        if len(wrong) > 60:
            print(f"... and {len(wrong) - 60} more")
        print(f"\n{'PASSED' if not wrong else f'FAILED, {len(wrong)} things are wrong'} (seed {self.options.seed})")
        return not wrong


def foreign_command(url: str, words: tuple[str, ...]) -> Any:
    """One command to a Redis that was there before, ``redis://host:port``."""
    host, _, port = url.partition("://")[2].partition("/")[0].partition(":")
    with socket.create_connection((host, int(port or 6379)), 10) as client, client.makefile("rb") as replies:
        client.sendall(encode_command(*words))
        return read_reply(replies)


def free_port() -> int:
    """A port that is free now, and is asked for again by nobody else, with luck."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def main() -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="of faults; beginning and end come on top")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace", type=float, default=3.0, help="mean seconds between two works of a client")
    parser.add_argument(
        "--redis",
        metavar="URL",
        help="redis://host:port instead of an embedded server; no faults of it but cut subscribers",
    )
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the nodes' logs and gaps there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubplane-soak-") as folder:
        where = options.keep or Path(folder)
        where.mkdir(parents=True, exist_ok=True)
        return 0 if uvloop.run(Soak(options, where).run()) else 1


if __name__ == "__main__":
    sys.exit(main())
