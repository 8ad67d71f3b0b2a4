"""A TCP relay that can be interrupted, as the cable between a client and a server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from typing import Self

__all__ = ["Cable"]

# A close that does not wait and says nothing polite: the peer's connection is reset.
_RESET = struct.pack("ii", 1, 0)


class Cable:
    """Relays from a port of its own to another one on 127.0.0.1, each connection in a thread.

    Args:
        target: The port of the server.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._in = True
        self._carries = True
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, name="cable")

    def pull(self) -> None:
        """End all connections there are, and all that come until it is plugged in again."""
        with self._lock:
            self._in = False
            for end in self._ends:
                with contextlib.suppress(OSError):  # its peer was quicker
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)

    def hang(self) -> None:
        """Carry nothing more, and tell nobody: what is sent is lost."""
        self._carries = False

    def plug_in(self) -> None:
        """Relay new connections again."""
        with self._lock:
            self._in = self._carries = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:  # it was shut down
                return
            thread = threading.Thread(target=self._relay, args=(client,), name="relay")
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as ends, contextlib.suppress(OSError):
            self._own(client, ends)
            server = socket.create_connection(("127.0.0.1", self._target))
            self._own(server, ends)
            with selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ, server)
                ready.register(server, selectors.EVENT_READ, client)
                while self._in:
                    for key, _ in ready.select():
                        assert isinstance(key.fileobj, socket.socket)
                        data = key.fileobj.recv(65_536)
                        if not data:
                            return
                        if self._carries:
                            key.data.sendall(data)

    def _own(self, end: socket.socket, ends: contextlib.ExitStack) -> None:
        """Close this socket with `ends`, and shut it down when the cable is pulled.

        Raises:
            ConnectionAbortedError: It is not plugged in.
        """
        ends.enter_context(end)
        with self._lock:
            if not self._in:
                raise ConnectionAbortedError
            self._ends.add(end)
        ends.callback(self._forget, end)

    def _forget(self, end: socket.socket) -> None:
        with self._lock:
            self._ends.discard(end)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._accepting.join(20)
        self._server.close()
        self.pull()
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()
