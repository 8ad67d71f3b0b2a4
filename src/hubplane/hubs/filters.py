"""Code around hub methods and lifecycle callbacks, and the place of authorization.

Source: signalr-server sections 5.3, 5.10 and 5.11.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias  # what a filter's factory makes may be wrapped in many ways

from hubplane.errors import ConfigurationError
from hubplane.hubs.context import HubCallerContext, caller_context
from hubplane.hubs.depends import Dependencies
from hubplane.hubs.factories import open_made, per_call
from hubplane.hubs.hub import Hub
from hubplane.hubs.methods import HubMethod

__all__ = [
    "AuthorizeHook",
    "FilterFactory",
    "HubFilter",
    "HubInvocationContext",
    "HubLifetimeContext",
    "NextConnected",
    "NextDisconnected",
    "NextInvocation",
    "connected_chain",
    "disconnected_chain",
    "filters_of",
    "invocation_chain",
]


class HubInvocationContext:
    """One call, as filters and authorization see it.

    Attributes:
        hub: The instance that will run the method.
        method: The method: `name` is the declared name.
        arguments: What it will be called with; a filter may change the list. Upload streams are among them.
        injected: The method's dependencies by name; None when it has none.
    """

    __slots__ = ("arguments", "hub", "injected", "method")

    def __init__(self, hub: Hub, method: HubMethod, arguments: Sequence[object]) -> None:
        self.hub = hub
        self.method = method
        self.arguments = list(arguments)
        self.injected: dict[str, Any] | None = None

    @property
    def context(self) -> HubCallerContext:
        """The connection that calls."""
        return self.hub.context


class HubLifetimeContext:
    """A connection that begins or ends, as filters see it.

    Attributes:
        hub: The instance whose callback will run.
    """

    __slots__ = ("hub",)

    def __init__(self, hub: Hub) -> None:
        self.hub = hub

    @property
    def context(self) -> HubCallerContext:
        """The connection."""
        return self.hub.context


NextInvocation: TypeAlias = Callable[[HubInvocationContext], Awaitable[object]]
NextConnected: TypeAlias = Callable[[HubLifetimeContext], Awaitable[None]]
NextDisconnected: TypeAlias = Callable[[HubLifetimeContext, Exception | None], Awaitable[None]]
AuthorizeHook: TypeAlias = Callable[[HubInvocationContext], Awaitable[bool]]
"""Decides whether a call may go on; asked after binding and before everything else."""


class HubFilter:
    """Override what you need. The filter registered first is the outermost.

    Given as an instance, that one serves all connections at the same time. Given as a class, or a factory, one is made
    for each call. An exception counts as the method's, or the callback's, own.
    """

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        """Around a hub method; what it returns is the result. For a stream method that is the stream, not its items."""
        return await next_(invocation)

    async def on_connected(self, lifetime: HubLifetimeContext, next_: NextConnected) -> None:
        """Around the hub's `on_connected`."""
        await next_(lifetime)

    async def on_disconnected(
        self, lifetime: HubLifetimeContext, error: Exception | None, next_: NextDisconnected
    ) -> None:
        """Around the hub's `on_disconnected`."""
        await next_(lifetime, error)


FilterFactory: TypeAlias = HubFilter | type[HubFilter] | Callable[[], Any] | Callable[[HubCallerContext], Any]
"""A filter; or a class of filters, or a function, that makes one for each call, in the ways of a `HubFactory`.

A filter that was made and is a context manager is entered and left.
"""


