"""Real Redis Clusters: where channels sit, primaries that die, freeze or step down, and slots that move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from random import Random
from typing import Literal

import pytest
from tests.integration.flow import GAP, flowing, lost_between

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisEventQueue, RedisHandlers
from hubplane.backplane.redis.options import Endpoint, RedisMode, RedisOptions
from hubplane.backplane.redis.placement import Placement
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.shard import Shard
from hubplane.backplane.redis.slots import SLOTS, slot_of
from hubplane.clock import SystemClock
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_fleets import wait_until
from hubplane.testing.redis_server import RedisServer, find_redis_server

pytestmark = pytest.mark.timeout(120)
both_modes = pytest.mark.parametrize("mode", ["compat", "sharded"])
prefixes = count()


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisCluster]:
    """Three primaries with a replica each; Redis itself where it is installed, for .NET fleets run on it."""
    with RedisCluster(replicas=1, kind="redis" if find_redis_server("redis") else "any") as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: RedisCluster) -> RedisCluster:
    """The same, well again after what the test before did to it."""
    shared.resume()
    return shared


def options_for(cluster: RedisCluster, mode: RedisMode = "compat") -> RedisOptions:
    """How to reach it, with a prefix of the test's own."""
    return replace(parse(cluster.configuration), channel_prefix=f"T{next(prefixes)}:", mode=mode)


