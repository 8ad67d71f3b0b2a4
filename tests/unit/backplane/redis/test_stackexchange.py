"""The grammar of StackExchange.Redis configuration strings (redis-backplane 4.2)."""

from __future__ import annotations

import pytest

from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.stackexchange import KEYS, parse_stackexchange
from hubplane.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "endpoints"),
    [
        ("localhost", [Endpoint("localhost")]),
        ("localhost:6380", [Endpoint("localhost", 6380)]),
        ("localhost:0", [Endpoint("localhost")]),
        ("127.1", [Endpoint("127.0.0.1")]),
        ("1", [Endpoint("0.0.0.1")]),
        ("::1", [Endpoint("::1")]),
        ("[::1]", [Endpoint("::1")]),
        ("[::1]:6380", [Endpoint("::1", 6380)]),
        ("[2001:db8::1", [Endpoint("[2001:db8::1")]),
        ("[::1]x", [Endpoint("[::1]x")]),
        ("redis://localhost:6379", [Endpoint("redis://localhost:6379")]),
        ("!/run/redis.sock", [Endpoint(path="/run/redis.sock")]),
        ("!@name", [Endpoint(path="@name")]),
        ("a:1,b:2,c", [Endpoint("a", 1), Endpoint("b", 2), Endpoint("c")]),
        ("A:1,a:1,a", [Endpoint("A", 1), Endpoint("a")]),
        (" a , , b ,", [Endpoint("a"), Endpoint("b")]),
        ("=bar", [Endpoint("=bar")]),
        ("ssl=true", []),
    ],
)
def test_endpoints(text: str, endpoints: list[Endpoint]) -> None:
    """Host names, addresses in every form and sockets, without duplicates."""
    assert parse_stackexchange(text).endpoints == endpoints


