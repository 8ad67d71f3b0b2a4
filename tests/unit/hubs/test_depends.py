"""Facts about FastAPI's Depends in hubs: what is made, how often, when it is closed, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Body, Depends, Header, Query, Request, Security, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2PasswordBearer

from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.context import HubCallerContext
from hubplane.hubs.depends import Dependencies
from hubplane.hubs.filters import HubFilter, HubInvocationContext, NextInvocation
from hubplane.hubs.hub import Hub

Serve = Callable[..., AbstractAsyncContextManager[Any]]

EVENTS: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    EVENTS.clear()


class Session:
    """Is opened and closed."""

    count = 0

    def __init__(self) -> None:
        Session.count += 1
        self.number = Session.count


async def get_session() -> AsyncIterator[Session]:
    """Opens one."""
    EVENTS.append("open")
    try:
        yield Session()
    except HubException:
        EVENTS.append("rollback")
        raise
    EVENTS.append("close")


def get_plainly() -> Iterator[str]:
    """Runs in a thread, at both ends."""
    assert threading.current_thread() is not threading.main_thread()
    yield "plain"
    assert threading.current_thread() is not threading.main_thread()
    EVENTS.append("closed plainly")


def get_path(connection: HTTPConnection) -> str:
    """Reads the connection."""
    return connection.url.path


async def get_id(context: HubCallerContext) -> str:
    """Reads the caller."""
    return context.connection_id


class Page:
    """A class that is its own dependency."""

    def __init__(self, path: Annotated[str, Depends(get_path)], size: int = 10) -> None:
        self.text = f"{path} {size}"


class Store:
    """Needs what others need too."""

    def __init__(self, session: Annotated[Session, Depends(get_session)]) -> None:
        self.session = session


class Teller:
    """An instance as a dependency."""

    async def __call__(self) -> str:
        return "told"


SessionOf = Annotated[Session, Depends(get_session)]


class ShopHub(Hub):
    """Everything by its constructor."""

    def __init__(
        self,
        session: SessionOf,
        store: Annotated[Store, Depends()],
        page: Annotated[Page, Depends()],
        fresh: Session = Depends(get_session, use_cache=False),  # noqa: B008 - FastAPI's way
        plain: str = Depends(get_plainly),
        path: str = Depends(get_path),
        caller: str = Security(get_id),
        told: str = Depends(Teller()),
        limit: int = 5,
    ) -> None:
        self.session = session
        self.store = store
        self.fresh = fresh
        self.found = [page.text, plain, path, caller, told, limit]

    async def on_connected(self) -> None:
        EVENTS.append("connected")

    async def look(self) -> list[object]:
        assert self.store.session is self.session
        assert self.fresh is not self.session
        return self.found

    async def fail(self) -> None:
        raise HubException("no")

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            EVENTS.append(f"item {number}")
            yield number


async def test_a_constructor_gets_what_it_declares(serve: Serve) -> None:
    """Functions, generators and classes are called, nested and once for each call, and closed behind it."""
    async with serve(ShopHub) as server:
        client = await server.connect()
        found = (await client.invoke("Look"))["result"]
        assert EVENTS[:6] == ["open", "open", "connected", "closed plainly", "close", "close"]
        assert found == ["/hub 10", "plain", "/hub", client.connection_id, "told", 5]
        assert EVENTS[6:] == ["open", "open", "closed plainly", "close", "close"]


async def test_a_failure_passes_through(serve: Serve) -> None:
    """Dependencies that yield see the exception of the method."""
    async with serve(ShopHub) as server:
        client = await server.connect()
        await client.invoke("Look")
        EVENTS.clear()
        assert (await client.invoke("Fail"))["error"].endswith("HubException: no")
        assert EVENTS == ["open", "open", "rollback", "rollback"]


async def test_a_stream_keeps_them_to_its_end(serve: Serve) -> None:
    """What a stream needs is closed behind its last item."""
    async with serve(ShopHub) as server:
        client = await server.connect()
        await client.invoke("Look")
        EVENTS.clear()
        client.stream("Count", 1)
        assert [message.get("item") for message in await client.receive_many(2)] == [0, None]
        assert EVENTS == ["open", "open", "item 0", "closed plainly", "close", "close"]


class DeskHub(Hub):
    """Everything by its methods."""

    def __init__(self, session: SessionOf) -> None:
        self.session = session

    async def buy(self, what: str, count: int, session: SessionOf, *, path: str = Depends(get_path)) -> str:
        assert session is self.session
        return f"{count} {what} at {path}"

    def plain(self, what: str, path: Annotated[str, Depends(get_path)]) -> str:
        return f"{what} at {path}"

    async def both(self, items: AsyncIterator[int], path: Annotated[str, Depends(get_path)]) -> str:
        return f"{sum([item async for item in items])} at {path}"

    async def count(self, to: int, session: SessionOf) -> AsyncIterator[int]:
        for _ in range(to):
            yield session.number - self.session.number


class Audit(HubFilter):
    """Shares the session of the call."""

    def __init__(self, session: SessionOf, path: Annotated[str, Depends(get_path)]) -> None:
        self.session = session
        self.path = path

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        assert isinstance(invocation.hub, DeskHub)
        assert self.session is invocation.hub.session
        EVENTS.append(f"{invocation.method.name} at {self.path}")
        return await next_(invocation)


@pytest.mark.row("B139")
@pytest.mark.parametrize("filters", [(), (Audit,)])
async def test_methods_and_filters_get_theirs(serve: Serve, filters: tuple[type[HubFilter], ...]) -> None:
    """A method's dependencies are not sent; constructor, method and filters given by type share those of the call."""
    async with serve(DeskHub, filters=filters) as server:
        client = await server.connect()
        assert (await client.invoke("Buy", "tea", 2))["result"] == "2 tea at /hub"
        assert (await client.invoke("Plain", "tea"))["result"] == "tea at /hub"
        client.call("Both", streamIds=["s"])
        client.write({"type": 2, "invocationId": "s", "item": 4}, {"type": 3, "invocationId": "s"})
        assert (await client.receive())["result"] == "4 at /hub"
        client.stream("Count", 2)
        assert [message.get("item") for message in await client.receive_many(3)] == [0, 0, None]
        assert "error" in await client.invoke("Buy", "tea", 2, "mine")
        assert EVENTS.count("open") == EVENTS.count("close") == 4
        assert ("Buy at /hub" in EVENTS) is bool(filters)


