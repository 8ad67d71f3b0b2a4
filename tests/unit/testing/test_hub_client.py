"""`HubClient`: the application as its users reach it, without a socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any  # scopes and options

import pytest

from hubplane import (
    AuthorizationContext,
    ConfigurationError,
    ConnectionClosedError,
    ConnectionRequest,
    HttpTransportType,
    Hub,
    HubApp,
    HubException,
    HubOptions,
    LocalProtocolError,
    TransportOptions,
    authorize,
)
from hubplane.errors import BindingError
from hubplane.testing import (
    ConnectError,
    ConnectionEnd,
    FakeClock,
    HubClient,
    MemoryServer,
    NothingArrivedError,
    ServerCall,
)
from hubplane.testing.arrivals import Arrivals

Make = Callable[..., HubApp]

both_protocols = pytest.mark.parametrize("protocol", ["json", "messagepack"])


def log_of(app: HubApp) -> list[Any]:
    """What the app's hub wrote down."""
    hub: Any = app._endpoints["/chat"].hub_type
    log: list[Any] = hub.log
    return log


async def numbers(count: int) -> AsyncIterator[int]:
    """A stream for the server."""
    for number in range(count):
        yield number


# -- calls --------------------------------------------------------------------------------------------------------


@both_protocols
async def test_calls_and_their_results(make_app: Make, protocol: str) -> None:
    """A call returns what the method returned, a method without a result returns None, and errors raise their text."""
    async with HubClient(make_app(), "/chat", protocol=protocol) as client:
        assert await client.invoke("Add", 1, 2) == 3
        assert await client.invoke("add", 1, 2, result=float) == 3.0
        assert await client.invoke("nothing") is None
        with pytest.raises(HubException, match="HubException: No"):
            await client.invoke("refuse")
        with pytest.raises(HubException, match="Method does not exist"):
            await client.invoke("what_is_this")
        with pytest.raises(HubException) as caught:
            await client.invoke("fail")
        assert "secret" not in str(caught.value)
        with pytest.raises(BindingError):
            await client.invoke("add", 1, 2, result=str)


@both_protocols
async def test_broadcasts_are_received_in_order(make_app: Make, protocol: str) -> None:
    """`receive` gives the calls of one target in order and leaves those of others where they are."""
    app = make_app()
    async with HubClient(app, "/chat", protocol=protocol, user="ann") as client:
        await client.send("say", "one")
        await client.send("say", "two")
        await client.invoke("nothing")
        assert [call.target for call in client.received] == ["Welcome", "Said", "Said"]
        assert await client.receive("Said") == ["ann", "one"]
        assert await client.receive("Said") == ["ann", "two"]
        assert await client.receive("Welcome") == ["ann"]
        assert client.received == []
        waiting = asyncio.gather(client.receive("Said"), client.receive("Said"))
        await client.send("say", "three")
        await client.send("say", "four")
        assert list(await waiting) == [["ann", "three"], ["ann", "four"]]
    assert log_of(app)[-1] == ("gone", "ann")


@both_protocols
async def test_streams_both_ways(make_app: Make, protocol: str) -> None:
    """A stream is read item by item, async iterables are streamed to the method, also in both directions at once."""
    async with HubClient(make_app(), "/chat", protocol=protocol) as client:
        assert [number async for number in client.stream("Count", 3, result=int)] == [0, 1, 2]
        assert await client.invoke("Total", numbers(100), 2) == 2 * 4950

        async def words() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        assert [word async for word in client.stream("Each", words())] == ["A", "B"]
        broken = client.stream("BreakOff")
        assert await anext(broken) == 1
        with pytest.raises(HubException, match="Broken"):
            await anext(broken)
        with pytest.raises(StopAsyncIteration):
            await anext(broken)
        with pytest.raises(HubException, match="Method does not exist"):
            await anext(client.stream("NoSuchStream"))


