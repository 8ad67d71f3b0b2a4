"""From text to `RedisOptions`: StackExchange.Redis configuration strings, and URLs for every topology."""

from __future__ import annotations

import logging
from typing import Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from hubplane.backplane.redis.options import Endpoint, RedisMode, RedisOptions, RedisTopology
from hubplane.backplane.redis.stackexchange import KEYS, StackExchangeConfiguration, parse_stackexchange
from hubplane.errors import ConfigurationError

__all__ = ["parse"]

logger = logging.getLogger(__name__)

_SCHEMES = {"redis": False, "rediss": True, "valkey": False, "valkeys": True, "unix": False}
_SCHEMES |= {"redis+sentinel": False, "rediss+sentinel": True, "redis+cluster": False, "rediss+cluster": True}
_IGNORED = ("highIntegrity", "highPriorityThreads", "preserveAsyncOrder", "responseTimeout", "writeBuffer")
_URL_KEYS = {"db", "mode", *(key.lower() for key in KEYS)}
# What only URLs can say; StackExchange.Redis has no such keys.
_TOPOLOGY, _MODE = "topology", "mode"
# What these hosts mean for the defaults: redis-backplane section 4.3.
_AZURE_CACHE = (
    ".redis.cache.windows.net",
    ".redis.cache.chinacloudapi.cn",
    ".redis.cache.usgovcloudapi.net",
    ".redis.cache.sovcloud-api.de",
    ".redis.cache.sovcloud-api.fr",
)
_AZURE_MANAGED = (
    ".redis.azure.net",
    ".redis.chinacloudapi.cn",
    ".redis.usgovcloudapi.net",
    ".redis.sovcloud-api.de",
    ".redis.sovcloud-api.fr",
    ".redisenterprise.cache.azure.net",
)


def parse(text: str, *, ignore_unknown: bool = False) -> RedisOptions:
    """Read a Redis configuration.

    Args:
        text: A StackExchange.Redis string such as ``localhost:6379,ssl=true,channelPrefix=MyApp``, or a URL such as
            ``redis://user:password@localhost:6379/0?channelPrefix=MyApp``, ``rediss://...`` or
            ``unix:///run/redis.sock``; with Sentinels ``redis+sentinel://one:26379,two/mymaster``, for a Cluster
            ``redis+cluster://one:6379,two``, either with ``rediss`` for TLS. A URL takes the same keys behind its
            ``?``, and ``mode=sharded``; passwords in it are percent-encoded, those in a string are not and cannot
            contain a comma.
        ignore_unknown: Skip keys that do not exist.

    Returns:
        The options, with hubplane's default for `abort_on_connect_fail`: False unless the text says otherwise.

    Raises:
        ConfigurationError: The text is wrong, or asks for what pub/sub cannot have. It never shows a password.
    """
    scheme = text.strip().partition("://")[0].lower() if "://" in text.partition(",")[0] else ""
    if scheme in _SCHEMES:
        return _options(_parse_url(text.strip(), ignore_unknown=ignore_unknown))
    return _options(parse_stackexchange(text, ignore_unknown=ignore_unknown))


def _parse_url(text: str, *, ignore_unknown: bool) -> StackExchangeConfiguration:
    try:
        parts = urlsplit(text)
    except ValueError:
        # Its text may hold the whole authority, password included; as a cause it would stand in every traceback.
        raise ConfigurationError("The Redis URL is malformed: its address cannot be read.") from None
    found = StackExchangeConfiguration()
    scheme = parts.scheme.lower()
    login, _, addresses = parts.netloc.rpartition("@")
    database = unquote(parts.path).strip("/") if scheme != "unix" else ""
    if scheme.endswith("+sentinel"):
        found.values["serviceName"], _, database = database.partition("/")
        if not found.values["serviceName"]:
            raise ConfigurationError("The Redis URL names no primary. Write redis+sentinel://host:26379/mymaster.")
    queries = parse_qsl(parts.query, keep_blank_values=True)
    unknown = [key + value for key, value in queries if key.lower() not in _URL_KEYS]
    if (database and not (database.isascii() and database.isdecimal())) or "@" in "".join((parts.fragment, *unknown)):
        # Nothing of it is shown: what stands there is most likely the rest of a password.
        raise ConfigurationError(
            "The Redis URL is malformed: behind the address there is only a database number and ?key=value. "
            "A / ? # or @ in a user or password must be percent-encoded."
        )
    user, separator, password = login.partition(":")
    found.values |= {"user": unquote(user)} if user else {}
    found.values |= {"password": unquote(password)} if separator else {}
    if scheme == "unix":
        if not parts.path:
            raise ConfigurationError("The Redis URL names no socket. Write unix:///path/to/redis.sock.")
        found.endpoints.append(Endpoint(path=unquote(parts.path)))
    else:
        _add_addresses(found, scheme, addresses, {key.lower() for key, _ in queries})
        if database:
            found.set("defaultDatabase", database)
    for key, value in queries:
        if key.lower() == "mode":
            found.values[_MODE] = value
        else:
            found.set("defaultDatabase" if key == "db" else key, value, ignore_unknown=ignore_unknown)
    return found


