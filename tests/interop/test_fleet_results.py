"""Client results across the mixed fleet: either kind of node asks clients of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any  # what clients answer

import pytest
from tests.e2e.clients import JsClient, JsDriver
from tests.e2e.processes import eventually
from tests.interop.conftest import PREFIX
from tests.interop.dotnet import AspNetNode, DotnetClient
from tests.interop.fleet import FLEET_ERRORS, FleetNode, Node, pair

from hubplane.testing.redis_server import RedisServer

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])
both_ways = pytest.mark.parametrize("direction", ["from ours", "from theirs"])

HUB_EXCEPTIONS = {"HubException", "Microsoft.AspNetCore.SignalR.HubException"}


@pytest.fixture
def nodes(direction: str, fleet: FleetNode, theirs: AspNetNode) -> tuple[Node, Node]:
    """The node that asks, and the one whose client is asked."""
    return pair(direction, fleet, theirs)


@pytest.fixture
def client(driver: JsDriver, nodes: tuple[Node, Node], protocol: str) -> Iterator[JsClient]:
    """A client of the other node."""
    made = driver.connect(nodes[1].chat, protocol)
    yield made
    made.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """For questions that are not answered yet."""
    with ThreadPoolExecutor(8) as made:
        yield made


def question(node: Node, client: str, method: str = "Ask", *, kind: str = "object", timeout: int = 10_000) -> Any:
    """The answer of a client."""
    body = {"connectionId": client, "method": method, "args": ["colour?"], "resultType": kind, "timeoutMs": timeout}
    return node.ask("/invoke", body)["result"]


VALUES: list[Any] = [
    "blue", "", "żółć 🎉 \x1e", 0, -1, 2**31, 1.5, True, None, [], [1, ["two", None]], {"a": {"b": "c"}}, "x" * 20_000,
]  # fmt: skip


@pytest.mark.row("R29", "B115")
@both_ways
@both_protocols
def test_answers_cross_unchanged(nodes: tuple[Node, Node], client: JsClient) -> None:
    """Whatever a client of the other node answers, in either protocol, is what the asking node gets."""
    for value in VALUES:
        client.answer("Ask", value)
        assert question(nodes[0], client.connection_id) == value
        assert client.asked() == ["colour?"]


@both_ways
@both_protocols
def test_typed_answers_cross(nodes: tuple[Node, Node], client: JsClient) -> None:
    """An answer of the type that is asked for is converted, one of another type is the asker's error."""
    for kind, value in (("string", "blue"), ("int", 42), ("bool", False)):
        client.answer("Ask", value)
        assert question(nodes[0], client.connection_id, kind=kind) == value
    client.answer("Ask", "forty-two")
    with pytest.raises(FLEET_ERRORS) as failed:
        question(nodes[0], client.connection_id, kind="int")
    assert failed.value.kind in HUB_EXCEPTIONS  # type: ignore[attr-defined]
    assert "Error trying to deserialize result to" in str(failed.value)
    client.answer("Ask", 42)
    assert question(nodes[0], client.connection_id, kind="int") == 42


@pytest.mark.row("R30")
@both_ways
@both_protocols
def test_error_of_a_client_crosses(nodes: tuple[Node, Node], client: JsClient) -> None:
    """What the client raises, also for a method that it has not, is a HubException with its text."""
    client.answer("Ask", error="not today")
    for method, text in (("Ask", "Error: not today"), ("Unheard", "Client didn't provide a result.")):
        with pytest.raises(FLEET_ERRORS) as failed:
            question(nodes[0], client.connection_id, method)
        assert failed.value.kind in HUB_EXCEPTIONS  # type: ignore[attr-defined]
        assert failed.value.text == text  # type: ignore[attr-defined]


@pytest.mark.row("R31", "R34")
@both_ways
def test_nobody_is_asked(nodes: tuple[Node, Node]) -> None:
    """Asking an id that exists on no node fails at once, in the same words."""
    with pytest.raises(FLEET_ERRORS) as failed:
        question(nodes[0], "1234")
    assert failed.value.text == "Connection '1234' does not exist."  # type: ignore[attr-defined]


