"""251 configuration strings, read as StackExchange.Redis read them: accepted or refused, in which words, and as what.

Recorded from 2.7.27, which .NET 10 nodes use; entries with `since` follow 3.4.35, the newest, where the two differ.
What hubplane does otherwise on purpose is listed here, string by string, with its reason.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any  # recorded JSON

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.stackexchange import KEYS, parse_stackexchange
from hubplane.errors import ConfigurationError

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-connection-strings.json").read_text(encoding="utf-8"))
STRINGS: list[dict[str, Any]] = RECORDED["strings"]

NO_PORT = "An endpoint of the Redis configuration has no port that is a number."
"""The original drops such an endpoint without a word, and connects to the others or to none."""
NO_HOST = "An endpoint of the Redis configuration is no host name."
"""The original takes it for a host name, which no resolver will ever find; the text is not shown, it may be secret."""
NO_PUBSUB = "The pub/sub API is not available via "
"""The original says the same, in these words, but only when a hub subscribes."""
NO_TUNNEL = "The Redis configuration key tunnel is not supported."
"""Not there yet; ignoring it would connect past the proxy."""
NO_TIME = "RedisOptions.connect_timeout must be greater than 0"
"""The original takes it, and no connection is ever made."""

REFUSED = {
    "localhost:abc": NO_PORT,
    "localhost:": NO_PORT,
    '"localhost:6379"': NO_PORT,
    "'localhost:6379'": NO_PORT,
    "!": NO_PORT,
    "unix:/var/run/redis.sock": NO_PORT,
    "tcp://host:6379": NO_HOST,
    "localhost 6379": NO_HOST,
    "a b:6379": NO_HOST,
    " localhost : 6379 ": NO_HOST,
    "*:6379": NO_HOST,
    "/var/run/redis.sock": NO_HOST,
    "localhost:6379;localhost:6380": NO_HOST,
    'localhost,password="a,b"': NO_HOST,
    "user:pass@localhost:6379": NO_HOST,
    "localhost,proxy=Twemproxy": NO_PUBSUB + "Twemproxy",
    "localhost,proxy=ENVOYPROXY": NO_PUBSUB + "Envoyproxy",
    "localhost,proxy=1": NO_PUBSUB + "Twemproxy",
    "localhost,proxy=99": NO_PUBSUB + "99",
    "localhost,tunnel=http:proxy:8080": NO_TUNNEL,
    "localhost,tunnel=http://proxy:8080": NO_TUNNEL,
    "localhost,tunnel=http:proxy": NO_TUNNEL,
    "localhost,Tunnel=http:proxy:8080": NO_TUNNEL,
    "localhost,connectTimeout=0": NO_TIME,
    "localhost,connectTimeout=-1": NO_TIME,
}
"""Accepted by the original and refused by hubplane, which would rather not start than be deaf."""

URLS = {
    "redis://localhost:6379": RedisOptions(endpoints=(Endpoint("localhost", 6379),)),
    "rediss://user:pw@host:6380": RedisOptions(
        endpoints=(Endpoint("host", 6380),), user="user", password="pw", tls=True
    ),
}
"""URLs, which the original takes for host names."""

NO_ENDPOINTS = {",", "ssl=true", "password=x", "abortConnect=false"}
"""The original fails to connect, with 'No endpoints specified'; hubplane means this machine, its own default."""

OPTIONS = {
    "AsyncTimeout": "async_timeout",
    "ChannelPrefix": "channel_prefix",
    "ClientName": "client_name",
    "ConnectRetry": "connect_retry",
    "ConnectTimeout": "connect_timeout",
    "DefaultDatabase": "default_database",
    "KeepAlive": "keep_alive",
    "Password": "password",
    "Protocol": "protocol",
    "SentinelPassword": "sentinel_password",
    "SentinelUser": "sentinel_user",
    "ServiceName": "service_name",
    "SetClientLibrary": "set_client_library",
    "Ssl": "tls",
    "SslProtocols": "tls_versions",
    "TcpKeepAlive": "tcp_keep_alive",
    "User": "user",
}
"""Ours by theirs. `AbortOnConnectFail` and `SslHost` have rules of their own below."""


_WITHOUT_EFFECT = ("highPriorityThreads", "preserveAsyncOrder", "responseTimeout", "writeBuffer")
"""Of no effect in .NET either."""


def text_of(entry: dict[str, Any]) -> str:
    """The string, as a test's name."""
    return repr(entry["input"])


def ours_for(name: str, value: object) -> object:
    """A recorded value as hubplane has it: seconds, numbers of RESP, names of TLS versions; an empty text is none."""
    if name in {"AsyncTimeout", "ConnectTimeout"}:
        assert isinstance(value, int)
        return value / 1000
    if name == "Protocol":
        return {"Resp2": 2, "Resp3": 3, None: None}[value]  # type: ignore[index]
    if name == "SslProtocols":
        return tuple(str(value).split(", ")) if value and value != "None" else ()
    if name == "ChannelPrefix":
        return value or ""
    return None if value == "" else value


