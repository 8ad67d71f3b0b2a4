"""Facts about a hub's gate: who gets in, and when a login's end ends a connection."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from hubplane.auth.users import Authenticator
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.endpoint.heartbeat import Heartbeat
from hubplane.hubs.authorization import AuthorizationContext, authorize
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport


class OpenHub(Hub):
    """For everybody."""


async def admins(context: AuthorizationContext) -> bool:
    """Admits root."""
    assert context.hub_type is AdminHub
    assert context.method_name is None
    return context.user == "root"


@authorize(admins)
class AdminHub(Hub):
    """For some."""


def made(
    hub_type: type[Hub] = OpenHub, *authenticators: Authenticator, **transport_options: Any
) -> tuple[HubEndpoint, FakeClock]:
    """An endpoint on a fake clock."""
    clock = FakeClock()
    runtime = HubRuntime(protocols=(JsonHubProtocol(),), cork=Cork(), clock=clock, ids=SeededIds())
    endpoint = HubEndpoint(
        hub_type,
        "GateHub",
        lifetime=LocalHubLifetimeManager(protocols=runtime.protocols, ids=runtime.ids),
        settings=HubSettings(
            options=HubOptions(),
            transport_options=TransportOptions(**transport_options),
            authenticators=authenticators,
        ),
        runtime=runtime,
    )
    return endpoint, clock


def asked(kind: str = "http", query: bytes = b"", **headers: Any) -> ConnectionRequest:
    """A request."""
    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    return ConnectionRequest({"type": kind, "path": "/hub", "headers": fields, "query_string": query})


def by_name(request: ConnectionRequest) -> object | None:
    """Who the header says it is."""
    return request.header("name")


@pytest.mark.row("B23")
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_guarded_hub_asks_for_each_request(kind: str) -> None:
    """Nobody gets 401, the wrong user 403, and the right one is let in with the user set."""
    endpoint, _ = made(AdminHub, by_name)
    assert await endpoint.gate.refusal(asked(kind)) == 401
    assert await endpoint.gate.refusal(asked(kind, name="ann")) == 403
    request = asked(kind, name="root")
    assert await endpoint.gate.refusal(request) is None
    assert request.user == "root"


async def test_an_open_hub_lets_everybody_in() -> None:
    """Without a mark a user is looked for, but nobody is turned away."""
    endpoint, _ = made(OpenHub, by_name)
    assert await endpoint.gate.refusal(asked()) is None


async def test_origins_are_checked_for_websockets_alone(caplog: pytest.LogCaptureFixture) -> None:
    """HTTP requests of other pages are the matter of CORS; a WebSocket with cookies is refused, and logged."""
    endpoint, _ = made()
    headers: Any = {"origin": "https://evil.example", "host": "chat.example", "cookie": "session=1"}
    assert await endpoint.gate.refusal(asked(**headers)) is None
    assert await endpoint.gate.refusal(asked("websocket", b"access_token=T", **headers)) == 403
    assert "https://evil.example" in caplog.text
    assert "access_token" not in caplog.text
    endpoint, _ = made(allowed_origins=("https://evil.example",))
    assert await endpoint.gate.refusal(asked("websocket", **headers)) is None


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.mark.row("B131")
async def test_a_connection_ends_with_its_login() -> None:
    """The heartbeat after the expiry closes the connection: permission to reconnect, and no error."""
    endpoint, clock = made(close_on_authentication_expiration=True)
    heartbeat = Heartbeat(clock, lambda: iter(endpoint.connections()))
    async with endpoint.run(grace=1):
        request = asked("websocket")
        request.authenticated_as(SimpleNamespace(expires_at=clock.wall() + 3))
        assert await endpoint.gate.refusal(request) is None
        connection = endpoint.connect(request, "c1")
        transport = RecordingTransport()
        connection.attach(transport)
        serving = asyncio.get_running_loop().create_task(endpoint.serve(connection))
        connection.data_received(b'{"protocol":"json","version":1}\x1e')
        for _ in range(2):
            await settle()
            clock.advance(1)
            await heartbeat.beat()
        await settle()
        assert not connection.ended
        clock.advance(1)
        await heartbeat.beat()
        await serving
        sent = [json.loads(record) for record in transport.sent.split(b"\x1e")[:-1]]
        assert sent == [{}, {"type": 7, "allowReconnect": True}]
        assert connection.error is None


@pytest.mark.row("B131")
async def test_the_login_of_the_latest_request_counts() -> None:
    """A later request of the same connection brings a new expiry; one without a login changes nothing."""
    endpoint, clock = made(OpenHub, by_name_until, close_on_authentication_expiration=True)
    first = asked(until=str(clock.wall() + 3))
    await endpoint.gate.refusal(first)
    connection = endpoint.connect(first, "c1")
    assert connection.expires_at == clock.monotonic() + 3
    for seconds in (60, 30):
        later = asked(until=str(clock.wall() + seconds))
        await endpoint.gate.refusal(later)
        endpoint.gate.renew(connection, later)
        assert connection.expires_at == clock.monotonic() + seconds
    nobody = asked()
    await endpoint.gate.refusal(nobody)
    endpoint.gate.renew(connection, nobody)
    assert connection.expires_at == clock.monotonic() + 30


def by_name_until(request: ConnectionRequest) -> object | None:
    """Claims with the expiry that the header names."""
    until = request.header("until")
    return None if until is None else {"sub": "ann", "exp": float(until)}


async def test_logins_are_not_watched_unless_asked() -> None:
    """By default a connection outlives its login, as in the original."""
    endpoint, clock = made(OpenHub, by_name_until)
    request = asked("websocket", until=str(clock.wall() + 1))
    await endpoint.gate.refusal(request)
    assert endpoint.connect(request, "c1").expires_at is None
