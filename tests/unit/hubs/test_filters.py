"""Filters and authorization around calls and callbacks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Self  # Any: a served hub, of the conftest

import pytest

from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.context import HubCallerContext
from hubplane.hubs.filters import (
    HubFilter,
    HubInvocationContext,
    HubLifetimeContext,
    NextConnected,
    NextDisconnected,
    NextInvocation,
)
from hubplane.hubs.hub import Hub

Serve = Callable[..., AbstractAsyncContextManager[Any]]

EVENTS: list[object] = []


@pytest.fixture(autouse=True)
def no_events() -> None:
    """What filters noted is forgotten between tests."""
    EVENTS.clear()


class Filtered(Hub):
    async def on_connected(self) -> None:
        EVENTS.append("hub connected")

    async def on_disconnected(self, error: Exception | None) -> None:
        EVENTS.append("hub disconnected")

    async def add(self, first: int, second: int) -> int:
        EVENTS.append("add")
        return first + second

    def blocking(self, number: int) -> int:
        return number

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


class Noting(HubFilter):
    def __init__(self, name: str) -> None:
        self.name = name

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        EVENTS.append(f"{self.name} before {invocation.method.name}{invocation.arguments}")
        result = await next_(invocation)
        EVENTS.append(f"{self.name} after")
        return result

    async def on_connected(self, lifetime: HubLifetimeContext, next_: NextConnected) -> None:
        EVENTS.append(f"{self.name} connected")
        await next_(lifetime)

    async def on_disconnected(
        self, lifetime: HubLifetimeContext, error: Exception | None, next_: NextDisconnected
    ) -> None:
        await next_(lifetime, error)
        EVENTS.append(f"{self.name} disconnected {lifetime.context.connection_id}")


@pytest.mark.row("B139")
async def test_filters_stand_around_calls_and_callbacks_in_order(serve: Serve) -> None:
    """The filter registered first is the outermost, around methods and both callbacks."""
    async with serve(Filtered, filters=[Noting("outer"), Noting("inner")]) as server:
        client = await server.connect()
        assert list(EVENTS) == ["outer connected", "inner connected", "hub connected"]
        EVENTS.clear()
        assert (await client.invoke("Add", 1, 2))["result"] == 3
        assert list(EVENTS) == ["outer before Add[1, 2]", "inner before Add[1, 2]", "add", "inner after", "outer after"]
        EVENTS.clear()
        await client.leave()
        assert list(EVENTS) == [
            "hub disconnected",
            f"inner disconnected {client.connection_id}",
            f"outer disconnected {client.connection_id}",
        ]


class Meddling(HubFilter):
    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        first = invocation.arguments[0]
        if first == 0:
            return "not called"
        if first == 1:
            raise HubException(f"not for {invocation.context.connection_id}")
        if first == 2:
            invocation.arguments[0] = 20
        result = await next_(invocation)
        return [result] if first == 3 else result


@pytest.mark.row("B139")
async def test_a_filter_changes_what_it_likes(serve: Serve) -> None:
    """A filter may skip the method, raise in its place, and change arguments and result."""
    async with serve(Filtered, filters=[Meddling()]) as server:
        client = await server.connect()
        assert (await client.invoke("Add", 0, 0))["result"] == "not called"
        assert (await client.invoke("Add", 1, 0))["error"] == (
            f"An unexpected error occurred invoking 'Add' on the server. HubException: not for {client.connection_id}"
        )
        assert list(EVENTS) == ["hub connected"]
        assert (await client.invoke("Add", 2, 0))["result"] == 20
        assert (await client.invoke("Add", 3, 0))["result"] == [3]
        assert (await client.invoke("Blocking", 4))["result"] == 4
        assert "Failed to invoke 'Add'" in (await client.invoke("Add", 0))["error"]


class Doubling(HubFilter):
    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        numbers: Any = await next_(invocation)

        async def doubled() -> AsyncIterator[int]:
            async for number in numbers:
                yield number * 2

        return doubled()


@pytest.mark.row("B139")
async def test_a_filter_sees_the_stream_and_not_its_items(serve: Serve) -> None:
    """Around a stream method a filter gets the stream, and may put another one in its place."""
    async with serve(Filtered, filters=[Doubling()]) as server:
        client = await server.connect()
        client.stream("Count", 3)
        messages = await client.receive_many(4)
        assert [message.get("item") for message in messages] == [0, 2, 4, None]


class Fussy(HubFilter):
    async def on_connected(self, lifetime: HubLifetimeContext, next_: NextConnected) -> None:
        raise HubException("not today")


@pytest.mark.row("B139")
async def test_a_filter_turns_a_connection_away(serve: Serve) -> None:
    """An exception of a filter around on_connected counts as the callback's own."""
    async with serve(Filtered, filters=[Fussy()]) as server:
        client = await server.connect()
        await client.gone()
        assert client.received() == [{"type": 7, "error": "Connection closed with an error. HubException: not today"}]
        assert list(EVENTS) == []


