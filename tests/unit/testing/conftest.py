"""A hub to test the test tools with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any  # what HubApp takes

import pytest

from hubplane import Hub, HubApp, HubException, hub_method
from hubplane.testing.plugin import fake_clock, hub_client, memory_fleet

# Imported, because `pytest_plugins` belongs into a top-level conftest, as test_plugin.py has it.
__all__ = ["ChatHub", "fake_clock", "hub_client", "make_app", "memory_fleet"]


class ChatHub(Hub):
    """Something of everything.

    Attributes:
        log: What happened, of one test.
    """

    log: list[object]

    async def on_connected(self) -> None:
        await self.groups.add(self.context.connection_id, "lobby")
        await self.clients.caller.send("Welcome", self.context.user_identifier)

    async def on_disconnected(self, error: Exception | None) -> None:
        self.log.append(("gone", self.context.user_identifier))

    async def say(self, text: str) -> None:
        self.log.append(text)
        await self.clients.group("lobby").send("Said", self.context.user_identifier, text)

    async def add(self, left: int, right: int) -> int:
        return left + right

    async def nothing(self) -> None:
        pass

    async def refuse(self) -> None:
        raise HubException("No.")

    async def fail(self) -> None:
        raise RuntimeError("secret")

    async def count(self, up_to: int) -> AsyncIterator[int]:
        try:
            for number in range(up_to):
                yield number
        finally:
            self.log.append("stream closed")

    async def break_off(self) -> AsyncIterator[int]:
        yield 1
        raise HubException("Broken.")

    async def stuck(self) -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    async def total(self, numbers: AsyncIterator[int], factor: int) -> int:
        return factor * sum([number async for number in numbers])

    async def each(self, words: AsyncIterator[str]) -> AsyncIterator[str]:
        async for word in words:
            yield word.upper()

    async def ask(self, connection_id: str) -> str:
        return await self.clients.client(connection_id).invoke("Name", result=str, timeout=5)

    async def wait(self) -> None:
        await self.context.wait_aborted()

    async def quit(self) -> None:
        self.context.abort()

    @hub_method("WhatTime")
    async def what_time(self) -> str | None:
        return self.context.request.header("x-time")


@pytest.fixture
def make_app() -> Callable[..., HubApp]:
    """Makes an app with a `ChatHub` of its own at ``/chat``; arguments are those of `HubApp`."""

    def make(backplane: Any = None, **options: Any) -> HubApp:
        app = HubApp(redis=backplane, **options)
        app.add_hub("/chat", type("ChatHub", (ChatHub,), {"log": []}))
        return app

    return make
