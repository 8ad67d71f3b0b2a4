"""Facts about a connection's life: handshake, keep-alive, timeouts, every way to end, shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings, default_user_id, select_protocols
from hubplane.endpoint.heartbeat import Heartbeat
from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
PING = b'{"type":6}\x1e'


class LifeHub(Hub):
    """Writes down what happens to it; its behaviour is set by the test."""

    log: list[object]
    fail_connected = False
    fail_disconnected = False
    gate: asyncio.Event | None = None

    async def on_connected(self) -> None:
        self.log.append("connected")
        if self.gate is not None:
            await self.gate.wait()
        if self.fail_connected:
            raise LookupError("no place")
        await self.clients.caller.send("welcome")

    async def on_disconnected(self, error: Exception | None) -> None:
        await self.clients.caller.send("never seen")
        await self.clients.others.send("left")
        self.log.append(error)
        if self.fail_disconnected:
            raise LookupError("no way")

    async def echo(self, text: str) -> str:
        self.log.append(text)
        return text

    async def leave(self) -> str:
        self.context.abort()
        self.log.append("left")
        return "dropped"

    async def wait(self) -> None:
        assert self.gate is not None
        await self.gate.wait()


class Served:
    """One hub on a fake clock, and its clients."""

    def __init__(self, endpoint: HubEndpoint, clock: FakeClock) -> None:
        self.endpoint = endpoint
        self.clock = clock
        self.heartbeat = Heartbeat(clock, lambda: iter(endpoint.connections()))
        self._count = 0

    def connect(self, data: bytes = HANDSHAKE, **scope: object) -> Client:
        """A client whose first bytes are `data`."""
        self._count += 1
        request = ConnectionRequest({"type": "websocket", "path": "/life", "headers": [], "query_string": b"", **scope})
        return Client(self, self.endpoint.connect(request, f"c{self._count}"), data)

    async def seconds(self, count: float) -> None:
        """Let time pass, with a heartbeat every second."""
        await settle()
        for _ in range(int(count)):
            self.clock.advance(1)
            await self.heartbeat.beat()
            await settle()


class Client:
    """The client's side."""

    def __init__(self, served: Served, connection: HubConnection, data: bytes) -> None:
        self.connection = connection
        self.transport = RecordingTransport()
        connection.attach(self.transport)
        self.task = asyncio.get_running_loop().create_task(served.endpoint.serve(connection))
        if data:
            connection.data_received(data)

    def send(self, **message: object) -> None:
        """Send one hub message."""
        self.connection.data_received(json.dumps(message).encode() + b"\x1e")

    @property
    def messages(self) -> list[dict[str, Any]]:
        """Everything received, the handshake's answer included."""
        return [json.loads(record) for record in self.transport.sent.split(b"\x1e")[:-1]]


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    *, options: HubOptions | None = None, transport_options: TransportOptions | None = None, **behaviour: object
) -> AsyncIterator[tuple[Served, list[object]]]:
    """Serve a LifeHub with this behaviour."""
    log: list[object] = []
    hub_type = type("LifeHub", (LifeHub,), {"log": log, **behaviour})
    clock = FakeClock()
    runtime = HubRuntime(
        protocols=(JsonHubProtocol(), MessagePackHubProtocol()), cork=Cork(), clock=clock, ids=SeededIds()
    )
    endpoint = HubEndpoint(
        hub_type,
        "LifeHub",
        lifetime=LocalHubLifetimeManager(protocols=runtime.protocols, ids=runtime.ids),
        settings=HubSettings(
            options=options or HubOptions(), transport_options=transport_options or TransportOptions()
        ),
        runtime=runtime,
    )
    served = Served(endpoint, clock)
    async with endpoint.run(grace=5):
        yield served, log


# -- handshake ------------------------------------------------------------------------------------------------------


