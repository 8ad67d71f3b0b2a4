"""Plain calls: who is called, with what, and what the client is told."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any  # a served hub, of the conftest

import msgspec
import pytest

from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.dispatcher import HubDispatcher
from hubplane.hubs.hub import Hub, hub_method
from hubplane.options import HubOptions
from hubplane.protocol.messages import Invocation

Serve = Callable[..., AbstractAsyncContextManager[Any]]

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE")


class Unwritable:
    """No protocol can write it."""


class InsufficientFundsError(HubException):
    """An application's own exception for its clients."""


class Calls(Hub):
    instances: list[Hub] = []  # noqa: RUF012 - shared on purpose

    async def add(self, first: int, second: int) -> int:
        return first + second

    async def echo(self, text: str) -> str:
        return text

    async def nothing(self) -> None: ...

    async def fail(self) -> None:
        raise ValueError("secret")

    async def refuse(self) -> None:
        raise HubException("told")

    async def refuse_more(self) -> None:
        raise InsufficientFundsError("told")

    async def unwritable(self) -> object:
        return Unwritable()

    async def remember(self) -> int:
        self.instances.append(self)
        self.context.items["count"] = self.context.items.get("count", 0) + 1
        count: int = self.context.items["count"]
        return count

    def thread(self) -> str:
        return threading.current_thread().name

    def thread_variable(self) -> str:
        return VARIABLE.get()

    def thread_fails(self) -> None:
        raise StopIteration("secret")

    def thread_awaits(self) -> object:
        return asyncio.sleep(0, "awaited")

    async def awaits_cancelled(self) -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await task

    @hub_method("Custom_Name")
    async def custom(self) -> str:
        return "custom"


@pytest.mark.row("B88")
@pytest.mark.parametrize("target", ["Add", "add", "ADD", "a_d_d"])
async def test_targets_are_matched_in_any_case(serve: Serve, target: str) -> None:
    """A client may write a method in any case, and errors name it as declared."""
    async with serve(Calls) as server:
        client = await server.connect()
        assert await client.invoke(target, 1, 2) == {"type": 3, "invocationId": "1", "result": 3}
        error = (await client.invoke(target, 1))["error"]
        assert error == "Failed to invoke 'Add' due to an error on the server."


async def test_a_set_name_is_called_and_quoted(serve: Serve) -> None:
    """A method with a set name is called by it, in any case, and not by its Python name."""
    async with serve(Calls) as server:
        client = await server.connect()
        assert (await client.invoke("custom_name"))["result"] == "custom"
        assert "Method does not exist" in (await client.invoke("custom"))["error"]
        assert "'Custom_Name'" in (await client.invoke("CUSTOM_NAME", 1))["error"]


@pytest.mark.row("B89")
@pytest.mark.parametrize(
    "target",
    [
        "Missing",
        "",
        "OnConnected",
        "on_disconnected",
        "_bound",
        "__init__",
        "instances",
        "clients",
        "context",
        "ToString",
    ],
)
async def test_unknown_methods_are_told_in_full(serve: Serve, target: str) -> None:
    """What is no method, and also lifecycle and private ones, does not exist for a client; it is told so in full."""
    async with serve(Calls) as server:
        client = await server.connect()
        assert await client.invoke(target) == {
            "type": 3,
            "invocationId": "1",
            "error": f"Failed to invoke '{target}' due to an error on the server. HubException: Method does not exist.",
        }
        assert (await client.invoke("Echo", "still here"))["result"] == "still here"


@pytest.mark.row("B89")
async def test_an_empty_target_in_messagepack(serve: Serve) -> None:
    """In MessagePack a call without a name of a method ends the connection."""
    async with serve(Calls) as server:
        client = await server.connect(protocol="messagepack")
        body = msgspec.msgpack.encode([1, {}, "1", "", [], []])
        client.connection.data_received(bytes([len(body)]) + body)
        await client.gone()
        assert msgspec.msgpack.decode(client.transport.sent[4:]) == [7, "Connection closed with an error.", True]


