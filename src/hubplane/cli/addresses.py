"""Listening sockets, bound before anything else starts, so that a busy port is one clear sentence."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from hubplane.errors import ConfigurationError

__all__ = ["bind_tcp", "bind_unix", "url_of"]

_BACKLOG = 2048
_ANYBODY = 0o666


def bind_tcp(host: str, port: int) -> socket.socket:
    """A TCP socket that listens on `host` and `port`; port 0 takes any free one.

    Raises:
        ConfigurationError: The port is in use or may not be used, or the host is unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigurationError(f"{host!r} is no address of this machine.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_why(error, host, port)) from error
    return listener


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is in use. Choose another one with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} on {host} needs more rights than this process has. Choose one above 1023 with --port."
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host!r} is no address of this machine."
    return f"Cannot listen on {host}, port {port}: {error.strerror}."


def bind_unix(path: str) -> socket.socket:
    """A unix socket that listens at `path`, open to all users; the folder's rights are the limit.

    Raises:
        ConfigurationError: Somebody listens there, something else is there, or the folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise ConfigurationError(f"{path} exists and is no socket.")
        if _answers(path):
            raise ConfigurationError(f"Another process listens on {path}.")
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        os.chmod(path, _ANYBODY)  # noqa: PTH101 - the path is the user's text, also in the error
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"Cannot listen on {path}: {error.strerror or error}.") from error
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def url_of(listener: socket.socket) -> str:
    """What to type in a browser; for a unix socket its path."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - it is shown, not bound
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