@pytest.mark.row("B124")
async def test_order_after_the_handshake() -> None:
    """The handshake's answer comes first, then what on_connected sends, then results; calls wait for on_connected."""
    gate = asyncio.Event()
    async with serving(gate=gate) as (served, log):
        client = served.connect(HANDSHAKE + b'{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}\x1e')
        await settle()
        assert log == ["connected"]
        assert client.messages == [{}]
        gate.set()
        await settle()
        assert client.messages == [
            {},
            {"type": 1, "target": "welcome", "arguments": []},
            {"type": 3, "invocationId": "1", "result": "x"},
        ]


@pytest.mark.row("B62", "B67", "B126")
async def test_a_refused_handshake() -> None:
    """An unknown protocol is answered with its error, the transport closes with 1000, and no callback runs."""
    async with serving() as (served, log):
        client = served.connect(b'{"protocol":"smoke","version":1}\x1e')
        await client.task
        assert client.messages == [{"error": "The protocol 'smoke' is not supported."}]
        assert client.transport.closed is CloseReason.NORMAL
        assert log == []


@pytest.mark.row("B64")
@pytest.mark.parametrize("detailed", [False, True])
async def test_a_broken_handshake(detailed: bool) -> None:
    """Invalid JSON gets the generic text; with detailed errors type and text are added."""
    async with serving(options=HubOptions(enable_detailed_errors=detailed)) as (served, _):
        client = served.connect(b'{"version":1}\x1e')
        await client.task
        text = "An unexpected error occurred during connection handshake."
        if detailed:
            text += " InvalidDataException: Missing required property 'protocol'. Message content: {\"version\":1}"
        assert client.messages == [{"error": text}]


@pytest.mark.row("B65", "B67")
async def test_a_late_handshake() -> None:
    """Without a handshake for 15 seconds the client is told so and let go."""
    async with serving() as (served, log):
        client = served.connect(b"")
        await served.seconds(15)
        assert client.transport.closed is None
        await served.seconds(1)
        await client.task
        assert client.messages == [{"error": "Handshake was canceled."}]
        assert client.transport.closed is CloseReason.NORMAL
        assert log == []


async def test_a_peer_that_leaves_in_the_handshake() -> None:
    """A client that goes away before its handshake gets no answer, and no callback runs."""
    async with serving() as (served, log):
        client = served.connect(b"")
        await settle()
        client.connection.transport_lost(None)
        await client.task
        assert client.messages == []
        assert log == []


# -- time -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("B121")
async def test_pings_do_not_care_for_traffic() -> None:
    """A ping goes out every keep-alive interval, however much else is written."""
    async with serving() as (served, _):
        client = served.connect()
        for number in range(31):
            client.send(type=1, target="Echo", arguments=[str(number)])
            await served.seconds(1)
        assert [message["type"] for message in client.messages if message.get("type") == 6] == [6, 6]


@pytest.mark.row("B122")
async def test_a_client_that_never_pings_is_never_timed_out() -> None:
    """The client timeout is armed by the first ping of the client only."""
    async with serving() as (served, log):
        client = served.connect()
        await served.seconds(120)
        assert client.transport.closed is None
        assert log == ["connected"]


