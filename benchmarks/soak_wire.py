"""The wire as the soak's clients see it, written for it alone, so that the library does not judge itself.

Codecs of both hub protocols, a WebSocket and an HTTP/1.1 connection on `asyncio.Protocol`, and the faults of a socket.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import httptools
import msgspec

__all__ = ["CODECS", "HttpLine", "JsonCodec", "MessagePackCodec", "WebSocketLine"]

SEPARATOR = b"\x1e"
INVOCATION, ITEM, COMPLETION, STREAM, CANCEL, PING, CLOSE, ACK, SEQUENCE = range(1, 10)


class JsonCodec:
    """The JSON hub protocol."""

    name = "json"
    is_text = True

    @staticmethod
    def encode(message: dict[str, Any]) -> bytes:
        """One framed message."""
        return json.dumps(message, separators=(",", ":")).encode() + SEPARATOR

    @staticmethod
    def split(data: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """Whole messages, and what is left."""
        *bodies, rest = data.split(SEPARATOR)
        return [msgspec.json.decode(body) for body in bodies], rest


class MessagePackCodec:
    """The MessagePack hub protocol, with the members of the JSON one."""

    name = "messagepack"
    is_text = False

    @staticmethod
    def encode(message: dict[str, Any]) -> bytes:
        """One framed message."""
        kind, get = message["type"], message.get
        if kind in {INVOCATION, STREAM}:
            fields = [kind, {}, get("invocationId"), message["target"], message["arguments"], get("streamIds", [])]
        elif kind == ITEM:
            fields = [kind, {}, message["invocationId"], message["item"]]
        elif kind == COMPLETION:
            how = 1 if "error" in message else 3 if "result" in message else 2
            fields = [kind, {}, message["invocationId"], how]
            fields += [] if how == 2 else [message["error" if how == 1 else "result"]]
        elif kind == CANCEL:
            fields = [kind, {}, message["invocationId"]]
        else:
            fields = [kind, *([message["sequenceId"]] if kind in {ACK, SEQUENCE} else [])]
        body = msgspec.msgpack.encode(fields)
        size, head = len(body), b""
        while size > 127:
            head += bytes([size & 127 | 128])
            size >>= 7
        return head + bytes([size]) + body

    @classmethod
    def split(cls, data: bytes) -> tuple[list[dict[str, Any]], bytes]:
        """Whole messages, and what is left."""
        messages, at = [], 0
        while at < len(data):
            size = shift = 0
            begin = at
            while begin < len(data):
                byte = data[begin]
                begin += 1
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            else:
                break
            if begin + size > len(data):
                break
            messages.append(cls._named(msgspec.msgpack.decode(data[begin : begin + size])))
            at = begin + size
        return messages, data[at:]

    @staticmethod
    def _named(fields: list[Any]) -> dict[str, Any]:
        kind = fields[0]
        if kind == INVOCATION:
            return {"type": kind, "invocationId": fields[2], "target": fields[3], "arguments": fields[4]}
        if kind == ITEM:
            return {"type": kind, "invocationId": fields[2], "item": fields[3]}
        if kind == COMPLETION:
            member = {1: "error", 3: "result"}.get(fields[3])
            return {"type": kind, "invocationId": fields[2], **({member: fields[4]} if member else {})}
        if kind == CLOSE:
            return {"type": kind, "error": fields[1], "allowReconnect": len(fields) > 2 and fields[2]}
        return {"type": kind, **({"sequenceId": fields[1]} if kind in {ACK, SEQUENCE} else {})}


CODECS = {"json": JsonCodec, "messagepack": MessagePackCodec}


class Line(asyncio.Protocol):
    """One socket, with its faults."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self.on_data = on_data
        self.on_end = on_end
        self.transport: asyncio.Transport | None = None
        self.ended = False

    @classmethod
    async def opened(cls, port: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> Any:
        """Connect; with little room for what is not read, so that a client that stops reading is soon noticed."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.sock_connect(sock, ("127.0.0.1", port)), 5)
            _, line = await loop.create_connection(lambda: cls(on_data, on_end), sock=sock)
        except BaseException:
            sock.close()
            raise
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self.transport = transport  # type: ignore[assignment]  # what create_connection makes

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if not self.ended:
            self.ended = True
            self.on_end()

    def write(self, data: bytes) -> None:
        """Send bytes, if it is there."""
        if self.transport is not None and not self.ended:
            self.transport.write(data)

    def stall(self) -> None:
        """Stop reading."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read again."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def cut(self, how: str) -> None:
        """End it as networks do: ``reset``, ``end`` (a FIN and nothing else), or ``blackhole``.

        A black hole keeps the socket open, unread and silent, until somebody calls `close`.
        """
        transport = self.transport
        self.ended = True
        self.on_data = lambda _: None
        if transport is None or transport.is_closing():
            return
        if how == "blackhole":
            transport.pause_reading()
        elif how == "reset":
            sock = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
        else:
            transport.close()

    def close(self) -> None:
        """Free what a black hole keeps."""
        if self.transport is not None:
            self.transport.abort()


class WebSocketLine(Line):
    """A WebSocket; its messages' payloads go to `on_data`, without their borders."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        super().__init__(on_data, on_end)
        self._buffer = b""
        self._upgraded: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.close_code: int | None = None

    async def upgrade(self, path: str) -> int:
        """Ask for the upgrade; the answer's status, 0 when there was none."""
        self.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        try:
            return await asyncio.wait_for(asyncio.shield(self._upgraded), 10)
        except TimeoutError:
            return 0

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if not self._upgraded.done():
            self._upgraded.set_result(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer, then frames."""
        buffer = self._buffer + data
        if not self._upgraded.done():
            head, found, buffer = buffer.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            self._upgraded.set_result(int(head.split(b" ", 2)[1]))
        at, end = 0, len(buffer)
        while end - at >= 2:
            size, start = buffer[at + 1], at + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                if start > end:
                    break
                size = int.from_bytes(buffer[at + 2 : start])
            if start + size > end:
                break
            payload, opcode = buffer[start : start + size], buffer[at] & 15
            at = start + size
            if opcode == 8:
                self.close_code = int.from_bytes(payload[:2]) if payload else 1005
                self.frame(payload[:2], 8)
            elif opcode == 9:
                self.frame(payload, 10)
            elif opcode < 3:
                self.on_data(payload)
        self._buffer = buffer[at:]

    def frame(self, payload: bytes, opcode: int) -> None:
        """Send one frame, masked with zeros."""
        size = len(payload)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65_536:
            head += b"\xfe" + size.to_bytes(2)
        else:
            head += b"\xff" + size.to_bytes(8)
        self.write(head + bytes(4) + payload)


class HttpLine(Line):
    """HTTP/1.1, one request after the other; the bodies go to `on_data` as they come."""

    def __init__(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        super().__init__(on_data, on_end)
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None
        self._status = 0

    async def request(self, method: str, path: str, body: bytes = b"", accept: str = "*/*") -> int:
        """One request; the status once the answer is complete, 0 when it never is."""
        if self.ended:
            return 0
        answer = self._answer = asyncio.get_running_loop().create_future()
        self._status = 0
        self._parser = httptools.HttpResponseParser(self)
        self.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {accept}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        return int(await answer)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        """The status is known."""
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        """A piece of a body; those of refusals are sentences."""
        if self._status == 200:
            self.on_data(data)

    def on_message_complete(self) -> None:
        """The answer is complete."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._status)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._give_up()
        super().connection_lost(exc)

    def cut(self, how: str) -> None:
        """As for every line; whoever waits for an answer gets none."""
        super().cut(how)
        self._give_up()

    def _give_up(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(0)
