"""A small load generator for the benchmark hub: one thread, epoll, frames made before the clock starts.

It counts bytes rather than parsing them: every answer of a test has a known length.

Tests:
    echo1, echo16: 100 connections, 1 or 16 calls in flight on each; answers per second.
    bc1000: one broadcast of 100 bytes to 1,000 connections under way; deliveries per second.
    bcw16: 16 senders with 16 broadcasts under way to 1,000 connections; deliveries per second.
    connect: open, shake hands, close; connections per second.
    idle: kilobytes of server memory per connection at 5,000.
    stream1: items of 100 bytes streamed to one client; items per second. The environment variable STREAM names another
        server's hub, method and arguments: ``STREAM='/chat Counter [100000000,0]'``.
    sse1000: as bc1000, over Server-Sent Events; deliveries per second.
    polls1000: 1,000 idle clients on long polls; percent of a core that the server takes.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path

__all__ = ["TESTS", "run"]

TESTS = ("echo1", "echo16", "bc1000", "bcw16", "connect", "idle", "stream1", "sse1000", "polls1000")
TEXT = "x" * 100
HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
ANSWER = b"\x81\x03{}\x1e"


def frame(payload: bytes) -> bytes:
    """One masked text frame; the mask is zero, which the server cannot know without applying it."""
    size = len(payload)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
    return head + bytes(4) + payload


def message(**members: object) -> bytes:
    """One JSON hub message."""
    return json.dumps(members, separators=(",", ":")).encode() + b"\x1e"


def connect(port: int, path: str = "/bench") -> socket.socket:
    """Open a WebSocket to the hub and shake hands."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        b"GET " + path.encode() + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    read_until(sock, b"\r\n\r\n")  # a client sends nothing before the upgrade has been answered
    sock.sendall(frame(HANDSHAKE))
    read_until(sock, ANSWER)
    return sock


def read_until(sock: socket.socket, end: bytes) -> None:
    """Read until what has come ends with `end`."""
    got = b""
    while not got.endswith(end):
        chunk = sock.recv(4096)
        if not chunk:
            raise RuntimeError(f"the server closed the connection: {got!r}")
        got += chunk


