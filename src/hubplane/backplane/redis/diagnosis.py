"""Who answers at an address that does not work as Redis: one look at the bare socket, for `hubplane check`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Literal

from hubplane.backplane.redis.options import Endpoint

__all__ = ["Listener", "who_listens"]

Listener = Literal["redis", "tls", "http", "silent", "closing", "other", "nobody", "unknown"]

# Redis takes it for a PING with too many arguments, an HTTP server for a request with an unknown method.
_GREETING = b"PING / HTTP/1.0\r\n\r\n"
_REDIS_WORDS = (b"+PONG", b"-ERR", b"-NOAUTH", b"-NOPERM", b"-DENIED", b"-LOADING", b"-MASTERDOWN", b"-MISCONF")
# An alert record: what a TLS server says to bytes that are no TLS.
_TLS_ALERT = b"\x15\x03"


async def who_listens(endpoint: Endpoint, *, seconds: float = 2.0) -> Listener:
    """Say a harmless line to an address and look at what comes back; never raises.

    Args:
        endpoint: With its port.
        seconds: For each of at most two connections.

    Returns:
        "redis" for Redis without TLS, "tls" for anything that speaks TLS, "http", "silent" for one that takes the
        connection and says nothing, "closing" for one that hangs up, "other", "nobody" where no connection can be
        opened, or "unknown" where the name has no address.
    """
    try:
        async with asyncio.timeout(seconds):
            said = await _say(endpoint)
    except TimeoutError:
        return "silent"
    except (socket.gaierror, UnicodeError):
        return "unknown"
    except (OSError, ValueError):
        return "nobody"
    if said.startswith(_REDIS_WORDS):
        return "redis"
    if said.startswith(b"HTTP/"):
        return "http"
    if said and not said.startswith(_TLS_ALERT):
        return "http" if b"<html" in said.lower() else "other"
    return "tls" if said or await _takes_tls(endpoint, seconds) else "closing"


async def _say(endpoint: Endpoint) -> bytes:
    """What is answered; empty when the other side hangs up without a word.

    Raises:
        OSError: No connection.
        TimeoutError: No connection in the system's time.
    """
    if endpoint.path:
        path = "\0" + endpoint.path[1:] if endpoint.path.startswith("@") else endpoint.path
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    try:
        writer.write(_GREETING)
        return await reader.read(512)
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def _takes_tls(endpoint: Endpoint, seconds: float) -> bool:
    if endpoint.path:
        return False
    context = ssl.create_default_context()
    # Whether it speaks TLS is asked, not who it is; nothing is sent.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    except ssl.SSLError as error:
        # A server that wants a client's certificate, or other versions, has spoken TLS to say so.
        return "ALERT" in str(error.reason or "")
    except (OSError, TimeoutError):
        return False
    writer.transport.abort()
    return True
