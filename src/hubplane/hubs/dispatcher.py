"""One message, one outcome: find the method, bind, authorize, run, answer.

Source: signalr-server sections 4.5 and 5.2-5.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import BindingError, ConfigurationError, HubException
from hubplane.hubs import failures
from hubplane.hubs.call import CallSite, HubCall, MethodTable, ReleaseSlot
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
from hubplane.hubs.methods import HubMethod, HubMethods, call_in_thread, is_async_function
from hubplane.hubs.port import HubPort
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.options import HubOptions
from hubplane.protocol.hub_protocol import ArgumentDecoder, HubProtocol
from hubplane.protocol.messages import (
    Completion,
    HubMessage,
    Invocation,
    Raw,
    StreamInvocation,
)
from hubplane.supervisor import Supervisor

__all__ = ["HubDispatcher"]

logger = logging.getLogger(__name__)


class _Refused(Exception):  # noqa: N818 - a message to the caller, not an error of the hub
    """The call may not go on; the text is for the client."""


class HubDispatcher:
    """Runs the methods and callbacks of one hub.

    Args:
        hub_type: The application's class.
        options: How the hub behaves.
        lifetime: Who hears what.
        protocols: The hub protocols that its connections may speak.
        filters: Hub filters, outermost first.
        authorize: Asked before each method; None admits every call.
        hub_factory: Makes an instance of exactly `hub_type` per call; None calls it without arguments.
        supervisor: Owner of the tasks for streams.

    Raises:
        ConfigurationError: The hub's methods cannot be served; the text says which and why.
    """

    __slots__ = (
        "_authorize",
        "_chain",
        "_connected",
        "_detailed",
        "_direct",
        "_disconnected",
        "_has_connected",
        "_has_disconnected",
        "_hub_factory",
        "_lifetime",
        "_methods",
        "_options",
        "_port",
        "_sites",
        "_supervisor",
        "_tables",
    )

    def __init__(
        self,
        hub_type: type[Hub],
        *,
        options: HubOptions,
        lifetime: HubLifetimeManager,
        protocols: Sequence[HubProtocol],
        filters: Sequence[HubFilter] = (),
        authorize: AuthorizeHook | None = None,
        hub_factory: Callable[[], Hub] | None = None,
        supervisor: Supervisor,
    ) -> None:
        if Hub not in getattr(hub_type, "__mro__", ()):
            raise ConfigurationError(f"A hub is a class derived from hubplane.Hub, not {hub_type!r}.")
        self._options = options
        self._detailed = options.enable_detailed_errors
        self._lifetime = lifetime
        self._port = HubPort(lifetime)
        self._supervisor = supervisor
        self._authorize = authorize
        self._hub_factory: Callable[[], Hub] = hub_factory or hub_type
        self._methods = HubMethods(hub_type, Hub)
        self._tables = {protocol.name: _table(self._methods, protocol) for protocol in protocols}
        self._sites: dict[HubConnection, CallSite] = {}
        self._chain = invocation_chain(filters, _run)
        self._direct = self._chain is None and authorize is None
        self._connected = connected_chain(filters, _connected)
        self._disconnected = disconnected_chain(filters, _disconnected)
        self._has_connected = hub_type.on_connected is not Hub.on_connected or self._connected is not _connected
        self._has_disconnected = (
            hub_type.on_disconnected is not Hub.on_disconnected or self._disconnected is not _disconnected
        )

    # -- lifecycle ----------------------------------------------------------------------------------------------

    async def on_connected(self, connection: HubConnection) -> None:
        """Run the hub's `on_connected`. Its exceptions come out; the connection is then unknown here again."""
        self._port.open()
        site = CallSite(connection, self._port, self._tables[connection.protocol_name])
        self._sites[connection] = site
        if not self._has_connected:
            return
        try:
            await self._connected(HubLifetimeContext(self._hub(HubCall(site, results_allowed=False))))
        except BaseException:
            del self._sites[connection]
            raise

    async def on_disconnected(self, connection: HubConnection, error: Exception | None) -> None:
        """Run the hub's `on_disconnected`, unless `on_connected` failed. Its exceptions come out."""
        site = self._sites.pop(connection, None)
        if site is not None and self._has_disconnected:
            await self._disconnected(HubLifetimeContext(self._hub(HubCall(site))), error)

    def _hub(self, call: HubCall) -> Hub:
        hub = self._hub_factory()
        hub._hub_call = call  # noqa: SLF001 - the one place where a hub is bound
        return hub

    # -- plain calls --------------------------------------------------------------------------------------------

    def needs_slot(self, connection: HubConnection, message: Invocation) -> bool:
        """Whether `message` is a plain call that can run: to be awaited with `invoke`, holding a slot.

        Everything else goes to `handle`. Arguments are bound here, so that a call that does not fit is answered
        without waiting for a slot; asking again is cheap.
        """
        site = self._sites.get(connection)
        if site is None:
            return False
        entry = site.table.get(message.target) or self._find(site, message.target)
        return (
            entry is not None
            and entry[0].is_plain
            and not message.stream_ids
            and (type(message.arguments) is not Raw or self._bind(site, entry, message))
            and message.binding_error is None
        )

    async def invoke(
        self, connection: HubConnection, invocation: Invocation, release_slot: ReleaseSlot | None = None
    ) -> None:
        """Run a plain call and write its completion; without an invocation id nothing is written.

        Args:
            connection: The caller.
            invocation: For which `needs_slot` was true.
            release_slot: Called when the method begins to wait for its client, so that the next call may start; what
                it returns is called when this call has ended.

        Raises:
            CancelledError: The task was cancelled. Whatever the method raises is answered and logged here.
        """
        site = self._sites.get(connection)
        if site is None:
            return
        entry = site.table.get(invocation.target) or self._find(site, invocation.target)
        arguments = invocation.arguments
        if (
            entry is None
            or invocation.binding_error is not None
            or (type(arguments) is Raw and not self._bind(site, entry, invocation))
        ):
            self._refuse(site, invocation)
            return
        method = entry[0]
        call = HubCall(site, release_slot)
        try:
            hub = self._hub_factory()
            hub._hub_call = call  # noqa: SLF001 - as in _hub, without a call
            if self._direct and method.is_async:
                result = await method.function(hub, *invocation.arguments)
            else:
                result = await self._guarded(hub, method, invocation)
        except _Refused as refusal:
            self._answer_error(site, invocation.invocation_id, str(refusal))
            return
        except asyncio.CancelledError as error:
            # Only a task that was asked to stop may stop; the method may also have awaited something cancelled.
            if _is_cancelled():
                raise
            self._failed(site, method, invocation.invocation_id, error)
            return
        except Exception as error:  # noqa: BLE001 - the boundary to the application's code; logged in _failed
            self._failed(site, method, invocation.invocation_id, error)
            return
        finally:
            call.ended()
        invocation_id = invocation.invocation_id
        if invocation_id is None or connection.closed:
            return
        try:
            payload = site.encode_result(invocation_id, result)
        except Exception as error:  # noqa: BLE001 - the application's types write themselves; the connection logs it
            connection.write_failed(error)
            return
        connection.write(payload)

    async def _guarded(self, hub: Hub, method: HubMethod, message: Invocation | StreamInvocation) -> object:
        """Authorize, check the mode, run inside the filters."""
        context = HubInvocationContext(hub, method, message.arguments)
        if self._authorize is not None:
            if not await self._authorize(context):
                raise _Refused(failures.unauthorized(method.name))
            text = _mode_error(method, message)
            if text is not None:
                raise _Refused(text)
        return await (_run(context) if self._chain is None else self._chain(context))

    def _find(self, site: CallSite, target: str) -> tuple[HubMethod, ArgumentDecoder] | None:
        """The method for an unusual spelling; `site.table` knows the usual ones."""
        method = self._methods.find(target)
        return None if method is None else site.table[method.name]

    def _bind(
        self,
        site: CallSite,
        entry: tuple[HubMethod, ArgumentDecoder],
        message: Invocation | StreamInvocation,
    ) -> bool:
        """Replace the encoded arguments of `message` by objects, or set its `binding_error`."""
        if message.binding_error is not None:
            return False
        try:
            message.arguments = entry[1](cast("Raw", message.arguments))
        except BindingError as error:
            message.binding_error = error.detail
        except Exception as error:  # types are built by the application's code too
            logger.exception(
                "Arguments of '%s' could not be bound.",
                entry[0].name,
                extra={"connection_id": site.connection.connection_id},
            )
            message.binding_error = f"Error binding arguments. {error}"
        return message.binding_error is None

    # -- everything else ----------------------------------------------------------------------------------------

    def handle(self, connection: HubConnection, message: HubMessage) -> None:
        """Take a message that holds no slot: answer it, start it in the background, or pass it on. Never raises."""
        site = self._sites.get(connection)
        if site is None:
            return
        if isinstance(message, (Invocation, StreamInvocation)):
            self._start(site, message)
        elif isinstance(message, Completion):
            self._lifetime.set_connection_result(connection, message)

    def _start(self, site: CallSite, message: Invocation | StreamInvocation) -> None:
        entry = site.table.get(message.target) or self._find(site, message.target)
        if entry is None or (type(message.arguments) is Raw and not self._bind(site, entry, message)):
            self._refuse(site, message)
            return
        text = _mode_error(entry[0], message)
        if text is not None:
            self._answer_error(site, message.invocation_id, text)

    # -- answers ------------------------------------------------------------------------------------------------

    def _refuse(self, site: CallSite, message: Invocation | StreamInvocation) -> None:
        """Answer a call whose method is unknown or whose arguments do not fit."""
        entry = site.table.get(message.target) or self._find(site, message.target)
        error: Exception
        if entry is None:
            name = message.target
            error = HubException("Method does not exist.")
        else:
            name = entry[0].name
            error = BindingError(message.binding_error or "")
        logger.debug("Call of '%s' refused: %s", name, error, extra={"connection_id": site.connection.connection_id})
        text = failures.failed_to_invoke(name, error, detailed=self._detailed)
        self._answer_error(site, message.invocation_id, text)

    def _failed(self, site: CallSite, method: HubMethod, invocation_id: str | None, error: BaseException) -> None:
        logger.error(
            "Failed to invoke hub method '%s'.",
            method.name,
            exc_info=error,
            extra={"connection_id": site.connection.connection_id, "event_id": 8},
        )
        self._answer_error(site, invocation_id, failures.threw(method.name, error, detailed=self._detailed))

    def _answer_error(self, site: CallSite, invocation_id: str | None, text: str) -> None:
        if invocation_id is not None:
            site.connection.write_message(Completion(invocation_id, error=text))


def _table(methods: HubMethods, protocol: HubProtocol) -> MethodTable:
    decoders: dict[HubMethod, ArgumentDecoder] = {}
    for method in methods:
        try:
            decoders[method] = protocol.argument_decoder(method.parameter_types)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The arguments of {methods.hub_type.__qualname__}.{method.python_name} cannot be bound "
                f"in {protocol.name}: {error}"
            ) from error
    return {spelling: (method, decoders[method]) for spelling, method in methods.spellings().items()}


def _mode_error(method: HubMethod, message: Invocation | StreamInvocation) -> str | None:
    """What is wrong about the kind of the call or the number of its uploads, if anything."""
    if isinstance(message, StreamInvocation):
        if not method.is_stream:
            return failures.not_a_stream(method.name)
    elif method.is_stream:
        return failures.without_streaming(method.name)
    if len(message.stream_ids) != len(method.uploads):
        return failures.wrong_stream_count(method.name, len(message.stream_ids), len(method.uploads))
    return None


def _is_cancelled() -> bool:
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