class PayloadCounter:
    """Counts payload bytes of unmasked server frames on one connection, whatever their grouping."""

    __slots__ = ("_head", "_left", "payload")

    def __init__(self) -> None:
        self.payload = 0
        self._left = 0
        self._head = b""

    def feed(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._head:
            data = self._head + data
            self._head = b""
        at, end = 0, len(data)
        while at < end:
            if self._left:
                take = min(self._left, end - at)
                self.payload += take
                self._left -= take
                at += take
                continue
            size = data[at + 1] if at + 1 < end else 127
            need = 2 if size < 126 else 4 if size == 126 else 10
            if end - at < need:
                self._head = data[at:]
                return
            self._left = size if size < 126 else int.from_bytes(data[at + 2 : at + need], "big")
            at += need


def calls(test: str, port: int, seconds: float) -> float:
    """Closed loop of echo calls; answers per second."""
    inflight = 16 if test == "echo16" else 1
    request = frame(message(type=1, invocationId="1", target="Echo", arguments=[TEXT]))
    answer = len(message(type=3, invocationId="1", result=TEXT))
    socks = [connect(port) for _ in range(100)]
    poll = select.epoll()
    state = {}
    for sock in socks:
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
        state[sock.fileno()] = (sock, PayloadCounter())
        sock.sendall(request * inflight)
    done = 0
    begin = None
    started = time.perf_counter()
    while True:
        now = time.perf_counter()
        if begin is None and now - started > seconds / 3:
            begin, done = now, 0
        if begin is not None and now - begin > seconds:
            break
        for fd, _ in poll.poll(1):
            sock, counter = state[fd]
            data = sock.recv(65536)
            if not data:
                raise RuntimeError("the server closed a connection")
            counter.feed(data)
            count, counter.payload = divmod(counter.payload, answer)
            if count:
                done += count
                sock.sendall(request * count)
    for sock in socks:
        sock.close()
    return done / (now - begin)


def broadcasts(test: str, port: int, seconds: float) -> float:
    """Closed loop of broadcasts to 1,000 receivers; the next when the last has arrived everywhere."""
    window = 16 if test == "bcw16" else 1
    delivered = len(message(type=1, target="Message", arguments=[TEXT]))
    request = frame(message(type=1, target="Broadcast", arguments=[TEXT]))
    receivers = [connect(port) for _ in range(1000)]
    poll = select.epoll()
    state = {}
    for sock in receivers:
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
        state[sock.fileno()] = (sock, PayloadCounter())
    # The senders are receivers too: each sends its next broadcast when it has got one of its own length.
    senders = receivers[:window]
    sent = done = 0
    for sender in senders:
        sender.send(request)
        sent += 1
    begin = None
    started = time.perf_counter()
    while True:
        now = time.perf_counter()
        if begin is None and now - started > seconds / 3:
            begin, done_before = now, done
        if begin is not None and now - begin > seconds:
            break
        for fd, _ in poll.poll(1):
            sock, counter = state[fd]
            data = sock.recv(262144)
            if not data:
                raise RuntimeError("the server closed a connection")
            counter.feed(data)
            count, counter.payload = divmod(counter.payload, delivered)
            done += count
        while sent * 1000 - done <= (window - 1) * 1000:
            senders[sent % window].send(request)
            sent += 1
    for sock in receivers:
        sock.close()
    return (done - done_before) / (now - begin)


def connections(port: int, seconds: float) -> float:
    """Open and close, one after another; connections per second."""
    for _ in range(50):
        connect(port).close()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        connect(port).close()
        count += 1
    return count / (time.perf_counter() - begin)


def stream(port: int, seconds: float) -> float:
    """One stream to one client that reads as fast as it can; items per second."""
    path, target, arguments = os.environ.get("STREAM", "/bench Items [1000000000]").split(" ", 2)
    sock = connect(port, path)
    sock.sendall(frame(message(type=4, invocationId="1", target=target, arguments=json.loads(arguments))))
    items, begin, started = 0, None, time.perf_counter()
    while True:
        items += sock.recv(1 << 20).count(b"\x1e")
        now = time.perf_counter()
        if begin is None and now - started > seconds:
            begin, items = now, 0
        elif begin is not None and now - begin > seconds:
            sock.close()
            return items / (now - begin)


def negotiated(port: int) -> str:
    """A new connection's token."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            b"POST /bench/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Length: 0\r\n\r\n"
        )
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    return str(json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])["connectionToken"])


def post(port: int, token: str, body: bytes) -> None:
    """Send messages by POST."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(
            f"POST /bench?id={token} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        answer = b""
        while chunk := sock.recv(4096):
            answer += chunk
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the server did not take a message: {answer!r}")


def get(port: int, token: str, accept: str) -> socket.socket:
    """Begin a stream of events or a poll."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(f"GET /bench?id={token} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n\r\n".encode())
    return sock


def events(port: int, seconds: float) -> float:
    """Broadcasts to 1,000 event streams, sent over a WebSocket that hears them too; deliveries per second."""
    streams = []
    for _ in range(1000):
        token = negotiated(port)
        sock = get(port, token, "text/event-stream")
        read_until(sock, b":\r\n\r\n")
        post(port, token, HANDSHAKE)
        read_until(sock, b"{}\x1e\r\n\r\n\r\n")
        streams.append(sock)
    sender = connect(port)
    request = frame(message(type=1, target="Broadcast", arguments=[TEXT]))
    poll = select.epoll()
    state = {sock.fileno(): sock for sock in (*streams, sender)}
    for sock in state.values():
        sock.setblocking(False)
        poll.register(sock, select.EPOLLIN)
    begin, done, waiting, started = None, 0, 0, time.perf_counter()
    while True:
        now = time.perf_counter()
        if begin is None and now - started > seconds / 3:
            begin, done = now, 0
        if begin is not None and now - begin > seconds:
            return done / (now - begin)
        if waiting <= 0:  # below zero when a ping was counted as a delivery
            sender.send(request)
            waiting += len(state)
        for fd, _ in poll.poll(1):
            data = state[fd].recv(65536)
            if not data:
                raise RuntimeError("the server closed a connection")
            count = data.count(b"\x1e")
            done += count
            waiting -= count


def polls(port: int, pid: int, seconds: float) -> float:
    """1,000 clients that wait in a long poll; percent of a core that the server takes."""
    waiting = []
    for _ in range(1000):
        token = negotiated(port)
        sock = get(port, token, "*/*")
        read_until(sock, b"\r\n\r\n")  # the first poll is answered at once, and empty
        sock.close()
        post(port, token, HANDSHAKE)
        sock = get(port, token, "*/*")
        read_until(sock, b"{}\x1e")
        sock.close()
        waiting.append(get(port, token, "*/*"))
    time.sleep(1)
    before, begin = cpu_seconds(pid), time.perf_counter()
    time.sleep(3 * seconds)
    used = (cpu_seconds(pid) - before) / (time.perf_counter() - begin)
    for sock in waiting:
        sock.close()
    return 100 * used


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kb(pid: int) -> float:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise RuntimeError(f"process {pid} has no VmRSS")


def idle(port: int, pid: int) -> float:
    """Kilobytes per idle connection."""
    warm = [connect(port) for _ in range(200)]
    for sock in warm:
        sock.close()
    time.sleep(1)
    before = resident_kb(pid)
    socks = [connect(port) for _ in range(5000)]
    time.sleep(2)
    after = resident_kb(pid)
    for sock in socks:
        sock.close()
    return (after - before) / 5000


def run(test: str, port: int, pid: int, seconds: float) -> float:
    """Run one test against the server on `port`; its figure."""
    if test in ("echo1", "echo16"):
        return calls(test, port, seconds)
    if test in ("bc1000", "bcw16"):
        return broadcasts(test, port, seconds)
    if test == "connect":
        return connections(port, seconds)
    if test == "idle":
        return idle(port, pid)
    if test == "stream1":
        return stream(port, seconds)
    if test == "sse1000":
        return events(port, seconds)
    if test == "polls1000":
        return polls(port, pid, seconds)
    raise ValueError(f"unknown test {test!r}; there are: {', '.join(TESTS)}")


if __name__ == "__main__":
    import sys

    os.sched_setaffinity(0, {int(sys.argv[4])}) if len(sys.argv) > 4 else None
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), 3.0)))
