"""Facts about OpenTelemetry's metrics and spans: names, tags, parents, links."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextvars import copy_context
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hubplane.asgi.app import HubApp
from hubplane.errors import ConfigurationError, HubException
from hubplane.hubs.hub import Hub
from hubplane.telemetry.base import (
    BACKPLANE_CONNECTED,
    BACKPLANE_PUBLISHED,
    DROPPED_CONNECTIONS,
    NO_TELEMETRY,
    SpanKind,
    Telemetry,
)
from hubplane.telemetry.open_telemetry import OpenTelemetry
from hubplane.testing import HubClient

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}


class Sink:
    """OpenTelemetry with everything kept."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.telemetry = OpenTelemetry(
            tracer_provider=self.tracers, meter_provider=MeterProvider(metric_readers=[self.reader])
        )

    def metrics(self) -> dict[str, tuple[str, Metric]]:
        """Meter and metric by name."""
        data = self.reader.get_metrics_data()
        return {
            metric.name: (scope.scope.name, metric)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def numbers(self, name: str) -> list[tuple[float, dict[str, Any]]]:
        """Values and tags of a counter or gauge; empty without any."""
        found = self.metrics().get(name)
        points = found[1].data.data_points if found else ()
        return [(point.value, dict(point.attributes or {})) for point in points if isinstance(point, NumberDataPoint)]

    def spans(self) -> list[Any]:
        """What was exported."""
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def sink() -> Sink:
    """A fresh one."""
    return Sink()


@pytest.mark.row("B154")
def test_instruments_have_the_names_of_the_original(sink: Sink) -> None:
    """Meter, names, units, tags and bucket boundaries are ASP.NET Core's."""
    telemetry = sink.telemetry
    for transport in ("web_sockets", "long_polling"):
        telemetry.connection_started(transport)
    telemetry.connection_stopped("long_polling", "timeout", 15.5)
    meter, duration = sink.metrics()["signalr.server.connection.duration"]
    assert (meter, duration.unit) == ("Microsoft.AspNetCore.Http.Connections", "s")
    (point,) = duration.data.data_points
    assert isinstance(point, HistogramDataPoint)
    assert point.attributes == {"signalr.connection.status": "timeout", "signalr.transport": "long_polling"}
    assert (point.sum, point.count) == (15.5, 1)
    assert list(point.explicit_bounds) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
    meter, active = sink.metrics()["signalr.server.active_connections"]
    assert (meter, active.unit) == ("Microsoft.AspNetCore.Http.Connections", "{connection}")
    assert sink.numbers("signalr.server.active_connections") == [
        (1, {"signalr.transport": "web_sockets"}),
        (0, {"signalr.transport": "long_polling"}),
    ]


def test_numbers_are_read_when_they_are_collected(sink: Sink) -> None:
    """What several apps tell is added up, until they forget it; before, there is nothing to report."""
    assert sink.numbers(BACKPLANE_PUBLISHED) == []
    value = 3
    forget = sink.telemetry.observe(BACKPLANE_PUBLISHED, lambda: value)
    second = sink.telemetry.observe(BACKPLANE_PUBLISHED, lambda: 10)
    sink.telemetry.observe(BACKPLANE_CONNECTED, lambda: 1)
    assert sink.numbers(BACKPLANE_PUBLISHED) == [(13, {})]
    value = 4
    second()
    second()
    assert sink.numbers(BACKPLANE_PUBLISHED) == [(4, {})]
    assert sink.numbers(BACKPLANE_CONNECTED) == [(1, {})]
    forget()
    sink.telemetry.count(DROPPED_CONNECTIONS, {"hubplane.reason": "slow_consumer"})
    assert sink.numbers(DROPPED_CONNECTIONS) == [(1, {"hubplane.reason": "slow_consumer"})]


@pytest.mark.row("B155")
def test_an_invocation_continues_the_callers_trace(sink: Sink) -> None:
    """Its parent is the message's, its link the request's span; baggage of the caller is at hand inside."""
    with sink.tracers.get_tracer("web").start_as_current_span("GET /hub") as opening:
        request = copy_context()
        headers = PARENT | {"baggage": "shop=7"}
        with sink.telemetry.span(SpanKind.INVOCATION, "App.Chat", "Send", request=request, headers=headers):
            assert baggage.get_baggage("shop") == "7"
            inner = trace.get_current_span()
            assert inner is not opening
        assert trace.get_current_span() is opening
    span = sink.spans()[0]
    assert span.name == "App.Chat/Send"
    assert span.instrumentation_scope.name == "Microsoft.AspNetCore.SignalR.Server"
    assert span.kind is trace.SpanKind.SERVER
    assert dict(span.attributes) == {"rpc.method": "Send", "rpc.system": "signalr", "rpc.service": "App.Chat"}
    assert trace.format_trace_id(span.context.trace_id) == "0af7651916cd43dd8448eb211c80319c"
    assert trace.format_span_id(span.parent.span_id) == "b7ad6b7169203331"
    assert span.parent.is_remote
    assert span.context.trace_state["a"] == "b"
    assert [link.context for link in span.links] == [opening.get_span_context()]
    assert span.status.status_code is trace.StatusCode.UNSET


@pytest.mark.row("B155")
@pytest.mark.parametrize("headers", [None, {}, {"traceparent": "nonsense"}, {"x": "y"}])
def test_an_invocation_without_a_trace_begins_one(sink: Sink, headers: dict[str, str] | None) -> None:
    """Without usable headers the span has no parent, though the connection's request has a span that goes on."""
    with sink.tracers.get_tracer("web").start_as_current_span("GET /hub") as opening:
        with sink.telemetry.span(SpanKind.INVOCATION, "H", "M", request=copy_context(), headers=headers):
            pass
        with sink.telemetry.span(SpanKind.CONNECTED, "H", "OnConnectedAsync"):
            pass
    invocation, connected, _ = sink.spans()
    assert invocation.parent is None
    assert [link.context for link in invocation.links] == [opening.get_span_context()]
    assert connected.parent == opening.get_span_context()
    assert connected.links == ()
    assert connected.kind is trace.SpanKind.INTERNAL


def test_no_request_span_makes_no_link(sink: Sink) -> None:
    """Where the framework is not traced there is nothing to link to."""
    with sink.telemetry.span(SpanKind.DISCONNECTED, "H", "OnDisconnectedAsync", request=copy_context()):
        pass
    (span,) = sink.spans()
    assert (span.parent, span.links) == (None, ())


@pytest.mark.row("B155")
@pytest.mark.parametrize(
    ("error", "name"), [(HubException("secret"), "hubplane.errors.HubException"), (ValueError("secret"), "ValueError")]
)
def test_an_exception_fails_the_span(sink: Sink, error: Exception, name: str) -> None:
    """The type of the exception is told, its text is not, and it goes on."""
    with (
        pytest.raises(type(error), match="secret"),
        sink.telemetry.span(SpanKind.INVOCATION, "H", "M", request=copy_context()),
    ):
        raise error
    (span,) = sink.spans()
    assert span.attributes["error.type"] == name
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "secret" not in span.to_json()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'hubplane\[otel\]'"):
        OpenTelemetry()


def test_what_is_no_telemetry_is_refused() -> None:
    """A class instead of an instance, or a flag, is named at the start."""
    for wrong in (OpenTelemetry, True):
        with pytest.raises(ConfigurationError, match=r"takes a Telemetry, such as OpenTelemetry\(\)"):
            HubApp(telemetry=wrong)  # type: ignore[arg-type]  # the mistake


def test_nothing_is_told_by_default() -> None:
    """Telemetry that nobody asked for takes everything and makes nothing of it."""
    for telemetry in (NO_TELEMETRY, Telemetry()):
        assert not telemetry.traces
        telemetry.connection_started("web_sockets")
        telemetry.connection_stopped("web_sockets", "normal_closure", 1.0)
        telemetry.count(DROPPED_CONNECTIONS, {})
        telemetry.observe(BACKPLANE_CONNECTED, lambda: 1)()
        with telemetry.span(SpanKind.INVOCATION, "H", "M"):
            assert trace.get_current_span() is trace.INVALID_SPAN


class BrokenProcessor(SpanProcessor):
    """Raises when a span begins, or ends."""

    def __init__(self, where: str) -> None:
        self.where = where

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.where == "start":
            raise RuntimeError("on_start")

    def on_end(self, span: Any) -> None:
        if self.where == "end":
            raise RuntimeError("on_end")


class TracedHub(Hub):
    """Two kinds of methods."""

    async def double(self, number: int) -> int:
        return number * 2

    async def count(self, to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number


@pytest.mark.parametrize("where", ["start", "end"])
async def test_a_broken_processor_harms_no_call(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """Connections, calls and streams go on when the application's span processor raises; the log has its traceback."""
    tracers = TracerProvider()
    tracers.add_span_processor(BrokenProcessor(where))
    hubs = HubApp(telemetry=OpenTelemetry(tracer_provider=tracers))
    hubs.add_hub("/hub", TracedHub)
    async with HubClient(hubs, "/hub") as client:
        assert await client.invoke("Double", 4) == 8
        assert [item async for item in client.stream("Count", 2)] == [0, 1]
        assert not trace.get_current_span().get_span_context().is_valid
    assert {record.getMessage() for record in caplog.records} == {f"A span could not be {where}ed."}
    assert all(record.exc_info for record in caplog.records)