class App:
    """FastAPI's app, as far as dependencies go."""

    def __init__(self) -> None:
        self.dependency_overrides: dict[Any, Any] = {}


async def other_session(path: Annotated[str, Depends(get_path)]) -> str:
    """Stands in, with needs of its own."""
    return f"other at {path}"


class PlainHub(Hub):
    """Needs one thing."""

    def __init__(self, session: Annotated[Any, Depends(get_session)]) -> None:
        self.session = session

    async def which(self) -> object:
        return self.session if isinstance(self.session, str) else "session"


async def test_overrides_of_the_app_hold(serve: Serve) -> None:
    """`app.dependency_overrides` is looked up for each call."""
    app = App()
    async with serve(PlainHub) as server:
        client = await server.connect()
        client.connection.request.scope["app"] = app
        assert (await client.invoke("Which"))["result"] == "session"
        app.dependency_overrides[get_session] = other_session
        assert (await client.invoke("Which"))["result"] == "other at /hub"
        app.dependency_overrides.clear()
        assert (await client.invoke("Which"))["result"] == "session"


scheme = OAuth2PasswordBearer("token", auto_error=False)


async def which_kind(request: Request, socket: WebSocket, connection: HTTPConnection) -> list[str]:
    """Takes the connection in each form."""
    with pytest.raises(RuntimeError, match="only its scope can be read"):
        await request.body()
    return [request.method, socket.url.path, connection.url.path]


class ScopeHub(Hub):
    """Looks at its request."""

    async def look(
        self, kinds: Annotated[list[str], Depends(which_kind)], token: Annotated[str | None, Depends(scheme)]
    ) -> list[object]:
        return [*kinds, token]


