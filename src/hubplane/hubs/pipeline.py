"""What happens between a bound call and its result: instance, authorization, checks of the mode, filters, method.

Source: signalr-server section 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from hubplane.hubs import failures
from hubplane.hubs.call import HubCall
from hubplane.hubs.filters import (
    AuthorizeHook,
    HubFilter,
    HubInvocationContext,
    HubLifetimeContext,
    connected_chain,
    disconnected_chain,
    invocation_chain,
)
from hubplane.hubs.hub import Hub
from hubplane.hubs.methods import HubMethod, call_in_thread, is_async_function
from hubplane.protocol.messages import Invocation, StreamInvocation

__all__ = ["HubPipeline", "Refused", "is_being_cancelled", "mode_error"]


class Refused(Exception):  # noqa: N818 - a message to the caller, not an error of the hub
    """The call may not go on; the text is for the client."""


class HubPipeline:
    """Makes hub instances and runs what they declare, inside the filters. Built once per hub.

    Attributes:
        hub_factory: Makes an instance per call.
        is_direct: Neither filters nor authorization stand around methods: they may be called without `run`.
        has_authorization: Whether `authorize` was given.
    """

    __slots__ = (
        "_authorize",
        "_chain",
        "_connected",
        "_disconnected",
        "_has_connected",
        "_has_disconnected",
        "has_authorization",
        "hub_factory",
        "is_direct",
    )

    def __init__(
        self,
        hub_type: type[Hub],
        *,
        filters: Sequence[HubFilter],
        authorize: AuthorizeHook | None,
        hub_factory: Callable[[], Hub] | None,
    ) -> None:
        self.hub_factory: Callable[[], Hub] = hub_factory or hub_type
        self._authorize = authorize
        self.has_authorization = authorize is not None
        self._chain = invocation_chain(filters, _run)
        self.is_direct = self._chain is None and authorize is None
        self._connected = connected_chain(filters, _connected)
        self._disconnected = disconnected_chain(filters, _disconnected)
        self._has_connected = hub_type.on_connected is not Hub.on_connected or self._connected is not _connected
        self._has_disconnected = (
            hub_type.on_disconnected is not Hub.on_disconnected or self._disconnected is not _disconnected
        )

    def hub(self, call: HubCall) -> Hub:
        """A new instance, bound to `call`."""
        hub = self.hub_factory()
        hub._hub_call = call  # noqa: SLF001 - set from outside, as the application's __init__ need not call ours
        return hub

    async def run(self, hub: Hub, method: HubMethod, message: Invocation | StreamInvocation) -> object:
        """Run a method and return its result, for a stream method its stream.

        Raises:
            Refused: The user may not call it, or not in this way.
        """
        context = HubInvocationContext(hub, method, message.arguments)
        if self._authorize is not None:
            if not await self._authorize(context):
                raise Refused(failures.unauthorized(method.name))
            text = mode_error(method, message)
            if text is not None:
                raise Refused(text)
        return await (_run(context) if self._chain is None else self._chain(context))

    async def connected(self, call: HubCall) -> None:
        """Run the hub's `on_connected`, if it has one."""
        if self._has_connected:
            await self._connected(HubLifetimeContext(self.hub(call)))

    async def disconnected(self, call: HubCall, error: Exception | None) -> None:
        """Run the hub's `on_disconnected`, if it has one."""
        if self._has_disconnected:
            await self._disconnected(HubLifetimeContext(self.hub(call)), error)


def mode_error(method: HubMethod, message: Invocation | StreamInvocation) -> str | None:
    """What is wrong about the kind of a call or the number of its uploads, if anything."""
    if isinstance(message, StreamInvocation):
        if not method.is_stream:
            return failures.not_a_stream(method.name)
    elif method.is_stream:
        return failures.without_streaming(method.name)
    if len(message.stream_ids) != len(method.uploads):
        return failures.wrong_stream_count(method.name, len(message.stream_ids), len(method.uploads))
    return None


def is_being_cancelled() -> bool:
    """Whether the running task was asked to stop; a method may also have awaited something that was cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _run(context: HubInvocationContext) -> Awaitable[object]:
    return context.method.run(context.hub, context.arguments)


async def _connected(context: HubLifetimeContext) -> None:
    callback = context.hub.on_connected
    await (callback() if is_async_function(callback) else call_in_thread(callback))


async def _disconnected(context: HubLifetimeContext, error: Exception | None) -> None:
    callback = context.hub.on_disconnected
    await (callback(error) if is_async_function(callback) else call_in_thread(callback, error))
