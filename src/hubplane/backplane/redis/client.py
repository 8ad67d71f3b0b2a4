"""`ClientSource`: connections with the settings of a redis-py client that the application brings, or has made.

Source: docs/decisions/0006-the-applications-redis-client.md; redis-backplane sections 3.15 and 6.5 (S45, S52).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias  # a connection's settings are what its constructor took

from hubplane.backplane.redis.connection import RedisConnection, describe_error, is_being_cancelled, open_connection
from hubplane.backplane.redis.events import RedisConnectionError, RedisFailure
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["ClientSource", "ConnectionFactory", "RedisClient"]

logger = logging.getLogger(__name__)

RedisClient: TypeAlias = "Redis"
"""redis-py's asyncio client, plain or made by a `redis.asyncio.Sentinel`."""

if TYPE_CHECKING:
    LogAdapter: TypeAlias = logging.LoggerAdapter[logging.Logger]

ConnectionFactory: TypeAlias = "Callable[[LogAdapter], Awaitable[RedisClient]]"
"""Makes a client; what it logs has .NET's event 100."""

_CLOSE_SECONDS = 2.0


class ClientSource:
    """Opens our own connections the way a redis-py client would open its own.

    The client is asked anew for each connect: where the server is, who we are, which certificates count. So tokens that
    expire and primaries that move are followed.

    Args:
        client: The application's; it is never closed here.
        factory: Makes one when it is first needed, and again after it failed; what it made is closed by `close`.
    """

    def __init__(self, client: RedisClient | None = None, *, factory: ConnectionFactory | None = None) -> None:
        if client is not None:
            _check(client)
        self._brought = client
        self._factory = factory
        self._made: RedisClient | None = None
        self._making: asyncio.Future[RedisConnectionError | None] | None = None
        self._log = logging.LoggerAdapter(logger, {"event_id": 100, "event_name": "RedisConnectionLog"})

    async def connect(self, _endpoint: Endpoint, options: RedisOptions) -> RedisConnection:
        """Open one connection. Of `options` count those that a redis-py client knows nothing of.

        Raises:
            BackplaneUnavailableError: The factory failed, or the server cannot be reached; the cause is attached.
        """
        client = self._brought or await self._client(options.connect_timeout)
        try:
            async with asyncio.timeout(options.connect_timeout):
                settings, is_sentinel = await _settings(client, options)
        except (Exception, asyncio.CancelledError) as error:
            # The library's and the application's code: discovery, certificates, classes of their own.
            if is_being_cancelled(error):
                raise
            text = f"The Redis client does not say where to connect: {_described(error)}."
            raise RedisConnectionError(text, endpoint=None, failure=RedisFailure.UNABLE_TO_CONNECT) from error
        connection = await open_connection(settings.addresses[0], settings)
        if is_sentinel and connection.role not in {"", "master"}:
            connection.close()
            text = f"Redis at {connection.endpoint} is a replica; the Sentinels do not know yet."
            raise RedisConnectionError(text, endpoint=connection.endpoint, failure=RedisFailure.UNABLE_TO_CONNECT)
        return connection

    async def close(self) -> None:
        """Close the client that the factory made, if any; the application's own stays open."""
        made, self._made = self._made, None
        if made is not None:
            await _close(made)

    async def _client(self, seconds: float) -> RedisClient:
        # Both connections ask at the same time, and the factory shall run once.
        if (making := self._making) is not None:
            await asyncio.wait((making,))
            if (failure := making.result()) is not None:
                raise failure
        if self._made is not None:
            return self._made
        making = self._making = asyncio.get_running_loop().create_future()
        failure = RedisConnectionError(
            "The connection factory was cancelled.", endpoint=None, failure=RedisFailure.INTERNAL_FAILURE
        )
        try:
            assert self._factory is not None  # noqa: S101 - one of the two was given
            async with asyncio.timeout(seconds):
                made = await self._factory(self._log)
            try:
                _check(made)
            except ConfigurationError:
                await _close(made)
                raise
            self._made, failure = made, None
        except (Exception, asyncio.CancelledError) as error:
            # The application's code, which may raise anything; unforeseen here, it would end all attempts.
            if is_being_cancelled(error):
                raise
            text = f"The connection factory failed: {_described(error)}."
            failure = RedisConnectionError(text, endpoint=None, failure=RedisFailure.INTERNAL_FAILURE)
            failure.__cause__ = error
            raise failure from error
        finally:
            making.set_result(failure)
            self._making = None
        return made


async def _close(client: object) -> None:
    if (close := getattr(client, "aclose", None)) is not None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await close()
        except Exception:
            # Nobody is left who could do something about it.
            logger.warning("The Redis client could not be closed.", exc_info=True)


def _check(client: object) -> None:
    from redis import asyncio as library  # noqa: PLC0415 - only who brings a client needs redis-py
    from redis.asyncio import sentinel  # noqa: PLC0415

    if isinstance(client, library.RedisCluster):
        raise ConfigurationError(
            "A RedisCluster client cannot be brought along. Name the cluster's addresses in the configuration instead."
        )
    if not isinstance(client, library.Redis):
        raise ConfigurationError(
            f"The backplane takes a client of redis.asyncio, such as redis.asyncio.Redis, not {type(client).__name__}."
        )
    kind = client.connection_pool.connection_class
    if kind not in {
        library.Connection,
        library.SSLConnection,
        library.UnixDomainSocketConnection,
        sentinel.SentinelManagedConnection,
        sentinel.SentinelManagedSSLConnection,
    }:
        raise ConfigurationError(
            f"The Redis client makes connections of the class {kind.__name__}, whose ways the backplane cannot know."
        )


async def _settings(client: RedisClient, base: RedisOptions) -> tuple[RedisOptions, bool]:
    """The client's settings as options, from public attributes only; and whether Sentinels said where to connect."""
    from redis.asyncio import SSLConnection  # noqa: PLC0415 - as above

    # What redis-py does not declare: a Sentinel's pool is not told from others, and kinds of connections vary.
    pool: Any = client.connection_pool
    # Not connected, and never will be: it holds what the client would connect with, defaults filled in.
    like = pool.make_connection()
    sentinels = getattr(pool, "sentinel_manager", None)
    if sentinels is not None:
        host, port = await sentinels.discover_master(pool.service_name)
        endpoint = Endpoint(str(host), int(port))
    elif (path := getattr(like, "path", None)) is not None:
        endpoint = Endpoint(path=path)
    else:
        endpoint = Endpoint(like.host, int(like.port))
    tls = isinstance(like, SSLConnection)
    provider = like.credential_provider
    settings = replace(
        base,
        endpoints=(endpoint,),
        service_name=None,
        tls=tls,
        tls_host=None,
        ssl_context=like.ssl_context.get() if tls else None,
        user=None if provider is not None else like.username or None,
        password=None if provider is not None else like.password or None,
        credential_provider=provider,
        client_name=like.client_name or base.client_name,
        default_database=int(like.db),
        protocol=2 if str(like.protocol) == "2" else base.protocol,
    )
    return settings, sentinels is not None


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {describe_error(error)}"
