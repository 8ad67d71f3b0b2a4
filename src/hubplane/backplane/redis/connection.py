"""`RedisConnection`: one socket to Redis, and `open_connection`, which brings it to where commands are welcome.

Own code on `asyncio.Protocol` and hiredis' reader, by measurement: docs/decisions/0001-redis-data-plane.md.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import logging
import os
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from typing import cast

from hubplane.backplane.redis.events import RedisConnectionError, RedisFailure
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import NOTHING, ProtocolError, PushNotification, ReplyError, new_reader, pack_command
from hubplane.backplane.redis.tls import make_tls_context
from hubplane.errors import BackplaneAuthenticationError, BackplaneUnavailableError

__all__ = [
    "RedisConnection",
    "RedisProtocolError",
    "describe_error",
    "is_being_cancelled",
    "not_reached",
    "open_connection",
    "unavailable",
]

logger = logging.getLogger(__name__)

# Above this the transport asks to pause; large enough for one turn of a busy loop to leave in one write.
_WRITE_HIGH_WATER = 1_048_576
# Redis' own limit for one value (proto-max-bulk-len); more than that without a whole reply is not Redis.
_UNREADABLE_LIMIT = 536_870_912 + 65_536


class RedisProtocolError(Exception):
    """What came is no answer Redis could have given here; the connection is useless from now on."""


class RedisLoginError(RedisConnectionError, BackplaneAuthenticationError):
    """A connection that was refused for who we are, or that we refused for who answered."""


class RedisConnection(asyncio.Protocol):
    """One socket to Redis. Whoever uses it sets `drain`, which takes the replies, and writes whole commands.

    Args:
        endpoint: What it is connected to.
        limit: Bytes that may come without a whole reply; above it the connection ends.

    Attributes:
        endpoint: What it is connected to.
        role: "master" or "replica" as the server said; empty where it did not.
        server: What the server calls itself, such as "redis" or "valkey"; empty where it did not say.
        version: Its version, likewise.
        mode: "standalone", "cluster" or "sentinel" as the server said; empty where it did not.
        resp: The protocol spoken, 2 or 3.
        heard: Something arrived since this was last set to False.
        writable: The socket takes more; set through the transport's flow control.
        trouble: Ends when the connection is lost, or when its owner calls `suspect`.
        gone: Ends when the socket is closed.
    """

    def __init__(self, endpoint: Endpoint, *, limit: int = _UNREADABLE_LIMIT) -> None:
        self.endpoint = endpoint
        self._limit = limit
        self.role = ""
        self.server = ""
        self.version = ""
        self.mode = ""
        self.resp = 2
        self.heard = False
        self.writable = False
        self.drain: Callable[[Callable[[], object]], None] = self._drain_calls
        self.on_writable: Callable[[], None] | None = None
        self.error: BackplaneUnavailableError | None = None
        self.trouble: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = new_reader()
        self._gets: Callable[[], object] = self._reader.gets
        self._unreadable = 0
        self._calls: deque[asyncio.Future[object]] = deque()
        self._transport: asyncio.Transport | None = None
        self._reason: BaseException | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        # What create_connection makes; uvloop's are not declared as asyncio.Transport, so there is nothing to assert.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER)
        self.writable = True

    def data_received(self, data: bytes) -> None:
        """Take in bytes and hand all whole replies to `drain` in one go."""
        self.heard = True
        reader = self._reader
        try:
            reader.feed(data)
            self.drain(self._gets)
            if reader.has_data():
                self._unreadable += len(data)
                if self._unreadable > self._limit:
                    raise RedisProtocolError(f"More than {self._limit} bytes without a whole reply.")
            else:
                self._unreadable = 0
        except (ProtocolError, RedisProtocolError) as error:
            self.abort(error)
        except Exception as error:
            # Replies of an unforeseen shape. The event loop must not be the one to find out.
            logger.exception("Cannot make sense of what Redis at %s sent.", self.endpoint)
            self.abort(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: everybody who waits on it is told."""
        reason = self._reason or exc
        self.writable = False
        self._transport = None
        text = describe_error(reason) if reason is not None else "the server closed the connection"
        failure = RedisFailure.SOCKET_CLOSED if reason is None else _failure_of(reason, RedisFailure.SOCKET_FAILURE)
        text = f"The connection to Redis at {self.endpoint} was lost: {text}."
        self.error = error = RedisConnectionError(text, endpoint=self.endpoint, failure=failure)
        error.__cause__ = reason
        for call in self._calls:
            if not call.done():
                call.set_exception(error)
        self._calls.clear()
        self.gone.set_result(None)
        if not self.trouble.done():
            self.trouble.set_result(None)

    @property
    def tls(self) -> str:
        """The TLS version spoken, such as "TLSv1.3"; empty without TLS or when the connection is lost."""
        found = self._transport.get_extra_info("ssl_object") if self._transport is not None else None
        return str(found.version() or "TLS") if found is not None else ""

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self.writable = False

    def resume_writing(self) -> None:
        """The socket takes more."""
        self.writable = self._transport is not None and not self._transport.is_closing()
        if self.writable and self.on_writable is not None:
            self.on_writable()

    def write(self, data: bytes) -> None:
        """Send whole commands; after the connection was lost they go nowhere."""
        if self._transport is not None:
            self._transport.write(data)

    def suspect(self) -> None:
        """Wake whoever waits on `trouble`, with the connection still open."""
        if not self.trouble.done():
            self.trouble.set_result(None)

    def trust(self) -> None:
        """Take `suspect` back."""
        if self.error is None:
            self.trouble = self.trouble.get_loop().create_future()

    def abort(self, reason: BaseException | None = None) -> None:
        """Close at once; `reason` goes into the error that everybody gets."""
        if reason is not None and self._reason is None:
            self._reason = reason
        self.drain = _discard
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close once what was written is sent; nothing that still arrives is handed on."""
        self.drain = _discard
        if self._transport is not None:
            self._transport.close()

    def call(self, *arguments: str | bytes | int) -> asyncio.Future[object]:
        """Send one command while nobody else uses the connection; an error reply is a `ReplyError` result."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            future.set_exception(self.error or BackplaneUnavailableError("The connection to Redis is not open."))
        else:
            self._calls.append(future)
            self._transport.write(pack_command(arguments))
        return future

    def _drain_calls(self, gets: Callable[[], object]) -> None:
        while (reply := gets()) is not NOTHING:
            if type(reply) is PushNotification:
                continue
            if not self._calls:
                raise RedisProtocolError("A reply to no command.")
            if not (call := self._calls.popleft()).done():
                call.set_result(reply)


