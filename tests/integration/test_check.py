"""`hubplane check` on real servers, good and bad: what it finds, what it says, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal  # Any: JSON of another process

import pytest
import trustme

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.connection import open_connection
from hubplane.backplane.redis.options import Endpoint, RedisMode, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.cli.examine import Examination
from hubplane.cli.findings import Finding, Report
from hubplane.clock import SystemClock
from hubplane.errors import BackplaneUnavailableError
from hubplane.ids import SystemIds
from hubplane.lifetime.channels import HubChannels
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_cluster import RedisCluster
from hubplane.testing.redis_server import RedisServer

HERE = Path(__file__).parent
SECRET = "hunter2-do-not-show"


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server of each kind."""
    with RedisServer(kind=request.param) as server:
        yield server


async def look(options: RedisOptions, hubs: Collection[str] | None = None, seconds: float = 5.0) -> Report:
    """One examination."""
    return await Examination(options, hubs, clock=SystemClock(), ids=SystemIds(), seconds=seconds).run()


def found(report: Report, check: str) -> Finding:
    """The first finding of a kind."""
    return next(finding for finding in report.findings if finding.check == check)


def verdicts(report: Report) -> dict[str, str]:
    """The verdict on each kind; of several findings the last."""
    return {finding.check: finding.verdict for finding in report.findings}


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `hubplane check`."""
    return subprocess.run(
        [sys.executable, "-m", "hubplane.cli.main", "check", *arguments],
        env={**os.environ, "HUBPLANE_REDIS": "", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


# -- a good server ----------------------------------------------------------------------------------------------------


@pytest.mark.row("S2")
@pytest.mark.parametrize("protocol", [2, 3])
async def test_good_server_is_good_in_every_respect(server: RedisServer, protocol: int) -> None:
    """On an unchanged server nothing is worth a warning, and each of the questions has an answer."""
    report = await look(replace(parse(server.configuration), channel_prefix="App:", protocol=protocol))  # type: ignore[arg-type]
    assert verdicts(report) == dict.fromkeys(
        ["reachable", "server", "topology", "TLS", "access", "loop-back", "distance", "nodes", "neighbours", "buffers",
         "clients", "memory", "clock"],
        "ok",
    )  # fmt: skip
    assert report.verdict == "ok"
    name = "Valkey" if "valkey" in server.program.name else "Redis"
    assert found(report, "server").text.startswith(f"{name} ")
    assert found(report, "buffers").data["hard"] == 33_554_432
    paths: Any = found(report, "loop-back").data["paths"]
    assert [path["works"] for path in paths] == [True] * 7
    assert server.command("DBSIZE") == 0
    assert server.command("PUBSUB", "CHANNELS", "*") == []


async def test_real_hub_is_tried_without_disturbing_its_nodes(server: RedisServer) -> None:
    """On the channels of a real hub a node hears one command for a connection that is nowhere, and of All nothing."""
    options = replace(parse(server.configuration), channel_prefix="App:")
    node, sink = RedisBackplane(options), RecordingSink()
    channels = HubChannels("Chat", "node_1")
    async with node.run(sink):
        await node.subscribe([channels.all, channels.groups, channels.ack, channels.returns])
        report = await look(options, ["Chat"])
        assert report.verdict == "ok"
        await node.publish(channels.all, b"fence")
        await sink.message(channels.all, b"fence")
        assert [channel for channel, _ in sink.messages] == [channels.groups, channels.all]
        nodes = found(report, "nodes")
        assert nodes.data["hubs"] == [{"name": "Chat", "nodes": 1, "deaf": 0, "names": ["node_1"]}]
        assert (
            "Only subscribed, because the fleet hears them: messages to all of Chat." in found(report, "loop-back").text
        )


async def test_neighbours_are_told_apart(server: RedisServer) -> None:
    """Hubs with the prefix that are not the application's own, and hubs with other prefixes, are named."""
    options = parse(server.configuration)
    node = RedisBackplane(options)
    async with node.run(RecordingSink()):
        await node.subscribe(
            [f"{hub}:{end}" for hub in ("App:Chat", "App:Shop", "Foreign") for end in ("all", "internal:groups")]
        )
        # Names that only look like a hub's channels.
        await node.subscribe(["App:Chat:group:x:all", "App:Chat:user:internal:groups", "all"])
        report = await look(replace(options, channel_prefix="App:"), ["Chat"])
        near, far = (finding for finding in report.findings if finding.check == "neighbours")
        assert (near.verdict, near.data["prefix"]) == ("warning", ["Shop"])
        assert (far.verdict, far.data["server"]) == ("note", ["Foreign"])
        report = await look(options, ["App:Chat"])
        note = found(report, "neighbours")
        assert note.verdict == "note"
        assert "No channel prefix is set" in note.text
        assert note.data["prefix"] == ["App:Shop", "Foreign"]