class _MadeFilter(HubFilter):
    """Makes a filter for each call.

    Args:
        factory: The class or function.

    Raises:
        ConfigurationError: It cannot be called without arguments or with the caller's context.
    """

    def __init__(self, factory: Callable[..., Any]) -> None:
        self.factory = factory
        self._dependencies = Dependencies.of(factory) if isinstance(factory, type) else None
        self._make = None if self._dependencies is not None else per_call(factory)

    @asynccontextmanager
    async def _filter(self, hub: Hub) -> Any:
        call = hub._hub_call  # noqa: SLF001 - the pipeline has bound it
        before = dict(call.solved or {})
        async with AsyncExitStack() as resources:
            # What is closed here is made anew for who comes later, because a filter outside may try a call again.
            resources.callback(lambda: setattr(call, "solved", before))
            if self._dependencies is not None:
                if call.solved is None:
                    call.solved = {}
                context = caller_context(call.site)
                made = self.factory(**await self._dependencies.solve(context, call.solved, resources))
            elif self._make is not None:
                given = self._make(call)
                made = await open_made(given, HubFilter, resources)
                if made is not given and not inspect.isawaitable(given):
                    yield made  # what it came out of has entered it, or chose not to
                    return
            if isinstance(made, AbstractAsyncContextManager):
                await resources.enter_async_context(made)
            elif isinstance(made, AbstractContextManager):
                resources.enter_context(made)
            yield made

    async def invoke_method(self, invocation: HubInvocationContext, next_: NextInvocation) -> object:
        async with self._filter(invocation.hub) as made:
            return await made.invoke_method(invocation, next_)

    async def on_connected(self, lifetime: HubLifetimeContext, next_: NextConnected) -> None:
        async with self._filter(lifetime.hub) as made:
            await made.on_connected(lifetime, next_)

    async def on_disconnected(
        self, lifetime: HubLifetimeContext, error: Exception | None, next_: NextDisconnected
    ) -> None:
        async with self._filter(lifetime.hub) as made:
            await made.on_disconnected(lifetime, error, next_)


def filters_of(given: Sequence[FilterFactory]) -> tuple[HubFilter, ...]:
    """Filters, of which those that are made for each call are made by filters of ours.

    Raises:
        ConfigurationError: Something is neither a filter nor makes one.
    """
    found = []
    for each in given:
        if isinstance(each, HubFilter):
            found.append(each)
        elif not isinstance(each, type) or issubclass(each, HubFilter):
            found.append(_MadeFilter(each))
        else:
            raise ConfigurationError(f"A filter is a HubFilter, or a class or function that makes one, not {each!r}.")
    return tuple(found)


def _overriding(filters: Sequence[HubFilter], name: str) -> list[HubFilter]:
    """The filters that do something in this hook, innermost first."""
    found = []
    for each in reversed(filters):
        kind = type(each)
        if isinstance(each, _MadeFilter) and isinstance(each.factory, type):
            kind = each.factory
        if getattr(kind, name) is not getattr(HubFilter, name):
            found.append(each)
    return found


def invocation_chain(filters: Sequence[HubFilter], innermost: NextInvocation) -> NextInvocation | None:
    """The filters around `innermost`, built once; None when there is nothing around it."""
    chain = innermost
    for each in _overriding(filters, "invoke_method"):
        chain = _before_call(each.invoke_method, chain)
    return None if chain is innermost else chain


def connected_chain(filters: Sequence[HubFilter], innermost: NextConnected) -> NextConnected:
    """The filters around the hub's `on_connected`."""
    for each in _overriding(filters, "on_connected"):
        innermost = _before_connected(each.on_connected, innermost)
    return innermost


def disconnected_chain(filters: Sequence[HubFilter], innermost: NextDisconnected) -> NextDisconnected:
    """The filters around the hub's `on_disconnected`."""
    for each in _overriding(filters, "on_disconnected"):
        innermost = _before_disconnected(each.on_disconnected, innermost)
    return innermost


# By position, for filters may call their parameters as they like.


def _before_call(
    hook: Callable[[HubInvocationContext, NextInvocation], Awaitable[object]], next_: NextInvocation
) -> NextInvocation:
    return lambda invocation: hook(invocation, next_)


def _before_connected(
    hook: Callable[[HubLifetimeContext, NextConnected], Awaitable[None]], next_: NextConnected
) -> NextConnected:
    return lambda lifetime: hook(lifetime, next_)


def _before_disconnected(
    hook: Callable[[HubLifetimeContext, Exception | None, NextDisconnected], Awaitable[None]], next_: NextDisconnected
) -> NextDisconnected:
    return lambda lifetime, error: hook(lifetime, error, next_)
