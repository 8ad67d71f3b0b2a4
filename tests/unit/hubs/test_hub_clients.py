"""Who hears what a hub sends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any  # a served hub, of the conftest

import pytest

from hubplane.errors import ClientResultError, HubException, LocalProtocolError
from hubplane.hubs.clients import HubClients
from hubplane.hubs.context import HubContext
from hubplane.hubs.groups import GroupManager
from hubplane.hubs.hub import Hub
from hubplane.hubs.port import HubPort
from hubplane.lifetime.audience import Audience, AudienceKind

Serve = Callable[..., AbstractAsyncContextManager[Any]]


class Sender(Hub):
    async def join(self, group: str) -> None:
        await self.groups.add(self.context.connection_id, group)

    async def leave(self, group: str) -> None:
        await self.groups.remove(self.context.connection_id, group)

    async def to(self, selector: str, *, mark: str = "Said") -> None:
        await eval(f"self.clients.{selector}").send(mark, 1)  # noqa: S307 - the test's own text

    async def ask(self, connection_id: str) -> list[object]:
        return [await self.clients.client(connection_id).invoke("Ask", "how many", result=int)]


NAMES = ("a", "b", "c", "d")


async def four(server: Any) -> dict[str, Any]:
    """Clients: a and b are in room one, b and c in room two; a and d are the same user."""
    users = {"a": "mia", "b": "tom", "c": None, "d": "mia"}
    clients = {name: await server.connect(user=users[name]) for name in NAMES}
    for name, group in (("a", "one"), ("b", "one"), ("b", "two"), ("c", "two")):
        await clients[name].invoke("Join", group)
    return clients


def heard(clients: dict[str, Any]) -> str:
    """The names of those who heard something, as often as they did."""
    return "".join(name * sum(message["type"] == 1 for message in clients[name].received()) for name in NAMES)


SELECTORS = [
    ("all", "abcd"),
    ("all_except([{a!r}, {c!r}])", "bd"),
    ("all_except([])", "abcd"),
    ("caller", "a"),
    ("others", "bcd"),
    ("client({b!r})", "b"),
    ("clients([{b!r}, {d!r}])", "bd"),
    ("clients([])", ""),
    ("group('one')", "ab"),
    ("groups(['one', 'two'])", "abbc"),
    ("groups([])", ""),
    ("group_except('one', [{b!r}])", "a"),
    ("others_in_group('one')", "b"),
    ("user('mia')", "ad"),
    ("users(['mia', 'tom'])", "abd"),
    ("users(['mia', 'mia'])", "ad"),
]


@pytest.mark.row("B133")
@pytest.mark.parametrize(("selector", "expected"), SELECTORS)
async def test_selectors(serve: Serve, selector: str, expected: str) -> None:
    """Each selector reaches whom it names: overlapping groups twice, a connection of several users once."""
    async with serve(Sender) as server:
        clients = await four(server)
        ids = {name: client.connection_id for name, client in clients.items()}
        await clients["a"].complete("To", selector.format(**ids))
        assert heard(clients) == expected


@pytest.mark.row("B135")
@pytest.mark.parametrize(
    "selector",
    ["client('nobody')", "clients(['nobody'])", "group('nowhere')", "groups(['nowhere'])", "user('x')", "users(['x'])"],
)
async def test_sending_to_nobody_is_no_error(serve: Serve, selector: str) -> None:
    """Unknown connections, groups and users hear nothing, and the sender is told nothing."""
    async with serve(Sender) as server:
        clients = await four(server)
        assert "error" not in await clients["a"].invoke("To", selector)
        assert heard(clients) == ""


@pytest.mark.row("B134")
async def test_groups(serve: Serve) -> None:
    """Joining and leaving twice is no error; names distinguish case; who has gone is in no group."""
    async with serve(Sender) as server:
        a, b = await server.connect(), await server.connect()
        await a.complete("Join", "Room")
        await a.complete("Join", "Room")
        await b.complete("Join", "room")
        await b.complete("To", "group('Room')")
        await b.complete("To", "group('room')")
        assert [sum(message["type"] == 1 for message in client.received()) for client in (a, b)] == [1, 1]
        await a.complete("Leave", "Room")
        await a.complete("Leave", "Room")
        await b.complete("To", "group('Room')")
        await a.complete("Join", "Room")
        assert sum(message["type"] == 1 for message in a.received()) == 1
        await a.leave()
        again = await server.connect()
        await b.complete("To", "group('Room')")
        assert again.received() == []
        assert sum(message["type"] == 1 for message in a.received()) == 1


@pytest.mark.row("B136")
async def test_recipients_of_both_protocols(serve: Serve) -> None:
    """One broadcast reaches json and messagepack clients, each in its own encoding."""
    async with serve(Sender) as server:
        json, msgpack = await server.connect(), await server.connect(protocol="messagepack")
        json.notify("To", "all")
        assert await json.receive() == {"type": 1, "target": "Said", "arguments": [1]}
        assert msgpack.transport.sent == b"{}\x1e" + b"\x0c\x96\x01\x80\xc0\xa4Said\x91\x01\x90"


@pytest.mark.row("B138")
async def test_a_context_outside_the_hub(serve: Serve) -> None:
    """Code outside the hub sends to every audience, changes groups and asks clients for results."""
    async with serve(Sender) as server:
        clients = await four(server)
        context = server.context
        await context.groups.add(clients["d"].connection_id, "one")
        await context.groups.remove(clients["a"].connection_id, "one")
        await context.clients.group("one").send("Said", 1)
        await context.clients.all.send("Said", 2)
        await context.clients.user("mia").send("Said", 3)
        await clients["c"].complete("Join", "two")
        assert heard(clients) == "aabbcddd"
        answer = asyncio.create_task(context.clients.client(clients["c"].connection_id).invoke("Ask", result=int))
        *_, question = await clients["c"].receive_many(3)
        clients["c"].write({"type": 3, "invocationId": question["invocationId"], "result": 42})
        assert await answer == 42
        assert not hasattr(context.clients, "caller")
        assert not hasattr(context.clients, "others")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"result": 7}, {"result": [7]}),
        ({"error": "no"}, {"error": "An unexpected error occurred invoking 'Ask' on the server. HubException: no"}),
    ],
    ids=["result", "error"],
)
async def test_what_a_client_answers(serve: Serve, answer: dict[str, object], expected: dict[str, object]) -> None:
    """A result reaches the method that asked; an error is raised there as a HubException."""
    async with serve(Sender) as server:
        asking, asked = await server.connect(), await server.connect()
        asking.call("Ask", asked.connection_id)
        question = await asked.receive()
        assert (question["target"], question["arguments"]) == ("Ask", ["how many"])
        asked.write({"type": 3, "invocationId": question["invocationId"]} | answer)
        assert await asking.receive() == {"type": 3, "invocationId": "1"} | expected


@pytest.mark.row("B116")
async def test_asked_client_that_leaves(serve: Serve) -> None:
    """Whoever asked gets the error of a client that was never there, and may catch both as one."""
    async with serve(Sender) as server:
        asked = await server.connect()
        client = server.context.clients.client(asked.connection_id)
        answer = asyncio.create_task(client.invoke("Ask", result=int))
        await asked.receive()
        await asked.leave()
        with pytest.raises(ClientResultError, match=f"^Connection '{asked.connection_id}' disconnected\\.$"):
            await answer
        with pytest.raises(ClientResultError, match="does not exist"):
            await client.invoke("Ask", result=int)


# -- arguments ----------------------------------------------------------------------------------------------------


class Deaf:
    """A lifetime manager that remembers what it was asked to send."""

    def __init__(self) -> None:
        self.sent: list[tuple[Audience, str, tuple[object, ...]]] = []

    def send(self, audience: Audience, target: str, arguments: tuple[object, ...]) -> object:
        self.sent.append((audience, target, arguments))
        return asyncio.sleep(0)


@pytest.fixture
def deaf() -> Deaf:
    """A lifetime manager without connections."""
    return Deaf()


def clients_of(deaf: Deaf) -> HubClients:
    """The audiences that send to it."""
    port = HubPort(deaf)  # type: ignore[arg-type]  # only `send` is needed
    port.open()
    return HubClients(port)


async def test_the_target_is_sent_verbatim(deaf: Deaf) -> None:
    """Name and arguments reach the lifetime manager as they are, also subclasses of str."""

    class Name(str):
        __slots__ = ()

    await clients_of(deaf).all.send(Name("Said_it"), 1, [2])
    assert deaf.sent == [(Audience(AudienceKind.ALL), "Said_it", (1, [2]))]


async def test_exclusions_and_names_may_be_any_iterable(deaf: Deaf) -> None:
    """Names come from any iterable, in order, duplicates kept."""
    clients = clients_of(deaf)
    await clients.group_except("g", (name for name in "ab")).send("Said")
    await clients.groups(["x", "", "x"]).send("Said")
    assert [audience for audience, _, _ in deaf.sent] == [
        Audience(AudienceKind.GROUP, ("g",), ("a", "b")),
        Audience(AudienceKind.GROUPS, ("x", "", "x")),
    ]


async def test_an_empty_target_is_refused(deaf: Deaf) -> None:
    """An empty target, or one that is no string, is refused before anything is sent."""
    everybody = clients_of(deaf).all
    with pytest.raises(ValueError, match="The value cannot be an empty string"):
        everybody.send("")
    for target in (None, 1, b"Said"):
        with pytest.raises(TypeError, match="The target is the name of a client method"):
            everybody.send(target)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="The value cannot be an empty string"):
        await clients_of(deaf).client("x").invoke("")
    assert deaf.sent == []


@pytest.mark.parametrize("name", [None, 1, b"x"])
@pytest.mark.parametrize("selector", ["client", "group", "user"])
async def test_a_name_is_a_string(deaf: Deaf, selector: str, name: object) -> None:
    """None, numbers and bytes name nobody."""
    with pytest.raises(TypeError, match="is a string, not"):
        getattr(clients_of(deaf), selector)(name)


@pytest.mark.parametrize("selector", ["clients", "groups", "users", "all_except"])
async def test_names_are_not_one_string(deaf: Deaf, selector: str) -> None:
    """A string where names are expected is refused, for it would be taken letter by letter; so is a None among them."""
    with pytest.raises(TypeError, match="Pass a list of"):
        getattr(clients_of(deaf), selector)("name")
    with pytest.raises(TypeError, match="is a string, not None"):
        getattr(clients_of(deaf), selector)(["name", None])


@pytest.mark.parametrize("method", ["add", "remove"])
@pytest.mark.parametrize(
    ("arguments", "error"),
    [((None, "g"), TypeError), (("c", None), TypeError), (("", "g"), ValueError), (("c", ""), ValueError)],
)
async def test_groups_need_names(deaf: Deaf, method: str, arguments: tuple[Any, Any], error: type[Exception]) -> None:
    """A group command needs a connection and a group."""
    groups = GroupManager(HubPort(deaf))  # type: ignore[arg-type]  # nothing is needed
    with pytest.raises(error):
        getattr(groups, method)(*arguments)


# -- threads ------------------------------------------------------------------------------------------------------


class Threaded(Hub):
    def work(self, group: str) -> list[str]:
        done = []
        self.groups.add(self.context.connection_id, group)
        done.append("added")
        self.nested()
        done.append("sent")
        self.groups.remove(self.context.connection_id, group)
        return done

    def nested(self) -> None:
        self.clients.group("room").send("Said", 1)
        self.clients.all.send("Said", 2)

    def unwritable(self) -> None:
        self.clients.all.send("Said", object())

    def ask(self) -> None:
        self.clients.caller.invoke("Ask").send(None)

    async def send_from_another_loop(self) -> str:
        return await asyncio.to_thread(lambda: asyncio.run(self.send_twice()))

    async def send_twice(self) -> str:
        await self.clients.all.send("Said", 1)
        await self.groups.add(self.context.connection_id, "room")
        await self.clients.group("room").send("Said", 2)
        return "sent"


async def test_a_plain_method_sends_from_its_thread(serve: Serve) -> None:
    """A plain `def` joins groups and sends without await, each call done when it returns, from nested code too."""
    async with serve(Threaded) as server:
        client = await server.connect()
        client.call("Work", "room")
        messages = await client.receive_many(3)
        assert [message.get("arguments") for message in messages] == [[1], [2], None]
        assert messages[2]["result"] == ["added", "sent"]


async def test_errors_are_raised_in_the_thread(serve: Serve) -> None:
    """What goes wrong while sending is raised where it was sent from."""
    async with serve(Threaded, enable_detailed_errors=True) as server:
        client = await server.connect()
        assert "TypeError" in (await client.invoke("Unwritable"))["error"]


async def test_a_thread_cannot_ask(serve: Serve) -> None:
    """Asking a client needs an async method; a thread is told so."""
    async with serve(Threaded, enable_detailed_errors=True) as server:
        client = await server.connect()
        error = (await client.invoke("Ask"))["error"]
        assert error.endswith("LocalProtocolError: A client can be asked for a result on the hub's event loop only.")


async def test_another_event_loop_sends_too(serve: Serve) -> None:
    """Code on another event loop, in another thread, awaits its sends as usual."""
    async with serve(Threaded) as server:
        client = await server.connect()
        client.call("SendFromAnotherLoop")
        messages = await client.receive_many(3)
        assert [message.get("arguments") for message in messages] == [[1], [2], None]
        assert messages[2]["result"] == "sent"


async def test_a_context_from_a_thread(serve: Serve) -> None:
    """A thread that is in no call sends through the hub's context, once that knows its event loop."""
    async with serve(Sender) as server:
        client = await server.connect()
        with pytest.raises(RuntimeError, match="The hub is not running"):
            await asyncio.to_thread(server.context.clients.all.send, "Said", 1)
        server.context.open()
        await asyncio.to_thread(server.context.clients.all.send, "Said", 2)
        assert (await client.receive())["arguments"] == [2]


async def test_a_context_without_a_loop_asks_where_it_is_used(serve: Serve) -> None:
    """The first use of a context on an event loop makes that loop its own."""
    async with serve(Sender) as server:
        client = await server.connect()
        context = HubContext(server.lifetime)
        answer = asyncio.create_task(context.clients.client(client.connection_id).invoke("Ask", result=str))
        question = await client.receive()
        client.write({"type": 3, "invocationId": question["invocationId"], "error": "no"})
        with pytest.raises(HubException, match=r"^no$"):
            await answer
        with pytest.raises(LocalProtocolError):
            await asyncio.to_thread(lambda: asyncio.run(context.clients.client("x").invoke("Ask")))