@pytest.mark.parametrize("text", ["localhost:abc", "localhost:", '"localhost:6379"', "!", "unix:/a", ":1"])
def test_endpoint_that_vanishes(text: str) -> None:
    """What StackExchange.Redis drops in silence is kept apart, so that it can be refused."""
    found = parse_stackexchange(text)
    assert found.endpoints == []
    assert found.vanished == [text]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("h,ssl=YES", "ssl", True),
        ("h,SSL=off", "ssl", False),
        ("h,connectTimeout= +5 ", "connectTimeout", 5),
        ("h,keepAlive=-1", "keepAlive", -1),
        ("h,password=a=b==", "password", "a=b=="),
        ("h,password=p%40ss", "password", "p%40ss"),
        ("h,name=a,NAME=b", "name", "b"),
        ("h,channelPrefix= sp ", "channelPrefix", "sp"),
        ("h,version=7", "version", "7.0"),
        ("h,version=7.0.15", "version", "7.0.15"),
        ("h,proxy=ENVOYPROXY", "proxy", "Envoyproxy"),
        ("h,proxy=1", "proxy", "Twemproxy"),
        ("h,proxy=99", "proxy", "99"),
        ("h,protocol=RESP3", "protocol", 3),
        ("h,sslProtocols=tls12|tls13", "sslProtocols", ("Tls12", "Tls13")),
        ("h,sslProtocols=3072", "sslProtocols", ("Tls12",)),
        ("h,tunnel=http://proxy:8080", "tunnel", "http:proxy:8080"),
        ("h,tunnel=http:proxy", "tunnel", "http:proxy:80"),
        ("h,tunnel=", "tunnel", ""),
        ("h,ssl=\xa0true", "ssl", True),
    ],
)
def test_values(text: str, key: str, value: object) -> None:
    """Values are trimmed, the last of a key wins, and keys are known in any case."""
    assert parse_stackexchange(text).values[key] == value


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "is empty"),
        (" ", "is empty"),
        ("localhost:65536", "port ('65536') must be less than or equal to '65535'."),
        ("localhost:-1", "port ('-1') must be greater than or equal to '0'."),
        ("h,foo=bar", "Keyword 'foo' is not supported."),
        ("h,ssl=y", "Keyword 'ssl' requires a boolean value; the value 'y' is not recognised."),
        (
            "h,connectTimeout=1e3",
            "Keyword 'connectTimeout' requires an integer value; the value '1e3' is not recognised.",
        ),
        (
            "h,connectTimeout=99999999999",
            "Keyword 'connectTimeout' requires an integer value; the value '99999999999' is not recognised.",
        ),
        (
            "h,connectTimeout=\u0661",
            "Keyword 'connectTimeout' requires an integer value; the value '\u0661' is not recognised.",
        ),
        ("h,syncTimeout=0", "Keyword 'syncTimeout' has a minimum value of '1'; the value '0' is not permitted."),
        ("h,version=x", "Keyword 'version' requires a version value; the value 'x' is not recognised."),
        ("h,proxy=nginx", "Keyword 'proxy' requires a proxy value; the value 'nginx' is not recognised."),
        (
            "h,protocol=4",
            (
                "Keyword 'protocol' requires a RedisProtocol value or a known protocol version number; the "
                "value '4' is not recognised."
            ),
        ),
        (
            "h,sslProtocols=Tls12|Nope",
            (
                "Keyword 'sslProtocols' requires an SslProtocol value (multiple values separated by '|'); the "
                "value 'Tls12,Nope' is not recognised."
            ),
        ),
        ("h,tunnel=socks:1", "Tunnel cannot be parsed: socks:1"),
        ("h,tunnel=https:proxy:1", "Invalid URI: The Authority/Host could not be parsed."),
    ],
)
def test_errors_are_in_the_librarys_words(text: str, error: str) -> None:
    """Every refusal begins with the sentence that a .NET developer knows."""
    with pytest.raises(ConfigurationError) as caught:
        parse_stackexchange(text)
    assert str(caught.value).startswith(error)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("pasword", "password"),
        ("conectTimeout", "connectTimeout"),
        ("db", "defaultDatabase"),
        ("username", "user"),
        ("connectionTimeout", "connectTimeout"),
        ("Prefix", "channelPrefix"),
    ],
)
def test_unknown_key_names_the_right_one(key: str, meant: str) -> None:
    """An unknown key is an error that names it and the nearest one there is."""
    with pytest.raises(ConfigurationError) as caught:
        parse_stackexchange(f"h,{key}=x")
    assert str(caught.value) == f"Keyword '{key}' is not supported. Did you mean '{meant}'?"


def test_unknown_keys_can_be_skipped() -> None:
    """With `ignore_unknown` only unknown keys are passed over; wrong values are errors all the same."""
    assert parse_stackexchange("h,foo=bar,name=n", ignore_unknown=True).values == {"name": "n"}
    with pytest.raises(ConfigurationError):
        parse_stackexchange("h,ssl=maybe", ignore_unknown=True)


def test_command_map() -> None:
    """`$COMMAND=alias` renames, an empty alias disables, and a nameless one is passed over."""
    assert parse_stackexchange("h,$info=,$PUBLISH = tell,$=x").command_map == {"INFO": "", "PUBLISH": "tell"}


def test_typed_access() -> None:
    """Each accessor gives a value of its own type and None, or nothing, for any other."""
    found = parse_stackexchange("h,ssl=true,keepAlive=0,name=,user=u,sslProtocols=Tls13")
    assert (found.flag("ssl"), found.number("ssl"), found.text("ssl")) == (True, None, None)
    assert (found.number("keepAlive"), found.flag("keepAlive")) == (0, None)
    assert (found.text("name"), found.text("user"), found.names("user")) == (None, "u", ())
    assert (found.names("sslProtocols"), found.number("absent")) == (("Tls13",), None)
    assert "u" not in repr(found).partition("command_map")[2].replace("'", "")


def test_every_key_is_known_in_any_case() -> None:
    """Every key of the table is recognised in lower and in upper case."""
    for key in KEYS:
        for spelling in (key, key.lower(), key.upper()):
            found = parse_stackexchange("h")
            try:
                found.set(spelling, "1")
            except ConfigurationError as error:
                assert "is not supported" not in str(error)  # noqa: PT017 - some keys refuse this value