@pytest.mark.row("B122", "B126")
async def test_a_client_that_pinged_and_fell_silent() -> None:
    """After its first ping a client that is silent for 30 seconds is closed with an error and may reconnect."""
    async with serving() as (served, log):
        client = served.connect()
        client.connection.data_received(PING)
        await served.seconds(30)
        assert client.transport.closed is None
        await served.seconds(2)
        await client.task
        assert client.messages[-1] == {"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}
        assert [str(entry) for entry in log] == [
            "connected",
            "Client hasn't sent a message/ping within the configured ClientTimeoutInterval.",
        ]


@pytest.mark.row("B123")
async def test_the_hubs_own_delay_is_no_silence() -> None:
    """While calls of the client wait for a running one, its silence does not count."""
    gate = asyncio.Event()
    async with serving(options=HubOptions(client_timeout_interval=5)) as (served, _):
        client = served.connect(HANDSHAKE + PING)
        await settle()
        served.endpoint.hub_type.gate = gate  # type: ignore[attr-defined]
        client.send(type=1, invocationId="1", target="Wait", arguments=[])
        client.send(type=1, invocationId="2", target="Echo", arguments=["x"])
        await served.seconds(60)
        assert client.transport.closed is None
        gate.set()
        await settle()
        assert client.messages[-1] == {"type": 3, "invocationId": "2", "result": "x"}


@pytest.mark.row("B132")
async def test_a_peer_that_takes_nothing() -> None:
    """A client whose socket has been full for more than 10 seconds is cut off."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        client.connection.pause_writing()
        await served.seconds(11)
        assert not client.transport.aborted
        await served.seconds(1)
        await client.task
        assert client.transport.aborted
        assert log == ["connected", None]


async def test_a_peer_that_takes_bytes_again_in_time() -> None:
    """A socket that drains in time starts the count anew, and what waited leaves."""
    async with serving() as (served, _):
        client = served.connect()
        await settle()
        client.connection.pause_writing()
        client.send(type=1, invocationId="1", target="Echo", arguments=["x"])
        await served.seconds(9)
        assert client.messages[-1]["target"] == "welcome"
        client.connection.resume_writing()
        await settle()
        assert client.messages[-1] == {"type": 3, "invocationId": "1", "result": "x"}
        client.connection.pause_writing()
        await served.seconds(9)
        assert not client.transport.aborted


# -- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.row("B126", "B127", "B35", "B156")
@pytest.mark.parametrize("error", [None, "tired"])
async def test_a_close_message_from_the_client(error: str | None) -> None:
    """Close is answered with Close, without error or reconnect; on_disconnected learns the client's reason."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        client.send(type=7, **({"error": error} if error else {}))
        await client.task
        assert client.messages[-1] == {"type": 7}
        assert client.transport.closed is CloseReason.NORMAL
        assert [str(entry) for entry in log] == ["connected", str(error)]
        assert error is None or isinstance(log[-1], HubException)


@pytest.mark.row("B126", "B37", "B34")
async def test_a_lost_transport() -> None:
    """A client that drops its socket ends without an error, and on_disconnected runs once."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        client.connection.transport_lost(None)
        await client.task
        assert log == ["connected", None]


@pytest.mark.row("B126")
async def test_what_was_sent_before_leaving_is_served() -> None:
    """Calls that arrived before the socket was lost still run, in order, before on_disconnected."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        for text in "abc":
            client.send(type=1, target="Echo", arguments=[text])
        client.connection.transport_lost(None)
        await client.task
        assert log == ["connected", "a", "b", "c", None]


@pytest.mark.row("B126")
async def test_a_client_that_vanishes_while_connecting() -> None:
    """A client that is gone before on_connected has finished still gets its on_disconnected."""
    gate = asyncio.Event()
    async with serving(gate=gate) as (served, log):
        client = served.connect()
        await settle()
        client.connection.transport_lost(None)
        gate.set()
        await client.task
        assert log == ["connected", None]


@pytest.mark.row("B125")
async def test_on_connected_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If on_connected raises the client is closed with an error, without reconnect and without on_disconnected."""
    async with serving(fail_connected=True) as (served, log):
        client = served.connect()
        await client.task
        assert client.messages[1:] == [{"type": 7, "error": "Connection closed with an error."}]
        assert log == ["connected"]
        assert list(served.endpoint.lifetime.connections()) == []
    assert "LookupError: no place" in caplog.text


@pytest.mark.row("B126")
async def test_on_disconnected_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """If on_disconnected raises that is logged, the connection is forgotten, and its WebSocket ends with 1011."""
    async with serving(fail_disconnected=True) as (served, log):
        client = served.connect()
        await settle()
        client.send(type=7)
        await client.task
        assert client.transport.closed is CloseReason.APPLICATION_ERROR
        assert log == ["connected", None]
        assert list(served.endpoint.lifetime.connections()) == []
    assert "LookupError: no way" in caplog.text


@pytest.mark.row("B71", "B126")
@pytest.mark.parametrize("detailed", [False, True])
async def test_a_protocol_error(detailed: bool) -> None:
    """A malformed message closes the connection, what came before it is answered; the client may reconnect."""
    async with serving(options=HubOptions(enable_detailed_errors=detailed)) as (served, log):
        client = served.connect()
        await settle()
        client.connection.data_received(
            b'{"type":1,"invocationId":"1","target":"Echo","arguments":["x"]}\x1e{"type":1,"arguments":[]}\x1e' + PING
        )
        await client.task
        answer, close = client.messages[-2:]
        assert answer["result"] == "x"
        text = "Connection closed with an error."
        if detailed:
            text += " InvalidDataException: Missing required property 'target'."
        assert close == {"type": 7, "error": text, "allowReconnect": True}
        assert [str(entry) for entry in log] == ["connected", "x", "Missing required property 'target'."]


@pytest.mark.row("B75", "B76")
async def test_an_oversize_message() -> None:
    """A message over the size limit closes the connection and names the limit with detailed errors."""
    options = HubOptions(maximum_receive_message_size=100, enable_detailed_errors=True)
    async with serving(options=options) as (served, _):
        client = served.connect()
        await settle()
        client.send(type=1, target="Echo", arguments=["x" * 100])
        await client.task
        assert client.messages[-1]["error"] == (
            "Connection closed with an error. InvalidDataException: The maximum message size of 100B was exceeded. "
            "The message size can be configured in AddHubOptions."
        )


@pytest.mark.row("B126", "B128")
async def test_abort_from_a_method() -> None:
    """After abort the method goes on, its completion is dropped, and the client gets a Close without reconnect."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        client.send(type=1, invocationId="1", target="Leave", arguments=[])
        await client.task
        await settle()
        assert client.messages[-1] == {"type": 7}
        assert all(message.get("type") != 3 for message in client.messages)
        assert sorted(map(str, log)) == ["None", "connected", "left"]


@pytest.mark.row("B137")
async def test_sends_while_disconnecting() -> None:
    """What on_disconnected sends reaches the others, not the client that leaves."""
    async with serving() as (served, _):
        stays, leaves = served.connect(), served.connect()
        await settle()
        leaves.send(type=7)
        await leaves.task
        await settle()
        assert stays.messages[-1] == {"type": 1, "target": "left", "arguments": []}
        assert [message.get("type") for message in leaves.messages] == [None, 1, 7]


@pytest.mark.row("B126", "B129")
async def test_shutdown() -> None:
    """At shutdown every client gets a Close with permission to reconnect, and its callback runs."""
    async with serving() as (served, log):
        clients = [served.connect(), served.connect()]
        await settle()
    for client in clients:
        assert client.messages[-1] == {"type": 7, "allowReconnect": True}
        assert client.transport.closed is CloseReason.NORMAL
        assert client.task.done()
    assert log == ["connected", "connected", None, None]


async def test_shutdown_has_a_deadline(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that does not end in time is cut, and the shutdown goes on."""
    gate = asyncio.Event()
    hub_type = type("StuckHub", (LifeHub,), {"log": [], "gate": gate})
    runtime = HubRuntime(protocols=(JsonHubProtocol(),), cork=Cork(), clock=FakeClock(), ids=SeededIds())
    endpoint = HubEndpoint(
        hub_type,
        "StuckHub",
        lifetime=LocalHubLifetimeManager(protocols=runtime.protocols, ids=runtime.ids),
        settings=HubSettings(options=HubOptions(), transport_options=TransportOptions()),
        runtime=runtime,
    )
    with caplog.at_level(logging.WARNING):
        async with endpoint.run(grace=0.01):
            client = Served(endpoint, FakeClock()).connect()
            await settle()
    assert client.transport.aborted
    assert "1 connections of hub StuckHub did not end" in caplog.text
    gate.set()
    await client.task


@pytest.mark.row("X12", "B132")
async def test_a_reader_that_stops_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A client that does not read is dropped at its own limit; the others get everything."""
    async with serving(transport_options=TransportOptions(outbound_buffer_limit=1000)) as (served, log):
        slow, other = served.connect(), served.connect()
        await settle()
        slow.connection.pause_writing()
        for number in range(40):
            await served.endpoint.context.clients.all.send("news", number)
            await settle()
        await slow.task
        assert slow.transport.aborted
        assert [message["arguments"] for message in other.messages if message.get("target") == "news"] == [
            [number] for number in range(40)
        ]
        assert log == ["connected", "connected", None]
    assert "does not read" in caplog.text


async def test_unread_bytes_stop_the_reading() -> None:
    """A client that sends faster than its calls run is not read until they have been taken."""
    gate = asyncio.Event()
    async with serving(transport_options=TransportOptions(application_max_buffer_size=500)) as (served, _):
        client = served.connect()
        await settle()
        served.endpoint.hub_type.gate = gate  # type: ignore[attr-defined]
        client.send(type=1, target="Wait", arguments=[])
        for _ in range(10):
            client.send(type=1, target="Echo", arguments=["x" * 50])
        assert not client.transport.reading
        gate.set()
        await settle()
        assert client.transport.reading


# -- users and protocols --------------------------------------------------------------------------------------------


class User:
    """A user as Starlette or Django puts it into the scope."""

    def __init__(self, **attributes: object) -> None:
        self.__dict__.update(attributes)


class NoIdentity:
    """A user whose framework leaves `identity` to its subclasses."""

    is_authenticated = True
    display_name = "ann"

    @property
    def identity(self) -> str:
        raise NotImplementedError


@pytest.mark.row("B140")
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (None, None),
        ({"sub": "ann"}, "ann"),
        ({"name": "ann"}, None),
        (User(is_authenticated=True, identity="ann"), "ann"),
        (User(is_authenticated=True, username="ann"), "ann"),
        (User(is_authenticated=True, email="a@b", get_username=lambda: "a@b"), "a@b"),
        (User(is_authenticated=True, username="", get_username=lambda: ""), None),
        (User(is_authenticated=False, username=""), None),
        (NoIdentity(), "ann"),
        (object(), None),
    ],
)
async def test_the_default_user_id(user: object, expected: str | None) -> None:
    """The user's id comes from the scope's user, whichever framework put it there; nobody is None."""
    async with serving() as (served, _):
        assert default_user_id(served.connect(user=user).connection) == expected