async def test_the_connection_can_be_read(serve: Serve) -> None:
    """Dependencies get the request that opened the connection; FastAPI's own for bearer tokens work."""
    async with serve(ScopeHub) as server:
        client = await server.connect()
        client.connection.request.scope["headers"].append((b"authorization", b"Bearer T"))
        assert (await client.invoke("Look"))["result"] == ["GET", "/hub", "/hub", "T"]


async def broken() -> None:
    """Fails."""
    raise HubException("not today")


class BrokenHub(Hub):
    """Cannot be made."""

    def __init__(self, nothing: Annotated[None, Depends(broken)]) -> None:
        """Never comes here."""

    async def echo(self, text: str) -> str:
        return text


async def test_a_dependency_that_fails_fails_the_call(serve: Serve) -> None:
    """Its exception is the call's; a connection that has no callback of the hub's asks for nothing."""
    async with serve(BrokenHub) as server:
        client = await server.connect()
        assert (await client.invoke("Echo", "x"))["error"].endswith("HubException: not today")


def with_query(q: str) -> str:
    """Wants a query parameter."""
    return q


def with_declared(q: Annotated[str, Query()] = "x") -> str:
    """Says so."""
    return q


def with_header(user_agent: str = Header()) -> str:
    """Wants a header."""
    return user_agent


def with_body(data: Annotated[dict[str, Any], Body()]) -> object:
    """Wants a body."""
    return data


def unresolved(session: Missing) -> object:  # type: ignore[name-defined]  # noqa: F821 - that is the point
    """Has a type that is not there."""
    return session


@pytest.mark.parametrize(
    ("dependency", "text"),
    [
        (with_query, "Parameter 'q' of the dependency with_query is a part of an HTTP request"),
        (with_declared, "Parameter 'q' of the dependency with_declared is a part of an HTTP request"),
        (with_header, "Parameter 'user_agent' of the dependency with_header"),
        (with_body, "Parameter 'data' of the dependency with_body"),
        (unresolved, "The parameters of the dependency unresolved cannot be read: name 'Missing' is not defined"),
        (7, "names nothing to call"),
    ],
)
def test_what_a_hub_call_cannot_give_is_named_at_the_start(dependency: Any, text: str) -> None:
    """A dependency that only an HTTP route can have is refused with its name and what to do."""

    class Needy:
        def __init__(self, value: Any = Depends(dependency)) -> None:  # noqa: B008 - FastAPI's way
            self.value = value

    with pytest.raises(ConfigurationError, match=text):
        Dependencies.of(Needy)


def test_a_circle_is_named() -> None:
    """A dependency that needs itself is refused."""

    def first(value: Any = None) -> object:
        return value

    def second(value: Any = Depends(first)) -> object:  # noqa: B008 - FastAPI's way
        return value

    first.__defaults__ = (Depends(second),)

    class Round:
        def __init__(self, value: Any = Depends(first)) -> None:  # noqa: B008 - FastAPI's way
            self.value = value

    with pytest.raises(ConfigurationError, match="needs itself"):
        Dependencies.of(Round)


def test_other_mistakes_are_named() -> None:
    """A parameter that nobody gives, a dependency between arguments, a limit that is not known."""

    class Half:
        def __init__(self, session: SessionOf, other: str) -> None:
            self.session = session

    with pytest.raises(ConfigurationError, match=r"Parameter 'other' of .*Half is no dependency"):
        Dependencies.of(Half)

    class Limited:
        def __init__(self, session: Session = Depends(get_session, max_concurrency=1)) -> None:  # noqa: B008
            self.session = session

    with pytest.raises(ConfigurationError, match="max_concurrency"):
        Dependencies.of(Limited)

    class NoneAtAll:
        def __init__(self, missing: Missing) -> None:  # type: ignore[name-defined]  # noqa: F821 - nobody asks for it
            self.missing = missing

    assert Dependencies.of(NoneAtAll) is None

    class Hidden:
        def __init__(self, missing: Annotated[Missing, Depends(get_path)]) -> None:  # type: ignore[name-defined]  # noqa: F821
            self.missing = missing

    with pytest.raises(ConfigurationError, match=r"dependencies of .*Hidden cannot be read: name 'Missing'"):
        Dependencies.of(Hidden)
    assert Dependencies.of(Hub) is None


