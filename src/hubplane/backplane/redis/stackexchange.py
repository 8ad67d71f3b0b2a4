"""The grammar of StackExchange.Redis configuration strings: text in, the values that were given out.

What the values mean for hubplane is in `configuration`. Source: redis-backplane sections 4.2 and 4.3.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from hubplane.backplane.redis.options import Endpoint
from hubplane.errors import ConfigurationError

__all__ = ["KEYS", "StackExchangeConfiguration", "parse_stackexchange"]

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_VERSION = re.compile(r"[0-9]+(\.[0-9]+){0,3}\Z")
_INT32_MIN, _INT32_MAX = -(2**31), 2**31 - 1
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}
_PROXIES = ("None", "Twemproxy", "Envoyproxy")
_TLS_VERSIONS = {"None": 0, "Ssl2": 12, "Ssl3": 48, "Tls": 192, "Tls11": 768, "Tls12": 3072, "Tls13": 12288}
_HINTS = {
    "db": "defaultDatabase",
    "database": "defaultDatabase",
    "username": "user",
    "pass": "password",
    "prefix": "channelPrefix",
    "connectionTimeout": "connectTimeout",
    "timeout": "asyncTimeout",
    "tls": "ssl",
    "clientName": "name",
}


@dataclass(slots=True, kw_only=True)
class StackExchangeConfiguration:
    """The values of a configuration string, None where it gives none; milliseconds and names as written there.

    Attributes:
        endpoints: In order, without duplicates; a port of 0 was not given.
        vanished: Texts that stand for an endpoint but have no numeric port; StackExchange.Redis drops them silently.
        command_map: ``$COMMAND=alias`` by upper-case command; an empty alias disables it.
        values: By canonical key.
    """

    endpoints: list[Endpoint] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    command_map: dict[str, str] = field(default_factory=dict)
    values: dict[str, str | int | bool | tuple[str, ...]] = field(default_factory=dict, repr=False)

    def text(self, key: str) -> str | None:
        """A text value; None where none or an empty one was given."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def number(self, key: str) -> int | None:
        """A number; None where none was given."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def flag(self, key: str) -> bool | None:
        """A boolean; None where none was given."""
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def names(self, key: str) -> tuple[str, ...]:
        """Several names; empty where none were given."""
        value = self.values.get(key)
        return value if isinstance(value, tuple) else ()

    def set(self, key: str, value: str, *, ignore_unknown: bool = False) -> None:
        """Take in one key, in any case, and its value as text.

        Raises:
            ConfigurationError: There is no such key, or it does not take the value.
        """
        name = _BY_LOWER_NAME.get(key.lower())
        if name is not None:
            self.values[name] = KEYS[name](key, value)
        elif not ignore_unknown:
            raise ConfigurationError(_unknown(key))

    def add_endpoint(self, text: str) -> None:
        """Take in one endpoint.

        Raises:
            ConfigurationError: The port is out of range.
        """
        endpoint = _endpoint(text)
        if endpoint is None:
            self.vanished.append(text)
        elif all(_identity(endpoint) != _identity(other) for other in self.endpoints):
            self.endpoints.append(endpoint)


def parse_stackexchange(text: str, *, ignore_unknown: bool = False) -> StackExchangeConfiguration:
    """Read a configuration string.

    Args:
        text: ``token,token,...`` where a token is an endpoint, ``key=value`` or ``$COMMAND=alias``.
        ignore_unknown: Skip keys that do not exist; wrong values are errors all the same.

    Raises:
        ConfigurationError: In the words of StackExchange.Redis.
    """
    if not text.strip():
        raise ConfigurationError("is empty (the Redis configuration)")
    found = StackExchangeConfiguration()
    for token in map(str.strip, text.split(",")):
        key, separator, value = token.partition("=")
        key, value = key.rstrip(), value.lstrip()
        if not token:
            continue
        if not separator or not key:
            found.add_endpoint(token)
        elif key.startswith("$"):
            if command := key[1:].strip().upper():
                found.command_map[command] = value
        else:
            found.set(key, value, ignore_unknown=ignore_unknown)
    return found


def _identity(endpoint: Endpoint) -> tuple[str, int, str]:
    return endpoint.host.casefold(), endpoint.port, endpoint.path


def _endpoint(text: str) -> Endpoint | None:
    """An endpoint, or None for what StackExchange.Redis drops."""
    if text.startswith("!"):
        return Endpoint(path=text[1:]) if len(text) > 1 else None
    host, port = text, ""
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        if rest and not rest.startswith(":"):
            return Endpoint(text)
        port = rest[1:]
        given = bool(rest)
    else:
        # Two colons and more are an IPv6 address without brackets and without a port, or a host that no one has.
        given = text.count(":") == 1
        if given:
            host, _, port = text.partition(":")
    if not given:
        return Endpoint(_address(host))
    number = _integer(port.strip())
    if number is None or not host:
        return None
    if not 0 <= number <= 65535:
        bound, limit = ("greater", 0) if number < 0 else ("less", 65535)
        raise ConfigurationError(f"port ('{number}') must be {bound} than or equal to '{limit}'.")
    return Endpoint(_address(host), number)


def _address(host: str) -> str:
    """A host name as it is; an address in its usual form (``127.1`` is 127.0.0.1)."""
    try:
        return str(ipaddress.IPv6Address(host)) if ":" in host else socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return host


def _integer(text: str) -> int | None:
    if not _INTEGER.match(text):
        return None
    number = int(text)
    return number if _INT32_MIN <= number <= _INT32_MAX else None


def _unknown(key: str) -> str:
    hint = _HINTS.get(key) or _HINTS.get(key.lower())
    if hint is None:
        near = difflib.get_close_matches(key.lower(), _BY_LOWER_NAME, n=1)
        hint = _BY_LOWER_NAME[near[0]] if near else None
    return f"Keyword '{key}' is not supported." + (f" Did you mean '{hint}'?" if hint else "")


def _requires(key: str, what: str, value: str) -> ConfigurationError:
    return ConfigurationError(f"Keyword '{key}' requires {what}; the value '{value}' is not recognised.")


def _as_text(_key: str, value: str) -> str:
    return value


def _as_integer(key: str, value: str) -> int:
    number = _integer(value)
    if number is None:
        raise _requires(key, "an integer value", value)
    return number


def _as_positive(key: str, value: str) -> int:
    number = _as_integer(key, value)
    if number < 1:
        raise ConfigurationError(f"Keyword '{key}' has a minimum value of '1'; the value '{value}' is not permitted.")
    return number


def _as_boolean(key: str, value: str) -> bool:
    lower = value.lower()
    if lower not in _TRUE and lower not in _FALSE:
        raise _requires(key, "a boolean value", value)
    return lower in _TRUE


def _as_version(key: str, value: str) -> str:
    if not _VERSION.match(value):
        raise _requires(key, "a version value", value)
    return value if "." in value else f"{value}.0"


def _as_proxy(key: str, value: str) -> str:
    for number, name in enumerate(_PROXIES):
        if value.lower() in {name.lower(), str(number)}:
            return name
    if _integer(value) is None:
        raise _requires(key, "a proxy value", value)
    return value


def _as_protocol(key: str, value: str) -> int:
    known = {"resp2": 2, "2": 2, "resp3": 3, "3": 3}
    if value.lower() not in known:
        raise _requires(key, "a RedisProtocol value or a known protocol version number", value)
    return known[value.lower()]


def _as_tls_versions(key: str, value: str) -> tuple[str, ...]:
    known = {name.lower(): name for name in _TLS_VERSIONS} | {str(bits): name for name, bits in _TLS_VERSIONS.items()}
    names = [known.get(part.strip().lower()) for part in value.split("|")]
    if None in names:
        raise _requires(key, "an SslProtocol value (multiple values separated by '|')", value.replace("|", ","))
    return tuple(name for name in names if name)


def _as_tunnel(_key: str, value: str) -> str:
    if not value:
        return ""
    if value.startswith("https:"):
        raise ConfigurationError("Invalid URI: The Authority/Host could not be parsed.")
    if not value.startswith("http:"):
        raise ConfigurationError(f"Tunnel cannot be parsed: {value}")
    host, _, port = value[5:].removeprefix("//").partition(":")
    return f"http:{host}:{port or '80'}"


KEYS: dict[str, Callable[[str, str], str | int | bool | tuple[str, ...]]] = {
    "abortConnect": _as_boolean,
    "allowAdmin": _as_boolean,
    "asyncTimeout": _as_positive,
    "channelPrefix": _as_text,
    "checkCertificateRevocation": _as_boolean,
    "configChannel": _as_text,
    "configCheckSeconds": _as_integer,
    "connectRetry": _as_integer,
    "connectTimeout": _as_integer,
    "defaultDatabase": _as_integer,
    "highIntegrity": _as_boolean,
    "highPriorityThreads": _as_text,
    "keepAlive": _as_integer,
    "name": _as_text,
    "password": _as_text,
    "preserveAsyncOrder": _as_text,
    "protocol": _as_protocol,
    "proxy": _as_proxy,
    "resolveDns": _as_boolean,
    "responseTimeout": _as_text,
    "sentinelPassword": _as_text,
    "sentinelUser": _as_text,
    "serviceName": _as_text,
    "setlib": _as_boolean,
    "ssl": _as_boolean,
    "sslHost": _as_text,
    "sslProtocols": _as_tls_versions,
    "syncTimeout": _as_positive,
    "tcpKeepAlive": _as_boolean,
    "tiebreaker": _as_text,
    "tunnel": _as_tunnel,
    "user": _as_text,
    "version": _as_version,
    "writeBuffer": _as_text,
}
"""Every key, in its canonical spelling, with what reads its value; keys are known in any case."""

_BY_LOWER_NAME = {name.lower(): name for name in KEYS}
