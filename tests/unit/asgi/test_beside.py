"""Facts about hubs beside an application that serves nothing but HTTP."""

from __future__ import annotations

from typing import Any  # ASGI messages

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from hubplane.asgi.app import HubApp
from hubplane.asgi.beside import Beside
from hubplane.errors import ConfigurationError
from hubplane.hubs.hub import Hub


class ChatHub(Hub):
    """Has an address."""


async def http_only(scope: Any, receive: Any, send: Any) -> None:
    """As Django's handler: fails on anything but HTTP, and tells the path it was asked for."""
    assert scope["type"] == "http"
    await PlainTextResponse(f"{scope.get('root_path', '')}|{scope['path']}")(scope, receive, send)


def make(at: str = "/hubs") -> Any:
    """An application with a hub beside it."""
    hubs = HubApp()
    hubs.add_hub("/chat", ChatHub)
    return hubs.beside(http_only, at=at)


@pytest.mark.parametrize("root", ["", "/app"])
def test_requests_go_where_their_path_says(root: str) -> None:
    """Below the path stand the hubs, whatever root the server names; all else is the application's, as it came."""
    with TestClient(make(), root_path=root) as client:
        assert client.post(f"{root}/hubs/chat/negotiate").status_code == 200
        assert client.post(f"{root}/hubs/nothing/negotiate").status_code == 404
        assert client.get(f"{root}/hubs").status_code == 404
        for path in ("/", "/hubsters/chat", "/page"):
            assert client.get(f"{root}{path}").text == f"{root}|{root}{path}"
        with client.websocket_connect(f"{root}/hubs/chat") as socket:
            socket.send_text('{"protocol":"json","version":1}\x1e')
            assert socket.receive_text() == "{}\x1e"


async def test_root_that_the_path_lacks() -> None:
    """A server that leaves its root out of the path finds the hubs as well."""
    seen: list[Any] = []

    async def hubs(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "http", "path": "/hubs/chat", "root_path": "/app"}
    await Beside(hubs, http_only, "/hubs")(scope, None, None)  # type: ignore[arg-type]  # nobody reads or writes
    assert (seen[0]["path"], seen[0]["root_path"]) == ("/app/hubs/chat", "/app/hubs")
    assert scope["path"] == "/hubs/chat", "what the server holds stays as it is"


def test_web_sockets_of_other_paths_are_refused() -> None:
    """The application never sees a WebSocket, which it could only fail on."""
    with (
        TestClient(make()) as client,
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/elsewhere"),
    ):
        pass


@pytest.mark.parametrize("at", ["", "/", "hubs", "/hubs/"])
def test_path_is_checked(at: str) -> None:
    """A path that could match nothing, or everything, is refused."""
    with pytest.raises(ConfigurationError, match="starts with '/' and does not end with it"):
        make(at)