COUNT = " InvalidDataException: Invocation provides 1 argument(s) but target expects 2."
TYPES = (
    " InvalidDataException: Error binding arguments. Make sure that the types of the provided values match the types "
    "of the hub method being invoked."
)


@pytest.mark.row("B90")
@pytest.mark.parametrize("detailed", [False, True])
@pytest.mark.parametrize(("arguments", "detail"), [((1,), COUNT), ((1, "two"), TYPES), ((1, None), TYPES)])
async def test_arguments_that_do_not_fit(
    serve: Serve, detailed: bool, arguments: tuple[object, ...], detail: str
) -> None:
    """A wrong count or type fails the call with the generic text; why is told with detailed errors only."""
    async with serve(Calls, enable_detailed_errors=detailed) as server:
        client = await server.connect()
        text = "Failed to invoke 'Add' due to an error on the server."
        assert (await client.invoke("Add", *arguments))["error"] == text + (detail if detailed else "")
        assert (await client.invoke("Add", 1, 2))["result"] == 3


@pytest.mark.row("B90")
async def test_repeated_arguments_member(serve: Serve) -> None:
    """A repeated `arguments` member fails the call, not the connection."""
    async with serve(Calls) as server:
        client = await server.connect()
        client.connection.data_received(
            b'{"type":1,"invocationId":"1","target":"Add","arguments":[1],"arguments":[1,2]}\x1e'
        )
        assert (await client.receive())["error"] == "Failed to invoke 'Add' due to an error on the server."
        assert (await client.invoke("Add", 1, 2))["result"] == 3


@pytest.mark.row("B91")
@pytest.mark.parametrize(
    ("target", "detail", "always"),
    [
        ("Fail", " ValueError: secret", False),
        ("Refuse", " HubException: told", True),
        ("RefuseMore", " InsufficientFundsError: told", True),
        ("ThreadFails", " RuntimeError: The hub method raised StopIteration.", False),
        ("AwaitsCancelled", " CancelledError: ", False),
    ],
)
@pytest.mark.parametrize("detailed", [False, True])
async def test_a_method_that_raises(
    serve: Serve, caplog: pytest.LogCaptureFixture, target: str, detail: str, always: bool, detailed: bool
) -> None:
    """Clients get a HubException's text always and others' with detailed errors only; the log gets the traceback."""
    async with serve(Calls, enable_detailed_errors=detailed) as server:
        client = await server.connect()
        error = (await client.invoke(target))["error"]
        expected = f"An unexpected error occurred invoking '{target}' on the server."
        assert error == expected + (detail if detailed or always else "")
        assert (await client.invoke("Echo", "still here"))["result"] == "still here"
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == f"Failed to invoke hub method '{target}'."
    assert vars(record)["event_id"] == 8
    assert vars(record)["connection_id"] == client.connection_id
    assert record.exc_info


@pytest.mark.row("B92")
async def test_void_is_answered_with_null(serve: Serve) -> None:
    """A method that returns nothing is answered with a null result."""
    async with serve(Calls) as server:
        client = await server.connect()
        assert await client.invoke("Nothing") == {"type": 3, "invocationId": "1", "result": None}


@pytest.mark.row("B93")
async def test_nobody_asked_nobody_is_answered(serve: Serve) -> None:
    """A call without an id gets no answer: not on success, for an unknown method, for bad arguments or on failure."""
    async with serve(Calls) as server:
        client = await server.connect()
        client.notify("Echo", "unanswered")
        client.notify("Missing")
        client.notify("Add", 1)
        client.notify("Fail")
        client.notify("Refuse")
        client.notify("Unwritable")
        client.notify("Remember")
        assert (await client.invoke("Remember"))["result"] == 2
        assert len(client.received()) == 1


