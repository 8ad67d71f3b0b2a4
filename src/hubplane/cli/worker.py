"""A worker process of `hubplane serve --workers` and of `hubplane demo`: ``python -m hubplane.cli.worker JSON``."""

from __future__ import annotations

import socket
import sys
import traceback

import msgspec

from hubplane.cli.link import ParentLink
from hubplane.cli.serving import Target, run_server
from hubplane.errors import HubplaneError

__all__ = ["WorkerOrder", "main"]


class WorkerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the command tells a worker.

    Attributes:
        target: What to serve.
        listeners: File descriptors of the listening sockets.
        link: File descriptor of the line to the command.
    """

    target: Target
    listeners: tuple[int, ...]
    link: int


def main(text: str) -> int:
    """Serve as ordered; return the exit status."""
    order = msgspec.json.decode(text, type=WorkerOrder)
    link = ParentLink(order.link)
    link.watch()
    listeners = [socket.socket(fileno=descriptor) for descriptor in order.listeners]
    for listener in listeners:
        listener.set_inheritable(False)
    try:
        return run_server(order.target, listeners, on_ready=link.say_ready)
    except HubplaneError as error:
        sys.stderr.write(f"Error: {error}\n")
    except Exception:  # noqa: BLE001 - the process's boundary: the user's module failed while it was imported
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