async def test_filters_that_do_nothing_cost_nothing(serve: Serve) -> None:
    """A filter that overrides no hook leaves calls without anything around them."""
    async with serve(Filtered, filters=[HubFilter()]) as server:
        assert server.dispatcher._pipeline.is_direct
        client = await server.connect()
        assert (await client.invoke("Add", 1, 2))["result"] == 3


async def test_the_hooks_of_a_plain_filter_pass_on() -> None:
    """The hooks of the base class just call the next one."""
    seen: list[object] = []

    async def invoked(context: HubInvocationContext) -> object:
        seen.append(context)
        return "result"

    async def connected(context: HubLifetimeContext) -> None:
        seen.append(context)

    async def disconnected(context: HubLifetimeContext, error: Exception | None) -> None:
        seen.append(error)

    each, lifetime = HubFilter(), HubLifetimeContext(Filtered())
    invocation: Any = object()
    error = ValueError()
    assert await each.invoke_method(invocation, invoked) == "result"
    await each.on_connected(lifetime, connected)
    await each.on_disconnected(lifetime, error, disconnected)
    assert seen == [invocation, lifetime, error]


async def only_even(context: HubInvocationContext) -> bool:
    """Admits calls whose first argument is even."""
    EVENTS.append(context.method.name)
    return context.arguments[0] % 2 == 0  # type: ignore[operator]  # numbers, in these tests


@pytest.mark.row("B100")
async def test_authorization_refuses_a_call(serve: Serve) -> None:
    """A call that is not authorized is told so, whatever its kind, and the connection lives on."""
    async with serve(Filtered, authorize=only_even, filters=[Noting("filter")]) as server:
        client = await server.connect()
        EVENTS.clear()
        assert (await client.invoke("add", 1, 2))["error"] == "Failed to invoke 'Add' because user is unauthorized"
        client.stream("Count", 1)
        assert (await client.receive())["error"] == "Failed to invoke 'Count' because user is unauthorized"
        assert list(EVENTS) == ["Add", "Count"]
        assert (await client.invoke("Add", 2, 2))["result"] == 4


async def test_authorization_comes_before_the_mode(serve: Serve) -> None:
    """Whether a method streams is told to those only who may call it."""
    async with serve(Filtered, authorize=only_even) as server:
        client = await server.connect()
        for number in (1, 2):
            client.stream("Add", number, 0)
            client.call("Count", number)
        answers = {message["invocationId"]: message["error"] for message in await client.receive_many(4)}
        assert answers == {
            "1": "Failed to invoke 'Add' because user is unauthorized",
            "2": "Failed to invoke 'Count' because user is unauthorized",
            "3": "The client attempted to invoke the non-streaming 'Add' method with a streaming invocation.",
            "4": "The client attempted to invoke the streaming 'Count' method with a non-streaming invocation.",
        }


class Counted(HubFilter):
    """Says when it is made, entered and left."""

    made = 0

    def __init__(self) -> None:
        Counted.made += 1

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        EVENTS.append("counted")
        return await next_(invocation)


class Managed(Counted):
    """Is closed behind each call."""

    async def __aenter__(self) -> Self:
        EVENTS.append("enter")
        return self

    async def __aexit__(self, *error: object) -> None:
        EVENTS.append(f"leave {error[0]}")


class PlainlyManaged(Counted):
    """The same without a loop."""

    def __enter__(self) -> Self:
        EVENTS.append("enter")
        return self

    def __exit__(self, *error: object) -> None:
        EVENTS.append(f"leave {error[0]}")


