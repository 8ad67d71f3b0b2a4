"""How an application makes its hubs and filters: a class, a function, or something closed when the call has ended.

Source: signalr-server section 5.2, "a new hub instance and a new service scope per call, disposed afterwards"; 5.11,
"filters given by type are resolved per call".
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
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar, cast  # Any: the arguments of the application's own constructors

from hubplane.errors import ConfigurationError
from hubplane.hubs.call import HubCall
from hubplane.hubs.context import HubCallerContext, caller_context
from hubplane.hubs.depends import find_marker
from hubplane.hubs.hub import Hub

__all__ = ["CallResources", "HubFactory", "Made", "open_made", "per_call"]

T = TypeVar("T")

Made: TypeAlias = (
    Hub
    | Awaitable[Hub]
    | AbstractAsyncContextManager[Hub]
    | AbstractContextManager[Hub]
    | AsyncIterator[Hub]
    | Iterator[Hub]
)
HubFactory: TypeAlias = Callable[[], Made] | Callable[[HubCallerContext], Made]
"""Makes the hub for one call: returns it, awaits it, yields it, or is a context manager that gives it.

A function that takes an argument is given the caller's context.

A factory that yields runs on behind its `yield` when the call has ended, for a stream when its last item is sent. Plain
functions run on the event loop.
"""


class CallResources(AsyncExitStack):
    """What is closed when a call, or a stream, has ended. A failed call stays one, whatever a resource swallows.

    Attributes:
        failure: What the stream has raised, answered already; its resources are to see it.
    """

    failure: BaseException | None = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        """Close everything."""
        await super().__aexit__(kind, error, traceback)
        return False

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


def per_call(factory: Callable[..., Any]) -> Callable[[HubCall], object]:
    """A factory as something that is given the call.

    Raises:
        ConfigurationError: It is no factory, or wants more than the caller's context.
    """
    if not callable(factory):
        raise ConfigurationError(f"A factory is a class or a function, not {factory!r}.")
    try:
        signature = _signature(factory)
    except (TypeError, ValueError):  # some callables written in C do not tell
        return lambda _: factory()
    for each in signature.parameters.values():
        if find_marker(each) is not None or "Depends(" in str(each.annotation):
            raise ConfigurationError(
                f"Parameter '{each.name}' of {_name(factory)} is declared with Depends, which a factory is not given. "
                "Declare it in the constructor of the class itself, and give that class."
            )
    needed = [
        each
        for each in signature.parameters.values()
        if each.default is each.empty and each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
    ]
    if not needed:
        return lambda _: factory()
    if len(needed) == 1 and needed[0].kind is not needed[0].KEYWORD_ONLY and not isinstance(factory, type):
        return lambda call: factory(caller_context(call.site))
    names = ", ".join(each.name for each in needed)
    raise ConfigurationError(
        f"{_name(factory)} wants {names}. Give a factory that makes it, which may take "
        "the caller's context, or declare them with FastAPI's Depends."
    )


def _signature(factory: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(factory, eval_str=True)
    except Exception:  # noqa: BLE001 - an annotation is the application's code; here nobody needs to know the types
        return inspect.signature(factory)


def _name(factory: Callable[..., Any]) -> str:
    return str(getattr(factory, "__qualname__", factory))


async def open_made(made: object, kind: type[T], resources: AsyncExitStack) -> T:
    """The hub, or filter, in what a factory has made; what has to be closed goes into `resources`.

    Raises:
        TypeError: There is none in it.
    """
    given: object = None
    while not isinstance(made, kind):
        if made is given:  # a context manager, such as a file, that is what it gives
            break
        given = made
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
            break
    else:
        return made
    what = "hub" if kind is Hub else "filter"
    raise TypeError(f"The {what} factory made {type(made).__name__}, which is no {what}.")


def _yielding(generator: AsyncGenerator[object, None]) -> AbstractAsyncContextManager[object]:
    return asynccontextmanager(lambda: generator)()


def _yielding_plainly(generator: Generator[object, None, None]) -> AbstractContextManager[object]:
    return contextmanager(lambda: generator)()
