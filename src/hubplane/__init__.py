"""hubplane: the SignalR server for Python, with the Redis backplane. The public names, in reading order."""

from hubplane.hubs.hub import Hub, hub_method
from hubplane.errors import HubException
from hubplane.asgi.app import HubApp
from hubplane.hubs.context import HubCallerContext, HubContext
from hubplane.options import HttpTransportType, HubOptions, TransportOptions
from hubplane.errors import (
    AckTimeoutError,
    BackplaneError,
    BackplaneUnavailableError,
    ClientResultError,
    ConfigurationError,
    ConnectionClosedError,
    HubplaneError,
)

__all__ = [
    "AckTimeoutError",
    "BackplaneError",
    "BackplaneUnavailableError",
    "ClientResultError",
    "ConfigurationError",
    "ConnectionClosedError",
    "HttpTransportType",
    "Hub",
    "HubApp",
    "HubCallerContext",
    "HubContext",
    "HubException",
    "HubOptions",
    "HubplaneError",
    "TransportOptions",
    "hub_method",
]
