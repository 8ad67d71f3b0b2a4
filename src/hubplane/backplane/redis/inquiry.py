"""One question to several servers at once: the first answer counts, and those that are not much later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from hubplane.backplane.redis.options import Endpoint
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["ask_all"]

# After the first answer, how long the others have; seconds.
_LATE_SECONDS = 0.2

AnswerT = TypeVar("AnswerT")


async def ask_all(
    endpoints: Iterable[Endpoint], ask: Callable[[Endpoint], Awaitable[AnswerT]], supervisor: Supervisor
) -> list[tuple[Endpoint, AnswerT | BackplaneUnavailableError]]:
    """What each server says, or why it says nothing, in the order in which that came; who is late is left out.

    Cancellation ends the questions.

    Args:
        endpoints: The servers.
        ask: Asks one of them; may raise `BackplaneUnavailableError`.
        supervisor: Owns the questions.
    """

    async def caught(endpoint: Endpoint) -> AnswerT | BackplaneUnavailableError:
        try:
            return await ask(endpoint)
        except BackplaneUnavailableError as error:
            return error

    tasks = {supervisor.start(caught(endpoint), f"ask {endpoint}"): endpoint for endpoint in endpoints}
    said: list[tuple[Endpoint, AnswerT | BackplaneUnavailableError]] = []
    answered = False
    pending = set(tasks)
    try:
        while pending:
            done, pending = await asyncio.wait(
                pending, timeout=_LATE_SECONDS if answered else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                found = task.result()
                answered = answered or not isinstance(found, BackplaneUnavailableError)
                said.append((tasks[task], found))
    finally:
        for task in pending:
            task.cancel()
    return said