async def test_a_stream_ends_with_its_block(make_app: Make) -> None:
    """Leaving `async with` cancels the stream and waits until the server has closed its generator."""
    app = make_app()
    async with HubClient(app, "/chat") as client:
        async with client.stream("Count", 1_000_000) as stream:
            assert await anext(stream) == 0
        assert log_of(app) == ["stream closed"]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        await stream.aclose()
        unused = client.stream("Count", 3)
        await unused.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(unused)


async def test_an_unread_stream_stops_the_generator(make_app: Make) -> None:
    """A test that takes no items stops the server's generator, and a call that waits behind it says so."""
    async with HubClient(make_app(), "/chat") as client:
        stream = client.stream("Count", 20_000)
        assert await anext(stream) == 0
        while stream.unread <= 1_000:  # noqa: ASYNC110 - no event tells that the client has stopped reading
            await asyncio.sleep(0)
        with pytest.raises(NothingArrivedError, match="more than 1000 items of a stream wait to be taken"):
            await client.invoke("add", 1, 2, timeout=0.2)
        assert stream.unread < 10_000
        assert [number async for number in stream] == list(range(1, 20_000))


async def test_an_upload_that_fails(make_app: Make) -> None:
    """An exception of an upload reaches the method as its stream's error."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise ValueError("no more")

    app = make_app(options=HubOptions(enable_detailed_errors=True))
    async with HubClient(app, "/chat") as client:
        with pytest.raises(HubException, match="no more"):
            await client.invoke("Total", broken(), 1)


# -- being asked --------------------------------------------------------------------------------------------------


@both_protocols
async def test_client_results(make_app: Make, protocol: str) -> None:
    """A handler's return value answers the server, awaited or not; its exception and its absence are errors there."""
    async with MemoryServer(make_app()) as server, server.client("/chat") as asking:
        async with server.client("/chat", protocol=protocol) as client:
            client.on("Name", lambda: "ann")
            assert await asking.invoke("ask", client.connection_id) == "ann"

            async def slowly() -> str:
                return str(await client.invoke("add", 1, 2))

            client.on("Name", slowly)
            assert await asking.invoke("ask", client.connection_id) == "3"

            def refuse() -> str:
                raise LookupError("nobody")

            client.on("Name", refuse)
            with pytest.raises(HubException, match="nobody"):
                await asking.invoke("ask", client.connection_id)
        async with server.client("/chat", protocol=protocol) as mute:
            with pytest.raises(HubException, match="Client didn't provide a result"):
                await asking.invoke("ask", mute.connection_id)
            assert await mute.receive("Name") == []


@both_protocols
async def test_values_that_no_protocol_has(make_app: Make, protocol: str) -> None:
    """A type that cannot be read and arguments, items and answers that cannot be written fail where they are given."""

    class Odd:
        pass

    async def odd() -> AsyncIterator[Odd]:
        yield Odd()

    app = make_app(options=HubOptions(enable_detailed_errors=True))
    async with HubClient(app, "/chat", protocol=protocol) as client:
        with pytest.raises(TypeError):
            await client.invoke("nothing", result=int | str | dict[int, Odd] | float | list[int] | bytes | Odd)
        with pytest.raises(TypeError):
            client.stream("Count", 1, result=Callable)
        with pytest.raises(TypeError):
            await client.invoke("add", Odd(), 1)
        with pytest.raises(HubException, match="Odd"):
            await client.invoke("Total", odd(), 1)
        client.on("Name", Odd)
        with pytest.raises(HubException, match="Odd"):
            await client.invoke("ask", client.connection_id)
        stream = client.stream("Count", 2, result=str)
        with pytest.raises(BindingError):
            await anext(stream)
        assert await client.invoke("add", 1, 2) == 3