def _discard(gets: Callable[[], object]) -> None:
    while gets() is not NOTHING:
        pass


def describe_error(error: BaseException) -> str:
    """One line about an error, never empty: system errors often have no text of their own."""
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate verify failed: {error.verify_message.rstrip('.')}"
        mismatch = "ostname mismatch" in text or "IP address mismatch" in text
        return f"{text}. RedisOptions.tls_host (sslHost) names another" if mismatch else text
    return str(error).rstrip(".") or type(error).__name__


def is_being_cancelled(error: BaseException) -> bool:
    """Whether this task is to end; else the application's code has awaited something that was cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def unavailable(text: str, cause: BaseException | None) -> BackplaneUnavailableError:
    """The error of a command that `cause` kept from being confirmed; of its own kind where the login was refused."""
    refused = isinstance(cause, BackplaneAuthenticationError)
    error = BackplaneAuthenticationError(text) if refused else BackplaneUnavailableError(text)
    error.__cause__ = cause
    return error


def not_reached(text: str, cause: BaseException | None) -> RedisConnectionError:
    """The error of having tried several servers, of which `cause` tells the most; of its kind."""
    known = cause if isinstance(cause, RedisConnectionError) else None
    kind = RedisLoginError if isinstance(cause, BackplaneAuthenticationError) else RedisConnectionError
    error = kind(
        text,
        endpoint=known.endpoint if known else None,
        failure=known.failure if known else RedisFailure.UNABLE_TO_CONNECT,
    )
    error.__cause__ = cause
    return error


def _failure_of(error: BaseException, default: RedisFailure) -> RedisFailure:
    if isinstance(error, RedisConnectionError):
        return error.failure
    if isinstance(error, (BackplaneAuthenticationError, ssl.SSLError)):
        return RedisFailure.AUTHENTICATION_FAILURE
    if isinstance(error, (ProtocolError, RedisProtocolError)):
        return RedisFailure.PROTOCOL_FAILURE
    # A wrong address; an SSLError, which is both of these, is none.
    if isinstance(error, (OSError, ValueError)):
        return default
    if isinstance(error, BackplaneUnavailableError):
        loading = isinstance(error.__cause__, ReplyError) and str(error.__cause__).startswith("LOADING")
        return RedisFailure.LOADING if loading else RedisFailure.PROTOCOL_FAILURE
    return RedisFailure.INTERNAL_FAILURE


async def open_connection(endpoint: Endpoint, options: RedisOptions) -> RedisConnection:
    """Connect, agree on a protocol and log in.

    Raises:
        BackplaneAuthenticationError: User, password or certificate was refused.
        BackplaneUnavailableError: Not possible within `options.connect_timeout`; the cause is attached.
    """
    connection: RedisConnection | None = None
    try:
        async with asyncio.timeout(options.connect_timeout):
            connection = await _open_socket(endpoint, options)
            await _greet(connection, options)
    except (OSError, TimeoutError, BackplaneUnavailableError) as error:
        raise _not_connected(endpoint, options, describe_error(error), error) from error
    except UnicodeError as error:
        # What the resolver raises for a host name that cannot be one.
        raise _not_connected(endpoint, options, "not a host name", error) from error
    except ValueError as error:
        # The rest of what the event loop finds wrong with an address, and a certificate that is gone meanwhile;
        # unforeseen here, it would end all attempts.
        raise _not_connected(endpoint, options, describe_error(error), error) from error
    else:
        opened, connection = connection, None
        return opened
    finally:
        if connection is not None:
            connection.abort()


def _not_connected(endpoint: Endpoint, options: RedisOptions, text: str, error: Exception) -> RedisConnectionError:
    failure = _failure_of(error, RedisFailure.UNABLE_TO_CONNECT)
    ended = isinstance(error, (RedisConnectionError, ssl.SSLError)) and not isinstance(
        error, ssl.SSLCertVerificationError
    )
    if ended and options.tls and options.tls_client_certificate is None and options.ssl_context is None:
        # With TLS 1.3 a server says so after the handshake, and its word may be lost with the connection.
        text += ". It may want a certificate (RedisOptions.tls_client_certificate)"
    kind = RedisLoginError if failure is RedisFailure.AUTHENTICATION_FAILURE else RedisConnectionError
    return kind(f"Cannot connect to Redis at {endpoint}: {text}.", endpoint=endpoint, failure=failure)


async def _open_socket(endpoint: Endpoint, options: RedisOptions) -> RedisConnection:
    loop = asyncio.get_running_loop()
    context = make_tls_context(options) if options.tls else None
    if endpoint.path:
        path = "\0" + endpoint.path[1:] if endpoint.path.startswith("@") else endpoint.path
        _, connection = await loop.create_unix_connection(
            lambda: RedisConnection(endpoint), path, ssl=context, server_hostname=options.tls_host if context else None
        )
        return connection
    transport, connection = await loop.create_connection(
        lambda: RedisConnection(endpoint),
        endpoint.host,
        endpoint.port,
        ssl=context,
        server_hostname=(options.tls_host or endpoint.host) if context else None,
    )
    raw = transport.get_extra_info("socket")
    if raw is not None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if options.tcp_keep_alive:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connection


async def _greet(connection: RedisConnection, options: RedisOptions) -> None:
    user, password = await _credentials(options)
    login = [] if password is None else ["AUTH", user or "default", password]
    hello = options.command("HELLO")
    if hello and options.protocol != 2:
        reply = await connection.call(hello, "3", *login)
        if isinstance(reply, dict):
            connection.resp = 3
            connection.role, connection.mode, connection.server, connection.version = (
                value.decode(errors="replace") if isinstance(value := reply.get(key), bytes) else ""
                for key in (b"role", b"mode", b"server", b"version")
            )
        elif not isinstance(reply, ReplyError):
            # Not shown: what echoes would show the password.
            raise BackplaneUnavailableError(f"{hello} was answered with no map; this is not Redis")
        # A refused password stays refused; any other error may mean an old server, or one that forbids the command.
        elif options.protocol == 3 or str(reply).startswith("WRONGPASS"):
            raise _refused("HELLO", reply)
        else:
            logger.debug("Redis at %s does not take HELLO 3 (%s); speaking RESP2.", connection.endpoint, _told(reply))
    if connection.resp == 2:
        await _greet_resp2(connection, options, user, password)
    if options.command("CLIENT"):
        for words in _introduction(options):
            reply = await connection.call(options.command("CLIENT"), *words)
            if isinstance(reply, ReplyError):
                logger.debug("Redis at %s refused CLIENT %s: %s", connection.endpoint, words[0], reply)


async def _greet_resp2(
    connection: RedisConnection, options: RedisOptions, user: str | None, password: str | None
) -> None:
    auth = options.command("AUTH")
    if password is not None and auth:
        words = [password] if user is None else [user, password]
        if isinstance(reply := await connection.call(auth, *words), ReplyError):
            raise _refused("AUTH", reply)
    if options.command("PING"):
        reply = await connection.call(options.command("PING"))
        # A user may lack the right to ping; any other error, such as LOADING or NOAUTH, means not now.
        if isinstance(reply, ReplyError) and not str(reply).startswith("NOPERM"):
            raise _refused("PING", reply)
        if not isinstance(reply, ReplyError) and reply != b"PONG":
            raise BackplaneUnavailableError(f"PING was answered with {str(reply)[:80]!r}; this is not Redis")
    if options.command("INFO"):
        # What HELLO tells in RESP3; a user may lack the right.
        reply = await connection.call(options.command("INFO"), "server")
        if isinstance(reply, bytes):
            found = dict(line.split(":", 1) for line in reply.decode(errors="replace").splitlines() if ":" in line)
            valkey = found.get("valkey_version")
            connection.server = found.get("server_name", "valkey" if valkey else "redis")
            connection.version = valkey or found.get("redis_version", "")
            connection.mode = found.get("server_mode") or found.get("redis_mode", "")


async def _credentials(options: RedisOptions) -> tuple[str | None, str | None]:
    """User and password for this connect; a provider is asked each time, since tokens expire."""
    source = options.credential_provider
    if source is None:
        return options.user, options.password
    try:
        given: object = source() if callable(source) else source.get_credentials_async()
        if inspect.isawaitable(given):
            given = await given
    except (Exception, asyncio.CancelledError) as error:
        # Code of the application's, which may raise anything; unforeseen here, it would end all attempts to connect.
        if is_being_cancelled(error):
            raise
        logger.debug("The credential provider failed.", exc_info=error)
        text = f"the credential provider failed: {type(error).__name__}: {describe_error(error)}"
        raise BackplaneAuthenticationError(text) from error
    match given:
        case (str() as password,):
            return None, password
        case (str() as user, str() as password):
            return user, password
    raise BackplaneAuthenticationError(
        "the credential provider failed: it returned neither (user, password) nor (password,)"
    )


def _refused(command: str, reply: ReplyError) -> BackplaneUnavailableError:
    text = f"Redis refused {command}: {_told(reply)}"
    error = BackplaneUnavailableError(text)
    if text.partition(": ")[2].startswith(("WRONGPASS", "ERR invalid password")):
        error = BackplaneAuthenticationError(f"{text.rstrip('.')}. Check RedisOptions.user and password")
    elif "NOAUTH" in text:
        hint = "The server wants a login: set RedisOptions.password, and user where it has users"
        error = BackplaneAuthenticationError(f"{text.rstrip('.')}. {hint}")
    error.__cause__ = reply
    return error


def _told(error: ReplyError) -> str:
    # Redis repeats the arguments of a command that it does not know, and ours hold the password.
    return str(error).partition(", with args beginning with")[0]


def _introduction(options: RedisOptions) -> list[tuple[str, ...]]:
    name = options.client_name or f"{socket.gethostname()}({os.getpid()})"
    # Redis takes neither spaces nor control characters in names.
    words: list[tuple[str, ...]] = [("SETNAME", "".join(c if "!" <= c <= "~" else "_" for c in name))]
    if options.set_client_library:
        try:
            version = importlib.metadata.version("hubplane")
        except importlib.metadata.PackageNotFoundError:
            version = "0"
        words += [("SETINFO", "LIB-NAME", "hubplane"), ("SETINFO", "LIB-VER", f"{version}_py{sys.version_info[0]}")]
    return words
