"""Code around hub methods and lifecycle callbacks, and the place of authorization.

Source: signalr-server sections 5.3, 5.10 and 5.11.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from hubplane.hubs.context import HubCallerContext
from hubplane.hubs.hub import Hub
from hubplane.hubs.methods import HubMethod

__all__ = [
    "AuthorizeHook",
    "HubFilter",
    "HubInvocationContext",
    "HubLifetimeContext",
    "NextConnected",
    "NextDisconnected",
    "NextInvocation",
    "connected_chain",
    "disconnected_chain",
    "invocation_chain",
]


class HubInvocationContext:
    """One call, as filters and authorization see it.

    Attributes:
        hub: The instance that will run the method.
        method: The method: `name` is the declared name.
        arguments: What it will be called with; a filter may change the list. Upload streams are among them.
    """

    __slots__ = ("arguments", "hub", "method")

    def __init__(self, hub: Hub, method: HubMethod, arguments: Sequence[object]) -> None:
        self.hub = hub
        self.method = method
        self.arguments = list(arguments)

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

    One instance serves all connections at the same time. An exception counts as the method's, or the callback's, own.
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


def _overriding(filters: Sequence[HubFilter], name: str) -> list[HubFilter]:
    """The filters that do something in this hook, innermost first."""
    return [each for each in reversed(filters) if getattr(type(each), name) is not getattr(HubFilter, name)]


def invocation_chain(filters: Sequence[HubFilter], innermost: NextInvocation) -> NextInvocation | None:
    """The filters around `innermost`, built once; None when there is nothing around it."""
    chain = innermost
    for each in _overriding(filters, "invoke_method"):
        chain = partial(each.invoke_method, next_=chain)
    return None if chain is innermost else chain


def connected_chain(filters: Sequence[HubFilter], innermost: NextConnected) -> NextConnected:
    """The filters around the hub's `on_connected`."""
    for each in _overriding(filters, "on_connected"):
        innermost = partial(each.on_connected, next_=innermost)
    return innermost


def disconnected_chain(filters: Sequence[HubFilter], innermost: NextDisconnected) -> NextDisconnected:
    """The filters around the hub's `on_disconnected`."""
    for each in _overriding(filters, "on_disconnected"):
        innermost = partial(each.on_disconnected, next_=innermost)
    return innermost
