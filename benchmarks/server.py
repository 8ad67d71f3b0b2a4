"""The benchmark hub, on either edge: ``python benchmarks/server.py --port 5001 --edge fast --redis localhost:6379``.

Without ``--redis`` it reads the environment variable REDIS; without that it is one node in memory.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import AsyncIterator

import uvicorn

from hubplane import Hub, HubApp

EDGES = {
    "fast": "hubplane.server:HubWebSocketProtocol",
    "asgi": "auto",
    "asgi-sansio": "websockets-sansio",
}
"""uvicorn's `ws` setting by edge; ``asgi`` is the layer that uvicorn picks by itself."""


TEXT = "x" * 100


class BenchHub(Hub):
    """What the load generators call."""

    async def echo(self, text: str) -> str:
        """Answer with the same text."""
        return text

    async def broadcast(self, text: str) -> None:
        """Send to every client."""
        await self.clients.all.send("Message", text)

    async def join_group(self, group: str) -> None:
        """Put the caller into a group."""
        await self.groups.add(self.context.connection_id, group)

    async def items(self, count: int) -> AsyncIterator[str]:
        """A stream of texts."""
        for _ in range(count):
            yield TEXT

    async def send_to_group(self, group: str, text: str) -> None:
        """Send to a group."""
        await self.clients.group(group).send("Message", text)


def main() -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "5001")))
    parser.add_argument("--edge", choices=sorted(EDGES), default="fast")
    parser.add_argument("--redis", default=os.environ.get("REDIS") or None)
    options = parser.parse_args()
    hubs = HubApp(redis=options.redis)
    hubs.add_hub("/bench", BenchHub)
    logging.basicConfig(level=logging.WARNING)
    uvicorn.run(
        hubs,
        host="127.0.0.1",
        port=options.port,
        ws=EDGES[options.edge],
        loop="uvloop",
        log_level="warning",
        access_log=False,
        backlog=4096,
        ws_per_message_deflate=False,
    )


if __name__ == "__main__":
    main()
