"""What writing to connections costs in processor time: a broadcast to a thousand, and messages to one.

Run it with ``python benchmarks/write_micro.py``. The transports take everything and do nothing, so what is left is
hubplane's own part per recipient or message. Each figure is the best of many short rounds, in microseconds; the bytes
are what one more connection, without its socket and request, keeps in memory.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from collections.abc import Callable, Sequence

from hubplane.clock import SystemClock
from hubplane.connection.hub_connection import HubConnection
from hubplane.connection.outbound import Cork
from hubplane.connection.request import ConnectionRequest
from hubplane.connection.stateful import StatefulConnection
from hubplane.connection.transport import CloseReason, OutboundBatch, TransportKind
from hubplane.options import HubOptions, TransportOptions
from hubplane.protocol.hub_protocol import TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Invocation
from hubplane.protocol.replay import StatefulSession
from hubplane.protocol.serialized import SerializedHubMessage
from hubplane.protocol.session import HubSession

ROUNDS = 60
RECIPIENTS = 1_000
MESSAGES = 1_000
PROTOCOL = JsonHubProtocol()


class Nowhere:
    """A transport that takes everything."""

    __slots__ = ()

    kind = TransportKind.WEB_SOCKETS
    torn = False

    def set_binary(self, binary: bool) -> None:  # noqa: FBT001 - as in the interface
        """Nothing."""

    def send(self, batch: OutboundBatch) -> None:
        """Nothing."""

    def pause_reading(self) -> None:
        """Nothing."""

    def resume_reading(self) -> None:
        """Nothing."""

    def close(self, reason: CloseReason) -> None:
        """Nothing."""

    def abort(self) -> None:
        """Nothing."""


REQUEST = ConnectionRequest({"type": "websocket", "path": "/hub", "headers": [], "query_string": b""})
FORMATS = (TransferFormat.TEXT, TransferFormat.BINARY)


def connect(cork: Cork) -> HubConnection:
    """A connection behind its handshake."""
    session = HubSession({"json": PROTOCOL}, HubOptions(), now=0.0, transfer_formats=FORMATS)
    connection = HubConnection("id", request=REQUEST, session=session, cork=cork, options=TransportOptions())
    connection.attach(Nowhere())
    return shake_hands(connection)


def connect_stateful(cork: Cork) -> StatefulConnection:
    """The same with stateful reconnect."""
    connection = StatefulConnection(
        "id",
        request=REQUEST,
        session=StatefulSession({"json": PROTOCOL}, HubOptions(), now=0.0, transfer_formats=FORMATS),
        cork=cork,
        options=TransportOptions(),
        hub_options=HubOptions(),
        clock=SystemClock(),
    )
    connection.take(Nowhere())
    shake_hands(connection)
    return connection


def shake_hands(connection: HubConnection) -> HubConnection:
    """The handshake."""
    connection.data_received(b'{"protocol":"json","version":2}\x1e')
    connection.inbox.clear()
    connection.handshake_done()
    return connection


async def broadcast(connections: Sequence[HubConnection]) -> float:
    """Microseconds for each recipient of a message, writing and flushing; what stateful ones keep is acknowledged."""
    message = SerializedHubMessage.of(Invocation("ReceiveMessage", ["user", "text"]), [PROTOCOL])
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for connection in connections:
            connection.write_serialized(message)
        for _ in range(RECIPIENTS // 32):  # a flush goes in slices, one a turn
            await asyncio.sleep(0)
        for connection in connections:
            if isinstance(connection, StatefulConnection):
                connection.session.log.acknowledge(connection.session.log.last)
        best = min(best, time.process_time() - begun)
    return best / len(connections) * 1e6


async def direct(connection: HubConnection) -> float:
    """Microseconds for each message to one connection."""
    payload = PROTOCOL.encode(Invocation("ReceiveMessage", ["user", "text"]))
    best = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(MESSAGES):
            connection.write(payload)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        best = min(best, time.process_time() - begun)
    return best / MESSAGES * 1e6


def memory(make: Callable[[Cork], HubConnection]) -> float:
    """Bytes of one more connection."""
    cork = Cork()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    kept = [make(cork) for _ in range(RECIPIENTS)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(kept)


async def main() -> None:
    """Print all figures."""
    cork = Cork()
    for name, make in (("plain", connect), ("stateful", connect_stateful)):
        connections = [make(cork) for _ in range(RECIPIENTS)]
        print(f"{name}: broadcast {await broadcast(connections):.3f} for each recipient", end=", ")
        if make is connect:
            print(f"message to one connection {await direct(connections[0]):.3f}", end=", ")
        print(f"{memory(make):.0f} bytes")


if __name__ == "__main__":
    asyncio.run(main())
