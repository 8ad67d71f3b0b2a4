"""TLS towards Redis: the context of a connection, made from `RedisOptions`, and errors that name the option."""

from __future__ import annotations

import ssl
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from hubplane.backplane.redis.options import RedisOptions
from hubplane.errors import ConfigurationError

__all__ = ["make_tls_context"]

_VERSIONS = {
    "Tls": ssl.TLSVersion.TLSv1,
    "Tls11": ssl.TLSVersion.TLSv1_1,
    "Tls12": ssl.TLSVersion.TLSv1_2,
    "Tls13": ssl.TLSVersion.TLSv1_3,
}


def make_tls_context(options: RedisOptions) -> ssl.SSLContext:
    """The context for one connection. A file that has changed is read again, so a certificate that was renewed counts.

    The server's certificate and name are always verified; whoever wants less brings an `ssl_context`.

    Raises:
        ConfigurationError: A file cannot be read or is no certificate or key; the text names the option.
    """
    if options.ssl_context is not None:
        return options.ssl_context
    files = (options.tls_ca_file, options.tls_client_certificate, options.tls_client_key)
    return _make(_Settings(*files, options.tls_client_key_password, options.tls_versions, tuple(map(_stamp, files))))


class _Settings(NamedTuple):
    """What a context is made of; the last item tells whether the files are still those."""

    ca_file: str | None
    certificate: str | None
    key: str | None
    password: str | None
    versions: tuple[str, ...]
    stamps: tuple[tuple[int, int] | None, ...]


def _stamp(path: str | None) -> tuple[int, int] | None:
    try:
        found = Path(path).stat() if path is not None else None
    except OSError:
        return None  # told when it is read
    return None if found is None else (found.st_mtime_ns, found.st_size)


# Reading the system's authorities takes some milliseconds, in which the event loop stands still.
@lru_cache(maxsize=8)
def _make(settings: _Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigurationError(_unusable("tls_ca_file", settings.ca_file, error)) from error
    if settings.certificate is not None:
        # A function, because without a password OpenSSL would ask for one on the terminal.
        password = settings.password or ""
        try:
            context.load_cert_chain(settings.certificate, settings.key, lambda: password)
        except OSError as error:
            raise ConfigurationError(_client_certificate_fault(settings, error)) from error
    allowed = [version for name, version in _VERSIONS.items() if name in settings.versions]
    if allowed:
        context.minimum_version = min(allowed)
        context.maximum_version = max(allowed)
    return context


def _client_certificate_fault(settings: _Settings, error: OSError) -> str:
    """Which of certificate and key it was: OpenSSL does not say."""
    certificate, key = settings.certificate, settings.key
    for name, path in (("tls_client_certificate", certificate), ("tls_client_key", key)):
        if path is not None and (fault := _unreadable(path)) is not None:
            return _unusable(name, path, fault)
    if key is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
        except OSError:
            return _unusable("tls_client_certificate", certificate, error)
        return _unusable("tls_client_key", key, error)
    return _unusable("tls_client_certificate", certificate, error)


def _unreadable(path: str) -> OSError | None:
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return error


def _unusable(name: str, path: str | None, error: OSError) -> str:
    return f"RedisOptions.{name} cannot be used: {path!r}: {error.strerror or error}."