async def test_what_a_dependency_swallows_has_failed_all_the_same(serve: Serve) -> None:
    """A client is never told of success because a generator keeps the method's exception to itself."""

    async def forgiving() -> AsyncIterator[int]:
        try:
            yield 1
        except HubException:
            EVENTS.append("forgiven")

    class SternHub(Hub):
        async def on_connected(self) -> None:
            EVENTS.append("connected")

        async def fail(self, one: int = Depends(forgiving)) -> int:
            raise HubException(f"no {one}")

        async def stream(self, one: int = Depends(forgiving)) -> AsyncIterator[int]:
            yield one
            raise HubException("no more")

    async with serve(SternHub) as server:
        client = await server.connect()
        assert (await client.invoke("Fail"))["error"].endswith("HubException: no 1")
        client.stream("Stream")
        assert (await client.receive_many(2))[1]["error"].endswith("HubException: no more")
        assert EVENTS == ["connected", "forgiven", "forgiven"]


async def test_a_partial_function_is_what_it_wraps(serve: Serve) -> None:
    """Of a `functools.partial` of a generator the call gets what it yields, and it is closed."""

    async def opened(name: str) -> AsyncIterator[str]:
        EVENTS.append(f"open {name}")
        yield name
        EVENTS.append(f"close {name}")

    def opened_plainly(name: str) -> Iterator[str]:
        yield name
        EVENTS.append(f"close {name}")

    class PartialHub(Hub):
        async def look(
            self,
            one: str = Depends(partial(opened, "one")),
            two: str = Depends(partial(partial(opened_plainly), "two")),
        ) -> str:
            return one + two

    async with serve(PartialHub) as server:
        client = await server.connect()
        assert (await client.invoke("Look"))["result"] == "onetwo"
        assert EVENTS == ["open one", "close two", "close one"]


async def test_a_call_that_a_filter_tries_again_gets_open_resources(serve: Serve) -> None:
    """What the dependencies of an inner filter have closed is opened anew, not taken from the first attempt."""

    async def opened() -> AsyncIterator[Session]:
        session = Session()
        EVENTS.append("open")
        yield session
        EVENTS.append("close")

    class Again(HubFilter):
        async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
            await next_(invocation)
            return await next_(invocation)

    class Inner(HubFilter):
        def __init__(self, session: Session = Depends(opened)) -> None:  # noqa: B008 - FastAPI's way
            self.session = session

        async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
            EVENTS.append("use")
            return await next_(invocation)

    class ToldHub(Hub):
        async def look(self) -> str:
            return "seen"

    async with serve(ToldHub, filters=[Again(), Inner]) as server:
        client = await server.connect()
        assert (await client.invoke("Look"))["result"] == "seen"
        assert EVENTS == ["open", "use", "close"] * 2


def by_default(session: Any = Depends(get_session)) -> Hub:  # noqa: B008 - FastAPI's way
    """Would be given the declaration itself."""
    return StoredHub(session)


def by_annotation(session: SessionOf) -> Hub:
    """Would be given the caller's context."""
    return StoredHub(session)


def by_text(session: Annotated[Session, Depends(get_session)]) -> Hub:
    """Likewise."""
    return StoredHub(session)


class StoredHub(Hub):
    """Is given a session."""

    def __init__(self, session: Any) -> None:
        self.session = session


@pytest.mark.parametrize("factory", [by_default, by_annotation, by_text])
async def test_a_factory_that_declares_dependencies_is_refused(serve: Serve, factory: Any) -> None:
    """A factory is given none, and must not get something else in their place."""
    for named in ({"hub_factory": factory}, {"filters": [factory]}):
        with pytest.raises(ConfigurationError, match=r"'session' of by_\w+ is declared with Depends"):
            async with serve(StoredHub if "hub_factory" in named else Hub, **named):
                pass
