"""Calls with streams: they hold no slot and run beside the others.

Source: signalr-server sections 5.4 and 5.5.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias  # a coroutine's send and yield types do not matter to its task

from hubplane.hubs import failures
from hubplane.hubs.call import CallSite, HubCall, MethodBinding
from hubplane.hubs.factories import CallResources
from hubplane.hubs.failures import Answers
from hubplane.hubs.methods import HubMethod
from hubplane.hubs.pipeline import HubPipeline, Refused, is_being_cancelled, mode_error
from hubplane.hubs.streaming import ConnectionStreams, Download, send_items
from hubplane.options import HubOptions
from hubplane.protocol.messages import Completion, Invocation, StreamInvocation
from hubplane.supervisor import Supervisor

__all__ = ["BackgroundCalls", "InvokePlain"]

InvokePlain: TypeAlias = Callable[[CallSite, HubMethod, Invocation | StreamInvocation], Coroutine[Any, Any, None]]
"""Runs a method that returns one result, and answers."""


class BackgroundCalls:
    """Starts and runs the calls that have streams.

    Args:
        pipeline: Runs methods.
        answers: Writes errors.
        options: The limits.
        supervisor: Owner of the tasks.
        invoke: Runs calls whose streams are uploads only.
    """

    __slots__ = ("_answers", "_capacity", "_invoke", "_limit", "_pipeline", "_supervisor")

    def __init__(
        self,
        pipeline: HubPipeline,
        answers: Answers,
        *,
        options: HubOptions,
        supervisor: Supervisor,
        invoke: InvokePlain,
    ) -> None:
        self._pipeline = pipeline
        self._answers = answers
        self._capacity = options.stream_buffer_capacity
        self._limit = options.maximum_streams_per_client
        self._supervisor = supervisor
        self._invoke = invoke

    def start(self, site: CallSite, binding: MethodBinding, message: Invocation | StreamInvocation) -> None:
        """Start a call whose arguments are bound, or answer why it cannot run."""
        method = binding.method
        text = mode_error(method, message)
        if text is not None:
            if self._pipeline.guards(method):
                # Whether the user may know comes first; the pipeline checks the mode again behind that.
                self._spawn(site, self._invoke(site, method, message), method)
            else:
                self._answers.error(site, message.invocation_id, text)
            return
        streams = site.streams
        if streams is None:
            streams = site.streams = ConnectionStreams(site.connection)
        text = self._conflict(streams, method, message)
        if text is not None:
            self._answers.error(site, message.invocation_id, text)
            return
        self._open_uploads(streams, binding, message)
        streams.active += 1
        if isinstance(message, StreamInvocation):
            download = streams.downloads[message.invocation_id] = Download()
            download.task = self._spawn(site, self._download(site, streams, method, message, download), method)
        else:
            self._spawn(site, self._upload(site, streams, method, message), method)

    def _conflict(
        self, streams: ConnectionStreams, method: HubMethod, message: Invocation | StreamInvocation
    ) -> str | None:
        """Why the call cannot run beside those that are running, if it cannot."""
        if isinstance(message, StreamInvocation) and message.invocation_id in streams.downloads:
            return failures.id_in_use(message.invocation_id)
        ids = message.stream_ids
        for index, stream_id in enumerate(ids):
            if streams.is_uploading(stream_id) or stream_id in ids[:index]:
                return failures.stream_in_use(method.name, stream_id)
        if streams.active >= self._limit:
            return failures.too_many_streams(method.name, self._limit)
        return None

    def _open_uploads(
        self, streams: ConnectionStreams, binding: MethodBinding, message: Invocation | StreamInvocation
    ) -> None:
        """Put a stream at the place of each upload parameter."""
        if not message.stream_ids:
            return
        arguments = list(message.arguments)
        for stream_id, parameter, decode in zip(
            message.stream_ids, binding.method.uploads, binding.decode_items, strict=True
        ):
            arguments.insert(parameter.position, streams.open_upload(stream_id, self._capacity, decode))
        message.arguments = arguments

    def _spawn(self, site: CallSite, work: Coroutine[Any, Any, None], method: HubMethod) -> asyncio.Task[None] | None:
        try:
            return self._supervisor.start(work, method.name, context=site.variables.copy())
        except RuntimeError:  # the hub is closing, and with it the connection
            return None

    async def _upload(
        self, site: CallSite, streams: ConnectionStreams, method: HubMethod, message: Invocation | StreamInvocation
    ) -> None:
        try:
            await self._invoke(site, method, message)
        finally:
            self._over(streams, message.stream_ids)

    async def _download(
        self,
        site: CallSite,
        streams: ConnectionStreams,
        method: HubMethod,
        message: StreamInvocation,
        download: Download,
    ) -> None:
        """Run a stream method and send what it yields, then its completion."""
        download.is_running = True
        invocation_id = message.invocation_id
        resources = CallResources()
        try:
            if not download.is_cancelled:
                try:
                    items = await self._begin(site, method, message, download, resources)
                    done = items is not None and await self._send(
                        site, method, invocation_id, items, download, resources
                    )
                finally:
                    closed = await resources.close()
                if not done:
                    return
                if closed is not None:
                    self._answers.stream_failed(site, method, invocation_id, closed)
                    return
            site.connection.write_message(Completion(invocation_id))
        finally:
            del streams.downloads[invocation_id]
            self._over(streams, message.stream_ids)

    async def _begin(
        self,
        site: CallSite,
        method: HubMethod,
        message: StreamInvocation,
        download: Download,
        resources: CallResources,
    ) -> AsyncIterable[object] | None:
        """Run the method up to its stream; None when it has none and that has been answered."""
        try:
            result = await self._pipeline.stream(HubCall(site), method, message, resources)
        except Refused as refusal:
            self._answers.error(site, message.invocation_id, str(refusal))
            return None
        except asyncio.CancelledError as error:
            if is_being_cancelled() and not download.is_cancelled:
                raise
            # Cancelled before there was a stream: for the client the method failed (signalr-server section 5.5).
            resources.failure = error
            self._answers.threw(site, method, message.invocation_id, error)
            return None
        except Exception as error:  # noqa: BLE001 - the boundary to the application's code; logged in Answers
            resources.failure = error
            self._answers.threw(site, method, message.invocation_id, error)
            return None
        if isinstance(result, AsyncIterable):
            return result
        self._answers.error(site, message.invocation_id, failures.no_stream_returned(method.name))
        return None

    async def _send(
        self,
        site: CallSite,
        method: HubMethod,
        invocation_id: str,
        items: AsyncIterable[object],
        download: Download,
        resources: CallResources,
    ) -> bool:
        """Send the items; False when the stream failed and that has been answered."""
        try:
            await send_items(site.connection, invocation_id, items, download)
        except asyncio.CancelledError as error:
            if not is_being_cancelled():
                resources.failure = error
                self._answers.stream_failed(site, method, invocation_id, error)
                return False
            if not download.is_cancelled:
                raise
        except Exception as error:  # noqa: BLE001 - the boundary to the application's code; logged in Answers
            resources.failure = error
            self._answers.stream_failed(site, method, invocation_id, error)
            return False
        return True

    def _over(self, streams: ConnectionStreams, stream_ids: Sequence[str]) -> None:
        streams.active -= 1
        streams.close_uploads(stream_ids)
