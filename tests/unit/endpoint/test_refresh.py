"""Facts about new logins: when the hub sees them, which count, and who is not fooled."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hubplane.auth.users import is_same_login
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.refreshed import PENDING_LOGINS
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import TransportKind
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.endpoint.refresh import AuthenticationRefreshContext, RefreshHook
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.telemetry.base import NO_TELEMETRY, Telemetry
from hubplane.telemetry.open_telemetry import OpenTelemetry
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport


class LoginHub(Hub):
    """Writes down whom it sees."""

    log: list[object]
    gate: asyncio.Event

    async def see(self) -> object:
        return self.context.user["role"]  # type: ignore[index]  # claims

    async def wait(self) -> object:
        await self.gate.wait()
        return await self.see()

    async def on_authentication_refreshed(self) -> None:
        self.log.append(await self.see())

    async def on_disconnected(self, error: Exception | None) -> None:
        self.log.append(f"left as {await self.see()}")


class SyncHub(LoginHub):
    """Its callback runs in a thread, and fails."""

    def on_authentication_refreshed(self) -> None:  # type: ignore[override]  # plain functions serve as well
        self.log.append("thread")
        raise LookupError("broken")


class AskingHub(LoginHub):
    """Asks its client while it hears of a new login."""

    async def on_authentication_refreshed(self) -> None:
        answer = await self.clients.client(self.context.connection_id).invoke("Ask", result=int)
        self.log.append(answer)


def claims(role: str, name: str = "ann", *, until: float | None = None) -> dict[str, object]:
    """A user."""
    return {"sub": name, "role": role} | ({} if until is None else {"exp": until})


def asked(user: object | None, query: bytes = b"id=token", method: str = "POST") -> ConnectionRequest:
    """A request with a login."""
    scope = {"type": "http", "method": method, "path": "/hub/refresh", "headers": [], "query_string": query}
    return ConnectionRequest(scope | ({} if user is None else {"user": user}))


class Answer:
    """An HTTP exchange that remembers."""

    def __init__(self, request: ConnectionRequest) -> None:
        self.request = request
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


class Served:
    """A hub with one connection of Ann's."""

    def __init__(
        self,
        hub_type: type[LoginHub] = LoginHub,
        hook: RefreshHook | None = None,
        telemetry: Telemetry = NO_TELEMETRY,
        **options: Any,
    ) -> None:
        hub_type.log = []
        hub_type.gate = asyncio.Event()
        self.hub_type = hub_type
        self.clock = FakeClock()
        runtime = HubRuntime(
            protocols=(JsonHubProtocol(),), cork=Cork(), clock=self.clock, ids=SeededIds(), telemetry=telemetry
        )
        self.endpoint = HubEndpoint(
            hub_type,
            "LoginHub",
            lifetime=LocalHubLifetimeManager(protocols=runtime.protocols, ids=runtime.ids),
            settings=HubSettings(
                options=HubOptions(**options),
                transport_options=TransportOptions(
                    enable_authentication_refresh=True, close_on_authentication_expiration=True
                ),
                on_authentication_refresh=hook,
            ),
            runtime=runtime,
        )
        self.transport = RecordingTransport()
        self.task: asyncio.Task[None] | None = None

    async def connect(self, *, shake: bool = True) -> HubConnection:
        """The connection, with its handshake unless not wanted."""
        entry = self.endpoint.registry.add("token", "c1")
        self.endpoint.registry.claim(entry, TransportKind.WEB_SOCKETS)
        opening = asked(claims("one", until=self.clock.wall() + 60))
        connection = entry.connection = self.endpoint.connect(opening, "c1")
        connection.attach(self.transport)
        self.task = asyncio.get_running_loop().create_task(self.endpoint.serve(connection))
        if shake:
            connection.data_received(b'{"protocol":"json","version":1}\x1e')
        await settle()
        return connection

    async def refresh(self, user: object | None) -> Answer:
        """Post to the refresh address."""
        answer = Answer(asked(user))
        await self.endpoint.router.http(answer, "refresh")  # type: ignore[arg-type]  # all that a refresh asks of one
        await settle()
        return answer

    def sent(self) -> list[Any]:
        """What the client got, without the handshake's answer."""
        return [json.loads(record) for record in self.transport.sent.split(b"\x1e")[1:-1]]


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


