"""Spans around what the application's hub does, under .NET's names.

Source: signalr-server section 7.
"""

from __future__ import annotations

from collections.abc import Mapping

from hubplane.hubs.call import CallSite
from hubplane.hubs.methods import HubMethod
from hubplane.telemetry.base import Span, SpanKind, Telemetry

__all__ = ["HubSpans"]


class HubSpans:
    """Makes the spans of one hub.

    Args:
        telemetry: Makes spans.
        service: The hub's name, as in .NET its full type name.
    """

    __slots__ = ("_service", "_telemetry")

    def __init__(self, telemetry: Telemetry, service: str) -> None:
        self._telemetry = telemetry
        self._service = service

    def invocation(self, site: CallSite, method: HubMethod, headers: Mapping[str, str] | None) -> Span:
        """Around a method: in the caller's trace, if it sent one, and linked to the connection's request."""
        return self._telemetry.span(
            SpanKind.INVOCATION, self._service, method.name, request=site.variables, headers=headers
        )

    def connected(self) -> Span:
        """Around `on_connected`: within the trace of the connection's request, which is going on."""
        return self._telemetry.span(SpanKind.CONNECTED, self._service, "OnConnectedAsync")

    def authentication_refreshed(self, site: CallSite) -> Span:
        """Around `on_authentication_refreshed`: a trace of its own."""
        return self._telemetry.span(
            SpanKind.AUTHENTICATION_REFRESHED, self._service, "OnAuthenticationRefreshedAsync", request=site.variables
        )

    def disconnected(self, site: CallSite) -> Span:
        """Around `on_disconnected`: a trace of its own."""
        return self._telemetry.span(SpanKind.DISCONNECTED, self._service, "OnDisconnectedAsync", request=site.variables)
