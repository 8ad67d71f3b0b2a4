"""Each option takes effect: set by a variable of the environment, for one hub, and seen in what the hub then does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

import pytest

from hubplane.asgi.app import HubApp
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportListener, WebSocketTransport
from hubplane.endpoint.endpoint import HubEndpoint
from hubplane.errors import ConnectionClosedError
from hubplane.hubs.hub import Hub
from hubplane.options import HubOptions, TransportOptions
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport

JSON = b'{"protocol":"json","version":1}\x1e'


class OptionHub(Hub):
    """Has a method for each option that needs one."""

    started = 0
    gate: asyncio.Event

    async def fail(self) -> None:
        raise ValueError("secret")

    async def wait(self) -> None:
        OptionHub.started += 1
        await self.gate.wait()

    async def ignore(self, items: AsyncIterator[int]) -> None:
        await self.gate.wait()

    async def stream(self) -> AsyncIterator[int]:
        await self.gate.wait()
        yield 1


class Exchange:
    """An HTTP request, and its answer."""

    def __init__(self, method: str, query: str = "", **headers: str) -> None:
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.request = ConnectionRequest(
            {"type": "http", "method": method, "path": "/", "headers": fields, "query_string": query.encode()}
        )
        self.status = 0
        self.body = b""

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: str | None = "text/plain",
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.status, self.body = status, body

    async def wait_gone(self) -> None:
        await asyncio.get_running_loop().create_future()

    def on_stop(self, callback: Callable[[], None]) -> None:
        """Never."""

    def forget_stop(self, callback: Callable[[], None]) -> None:
        """Never."""


class Socket:
    """A WebSocket request whose peer never answers a Close."""

    def __init__(self, **scope: Any) -> None:
        self.request = ConnectionRequest(
            {"type": "websocket", "path": "/", "headers": [], "query_string": b"", "subprotocols": [], **scope}
        )
        self.transport = RecordingTransport()
        self.subprotocol: str | None = None
        self.waited: float | None = None

    async def reject(self, status: int, body: bytes, *, content_type: str | None = "text/plain") -> None:
        raise AssertionError(status)

    async def accept(
        self, connect: Callable[[WebSocketTransport], TransportListener], *, subprotocol: str | None = None
    ) -> WebSocketTransport:
        self.subprotocol = subprotocol
        connect(self.transport).data_received(b"nonsense\x1e")
        return self.transport

    async def finish(self, timeout: float) -> None:
        self.waited = timeout


class Rig:
    """A running hub."""

    def __init__(self, endpoint: HubEndpoint, clock: FakeClock) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.transport = RecordingTransport()

    async def connect(self, handshake: bytes = JSON) -> HubConnection:
        """A client; sends `handshake`."""
        request = ConnectionRequest({"type": "websocket", "path": "/", "headers": [], "query_string": b""})
        connection = self.endpoint.connect(request, "c1")
        connection.attach(self.transport)
        asyncio.get_running_loop().create_task(self.endpoint.serve(connection))
        if handshake:
            connection.data_received(handshake)
        await settle()
        return connection

    async def pass_time(self, seconds: float) -> None:
        """With a heartbeat in each second, and one at the end."""
        for step in [1.0] * int(seconds) + [seconds % 1]:
            self.clock.advance(step)
            await settle()

    async def http(self, exchange: Exchange, subpath: str = "") -> Exchange:
        """Ask."""
        await self.endpoint.router.http(exchange, subpath)  # type: ignore[arg-type]  # all that is asked of it here
        return exchange

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What was sent behind the handshake's answer."""
        return [json.loads(record) for record in self.transport.sent.split(b"\x1e")[1:-1]]


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


def call(target: str, number: int = 1, kind: int = 1, **more: object) -> bytes:
    """A call."""
    message = {"type": kind, "invocationId": str(number), "target": target, "arguments": [], **more}
    return json.dumps(message).encode() + b"\x1e"


Effect = Callable[[Rig], Awaitable[None]]
EFFECTS: dict[str, tuple[str, Effect]] = {}


def effect(value: str) -> Callable[[Effect], Effect]:
    """The effect of the option that the function is named after, when it has this value."""

    def add(function: Effect) -> Effect:
        EFFECTS[function.__name__] = (value, function)
        return function

    return add


@effect("3")
async def handshake_timeout(rig: Rig) -> None:
    """A client without a handshake is let go after 3 seconds."""
    connection = await rig.connect(b"")
    await rig.pass_time(3)
    assert not connection.ended
    await rig.pass_time(1)
    assert connection.ended


@effect("4")
async def keep_alive_interval(rig: Rig) -> None:
    """A ping is due every 4 seconds."""
    await rig.connect()
    await rig.pass_time(3)
    assert rig.messages == []
    await rig.pass_time(2)
    assert rig.messages == [{"type": 6}]