CALL = b'{"type":1,"invocationId":"%b","target":"%b","arguments":[]}\x1e'


async def test_a_running_call_keeps_its_login() -> None:
    """A call sees one login to its end; the hub hears of each new one in order, before further calls."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        connection.data_received(CALL % (b"1", b"wait") + CALL % (b"2", b"see"))
        await settle()
        for number, role in enumerate(("two", "three"), start=1):
            assert (await served.refresh(claims(role, until=served.clock.wall() + 60 + number))).status == 200
        assert LoginHub.log == []
        LoginHub.gate.set()
        await settle()
        assert [message["result"] for message in served.sent()] == ["one", "three"]
        assert LoginHub.log == ["two", "three"]
        assert connection.expires_at == served.clock.monotonic() + 62


async def test_parallel_calls_leave_room_for_the_news() -> None:
    """Where calls may run beside each other, so may the callback."""
    served = Served(maximum_parallel_invocations_per_client=2)
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        connection.data_received(CALL % (b"1", b"wait"))
        await settle()
        await served.refresh(claims("two"))
        assert LoginHub.log == ["two"]
        LoginHub.gate.set()


async def test_news_that_pile_up_are_limited() -> None:
    """Behind the limit the newest login takes the place of the one before it."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        connection.data_received(CALL % (b"1", b"wait"))
        await settle()
        for number in range(PENDING_LOGINS + 5):
            await served.refresh(claims(str(number), until=served.clock.wall() + 100 + number))
        LoginHub.gate.set()
        await settle()
    assert LoginHub.log[:-1] == [*map(str, range(PENDING_LOGINS - 1)), str(PENDING_LOGINS + 4)]


async def test_an_older_login_is_ignored() -> None:
    """A login that expires before the present one changes nothing, whoever brings it."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        older = claims("old", until=served.clock.wall() + 30)
        assert (await served.refresh(older)).body == b'{"tokenLifetimeSeconds":30}'
        for user in (older, None, claims("one", until=served.clock.wall() + 60)):
            assert await served.endpoint.refresh.reauthenticate(connection, asked(user))
        await settle()
        assert LoginHub.log == []
        assert connection.expires_at == served.clock.monotonic() + 60


async def test_a_login_for_ever() -> None:
    """A login without an end answers an empty object, and the connection ends by no login any more."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        assert (await served.refresh(claims("two"))).body == b"{}"
        assert connection.expires_at is None


async def test_somebody_else_leaves_nothing_behind() -> None:
    """A login of another user ends the connection, whose goodbye still sees the first one."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        assert (await served.refresh(claims("two", "bob"))).status == 200
        assert served.task is not None
        await served.task
        assert LoginHub.log == ["left as one"]
        assert served.sent() == [{"type": 7}]
        assert connection.user_identifier == "ann"
        assert (await served.refresh(claims("three"))).status == 200  # too late for anything


async def test_before_the_handshake_the_login_is_simply_the_newer_one() -> None:
    """Nobody has seen the first login yet; of a token that is nobody's, another user may still come."""
    served = Served()
    async with served.endpoint.run(grace=1):
        connection = await served.connect(shake=False)
        await served.refresh(claims("two", "bob"))
        connection.data_received(b'{"protocol":"json","version":1}\x1e' + CALL % (b"1", b"see"))
        await settle()
        assert connection.user_identifier == "bob"
        assert served.sent()[0]["result"] == "two"
        assert LoginHub.log == []


async def test_before_the_handshake_a_token_is_its_users() -> None:
    """A login of another user than the one who negotiated is refused, while there is no connection and with one."""
    served = Served()
    async with served.endpoint.run(grace=1):
        served.endpoint.registry.add("token", "c1", owner="ann")
        assert (await served.refresh(claims("two", "bob"))).status == 403
        connection = await served.connect(shake=False)
        served.endpoint.registry.get("token").owner = "ann"  # type: ignore[union-attr]  # it was just added
        refused = await served.refresh(claims("two", "bob"))
        assert (refused.status, refused.body) == (403, b'{"error":"permission_change_rejected"}')
        assert (await served.refresh(claims("two"))).status == 200
        connection.data_received(b'{"protocol":"json","version":1}\x1e' + CALL % (b"1", b"see"))
        await settle()
        assert connection.user_identifier == "ann"
        assert served.sent()[0]["result"] == "two"


