"""A hub app that is watched: OpenTelemetry that keeps everything, and a span around each request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any  # ASGI messages; points of metrics

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hubplane import Hub, HubApp, HubException, HubOptions, OpenTelemetry, TransportOptions, authorize
from hubplane.asgi.stopping import Stopping, announcing
from hubplane.backplane.memory import MemoryBackplane

__all__ = ["HUB", "Observed", "TracedHub"]

HUB = "App.TracedHub"


class TracedHub(Hub):
    """Has a method of each kind."""

    async def echo(self, text: str) -> str:
        return text

    async def where(self) -> str:
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    def where_in_thread(self) -> str:
        return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    async def fail(self) -> None:
        raise HubException("no")

    @authorize()
    async def guarded(self) -> None:
        """Nobody may."""

    async def count(self, to: int) -> AsyncIterator[str]:
        for _ in range(to):
            yield trace.format_span_id(trace.get_current_span().get_span_context().span_id)

    async def broken(self) -> AsyncIterator[int]:
        yield 1
        raise LookupError("broken")

    async def upload(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])


class Observed:
    """An app that is watched, on a backplane in memory."""

    def __init__(self, *, traces: bool = True, **transport: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        telemetry = OpenTelemetry(
            tracer_provider=self.tracers, meter_provider=MeterProvider(metric_readers=[self.reader]), traces=traces
        )
        self.hubs = HubApp(
            MemoryBackplane(),
            telemetry=telemetry,
            options=HubOptions(client_timeout_interval=1, keep_alive_interval=0.5),
            transport_options=TransportOptions(**transport),
        )
        self.hubs.add_hub("/hub", TracedHub, hub_name=HUB)
        self.requests: list[trace.SpanContext] = []
        self._stopping = Stopping()
        self._serve = announcing(self.hubs, self._stopping)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """As the instrumentation of an ASGI app does: a span for each request, in which everything runs."""
        if scope["type"] == "lifespan":
            self._loop = asyncio.get_running_loop()
            await self.hubs(scope, receive, send)
            return
        with self.tracers.get_tracer("web").start_as_current_span(scope["path"]) as span:
            self.requests.append(span.get_span_context())
            await self._serve(scope, receive, send)

    def announce_stop(self) -> None:
        """Tell requests that the server stops, as `hubplane serve` does."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.stop)

    def durations(self) -> list[tuple[str, str, int]]:
        """Transport, status and number of what has been recorded."""
        return sorted(
            (
                str(point.attributes["signalr.transport"]),
                str(point.attributes["signalr.connection.status"]),
                point.count,
            )
            for point in self._points("signalr.server.connection.duration")
            if isinstance(point, HistogramDataPoint) and point.attributes
        )

    def number(self, name: str) -> dict[str, float]:
        """The values of a metric by their first tag, "" where there is none."""
        return {
            str(next(iter((point.attributes or {}).values()), "")): point.value
            for point in self._points(name)
            if isinstance(point, NumberDataPoint)
        }

    def active(self) -> dict[str, float]:
        """Connections by transport."""
        return self.number("signalr.server.active_connections")

    def _points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def spans(self, name: str) -> list[ReadableSpan]:
        """The finished spans of a hub method or callback."""
        return [span for span in self.exporter.get_finished_spans() if span.name == f"{HUB}/{name}"]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that the server's thread is about to do."""
        async with asyncio.timeout(10):
            while not is_so():  # noqa: ASYNC110 - it becomes so in another thread
                await asyncio.sleep(0.01)
