"""Facts about ends that are rare: no place in the table, a broken tick, hub code that outlives its connection."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any  # settings by name

import pytest

from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.transport import CloseReason
from hubplane.endpoint.endpoint import HubEndpoint, HubRuntime, HubSettings
from hubplane.endpoint.heartbeat import SLICE, Heartbeat
from hubplane.hubs.hub import Hub
from hubplane.lifetime.local import LocalHubLifetimeManager
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordingTransport


class SlowHub(Hub):
    """Says goodbye when it is let go."""

    gate: asyncio.Event

    async def nothing(self) -> None:
        """Leaves a worker behind that waits for the next call."""

    async def on_disconnected(self, error: Exception | None) -> None:
        await self.gate.wait()


class FullTable(LocalHubLifetimeManager):
    """Takes nobody in."""

    async def on_connected(self, connection: HubConnection) -> None:
        raise MemoryError("no place")


def make(
    lifetime: type[LocalHubLifetimeManager] = LocalHubLifetimeManager, *, detailed: bool = False, **settings: Any
) -> HubEndpoint:
    """An endpoint of SlowHub."""
    runtime = HubRuntime(protocols=(JsonHubProtocol(),), cork=Cork(), clock=FakeClock(), ids=SeededIds())
    SlowHub.gate = asyncio.Event()
    return HubEndpoint(
        SlowHub,
        "SlowHub",
        lifetime=lifetime(protocols=runtime.protocols, ids=runtime.ids),
        settings=HubSettings(
            options=HubOptions(enable_detailed_errors=detailed), transport_options=TransportOptions(), **settings
        ),
        runtime=runtime,
    )


def connect(endpoint: HubEndpoint) -> tuple[HubConnection, RecordingTransport, asyncio.Task[None]]:
    """A client that has shaken hands."""
    request = ConnectionRequest({"type": "websocket", "path": "/slow", "headers": [], "query_string": b""})
    connection = endpoint.connect(request, "c1")
    transport = RecordingTransport()
    connection.attach(transport)
    connection.data_received(b'{"protocol":"json","version":1}\x1e')
    return connection, transport, asyncio.get_running_loop().create_task(endpoint.serve(connection))


async def settle() -> None:
    """Let everything that can happen now happen."""
    for _ in range(30):
        await asyncio.sleep(0)


async def test_no_place_in_the_table(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that cannot be registered is closed as an application error, without a Close message, and logged."""
    endpoint = make(FullTable)
    async with endpoint.run(grace=1):
        connection, transport, task = connect(endpoint)
        await task
        assert transport.sent == b"{}\x1e"
        assert transport.closed is CloseReason.APPLICATION_ERROR
        assert isinstance(connection.error, MemoryError)
        assert endpoint.connections() == ()
    assert "Error when processing requests." in caplog.text
    assert "MemoryError: no place" in caplog.text


@pytest.mark.parametrize("detailed", [True, False])
async def test_nobody_knows_whose_it_is(detailed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A user id provider that fails is logged; the client reads that its handshake failed, and more only if allowed."""

    def broken(connection: HubConnection) -> str | None:
        raise LookupError("no such user")

    endpoint = make(detailed=detailed, user_id=broken)
    async with endpoint.run(grace=1):
        connection, transport, task = connect(endpoint)
        await task
        details = " LookupError: no such user" if detailed else ""
        answer = {"error": f"An unexpected error occurred during connection handshake.{details}"}
        assert transport.sent == json.dumps(answer, separators=(",", ":")).encode() + b"\x1e"
        assert transport.closed is CloseReason.NORMAL
        assert connection.ended
        assert endpoint.connections() == ()
    assert "LookupError: no such user" in caplog.text


async def test_a_goodbye_that_outlives_the_shutdown(caplog: pytest.LogCaptureFixture) -> None:
    """A disconnect callback that is longer than the grace cuts its client off, and may end after all else did."""
    endpoint = make()
    with caplog.at_level(logging.WARNING):
        async with endpoint.run(grace=0.01):
            connection, transport, task = connect(endpoint)
            connection.data_received(json.dumps({"type": 1, "target": "Nothing", "arguments": []}).encode() + b"\x1e")
            await settle()
    assert transport.aborted
    assert not task.done()
    assert "1 connections of hub SlowHub did not end within 0.01 s" in caplog.text
    SlowHub.gate.set()
    await task


class Tickling:
    """A connection to the heartbeat's eyes."""

    def __init__(self, connection_id: str, *, broken: bool = False) -> None:
        self.connection_id = connection_id
        self.broken = broken
        self.ticks: list[float] = []

    def tick(self, now: float) -> None:
        if self.broken:
            raise LookupError("broken")
        self.ticks.append(now)


async def test_a_heart_that_beats_for_many(caplog: pytest.LogCaptureFixture) -> None:
    """One beat reaches all connections, with a turn for the others after each slice; one that fails harms none."""
    clock = FakeClock()
    connections = [Tickling(f"c{number}", broken=number == 7) for number in range(SLICE + 2)]
    heartbeat = Heartbeat(clock, lambda: iter(connections))  # type: ignore[arg-type]  # all that a heartbeat asks of one
    beat = asyncio.get_running_loop().create_task(heartbeat.beat())
    await settle()
    assert [len(connection.ticks) for connection in connections[SLICE:]] == [0, 0]
    clock.advance(0)
    await beat
    assert [len(connection.ticks) for connection in connections if not connection.broken] == [1] * (SLICE + 1)
    assert "The heartbeat of connection c7 failed." in caplog.text
