"""nginx and HAProxy in front of two nodes, with the very configurations that the documentation shows."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # the client's options

import httpx
import pytest
from tests.conftest import ROOT
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import Process, eventually
from tests.e2e.test_browser import LOGIN, Chromium, Page, address, browser, serve

from hubplane.testing.redis_server import RedisServer

__all__ = ["browser"]

WAYS = [("ws", "json"), ("ws", "messagepack"), ("sse", "json"), ("lp", "json"), ("lp", "messagepack")]
NAMES = itertools.count(1)


@dataclass(frozen=True)
class Balancer:
    """One of the configurations.

    Attributes:
        program: What runs it.
        file: Its name under examples/.
        cookie: The name of the cookie that leads to the node; empty where the client's address does.
    """

    program: str
    file: str
    cookie: str

    @contextmanager
    def before(self, nodes: Sequence[str], folder: Path, command: str) -> Iterator[str]:
        """Run it in front of two nodes; gives its address."""
        port = free_port()
        text = (ROOT / "examples" / self.file).read_text(encoding="utf-8")
        for documented, here in zip(("8000", "8001", "8002"), (port, *map(port_of, nodes)), strict=True):
            assert f"127.0.0.1:{documented}" in text
            text = text.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{here}")
        file = folder / self.file
        if self.program == "haproxy":
            arguments = ["-db", "-f", str(file)]
        else:
            # Its folders of temporary files are compiled in, and may be another user's.
            kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            folders = "".join(f" {kind}_temp_path {folder}/{kind};" for kind in kinds)
            text = text.replace("http {", f"http {{{folders}", 1)
            options = f"daemon off; pid {folder}/pid; error_log stderr;"
            if os.geteuid() == 0:
                options += " user root;"  # else another user, who may not enter a test's folder
            arguments = ["-e", "stderr", "-p", str(folder), "-c", str(file), "-g", options]
        file.write_text(text, encoding="utf-8")
        with Process([command, *arguments]) as process:
            assert eventually(lambda: is_open(port)), process.stderr
            yield f"http://127.0.0.1:{port}"

    def client(self, driver: JsDriver, url: str, transport: str, protocol: str = "json", **options: Any) -> JsClient:
        """A client that the balancer takes for another one than those before."""
        # A client of Microsoft's keeps the cookies of its connection to itself. Addresses differ in the first three
        # numbers, as nginx asks for no more.
        headers = {} if self.cookie else {"X-Forwarded-For": f"10.7.{next(NAMES) % 250}.1"}
        return driver.connect(f"{url}/chat", protocol, transport=transport, headers=headers, **options)


BALANCERS = (
    pytest.param(Balancer("nginx", "nginx.conf", cookie=""), marks=pytest.mark.row("S34"), id="nginx"),
    pytest.param(
        Balancer("nginx", "nginx-cookie.conf", cookie="node"), marks=pytest.mark.row("S32", "S34"), id="nginx-cookie"
    ),
    pytest.param(Balancer("haproxy", "haproxy.cfg", cookie="NODE"), marks=pytest.mark.row("S32", "S33"), id="haproxy"),
)
balancers = pytest.mark.parametrize("balancer", BALANCERS)


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to those who ask for any."""
    for port in random.sample(range(20_000, 30_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def is_open(port: int) -> bool:
    """Whether somebody listens there; an OSError means no."""
    socket.create_connection(("127.0.0.1", port)).close()
    return True


def port_of(url: str) -> int:
    """The port of an address."""
    return int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def nodes(redis: RedisServer) -> Iterator[tuple[HubNode, HubNode]]:
    """Two nodes of one fleet."""
    with HubNode(redis.configuration, "lb:", "one") as one, HubNode(redis.configuration, "lb:", "two") as two:
        yield one, two


@pytest.fixture(scope="module", params=BALANCERS)
def balanced(
    request: pytest.FixtureRequest,
    part: Callable[[str], str],
    nodes: tuple[HubNode, HubNode],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Balancer, str]]:
    """A balancer in front of the nodes, and its address."""
    balancer: Balancer = request.param
    folder = tmp_path_factory.mktemp("balancer")
    with balancer.before([node.url for node in nodes], folder, part(balancer.program)) as url:
        yield balancer, url


def quickest(client: JsClient) -> float:
    """Seconds that a call takes at least."""
    times = []
    for _ in range(8):
        started = time.perf_counter()
        client.invoke("Add", 1, 2)
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.mark.parametrize(("transport", "protocol"), WAYS)
def test_clients_stay_with_a_node(
    driver: JsDriver, balanced: tuple[Balancer, str], transport: str, protocol: str
) -> None:
    """Whatever the transport, each client stays with the node it negotiated with, and all hear one another."""
    balancer, url = balanced
    clients: list[JsClient] = []
    where: list[str] = []
    while len(clients) < 2 or len(set(where)) < 2:
        assert len(clients) < 40, f"all clients are on node {where[0]}"
        client = balancer.client(driver, url, transport, protocol)
        seen = {client.invoke("WhoAmI")["node"] for _ in range(4)}
        assert len(seen) == 1
        where += seen
        clients.append(client)
        client.invoke("Join", f"room-{transport}-{protocol}")
    assert quickest(clients[0]) < 0.15, "somebody on the way waits for more, which is usually 200 ms"
    assert clients[0].invoke("Echo", "x" * 30_000) == "x" * 30_000
    assert clients[0].stream("Counter", 300, 0) == (list(range(300)), None)
    clients[0].invoke("SendToGroup", f"room-{transport}-{protocol}", "first", "to all")
    for client in clients:
        # Nothing follows this message, so a proxy that collected before it sends would keep it.
        assert client.message() == ["first", "to all"]
        client.stop()


@pytest.mark.row("S31")
def test_stickiness_is_what_makes_it_work(balanced: tuple[Balancer, str]) -> None:
    """A client that does not do its part, by cookie or by address, meets a node that does not know its connection."""
    _, url = balanced

    def opened(client: httpx.Client, headers: dict[str, str], elsewhere: dict[str, str]) -> int:
        """Negotiate, then poll, which is answered at once for the first time."""
        answer = client.post(f"{url}/chat/negotiate?negotiateVersion=1", headers=headers)
        if elsewhere is not headers:
            client.cookies.clear()
        token = answer.json()["connectionToken"]
        return client.get(f"{url}/chat?id={token}", headers=elsewhere).status_code

    addresses = [{"X-Forwarded-For": f"10.7.{number}.1"} for number in range(1, 16)]
    with httpx.Client() as client:
        assert {opened(client, each, each) for each in addresses} == {200}
        assert 404 in {opened(client, *each) for each in itertools.pairwise(addresses)}


@balancers
def test_page_behind_a_balancer(
    browser: Chromium, part: Callable[[str], str], redis: RedisServer, tmp_path: Path, balancer: Balancer
) -> None:
    """Chromium keeps the balancer's cookie beside the application's, stays with a node, and is of the same origin."""
    configuration = f"{redis.configuration},channelPrefix=page:"
    with (
        serve(HUBPLANE_REDIS=configuration) as one,
        serve(HUBPLANE_REDIS=configuration) as two,
        balancer.before([address(one), address(two)], tmp_path, part(balancer.program)) as url,
    ):
        pages = [Page(browser, url) for _ in range(3)]
        for page, transport in zip(pages, ("ws", "sse", "lp"), strict=True):
            page.run(LOGIN, url=url, name=transport, mode="cors")
            page.connect(f"{url}/hubs/members", transport)
            assert page.invoke("Who") == {"user": transport, "by": "cookie"}
            page.invoke("Join", "room")
        pages[0].invoke("SendToRoom", "room", "hello")
        assert [page.event("message") for page in pages] == [["hello"]] * 3
        for page in pages:
            sent = [each["headers"].get("cookie", "") for each in page.seen("request") if "/hubs/" in each["url"]]
            assert all(f"{balancer.cookie}=" in each and "login=" in each for each in sent), sent
            page.close()


@pytest.mark.row("B129")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@balancers
def test_node_that_ends(
    driver: JsDriver,
    part: Callable[[str], str],
    redis: RedisServer,
    tmp_path: Path,
    balancer: Balancer,
    number: signal.Signals,
) -> None:
    """When a node is stopped, or killed, its clients are soon on the other one; those there notice nothing."""
    with (
        HubNode(redis.configuration, "end:", "one") as one,
        HubNode(redis.configuration, "end:", "two") as two,
        balancer.before([one.url, two.url], tmp_path, part(balancer.program)) as url,
    ):
        clients: dict[JsClient, str] = {}
        for transport in ("ws", "sse", "lp"):
            for _ in range(20):
                client = balancer.client(driver, url, transport, reconnect=[0, *[200] * 50])
                clients[client] = client.invoke("WhoAmI")["node"]
                if clients[client] == "one":
                    break
            assert clients[client] == "one"
        stayed = [client for client, node in clients.items() if node == "two"]
        moved = [client for client, node in clients.items() if node == "one"]
        status = one.stop(number)
        assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        for client in moved:
            assert client.event("reconnecting") is not None
            back = client.event("reconnected")
            assert back is not None
            assert back["connectionId"] != client.connection_id
            assert client.invoke("WhoAmI")["node"] == "two"
        moved[0].invoke("SendMessage", "moved", "we are all here")
        for client in clients:
            assert client.message() == ["moved", "we are all here"]
        for client in stayed:
            assert client.event("reconnecting", timeout=0) is None
        for client in clients:
            client.stop()
