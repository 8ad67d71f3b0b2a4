"""Metrics and spans under .NET's names, by the OpenTelemetry API: the extra ``hubplane[otel]``.

Source: signalr-server section 7.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context as Variables
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self  # Any: the modules of an optional library

from hubplane.errors import ConfigurationError
from hubplane.telemetry.base import (
    BACKPLANE_CONNECTED,
    BACKPLANE_PUBLISHED,
    BACKPLANE_RECEIVED,
    DROPPED_CONNECTIONS,
    Span,
    SpanKind,
    Telemetry,
)

if TYPE_CHECKING:
    from opentelemetry import trace as otel
    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

__all__ = ["OpenTelemetry"]

logger = logging.getLogger(__name__)

_METER: Final = "Microsoft.AspNetCore.Http.Connections"
_SOURCE: Final = "Microsoft.AspNetCore.SignalR.Server"
_OWN: Final = "hubplane"
_BUCKETS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)


class OpenTelemetry(Telemetry):
    """Reports to OpenTelemetry what ASP.NET Core reports, under the same names: ``HubApp(telemetry=OpenTelemetry())``.

    Metrics of the meter ``Microsoft.AspNetCore.Http.Connections``: ``signalr.server.connection.duration`` and
    ``signalr.server.active_connections``. Spans of ``Microsoft.AspNetCore.SignalR.Server`` around hub methods and
    callbacks. And counters of hubplane's own: docs/how-to/observe.md.

    Args:
        tracer_provider: Makes the spans; None for the global one.
        meter_provider: Makes the metrics; None for the global one.
        traces: Make spans. They cost some microseconds for each call, also where none is sampled.

    Raises:
        ConfigurationError: The extra ``hubplane[otel]`` is missing.
    """

    def __init__(
        self,
        *,
        tracer_provider: otel.TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        traces: bool = True,
    ) -> None:
        try:
            from opentelemetry import context, metrics, propagate, trace  # noqa: PLC0415 - only with the extra `otel`
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "OpenTelemetry needs its API, which is not installed: pip install 'hubplane[otel]'"
            ) from error
        self.traces = traces
        self._tracing = _Tracing(context, propagate, trace, tracer_provider)
        self._observation: Callable[[int], Observation] = metrics.Observation
        meter = metrics.get_meter(_METER, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "signalr.server.connection.duration",
            unit="s",
            description="The duration of connections on the server.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._active = meter.create_up_down_counter(
            "signalr.server.active_connections",
            unit="{connection}",
            description="Number of connections that are currently active on the server.",
        )
        own = metrics.get_meter(_OWN, meter_provider=meter_provider)
        self._counters = {
            DROPPED_CONNECTIONS: own.create_counter(
                DROPPED_CONNECTIONS, unit="{connection}", description="Connections that the server has given up."
            )
        }
        self._observed: dict[str, list[Callable[[], int]]] = {}
        own.create_observable_gauge(
            BACKPLANE_CONNECTED,
            [self._reader(BACKPLANE_CONNECTED)],
            unit="1",
            description="Whether the broker of the backplane is there.",
        )
        for name, text in (
            (BACKPLANE_PUBLISHED, "Messages given to the backplane."),
            (BACKPLANE_RECEIVED, "Messages that the backplane has brought."),
        ):
            own.create_observable_counter(name, [self._reader(name)], unit="{message}", description=text)

    # -- metrics ------------------------------------------------------------------------------------------------

    def connection_started(self, transport: str) -> None:
        """Count a connection in."""
        self._active.add(1, {"signalr.transport": transport})

    def connection_stopped(self, transport: str, status: str, seconds: float) -> None:
        """Count a connection out, and record how long it was there."""
        self._active.add(-1, {"signalr.transport": transport})
        self._duration.record(seconds, {"signalr.connection.status": status, "signalr.transport": transport})

    def count(self, name: str, tags: Mapping[str, str]) -> None:
        """Count one."""
        self._counters[name].add(1, tags)

    def observe(self, name: str, read: Callable[[], int]) -> Callable[[], None]:
        """Report the number when metrics are collected; of several apps, each its own."""
        readers = self._observed.setdefault(name, [])
        readers.append(read)

        def forget() -> None:
            # By identity: readers may be equal, as bound methods of equal objects are.
            readers[:] = [each for each in readers if each is not read]

        return forget

    def _reader(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def collect(_: CallbackOptions) -> Iterable[Observation]:
            readers = tuple(self._observed.get(name, ()))
            # The sum, for a process with several apps has one series.
            return [self._observation(sum(read() for read in readers))] if readers else []

        return collect

    # -- spans --------------------------------------------------------------------------------------------------

    def span(
        self,
        kind: str,
        service: str,
        method: str,
        *,
        request: Variables | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Span:
        """Start a span when it is entered: .NET's names, tags, parent and link."""
        return _OtelSpan(self._tracing, kind, service, method, request, headers)