async def test_a_handler_takes_calls(make_app: Make) -> None:
    """A handler set before connecting sees the first call; what it raises is raised when the block ends."""
    seen: list[object] = []
    client = HubClient(make_app(), "/chat", user="ann")
    client.on("Welcome", seen.append)
    async with client:
        await client.invoke("nothing")
        assert seen == ["ann"]
        with pytest.raises(NothingArrivedError, match="A handler takes 'Welcome'"):
            await client.receive("Welcome", timeout=0.01)

    def disagree(_user: str, text: str) -> None:
        assert text == "expected"

    with pytest.raises(AssertionError, match="other"):  # noqa: PT012 - raised by the end of the inner block
        async with HubClient(make_app(), "/chat") as client:
            client.on("Said", disagree)
            await client.invoke("say", "other")
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - as above
        async with HubClient(make_app(), "/chat") as client:
            client.on("Said", disagree)
            await client.invoke("say", "other")
            raise ZeroDivisionError


# -- waiting in vain ----------------------------------------------------------------------------------------------


async def test_what_did_arrive_is_told(make_app: Make) -> None:
    """Waiting in vain names what arrived instead, and a name that differs in case only."""
    async with HubClient(make_app(), "/chat", user="ann") as client:
        await client.invoke("say", "hi")
        with pytest.raises(NothingArrivedError) as caught:
            await client.receive("said", timeout=0.01)
        assert str(caught.value) == (
            "No 'said' arrived within 0.01 s. What did arrive, and was not taken: Welcome('ann'), Said('ann', 'hi'). "
            "Names are compared exactly: it is 'Said'."
        )
        assert isinstance(caught.value, TimeoutError | AssertionError)
        for _ in range(2):
            await client.receive("Welcome" if _ else "Said")
        with pytest.raises(NothingArrivedError, match="Nothing else arrived either"):
            await client.receive("Said", timeout=0.01)
        for number in range(20):
            await client.invoke("say", str(number) * 300)
        with pytest.raises(NothingArrivedError, match=r"0\.\.\., .* and 10 more\."):
            await client.receive("Other", timeout=0.01)


async def test_silence_can_be_asserted(make_app: Make) -> None:
    """`receive_nothing` fails with what arrived, for one target or for all."""
    async with HubClient(make_app(), "/chat") as client:
        await client.receive("Welcome")
        await client.receive_nothing(within=0.01)
        await client.invoke("say", "hi")
        await client.receive_nothing("Other", within=0.01)
        with pytest.raises(AssertionError, match=r"there is Said\(None, 'hi'\)\."):
            await client.receive_nothing(within=0.01)


async def test_a_call_that_takes_too_long(make_app: Make) -> None:
    """A call, and a stream's item, that do not come within the timeout are named."""
    async with HubClient(make_app(), "/chat") as client:
        with pytest.raises(NothingArrivedError, match=r"No answer to 'wait' arrived within 0\.02 s\."):
            await client.invoke("wait", timeout=0.02)
    async with HubClient(make_app(), "/chat", timeout=0.2) as client:
        with pytest.raises(NothingArrivedError, match=r"No item of the stream of 'stuck' arrived within 0\.2 s\."):
            await anext(client.stream("stuck"))
        with pytest.raises(NothingArrivedError, match="The connection did not end within"):
            await client.wait_closed(timeout=0.02)
        with pytest.raises(NothingArrivedError, match="No ping arrived within"):
            await client.receive_ping(timeout=0.02)


# -- connecting ---------------------------------------------------------------------------------------------------


async def test_a_hub_that_is_not_there(make_app: Make) -> None:
    """A wrong path says so, and how paths are meant, with negotiation and without."""
    for skip in (False, True):
        with pytest.raises(ConnectError, match="Is there a hub at '/chats'") as caught:
            async with HubClient(make_app(), "/chats", skip_negotiation=skip):
                pass
        assert caught.value.status == 404