async def yielding() -> AsyncIterator[Counted]:
    """Makes one and closes it."""
    EVENTS.append("enter")
    yield Counted()
    EVENTS.append("leave None")


def for_caller(context: HubCallerContext) -> Counted:
    """Makes one for whoever calls."""
    EVENTS.append(f"for {context.user_identifier}")
    return Counted()


@pytest.mark.row("B139")
@pytest.mark.parametrize(
    ("given", "around"),
    [
        (Counted, []),
        (Managed, ["enter", "leave None"]),
        (PlainlyManaged, ["enter", "leave None"]),
        (yielding, ["enter", "leave None"]),
        (for_caller, ["for ann"]),
    ],
)
async def test_a_filter_given_by_type_is_made_for_each_call(serve: Serve, given: Any, around: list[str]) -> None:
    """A class or a function makes a filter for each call, which is closed behind it."""
    async with serve(Filtered, filters=[given]) as server:
        client = await server.connect(user="ann")
        EVENTS.clear()
        Counted.made = 0
        for _ in range(2):
            assert (await client.invoke("Add", 1, 2))["result"] == 3
        once = [*around[:1], "counted", "add", *around[1:]]
        assert [*once, *once] == EVENTS
        assert Counted.made == 2


@pytest.mark.row("B139")
async def test_a_made_filter_stands_around_callbacks_if_it_overrides_them(serve: Serve) -> None:
    """A class that overrides a callback is made for it too; one that does not is not; a function always is."""

    class Lifecycle(Managed):
        async def on_connected(self, lifetime: HubLifetimeContext, next_: NextConnected) -> None:
            EVENTS.append("connecting")
            await next_(lifetime)

        async def on_disconnected(
            self, lifetime: HubLifetimeContext, error: Exception | None, next_: NextDisconnected
        ) -> None:
            EVENTS.append(f"disconnecting {error}")
            await next_(lifetime, error)

    def made() -> Managed:
        return Managed()

    async with serve(Filtered, filters=[Lifecycle, Managed, made]) as server:
        client = await server.connect()
        assert EVENTS == ["enter", "connecting", "enter", "hub connected", "leave None", "leave None"]
        EVENTS.clear()
        await client.leave()
        assert EVENTS == ["enter", "disconnecting None", "enter", "hub disconnected", "leave None", "leave None"]


async def test_what_makes_no_filter_is_refused(serve: Serve) -> None:
    """A mistake is named at the start where it can be seen, else in the failed call."""
    for wrong in (Filtered, 7, "filter"):
        with pytest.raises(ConfigurationError, match=r"filter|factory"):
            async with serve(Filtered, filters=[wrong]):
                pass
    with pytest.raises(ConfigurationError, match="Noting wants name"):
        async with serve(Filtered, filters=[Noting]):
            pass
    async with serve(Filtered, filters=[lambda: 7], enable_detailed_errors=True) as server:
        client = server.open()
        await client.gone()
        assert "which is no filter" in client.received()[-1]["error"]


async def test_parameters_of_a_filter_may_have_any_name(serve: Serve) -> None:
    """Filters are called by position."""

    class Own(HubFilter):
        async def invoke_method(self, call: Any, proceed: Any) -> object:  # as users write
            return await proceed(call)

        async def on_connected(self, it: Any, proceed: Any) -> None:
            await proceed(it)

        async def on_disconnected(self, it: Any, why: Any, proceed: Any) -> None:
            EVENTS.append("proceeds")
            await proceed(it, why)

    async with serve(Filtered, filters=[Own()]) as server:
        client = await server.connect()
        assert (await client.invoke("Add", 1, 2))["result"] == 3
        await client.leave()
        assert EVENTS == ["hub connected", "add", "proceeds", "hub disconnected"]


async def test_a_filter_that_its_factory_has_entered_is_not_entered_again(serve: Serve) -> None:
    """Who yields a filter out of an ``async with`` has entered it."""

    async def made() -> AsyncIterator[Managed]:
        async with Managed() as managed:
            yield managed

    async with serve(Filtered, filters=[made]) as server:
        client = await server.connect()
        EVENTS.clear()
        await client.invoke("Add", 1, 2)
        assert EVENTS.count("enter") == EVENTS.count("leave None") == 1
