"""One message, one outcome: find the method, bind its arguments, run it, answer.

Source: signalr-server sections 4.4, 4.5 and 5.2-5.5.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import cast  # Any: a coroutine's send and yield types do not matter to who awaits it

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import BindingError, ConfigurationError
from hubplane.hubs.background import BackgroundCalls
from hubplane.hubs.call import CallGate, CallSite, HubCall, MethodBinding, MethodTable
from hubplane.hubs.factories import HubFactory
from hubplane.hubs.failures import Answers
from hubplane.hubs.filters import AuthorizeHook, FilterFactory, filters_of
from hubplane.hubs.hub import Hub
from hubplane.hubs.methods import HubMethod, HubMethods
from hubplane.hubs.pipeline import HubPipeline, Refused, is_being_cancelled
from hubplane.hubs.port import HubPort
from hubplane.hubs.tracing import HubSpans
from hubplane.lifetime.base import HubLifetimeManager
from hubplane.options import HubOptions
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import (
    CancelInvocation,
    Completion,
    HubMessage,
    Invocation,
    Raw,
    StreamInvocation,
    StreamItem,
)
from hubplane.supervisor import Supervisor

__all__ = ["HubDispatcher"]

logger = logging.getLogger(__name__)

BINDING_FAILED = (
    "Error binding arguments. Make sure that the types of the provided values match the types of the hub method being "
    "invoked."
)


class HubDispatcher:
    """Runs the methods and callbacks of one hub.

    Args:
        hub_type: The application's class.
        options: How the hub behaves.
        lifetime: Who hears what.
        protocols: The hub protocols that its connections may speak.
        filters: Hub filters, outermost first.
        authorize: Asked before each method; None admits every call.
        hub_factory: Makes an instance of `hub_type` per call; None calls it without arguments.
        supervisor: Owner of the tasks for streams.
        spans: Makes spans around methods and callbacks; None for none.

    Raises:
        ConfigurationError: The hub's methods cannot be served; the text says which and why.
    """

    __slots__ = (
        "_answers",
        "_background",
        "_hub_type",
        "_lifetime",
        "_methods",
        "_pipeline",
        "_port",
        "_sites",
        "_tables",
    )

    def __init__(  # noqa: PLR0913 - its parts, by name
        self,
        hub_type: type[Hub],
        *,
        options: HubOptions,
        lifetime: HubLifetimeManager,
        protocols: Sequence[HubProtocol],
        filters: Sequence[FilterFactory] = (),
        authorize: AuthorizeHook | None = None,
        hub_factory: HubFactory | None = None,
        supervisor: Supervisor,
        spans: HubSpans | None = None,
    ) -> None:
        if Hub not in getattr(hub_type, "__mro__", ()):
            raise ConfigurationError(f"A hub is a class derived from hubplane.Hub, not {hub_type!r}.")
        self._lifetime = lifetime
        self._port = HubPort(lifetime)
        self._methods = HubMethods(hub_type, Hub)
        self._sites: dict[HubConnection, CallSite] = {}
        self._answers = Answers(detailed=options.enable_detailed_errors)
        self._pipeline = HubPipeline(
            hub_type, filters=filters_of(filters), authorize=authorize, hub_factory=hub_factory, spans=spans
        )
        # Called for every direct call, so kept within reach.
        self._hub_type = cast("type[Hub]", self._pipeline.hub_factory)
        self._tables = {
            protocol.name: _table(self._methods, protocol, is_direct=self._pipeline.is_direct) for protocol in protocols
        }
        self._background = BackgroundCalls(
            self._pipeline, self._answers, options=options, supervisor=supervisor, invoke=self._call
        )

    # -- lifecycle ----------------------------------------------------------------------------------------------

    async def on_connected(self, connection: HubConnection) -> None:
        """Run the hub's `on_connected`. Its exceptions come out; the connection is then unknown here again."""
        self._port.open()
        site = CallSite(connection, self._port, self._tables[connection.protocol_name])
        self._sites[connection] = site
        try:
            await self._pipeline.connected(HubCall(site, results_allowed=False))
        except BaseException:
            del self._sites[connection]
            raise

    async def on_disconnected(self, connection: HubConnection, error: Exception | None) -> None:
        """End the connection's streams and run the hub's `on_disconnected`, unless `on_connected` failed.

        Its exceptions come out.
        """
        site = self._sites.pop(connection, None)
        if site is None:
            return
        if site.streams is not None:
            site.streams.connection_ended()
        await self._pipeline.disconnected(HubCall(site), error)

    async def on_authentication_refreshed(self, connection: HubConnection, gate: CallGate) -> None:
        """Run the hub's `on_authentication_refreshed`, in the slot of a call. Its exceptions are logged.

        Raises:
            CancelledError: The task was cancelled.
        """
        site = self._sites.get(connection)
        if site is None:
            return
        if (connection.inbox or connection.unsettled) and not gate.looking:
            gate.look_behind()
        call = HubCall(site, gate.release_slot)
        try:
            await self._pipeline.refreshed(call)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_being_cancelled():
                raise
            self._answers.callback_threw(site, "OnAuthenticationRefreshedAsync", error)
        finally:
            call.release_slot = None
            if call.take_back is not None:
                call.take_back()

    # -- plain calls --------------------------------------------------------------------------------------------

    def needs_slot(self, connection: HubConnection, message: Invocation) -> bool:
        """Whether `message` is a plain call that can run: to be awaited with `invoke`, holding a slot.

        Everything else goes to `handle`. Arguments are bound here, so that a call that does not fit is answered
        without waiting for a slot; asking again is cheap.
        """
        arguments = message.arguments
        if type(arguments) is not Raw:
            return True  # asked before: only what takes a slot is bound here
        site = self._sites.get(connection)
        if site is None:
            return False
        binding = site.table.get(message.target) or self._find(site, message.target)
        if binding is None or not binding.method.is_plain or message.stream_ids or message.binding_error is not None:
            return False
        try:
            message.arguments = binding.decode(arguments)
        except Exception as error:  # noqa: BLE001 - logged in _binding_failed unless it is a BindingError
            self._binding_failed(site, binding, message, error)
            return False
        return True

    # One long function: each call that it does not make is felt in calls per second (benchmarks/run.py, echo16).
    async def take_calls(self, connection: HubConnection, gate: CallGate) -> None:  # noqa: C901, PLR0912, PLR0915
        """Run the plain calls at the head of the inbox, one after another, and write their completions.

        Returns when something else stands at the head, the connection has ended, or the gate has a worker too many.
        One coroutine serves a whole run of calls, because making one for each would cost as much as a small method.

        Args:
            connection: The caller.
            gate: Whose slot this is.

        Raises:
            CancelledError: The task was cancelled. Whatever a method raises is answered and logged here.
        """
        site = self._sites.get(connection)
        if site is None:
            return
        inbox = connection.inbox
        outbound = connection.outbound
        table = site.table
        release_slot = gate.release_slot
        while inbox and not connection.ended:
            message = inbox[0]
            if type(message) is not Invocation:
                return
            binding = table.get(message.target)
            arguments = message.arguments
            if (
                binding is None
                or not binding.is_plain
                or type(arguments) is not Raw
                or message.stream_ids
                or message.binding_error is not None
            ):
                # An unusual spelling, arguments that are already bound or cannot be, or no plain call at all.
                if not self.needs_slot(connection, message):
                    return
                binding = table.get(message.target) or self._find(site, message.target)
                if binding is None:
                    return
                arguments = message.arguments
            else:
                try:
                    arguments = binding.decode(arguments)
                except Exception:  # noqa: BLE001 - `needs_slot` will meet it again, and tell
                    return
                message.arguments = arguments
            inbox.pop(0)
            if (inbox or connection.unsettled) and not gate.looking:
                gate.look_behind()
            method = binding.method
            call = HubCall(site, release_slot)
            invocation_id = message.invocation_id
            try:
                if binding.is_direct:
                    hub = self._hub_type()
                    hub._hub_call = call  # noqa: SLF001 - HubPipeline.hub, without the call
                    result = await method.function(hub, *arguments)
                else:
                    result = await self._pipeline.run(call, method, message)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - logged and answered in _failed
                self._failed(site, method, invocation_id, error)
            else:
                if invocation_id is not None and not connection.closed:
                    try:
                        payload = site.encode_result(invocation_id, result)
                    except Exception as error:  # noqa: BLE001 - application types write themselves; logged there
                        connection.write_failed(error)
                    else:
                        outbound.append(payload)
            finally:
                call.release_slot = None
                if call.take_back is not None:
                    call.take_back()
            if outbound.blocked:
                # A client that calls without reading its answers gets no further ones made.
                await connection.drain()
            if gate.has_surplus():
                return

    def _failed(self, site: CallSite, method: HubMethod, invocation_id: str | None, error: BaseException) -> None:
        """Answer a call whose method raised; a cancellation goes on when it is meant for this task."""
        if isinstance(error, Refused):
            self._answers.error(site, invocation_id, str(error))
        elif isinstance(error, asyncio.CancelledError) and is_being_cancelled():
            raise error
        else:
            self._answers.threw(site, method, invocation_id, error)

    async def _call(self, site: CallSite, method: HubMethod, message: Invocation | StreamInvocation) -> None:
        """Run a call that holds no slot, because it takes uploads."""
        connection = site.connection
        invocation_id = message.invocation_id
        try:
            result = await self._pipeline.run(HubCall(site), method, message)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - logged and answered in _failed
            self._failed(site, method, invocation_id, error)
            return
        if invocation_id is None or connection.closed:
            return
        try:
            payload = site.encode_result(invocation_id, result)
        except Exception as error:  # noqa: BLE001 - the application's types write themselves; the connection logs it
            connection.write_failed(error)
            return
        connection.write(payload)

    # -- everything else ----------------------------------------------------------------------------------------

    def has_room(self, connection: HubConnection, message: StreamItem) -> bool:
        """Whether an item may be taken; else it stays at the head of the inbox, and everything behind it waits (B112).

        When there is room again, `connection.on_input` is called.
        """
        site = self._sites.get(connection)
        if site is None or site.streams is None or connection.closed:
            return True
        return site.streams.has_room(message.invocation_id)

    def handle(self, connection: HubConnection, message: HubMessage) -> None:
        """Take a message that needs no slot: answer it, start it in the background, or pass it on. Never raises."""
        site = self._sites.get(connection)
        if site is None:
            return
        streams = site.streams
        if isinstance(message, (Invocation, StreamInvocation)):
            self._start(site, message)
        elif isinstance(message, StreamItem):
            if streams is not None:
                streams.item(message)
        elif isinstance(message, CancelInvocation):
            if streams is not None:
                streams.cancel(message.invocation_id)
        elif isinstance(message, Completion) and (streams is None or not streams.complete(message)):
            self._lifetime.set_connection_result(connection, message)

    def _start(self, site: CallSite, message: Invocation | StreamInvocation) -> None:
        binding = site.table.get(message.target) or self._find(site, message.target)
        if binding is None or not self._bind(site, binding, message):
            self._answers.refused(site, message, None if binding is None else binding.method)
        else:
            self._background.start(site, binding, message)

    # -- binding ------------------------------------------------------------------------------------------------

    def _find(self, site: CallSite, target: str) -> MethodBinding | None:
        """The method for an unusual spelling; the table knows the usual ones."""
        method = self._methods.find(target)
        return None if method is None else site.table[method.name]

    def _bind(self, site: CallSite, binding: MethodBinding, message: Invocation | StreamInvocation) -> bool:
        """Replace the encoded arguments of `message` by objects; False when its `binding_error` is set instead."""
        if message.binding_error is None:
            try:
                message.arguments = binding.decode(cast("Raw", message.arguments))
            except Exception as error:  # noqa: BLE001 - logged in _binding_failed unless it is a BindingError
                self._binding_failed(site, binding, message, error)
        return message.binding_error is None

    def _binding_failed(
        self, site: CallSite, binding: MethodBinding, message: Invocation | StreamInvocation, error: Exception
    ) -> None:
        if isinstance(error, BindingError):
            message.binding_error = error.detail
            return
        # Arguments are of the application's types, whose code may raise anything.
        logger.error(
            "The arguments of '%s' could not be bound.",
            binding.method.name,
            exc_info=error,
            extra={"connection_id": site.connection.connection_id},
        )
        message.binding_error = BINDING_FAILED


def _table(methods: HubMethods, protocol: HubProtocol, *, is_direct: bool) -> MethodTable:
    bindings: dict[HubMethod, MethodBinding] = {}
    for method in methods:
        try:
            bindings[method] = MethodBinding(
                method,
                protocol.argument_decoder(method.parameter_types),
                [protocol.value_decoder(upload.item_type) for upload in method.uploads],
                is_direct=is_direct
                and method.is_plain
                and method.is_async
                and not method.policies
                and method.dependencies is None,
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The parameters of {methods.hub_type.__qualname__}.{method.python_name} cannot be bound "
                f"in {protocol.name}: {error}"
            ) from error
    return {spelling: bindings[method] for spelling, method in methods.spellings().items()}
