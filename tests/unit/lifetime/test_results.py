"""Facts about questions to clients that wait for an answer."""

from __future__ import annotations

import asyncio
import gc

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import ClientResultError, ConnectionClosedError, HubException, RemoteProtocolError
from hubplane.lifetime.results import ClientResults
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, Raw
from hubplane.testing.recording import RecordedClient

JSON = JsonHubProtocol()


class Forwarder:
    def __init__(self) -> None:
        self.forwarded: list[tuple[str, str | None, object]] = []

    def __call__(self, connection: HubConnection, completion: Completion) -> None:
        self.forwarded.append((connection.connection_id, completion.error, completion.result))


async def test_errand() -> None:
    """The answer to another node's question is passed on once."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    forward = Forwarder()
    results.run_errand("q", client.connection, forward)
    assert results.answer(client.connection, Completion("q", result=7))
    assert not results.answer(client.connection, Completion("q", result=8))
    client.disconnect()
    assert forward.forwarded == [("c1", None, 7)]


async def test_errand_of_a_client_that_leaves() -> None:
    """If the client leaves first, that is the answer; so it is if it has left already."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    forward = Forwarder()
    results.run_errand("q1", client.connection, forward)
    client.disconnect()
    results.run_errand("q2", client.connection, forward)
    assert [error for _, error, _ in forward.forwarded] == ["Connection disconnected."] * 2
    assert not results.answer(client.connection, Completion("q1"))


async def test_collision() -> None:
    """Two questions of one id at a time are an error for the second, in .NET's words."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    forward = Forwarder()
    results.run_errand("q", client.connection, forward)
    results.run_errand("q", client.connection, forward)
    results.expect("own", "c1", int, client.connection)
    results.run_errand("own", client.connection, forward)
    assert [error for _, error, _ in forward.forwarded] == [
        "ID collision occurred when using client results. This is likely a bug in SignalR."
    ] * 2


async def test_too_many_errands() -> None:
    """Above the limit a question is answered with an error at once."""
    results = ClientResults(max_errands=1)
    client = RecordedClient("c1", JSON)
    forward = Forwarder()
    results.run_errand("q1", client.connection, forward)
    results.run_errand("q2", client.connection, forward)
    assert forward.forwarded[0][1] == "Too many client results are pending for this connection's server."
    assert results.answer(client.connection, Completion("q1"))
    results.run_errand("q3", client.connection, forward)
    assert len(forward.forwarded) == 2


@pytest.mark.row("B119")
async def test_wrong_sender_of_an_errand() -> None:
    """Only the asked client may answer."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    other = RecordedClient("c2", JSON)
    forward = Forwarder()
    results.run_errand("q", client.connection, forward)
    assert not results.answer(other.connection, Completion("q"))
    assert isinstance(other.connection.error, RemoteProtocolError)
    assert str(other.connection.error) == "Connection ID 'c2' is not valid for invocation ID 'q'."
    assert forward.forwarded == []
    assert results.answer(client.connection, Completion("q"))


async def test_answer_from_afar_for_a_local_call() -> None:
    """Any node's completion may answer a call, as in the original; late and unknown ones are ignored."""
    results = ClientResults()
    answer = results.expect("q", "c1", int)
    client = RecordedClient("c1", JSON)
    assert not results.answer(client.connection, Completion("q", result=Raw(b"1")))
    results.answer_from_afar(Completion("unknown", result=Raw(b"1")), JSON)
    results.answer_from_afar(Completion("q", result=Raw(b"2")), JSON)
    results.answer_from_afar(Completion("q", result=Raw(b"3")), JSON)
    assert await answer == 2


@pytest.mark.row("B116")
async def test_client_of_another_node_leaves() -> None:
    """Its node says so in the words of .NET, and whoever asked gets the error of a client of this node that leaves."""
    results = ClientResults()
    answer = results.expect("q", "c1", int)
    results.answer_from_afar(Completion("q", error="Connection disconnected."), JSON)
    with pytest.raises(ConnectionClosedError, match=r"^Connection 'c1' disconnected\.$"):
        await answer
    client = RecordedClient("c2", JSON)
    answer = results.expect("q", "c2", int, client.connection)
    results.answer(client.connection, Completion("q", error="Connection disconnected."))
    with pytest.raises(HubException, match=r"^Connection disconnected\.$"):
        await answer


async def test_value_at_hand() -> None:
    """A completion made in this process, whose result is no encoded one, answers with just that."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    answer = results.expect("q", "c1", int, client.connection)
    assert results.answer(client.connection, Completion("q", result=7))
    assert await answer == 7


@pytest.mark.parametrize("result_type", [None, type(None)])
async def test_no_result_wanted(result_type: object) -> None:
    """Whoever wants no value gets None, whatever the client answers."""
    results = ClientResults()
    answer = results.expect("q", "c1", result_type)
    results.answer_from_afar(Completion("q", result=Raw(b'"something"')), JSON)
    assert await answer is None


async def test_generic_type_name() -> None:
    """A failed conversion names the wanted type, generic ones too, and keeps its cause."""
    results = ClientResults()
    answer = results.expect("q", "c1", list[int])
    results.answer_from_afar(Completion("q", result=Raw(b'"x"')), JSON)
    with pytest.raises(HubException, match=r"^Error trying to deserialize result to list\[int\]\. ") as caught:
        await answer
    assert caught.value.__cause__ is not None


async def test_type_that_no_client_can_send() -> None:
    """A result type that cannot be read is the caller's mistake, not the client's."""
    results = ClientResults()
    answer = results.expect("q", "c1", asyncio.Future)
    results.answer_from_afar(Completion("q", result=Raw(b"1")), JSON)
    with pytest.raises(TypeError):
        await answer


async def test_close() -> None:
    """When the node stops, its own calls end with an error, and it answers for no client any more."""
    results = ClientResults()
    client = RecordedClient("c1", JSON)
    forward = Forwarder()
    answer = results.expect("q1", "c2", int)
    given_up = results.expect("q2", "c2", int)
    given_up.cancel()
    results.run_errand("q3", client.connection, forward)
    results.close()
    with pytest.raises(ClientResultError, match="shutting down"):
        await answer
    client.disconnect()
    assert forward.forwarded == []


async def test_failure_that_nobody_awaits_is_no_news() -> None:
    """A question that could not be put leaves nothing for the event loop to complain about."""
    results = ClientResults()
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    results.expect("q1", "c1", int)
    results.answer_from_afar(Completion("q1", error="no"), JSON)
    results.forget("q1")
    results.expect("q2", "c2", int)
    results.close()
    gc.collect()
    assert complaints == []


async def test_asked_afar() -> None:
    """Only unanswered questions to other nodes are worth a look, each connection once."""
    results = ClientResults()
    client = RecordedClient("here", JSON)
    for invocation_id, connection_id in (("q1", "c1"), ("q2", "c1"), ("q3", "c2")):
        results.expect(invocation_id, connection_id, int)
    results.expect("q4", "here", int, client.connection)
    results.answer_from_afar(Completion("q3"), JSON)
    assert results.asked_afar() == ["c1"]


async def test_pardon() -> None:
    """What was seen before an outage of the broker does not count."""
    results = ClientResults()
    answer = results.expect("q", "c1", int)
    results.seen({"c1": 0})
    results.pardon()
    results.seen({"c1": 0})
    assert not answer.done()
    results.seen({})
    results.seen({"c1": 0})
    with pytest.raises(ClientResultError, match="'c1' is gone"):
        await answer