async def test_node_that_hears_all_and_no_commands_is_deaf(server: RedisServer) -> None:
    """Where more connections hear All than group commands the difference is deaf, after a second and a third look."""
    options = parse(server.configuration)
    whole, deaf = RedisBackplane(options), RedisBackplane(options)
    async with whole.run(RecordingSink()), deaf.run(RecordingSink()):
        await whole.subscribe(
            ["Chat:all", "Chat:internal:groups", "Chat:internal:ack:web_1", "Chat:internal:return:web_1"]
        )
        await deaf.subscribe(["Chat:all"])
        report = await look(options)
    finding = found(report, "deaf nodes")
    assert finding.verdict == report.verdict == "warning"
    assert finding.data == {"hub": "Chat", "deaf": 1, "whole": ["web_1"]}


async def test_node_without_results_is_an_old_one(server: RedisServer) -> None:
    """A node without a return channel is said to be from before client results."""
    options = parse(server.configuration)
    node = RedisBackplane(options)
    async with node.run(RecordingSink()):
        await node.subscribe(["Chat:all", "Chat:internal:groups", "Chat:internal:ack:web_1"])
        report = await look(options)
    assert any("ASP.NET Core before 7" in finding.text for finding in report.findings if finding.verdict == "note")


@pytest.mark.row("S3")
async def test_distant_redis_is_warned_about(server: RedisServer) -> None:
    """Behind a line that takes 12 ms and more there and back, Redis is said to be in another data centre."""
    loop = asyncio.get_running_loop()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            while data := await reader.read(65_536):
                loop.call_later(0.006, writer.write, data)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(server.host, server.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(relay(reader, back), relay(there, writer))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        report = await look(parse(f"127.0.0.1:{port}"))
    distance = found(report, "distance")
    assert distance.verdict == "warning"
    assert "probably" in distance.text
    assert float(str(distance.data["median"])) >= 0.012
    assert report.conclusion == "hubplane works on this Redis, with 1 warning."


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_limits_that_harm_are_warned_about(server: RedisServer) -> None:
    """Small output buffers, few connections, little memory and the eviction of clients are each a warning."""
    for name, value in (
        ("client-output-buffer-limit", "pubsub 1048576 0 0"),
        ("maxclients", "5"),
        ("maxmemory", "1100000"),
    ):
        server.command("CONFIG", "SET", name, value)
    crowd = [socket.create_connection((server.host, server.port)) for _ in range(3)]
    try:
        report = await look(parse(server.configuration))
    finally:
        for member in crowd:
            member.close()
    seen = verdicts(report)
    assert (seen["buffers"], seen["memory"]) == ("warning", "warning")
    assert seen["clients"] == "warning"
    server.command("CONFIG", "SET", "maxmemory", "0")
    server.command("CONFIG", "SET", "maxmemory-clients", "100mb")
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
    report = await look(parse(server.configuration))
    assert "drops the connections" in found(report, "memory").text
    assert found(report, "buffers").verdict == "note"


# -- access rules -----------------------------------------------------------------------------------------------------

LEAST = ("+subscribe", "+unsubscribe", "+publish", "+ping", "+hello", "+auth", "+client", "+pubsub|numsub", "&App:*")


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (LEAST, []),
        ((*LEAST, "-ping"), []),
        ((*LEAST, "-publish"), ["+publish"]),
        ((*LEAST, "-subscribe"), ["+subscribe"]),
        ((*LEAST, "-pubsub"), ["+pubsub|numsub"]),
        ((*LEAST, "resetchannels", "&Other:*"), ["&App:*"]),
        ((*LEAST, "-publish", "-pubsub"), ["+publish", "+pubsub|numsub"]),
    ],
    ids=lambda value: " ".join(value[-2:]) or "-",
)
async def test_missing_rule_is_named(server: RedisServer, rules: tuple[str, ...], missing: list[str]) -> None:
    """What a user may not do is named as the rule to add; the rest is still asked, and says when it is refused."""
    server.command("ACL", "SETUSER", "node", "on", ">pw", "resetchannels", *rules)
    report = await look(replace(parse(server.configuration), user="node", password="pw", channel_prefix="App:"))
    access = found(report, "access")
    assert list(access.data.get("missing", [])) == missing  # type: ignore[call-overload]
    assert report.verdict == ("failed" if missing else "ok")
    assert verdicts(report)["clock"] == verdicts(report)["buffers"] == "unknown"
    if missing:
        assert all(rule in access.advice for rule in missing)
        server.command("ACL", "SETUSER", "node", *missing)
        report = await look(replace(parse(server.configuration), user="node", password="pw", channel_prefix="App:"))
        assert report.verdict == "ok"


