"""Microsoft's JavaScript client with stateful reconnect, losing its socket under load in a fleet of two nodes."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # what a client received

import pytest
from tests.e2e.breaks import BreakingProxy
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.nodes import HubNode
from tests.e2e.processes import Process, eventually

from hubplane.testing.redis_server import RedisServer

PREFIX = "stateful:"
HERE = Path(__file__).parent

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


class AsgiNode(Process):
    """The same hubs under plain uvicorn: the ASGI edge."""

    def __init__(self, redis: str) -> None:
        super().__init__(
            [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE), "--port", "0"],
            environment={"HUBPLANE_REDIS": f"{redis},channelPrefix={PREFIX}", "NODE": "asgi"},
        )
        if not self.logged("Uvicorn running on"):
            self.__exit__()
            raise AssertionError(f"uvicorn did not start: {self.stderr}")
        found = re.search(r"http://\S+\d", next(line for line in self.errors if "Uvicorn running on" in line))
        assert found
        self.url = found[0]
        self.chat = f"{self.url}/chat"


@pytest.fixture(scope="module", params=["fast", "asgi"])
def node(request: pytest.FixtureRequest, redis: RedisServer) -> Iterator[HubNode | AsgiNode]:
    """The node of the clients that lose their sockets, on each edge."""
    made = HubNode(redis.configuration, PREFIX, "first") if request.param == "fast" else AsgiNode(redis.configuration)
    with made as running:
        yield running


@pytest.fixture(scope="module")
def other(redis: RedisServer) -> Iterator[HubNode]:
    """The other node of the fleet."""
    with HubNode(redis.configuration, PREFIX, "other") as running:
        yield running


@pytest.fixture
def proxy(node: HubNode | AsgiNode) -> Iterator[BreakingProxy]:
    """What breaks."""
    with BreakingProxy(int(node.url.rsplit(":", 1)[1])) as running:
        yield running


class Stream:
    """A stream of a client that is read in the background."""

    def __init__(self, driver: JsDriver, client: JsClient, method: str, *arguments: object) -> None:
        self._driver = driver
        self._number = driver.begin("stream", client=client.name, method=method, args=list(arguments))

    def items(self, timeout: float = 40.0) -> list[Any]:
        """Everything it brought, once it has ended well."""
        end = self._driver.take(lambda e: e["event"] == "stream_end" and e["id"] == self._number, timeout)
        assert end is not None, "the stream did not end"
        assert end["error"] is None
        return [e["value"] for e in self._driver.events if e["event"] == "stream_item" and e["id"] == self._number]


def heard_by(driver: JsDriver, client: JsClient) -> list[Any]:
    """The arguments of everything that a client was told, in order."""
    return [e["args"] for e in tuple(driver.events) if e["event"] == "message" and e["client"] == client.name]


def stayed(client: JsClient) -> bool:
    """Whether its application has noticed nothing."""
    return all(client.event(name, timeout=0) is None for name in ("closed", "reconnecting", "reconnected"))


def breaking(action: Callable[..., None], stop: threading.Event) -> threading.Thread:
    """Break again and again, until told to stop."""

    def run() -> None:
        while not stop.wait(0.05):
            action(in_use_for=0.2)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.row("B143", "B152", "B153", "R45")
@both_protocols
@pytest.mark.parametrize("how", ["reset", "half_open"])
def test_nothing_is_lost_and_nothing_doubled(
    driver: JsDriver,
    node: HubNode | AsgiNode,
    other: HubNode,
    proxy: BreakingProxy,
    protocol: str,
    how: str,
) -> None:
    """Streams, calls, broadcasts, group and direct messages from both nodes arrive once and in order; the id stays."""
    rounds = 80
    client = driver.connect(f"{proxy.url}/chat", protocol, user="ann", stateful=True, on=["ReceiveMessage"])
    near, far = driver.connect(node.chat, protocol), driver.connect(other.chat, "json")
    group = f"{protocol} {how}"
    client.invoke("Join", group)
    stop = threading.Event()
    breaker = breaking(proxy.reset if how == "reset" else proxy.half_open, stop)
    try:
        stream = Stream(driver, client, "Counter", 300, 5)
        calls = []
        for number in range(rounds):
            calls.append(client.begin("Echo", number))
            client.begin("SendToCaller", "self", str(number))
            near.send("SendMessage", "all", str(number))
            far.send("SendToGroup", group, "group", str(number))
            near.send("SendToConnection", client.connection_id, "direct", str(number))
            far.send("SendToUser", "ann", "user", str(number))
        results = [client.end(call, 40.0) for call in calls]
        items = stream.items()
    finally:
        stop.set()
        breaker.join()
    assert proxy.breaks > 2
    assert results == list(range(rounds))
    assert items == list(range(300))
    assert eventually(lambda: len(heard_by(driver, client)) >= 5 * rounds, 20.0, step=0.1)
    assert client.invoke("WhoAmI")["connectionId"] == client.connection_id
    heard = heard_by(driver, client)
    for source in ("self", "all", "group", "direct", "user"):
        assert [text for said, text in heard if said == source] == [str(number) for number in range(rounds)], source
    assert stayed(client)
    for each in (client, near, far):
        each.stop()


@pytest.mark.row("R45")
@both_protocols
def test_message_of_another_node_waits_for_the_client(
    driver: JsDriver, other: HubNode, proxy: BreakingProxy, protocol: str
) -> None:
    """A client on another node sends to all while a socket is broken: it hears it at once, the other one afterwards."""
    client = driver.connect(f"{proxy.url}/chat", protocol, stateful=True, on=["ReceiveMessage"])
    far = driver.connect(other.chat, protocol)
    proxy.reset()
    far.send("SendMessage", "far", "hello")
    assert far.message() == ["far", "hello"]
    assert client.message() == ["far", "hello"]
    assert stayed(client)
    for each in (client, far):
        each.stop()


@pytest.mark.row("B147")
@both_protocols
def test_half_open_socket_costs_no_time(driver: JsDriver, proxy: BreakingProxy, protocol: str) -> None:
    """While the node thinks the old socket open, the client is served on its new one, and goes on being served."""
    client = driver.connect(f"{proxy.url}/chat", protocol, stateful=True, on=["ReceiveMessage"])
    for number in range(3):
        proxy.half_open()
        assert client.invoke("Echo", number) == number
    slow = client.begin("Sleep", 7_000)  # longer than the node waits for the old sockets
    proxy.half_open()
    assert client.end(slow) == 7_000
    assert stayed(client)
    client.stop()


@pytest.mark.row("B148")
def test_client_that_the_server_ends_does_not_come_back(driver: JsDriver, node: HubNode | AsgiNode) -> None:
    """After an abort the client tries once more, as it does, is refused, and is closed."""
    client = driver.connect(node.chat, stateful=True)
    driver.begin("send", client=client.name, method="Abort", args=[])
    assert client.event("closed") is not None
    assert client.state == "Disconnected"
