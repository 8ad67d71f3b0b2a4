"""How an application makes its hubs: a class, a function, or something that is closed when the call has ended.

Source: signalr-server section 5.2, "a new hub instance and a new service scope per call, disposed afterwards".
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import TypeAlias, cast

from hubplane.hubs.hub import Hub

__all__ = ["CallResources", "HubFactory", "Made", "open_hub"]

Made: TypeAlias = (
    Hub
    | Awaitable[Hub]
    | AbstractAsyncContextManager[Hub]
    | AbstractContextManager[Hub]
    | AsyncIterator[Hub]
    | Iterator[Hub]
)
HubFactory: TypeAlias = Callable[[], Made]
"""Makes the hub for one call: returns it, awaits it, yields it, or is a context manager that gives it.

A factory that yields runs on behind its `yield` when the call has ended, for a stream when its last item is sent. Plain
functions run on the event loop.
"""


class CallResources(AsyncExitStack):
    """What is closed when a stream has ended.

    Attributes:
        failure: What the stream has raised, answered already; its resources are to see it.
    """

    failure: BaseException | None = None

    async def close(self) -> Exception | None:
        """Close everything; the exception of that, if it is a new one."""
        failure = self.failure
        try:
            await self.__aexit__(
                type(failure) if failure else None, failure, failure.__traceback__ if failure else None
            )
        except Exception as error:  # noqa: BLE001 - the boundary to the application's code; the caller answers
            return None if error is failure else error
        return None


async def open_hub(made: object, resources: AsyncExitStack) -> Hub:
    """The hub in what a factory has made; what has to be closed goes into `resources`.

    Raises:
        TypeError: There is no hub in it.
    """
    while not isinstance(made, Hub):
        if isinstance(made, AsyncGenerator):
            made = await resources.enter_async_context(_yielding(made))
        elif isinstance(made, Generator):
            made = resources.enter_context(_yielding_plainly(made))
        elif isinstance(made, AbstractAsyncContextManager):
            made = await resources.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
        elif isinstance(made, AbstractContextManager):
            made = resources.enter_context(cast("AbstractContextManager[object]", made))
        elif inspect.isawaitable(made):
            made = await made
        else:
            raise TypeError(f"The hub factory made {type(made).__name__}, which is no hub.")
    return made


def _yielding(generator: AsyncGenerator[object, None]) -> AbstractAsyncContextManager[object]:
    return asynccontextmanager(lambda: generator)()


def _yielding_plainly(generator: Generator[object, None, None]) -> AbstractContextManager[object]:
    return contextmanager(lambda: generator)()