async def test_a_callback_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An exception of the callback, which may be a plain function, is logged as a call's, and the connection stays."""
    served = Served(SyncHub)
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        await served.refresh(claims("two"))
        async with asyncio.timeout(10):
            while "LookupError" not in caplog.text:  # noqa: ASYNC110 - a thread of the hub's is on its way
                await asyncio.sleep(0.001)
        connection.data_received(CALL % (b"1", b"see"))
        await settle()
        assert served.sent()[0]["result"] == "two"
    assert SyncHub.log[0] == "thread"
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert vars(record)["event_id"] == 8
    assert "OnAuthenticationRefreshedAsync" in record.message


async def test_the_callback_has_a_span() -> None:
    """Its span is named as .NET names it, and stands alone."""
    exporter, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    served = Served(telemetry=OpenTelemetry(tracer_provider=tracers))
    async with served.endpoint.run(grace=1):
        await served.connect()
        await served.refresh(claims("two"))
        connected, refreshed = exporter.get_finished_spans()
    assert connected.name == "LoginHub/OnConnectedAsync"
    assert refreshed.name == "LoginHub/OnAuthenticationRefreshedAsync"
    assert refreshed.parent is None


async def test_a_callback_may_ask_its_client() -> None:
    """While the callback waits for its client, the client's calls and its answer are served."""
    served = Served(AskingHub)
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        await served.refresh(claims("two"))
        question = served.sent()[0]
        connection.data_received(CALL % (b"1", b"see"))
        await settle()
        assert served.sent()[1]["result"] == "two"
        answer = {"type": 3, "invocationId": question["invocationId"], "result": 7}
        connection.data_received(json.dumps(answer).encode() + b"\x1e")
        await settle()
        assert AskingHub.log == [7]


async def test_a_refusal_that_comes_too_late_ends_nothing() -> None:
    """While the application thinks about one login, a newer one is accepted: then the refusal of the first is void."""
    thinking = asyncio.Event()
    newest = 0.0

    async def hook(context: AuthenticationRefreshContext) -> bool:
        assert context.connection_id == "c1"
        if context.expires_at == newest:
            return True
        await thinking.wait()
        return False

    served = Served(hook=hook)
    newest = served.clock.wall() + 900
    async with served.endpoint.run(grace=1):
        connection = await served.connect()
        poll = asked(claims("guest", until=served.clock.wall() + 800))
        waiting = asyncio.ensure_future(served.endpoint.refresh.reauthenticate(connection, poll))
        await settle()
        assert (await served.refresh(claims("two", until=newest))).status == 200
        thinking.set()
        assert await waiting
        assert LoginHub.log == ["two"]
        poll = asked(claims("guest", until=served.clock.wall() + 950))
        assert not await served.endpoint.refresh.reauthenticate(connection, poll)
        assert connection.ended
        assert served.transport.aborted


@dataclass
class Named:
    """A user that knows equality."""

    name: str
    expires_at: float | None = None


class Plain:
    """A user as frameworks make them."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (claims("a"), claims("a"), True),
        (claims("a"), claims("b"), False),
        (claims("a", until=1), claims("a", until=2), False),
        (Named("a", 1), Named("a", 1), True),
        (Named("a", 1), Named("a", 2), False),
        (Named("a"), Named("b"), False),
        (Plain("a"), Plain("a"), True),
        (Plain("a"), Plain("b"), False),
        (Plain("a"), SimpleNamespace(name="a"), False),
        (object(), object(), False),
        (None, Plain("a"), False),
        (None, None, True),
    ],
)
def test_which_logins_are_the_same(one: object, other: object, *, same: bool) -> None:
    """Equal users with one expiry are one login, also where their class does not define equality."""
    assert is_same_login(one, other) is same