async def test_managed_server_without_commands_is_checked_all_the_same() -> None:
    """Where INFO, CONFIG, ACL, ROLE and TIME do not exist, as on managed servers, what can be tried is tried."""
    gone = [
        part for name in ("INFO", "CONFIG", "ACL", "ROLE", "TIME", "CLUSTER") for part in ("--rename-command", name, "")
    ]
    with RedisServer(arguments=gone) as server:
        report = await look(parse(server.configuration))
    assert report.verdict == "ok"
    unknown = {finding.check for finding in report.findings if finding.verdict == "unknown"}
    assert unknown == {"server", "buffers", "clients", "memory", "clock"}


# -- bad servers ------------------------------------------------------------------------------------------------------


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers everything with an error, and logs nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        pass


@pytest.fixture
def web() -> Iterator[int]:
    """The port of a web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as listener:
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        yield listener.server_port
        listener.shutdown()
        thread.join()


async def test_nobody_listens() -> None:
    """A refused connection is told with its address, and fails."""
    port = closed_port()
    report = await look(parse(f"127.0.0.1:{port}"))
    assert report.verdict == "failed"
    assert f"127.0.0.1:{port}" in found(report, "reachable").text
    assert "Nobody listens" in found(report, "reachable").advice
    report = await look(parse("unix:///surely/nowhere.sock"))
    assert "Nobody listens" in found(report, "reachable").advice


async def test_web_server_is_no_redis(web: int) -> None:
    """A web server is recognised as one, with TLS asked for or without."""
    for extra in ("", ",ssl=true,connectTimeout=1000"):
        report = await look(parse(f"127.0.0.1:{web}{extra}"))
        assert report.verdict == "failed"
        assert "A web server answers there" in found(report, "reachable").advice


async def test_frozen_server_is_said_to_be_silent(server: RedisServer) -> None:
    """A stopped server takes connections and says nothing, and the check ends in its time."""
    server.pause()
    try:
        async with asyncio.timeout(20):
            report = await look(parse(server.configuration), seconds=0.5)
    finally:
        server.resume()
    assert report.verdict == "failed"
    assert "says nothing" in found(report, "reachable").advice


async def test_server_that_goes_away_in_the_middle(server: RedisServer) -> None:
    """A server that dies while it is asked leaves a report with what was found and the reason."""
    examination = Examination(parse(server.configuration), None, clock=SystemClock(), ids=SystemIds(), seconds=5.0)
    counted = Examination._census

    async def dies(self: Examination, probes: Any) -> Any:
        await asyncio.to_thread(server.kill)
        return await counted(self, probes)

    examination._census = dies.__get__(examination)  # type: ignore[method-assign]
    report = await examination.run()
    assert report.verdict == "failed"
    assert found(report, "access").verdict == "ok"
    assert "was lost" in report.findings[-1].text


@pytest.mark.parametrize("login", [f",password={SECRET}", f",user=nobody,password={SECRET}", ""])
async def test_wrong_login_is_said_and_not_shown(login: str) -> None:
    """A wrong password, a wrong user and a missing password each fail with a sentence that shows no password."""
    with RedisServer(password="the right one") as server:
        report = await look(parse(f"{server.host}:{server.port}{login}"))
        assert report.verdict == "failed"
        advice = found(report, "reachable").advice
        assert advice == ("User or password is wrong." if login else "It wants a password: add password=...")
        assert SECRET not in report.words() + report.json()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_server_that_echoes_shows_no_password(protocol: Literal[2, 3]) -> None:
    """Where the answer is what was sent, the login among it, nothing of the answer is shown."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.gone = asyncio.Event()
            gone.append(self.gone)

        def data_received(self, data: bytes) -> None:
            self.transport.write(data)

        def connection_lost(self, _: Exception | None) -> None:
            self.gone.set()

    gone: list[asyncio.Event] = []
    async with await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0) as echoing:
        address = Endpoint("127.0.0.1", echoing.sockets[0].getsockname()[1])
        report = await look(RedisOptions(endpoints=(address,), password=SECRET, protocol=protocol))
        assert report.verdict == "failed"
        assert SECRET not in report.words() + report.json()
        with pytest.raises(BackplaneUnavailableError) as caught:
            await open_connection(address, RedisOptions(password=SECRET, protocol=protocol))
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        for event in gone:
            await event.wait()


