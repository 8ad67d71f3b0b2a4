"""TLS towards Redis: the context of a connection, made from `RedisOptions`, and errors that name the option."""

from __future__ import annotations

import ssl
from pathlib import Path

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
    """The context for one connection. Files are read each time, so a certificate that was renewed counts.

    The server's certificate and name are always verified; whoever wants less brings an `ssl_context`.

    Raises:
        ConfigurationError: A file cannot be read or is no certificate or key; the text names the option.
    """
    if options.ssl_context is not None:
        return options.ssl_context
    try:
        context = ssl.create_default_context(cafile=options.tls_ca_file)
    except OSError as error:
        raise ConfigurationError(_unusable("tls_ca_file", options.tls_ca_file, error)) from error
    if options.tls_client_certificate is not None:
        # A function, because without a password OpenSSL would ask for one on the terminal.
        password = options.tls_client_key_password or ""
        try:
            context.load_cert_chain(options.tls_client_certificate, options.tls_client_key, lambda: password)
        except OSError as error:
            raise ConfigurationError(_client_certificate_fault(options, error)) from error
    allowed = [version for name, version in _VERSIONS.items() if name in options.tls_versions]
    if allowed:
        context.minimum_version = min(allowed)
        context.maximum_version = max(allowed)
    return context


def _client_certificate_fault(options: RedisOptions, error: OSError) -> str:
    """Which of certificate and key it was: OpenSSL does not say."""
    certificate, key = options.tls_client_certificate, options.tls_client_key
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