@effect("5")
async def client_timeout_interval(rig: Rig) -> None:
    """Silence of 5 seconds ends the connection of a client that has pinged."""
    connection = await rig.connect()
    connection.data_received(b'{"type":6}\x1e')
    await rig.pass_time(5)
    assert not connection.ended
    await rig.pass_time(3)
    assert rig.messages[-1]["type"] == 7


@effect("messagepack")
async def supported_protocols(rig: Rig) -> None:
    """A protocol that is not named is refused."""
    await rig.connect()
    assert "json" in json.loads(rig.transport.sent[:-1])["error"]


@effect("100")
async def maximum_receive_message_size(rig: Rig) -> None:
    """A message of more than 100 bytes ends the connection."""
    connection = await rig.connect()
    connection.data_received(b'{"type":6,"x":"%b"}\x1e' % (b"x" * 70))
    await settle()
    assert not connection.ended
    connection.data_received(b'{"type":6,"x":"%b"}\x1e' % (b"x" * 90))
    await settle()
    assert connection.ended


@effect("true")
async def enable_detailed_errors(rig: Rig) -> None:
    """The client sees the exception."""
    (await rig.connect()).data_received(call("fail"))
    await settle()
    assert rig.messages[0]["error"].endswith("ValueError: secret")


@effect("2")
async def stream_buffer_capacity(rig: Rig) -> None:
    """Of five items, two wait in the stream and the others in front of it."""
    connection = await rig.connect()
    item = b'{"type":2,"invocationId":"s","item":1}\x1e'
    connection.data_received(call("ignore", streamIds=["s"]) + item * 5)
    await settle()
    assert len(connection.inbox) == 3


@effect("2")
async def maximum_parallel_invocations_per_client(rig: Rig) -> None:
    """Two of three calls run."""
    (await rig.connect()).data_received(call("wait") + call("wait", 2) + call("wait", 3))
    await settle()
    assert OptionHub.started == 2


@effect("1")
async def maximum_streams_per_client(rig: Rig) -> None:
    """The second stream is refused."""
    (await rig.connect()).data_received(call("stream", 1, 4) + call("stream", 2, 4))
    await settle()
    assert "already has 1 active streams" in rig.messages[0]["error"]


@effect("long_polling")
async def transports(rig: Rig) -> None:
    """Only long polling is offered."""
    answer = await rig.http(Exchange("POST", "negotiateVersion=1"), "negotiate")
    offered = json.loads(answer.body)["availableTransports"]
    assert [each["transport"] for each in offered] == ["LongPolling"]


@effect("200")
async def application_max_buffer_size(rig: Rig) -> None:
    """Above 200 unread bytes the transport stops reading."""
    connection = await rig.connect()
    connection.data_received(call("wait") + call("wait", 2))
    await settle()
    assert rig.transport.reading
    connection.data_received(call("wait", 3, x="x" * 100))
    assert not rig.transport.reading


@effect("10")
async def transport_max_buffer_size(rig: Rig) -> None:
    """Above 10 bytes awaiting senders wait."""
    connection = await rig.connect()
    connection.write(b"x" * 10)
    assert not connection.crowded
    connection.write(b"x")
    assert connection.crowded


@effect("20")
async def outbound_buffer_limit(rig: Rig) -> None:
    """Above 20 bytes the client is cut."""
    connection = await rig.connect()
    connection.pause_writing()
    connection.write(b"x" * 20)
    assert not rig.transport.aborted
    connection.write(b"x")
    assert rig.transport.aborted


@effect("1")
async def minimum_protocol_version(rig: Rig) -> None:
    """Version 0 is refused."""
    answer = await rig.http(Exchange("POST"), "negotiate")
    assert "'0'" in json.loads(answer.body)["error"]


@effect("2")
async def transport_send_timeout(rig: Rig) -> None:
    """A client that takes nothing for 2 seconds is cut."""
    connection = await rig.connect()
    connection.pause_writing()
    await rig.pass_time(3)
    assert not connection.ended
    await rig.pass_time(1)
    assert rig.transport.aborted


@effect("3")
async def disconnect_timeout(rig: Rig) -> None:
    """A negotiated connection that nobody opens is forgotten after 3 seconds."""
    await rig.http(Exchange("POST", "negotiateVersion=1"), "negotiate")
    await rig.pass_time(3)
    assert len(rig.endpoint.registry) == 1
    await rig.pass_time(1)
    assert len(rig.endpoint.registry) == 0


@effect("1.5")
async def close_timeout(rig: Rig) -> None:
    """The peer has 1.5 seconds for its Close frame."""
    socket = Socket()
    await rig.endpoint.router.websocket(socket)
    assert socket.waited == 1.5