async def test_several_addresses_each_have_their_say(server: RedisServer) -> None:
    """Of two addresses one may be dead; of two dead ones, both say why."""
    dead = closed_port()
    report = await look(parse(f"127.0.0.1:{dead},{server.configuration}"))
    assert [f.verdict for f in report.findings if f.check == "reachable"] == ["warning", "ok"]
    assert report.verdict == "warning"
    report = await look(parse(f"127.0.0.1:{dead},localhost:{closed_port()}"))
    assert [f.verdict for f in report.findings] == ["warning", "warning", "failed"]


# -- topologies -------------------------------------------------------------------------------------------------------


async def test_replica_and_sentinel_are_recognised(server: RedisServer, tmp_path: Path) -> None:
    """A replica is a warning that names the remedy; a Sentinel carries no messages, and can be asked who does."""
    with RedisServer(kind="redis", arguments=["--replicaof", f"{server.host} {server.port}"]) as replica:
        report = await look(parse(replica.configuration))
        assert found(report, "topology").verdict == "warning"
        assert "replica" in found(report, "topology").text
        report = await look(parse(f"{replica.configuration},{server.configuration}"))
        assert found(report, "topology").text.startswith("One primary")
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor mym {server.host} {server.port} 1\n")
    port = closed_port()
    with subprocess.Popen(  # noqa: ASYNC220 - it starts in milliseconds
        ["redis-server", str(configuration), "--sentinel", "--port", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
    ) as sentinel:
        try:
            async with asyncio.timeout(10):
                while (await look(parse(f"127.0.0.1:{port}"), seconds=1)).findings[0].verdict == "failed":  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.05)
            report = await look(parse(f"127.0.0.1:{port}"))
            assert report.verdict == "failed"
            assert "serviceName" in found(report, "topology").advice
            report = await look(parse(f"127.0.0.1:{port},serviceName=mym"))
            assert report.verdict == "ok"
            assert f"calls {server.host}:{server.port} the primary of mym" in report.words()
            report = await look(parse(f"127.0.0.1:{port},serviceName=other"))
            assert report.verdict == "failed"
        finally:
            sentinel.kill()


async def test_cluster_is_recognised() -> None:
    """A Cluster without its slots is said not to be in order; with them it is, and all else works on it."""
    with RedisServer(
        kind="redis", arguments=["--cluster-enabled", "yes", "--cluster-port", str(closed_port())]
    ) as server:
        report = await look(parse(server.configuration))
        assert found(report, "topology").verdict == "warning"
        server.command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        async with asyncio.timeout(10):
            while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):  # type: ignore[operator]  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        report = await look(parse(server.configuration))
        where = f"{server.host}:{server.port}"
        text = found(report, "topology").text
        assert text == f"A Cluster of 1 primaries, in order. Primaries: {where}. Replicas: none."
        assert report.verdict == "ok"


def join_cluster(servers: list[RedisServer], buses: list[int]) -> None:
    """Make one Cluster of servers that know nothing of each other, with the slots shared out."""
    first = servers[0]
    for number, (server, bus) in enumerate(zip(servers, buses, strict=True)):
        first.command("CLUSTER", "MEET", server.host, server.port, bus)
        size = 16_384 // len(servers)
        last = 16_383 if server is servers[-1] else (number + 1) * size - 1
        server.command("CLUSTER", "ADDSLOTSRANGE", number * size, last)


def is_in_order(server: RedisServer) -> bool:
    """Whether a server sees a Cluster of two, with all slots."""
    told = bytes(server.command("CLUSTER", "INFO")).split()  # type: ignore[arg-type]
    return b"cluster_state:ok" in told and b"cluster_known_nodes:2" in told