async def test_who_may_connect() -> None:
    """A guarded hub refuses with its status; a user, claims, a token and headers open it as in the real world."""

    def by_token(request: ConnectionRequest) -> object | None:
        seen.append((request.scope["type"], request.header("authorization"), request.query_value("access_token")))
        return {"sub": "tom"} if request.query_value("access_token") == "t" or "Bearer t" in seen[-1] else None

    seen: list[tuple[object, ...]] = []

    def not_bob(asked: AuthorizationContext) -> bool:
        return getattr(asked.user, "identity", "") != "bob"

    @authorize(not_bob)
    class Guarded(Hub):
        async def who(self) -> str | None:
            return self.context.user_identifier

    app = HubApp(authenticators=[by_token])
    app.add_hub("/chat", Guarded)
    async with MemoryServer(app) as server:
        with pytest.raises(ConnectError, match=r"answered 401 to POST /chat/negotiate.*`access_token`") as caught:
            await server.client("/chat").connect()
        assert caught.value.status == 401
        with pytest.raises(ConnectError, match="answered 403 to the WebSocket") as caught:
            await server.client("/chat", user="bob", skip_negotiation=True).connect()
        for options, who in (
            ({"user": "ann"}, "ann"),
            ({"user": {"sub": "eve"}}, "eve"),
            ({"access_token": "t"}, "tom"),
        ):
            async with server.client("/chat", **options) as client:
                assert await client.invoke("who") == who
        assert seen[-2:] == [("http", "Bearer t", None), ("websocket", None, "t")]
        async with server.client("/chat", headers={"Authorization": "Bearer t"}) as client:
            assert await client.invoke("who") == "tom"


async def test_headers_and_query_reach_the_hub(make_app: Make) -> None:
    """Headers and query parameters are those of the request; the connection id is known after negotiation."""
    async with MemoryServer(make_app()) as server:
        async with server.client("/chat", headers={"X-Time": "noon"}, query={"room": "a b"}) as client:
            assert await client.invoke("WhatTime") == "noon"
            assert len(client.connection_id) == 22
        async with server.client("/chat", skip_negotiation=True) as client:
            assert await client.invoke("WhatTime") is None
            with pytest.raises(LocalProtocolError, match="it has not negotiated"):
                _ = client.connection_id


async def test_refusals_of_the_handshake(make_app: Make) -> None:
    """A protocol the hub does not speak, a hub without WebSockets, and a negotiation that fails tell why."""
    app = make_app(options=HubOptions(supported_protocols=("json",)))
    with pytest.raises(ConnectError, match="The protocol 'messagepack' is not supported"):
        async with HubClient(app, "/chat", protocol="messagepack"):
            pass
    app = make_app(transport_options=TransportOptions(transports=HttpTransportType.LONG_POLLING))
    with pytest.raises(ConnectError, match="offers no WebSockets, but LongPolling"):
        async with HubClient(app, "/chat"):
            pass
    app = make_app(transport_options=TransportOptions(minimum_protocol_version=2))
    with pytest.raises(ConnectError, match="The negotiation at /chat failed: The client requested version '1'"):
        async with HubClient(app, "/chat"):
            pass
    with pytest.raises(ConfigurationError, match="one of json, messagepack"):
        HubClient(app, "/chat", protocol="xml")