def names_over_all_slots(options: RedisOptions) -> list[str]:
    """Twelve channels, four for each third of the slots."""
    prefix = options.channel_prefix.encode() if options.mode == "sharded" else b""
    found: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for number in count():
        name = f"room {number}"
        third = found[slot_of(prefix + name.encode()) * 3 // SLOTS]
        if len(third) < 4:
            third.append(name)
        if sum(map(len, found.values())) == 12:
            return [name for names in found.values() for name in names]
    raise AssertionError


async def eventually(check: Callable[[], object], what: str) -> None:
    """Wait for something that only the servers know, without stopping the event loop."""
    await asyncio.to_thread(wait_until, check, what)


@asynccontextmanager
async def running(options: RedisOptions, *channels: str) -> AsyncIterator[tuple[RedisBackplane, RecordingSink]]:
    """A connected backplane with some channels."""
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        await node.subscribe([*channels, "ready"])
        yield node, sink


def subscribed(server: RedisServer, prefix: str, *, sharded: bool = False) -> set[str]:
    """The channels of one prefix that somebody has subscribed at a server."""
    reply = server.command("PUBSUB", "SHARDCHANNELS" if sharded else "CHANNELS", f"{prefix}*")
    assert isinstance(reply, list)
    return {bytes(name).decode().removeprefix(prefix) for name in reply if isinstance(name, bytes)}


def at_home(cluster: RedisCluster, options: RedisOptions, names: Sequence[str]) -> bool:
    """Whether each channel is subscribed at its slot's owner of this moment; as a shard channel, nowhere else."""
    sharded = options.mode == "sharded"
    prefix = options.channel_prefix.encode() if sharded else b""
    found = {server: subscribed(server, options.channel_prefix, sharded=sharded) for server in cluster.servers}
    places = {name: {server for server, channels in found.items() if name in channels} for name in names}
    owners = {name: cluster.owner(slot_of(prefix + name.encode())) for name in names}
    if sharded:
        return all(places[name] == {owners[name]} for name in names)
    # Plain ones stay at their old place for a while, unheard.
    return all(owners[name] in places[name] for name in names)


@pytest.mark.row("S54")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_channels_sit_where_dotnet_looks_for_them(cluster: RedisCluster, protocol: Literal[2, 3]) -> None:
    """One address of a Cluster is enough: every channel sits, once, at the owner of the slot of its bare name."""
    options = replace(options_for(cluster), protocol=protocol, endpoints=parse(cluster.configuration).endpoints[:1])
    names = [f"Hub:group:{number}" for number in range(60)]
    async with running(options, *names) as (node, sink):
        for name in names:
            owner = cluster.owner(slot_of(name.encode()))
            for server in cluster.servers:
                assert (name in subscribed(server, options.channel_prefix)) is (server is owner)
            assert await node.publish(name, b"x") == 1
            await sink.message(name, b"x")
        assert sink.events == []
        await node.unsubscribe(names[:30])
        left = set().union(*(subscribed(server, options.channel_prefix) for server in cluster.servers))
        assert left == {*names[30:], "ready"}


async def test_shard_channels_stay_in_their_shard(cluster: RedisCluster) -> None:
    """In sharded mode every channel is a shard channel at the owner of its whole name, and nothing is plain."""
    options = options_for(cluster, "sharded")
    names = names_over_all_slots(options)
    async with running(options, *names) as (node, sink):
        for name in names:
            owner = cluster.owner(slot_of(f"{options.channel_prefix}{name}".encode()))
            assert name in subscribed(owner, options.channel_prefix, sharded=True)
            assert await node.publish(name, b"x") == 1
            await sink.message(name, b"x")
        assert all(not subscribed(server, options.channel_prefix) for server in cluster.servers)
        # What travels by PUBLISH is another channel of the same name.
        cluster.servers[0].command("PUBLISH", options.channel_prefix + names[0], b"plain")
        await node.publish(names[0], b"y")
        await sink.message(names[0], b"y")
        assert b"plain" not in sink.payloads(names[0])


@pytest.mark.row("S53")
async def test_one_living_seed_of_several_is_enough(cluster: RedisCluster) -> None:
    """Of several seeds those that are dead are passed over, and nodes that know different seeds are one fleet."""
    prefix = f"T{next(prefixes)}:"
    dead = Endpoint("127.0.0.1", 1)
    first = RedisOptions(endpoints=(dead, Endpoint("127.0.0.1", cluster.servers[0].port)), channel_prefix=prefix)
    second = parse(f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.servers[-1].port}?channelPrefix={prefix}")
    async with running(first, "room") as (one, heard_one), running(second, "room") as (two, heard_two):
        for node, payload in ((one, b"1"), (two, b"2")):
            assert await node.publish("room", payload) == 2
            await heard_one.message("room", payload)
            await heard_two.message("room", payload)


@pytest.mark.row("S55")
async def test_subscribers_are_counted_wherever_they_sit(cluster: RedisCluster) -> None:
    """A subscriber at the wrong server, or at a replica, is not overlooked, though the owner counts none."""
    options = options_for(cluster)
    names = names_over_all_slots(options)
    roles = {server: cluster.role(server) for server in cluster.servers}
    async with running(options) as (node, _):
        for server, role in roles.items():
            single = RedisOptions(
                endpoints=(Endpoint(server.host, server.port),),
                channel_prefix=options.channel_prefix,
                topology="single",
            )
            async with running(single, *names):
                assert await node.count_subscribers([*names, "nobody"]) == {**dict.fromkeys(names, 1), "nobody": 0}
                at_the_owner = [await node.publish(name, b"") for name in names]
                assert at_the_owner.count(1) == (4 if role == "master" else 0)


@pytest.mark.row("S53", "S54")
@both_modes
async def test_primary_dies(cluster: RedisCluster, mode: RedisMode) -> None:
    """Messages flow while a primary is killed: nodes say so, heal in seconds, and hear all that follows, once each."""
    options = options_for(cluster, mode)
    loop = asyncio.get_running_loop()
    async with flowing(options, names_over_all_slots(options)) as fleet:
        victim = cluster.owner(0)
        before = loop.time()
        victim.kill()
        await fleet.event("lost")
        # Not by its silence, which counts after three seconds.
        assert loop.time() - before < 2.5
        await fleet.event(GAP)
        # Plain messages take another server at once; shard channels wait for the Cluster's election.
        assert loop.time() - before < (3.0 if mode == "compat" else 12.0)
        await fleet.caught_up()
        lost = lost_between(fleet)
        await eventually(lambda: cluster.owner(0), "a replica is the primary")
        await eventually(
            lambda: subscribed(cluster.owner(0), options.channel_prefix, sharded=mode == "sharded"), "moved"
        )
        await fleet.caught_up()
        cluster.start()
        await asyncio.to_thread(cluster.wait_until_well)
        await fleet.rounds(20)
        await fleet.caught_up()
        fleet.assert_ordered()
        # Whatever was lost was lost in the one gap that was reported, and nothing after it.
        assert lost_between(fleet) == lost
        await eventually(lambda: all(node.backplane.is_connected for node in fleet.nodes), "all are whole")
        for node in fleet.nodes:
            # On a busy machine the servers may doubt one another for a while; that is told, and nothing is missed.
            assert node.sink.events[:2] == ["lost", GAP]
            assert set(node.sink.events[2:]) <= {"lost", "restored"}
            for channel in fleet.channels:
                assert await node.backplane.publish(channel, b"counted 1") == 2


@both_modes
async def test_slot_moves(cluster: RedisCluster, mode: RedisMode) -> None:
    """Slots change hands while messages flow on their channels: plain ones arrive all, shard channels report a gap."""
    options = options_for(cluster, mode)
    prefix = options.channel_prefix.encode() if mode == "sharded" else b""
    names = names_over_all_slots(options)
    slots = [slot_of(prefix + name.encode()) for name in names[:3]]
    async with flowing(options, names) as fleet:
        source, target = cluster.owner(slots[0]), cluster.owner(SLOTS - 1)
        for slot in slots:
            await asyncio.to_thread(cluster.move_slot, slot, target)
            await fleet.rounds(3)
        moved, sharded = set(names[:3]), mode == "sharded"
        await eventually(lambda: moved <= subscribed(target, options.channel_prefix, sharded=sharded), "all moved")
        # Plain ones stay at their old place for a while, unheard, for the sake of .NET's counts.
        assert not moved & subscribed(source, options.channel_prefix, sharded=True)
        await fleet.rounds(20)
        for node in fleet.nodes:
            if node.sink.events:
                await node.sink.event(GAP, node.sink.events.count("lost"))
        await fleet.caught_up()
        fleet.assert_ordered()
        assert not any(node.failed for node in fleet.nodes)
        if mode == "compat":
            assert [node.sink.events for node in fleet.nodes] == [[], []]
            assert lost_between(fleet) == 0
        elif lost_between(fleet):
            assert any(node.sink.events for node in fleet.nodes)
        for slot in slots:
            await asyncio.to_thread(cluster.move_slot, slot, source)


@both_modes
async def test_primary_steps_down(cluster: RedisCluster, mode: RedisMode) -> None:
    """A replica takes over by agreement: plain messages are neither lost nor doubled, and channels follow."""
    options = options_for(cluster, mode)
    async with flowing(options, names_over_all_slots(options)) as fleet:
        old = cluster.owner(0)
        replica = next(s for s in cluster.servers if cluster.role(s) == "slave" and cluster.primary_of(s) is old)
        attempts = await asyncio.to_thread(cluster.fail_over, replica)
        await eventually(lambda: at_home(cluster, options, fleet.channels), "all are where their slots are")
        await fleet.caught_up()
        fleet.assert_ordered()
        await eventually(lambda: all(node.backplane.is_connected for node in fleet.nodes), "all are whole")
        for node in fleet.nodes:
            # The old primary is silent for five seconds where the servers need a second attempt to agree.
            outages = list(zip(node.sink.events[::2], node.sink.events[1::2], strict=True))
            assert set(outages) <= {("lost", "restored"), ("lost", GAP)}
            assert len(outages) <= 2 * attempts
        if mode == "compat":
            assert lost_between(fleet) == 0
        elif lost_between(fleet):
            assert any(GAP in node.sink.events for node in fleet.nodes)


async def test_channel_changes_sides_within_its_shard(cluster: RedisCluster) -> None:
    """A replica hears what its primary does: while a shard channel is subscribed at both, each message comes once.

    That is so when a primary has stepped down and the node has subscribed again before it learned of it.
    """
    options, clock = options_for(cluster, "sharded"), SystemClock()
    replica = next(server for server in cluster.servers if cluster.role(server) == "slave")
    primary = cluster.primary_of(replica)
    assert primary is not None
    thirds = names_over_all_slots(options)
    name = next(n for n in thirds if cluster.owner(slot_of(f"{options.channel_prefix}{n}".encode())) is primary)
    homes: list[Shard] = []
    heard: list[bytes] = []
    placement = Placement(
        options,
        clock,
        lambda _, payload: heard.append(payload),
        locate=lambda _: homes[-1],
        related=lambda *_: True,
        on_settled=lambda: None,
        on_misplaced=lambda: None,
    )
    events = RedisEventQueue(RedisHandlers())

    async def open_home(server: RedisServer) -> None:
        shard = Shard(
            Endpoint(server.host, server.port),
            options,
            placement,
            clock=clock,
            random=Random(1),
            events=events,
            on_change=lambda *_: None,
            on_failure=lambda error: pytest.fail(str(error)),
        )
        shard.start()
        while not shard.is_up:
            await clock.sleep(0.01)
        homes.append(shard)

    await open_home(primary)
    await placement.subscribe([name], keep=True, away=None)
    await open_home(replica)
    homes.reverse()  # the replica is not its home yet
    channel = f"{options.channel_prefix}{name}"
    sent: list[bytes] = []
    try:
        while not sent or subscribed(primary, options.channel_prefix, sharded=True):
            sent.append(b"%d" % len(sent))
            primary.command("SPUBLISH", channel, sent[-1])
            if len(sent) == 10:
                # What was sent before may still be on its way to the replica, which no node can know.
                await clock.sleep(0.5)
                homes.reverse()
                placement.relocate()
            placement.tick(clock.monotonic())
            await clock.sleep(0.005)
        primary.command("SPUBLISH", channel, b"last")
        async with asyncio.timeout(20):
            while b"last" not in heard:
                await clock.sleep(0.005)
    finally:
        placement.close(BackplaneUnavailableError("The test is over."))
        for shard in homes:
            await shard.close()
        await events.close()
    assert heard == [*sent, b"last"]
    assert len(sent) > 20


async def test_primary_freezes(cluster: RedisCluster) -> None:
    """A primary that stops answering is noticed, replaced, and when it wakes up nothing arrives twice."""
    options = replace(options_for(cluster), liveness_interval=0.3)
    loop = asyncio.get_running_loop()
    async with flowing(options, names_over_all_slots(options)) as fleet:
        victim = cluster.owner(0)
        before = loop.time()
        victim.pause()
        try:
            await fleet.event("lost")
            assert loop.time() - before < 10.0
            await fleet.event(GAP)
            assert loop.time() - before < 15.0
            await fleet.caught_up()
            lost = lost_between(fleet)
            await eventually(lambda: cluster.owner(0) is not victim, "a replica is the primary")
            await fleet.caught_up()
        finally:
            victim.resume()
        await eventually(lambda: cluster.role(victim) == "slave", "the old primary follows")
        await fleet.rounds(20)
        await fleet.caught_up()
        fleet.assert_ordered()
        assert lost_between(fleet) == lost


@both_modes
async def test_starts_before_the_cluster(mode: RedisMode) -> None:
    """A node that starts while the whole Cluster is away is whole when it comes, whatever it was told of its kind."""
    with RedisCluster() as cluster:
        cluster.interrupt()
        for text in (cluster.configuration, cluster.url):
            options = replace(parse(text), mode=mode, async_timeout=1.0)
            node, sink = RedisBackplane(options), RecordingSink()
            channels = names_over_all_slots(options)
            async with node.run(sink):
                await sink.event("lost")
                await node.subscribe(channels, keep=True)
                with pytest.raises(BackplaneUnavailableError):
                    await node.publish(channels[0], b"lost")
                cluster.start()
                await sink.event(GAP)
                for channel in channels:
                    assert await node.publish(channel, b"x") == 1
                    await sink.message(channel, b"x")
                assert sink.events == ["lost", GAP]
            cluster.interrupt()


async def test_calls_wait_for_the_kind_of_server(cluster: RedisCluster) -> None:
    """What is published and subscribed before the server is known to be a Cluster is carried over, in order."""
    options = options_for(cluster)
    node, sink = RedisBackplane(options), RecordingSink()
    async with node.run(sink):
        # All in one turn: nothing is connected yet.
        waiting = [node.publish("room", str(number).encode()) for number in range(100)]
        await node.subscribe(["room"])
        waiting.append(node.publish("room", b"last"))
        await asyncio.gather(*waiting)
        await sink.message("room", b"last")
        assert sink.payloads("room") == [*sorted(sink.payloads("room")[:-1], key=int), b"last"]


async def test_abort_on_connect_fail() -> None:
    """With abortConnect a Cluster that is not there fails the start, and names every seed and its reason."""
    node = RedisBackplane(parse("redis+cluster://127.0.0.1:1,127.0.0.1:2?abortConnect=true&connectRetry=1"))
    with pytest.raises(BackplaneUnavailableError, match="not possible to connect") as caught:
        async with node.run(RecordingSink()):
            raise AssertionError
    assert "127.0.0.1:1" in str(caught.value.__cause__)
    assert "127.0.0.1:2" in str(caught.value.__cause__)


@both_modes
async def test_user_with_few_rights(cluster: RedisCluster, mode: RedisMode) -> None:
    """A user needs its channels and eight commands, CLUSTER NODES among them; without that one the log says so."""
    options = options_for(cluster, mode)
    shard = "+ssubscribe +sunsubscribe +spublish" if mode == "sharded" else "+subscribe +unsubscribe +publish"
    rules = f"on >pw resetchannels &{options.channel_prefix}* +ping +hello +client +pubsub +cluster|nodes {shard}"
    for server in cluster.servers:
        server.command("ACL", "SETUSER", "few", "reset", *rules.split())
    async with running(replace(options, user="few", password="pw"), "room") as (node, sink):
        assert await node.publish("room", b"x") == 1
        await sink.message("room", b"x")
        assert await node.count_subscribers(["room"]) == {"room": 1}
    for server in cluster.servers:
        server.command("ACL", "SETUSER", "few", "-cluster|nodes")
    node, sink = RedisBackplane(replace(options, user="few", password="pw")), RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert "refuses CLUSTER NODES: NOPERM" in str(sink.errors[0])


async def test_subscribing_ends_with_the_confirmation(cluster: RedisCluster) -> None:
    """A call that began before the server was known to be a Cluster ends when its channels are heard, not before."""
    for _ in range(10):
        options = options_for(cluster)
        one, two = RedisBackplane(options), RedisBackplane(options)
        heard_one, heard_two = RecordingSink(), RecordingSink()
        async with one.run(heard_one), two.run(heard_two):
            await asyncio.gather(one.subscribe(["room"], keep=True), two.subscribe(["room"], keep=True))
            assert await one.publish("room", b"x") == 2
            await heard_two.message("room", b"x")
            assert heard_one.events == heard_two.events == []
