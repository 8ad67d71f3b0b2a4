"""The examples run as they say: under `hubplane serve` and under plain uvicorn, alone and as several nodes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any  # JSON

import httpx
import pytest
from tests.e2e.nodes import hubplane_command
from tests.e2e.processes import Process
from websockets.sync.client import ClientConnection, connect

from hubplane.testing.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[2] / "examples"

SERVERS: dict[str, Callable[[str], list[str]]] = {
    "hubplane serve": lambda app: hubplane_command("serve", app, "--app-dir", str(EXAMPLES), "--port", "0"),
    "uvicorn": lambda app: [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", app],
}


class Client:
    """The smallest client: JSON over a WebSocket, without negotiation."""

    def __init__(self, url: str, token: str = "") -> None:
        query = f"?access_token={token}" if token else ""
        self._stack = ExitStack()
        address = url.replace("http", "ws") + "/hubs/chat" + query
        self._socket: ClientConnection = self._stack.enter_context(connect(address, proxy=None))
        self._waiting: list[dict[str, Any]] = []
        self._say({"protocol": "json", "version": 1})
        assert self._hear() == {}

    def _say(self, message: dict[str, Any]) -> None:
        self._socket.send(json.dumps(message) + "\x1e")

    def _hear(self) -> dict[str, Any]:
        while not self._waiting:
            text = self._socket.recv(timeout=10)
            assert isinstance(text, str)
            self._waiting = [json.loads(part) for part in text.split("\x1e") if part]
        return self._waiting.pop(0)

    def invoke(self, method: str, *arguments: str) -> str | None:
        """Call a method without a result; return the error, None if there was none."""
        self._say({"type": 1, "invocationId": "1", "target": method, "arguments": list(arguments)})
        heard = []
        while (message := self._hear()).get("type") != 3:
            heard.append(message)
        self._waiting = heard + self._waiting
        error: str | None = message.get("error")
        return error

    def message(self) -> list[str]:
        """The arguments of the next ReceiveMessage."""
        message = self._hear()
        assert message["target"] == "ReceiveMessage"
        arguments: list[str] = message["arguments"]
        return arguments

    def close(self) -> None:
        """Leave."""
        self._stack.close()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Between two processes of one example."""
    with RedisServer() as server:
        yield server


def start(server: str, app: str, redis: RedisServer) -> Process:
    """A process that serves an example."""
    return Process(SERVERS[server](app), environment={"HUBPLANE_REDIS": f"{redis.configuration},channelPrefix={app}"})


def address(process: Process, server: str) -> str:
    """Where it listens."""
    if server == "uvicorn":
        assert process.logged("Uvicorn running on")
        text = process.stderr
    else:
        text = process.line("hubplane serves")
    found = re.search(r"http://[\d.]+:\d+", text)
    assert found
    return found[0]


@pytest.mark.parametrize("server", list(SERVERS))
def test_fastapi_example(server: str, redis: RedisServer) -> None:
    """Rooms, the announcement from an ordinary route, and an error, on two processes."""
    with start(server, "fastapi_chat:app", redis) as one, start(server, "fastapi_chat:app", redis) as two:
        ann, bob = Client(address(one, server)), Client(address(two, server))
        assert bob.invoke("Join", "room-7") is None
        assert ann.invoke("SendMessage", "room-7", "ann", "hello") is None
        assert bob.message() == ["ann", "hello"]
        answer = httpx.post(f"{address(one, server)}/announce", params={"text": "closing soon"})
        assert answer.json() == {"sent": True}
        assert ann.message() == bob.message() == ["server", "closing soon"]
        error = ann.invoke("SendMessage", "lobby", "ann", " ")
        assert (
            error == "An unexpected error occurred invoking 'SendMessage' on the server. HubException: Say something."
        )
        ann.close()
        bob.close()


@pytest.mark.parametrize("server", list(SERVERS))
def test_starlette_example(server: str, redis: RedisServer) -> None:
    """Users write to each other by name across processes; who has no token is told so."""
    with start(server, "starlette_chat:app", redis) as one, start(server, "starlette_chat:app", redis) as two:
        ann, bob, nobody = (
            Client(address(one, server), "ann"),
            Client(address(two, server), "bob"),
            Client(address(two, server)),
        )
        assert bob.invoke("Whisper", "nobody", "are you there?") is None
        assert ann.invoke("Whisper", "bob", "psst") is None
        assert bob.message() == ["ann", "psst"]
        assert nobody.invoke("Whisper", "ann", "it is me") == (
            "An unexpected error occurred invoking 'Whisper' on the server. HubException: Say who you are first."
        )
        for client in (ann, bob, nobody):
            client.close()