@pytest.mark.row("R32")
@both_ways
@both_protocols
def test_client_that_leaves_while_it_is_asked(
    nodes: tuple[Node, Node], driver: JsDriver, protocol: str, pool: ThreadPoolExecutor
) -> None:
    """The asking node learns that the client of the other node has left, and raises its own kind of error."""
    leaving = driver.connect(nodes[1].chat, protocol)
    leaving.answer("Ask", wait=True)
    asking = pool.submit(question, nodes[0], leaving.connection_id)
    assert leaving.asked() == ["colour?"]
    leaving.stop()
    with pytest.raises(FLEET_ERRORS) as failed:
        asking.result(10)
    assert str(failed.value) in {
        f"ClientResultError: Connection '{leaving.connection_id}' disconnected.",
        "Microsoft.AspNetCore.SignalR.HubException: Connection disconnected.",
    }


@pytest.mark.row("R12", "R33", "B120")
@both_protocols
def test_both_nodes_ask_one_client_and_one_gives_up(
    run: str, fleet: FleetNode, theirs: AspNetNode, protocol: str, pool: ThreadPoolExecutor
) -> None:
    """Questions of both nodes to one client get their own answers, in any order; one that comes late is ignored."""
    for owner in (fleet, theirs):
        with DotnetClient(run, owner.chat, protocol) as client:
            client.do("on_result", method="Ask", args=1, manual=True)

            def ask(node: Node, timeout: int = 10_000) -> tuple[Future[Any], str]:
                asking = pool.submit(question, node, client.connection_id, timeout=timeout)
                asked = client.event("asked")
                assert asked is not None
                return asking, str(asked["ask"])

            first, to_first = ask(fleet)
            second, to_second = ask(theirs)
            late, to_late = ask(fleet, 200)
            later, to_later = ask(theirs, 200)
            for given_up in (late, later):
                with pytest.raises(FLEET_ERRORS):
                    given_up.result(10)
            for number, ask_id in enumerate((to_late, to_later, to_second, to_first)):
                client.do("answer", ask=ask_id, value=f"answer {number}")
            assert (first.result(10), second.result(10)) == ("answer 3", "answer 2")
            client.leave()


@both_ways
@both_protocols
def test_hub_methods_ask_across(driver: JsDriver, nodes: tuple[Node, Node], client: JsClient, protocol: str) -> None:
    """A hub method on one node asks a client of the other and returns its answer to its own caller."""
    caller = driver.connect(nodes[0].chat, protocol)
    client.answer("Ask", "blue")
    client.answer("AskInt", 7)
    assert caller.invoke("Ask", client.connection_id, "colour?") == "blue"
    assert caller.invoke("AskInt", client.connection_id, "number?") == 7
    calls = [caller.begin("AskInt", client.connection_id, str(number)) for number in range(20)]
    assert [caller.end(call) for call in calls] == [7] * 20
    caller.stop()


@pytest.mark.timeout(90)
@pytest.mark.parametrize("dying", ["ours", "theirs"])
def test_node_that_dies_with_a_question(
    run: str, redis: RedisServer, driver: JsDriver, fleet: FleetNode, theirs: AspNetNode, dying: str,
    pool: ThreadPoolExecutor,
) -> None:  # fmt: skip
    """When the client's node is killed ours notices within seconds, ASP.NET Core waits for the asker's limit.

    A new question fails at once on both.
    """
    configuration = f"{redis.configuration},abortConnect=false"
    start: Callable[[], Node] = (
        (lambda: FleetNode(configuration, PREFIX))
        if dying == "ours"
        else lambda: AspNetNode(run, configuration, PREFIX)
    )
    with start() as owner:
        assert eventually(owner.redis_connected)
        client = driver.connect(owner.chat)
        client.answer("Ask", wait=True)
        patient = pool.submit(question, fleet, client.connection_id, timeout=30_000)
        bounded = pool.submit(question, theirs, client.connection_id, timeout=2_000)
        assert client.asked() == client.asked() == ["colour?"]
        owner.process.kill()
        owner.wait()
        for asking in (patient, bounded):
            with pytest.raises(FLEET_ERRORS):
                asking.result(20)
        for node in (fleet, theirs):
            with pytest.raises(FLEET_ERRORS, match="does not exist"):
                question(node, client.connection_id)
