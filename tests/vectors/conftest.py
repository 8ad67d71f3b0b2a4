"""Recorded requests over HTTP, replayed in memory against an application on a fake clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any  # ASGI messages and recorded JSON

import pytest

from hubplane import Hub, HubApp
from hubplane.options import HubOptions, TransportOptions
from hubplane.testing.fakes import FakeClock, SeededIds

__all__ = ["HttpReplay", "Recording", "ReplayedRequest", "recording", "replaying"]

DATA = Path(__file__).parent / "data"

# The original leaves the length of some bodies to chunks; the other one is our own.
OUR_OWN = {"content-length", "x-accel-buffering"}


class VectorHub(Hub):
    """The methods of the recorded hub that the HTTP recordings call."""

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def burst(self, count: int) -> None:
        for number in range(count):
            await self.clients.caller.send("m", number)

    async def got_string(self, text: str) -> str:
        return json.dumps({"type": "System.String", "value": text}, separators=(",", ":"))

    async def big(self, size: int) -> str:
        return "x" * size

    async def abort(self) -> None:
        self.context.abort()


class Recording:
    """One recorded request and its answer."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.name: str = entry["name"]
        self.method: str = entry["method"]
        self.target: str = entry["target"]
        self.headers: dict[str, str] = entry["headers"]
        self.body = raw(entry["body"])
        self.status: int | None = entry["status"]
        self.answer_headers: dict[str, str] = dict(entry["answer_headers"])
        self.answer = raw(entry["answer"])


def raw(recorded: Any) -> bytes:
    """Recorded bytes: hex, or parts of [hex, times]."""
    if isinstance(recorded, str):
        return bytes.fromhex(recorded)
    return b"".join(bytes.fromhex(part) * times for part, times in recorded["parts"])


@pytest.fixture(scope="session")
def recording() -> Callable[[str], dict[str, Recording]]:
    """Reads a file of recorded requests: by name, in order."""

    def read(name: str) -> dict[str, Recording]:
        entries = json.loads((DATA / f"{name}.json").read_text("utf-8"))["entries"]
        return {entry["name"]: Recording(entry) for entry in entries}

    return read


class ReplayedRequest:
    """A request under way, and what was answered so far.

    Attributes:
        complete: The answer has ended.
    """

    def __init__(self, app: HubApp, record: Recording, token: str) -> None:
        self.record = record
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self._gone = asyncio.Event()
        self._unread = True
        path, _, query = record.target.replace("TOKEN", token).partition("?")
        scope = {
            "type": "http",
            "method": record.method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in record.headers.items()],
        }
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self._unread:
            self._unread = False
            return {"type": "http.request", "body": self.record.body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message["body"]
            self.complete = not message.get("more_body", False)

    def leave(self) -> None:
        """Let the client go away."""
        self._gone.set()

    def check(self, *, complete: bool = True) -> None:
        """What was answered is what was recorded."""
        record = self.record
        assert (record.name, self.status, self.body) == (record.name, record.status, record.answer)
        assert record.answer_headers.items() <= self.headers.items()
        assert self.headers.keys() - record.answer_headers.keys() <= OUR_OWN
        assert self.complete is complete


class HttpReplay:
    """An application with the recorded hub, and one connection of it.

    Attributes:
        token: Of the connection.
    """

    def __init__(self, app: HubApp, clock: FakeClock) -> None:
        self.app = app
        self.clock = clock
        self.token = ""
        self._open: list[ReplayedRequest] = []

    async def negotiate(self, path: str) -> None:
        """Make a new connection the one that is meant."""
        entry = {
            "name": "negotiate",
            "method": "POST",
            "target": f"{path}/negotiate?negotiateVersion=1",
            "headers": {},
            "body": "",
            "status": 200,
            "answer_headers": [],
            "answer": "",
        }
        answer = ReplayedRequest(self.app, Recording(entry), "")
        await answer.task
        self.token = json.loads(answer.body)["connectionToken"]

    async def begin(self, record: Recording) -> ReplayedRequest:
        """Send a recorded request, and let happen what can."""
        under_way = ReplayedRequest(self.app, record, self.token)
        self._open.append(under_way)
        await self.settle()
        return under_way

    async def play(self, record: Recording) -> None:
        """Send a recorded request whose answer has to be there at once, and be the recorded one."""
        (await self.begin(record)).check()

    async def seconds(self, count: int) -> None:
        """Let time pass."""
        for _ in range(count):
            self.clock.advance(1)
            await self.settle()

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        for _ in range(40):
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Let all clients leave."""
        for request in self._open:
            request.leave()
        await asyncio.gather(*(request.task for request in self._open))


@pytest.fixture
def replaying() -> Callable[..., AbstractAsyncContextManager[HttpReplay]]:
    """Runs the recorded hub at ``/vector``, or elsewhere with other options."""

    @asynccontextmanager
    async def run(
        path: str = "/vector", options: HubOptions | None = None, transport_options: TransportOptions | None = None
    ) -> AsyncIterator[HttpReplay]:
        clock = FakeClock()
        app = HubApp(options=options, transport_options=transport_options, clock=clock, ids=SeededIds())
        app.add_hub(path, VectorHub)
        async with app.lifespan():
            replay = HttpReplay(app, clock)
            await replay.negotiate(path)
            yield replay
            await replay.close()

    return run
