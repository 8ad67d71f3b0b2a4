"""What a WebSocket frame costs on the fast edge: our reader against picows, and against websockets' sans-I/O core.

Each candidate is driven as the event loop would: a chunk is copied out of a receive buffer and handed over, and the
payload must reach a listener's ``data_received`` with all of RFC 6455's rules for servers checked (masking, reserved
bits, order of fragments, UTF-8). Nothing is sent. Figures are microseconds of CPU per frame, the best of ten rounds.

    python benchmarks/frame_reader.py [--seconds 1.0] [--json]

picows is not a dependency of hubplane; ``pip install picows`` adds its column.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast  # the candidates' libraries are only partly typed

from websockets.frames import Opcode
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from hubplane.connection.transport import Transport
from hubplane.server.websocket import FastWebSocket

try:
    import picows
    from picows.picows import WSProtocol  # type: ignore[attr-defined]  # its stub leaves it out
except ImportError:
    picows = None  # type: ignore[assignment]

Feed = Callable[[memoryview], None]

HEAD = (
    b"GET /hub?id=x HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Listener:
    """Counts what it gets."""

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received = 0

    def data_received(self, data: bytes) -> None:
        """Payload arrived."""
        self.received += len(data)

    def pause_writing(self) -> None:
        """Not used."""

    def resume_writing(self) -> None:
        """Not used."""

    def shutting_down(self) -> None:
        """Not used."""

    def transport_lost(self, error: Exception | None) -> None:
        """Not used."""


class Socket(asyncio.Transport):
    """An accepted socket that swallows everything."""

    def write(self, data: object) -> None:
        """Swallow."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def get_extra_info(self, name: str, default: object = None) -> object:
        """What picows asks for."""
        return self if name == "socket" else ("127.0.0.1", 1)

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Not asked."""
        raise NotImplementedError

    def setsockopt(self, *_: object) -> None:
        """As a socket."""

    def getsockopt(self, *_: object) -> int:
        """As a socket."""
        return 0

    def fileno(self) -> int:
        """As a socket."""
        return 0


def masked(payload: bytes, opcode: int) -> bytes:
    """A frame as a client sends it."""
    mask = os.urandom(4)
    length = len(payload)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65_536:
        head = bytes((0x80 | opcode, 0xFE)) + length.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0xFF)) + length.to_bytes(8)
    return head + mask + apply_mask(payload, mask)


def own(listener: Listener) -> Feed:
    """Our protocol class."""
    connections: set[Any] = set()
    socket = FastWebSocket(Socket(), cast("Callable[[Transport], Any]", lambda _: listener), connections)

    def feed(chunk: memoryview) -> None:
        socket.data_received(bytes(chunk))

    return feed


def library(listener: Listener) -> Feed:
    """The sans-I/O core of websockets, as uvicorn drives it."""
    core = ServerProtocol(max_size=None)
    core.receive_data(HEAD)
    for request in core.events_received():
        core.send_response(core.accept(cast("Any", request)))
    core.data_to_send()

    def feed(chunk: memoryview) -> None:
        core.receive_data(bytes(chunk))
        for event in core.events_received():
            frame = cast("Any", event)
            if frame.opcode is Opcode.TEXT:
                str(frame.data, "utf-8")
            listener.data_received(frame.data)

    return feed


def with_picows(listener: Listener, buffer: int = 16_384) -> Feed:
    """The protocol of picows on a transport that somebody else accepted; what it does not check is checked here."""
    msg_type = picows.WSMsgType
    ping = picows.WSAutoPingStrategy.PING_WHEN_IDLE
    text, binary, continuation = msg_type.TEXT, msg_type.BINARY, msg_type.CONTINUATION

    class Adapter(picows.WSListener):
        def __init__(self) -> None:
            self.parts: list[bytes] = []
            self.open = False

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            kind = frame.msg_type
            if frame.rsv1 or frame.rsv2 or frame.rsv3:
                transport.send_close(1002)
                return
            if (kind == text or kind == binary) and frame.fin and not self.open:  # noqa: PLR1714, SIM109 - faster
                payload = frame.get_payload_as_bytes()
                if kind == text and not payload.isascii():
                    payload.decode()
                self.parts.append(payload)
            elif kind == continuation:
                raise NotImplementedError
            if frame.last_in_buffer:
                parts, self.parts = self.parts, []
                listener.data_received(parts[0] if len(parts) == 1 else b"".join(parts))

    # Its arguments are positional: no path, server side, and neither handshake timeout nor pings of its own.
    server = (None, None, False, lambda _: Adapter(), _logger(), True, None, False, 20, 20, ping, True, 1 << 30, None)
    protocol = WSProtocol(*server, buffer)
    protocol.connection_made(Socket())

    def feed(chunk: memoryview) -> None:
        at, end = 0, len(chunk)
        while at < end:
            room = protocol.get_buffer(65_536)
            take = min(len(room), end - at)
            room[:take] = chunk[at : at + take]
            protocol.buffer_updated(take)
            at += take

    feed(memoryview(HEAD))
    return feed


def _logger() -> Any:
    import logging  # noqa: PLC0415 - picows makes a child logger for each connection

    return logging.getLogger("picows.benchmark")


def cases() -> Iterator[tuple[str, bytes, int]]:
    """Name, chunk, frames in it."""
    call = b'{"type":1,"invocationId":"42","target":"Echo","arguments":["0123456789abcdef0123456789abcdef"]}\x1e'
    packed = os.urandom(60)
    accented = '{"type":1,"target":"Say","arguments":["caf\u00e9 \u2615"]}\x1e'.encode()
    yield "1 x 97 B text", masked(call, 1), 1
    yield "16 x 97 B text", b"".join(masked(call, 1) for _ in range(16)), 16
    yield "1 x 60 B binary", masked(packed, 2), 1
    yield "16 x 60 B binary", b"".join(masked(packed, 2) for _ in range(16)), 16
    yield "16 x 50 B text, not ASCII", b"".join(masked(accented, 1) for _ in range(16)), 16
    yield "1 x 1 KiB text", masked(call * 10 + b" " * 54, 1), 1
    yield "1 x 32 KiB binary", masked(os.urandom(32_768), 2), 1


def measure(feeds: dict[str, Feed], chunk: bytes, frames: int, seconds: float) -> dict[str, float]:
    """Microseconds of CPU per frame: the best of ten rounds, the candidates in turn."""
    source = memoryview(chunk)
    best = dict.fromkeys(feeds, float("inf"))
    for _ in range(10):
        for name, feed in feeds.items():
            turns, started = 0, time.process_time()
            while time.process_time() - started < seconds / 10:
                for _ in range(64):
                    feed(source)
                turns += 64
            best[name] = min(best[name], (time.process_time() - started) / (turns * frames) * 1e6)
    return best


def footprint(make: Callable[[Listener], Feed]) -> float:
    """KB that an idle connection of a candidate keeps, as far as Python's allocator sees it."""
    listener = Listener()
    make(listener)
    gc.collect()
    tracemalloc.start()
    kept = [make(listener) for _ in range(500)]
    gc.collect()
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / len(kept) / 1024