def _add_addresses(found: StackExchangeConfiguration, scheme: str, addresses: str, keys: set[str]) -> None:
    for address in filter(None, addresses.split(",")):
        found.add_endpoint(address)
    if "serviceName" not in found.values and "servicename" not in keys:
        # URLs have always meant 6379, with TLS or without; 6380 is StackExchange.Redis' idea.
        found.endpoints = [e if e.port else Endpoint(e.host, 6379) for e in found.endpoints]
    found.values["ssl"] = _SCHEMES[scheme]
    if scheme.endswith("+cluster"):
        found.values[_TOPOLOGY] = "cluster"


def _options(found: StackExchangeConfiguration) -> RedisOptions:
    _refuse(found)
    for key in _IGNORED:
        if key in found.values:
            logger.warning("The Redis configuration key %s has no effect.", key)
    if found.flag("checkCertificateRevocation"):
        logger.warning("The Redis configuration key checkCertificateRevocation has no effect.")
    azure_cache = any(_is_azure(endpoint, _AZURE_CACHE) for endpoint in found.endpoints)
    azure_managed = any(_is_azure(endpoint, _AZURE_MANAGED) for endpoint in found.endpoints)
    tls = found.flag("ssl")
    if tls is None:
        tls = azure_managed or (azure_cache and any(endpoint.port == 6380 for endpoint in found.endpoints))
    sync_timeout = found.number("syncTimeout") or 5000
    connect_timeout = found.number("connectTimeout")
    keep_alive = found.number("keepAlive")
    connect_retry = found.number("connectRetry")
    protocol = found.number("protocol") or (3 if azure_managed else None)
    return RedisOptions(
        endpoints=tuple(found.endpoints) or (Endpoint("127.0.0.1"),),
        user=found.text("user"),
        password=found.text("password"),
        tls=tls,
        tls_host=found.text("sslHost"),
        tls_versions=found.names("sslProtocols"),
        channel_prefix=found.text("channelPrefix") or "",
        client_name=found.text("name"),
        set_client_library=found.flag("setlib") is not False,
        default_database=found.number("defaultDatabase"),
        protocol=cast("Literal[2, 3] | None", protocol),
        service_name=found.text("serviceName"),
        sentinel_user=found.text("sentinelUser"),
        sentinel_password=found.text("sentinelPassword"),
        topology=cast("RedisTopology", found.text(_TOPOLOGY) or "auto"),
        mode=cast("RedisMode", found.text(_MODE) or "compat"),
        command_map=found.command_map,
        connect_timeout=(max(5000, sync_timeout) if connect_timeout is None else connect_timeout) / 1000,
        connect_retry=3 if connect_retry is None else connect_retry,
        abort_on_connect_fail=found.flag("abortConnect") is True,
        async_timeout=(found.number("asyncTimeout") or sync_timeout) / 1000,
        keep_alive=60.0 if keep_alive is None else float(keep_alive),
        tcp_keep_alive=found.flag("tcpKeepAlive") is not False,
    )


def _refuse(found: StackExchangeConfiguration) -> None:
    """Say no to what StackExchange.Redis would take in silence, and to what pub/sub cannot work through."""
    if found.vanished:
        raise ConfigurationError(
            "An endpoint of the Redis configuration has no port that is a number. Write host, host:port, [IPv6]:port "
            "or !path, separated by commas, without quotes."
        )
    for endpoint in found.endpoints:
        # The text itself is not shown: what stands here by mistake is often a URL or a password with a comma in it.
        if (not endpoint.path and any(character in endpoint.host for character in "@/\"'; \t")) or endpoint.host == "*":
            raise ConfigurationError(
                "An endpoint of the Redis configuration is no host name. Separate tokens by commas and use no quotes; "
                "a password with a comma must go into a URL, percent-encoded, or be set in code."
            )
    proxy = found.text("proxy") or "None"
    if proxy != "None":
        raise ConfigurationError(f"The pub/sub API is not available via {proxy}")
    if found.text("tunnel"):
        raise ConfigurationError("The Redis configuration key tunnel is not supported. Connect to the server itself.")


def _is_azure(endpoint: Endpoint, suffixes: tuple[str, ...]) -> bool:
    return endpoint.host.lower().endswith(suffixes)