def test_protocols_of_a_hub() -> None:
    """A hub speaks the registered protocols in their order, or those of its option, in any case."""
    protocols = (JsonHubProtocol(), MessagePackHubProtocol())
    assert list(select_protocols(protocols, HubOptions())) == ["json", "messagepack"]
    assert list(select_protocols(protocols, HubOptions(supported_protocols=("MessagePack",)))) == ["messagepack"]
    with pytest.raises(ConfigurationError, match="smoke"):
        select_protocols(protocols, HubOptions(supported_protocols=("smoke",)))


async def test_a_failing_heartbeat_is_contained(caplog: pytest.LogCaptureFixture) -> None:
    """One callback that fails does not stop the others, nor the heartbeat."""
    beats: list[float] = []

    def broken(_now: float) -> None:
        raise LookupError("broken")

    clock = FakeClock()
    ticks: tuple[Callable[[float], object], ...] = (broken, beats.append)
    heartbeat = Heartbeat(clock, lambda: iter(()), ticks)
    await heartbeat.beat()
    await heartbeat.beat()
    assert len(beats) == 2
    assert caplog.text.count("LookupError: broken") == 2


# -- the last call of the inbox runs -----------------------------------------------------------------------------------


async def test_reading_goes_on_while_the_last_call_runs() -> None:
    """A call larger than the limit of unread bytes does not stop the reading while its method runs."""
    gate = asyncio.Event()
    options = TransportOptions(application_max_buffer_size=1_000)
    async with serving(transport_options=options, wait=_wait_at(gate)) as (served, _):
        client = served.connect()
        await settle()
        client.send(type=1, invocationId="1", target="wait", arguments=["x" * 2_000])
        assert not client.transport.reading
        await settle()
        assert client.transport.reading
        assert len(client.messages) == 2
        gate.set()
        await settle()
        assert client.messages[-1]["invocationId"] == "1"