def endpoint_of(recorded: str | list[Any]) -> Endpoint:
    """A recorded endpoint."""
    return Endpoint(path=recorded[1:]) if isinstance(recorded, str) else Endpoint(*recorded)


@pytest.mark.parametrize("entry", [e for e in STRINGS if "error" in e], ids=text_of)
def test_refused_in_the_same_words(entry: dict[str, Any]) -> None:
    """What the original refuses is refused, and its sentence comes first; .NET's names of parameters are left out."""
    with pytest.raises(ConfigurationError) as caught:
        parse(entry["input"], ignore_unknown=entry.get("ignore_unknown", False))
    # .NET puts 'Actual value was ...' on a second line; the first has it already.
    assert str(caught.value).startswith(entry["error"].partition("\n")[0])


@pytest.mark.parametrize("text", REFUSED)
def test_refused_on_purpose(text: str) -> None:
    """What could only end in silence is refused at once, with a reason, although the original's grammar takes it."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert str(caught.value).startswith(REFUSED[text])
    assert "error" not in next(entry for entry in STRINGS if entry["input"] == text)


@pytest.mark.parametrize("text", URLS)
def test_urls_are_urls(text: str) -> None:
    """A URL is read as one."""
    assert parse(text) == URLS[text]
    assert parse(text).password == URLS[text].password


@pytest.mark.row("S12", "S48")
@pytest.mark.parametrize(
    "entry", [e for e in STRINGS if "error" not in e and e["input"] not in {*REFUSED, *URLS}], ids=text_of
)
def test_read_as_the_same_options(entry: dict[str, Any]) -> None:
    """Every value that hubplane has is the one that the original reads, endpoints with their default ports included."""
    text = entry["input"]
    got = parse(text, ignore_unknown=entry.get("ignore_unknown", False))
    values = {**RECORDED["defaults"], **entry.get("options", {})}
    expected = {ours: ours_for(theirs, values[theirs]) for theirs, ours in OPTIONS.items() if theirs in values}
    actual = {ours: getattr(got, ours) for ours in expected}
    actual["tls_versions"] = tuple(name for name in got.tls_versions if name != "None")
    assert actual == expected
    if text in NO_ENDPOINTS:
        assert entry["endpoints"] == []
        assert got.endpoints == (Endpoint("127.0.0.1"),)
        return
    assert got.endpoints == tuple(map(endpoint_of, entry["endpoints"]))
    if got.service_name:
        # The original fills in 6379 here and 26379 when it asks the Sentinels.
        assert [address.port for address in got.addresses] == [e.port or 26379 for e in got.endpoints]
    elif "addresses" in entry:
        assert got.addresses == tuple(map(endpoint_of, entry["addresses"]))
    # Not waiting for Redis is hubplane's default; what the string says counts.
    said = "abortconnect" in text.lower()
    assert got.abort_on_connect_fail is (values["AbortOnConnectFail"] if said else False)
    # The original guesses one name from all endpoints; hubplane checks each server's own, unless told otherwise.
    assert got.tls_host == (values["SslHost"] if "sslhost" in text.lower() else None)
    assert got.command_map.items() >= entry.get("commands", {}).items()


@pytest.mark.row("S22")
def test_every_key_is_recorded_and_read(caplog: pytest.LogCaptureFixture) -> None:
    """No key is without a recorded string; each is read in any case, and what is asked for and not done is told."""
    recorded = {
        token.partition("=")[0].strip().lower()
        for entry in STRINGS
        if "error" not in entry
        for token in entry["input"].split(",")
    }
    assert {key for key in KEYS if key.lower() not in recorded} == set()
    special = {"protocol": "2", "sslProtocols": "Tls12", "tunnel": "http:proxy"}
    for key in KEYS:
        for spelling in (key, key.upper(), key.lower()):
            assert key in parse_stackexchange(f"h,{spelling}={special.get(key, '1')}").values
    caplog.set_level(logging.WARNING)
    for key in (*_WITHOUT_EFFECT, "highIntegrity", "checkCertificateRevocation"):
        caplog.clear()
        parse(f"h,{key}=1")
        assert caplog.messages == [f"The Redis configuration key {key} has no effect."]
    with pytest.raises(ConfigurationError, match=r"Keyword 'nosuch' is not supported\."):
        parse("h,nosuch=1")


def test_nothing_of_the_recording_is_left_out() -> None:
    """All 251 strings are here, and every exception to the rule is one of them."""
    assert len(STRINGS) == 251
    assert {*REFUSED, *URLS, *NO_ENDPOINTS} <= {entry["input"] for entry in STRINGS}