async def test_something_that_is_no_hub() -> None:
    """An application that answers with anything else, or with nothing, is told from a hub."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"<html>"})

    with pytest.raises(ConnectError, match="is no hub: b'<html>'"):
        async with HubClient(page, "/chat"):
            pass
    with pytest.raises(ConnectError, match="returned without opening the WebSocket"):
        async with HubClient(page, "/chat", skip_negotiation=True):
            pass


async def test_an_app_whose_lifespan_does_not_run(make_app: Make) -> None:
    """An application that does not run the lifespan of its hubs raises the hubs' own explanation in the test."""
    hubs = make_app()

    async def forgetful(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await hubs(scope, receive, send)

    with pytest.raises(ConfigurationError, match="needs the framework's lifespan"):
        async with HubClient(forgetful, "/chat"):
            pass


async def test_a_second_lifespan_is_refused(make_app: Make) -> None:
    """Two clients with the same app need a MemoryServer: the second start-up fails with the reason."""
    app = make_app()
    async with HubClient(app, "/chat"):
        with pytest.raises(ConnectError, match="has been entered twice"):
            async with HubClient(app, "/chat"):
                pass


async def test_misuse_is_named(make_app: Make) -> None:
    """Using a client before it connects, or connecting it twice, says so."""
    client = HubClient(make_app(), "/chat")
    assert not client.is_connected
    assert client.end is None
    assert client.received == []
    assert client.pings == 0
    await client.close()
    await client.drop()
    with pytest.raises(LocalProtocolError, match="has not connected"):
        await client.invoke("add", 1, 2)
    async with client:
        assert client.is_connected
        with pytest.raises(LocalProtocolError, match="connected already"):
            await client.connect()


# -- the end ------------------------------------------------------------------------------------------------------


async def test_the_server_ends_it(make_app: Make) -> None:
    """How the server ended a connection is known, and whoever waits learns it."""
    app = make_app(options=HubOptions(maximum_parallel_invocations_per_client=2))
    async with HubClient(app, "/chat") as client:
        stream = client.stream("stuck")
        reading = asyncio.ensure_future(anext(stream))
        waiting = asyncio.ensure_future(client.invoke("wait"))
        receiving = asyncio.ensure_future(client.receive("Never"))
        await asyncio.sleep(0)
        await client.send("quit")
        assert await client.wait_closed() == ConnectionEnd(None, allow_reconnect=False, said_goodbye=True, code=1000)
        for task in (reading, waiting):
            with pytest.raises(ConnectionClosedError, match="The server closed the connection without an error"):
                await task
        with pytest.raises(NothingArrivedError, match="No 'Never' arrived: The server closed"):
            await receiving
        with pytest.raises(NothingArrivedError, match="No 'Never' arrived: The server closed"):
            await client.receive("Never")
        with pytest.raises(ConnectionClosedError):
            await client.send("say", "late")
        assert not client.is_connected


async def test_shutdown_allows_a_reconnect(make_app: Make) -> None:
    """A stopping server says goodbye with permission to reconnect, and the same client may connect again."""
    app = make_app()
    server = MemoryServer(app)
    await server.start()
    client = server.client("/chat", user="ann")
    await client.connect()
    await server.stop()
    end = client.end
    assert end == ConnectionEnd(None, allow_reconnect=True, said_goodbye=True, code=1000)
    assert str(end).endswith("without an error, and allows to come back (WebSocket code 1000).")
    async with server:
        await client.connect()
        assert client.is_connected
        assert await client.invoke("add", 1, 2) == 3
        await client.close()
    assert log_of(app) == [("gone", "ann"), ("gone", "ann")]


async def test_a_lost_connection(make_app: Make) -> None:
    """`drop` ends the socket without a goodbye, and returns when the hub has noticed."""
    app = make_app()
    async with HubClient(app, "/chat", user="ann") as client:
        await client.drop()
        assert log_of(app) == [("gone", "ann")]
        assert client.end == ConnectionEnd(None, allow_reconnect=False, said_goodbye=False, code=1006)
        assert str(client.end) == "The connection ended without a Close message (WebSocket code 1006)."


async def test_a_refused_connection_tells_its_error() -> None:
    """An exception of `on_connected` reaches the client as the error of the Close message, and its log the test's."""

    class Picky(Hub):
        async def on_connected(self) -> None:
            raise HubException("Not you.")

    app = HubApp()
    app.add_hub("/chat", Picky)
    async with HubClient(app, "/chat") as client:
        end = await client.wait_closed()
        assert end.error == "Connection closed with an error. HubException: Not you."
        assert str(end).startswith("The server closed the connection with the error 'Connection closed with an error.")


async def test_a_hub_that_does_not_end() -> None:
    """A disconnect callback that does not return is named instead of waited for."""
    release = asyncio.Event()

    class Slow(Hub):
        async def on_disconnected(self, error: Exception | None) -> None:
            await release.wait()

    app = HubApp()
    app.add_hub("/chat", Slow)
    async with MemoryServer(app) as server:
        client = server.client("/chat", timeout=0.1)
        await client.connect()
        with pytest.raises(NothingArrivedError, match="Does `on_disconnected` wait for something"):
            await client.close()
        release.set()


async def test_too_many_calls_that_nobody_takes(make_app: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose calls nobody takes drops its connection at its limit and says why."""
    monkeypatch.setattr("hubplane.testing.arrivals._LIMIT", 10)
    async with HubClient(make_app(), "/chat") as client:
        with pytest.raises(ConnectionClosedError, match="too many calls that no test has taken"):  # noqa: PT012
            for _ in range(20):
                await client.invoke("say", "x")


# -- time ---------------------------------------------------------------------------------------------------------


async def test_pings_and_the_timeout_follow_the_clock(make_app: Make, fake_clock: FakeClock) -> None:
    """With a fake clock in the app, pings come when the test says so, and a silent client that has pinged is closed."""
    async with HubClient(make_app(clock=fake_clock), "/chat") as client:
        assert client.pings == 0
        fake_clock.advance(15)
        await client.receive_ping()
        assert client.pings == 1
        await client.ping()
        await client.invoke("nothing")
        await fake_clock.elapse(29)
        assert client.is_connected
        await fake_clock.elapse(3)
        end = await client.wait_closed()
        assert (end.error, end.allow_reconnect) == ("Connection closed with an error.", True)
        assert client.pings == 3


async def test_failures_of_methods_are_logged(make_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    """What a method raised is in the test's log with its traceback, though the client learns nothing of it."""
    async with HubClient(make_app(), "/chat") as client:
        with pytest.raises(HubException):
            await client.invoke("fail")
    record = next(record for record in caplog.records if record.levelno == logging.ERROR)
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "secret"


# -- misuse -------------------------------------------------------------------------------------------------------


async def test_a_stream_of_a_client_that_has_gone_ends_at_once(make_app: Make) -> None:
    """A stream that could not begin says why, and then is over: nothing waits for a server that was never asked."""
    async with HubClient(make_app(), "/chat", timeout=60) as client:
        await client.close()
        stream = client.stream("Count", 3)
        with pytest.raises(ConnectionClosedError):
            await anext(stream)
        async with asyncio.timeout(5):
            assert [item async for item in stream] == []
            await stream.aclose()


async def test_a_call_that_arrives_as_its_taker_gives_up_is_not_lost() -> None:
    """It goes to the next who waits for it, or waits to be taken."""
    arrivals = Arrivals()
    first, second = (asyncio.ensure_future(arrivals.take("News", 60, list)) for _ in range(2))
    await asyncio.sleep(0)
    arrivals.add(ServerCall("News", [1]))
    first.cancel()
    assert await second == ServerCall("News", [1])
    third = asyncio.ensure_future(arrivals.take("News", 60, list))
    await asyncio.sleep(0)
    arrivals.add(ServerCall("News", [2]))
    third.cancel()
    await asyncio.wait([first, third])
    assert arrivals.calls == [ServerCall("News", [2])]


async def test_an_application_that_takes_nothing_is_named() -> None:
    """A client that sends more than the application reads says so after its timeout, and does not hang."""

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            return
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
        await send({"type": "websocket.send", "text": "{}\x1e"})
        await gone.wait()

    gone = asyncio.Event()
    async with MemoryServer(deaf) as server:
        client = server.client("/", skip_negotiation=True, timeout=0.1)
        await client.connect()

        async def flood() -> None:
            for _ in range(100):
                await client.send("Say", "hi")

        with pytest.raises(NothingArrivedError, match=r"taken no message of this client for 0\.1 s"):
            await flood()
        with pytest.raises(NothingArrivedError, match="taken no message"):
            await client.ping()
        gone.set()
        await client.drop()