async def test_a_fault_behind_the_last_call() -> None:
    """Bytes that break the protocol end the connection at once, though they came together with a call that waits."""
    gate = asyncio.Event()
    async with serving(wait=_wait_at(gate)) as (served, log):
        client = served.connect()
        await settle()
        client.connection.data_received(b'{"type":1,"invocationId":"1","target":"wait","arguments":["x"]}\x1e!\x1e')
        await settle()
        assert client.messages[-1]["type"] == 7
        assert len(log) == 2
        gate.set()


async def test_a_client_that_calls_and_is_gone() -> None:
    """A client that is lost in the same turn in which its call came is disconnected while the method still runs."""
    gate = asyncio.Event()
    async with serving(wait=_wait_at(gate)) as (served, log):
        client = served.connect()
        await settle()
        client.send(type=1, invocationId="1", target="wait", arguments=["x"])
        client.connection.transport_lost(None)
        await settle()
        assert log == ["connected", None]
        assert served.endpoint.connections() == ()
        gate.set()


async def test_a_client_that_shakes_hands_calls_and_is_gone() -> None:
    """What a client sent in one go, with its handshake and its end, is served."""
    async with serving() as (served, log):
        call = b'{"type":1,"target":"echo","arguments":["x"]}\x1e'
        client = served.connect(HANDSHAKE + call)
        client.connection.transport_lost(None)
        await settle()
        assert log == ["connected", "x", None]
        assert served.endpoint.connections() == ()


