"""Facts about awaitables for what is already on its way."""

from __future__ import annotations

import asyncio

import pytest

from hubplane.errors import BackplaneUnavailableError
from hubplane.lifetime.completed import DONE, AllOf


async def test_done() -> None:
    """It ends at once, as often as it is awaited."""
    await DONE
    await DONE


async def test_all_of() -> None:
    """It ends when every part has."""
    loop = asyncio.get_running_loop()
    parts: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]
    for part in parts:
        loop.call_soon(part.set_result, 1)
    await AllOf(parts)
    assert all(part.done() for part in parts)
    await AllOf([])


async def test_first_error() -> None:
    """All parts are waited for, and the first error among them is raised."""
    loop = asyncio.get_running_loop()
    parts: list[asyncio.Future[int]] = [loop.create_future() for _ in range(3)]
    loop.call_soon(parts[0].set_exception, BackplaneUnavailableError("one"))
    loop.call_soon(parts[1].set_exception, BackplaneUnavailableError("two"))
    loop.call_later(0.001, parts[2].set_result, 1)
    with pytest.raises(BackplaneUnavailableError, match="one"):
        await AllOf(parts)
    assert parts[2].done()
