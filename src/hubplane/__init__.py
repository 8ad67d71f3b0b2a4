"""hubplane: the SignalR server for Python, with the Redis backplane. The public names, in reading order."""

from hubplane.hubs.hub import Hub, hub_method
from hubplane.errors import HubException
from hubplane.asgi.app import HubApp
from hubplane.options import HttpTransportType, HubOptions, TransportOptions
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.events import RedisConnectionFailed, RedisConnectionRestored, RedisFailure, RedisGap
from hubplane.backplane.redis.health import RedisHealth, RedisServerHealth
from hubplane.hubs.context import HubCallerContext, HubContext
from hubplane.hubs.clients import ClientProxy, HubCallerClients, HubClients, SingleClientProxy
from hubplane.hubs.groups import GroupManager
from hubplane.hubs.authorization import AuthorizationContext, authorize
from hubplane.auth.tokens import JwtAuthenticator, JwtUser
from hubplane.frameworks.django import DjangoSessionAuthenticator, django_database
from hubplane.endpoint.refresh import AuthenticationRefreshContext
from hubplane.connection.request import ConnectionRequest, HubConnectionContext
from hubplane.protocol.negotiation import NegotiateRedirect
from hubplane.hubs.filters import HubFilter, HubInvocationContext, HubLifetimeContext
from hubplane.telemetry.base import Span, Telemetry
from hubplane.telemetry.open_telemetry import OpenTelemetry
from hubplane.errors import (
    AckTimeoutError,
    BackplaneAuthenticationError,
    BackplaneError,
    BackplanePermissionError,
    BackplaneUnavailableError,
    ClientResultError,
    ConfigurationError,
    ConnectionClosedError,
    HubplaneError,
    LocalProtocolError,
)

__all__ = [
    # To write a hub and serve it
    "Hub",
    "hub_method",
    "HubException",
    "HubApp",
    # To configure it
    "HubOptions",
    "TransportOptions",
    "HttpTransportType",
    "RedisOptions",
    "Endpoint",
    # To hear about Redis
    "RedisConnectionFailed",
    "RedisConnectionRestored",
    "RedisGap",
    "RedisFailure",
    "RedisHealth",
    "RedisServerHealth",
    # What hub methods and other code hold in their hands
    "HubCallerContext",
    "HubContext",
    "HubCallerClients",
    "HubClients",
    "ClientProxy",
    "SingleClientProxy",
    "GroupManager",
    # Code around hub methods
    "HubFilter",
    "HubInvocationContext",
    "HubLifetimeContext",
    # Who may, and who it is
    "authorize",
    "AuthorizationContext",
    "AuthenticationRefreshContext",
    "JwtAuthenticator",
    "JwtUser",
    "DjangoSessionAuthenticator",
    "django_database",
    "ConnectionRequest",
    "HubConnectionContext",
    "NegotiateRedirect",
    # Who hears what happens
    "OpenTelemetry",
    "Telemetry",
    "Span",
    # What may be caught
    "HubplaneError",
    "ConfigurationError",
    "BackplaneError",
    "BackplaneUnavailableError",
    "BackplaneAuthenticationError",
    "BackplanePermissionError",
    "AckTimeoutError",
    "ClientResultError",
    "ConnectionClosedError",
    "LocalProtocolError",
]