async def test_nothing_starts_on_an_aborted_connection() -> None:
    """When on_connected has aborted the connection, no call that waits in the inbox starts, streams included."""
    gate = asyncio.Event()

    async def count(self: LifeHub, items: AsyncIterator[int]) -> None:
        self.log.append("counting")

    async def on_connected(self: LifeHub) -> None:
        await gate.wait()
        self.context.abort()

    async def on_disconnected(self: LifeHub, error: Exception | None) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async with serving(count=count, on_connected=on_connected, on_disconnected=on_disconnected) as (served, log):
        client = served.connect(HANDSHAKE + b'{"type":1,"target":"count","arguments":[],"streamIds":["1"]}\x1e')
        await settle()
        gate.set()
        await settle()
        assert log == []
        assert client.messages[-1]["type"] == 7


async def test_goodbye_from_a_stuck_on_connected() -> None:
    """A client whose on_connected is cancelled by the server's end gets a Close message that lets it come back."""
    async with serving(gate=asyncio.Event()) as (served, log):
        client = served.connect()
        await settle()
        client.connection.shutting_down()
        await settle()
        assert client.messages == [{}]
        client.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await client.task
        assert client.messages == [{}, {"type": 7, "allowReconnect": True}]
        assert log == ["connected"]


async def test_context_variables_of_calls_at_the_same_time() -> None:
    """Calls that run at the same time do not see each other's context variables, but those of the request."""
    gate = asyncio.Event()
    variable: ContextVar[str] = ContextVar("variable")
    variable.set("request")

    async def remember(self: LifeHub, text: str) -> list[str]:
        before = variable.get()
        variable.set(text)
        await gate.wait()
        return [before, variable.get()]

    options = HubOptions(maximum_parallel_invocations_per_client=2)
    async with serving(options=options, remember=remember) as (served, _):
        client = served.connect()
        await settle()
        for text in ("1", "2"):
            client.send(type=1, invocationId=text, target="remember", arguments=[text])
        await settle()
        gate.set()
        await settle()
        results = {message["invocationId"]: message["result"] for message in client.messages if "result" in message}
        assert results == {"1": ["request", "1"], "2": ["request", "2"]}


async def test_arguments_given_twice() -> None:
    """Arguments given twice, and not in the same number, fail the call, however usual the rest of it is."""
    async with serving() as (served, log):
        client = served.connect()
        await settle()
        call = b'{"type":1,"invocationId":"1","target":"echo","arguments":["a","b"],"arguments":["x"]}\x1e'
        client.connection.data_received(call)
        await settle()
        assert client.messages[-1]["error"] == "Failed to invoke 'Echo' due to an error on the server."
        assert log == ["connected"]


def _wait_at(gate: asyncio.Event) -> Callable[[Hub, str], object]:
    async def wait(self: Hub, text: str) -> None:
        await gate.wait()

    return wait
