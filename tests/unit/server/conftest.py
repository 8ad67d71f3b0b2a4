"""A socket and a listener that remember what was done to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from websockets.speedups import apply_mask

__all__ = ["Listener", "Socket", "client_frame", "listener", "socket"]

MASK = b"\xa1\xb2\xc3\xd4"


class Socket(asyncio.Transport):
    """An accepted socket of the event loop, without one.

    Attributes:
        written: Everything written so far.
        ended: ``closed``, ``aborted``, ``eof`` in order.
        reading: Whether data would be delivered.
        protocol: Who gets what happens.
        half_open: Whether the socket can end one direction, which TLS cannot.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended: list[str] = []
        self.reading = True
        self.protocol: asyncio.BaseProtocol | None = None
        self.half_open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended, "written after the end"
        self.written += data

    def take(self) -> bytes:
        """What was written since the last time."""
        written, self.written = self.written, b""
        return written

    def can_write_eof(self) -> bool:
        return self.half_open

    def write_eof(self) -> None:
        self.ended.append("eof")

    def close(self) -> None:
        self.ended.append("closed")

    def abort(self) -> None:
        self.ended.append("aborted")

    def is_closing(self) -> bool:
        return "closed" in self.ended or "aborted" in self.ended

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def get_extra_info(self, name: str, default: object = None) -> object:
        return {"peername": ("192.0.2.1", 4711), "sockname": ("192.0.2.2", 80)}.get(name, default)

    def get_write_buffer_size(self) -> int:
        return 0


class Listener:
    """A transport's listener.

    Attributes:
        data: What has arrived, call by call.
        calls: The other callbacks, in order.
        errors: What the transport was lost to.
        on_data: Called with each piece of data.
    """

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.calls: list[str] = []
        self.errors: list[Exception | None] = []
        self.on_data: Callable[[bytes], None] | None = None

    def data_received(self, data: bytes) -> None:
        self.data.append(data)
        if self.on_data is not None:
            self.on_data(data)

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")

    def shutting_down(self) -> None:
        self.calls.append("shutdown")

    def transport_lost(self, error: Exception | None) -> None:
        self.calls.append("lost")
        self.errors.append(error)


def masked_frame(opcode: int, payload: bytes = b"") -> bytes:
    """A frame below 126 bytes as a client sends it."""
    return bytes((0x80 | opcode, 0x80 | len(payload))) + MASK + apply_mask(payload, MASK)


@pytest.fixture
def socket() -> Socket:
    """A fresh socket."""
    return Socket()


@pytest.fixture
def listener() -> Listener:
    """A fresh listener."""
    return Listener()


@pytest.fixture
def client_frame() -> Callable[..., bytes]:
    """Makes a frame as a client sends it, from opcode and payload."""
    return masked_frame
