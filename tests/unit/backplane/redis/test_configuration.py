"""From text to `RedisOptions` (redis-backplane 4.1-4.3)."""

from __future__ import annotations

import logging
import traceback

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.errors import ConfigurationError


@pytest.mark.row("R63", "R64", "R65")
def test_microsofts_own_three_strings() -> None:
    """The three strings of Microsoft's registration tests give host, port, TLS and password."""
    plain = parse("testredis.example.com")
    assert (plain.endpoints, plain.password, plain.tls) == ((Endpoint("testredis.example.com"),), None, False)
    tls = parse("testredis.example.com:6380,ssl=True")
    assert (tls.endpoints, tls.tls) == ((Endpoint("testredis.example.com", 6380),), True)
    secret = parse("testredis.example.com:6380,password=hunter2,ssl=True")
    assert (secret.password, secret.tls) == ("hunter2", True)


def test_every_value_arrives() -> None:
    """Each key that means something here reaches its option, milliseconds as seconds."""
    options = parse(
        "a:1,b:2,user=u,password=p,ssl=true,sslHost=c,sslProtocols=Tls12|Tls13,channelPrefix=P:,name=n,setlib=false,"
        "defaultDatabase=3,protocol=2,serviceName=s,sentinelUser=su,sentinelPassword=sp,$PUBLISH=tell,connectTimeout=250,"
        "connectRetry=7,abortConnect=true,asyncTimeout=1500,keepAlive=9,tcpKeepAlive=false"
    )
    assert options == RedisOptions(
        endpoints=(Endpoint("a", 1), Endpoint("b", 2)),
        user="u",
        password="p",
        tls=True,
        tls_host="c",
        tls_versions=("Tls12", "Tls13"),
        channel_prefix="P:",
        client_name="n",
        set_client_library=False,
        default_database=3,
        protocol=2,
        service_name="s",
        sentinel_user="su",
        sentinel_password="sp",
        command_map={"PUBLISH": "tell"},
        connect_timeout=0.25,
        connect_retry=7,
        abort_on_connect_fail=True,
        async_timeout=1.5,
        keep_alive=9.0,
        tcp_keep_alive=False,
    )


@pytest.mark.row("S47")
def test_defaults_of_a_string() -> None:
    """A string leaves every other option at its default; Redis away at the start is never fatal unless it says so."""
    assert parse("localhost") == RedisOptions(endpoints=(Endpoint("localhost"),))
    assert parse("name=,password=,user=,channelPrefix=").endpoints == (Endpoint("127.0.0.1"),)


@pytest.mark.parametrize(
    ("text", "connect", "asynchronous"),
    [
        ("h", 5.0, 5.0),
        ("h,syncTimeout=10000", 10.0, 10.0),
        ("h,syncTimeout=100", 5.0, 0.1),
        ("h,asyncTimeout=1", 5.0, 0.001),
    ],
)
def test_timeouts_follow_sync_timeout(text: str, connect: float, asynchronous: float) -> None:
    """`syncTimeout` is the default of the other two, `connectTimeout` never below five seconds."""
    options = parse(text)
    assert (options.connect_timeout, options.async_timeout) == (connect, asynchronous)


@pytest.mark.row("S6")
@pytest.mark.parametrize(
    ("host", "tls", "protocol"),
    [
        ("x.redis.cache.windows.net:6380", True, None),
        ("x.redis.cache.windows.net:6379", False, None),
        ("X.REDIS.CACHE.WINDOWS.NET:6380", True, None),
        ("x.eastus.redis.azure.net:10000", True, 3),
        ("x.redis.cache.windows.net:6380,ssl=false", False, None),
        ("x.redis.azure.net,protocol=2", True, 2),
    ],
)
def test_azure_hosts_change_defaults(host: str, tls: bool, protocol: int | None) -> None:
    """Azure's host names imply TLS, and its managed service RESP3, unless the string says otherwise."""
    options = parse(host)
    assert (options.tls, options.protocol, options.abort_on_connect_fail) == (tls, protocol, False)