@effect("2")
async def poll_timeout(rig: Rig) -> None:
    """A poll without data is answered after 2 seconds."""
    body = (await rig.http(Exchange("POST", "negotiateVersion=1"), "negotiate")).body
    query = f"id={json.loads(body)['connectionToken']}"
    assert (await rig.http(Exchange("GET", query))).status == 200
    poll = Exchange("GET", query)
    task = asyncio.get_running_loop().create_task(rig.http(poll))
    await settle()
    await rig.pass_time(1)
    assert poll.status == 0
    await rig.pass_time(1)
    assert (poll.status, poll.body) == (200, b"")
    await task


@effect("true")
async def close_on_authentication_expiration(rig: Rig) -> None:
    """A connection ends with its login."""
    request = Exchange("GET").request
    request.authenticated_as({"sub": "ann", "exp": rig.clock.wall() + 5})
    connection = rig.endpoint.connect(request, "c1")
    assert connection.expires_at == rig.clock.monotonic() + 5


@effect("true")
async def enable_authentication_refresh(rig: Rig) -> None:
    """New logins are taken."""
    answer = await rig.http(Exchange("POST"), "refresh")
    assert json.loads(answer.body) == {"error": "missing_connection_token"}


@effect("https://app.example")
async def allowed_origins(rig: Rig) -> None:
    """Other origins are refused, though the request carries no cookie."""
    request = Socket(headers=[(b"origin", b"https://other.example"), (b"host", b"x")]).request
    assert await rig.endpoint.gate.refusal(request) == 403


@asynccontextmanager
async def running(app: HubApp, clock: FakeClock) -> AsyncIterator[Rig]:
    """The hub of an app, while inside."""
    OptionHub.started = 0
    OptionHub.gate = asyncio.Event()
    async with app.lifespan():
        rig = Rig(app._endpoints["/some-hub"], clock)
        try:
            yield rig
        finally:
            OptionHub.gate.set()
            for connection in rig.endpoint.connections():
                connection.transport_lost(None)
            await settle()


def made(**arguments: Any) -> tuple[HubApp, FakeClock]:
    """An app with one hub; arguments of `add_hub`."""
    clock = FakeClock()
    app = HubApp(clock=clock, ids=SeededIds())
    app.add_hub("/some-hub", OptionHub, **arguments)
    return app, clock


@pytest.mark.parametrize("form", ["HUBPLANE_{}", "HUBPLANE_HUBS__SOME_HUB__{}", "code"])
@pytest.mark.parametrize("name", EFFECTS)
async def test_an_option_takes_effect(monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    """Set for all hubs, for one hub, or in code, each option does what it says."""
    value, check = EFFECTS[name]
    if form == "code":
        monkeypatch.setenv(f"HUBPLANE_{name.upper()}", value)
        probe, _ = made()
        monkeypatch.delenv(f"HUBPLANE_{name.upper()}")
        if name in HubOptions.__dataclass_fields__:
            option: Any = getattr(probe._endpoints["/some-hub"]._options, name)
            app, clock = made(options=HubOptions(**{name: option}))
        else:
            option = getattr(probe._endpoints["/some-hub"]._transport_options, name)
            app, clock = made(transport_options=TransportOptions(**{name: option}))
    else:
        monkeypatch.setenv(form.format(name.upper()), value)
        app, clock = made()
    async with running(app, clock) as rig:
        await check(rig)


@pytest.mark.parametrize("name", EFFECTS)
async def test_an_option_is_off_by_default(name: str) -> None:
    """Without it the effect is not there: so the checks above can fail."""
    app, clock = made()
    with pytest.raises((AssertionError, LookupError, json.JSONDecodeError, ConnectionClosedError)):
        async with running(app, clock) as rig:
            await EFFECTS[name][1](rig)


def test_every_option_has_a_check() -> None:
    """A new option needs one. Those of stateful reconnect have theirs where that is tested."""
    names = {each.name for kind in (HubOptions, TransportOptions) for each in fields(kind)} - {"given"}
    assert names - {"stateful_reconnect_buffer_size", "allow_stateful_reconnects"} == EFFECTS.keys()


def test_an_infinite_send_timeout_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinity may be written as such, and zero may not."""
    monkeypatch.setenv("HUBPLANE_TRANSPORT_SEND_TIMEOUT", "inf")
    app, _ = made()
    assert app._endpoints["/some-hub"]._transport_options.transport_send_timeout == float("inf")


async def test_a_sub_protocol_is_chosen_by_the_application() -> None:
    """The selector sees what the client offers; without one none is chosen, as in the original."""
    app, clock = made(sub_protocol_selector=lambda offered: offered[-1] if offered else None)
    async with running(app, clock) as rig:
        for offered, chosen in ((["a", "b"], "b"), ([], None)):
            socket = Socket(subprotocols=offered)
            await rig.endpoint.router.websocket(socket)
            assert socket.subprotocol == chosen
    app, clock = made()
    async with running(app, clock) as rig:
        socket = Socket(subprotocols=["a"])
        await rig.endpoint.router.websocket(socket)
        assert socket.subprotocol is None
