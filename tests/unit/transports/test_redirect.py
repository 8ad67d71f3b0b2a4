"""What an application answers to negotiate itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest

from hubplane import ConnectionRequest, Hub, HubApp, HubException, NegotiateRedirect

THERE = NegotiateRedirect(url="http://there/chat?x=1", access_token="T")


class RedirectingHub(Hub):
    """Has no methods."""


async def negotiate(hook: Callable[[ConnectionRequest], object], query: str = "") -> httpx.Response:
    """The answer of a hub with this hook."""
    hubs = HubApp()
    hubs.add_hub("/chat", RedirectingHub, negotiate=hook)  # type: ignore[arg-type]
    async with (
        hubs.lifespan(),
        httpx.AsyncClient(transport=httpx.ASGITransport(hubs), base_url="http://here") as client,
    ):
        return await client.post(f"/chat/negotiate?negotiateVersion=1{query}")


def there(request: ConnectionRequest) -> NegotiateRedirect:
    """Sends everybody there."""
    return THERE


async def there_later(request: ConnectionRequest) -> NegotiateRedirect:
    """The same, in a coroutine."""
    return THERE


@pytest.mark.row("B26")
@pytest.mark.parametrize("hook", [there, there_later])
async def test_redirect(hook: Callable[[ConnectionRequest], object]) -> None:
    """A hook, async or not, sends clients elsewhere, with a token."""
    answer = await negotiate(hook)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"url": "http://there/chat?x=1", "accessToken": "T"}


@pytest.mark.row("B27")
async def test_refusal() -> None:
    """A HubException refuses with its text, and with status 200, so that clients show it."""

    async def refuse(request: ConnectionRequest) -> None:
        raise HubException("Try again tomorrow.")

    answer = await negotiate(refuse)
    assert (answer.status_code, answer.json()) == (200, {"error": "Try again tomorrow."})


async def test_hook_that_has_nothing_to_say() -> None:
    """None goes on here; the hook sees the request and can choose by it."""

    def choose(request: ConnectionRequest) -> NegotiateRedirect | Awaitable[NegotiateRedirect | None] | None:
        return THERE if request.query_value("room") == "full" else None

    assert "connectionToken" in (await negotiate(choose, "&room=empty")).json()
    assert "url" in (await negotiate(choose, "&room=full")).json()


async def test_hook_that_fails() -> None:
    """Any other exception is the server's to report: it is no answer for a client."""

    def fail(request: ConnectionRequest) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await negotiate(fail)