async def test_messages_cross_the_bus_of_a_cluster() -> None:
    """In a Cluster a message goes from each other primary to the first; nodes on all of them are counted together."""
    buses = [closed_port(), closed_port()]
    kinds = [["--cluster-enabled", "yes", "--cluster-port", str(bus)] for bus in buses]
    with RedisServer(kind="redis", arguments=kinds[0]) as one, RedisServer(kind="redis", arguments=kinds[1]) as two:
        join_cluster([one, two], buses)
        async with asyncio.timeout(20):
            for server in (one, two):
                while not await asyncio.to_thread(is_in_order, server):  # noqa: ASYNC110 - polled
                    await asyncio.sleep(0.05)
        nodes = [RedisBackplane(parse(server.configuration)) for server in (one, two)]
        async with nodes[0].run(RecordingSink()), nodes[1].run(RecordingSink()):
            for number, node in enumerate(nodes):
                await node.subscribe(["Chat:all", "Chat:internal:groups", f"Chat:internal:ack:web_{number}"])
            report = await look(parse(one.configuration))
        assert report.verdict == "ok"
        assert found(report, "topology").text.startswith("A Cluster of 2 primaries, in order. Primaries: ")
        paths: Any = found(report, "loop-back").data["paths"]
        assert [path["kind"] for path in paths[7:]] == [f"messages from 127.0.0.1:{two.port} to 127.0.0.1:{one.port}"]
        assert all(path["works"] for path in paths)
        hubs: Any = found(report, "nodes").data["hubs"]
        assert [(hub["nodes"], hub["deaf"], hub["names"]) for hub in hubs] == [(2, 0, ["web_0", "web_1"])]


async def test_server_without_room_for_a_second_connection() -> None:
    """Where the last free connection is ours, that is the reason given: a node needs two."""
    with RedisServer(kind="redis", arguments=["--maxclients", "1"]) as server:
        report = await look(parse(server.configuration))
    assert report.verdict == "failed"
    assert "see maxclients" in report.findings[-1].advice


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[tuple[RedisServer, int, str]]:
    """A server with a plain port and a TLS port, and the file of the authority that signed it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    for name, pem in (("ca.pem", authority.cert_pem), ("key.pem", certificate.private_key_pem)):
        pem.write_to_path(tmp_path / name)
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    port = closed_port()
    arguments = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for option, name in (("cert-file", "cert.pem"), ("key-file", "key.pem"), ("ca-cert-file", "ca.pem")):
        arguments += [f"--tls-{option}", str(tmp_path / name)]
    with RedisServer(kind="redis", arguments=arguments) as server:
        yield server, port, str(tmp_path / "ca.pem")


async def test_tls_and_its_mismatches(tls: tuple[RedisServer, int, str]) -> None:
    """TLS with the right authority shows its version; plain to TLS, TLS to plain and a foreign certificate fail."""
    server, port, authority = tls
    trusted = ssl.create_default_context(cafile=authority)
    report = await look(replace(parse(f"127.0.0.1:{port},ssl=true"), ssl_context=trusted))
    assert report.verdict == "ok"
    assert found(report, "TLS").data == {"version": "TLSv1.3"}
    for configuration, advice in (
        (f"127.0.0.1:{port}", "Add ssl=true"),
        (f"127.0.0.1:{server.port},ssl=true,connectTimeout=1000", "A Redis without TLS answers there"),
        (f"127.0.0.1:{port},ssl=true", "The certificate is not trusted"),
    ):
        report = await look(parse(configuration), seconds=2.0)
        assert report.verdict == "failed"
        assert advice in found(report, "reachable").advice


# -- the command ------------------------------------------------------------------------------------------------------

APP = """
from hubplane import Hub, HubApp

class ChatHub(Hub):
    pass

hubs = HubApp({redis!r})
hubs.add_hub("/chat", ChatHub, hub_name="App.ChatHub")

class Route:
    app = hubs

class Framework:
    routes = [Route(), object()]
    async def __call__(self, scope, receive, send):
        raise SystemExit

framework = Framework()

def make():
    return framework
