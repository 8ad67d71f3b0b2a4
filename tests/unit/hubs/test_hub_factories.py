"""Facts about hubs that an application makes itself, with what they need for one call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any

import pytest

from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.context import HubCallerContext
from hubplane.hubs.hub import Hub

Serve = Callable[..., AbstractAsyncContextManager[Any]]

EVENTS: list[str] = []


class NeedyHub(Hub):
    """Needs a session."""

    def __init__(self, session: str) -> None:
        self.session = session

    async def on_connected(self) -> None:
        EVENTS.append("connected")

    async def use(self) -> str:
        EVENTS.append("use")
        return self.session

    async def fail(self) -> None:
        raise HubException("no")

    async def count(self) -> AsyncIterator[int]:
        for number in range(2):
            EVENTS.append(f"item {number}")
            yield number

    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise HubException("no")


def plain() -> NeedyHub:
    """Returns the hub."""
    return NeedyHub("plain")


async def awaited() -> NeedyHub:
    """Returns it later."""
    return NeedyHub("awaited")


async def yielding() -> AsyncIterator[NeedyHub]:
    """Yields it."""
    EVENTS.append("open")
    try:
        yield NeedyHub("yielding")
    except HubException:
        EVENTS.append("failed")
        raise
    finally:
        EVENTS.append("close")


def yielding_plainly() -> Iterator[NeedyHub]:
    """Yields it, without a loop."""
    EVENTS.append("open")
    yield NeedyHub("yielding_plainly")
    EVENTS.append("close")


managed = asynccontextmanager(yielding)
managed_plainly = contextmanager(yielding_plainly)


async def awaited_manager() -> AbstractAsyncContextManager[NeedyHub]:
    """Returns later what gives it."""
    return managed()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


@pytest.mark.parametrize(("factory", "session"), [(plain, "plain"), (awaited, "awaited")])
async def test_a_function_makes_the_hub(serve: Serve, factory: Any, session: str) -> None:
    """A factory, async or not, is called for each call and each callback."""
    async with serve(NeedyHub, hub_factory=factory) as server:
        client = await server.connect()
        assert (await client.invoke("Use"))["result"] == session
        assert EVENTS == ["connected", "use"]


@pytest.mark.parametrize(
    ("factory", "session"),
    [
        (yielding, "yielding"),
        (yielding_plainly, "yielding_plainly"),
        (managed, "yielding"),
        (managed_plainly, "yielding_plainly"),
        (awaited_manager, "yielding"),
    ],
)
async def test_resources_last_as_long_as_the_call(serve: Serve, factory: Any, session: str) -> None:
    """A factory that yields, or a context manager, closes what it opened when the call or the callback has ended."""
    async with serve(NeedyHub, hub_factory=factory) as server:
        client = await server.connect()
        assert EVENTS == ["open", "connected", "close"]
        EVENTS.clear()
        assert (await client.invoke("Use"))["result"] == session
        assert EVENTS == ["open", "use", "close"]


async def test_resources_of_a_stream_last_to_its_end(serve: Serve) -> None:
    """A stream has its resources until its last item, and they are closed before its completion is written."""
    async with serve(NeedyHub, hub_factory=yielding) as server:
        client = await server.connect()
        EVENTS.clear()
        client.stream("Count")
        assert [message.get("item") for message in await client.receive_many(3)] == [0, 1, None]
        assert EVENTS == ["open", "item 0", "item 1", "close"]


async def test_a_failed_call_is_seen_by_its_resources(serve: Serve) -> None:
    """The exception of the method passes through the factory, which may roll back."""
    async with serve(NeedyHub, hub_factory=yielding) as server:
        client = await server.connect()
        EVENTS.clear()
        assert (await client.invoke("Fail"))["error"].endswith("HubException: no")
        assert EVENTS == ["open", "failed", "close"]
        EVENTS.clear()
        client.stream("Broken")
        assert (await client.receive_many(2))[1]["error"].endswith("HubException: no")
        assert EVENTS == ["open", "failed", "close"]


async def test_a_factory_that_fails_while_closing_fails_the_call(serve: Serve) -> None:
    """What could not be committed was not done: the call fails, and so does a stream behind its items."""

    async def failing() -> AsyncIterator[NeedyHub]:
        yield NeedyHub("x")
        if EVENTS[-1] != "connected":
            raise HubException("not committed")

    async with serve(NeedyHub, hub_factory=failing) as server:
        client = await server.connect()
        assert (await client.invoke("Use"))["error"].endswith("HubException: not committed")
        client.stream("Count")
        *_, last = await client.receive_many(3)
        assert last["error"].endswith("HubException: not committed")


async def test_a_factory_may_know_the_caller(serve: Serve) -> None:
    """A function with one argument is given the caller's context, also when it yields."""

    async def for_caller(context: HubCallerContext, prefix: str = "for") -> AsyncIterator[NeedyHub]:
        yield NeedyHub(f"{prefix} {context.user_identifier}")

    async with serve(NeedyHub, hub_factory=for_caller) as server:
        client = await server.connect(user="ann")
        assert (await client.invoke("Use"))["result"] == "for ann"


@pytest.mark.parametrize("factory", [NeedyHub, None, lambda one, two: (one, two), "factory"])
async def test_a_factory_that_wants_more_is_refused(serve: Serve, factory: Any) -> None:
    """Nobody can give what a constructor wants without Depends, or a second argument: that is said at the start."""
    with pytest.raises(ConfigurationError, match=r"wants session|wants one, two|A factory is"):
        async with serve(NeedyHub, hub_factory=factory):
            pass


async def test_a_factory_that_makes_no_hub_fails_the_call(serve: Serve) -> None:
    """Whatever is no hub is named in the log's exception; the connection stays."""
    made: list[object] = [NeedyHub("first"), 7, None]

    async with serve(NeedyHub, hub_factory=lambda: made.pop(0), enable_detailed_errors=True) as server:
        client = await server.connect()
        assert (await client.invoke("Use"))["error"].endswith("TypeError: The hub factory made int, which is no hub.")
        client.stream("Count")
        assert "NoneType, which is no hub" in (await client.receive())["error"]


@pytest.mark.parametrize("enters", ["__enter__", "__aenter__"])
async def test_a_manager_that_gives_itself_is_no_hub(serve: Serve, enters: str) -> None:
    """What a context manager such as a file or a lock gives is itself: it is entered once, left, and named."""

    async def entered(self: Any) -> Any:
        EVENTS.append("enter")
        return self

    async def left(self: Any, *_: object) -> None:
        EVENTS.append("leave")

    def entered_plainly(self: Any) -> Any:
        EVENTS.append("enter")
        return self

    def left_plainly(self: Any, *_: object) -> None:
        EVENTS.append("leave")

    methods = (
        {"__aenter__": entered, "__aexit__": left}
        if enters == "__aenter__"
        else {"__enter__": entered_plainly, "__exit__": left_plainly}
    )
    made = type("Thing", (), methods)

    def thing() -> Any:
        return made()

    async with serve(NeedyHub, hub_factory=thing, enable_detailed_errors=True) as server:
        client = server.open()
        await client.gone()
        assert "The hub factory made Thing, which is no hub." in client.received()[-1]["error"]
        assert EVENTS == ["enter", "leave"]
