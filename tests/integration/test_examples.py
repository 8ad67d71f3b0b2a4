"""The examples run as they say: under `hubplane serve` and under plain uvicorn, alone and as several nodes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any  # JSON

import httpx
import pytest
from tests.e2e.nodes import hubplane_command
from tests.e2e.processes import Process
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from hubplane.testing.redis_server import RedisServer

EXAMPLES = Path(__file__).parents[2] / "examples"
SECRET = "5eed" * 16
PASSWORDS = {"ann": "apple", "bob": "banana"}

SERVERS: dict[str, Callable[[str], list[str]]] = {
    "hubplane serve": lambda app: hubplane_command("serve", app, "--app-dir", str(EXAMPLES), "--port", "0"),
    "uvicorn": lambda app: [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", app],
}


def failed(method: str, text: str) -> str:
    """What a caller hears of a `HubException`."""
    return f"An unexpected error occurred invoking '{method}' on the server. HubException: {text}"


class Client:
    """The smallest client: JSON over a WebSocket, without negotiation.

    Args:
        url: Of the server.
        login: What the way in has given: `token`, `cookie`, or nothing.
    """

    def __init__(self, url: str, login: dict[str, str] | None = None) -> None:
        login = login or {}
        query = f"?access_token={login['token']}" if "token" in login else ""
        headers = {"Cookie": login["cookie"]} if "cookie" in login else {}
        self._stack = ExitStack()
        address = url.replace("http", "ws") + "/hubs/chat" + query
        self._socket: ClientConnection = self._stack.enter_context(
            connect(address, proxy=None, additional_headers=headers)
        )
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

    def invoke(self, method: str, *arguments: str) -> Any:
        """Call a method; return its result, or the error's text."""
        self._say({"type": 1, "invocationId": "1", "target": method, "arguments": list(arguments)})
        heard = []
        while (message := self._hear()).get("type") != 3:
            heard.append(message)
        self._waiting = heard + self._waiting
        return message.get("error", message.get("result"))

    def message(self) -> list[str]:
        """The arguments of the next ReceiveMessage."""
        message = self._hear()
        assert message["target"] == "ReceiveMessage"
        arguments: list[str] = message["arguments"]
        return arguments

    def close(self) -> None:
        """Leave."""
        self._stack.close()


def start(server: str, app: str, redis: RedisServer, folder: Path) -> Process:
    """A process that serves an example."""
    return Process(
        SERVERS[server](f"{app}:app"),
        environment={
            "HUBPLANE_REDIS": f"{redis.configuration},channelPrefix={app}",
            "CHAT_SECRET": SECRET,
            "CHAT_DATABASE": str(folder / "chat.sqlite3"),
        },
    )


def address(process: Process, server: str) -> str:
    """Where it listens."""
    if server == "uvicorn":
        assert process.logged("Uvicorn running on"), process.stderr
        text = process.stderr
    else:
        text = process.line("hubplane serves")
    found = re.search(r"http://[\d.]+:\d+", text)
    assert found
    return found[0]


def logged_in(url: str, name: str, password: str | None = None) -> dict[str, str]:
    """Log in as a page does, by name and password; empty for who is refused."""
    form = {"name": name, "password": PASSWORDS[name] if password is None else password}
    with httpx.Client(base_url=url) as page:
        csrf = page.get("/").cookies.get("csrftoken")  # Django wants it back, others have none
        answer = page.post("/login", json=form, headers={"x-csrftoken": csrf} if csrf else {})
        if answer.status_code == 401:
            return {}
        if token := answer.raise_for_status().json().get("token"):
            return {"token": token}
        return {"cookie": "; ".join(f"{cookie}={value}" for cookie, value in page.cookies.items())}


def signed(_url: str, name: str, password: str | None = None) -> dict[str, str]:
    """A token from the example that has no web page; who has no password has no shell there."""
    command = [sys.executable, str(EXAMPLES / "plain_chat.py"), name]
    environment = {**os.environ, "CHAT_SECRET": SECRET if password is None else "another" * 8}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    return {"token": done.stdout.strip()}


LOGINS: dict[str, Callable[..., dict[str, str]]] = {
    "fastapi_chat": logged_in,
    "starlette_chat": logged_in,
    "litestar_chat": logged_in,
    "django_chat": logged_in,
    "plain_chat": signed,
}


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Between two processes of one example."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the database that the Django example makes."""
    path = tmp_path_factory.mktemp("examples")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "django_chat.py")],
        env={**os.environ, "CHAT_DATABASE": str(path / "chat.sqlite3")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("server", list(SERVERS))
@pytest.mark.parametrize("app", list(LOGINS))
def test_example(app: str, server: str, redis: RedisServer, folder: Path) -> None:
    """Login, a room and a private message across two processes, an error, and no way in without a login."""
    with start(server, app, redis, folder) as first, start(server, app, redis, folder) as second:
        one, two = address(first, server), address(second, server)
        login = LOGINS[app]
        ann, bob = Client(one, login(one, "ann")), Client(two, login(two, "bob"))
        assert bob.invoke("Join", "room-7") is None
        assert ann.invoke("SendMessage", "room-7", "hello") is None
        assert bob.message() == ["ann", "hello"]
        assert bob.invoke("Whisper", "ann", "psst") is None
        assert ann.message() == ["bob", "psst"]
        assert bob.invoke("Leave", "room-7") is None
        assert ann.invoke("SendMessage", "room-7", "are you there?") is None
        assert ann.invoke("Whisper", "bob", "not here, then") is None
        assert bob.message() == ["ann", "not here, then"]
        assert ann.invoke("SendMessage", "room-7", " ") == failed("SendMessage", "Say something.")
        if app == "fastapi_chat":
            answer = httpx.post(f"{one}/announce", params={"text": "closing soon"})
            assert answer.json() == {"sent": True}
            assert ann.message() == bob.message() == ["server", "closing soon"]
        if app == "django_chat":
            assert bob.invoke("History", "room-7")[-2:] == [["ann", "hello"], ["ann", "are you there?"]]
            assert bob.invoke("Join", "room-8") is None
            cookie = login(one, "ann")["cookie"]
            headers = {"cookie": cookie, "x-csrftoken": cookie.partition("csrftoken=")[2].partition(";")[0]}
            answer = httpx.post(f"{one}/say", json={"room": "room-8", "text": "from a view"}, headers=headers)
            assert answer.json() == {"sent": True}
            assert bob.message() == ["ann", "from a view"]
            assert httpx.get(f"{one}/hubs").status_code == 404, "this path is not Django's"
        refused = login(one, "ann", "guess")
        assert app == "plain_chat" or not refused
        for wrong in (refused, {}):
            # Litestar's middleware answers by itself, which a server turns into 403 before the WebSocket is open.
            with pytest.raises(InvalidStatus, match=r"HTTP 40[13]"):
                Client(one, wrong)
            answer = httpx.post(f"{one}/hubs/chat/negotiate", headers={"cookie": wrong.get("cookie", "")})
            assert answer.status_code == 401
        for client in (ann, bob):
            client.close()
        # The one of the error above, which is logged for the hub's author.
        assert [each.stderr.count("Traceback") for each in (first, second)] == [1, 0]
