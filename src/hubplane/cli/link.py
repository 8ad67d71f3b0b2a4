"""The line between a worker process and the command that started it.

It is one socket. The worker says "ready" on it; and when it ends, because the command is gone for whatever reason, even
a SIGKILL, the worker ends too. So nothing is ever left behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

__all__ = ["READY", "ParentLink"]

READY = b"ready\n"

_GRACE = 12.0


class ParentLink:
    """A worker's end of the line.

    Args:
        descriptor: The inherited file descriptor.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        # A program that the application starts must not keep the line open.
        self._socket.set_inheritable(False)

    def say_ready(self) -> None:
        """Tell the command that connections are accepted from now on."""
        with contextlib.suppress(OSError):  # the command is gone: `watch` ends this process
            self._socket.sendall(READY)

    def watch(self) -> None:
        """From now on end this process when the command is gone: in order, and by force after 12 s."""
        threading.Thread(target=self._wait, name="hubplane: parent link", daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            while self._socket.recv(64):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(_GRACE)
        os._exit(1)
