"""The one place where tasks are born, named, watched and awaited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any  # a task's result type does not matter to its owner

__all__ = ["Supervisor"]

logger = logging.getLogger(__name__)


class Supervisor:
    """Owns tasks: each one is named, its failure is reported, and `close` has awaited them all.

    Args:
        name: Prefix of the task names, for debuggers and logs.
        on_failure: Called with the exception of a task started as vital; without it the failure is logged only.
    """

    __slots__ = ("_closing", "_name", "_on_failure", "_tasks")

    def __init__(self, name: str, *, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._name = name
        self._on_failure = on_failure
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def __len__(self) -> int:
        """The number of running tasks."""
        return len(self._tasks)

    def open(self) -> None:
        """Accept tasks again after a `close`."""
        self._closing = False

    def start(
        self, work: Coroutine[Any, Any, Any], name: str, *, vital: bool = False, context: Context | None = None
    ) -> asyncio.Task[Any]:
        """Start `work` as a task of this owner.

        Args:
            work: A coroutine that nobody else awaits.
            name: What it does, for its task name.
            vital: Its failure is handed to `on_failure`; otherwise it is contained: logged with its traceback.
            context: Context variables for the task; a copy of the current ones by default.

        Raises:
            RuntimeError: The supervisor is closing; `work` is closed unrun.
        """
        if self._closing:
            work.close()
            raise RuntimeError(f"{self._name} is closing; cannot start {name}.")
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}: {name}", context=context)
        self._tasks.add(task)
        task.add_done_callback(self._vital_done if vital else self._contained_done)
        return task

    def _contained_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Task failed: %s", task.get_name(), exc_info=error)

    def _vital_done(self, task: asyncio.Task[Any]) -> None:
        self._contained_done(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._on_failure is not None:
            self._on_failure(error)

    async def close(self, *, grace: float = 0.0) -> None:
        """Wait up to `grace` seconds for the tasks, cancel the rest, and return when all have ended.

        Starting tasks is refused from here on. If the caller is cancelled, the tasks are cancelled at once and still
        awaited. Calling it from one of its own tasks leaves that task out.
        """
        self._closing = True
        current = asyncio.current_task()
        tasks = {task for task in self._tasks if task is not current}
        if tasks and grace > 0:
            try:
                await asyncio.wait(tasks, timeout=grace)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
                raise
        tasks = {task for task in tasks if not task.done()}
        for task in tasks:
            task.cancel()
        while pending := {task for task in tasks if not task.done()}:
            await asyncio.wait(pending)
