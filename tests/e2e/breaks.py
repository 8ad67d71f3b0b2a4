"""A TCP proxy in front of a node that breaks its connections: by a reset, or silently, on the client's side only."""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time
from typing import Self

__all__ = ["BreakingProxy"]

_RESET = struct.pack("ii", 1, 0)


class _Pair:
    """A connection of a client, and the proxy's own to the node.

    Attributes:
        client: Towards the client.
        node: Towards the node.
        half_open: The client's side is gone, and the node is not to know.
        in_use_since: When the client has sent something behind its request, by the monotonic clock.
    """

    def __init__(self, client: socket.socket, node: socket.socket) -> None:
        self.client = client
        self.node = node
        self.half_open = False
        self.in_use_since = math.inf

    def reset(self, *sockets: socket.socket) -> None:
        """Drop sockets with a TCP reset."""
        for each in sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            # Closing alone would wait for the thread that reads from it.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD)
            each.close()


class BreakingProxy:
    """Passes bytes on until it is told to break.

    Args:
        port: Of the node on 127.0.0.1.

    Attributes:
        url: Where clients connect.
        breaks: Connections broken so far.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.breaks = 0
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Drop everything, and wait for the threads."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for pair in self._pairs:
                pair.reset(pair.client, pair.node)
        for thread in self._threads:
            thread.join(10)

    def reset(self, *, in_use_for: float = 0.0) -> None:
        """Reset connections on both sides.

        Args:
            in_use_for: Only those that were in use for so many seconds. Clients come back once: a socket that breaks
                again before it is fully in use is the end for them.
        """
        with self._lock:
            for pair in self._chosen(in_use_for):
                pair.reset(pair.client, pair.node)
                self._pairs.remove(pair)

    def half_open(self, *, in_use_for: float = 0.0) -> None:
        """Reset connections on the client's side; to the node they look open, but nobody reads or answers.

        Args:
            in_use_for: As for `reset`.
        """
        with self._lock:
            for pair in self._chosen(in_use_for):
                pair.half_open = True
                pair.reset(pair.client)

    def _chosen(self, in_use_for: float) -> list[_Pair]:
        limit = time.monotonic() - in_use_for
        chosen = [pair for pair in self._pairs if pair.in_use_since <= limit and not pair.half_open]
        self.breaks += len(chosen)
        return chosen

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]  # any callable
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                node = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for each in (client, node):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, node)
            with self._lock:
                self._pairs.append(pair)
            self._start(self._pump, pair, client, node)
            self._start(self._pump, pair, node, client)

    def _pump(self, pair: _Pair, source: socket.socket, sink: socket.socket) -> None:
        chunks = 0
        try:
            while data := source.recv(65_536):
                if pair.half_open:
                    return
                chunks += 1
                if chunks == 2 and source is pair.client:
                    pair.in_use_since = time.monotonic()
                sink.sendall(data)
        except OSError:
            return
        if not pair.half_open:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
