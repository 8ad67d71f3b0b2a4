"""Options of hubs and transports: .NET's meaning and defaults, snake_case names, seconds and bytes.

Source: signalr-server section 5.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Flag
from typing import Self, TypeVar

from hubplane.errors import ConfigurationError

__all__ = ["HttpTransportType", "HubOptions", "TransportOptions"]

OptionsT = TypeVar("OptionsT")


class HttpTransportType(Flag):
    """The transports a hub offers; combine them with ``|``."""

    NONE = 0
    WEB_SOCKETS = 1
    SERVER_SENT_EVENTS = 2
    LONG_POLLING = 4


def _new(cls: type[OptionsT], given: Mapping[str, object]) -> OptionsT:
    """An instance that knows which options were named, before the dataclass sets them all."""
    self = object.__new__(cls)
    object.__setattr__(self, "given", frozenset(given))
    return self


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if value is not None and not value > 0:
            raise ConfigurationError(f"{type(owner).__name__}.{name} must be greater than 0, not {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How one hub behaves; .NET's `HubOptions`.

    Attributes:
        handshake_timeout: Seconds a client has for its handshake.
        keep_alive_interval: Seconds between pings to each client; at most half of the clients' server timeout (30 s).
        client_timeout_interval: Seconds of silence allowed once a client has sent its first ping.
        supported_protocols: Names of hub protocols, in order; None for all registered ones.
        maximum_receive_message_size: Bytes of one incoming hub message, framing included; None for no limit.
        enable_detailed_errors: Send exception types and texts to clients.
        stream_buffer_capacity: Items buffered for each upload stream before reading pauses.
        maximum_parallel_invocations_per_client: Plain calls of one client that may run at the same time.
        maximum_streams_per_client: Calls of one client with streams, in either direction, that may run at the same
            time; further ones fail (hubplane's own: the original has no limit).
        stateful_reconnect_buffer_size: Bytes kept for replay, framing included, above which awaiting senders to a
            connection with stateful reconnect wait until its client acknowledges some. Nobody else waits: what is
            written without waiting, as by a broadcast, is kept up to `TransportOptions.outbound_buffer_limit`, above
            which the client is disconnected at once. So is, after 5 s, a client that has a socket and acknowledges
            nothing while more than this is kept (the original lets all senders wait).
        given: The names of the options that were passed; the others may come from the app's, the environment, the file.

    Raises:
        ConfigurationError: A value is out of range.
    """

    handshake_timeout: float = 15.0
    keep_alive_interval: float = 15.0
    client_timeout_interval: float = 30.0
    supported_protocols: tuple[str, ...] | None = None
    maximum_receive_message_size: int | None = 32_768
    enable_detailed_errors: bool = False
    stream_buffer_capacity: int = 10
    maximum_parallel_invocations_per_client: int = 1
    maximum_streams_per_client: int = 1_000
    stateful_reconnect_buffer_size: int = 100_000
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, **given: object) -> Self:
        """Note what is given."""
        return _new(cls, given)

    def __post_init__(self) -> None:
        _positive(
            self,
            "handshake_timeout",
            "keep_alive_interval",
            "client_timeout_interval",
            "maximum_receive_message_size",
            "stream_buffer_capacity",
            "maximum_parallel_invocations_per_client",
            "maximum_streams_per_client",
            "stateful_reconnect_buffer_size",
        )
        if self.supported_protocols is not None:
            object.__setattr__(self, "supported_protocols", tuple(self.supported_protocols))
            if not self.supported_protocols:
                raise ConfigurationError(
                    "There are no supported protocols: HubOptions.supported_protocols is empty. "
                    "Name at least one of them, or leave it out for all."
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """How clients reach one mapped hub; .NET's `HttpConnectionDispatcherOptions`.

    Attributes:
        transports: The transports offered.
        application_max_buffer_size: Bytes from the client that may wait unread before reading pauses; 0 for no limit.
        transport_max_buffer_size: Bytes to the client above which awaiting senders wait; 0 for no limit.
        outbound_buffer_limit: Bytes to the client that may wait at all; a client above it is disconnected
            (hubplane's own: the original lets a slow reader delay others).
        minimum_protocol_version: Lowest negotiate version accepted.
        transport_send_timeout: Seconds a client may refuse to take bytes before it is disconnected; infinity for ever.
        disconnect_timeout: Seconds a connection may be without a transport.
        close_timeout: Seconds to wait for the peer's WebSocket Close frame.
        poll_timeout: Seconds after which a long poll without data is answered, empty; clients give up after 100 s
            (.NET's `LongPolling.PollTimeout`).
        close_on_authentication_expiration: End a connection when the login of its latest request expires; the client
            may reconnect with a new one.
        enable_authentication_refresh: Take new logins for clients that stay connected, by ``POST {hub}/refresh`` and
            with polls; negotiate tells how long a login lasts. As previewed for .NET 11.
        allow_stateful_reconnects: Whether clients that ask for stateful reconnect get it, over WebSockets: a connection
            whose socket breaks off waits `disconnect_timeout` seconds for the client's next one, and nothing is lost.
        allowed_origins: Origins, such as ``https://app.example``, whose pages may open WebSockets here besides pages
            of this host; ``*`` for all. Empty (hubplane's own default): others are refused only when the request
            carries cookies or another login that browsers send by themselves. Else every other origin is refused.
        given: The names of the options that were passed; the others may come from the app's, the environment, the file.

    Raises:
        ConfigurationError: A value is out of range.
    """

    transports: HttpTransportType = (
        HttpTransportType.WEB_SOCKETS | HttpTransportType.SERVER_SENT_EVENTS | HttpTransportType.LONG_POLLING
    )
    application_max_buffer_size: int = 65_536
    transport_max_buffer_size: int = 65_536
    outbound_buffer_limit: int = 4_194_304
    minimum_protocol_version: int = 0
    transport_send_timeout: float = 10.0
    disconnect_timeout: float = 15.0
    close_timeout: float = 5.0
    poll_timeout: float = 90.0
    close_on_authentication_expiration: bool = False
    enable_authentication_refresh: bool = False
    allow_stateful_reconnects: bool = False
    allowed_origins: tuple[str, ...] = ()
    given: frozenset[str] = field(init=False, repr=False, compare=False)

    def __new__(cls, **given: object) -> Self:
        """Note what is given."""
        return _new(cls, given)

    def __post_init__(self) -> None:
        _positive(
            self,
            "outbound_buffer_limit",
            "transport_send_timeout",
            "disconnect_timeout",
            "close_timeout",
            "poll_timeout",
        )
        for name in ("application_max_buffer_size", "transport_max_buffer_size", "minimum_protocol_version"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"TransportOptions.{name} must not be negative.")
        if isinstance(self.allowed_origins, str):
            raise ConfigurationError("TransportOptions.allowed_origins is a tuple of origins, not one string.")
        origins = tuple(origin.lower() for origin in self.allowed_origins)
        object.__setattr__(self, "allowed_origins", origins)
        for origin in origins:
            if origin != "*" and (
                "://" not in origin or origin.endswith("/") or "/" in origin.partition("://")[2] or "*" in origin
            ):
                raise ConfigurationError(
                    f"TransportOptions.allowed_origins: {origin!r} is no origin. "
                    "Write scheme, host and, where it is unusual, port: https://app.example"
                )
