"""`RedisOptions`: everything about a Redis connection that an operator may choose.

StackExchange.Redis configuration strings and URLs become `RedisOptions` in `configuration`.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

from hubplane.errors import ConfigurationError

__all__ = [
    "BacklogPolicy",
    "CredentialProvider",
    "CredentialSource",
    "Credentials",
    "Endpoint",
    "RedisMode",
    "RedisOptions",
    "RedisTopology",
]

BacklogPolicy = Literal["wait", "fail_fast"]
RedisMode = Literal["compat", "sharded"]
RedisTopology = Literal["auto", "single", "cluster"]
Credentials: TypeAlias = tuple[str] | tuple[str, str]
"""Password alone, or user and password."""


class CredentialProvider(Protocol):
    """What redis-py's credential providers offer, those of the `redis-entraid` package for Azure among them."""

    async def get_credentials_async(self) -> Credentials:
        """User and password, or the password alone, valid now."""
        ...


CredentialSource: TypeAlias = CredentialProvider | Callable[[], Credentials | Awaitable[Credentials]]

_TLS_VERSIONS = ("Tls", "Tls11", "Tls12", "Tls13")
# What a StackExchange.Redis string may hold, too; nothing comes of it.
_NO_TLS_VERSIONS = ("None", "Ssl2", "Ssl3")
_DEFAULT_PORT = 6379
_DEFAULT_TLS_PORT = 6380
_DEFAULT_SENTINEL_PORT = 26379
_LARGEST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        host: Host name or IP address, IPv6 without brackets; empty for a unix socket.
        port: TCP port; 0 means not given (6379, 6380 with TLS, 26379 for Sentinels).
        path: Path of a unix socket; empty for TCP. A leading ``@`` is an abstract name (Linux).
    """

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"!{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions:
    """How to reach Redis and what to do when it is away. Durations are seconds.

    Attributes:
        endpoints: Servers, tried in turn until a primary answers; loopback by default.
        user: ACL user; None for the default user.
        password: Its password; never shown.
        credential_provider: Asked for user and password before each connect, instead of the two above: a function,
            plain or async, that returns ``(user, password)`` or ``(password,)``, or a redis-py `CredentialProvider`.
        tls: Speak TLS.
        tls_host: The name the certificate must carry; the endpoint's host by default.
        tls_versions: TLS versions allowed, from "Tls", "Tls11", "Tls12" and "Tls13"; the platform's choice if empty.
        tls_ca_file: PEM file with the authorities to trust, instead of the system's.
        tls_client_certificate: PEM file with the certificate that this node shows, if the server asks for one.
        tls_client_key: PEM file with its key; None where the certificate's file holds it.
        tls_client_key_password: Password of that key; never shown.
        ssl_context: Used instead of one made from the above; implies nothing about `tls`.
        channel_prefix: Put in front of every channel, byte for byte, with no separator of its own.
        client_name: What ``CLIENT LIST`` shows; None for the machine's and the process's own.
        set_client_library: Announce the library's name and version (``CLIENT SETINFO``).
        default_database: Database of commands on keys; pub/sub knows no databases.
        protocol: 2 or 3 to insist on RESP2 or RESP3; None for 3 where the server can, else 2.
        service_name: The primary's name, when the endpoints are Sentinels.
        sentinel_user: ACL user at the Sentinels; `user` by default.
        sentinel_password: Its password; `password` by default.
        topology: "cluster" or "single" where that is to be taken for granted; "auto" asks the server. With a
            `service_name` it is always one primary.
        mode: "compat" for plain PUBLISH and SUBSCRIBE, as ASP.NET Core does; "sharded" for SPUBLISH and SSUBSCRIBE
            (Redis 7), which keep a message on one shard of a Cluster, and which ASP.NET Core nodes do not hear.
        command_map: Names under which the server knows commands, by their usual upper-case name; an empty name means
            that the server has it not.
        connect_timeout: For one attempt to connect, handshake included.
        connect_retry: Attempts before a first connect has failed, where `abort_on_connect_fail` is set.
        abort_on_connect_fail: Let the start fail when Redis is away. hubplane's default is False, as the article on
            the backplane advises: start, serve, and be whole when Redis comes.
        async_timeout: For one command: how long it may wait for a connection and for its answer together.
        keep_alive: Idle time after which a connection is probed, where `liveness_interval` is 0; 0 or less for never.
        liveness_interval: Idle time after which a connection is probed. It counts as lost after three times that, and
            is replaced as soon as a new one answers. 0 leaves it to `keep_alive`.
        tcp_keep_alive: Set the socket's own keep-alive.
        slow_round_trip: Above this round trip, measured once connected, a warning says that Redis is far away; 0 for
            never.
        retry_base: The first pause between attempts to reconnect; doubled for each further one, with jitter. The very
            first attempt follows at once.
        retry_max: The longest pause between attempts.
        backlog: What happens to a publish while Redis is away: "wait" up to `async_timeout` in order, or "fail_fast".
        backlog_bytes: Bytes that may wait to be sent; a publish above it fails at once.
        backlog_messages: Commands that may wait to be sent; a publish above it fails at once.

    Raises:
        ConfigurationError: A value is out of range.

    Source: redis-backplane sections 4.1-4.4.
    """

    endpoints: tuple[Endpoint, ...] = (Endpoint("127.0.0.1"),)
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: CredentialSource | None = field(default=None, repr=False)
    tls: bool = False
    tls_host: str | None = None
    tls_versions: tuple[str, ...] = ()
    tls_ca_file: str | None = None
    tls_client_certificate: str | None = None
    tls_client_key: str | None = None
    tls_client_key_password: str | None = field(default=None, repr=False)
    ssl_context: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    channel_prefix: str = ""
    client_name: str | None = None
    set_client_library: bool = True
    default_database: int | None = None
    protocol: Literal[2, 3] | None = None
    service_name: str | None = None
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    topology: RedisTopology = "auto"
    mode: RedisMode = "compat"
    command_map: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    connect_timeout: float = 5.0
    connect_retry: int = 3
    abort_on_connect_fail: bool = False
    async_timeout: float = 5.0
    keep_alive: float = 60.0
    liveness_interval: float = 1.0
    tcp_keep_alive: bool = True
    slow_round_trip: float = 0.005
    retry_base: float = 0.05
    retry_max: float = 1.0
    backlog: BacklogPolicy = "wait"
    backlog_bytes: int = 67_108_864
    backlog_messages: int = 100_000

    def __post_init__(self) -> None:
        object.__setattr__(self, "endpoints", tuple(self.endpoints))
        object.__setattr__(self, "command_map", MappingProxyType(dict(self.command_map)))
        if not self.endpoints:
            raise ConfigurationError(
                "RedisOptions.endpoints is empty. Name at least one server, such as localhost:6379."
            )
        for endpoint in self.endpoints:
            if not 0 <= endpoint.port <= _LARGEST_PORT:
                raise ConfigurationError(f"The port of {endpoint} must be 0 to {_LARGEST_PORT}.")
        self._check_security()
        for name in (
            "connect_timeout",
            "async_timeout",
            "retry_base",
            "retry_max",
            "backlog_bytes",
            "backlog_messages",
        ):
            if not (_is_number(value := getattr(self, name)) and value > 0):
                raise ConfigurationError(f"RedisOptions.{name} must be greater than 0, not {value!r}.")
        for name in ("liveness_interval", "slow_round_trip"):
            if not (_is_number(value := getattr(self, name)) and value >= 0):
                raise ConfigurationError(f"RedisOptions.{name} must be 0 or more, not {value!r}.")
        if self.protocol not in {None, 2, 3}:
            raise ConfigurationError(f"RedisOptions.protocol must be 2, 3 or None, not {self.protocol!r}.")
        if self.backlog not in {"wait", "fail_fast"}:
            raise ConfigurationError(f"RedisOptions.backlog must be 'wait' or 'fail_fast', not {self.backlog!r}.")
        self._check_topology()

    def _check_topology(self) -> None:
        if self.topology not in {"auto", "single", "cluster"}:
            raise ConfigurationError(
                f"RedisOptions.topology must be 'auto', 'single' or 'cluster', not {self.topology!r}."
            )
        if self.mode not in {"compat", "sharded"}:
            raise ConfigurationError(f"RedisOptions.mode must be 'compat' or 'sharded', not {self.mode!r}.")
        if self.service_name and self.topology == "cluster":
            raise ConfigurationError(
                "RedisOptions.service_name names a primary behind Sentinels, and a Cluster has none: set one of both."
            )
        if self.service_name and any(endpoint.path for endpoint in self.endpoints):
            raise ConfigurationError("Sentinels are reached over TCP: RedisOptions.endpoints names a unix socket.")

    def _check_security(self) -> None:
        if unknown := [name for name in self.tls_versions if name not in (*_TLS_VERSIONS, *_NO_TLS_VERSIONS)]:
            raise ConfigurationError(
                f"RedisOptions.tls_versions knows no {unknown[0]!r}. There are: {', '.join(_TLS_VERSIONS)}."
            )
        if self.tls and not self.tls_host and any(endpoint.path for endpoint in self.endpoints):
            raise ConfigurationError(
                "TLS over a unix socket needs RedisOptions.tls_host (sslHost), the name in the certificate."
            )
        if self.tls_client_key and not self.tls_client_certificate:
            raise ConfigurationError("RedisOptions.tls_client_key needs tls_client_certificate, which it belongs to.")
        provider = self.credential_provider
        if provider is not None and not callable(provider) and not hasattr(provider, "get_credentials_async"):
            raise ConfigurationError("RedisOptions.credential_provider is a function or a provider of redis-py's kind.")
        if provider is not None and self.password is not None:
            raise ConfigurationError("RedisOptions.credential_provider and password exclude each other. Keep one.")

    @property
    def addresses(self) -> tuple[Endpoint, ...]:
        """The endpoints, each once, with the default ports filled in: 6379, 6380 with TLS, 26379 for Sentinels."""
        port = _DEFAULT_SENTINEL_PORT if self.service_name else _DEFAULT_TLS_PORT if self.tls else _DEFAULT_PORT
        return tuple(
            dict.fromkeys(
                endpoint if endpoint.path or endpoint.port else Endpoint(endpoint.host, port)
                for endpoint in self.endpoints
            )
        )

    def command(self, name: str) -> str:
        """The name under which the server knows a command; empty where it has it not."""
        return self.command_map.get(name, name)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
