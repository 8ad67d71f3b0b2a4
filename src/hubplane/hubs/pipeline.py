"""What happens between a bound call and its result: instance, authorization, checks of the mode, filters, method.

Source: signalr-server section 5.3.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import Any  # what dependencies are is the application's choice

from hubplane.hubs import failures
from hubplane.hubs.authorization import AuthorizationContext, is_allowed
from hubplane.hubs.call import HubCall
from hubplane.hubs.context import caller_context
from hubplane.hubs.depends import Dependencies
from hubplane.hubs.factories import CallResources, HubFactory, open_made, per_call
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
from hubplane.hubs.tracing import HubSpans
from hubplane.protocol.messages import Invocation, StreamInvocation

__all__ = ["HubPipeline", "Refused", "is_being_cancelled", "mode_error"]


class Refused(Exception):  # noqa: N818 - a message to the caller, not an error of the hub
    """The call may not go on; the text is for the client."""


class HubPipeline:
    """Makes hub instances and runs what they declare, inside the filters. Built once per hub.

    Attributes:
        hub_factory: Makes an instance per call.
        is_direct: Neither filters, spans, authorization of all methods, nor a factory of the application's stand around
            methods: those without policies may be called without `run`.
    """

    __slots__ = (
        "_authorize",
        "_chain",
        "_connected",
        "_dependencies",
        "_disconnected",
        "_has_connected",
        "_has_disconnected",
        "_has_refreshed",
        "_hub_type",
        "_make",
        "_spans",
        "hub_factory",
        "is_direct",
    )

    def __init__(
        self,
        hub_type: type[Hub],
        *,
        filters: Sequence[HubFilter],
        authorize: AuthorizeHook | None,
        hub_factory: HubFactory | None,
        spans: HubSpans | None = None,
    ) -> None:
        self._hub_type = hub_type
        self._spans = spans
        self.hub_factory: HubFactory = hub_factory or hub_type
        self._dependencies = Dependencies.of(hub_type) if hub_factory is None else None
        self._make = None if self._dependencies is not None else per_call(self.hub_factory)
        self._authorize = authorize
        self._chain = invocation_chain(filters, _run)
        self.is_direct = (
            self._chain is None
            and authorize is None
            and spans is None
            and self._dependencies is None
            and isinstance(self.hub_factory, type)
        )
        self._connected = connected_chain(filters, _connected)
        self._disconnected = disconnected_chain(filters, _disconnected)
        self._has_connected = (
            hub_type.on_connected is not Hub.on_connected or self._connected is not _connected or spans is not None
        )
        self._has_disconnected = (
            hub_type.on_disconnected is not Hub.on_disconnected
            or self._disconnected is not _disconnected
            or spans is not None
        )

        self._has_refreshed = (
            hub_type.on_authentication_refreshed is not Hub.on_authentication_refreshed or spans is not None
        )

    def guards(self, method: HubMethod) -> bool:
        """Whether somebody is asked before `method` may be called."""
        return self._authorize is not None or bool(method.policies)

    async def hub(self, call: HubCall, resources: AsyncExitStack) -> Hub:
        """A new instance, bound to `call`; what its factory has opened is closed with `resources`."""
        if self._make is None:
            return _bound(self._hub_type(**await self._solve(self._dependencies, call, resources)), call)
        made = self._make(call)
        return _bound(made if isinstance(made, Hub) else await open_made(made, Hub, resources), call)

    @staticmethod
    async def _solve(dependencies: Dependencies | None, call: HubCall, resources: AsyncExitStack) -> dict[str, Any]:
        if dependencies is None:
            return {}
        if call.solved is None:
            call.solved = {}
        return await dependencies.solve(caller_context(call.site), call.solved, resources)

    async def run(self, call: HubCall, method: HubMethod, message: Invocation | StreamInvocation) -> object:
        """Run a method that is no stream on a new instance, and return its result.

        Raises:
            Refused: The user may not call it, or not in this way.
        """
        if self._make is not None and method.dependencies is None:
            made = self._make(call)
            if isinstance(made, Hub):  # nearly always, and there is nothing to close
                return await self._run_on(_bound(made, call), call, method, message, None)
            async with CallResources() as resources:
                hub = _bound(await open_made(made, Hub, resources), call)
                return await self._run_on(hub, call, method, message, None)
        async with CallResources() as resources:
            return await self._run_on(await self.hub(call, resources), call, method, message, resources)

    async def _run_on(
        self,
        hub: Hub,
        call: HubCall,
        method: HubMethod,
        message: Invocation | StreamInvocation,
        resources: AsyncExitStack | None,
    ) -> object:
        context = HubInvocationContext(hub, method, message.arguments)
        if self.guards(method):
            await self._admit(context, message)
        if self._spans is None:
            return await self._call(context, call, resources)
        with self._spans.invocation(call.site, method, message.headers):
            return await self._call(context, call, resources)

    async def _call(self, context: HubInvocationContext, call: HubCall, resources: AsyncExitStack | None) -> object:
        dependencies = context.method.dependencies
        if dependencies is not None and resources is not None:
            context.injected = await self._solve(dependencies, call, resources)
        return await (_run(context) if self._chain is None else self._chain(context))

    async def stream(
        self, call: HubCall, method: HubMethod, message: StreamInvocation, resources: AsyncExitStack
    ) -> object:
        """Run a stream method on a new instance and return its stream, whose end also ends `resources`.

        Raises:
            Refused: The user may not call it, or not in this way.
        """
        context = HubInvocationContext(await self.hub(call, resources), method, message.arguments)
        if self.guards(method):
            await self._admit(context, message)
        if self._spans is not None:
            resources.enter_context(self._spans.invocation(call.site, method, message.headers))
        return await self._call(context, call, resources)

    async def _admit(self, context: HubInvocationContext, message: Invocation | StreamInvocation) -> None:
        if not await self._allows(context):
            raise Refused(failures.unauthorized(context.method.name))
        text = mode_error(context.method, message)
        if text is not None:
            raise Refused(text)

    async def _allows(self, context: HubInvocationContext) -> bool:
        if self._authorize is not None and not await self._authorize(context):
            return False
        method = context.method
        if not method.policies:
            return True
        request = context.context.request
        asked = AuthorizationContext(
            user=request.user,
            request=request,
            hub_type=self._hub_type,
            method_name=method.name,
            arguments=tuple(context.arguments),
        )
        return await is_allowed(method.policies, asked)

    async def connected(self, call: HubCall) -> None:
        """Run the hub's `on_connected`, if it has one."""
        if self._has_connected:
            async with CallResources() as resources:
                context = HubLifetimeContext(await self.hub(call, resources))
                if self._spans is not None:
                    resources.enter_context(self._spans.connected())
                await self._connected(context)

    async def refreshed(self, call: HubCall) -> None:
        """Run the hub's `on_authentication_refreshed`, if it has one."""
        if self._has_refreshed:
            async with CallResources() as resources:
                callback = (await self.hub(call, resources)).on_authentication_refreshed
                if self._spans is not None:
                    resources.enter_context(self._spans.authentication_refreshed(call.site))
                await (callback() if is_async_function(callback) else call_in_thread(callback))

    async def disconnected(self, call: HubCall, error: Exception | None) -> None:
        """Run the hub's `on_disconnected`, if it has one."""
        if self._has_disconnected:
            async with CallResources() as resources:
                context = HubLifetimeContext(await self.hub(call, resources))
                if self._spans is not None:
                    resources.enter_context(self._spans.disconnected(call.site))
                await self._disconnected(context, error)


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


def _bound(hub: Hub, call: HubCall) -> Hub:
    hub._hub_call = call  # noqa: SLF001 - set from outside, as the application's __init__ need not call ours
    return hub


def _run(context: HubInvocationContext) -> Awaitable[object]:
    return context.method.run(context.hub, context.arguments, context.injected)


async def _connected(context: HubLifetimeContext) -> None:
    callback = context.hub.on_connected
    await (callback() if is_async_function(callback) else call_in_thread(callback))


async def _disconnected(context: HubLifetimeContext, error: Exception | None) -> None:
    callback = context.hub.on_disconnected
    await (callback(error) if is_async_function(callback) else call_in_thread(callback, error))