@pytest.mark.row("B99", "S38")
async def test_a_result_that_cannot_be_written_closes_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A result that the protocol cannot write ends the connection with an error; the log says so in .NET's words."""
    async with serve(Calls) as server:
        client = await server.connect()
        client.call("Unwritable")
        await client.gone()
        assert client.unread() == [{"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}]
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.getMessage() == "Failed writing message. Aborting connection."
    assert (vars(record)["event_id"], vars(record)["connection_id"]) == (6, client.connection_id)
    assert record.exc_info


@pytest.mark.row("B101")
async def test_each_call_has_its_own_instance(serve: Serve) -> None:
    """Each call runs on a new hub instance; items of the context live as long as the connection."""
    Calls.instances.clear()
    async with serve(Calls) as server:
        first, second = await server.connect(), await server.connect()
        assert [(await first.invoke("Remember"))["result"] for _ in range(3)] == [1, 2, 3]
        assert (await second.invoke("Remember"))["result"] == 1
    assert len({id(instance) for instance in Calls.instances}) == 4


async def test_instances_come_from_the_factory(serve: Serve) -> None:
    """A hub with dependencies is made by its factory, once per call; a factory that fails fails the call."""
    made = 0

    class Needy(Hub):
        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        async def greet(self) -> str:
            return f"{self.greeting}, {self.context.connection_id}"

    def make() -> Needy:
        nonlocal made
        made += 1
        if made == 3:
            raise LookupError("no greeting")
        return Needy("hello")

    async with serve(Needy, hub_factory=make) as server:
        client = await server.connect()
        assert made == 0
        assert (await client.invoke("Greet"))["result"] == f"hello, {client.connection_id}"
        assert (await client.invoke("Greet"))["result"] == f"hello, {client.connection_id}"
        assert (await client.invoke("Greet"))["error"] == "An unexpected error occurred invoking 'Greet' on the server."
        assert made == 3


async def test_plain_functions_run_in_a_worker_thread(serve: Serve) -> None:
    """A plain `def` runs off the event loop, with the context variables of the connection; awaitables are awaited."""
    VARIABLE.set("set by middleware")
    async with serve(Calls) as server:
        client = await server.connect()
        assert (await client.invoke("Thread"))["result"] != threading.current_thread().name
        assert (await client.invoke("ThreadVariable"))["result"] == "set by middleware"
        assert (await client.invoke("ThreadAwaits"))["result"] == "awaited"


class OneSlot:
    """A gate that never has anything to say."""

    looking = True

    def look_behind(self) -> None:
        raise AssertionError("somebody looks already")

    def release_slot(self) -> Callable[[], None]:
        raise AssertionError("nothing asks a client here")

    def has_surplus(self) -> bool:
        return False


async def test_a_cancelled_call_ends_without_an_answer(serve: Serve) -> None:
    """Cancelling the task that runs a call cancels the method, and nothing is answered."""
    entered = asyncio.Event()

    class Waiting(Hub):
        async def wait(self) -> None:
            entered.set()
            await asyncio.Event().wait()

    async with serve(Waiting) as server:
        client = await server.connect()
        client.connection.inbox.append(Invocation("Wait", msgspec.Raw(b"[]"), "1"))
        work = asyncio.create_task(server.dispatcher.take_calls(client.connection, OneSlot()))
        await entered.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert client.received() == []


async def test_an_unknown_connection_is_served_nothing(serve: Serve) -> None:
    """After its end a connection is unknown to the dispatcher: nothing of it is handled any more."""
    async with serve(Calls) as server:
        client = await server.connect()
        await client.leave()
        invocation = Invocation("Echo", msgspec.Raw(b'["x"]'), "1")
        assert not server.dispatcher.needs_slot(client.connection, invocation)
        server.dispatcher.handle(client.connection, invocation)
        client.connection.inbox.append(invocation)
        await server.dispatcher.take_calls(client.connection, OneSlot())
        assert list(client.connection.inbox) == [invocation]
        await server.dispatcher.on_disconnected(client.connection, None)


async def test_calls_are_bound_where_they_are_taken(serve: Serve) -> None:
    """`take_calls` binds by itself, in any spelling, and leaves what does not fit at the head of the line."""
    async with serve(Calls) as server:
        client = await server.connect()
        misfit = Invocation("Echo", msgspec.Raw(b"[]"), "3")
        inbox = client.connection.inbox
        inbox.extend(Invocation(name, msgspec.Raw(b'["x"]'), "1") for name in ("Echo", "E_C_H_O"))
        inbox.append(misfit)
        await server.dispatcher.take_calls(client.connection, OneSlot())
        assert [message["result"] for message in await client.receive_many(2)] == ["x", "x"]
        assert list(inbox) == [misfit]
        inbox.clear()


class Picky(msgspec.Struct):
    value: int

    def __post_init__(self) -> None:
        if self.value == 0:
            raise LookupError("an application's own failure")


class TakesPicky(Hub):
    async def take(self, picky: Picky) -> int:
        return picky.value


async def test_an_argument_type_that_raises_anything_fails_the_call(serve: Serve) -> None:
    """Whatever an application's type raises while it is built is a binding failure of that call."""
    async with serve(TakesPicky) as server:
        client = await server.connect()
        assert (await client.invoke("Take", {"value": 0}))["error"] == (
            "Failed to invoke 'Take' due to an error on the server."
        )
        assert (await client.invoke("Take", {"value": 1}))["result"] == 1


async def test_a_decoder_that_raises_anything_fails_the_call(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A protocol whose decoder raises what it should not costs the call, and the log tells why."""

    def decode(raw: object) -> list[object]:
        raise LookupError("a protocol's own failure")

    async with serve(Calls) as server:
        client = await server.connect()
        server.dispatcher._tables["json"]["Echo"].decode = decode
        assert (await client.invoke("Echo", "x"))["error"] == "Failed to invoke 'Echo' due to an error on the server."
        assert (await client.invoke("Add", 1, 2))["result"] == 3
    assert any(record.exc_info for record in caplog.records)


class Unbindable(Hub):
    async def take(self, value: set[list[int]] | dict[str, int] | list[int]) -> None: ...


async def test_types_that_cannot_be_bound_are_refused(serve: Serve) -> None:
    """A parameter type that a protocol cannot bind fails at registration; the text names the method."""
    with pytest.raises(ConfigurationError, match=r"The parameters of Unbindable\.take cannot be bound in json"):
        async with serve(Unbindable):
            pass


class TakesMsgpack(Hub):
    async def join(self, first: str, second: list[int]) -> str:
        return first + str(second)


async def test_messagepack_calls_bind_by_the_same_types(serve: Serve) -> None:
    """A MessagePack client calls the same methods."""
    async with serve(TakesMsgpack) as server:
        client = await server.connect(protocol="messagepack")
        body = msgspec.msgpack.encode([1, {}, "1", "join", ["a", [1, 2]], []])
        client.connection.data_received(bytes([len(body)]) + body)
        sent = client.transport.sent
        async with asyncio.timeout(10):
            while len(sent) <= 3:
                client.told.clear()
                await client.told.wait()
                sent = client.transport.sent
        assert msgspec.msgpack.decode(sent[4:]) == [3, {}, "1", 3, "a[1, 2]"]


@pytest.mark.parametrize("not_a_hub", [object, Calls(), None])
async def test_only_hubs_are_dispatched(serve: Serve, not_a_hub: Any) -> None:
    """What is not a class derived from Hub is refused."""
    async with serve(Calls) as server:
        with pytest.raises(ConfigurationError, match=r"derived from hubplane\.Hub"):
            HubDispatcher(
                not_a_hub,
                options=HubOptions(),
                lifetime=server.lifetime,
                protocols=server.protocols,
                supervisor=server.supervisor,
            )


async def test_an_unbound_hub_says_so() -> None:
    """A hub that is in no call says so instead of failing obscurely."""
    with pytest.raises(RuntimeError, match="Calls is not in a call"):
        Calls().clients  # noqa: B018 - reading it is the test


# -- order --------------------------------------------------------------------------------------------------------


class Gates(Hub):
    """Calls that wait until the test lets them go."""

    gates: dict[str, asyncio.Event] = {}  # noqa: RUF012 - shared with the test on purpose
    entered: list[str] = []  # noqa: RUF012 - as above

    async def enter(self, name: str) -> str:
        self.entered.append(name)
        await self.gates[name].wait()
        return name

    async def ask(self, name: str) -> str:
        self.entered.append(name)
        answer: str = await self.clients.caller.invoke("Ask", name, result=str)
        return answer

    async def pass_by(self) -> str:
        return "passed"


@pytest.fixture
def gates() -> dict[str, asyncio.Event]:
    """What `Gates.enter` waits for, by name."""
    Gates.entered.clear()
    Gates.gates = {name: asyncio.Event() for name in "abcd"}
    return Gates.gates


@pytest.mark.row("B94", "B96")
async def test_calls_run_one_after_the_other(serve: Serve, gates: dict[str, asyncio.Event]) -> None:
    """By default a client's second call starts when the first has been answered, and order is kept."""
    async with serve(Gates) as server:
        client, other = await server.connect(), await server.connect()
        for name in "abc":
            client.call("Enter", name)
        assert (await other.invoke("PassBy"))["result"] == "passed"
        assert Gates.entered == ["a"]
        for gate in reversed(gates.values()):
            gate.set()
        assert [message["result"] for message in await client.receive_many(3)] == ["a", "b", "c"]
        assert Gates.entered == ["a", "b", "c"]


@pytest.mark.row("B96")
async def test_a_limit_of_two_runs_two(serve: Serve, gates: dict[str, asyncio.Event]) -> None:
    """With a limit of two, two calls run at the same time, and a third waits."""
    async with serve(Gates, maximum_parallel_invocations_per_client=2) as server:
        client, other = await server.connect(), await server.connect()
        for name in "abc":
            client.call("Enter", name)
        await other.invoke("PassBy")
        assert Gates.entered == ["a", "b"]
        gates["b"].set()
        assert (await client.receive())["result"] == "b"
        gates["a"].set()
        gates["c"].set()
        assert {message["result"] for message in await client.receive_many(2)} == {"a", "c"}


async def test_what_does_not_fit_is_answered_without_a_slot(serve: Serve, gates: dict[str, asyncio.Event]) -> None:
    """A call that cannot be bound is refused while another one runs: binding comes before the slot (section 5.3)."""
    async with serve(Gates) as server:
        client = await server.connect()
        client.call("Enter", "a")
        client.call("Missing")
        client.call("Enter")
        errors = [message["error"] for message in await client.receive_many(2)]
        assert errors == [
            "Failed to invoke 'Missing' due to an error on the server. HubException: Method does not exist.",
            "Failed to invoke 'Enter' due to an error on the server.",
        ]
        gates["a"].set()
        assert (await client.receive())["result"] == "a"


# -- asking the caller --------------------------------------------------------------------------------------------


@pytest.mark.row("B117")
async def test_asking_the_caller_hands_the_slot_back(serve: Serve, gates: dict[str, asyncio.Event]) -> None:
    """A method that waits for its caller's answer blocks nothing: the next call starts, and the answer arrives."""
    async with serve(Gates) as server:
        client = await server.connect()
        client.call("Ask", "a")
        question = await client.receive()
        assert question["target"] == "Ask"
        client.call("Enter", "b")
        client.write({"type": 3, "invocationId": question["invocationId"], "result": "answer"})
        client.call("Enter", "c")
        assert (await client.receive())["result"] == "answer"
        assert Gates.entered == ["a", "b"]
        gates["b"].set()
        gates["c"].set()
        assert [message["result"] for message in await client.receive_many(2)] == ["b", "c"]


@pytest.mark.row("B120")
async def test_a_late_answer_is_ignored(serve: Serve) -> None:
    """A completion that nobody waits for is ignored."""
    async with serve(Calls) as server:
        client = await server.connect()
        client.write({"type": 3, "invocationId": "s99", "result": 1})
        assert (await client.invoke("Echo", "still here"))["result"] == "still here"
