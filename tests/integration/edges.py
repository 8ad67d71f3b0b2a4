"""Both edges under a real uvicorn, and a client made of bytes that can also break the rules."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any  # ASGI apps, uvicorn's settings and JSON

import uvicorn
import uvloop

from hubplane.server import HubWebSocketProtocol

__all__ = ["BINARY", "CLOSE", "EDGES", "PING", "PONG", "TEXT", "Edge", "RawWebSocket", "serving"]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
RS = b"\x1e"


@dataclass(frozen=True)
class Edge:
    """A way to run a hub under uvicorn.

    Attributes:
        name: For the test's id.
        ws: uvicorn's `ws` setting.
        loop_factory: Makes the server's event loop.
        fast: Whether hubs get the socket itself.
    """

    name: str
    ws: Any
    loop_factory: Callable[[], asyncio.AbstractEventLoop]
    fast: bool


EDGES = (
    Edge("asgi", "auto", asyncio.new_event_loop, fast=False),
    Edge("fast", HubWebSocketProtocol, asyncio.new_event_loop, fast=True),
    Edge("fast-uvloop", HubWebSocketProtocol, uvloop.new_event_loop, fast=True),
)


@contextmanager
def serving(app: Any, edge: Edge, **options: Any) -> Iterator[Server]:
    """Serve `app` on a port of 127.0.0.1 in a thread of its own, until the block ends."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=512)
    config = uvicorn.Config(app, ws=edge.ws, log_config=None, **options)
    server = uvicorn.Server(config)

    def run() -> None:
        with asyncio.Runner(loop_factory=edge.loop_factory) as runner:
            runner.run(server.serve(sockets=[listening]))

    thread = threading.Thread(target=run, name=f"uvicorn {edge.name}")
    thread.start()
    try:
        yield Server(listening.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join()


class Server:
    """A running server.

    Attributes:
        port: Where it listens.
        connections: What it serves at present.
    """

    def __init__(self, port: int, server: uvicorn.Server) -> None:
        self.port = port
        self._server = server

    @property
    def url(self) -> str:
        """Of its root."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Begin the shutdown, as a signal would."""
        self._server.should_exit = True


class RawWebSocket:
    """A client that sends frames as it likes.

    Attributes:
        status: The status of the answer to the upgrade request.
        headers: Its headers, names in lower case.
        body: Its body, when it was rejected.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._records = b""

    @classmethod
    @asynccontextmanager
    async def opened(cls, port: int, target: str, *fields: str) -> AsyncIterator[RawWebSocket]:
        """Send an upgrade request and read its answer; leaving drops the socket.

        Args:
            port: Of the server.
            target: Path and query.
            fields: Further header lines.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = cls(reader, writer)
        try:
            await client._upgrade(target, fields)
            yield client
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _upgrade(self, target: str, fields: tuple[str, ...]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {target} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *fields,
        )
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        async with asyncio.timeout(10):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *rest = head.split("\r\n")
            self.status = int(first.split(" ")[1])
            self.headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest if line)
            }
            if self.status != 101:
                self.body = await self.reader.readexactly(int(self.headers.get("content-length", "0")))

    # -- frames -------------------------------------------------------------------------------------------------

    @staticmethod
    def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        """One frame, masked."""
        length = len(payload)
        head = bytes((fin << 7 | opcode,))
        if length < 126:
            head += bytes((0x80 | length,))
        elif length < 65_536:
            head += b"\xfe" + length.to_bytes(2)
        else:
            head += b"\xff" + length.to_bytes(8)
        mask = os.urandom(4)
        repeated = (mask * (length // 4 + 1))[:length]
        return head + mask + (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(length)

    def write_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send one frame."""
        self.writer.write(self.frame(opcode, payload, fin=fin))

    async def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next message or control frame.

        Raises:
            EOFError: The server has closed the socket.
            ConnectionError: The server has reset it.
        """
        async with asyncio.timeout(10):
            opcode, payload = 0, b""
            while True:
                first, second = await self.reader.readexactly(2)
                assert first & 0x70 == 0, "a reserved bit is set"
                assert second < 0x80, "a server's frame is masked"
                length = second
                if length == 126:
                    length = int.from_bytes(await self.reader.readexactly(2))
                elif length == 127:
                    length = int.from_bytes(await self.reader.readexactly(8))
                payload += await self.reader.readexactly(length)
                opcode = opcode or first & 0x0F
                if first & 0x80:
                    return opcode, payload

    async def read_close(self) -> int:
        """The code of the Close frame, which is the next frame; 1005 for none."""
        opcode, payload = await self.read_frame()
        assert opcode == CLOSE, (opcode, payload)
        return int.from_bytes(payload[:2]) if payload else 1005

    async def read_end(self) -> None:
        """Wait until the server has ended the socket, and expect nothing more before that."""
        async with asyncio.timeout(10):
            assert await self.reader.read(1) == b""

    async def read_all(self) -> None:
        """Pass over everything until the server has ended or reset the socket."""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                await self.reader.read()

    async def close(self) -> int:
        """Send Close 1000, pass over what is still under way, and return the code of the answer."""
        self.write_frame(CLOSE, (1000).to_bytes(2))
        while True:
            opcode, payload = await self.read_frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2]) if payload else 1005

    def reset(self) -> None:
        """Drop the socket as a crashed machine would: no Close frame, a TCP reset."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.writer.transport.abort()

    # -- JSON messages ------------------------------------------------------------------------------------------

    def write_json(self, *messages: dict[str, Any]) -> None:
        """Send messages of the JSON hub protocol in one text frame."""
        self.write_frame(TEXT, b"".join(json.dumps(message).encode() + RS for message in messages))

    async def read_json(self) -> Any:
        """The next message of the JSON hub protocol, from a text frame."""
        while RS not in self._records:
            opcode, payload = await self.read_frame()
            assert opcode == TEXT, (opcode, payload)
            assert payload.endswith(RS), "a hub message is cut"
            self._records += payload
        record, _, self._records = self._records.partition(RS)
        return json.loads(record)

    async def shake_hands(self) -> None:
        """The handshake of the JSON hub protocol."""
        self.write_json({"protocol": "json", "version": 1})
        assert await self.read_json() == {}

    async def invoke(self, target: str, *arguments: object) -> Any:
        """Call a method and return its completion, which is the next message."""
        self.write_json({"type": 1, "invocationId": "1", "target": target, "arguments": arguments})
        return await self.read_json()