"""


@pytest.fixture
def folder(tmp_path: Path, server: RedisServer) -> Path:
    """Applications, one with Redis and one without."""
    (tmp_path / "chat.py").write_text(APP.format(redis=f"{server.configuration},channelPrefix=MyApp"))
    (tmp_path / "alone.py").write_text(APP.format(redis=None))
    return tmp_path


def test_command_takes_the_applications_own_configuration(folder: Path, server: RedisServer) -> None:
    """The app itself, a framework it is mounted in and a factory all lead to its Redis, its prefix and its hubs."""
    for target in (
        ["chat:hubs"],
        ["chat:framework"],
        ["chat:make", "--factory"],
        ["alone:hubs", "--redis", server.url],
    ):
        done = command(*target, "--app-dir", str(folder), "--json")
        assert done.returncode == 0, done.stderr
        report: dict[str, Any] = json.loads(done.stdout)
        assert report["verdict"] == "ok"
        assert ("'MyApp'" in report["target"]) is ("alone:hubs" not in target)
        assert "App.ChatHub" in done.stdout


def test_command_without_anything_to_check(folder: Path) -> None:
    """Without a Redis, an application or a known module the command says what to name."""
    for arguments, status, text in (
        ([], 2, "Name an application (MODULE:APP), or a Redis with --redis."),
        (["alone:hubs"], 1, "has no Redis"),
        (["chat:nothing"], 1, "has no 'nothing'"),
        (["--redis", "localhost:6379,nonsense=1"], 1, "nonsense"),
    ):
        done = command(*arguments, "--app-dir", str(folder))
        assert (done.returncode, done.stdout) == (status, "")
        assert text in done.stderr


def test_command_says_it_in_words_and_in_its_status(server: RedisServer) -> None:
    """Good is 0; a warning is 0, and 1 with --strict; a failure is 1. No password shows anywhere."""
    good = command(HUBPLANE_REDIS=server.configuration)
    assert good.returncode == 0
    assert good.stdout.endswith("\nhubplane works on this Redis.\n")
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 1048576 0 0")
    for options, status in (([], 0), (["--strict"], 1)):
        warned = command("--redis", server.configuration, *options)
        assert warned.returncode == status
        assert warned.stdout.endswith("\nhubplane works on this Redis, with 1 warning.\n")
    server.command("CONFIG", "SET", "requirepass", SECRET)
    for password, status in ((SECRET, 0), (f"{SECRET}x", 1)):
        done = command("--redis", f"{server.configuration},password={password}")
        assert done.returncode == status
        assert SECRET not in done.stdout + done.stderr
        assert done.stderr == ""


def test_command_reads_the_variables_that_an_app_reads(server: RedisServer) -> None:
    """What stands in the environment beside the address counts here as it does for a node: prefix and password."""
    server.command("CONFIG", "SET", "requirepass", SECRET)
    done = command(
        "--json",
        HUBPLANE_REDIS=server.configuration,
        HUBPLANE_REDIS_CHANNEL_PREFIX="MyApp",
        HUBPLANE_REDIS_PASSWORD=SECRET,
        HUBPLANE_REDIS_CONNECT_TIMEOUT="4.5",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["target"].endswith("channel prefix 'MyApp'")
    assert SECRET not in done.stdout
    wrong = command(HUBPLANE_REDIS=server.configuration, HUBPLANE_REDIS_CHANNEL_PREFI="MyApp")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "CHANNEL_PREFIX" in wrong.stderr


@pytest.mark.parametrize("mode", ["compat", "sharded"])
async def test_cluster_is_walked(mode: RedisMode) -> None:
    """From any one node, a replica too, all primaries are found and tried; rights are those of the mode."""
    with RedisCluster(primaries=2, replicas=1, kind="redis") as cluster:
        options = replace(parse(cluster.servers[3].configuration), mode=mode, channel_prefix="MyApp:")
        report = await look(options)
        assert report.verdict == "ok", report.words()
        text = found(report, "topology").text
        primaries, replicas = text.partition("Primaries: ")[2].split(" Replicas: ")
        assert [str(server.port) in primaries for server in cluster.servers] == [True, True, False, False]
        assert [str(server.port) in replicas for server in cluster.servers] == [False, False, True, True]
        paths: Any = found(report, "loop-back").data["paths"]
        where = [f"{server.host}:{server.port}" for server in cluster.servers[:2]]
        kinds = {path["kind"] for path in paths}
        if mode == "sharded":
            assert {f"messages at {name}" for name in where} <= kinds
        else:
            assert f"messages from {where[1]} to {where[0]}" in kinds
        node = RedisBackplane(options)
        async with node.run(RecordingSink()):
            await node.subscribe(["Chat:all", "Chat:internal:groups", "Chat:internal:ack:web_0"])
            hubs: Any = found(await look(options), "nodes").data["hubs"]
            assert [(hub["nodes"], hub["deaf"], hub["names"]) for hub in hubs] == [(1, 0, ["web_0"])]
        for server in cluster.servers:
            server.command(
                "ACL", "SETUSER", "few", "reset", "on", ">pw", "resetchannels", "&MyApp:*", "+ping", "+hello"
            )
        report = await look(replace(options, user="few", password="pw"))
        assert report.verdict == "failed"
        words = report.words()
        assert "+cluster|nodes" in words
        assert ("+ssubscribe" if mode == "sharded" else "+subscribe") in words
