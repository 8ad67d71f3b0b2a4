"""Logins of the frameworks, as Microsoft's client uses them over each transport: the examples, from a client's side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.clients import ClientError, JsDriver
from tests.integration.test_examples import LOGINS, address, folder, start

from hubplane.testing.redis_server import RedisServer

__all__ = ["folder"]

COOKIES = ["starlette_chat", "litestar_chat", "django_chat"]


@pytest.fixture(scope="module", params=list(LOGINS))
def served(request: pytest.FixtureRequest, redis: RedisServer, folder: Path) -> Iterator[tuple[str, str]]:
    """The name of an example, and where it is served."""
    app: str = request.param
    with start("hubplane serve", app, redis, folder) as process:
        yield app, address(process, "hubplane serve")
        assert "Traceback" not in process.stderr


def test_login_opens_each_transport(driver: JsDriver, served: tuple[str, str]) -> None:
    """Whoever logged in with the framework is that user over all transports, and private messages find him."""
    app, url = served
    clients = []
    for transport in ("ws", "sse", "lp"):
        login = LOGINS[app](url, "bob")
        assert ("cookie" in login) == (app in COOKIES)
        headers = {"Cookie": login["cookie"]} if "cookie" in login else {}
        clients.append(
            driver.connect(f"{url}/hubs/chat", transport=transport, headers=headers, token=login.get("token"))
        )
        clients[-1].invoke("Join", "room")
    clients[1].invoke("SendMessage", "room", "hello")
    clients[2].invoke("Whisper", "bob", "a word to myself")
    for client in clients:
        assert [client.message(), client.message()] == [["bob", "hello"], ["bob", "a word to myself"]]
        client.stop()


@pytest.mark.parametrize("transport", ["ws", "sse", "lp"])
def test_without_a_login_nobody_enters(driver: JsDriver, served: tuple[str, str], transport: str) -> None:
    """Without a login the client fails with status 401 at negotiate, and without negotiation as well."""
    _, url = served
    with pytest.raises(ClientError, match="Status code '401'"):
        driver.connect(f"{url}/hubs/chat", transport=transport)
    if transport == "ws":
        with pytest.raises(ClientError, match="WebSocket failed to connect"):
            driver.connect(f"{url}/hubs/chat", transport=transport, skipNegotiation=True)