async def run(seconds: float) -> dict[str, dict[str, float]]:
    """All cases of all candidates."""
    candidates: dict[str, Callable[[Listener], Feed]] = {"hubplane": own, "websockets": library}
    if picows is not None:
        candidates["picows"] = with_picows
        candidates["picows, 2 KB"] = partial(with_picows, buffer=2_048)
    results: dict[str, dict[str, float]] = {}
    for name, chunk, frames in cases():
        feeds = {}
        for candidate, make in candidates.items():
            listener = Listener()
            feeds[candidate] = make(listener)
            feeds[candidate](memoryview(chunk))
            if listener.received == 0:
                raise SystemExit(f"{candidate} delivered nothing in {name!r}.")
        results[name] = measure(feeds, chunk, frames, seconds)
    results["KB per idle connection"] = {candidate: footprint(make) for candidate, make in candidates.items()}
    return results


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    results = asyncio.run(run(options.seconds))
    if options.json:
        print(json.dumps(results, indent=2))
        return
    names = list(next(iter(results.values())))
    print(f"{'us per frame':28}" + "".join(f"{name:>14}" for name in names))
    for case, row in results.items():
        print(f"{case:28}" + "".join(f"{row[name]:14.3f}" for name in names))


if __name__ == "__main__":
    main()