@pytest.mark.row("S12")
@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", RedisOptions(endpoints=(Endpoint("h", 6379),))),
        ("rediss://h", RedisOptions(endpoints=(Endpoint("h", 6379),), tls=True)),
        ("VALKEY://h:1", RedisOptions(endpoints=(Endpoint("h", 1),))),
        ("redis://a:1,b:2", RedisOptions(endpoints=(Endpoint("a", 1), Endpoint("b", 2)))),
        ("redis://[::1]:7", RedisOptions(endpoints=(Endpoint("::1", 7),))),
        ("redis://", RedisOptions()),
        (
            "redis://u%40:p%2C%3A@h:1/2",
            RedisOptions(endpoints=(Endpoint("h", 1),), user="u@", password="p,:", default_database=2),
        ),
        ("redis://h:1?password=p@w", RedisOptions(endpoints=(Endpoint("h", 1),), password="p@w")),
        ("redis://:pw@h:1/", RedisOptions(endpoints=(Endpoint("h", 1),), password="pw")),
        (
            "redis://h:1?channelPrefix=My%20App&abortConnect=true&db=4",
            RedisOptions(
                endpoints=(Endpoint("h", 1),), channel_prefix="My App", abort_on_connect_fail=True, default_database=4
            ),
        ),
        ("unix:///a%20b.sock", RedisOptions(endpoints=(Endpoint(path="/a b.sock"),))),
        (
            "unix://:pw@/a.sock?db=1",
            RedisOptions(endpoints=(Endpoint(path="/a.sock"),), password="pw", default_database=1),
        ),
    ],
)
def test_urls(url: str, expected: RedisOptions) -> None:
    """URLs give the same options; names and passwords in them are percent-encoded."""
    assert parse(url) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("localhost:abc", "no port that is a number"),
        ('"localhost:6379"', "no port that is a number"),
        ("redis://h:abc", "no port that is a number"),
        ("user:hunter2@host:6379", "is no host name"),
        ("localhost,password=a,hunter2'", "is no host name"),
        ("localhost 6379", "is no host name"),
        ("tcp://host:6379", "is no host name"),
        ("*:6379", "is no host name"),
        ("localhost,proxy=twemproxy", "The pub/sub API is not available via Twemproxy"),
        ("localhost,tunnel=http:p:1", "tunnel is not supported"),
        ("redis://:hunter2@[::1", "its address cannot be read"),
        ("redis://:hunter2\u2100@h", "its address cannot be read"),
        ("redis://:hunter2@h/x", "only a database number"),
        ("redis://:a/hunter2@h:6379", "must be percent-encoded"),
        ("redis://u:a@b/hunter2@h", "must be percent-encoded"),
        ("redis://:a?hunter2@h", "must be percent-encoded"),
        ("redis://:a?b=hunter2@h", "must be percent-encoded"),
        ("redis://u:1?hunter2@h", "must be percent-encoded"),
        ("redis://u:1?hunter2=x@h", "must be percent-encoded"),
        ("redis://u:1#hunter2@h", "must be percent-encoded"),
        ("redis://:a#hunter2@h", "must be percent-encoded"),
        ("redis://:hunter2@h?foo=1", "Keyword 'foo' is not supported."),
        ("redis://:hunter2@h:70000", "must be less than or equal to '65535'"),
        ("unix://", "names no socket"),
        ("h,connectTimeout=0", "connect_timeout must be greater than 0"),
    ],
)
def test_refusals_never_show_a_password(text: str, error: str) -> None:
    """What cannot work is refused with the reason, and without the part that may be a secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert error in str(caught.value)
    # A server that does not start prints causes, too.
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_keys_without_effect_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """A key that exists and does nothing here is a warning; one that does nothing anywhere else is not."""
    with caplog.at_level(logging.WARNING):
        parse("h,writeBuffer=1,highIntegrity=true,allowAdmin=true,tiebreaker=")
    assert [record.getMessage() for record in caplog.records] == [
        "The Redis configuration key highIntegrity has no effect.",
        "The Redis configuration key writeBuffer has no effect.",
    ]


def test_unknown_keys_can_be_skipped() -> None:
    """`ignore_unknown` holds for strings and for URLs."""
    assert parse("h,foo=1", ignore_unknown=True) == parse("h")
    assert parse("redis://h:1?foo=1", ignore_unknown=True) == parse("redis://h:1")


@pytest.mark.parametrize(
    ("text", "addresses", "expected"),
    [
        ("redis+sentinel://a,b:1/main", ("a:26379", "b:1"), {"service_name": "main", "default_database": None}),
        ("rediss+sentinel://u:p@a/main/3", ("a:26379",), {"tls": True, "user": "u", "default_database": 3}),
        ("redis://a,b:1?serviceName=main", ("a:26379", "b:1"), {"service_name": "main", "topology": "auto"}),
        ("redis+cluster://a,b:1", ("a:6379", "b:1"), {"topology": "cluster", "mode": "compat", "tls": False}),
        ("rediss+cluster://a?mode=sharded", ("a:6379",), {"topology": "cluster", "mode": "sharded", "tls": True}),
        ("redis://a?mode=sharded", ("a:6379",), {"topology": "auto", "mode": "sharded"}),
    ],
)
def test_urls_of_topologies(text: str, addresses: tuple[str, ...], expected: dict[str, object]) -> None:
    """A URL names Sentinels and their primary, or nodes of a Cluster, and the mode."""
    options = parse(text)
    assert tuple(map(str, options.addresses)) == addresses
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("redis+sentinel://a", "names no primary"),
        ("redis+sentinel://a/main/x", "malformed"),
        ("redis+cluster://a?mode=fast", "mode must be 'compat' or 'sharded', not 'fast'"),
        ("redis+cluster://a?serviceName=main", "set one of both"),
        ("unix:///a.sock?serviceName=main", "Sentinels are reached over TCP"),
        ("localhost,mode=sharded", "Keyword 'mode' is not supported"),
    ],
)
def test_contradictions_of_topologies(text: str, error: str) -> None:
    """What cannot be is refused when it is read; StackExchange.Redis strings have no key of ours."""
    with pytest.raises(ConfigurationError, match=error):
        parse(text)