class _Tracing:
    """What spans need of the optional library.

    Args:
        context: `opentelemetry.context`.
        propagate: `opentelemetry.propagate`.
        trace: `opentelemetry.trace`.
        tracer_provider: Makes the tracer.
    """

    __slots__ = ("_context", "_extract", "_kinds", "_trace", "_tracer")

    def __init__(self, context: Any, propagate: Any, trace: Any, tracer_provider: otel.TracerProvider | None) -> None:
        self._context = context
        self._trace = trace
        self._extract = propagate.extract
        self._tracer: otel.Tracer = trace.get_tracer(_SOURCE, tracer_provider=tracer_provider)
        self._kinds = {
            SpanKind.INVOCATION: trace.SpanKind.SERVER,
            SpanKind.CONNECTED: trace.SpanKind.INTERNAL,
            SpanKind.DISCONNECTED: trace.SpanKind.INTERNAL,
            SpanKind.AUTHENTICATION_REFRESHED: trace.SpanKind.INTERNAL,
        }

    def start(
        self,
        kind: str,
        service: str,
        method: str,
        request: Variables | None,
        headers: Mapping[str, str] | None,
    ) -> tuple[otel.Span, Context]:
        """Start the span, and say in which context its work runs: with the caller's baggage too."""
        trace = self._trace
        links: list[otel.Link] = []
        if request is None:
            parent = self._context.get_current()
        else:
            parent = self._context.Context()
            if headers:
                parent = self._extract(headers, context=parent)
            opened_by = request.run(trace.get_current_span).get_span_context()
            if opened_by.is_valid:
                links.append(trace.Link(opened_by))
        span = self._tracer.start_span(
            f"{service}/{method}",
            context=parent,
            kind=self._kinds[kind],
            attributes={"rpc.method": method, "rpc.system": "signalr", "rpc.service": service},
            links=links,
        )
        return span, trace.set_span_in_context(span, parent)

    def enter(self, context: Context) -> Token[Context]:
        """Make a context the current one."""
        token: Token[Context] = self._context.attach(context)
        return token

    def leave(self, token: Token[Context]) -> None:
        """Go back to the context before."""
        self._context.detach(token)

    def fail(self, span: otel.Span, error: BaseException) -> None:
        """Mark a span as .NET does: the type of the exception, never its text."""
        kind = type(error)
        module = kind.__module__
        span.set_attribute("error.type", kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}")
        span.set_status(self._trace.StatusCode.ERROR)


class _OtelSpan(Span):
    """One span, from entering to leaving, in one task."""

    __slots__ = ("_arguments", "_span", "_token", "_tracing")

    def __init__(
        self,
        tracing: _Tracing,
        kind: str,
        service: str,
        method: str,
        request: Variables | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._tracing = tracing
        self._arguments = (kind, service, method, request, headers)
        self._span: otel.Span | None = None
        self._token: Token[Context] | None = None

    def __enter__(self) -> Self:
        try:
            self._span, context = self._tracing.start(*self._arguments)
            self._token = self._tracing.enter(context)
        except Exception:
            # Samplers, propagators and processors may be the application's; no call may fail because of them.
            logger.exception("A span could not be started.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            self._tracing.leave(self._token)
        if self._span is not None:
            try:
                if error is not None:
                    self._tracing.fail(self._span, error)
                self._span.end()
            except Exception:
                # As above.
                logger.exception("A span could not be ended.")
