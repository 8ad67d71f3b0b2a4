"""`RedisOptions`: defaults, checks, and what it never shows."""

from __future__ import annotations

from typing import Any  # wrong values on purpose

import pytest

from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.errors import ConfigurationError


def test_defaults_start_without_redis() -> None:
    """By default Redis on this machine is used, and a node starts although it is away."""
    options = RedisOptions()
    assert [str(address) for address in options.addresses] == ["127.0.0.1:6379"]
    assert options.abort_on_connect_fail is False
    assert options.async_timeout == 5.0
    assert options.backlog == "wait"


def test_repr_shows_no_password() -> None:
    """Neither password is in the repr."""
    assert "secret" not in repr(RedisOptions(user="u", password="secret", sentinel_password="secret"))


@pytest.mark.row("S48")
@pytest.mark.parametrize(
    ("options", "port"),
    [(RedisOptions(), 6379), (RedisOptions(tls=True), 6380), (RedisOptions(tls=True, service_name="m"), 26379)],
)
def test_port_0_is_the_default_port(options: RedisOptions, port: int) -> None:
    """An endpoint without a port gets 6379, 6380 with TLS, 26379 for Sentinels."""
    assert [address.port for address in options.addresses] == [port]


def test_addresses_are_listed_once() -> None:
    """An endpoint that is the same as another one once the port is filled in is not tried twice."""
    options = RedisOptions(endpoints=(Endpoint("a", 6379), Endpoint("a"), Endpoint("b")))
    assert options.addresses == (Endpoint("a", 6379), Endpoint("b", 6379))


def test_given_ports_and_sockets_stay() -> None:
    """A given port stays, and a unix socket has none."""
    options = RedisOptions(endpoints=(Endpoint("a", 1), Endpoint(path="/b")), tls=True, tls_host="c")
    assert options.addresses == options.endpoints


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint("localhost", 6379), "localhost:6379"),
        (Endpoint("localhost"), "localhost"),
        (Endpoint("::1", 6379), "[::1]:6379"),
        (Endpoint(path="/run/redis.sock"), "!/run/redis.sock"),
    ],
)
def test_endpoint_as_text(endpoint: Endpoint, text: str) -> None:
    """An endpoint reads as in a configuration string, IPv6 in brackets."""
    assert str(endpoint) == text


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"endpoints": ()}, "endpoints"),
        ({"connect_timeout": 0}, "connect_timeout"),
        ({"async_timeout": -1.0}, "async_timeout"),
        ({"retry_base": 0}, "retry_base"),
        ({"backlog_bytes": 0}, "backlog_bytes"),
        ({"backlog_messages": 0}, "backlog_messages"),
        ({"liveness_interval": -1}, "liveness_interval"),
        ({"async_timeout": "5"}, "async_timeout must be greater than 0, not '5'"),
        ({"slow_round_trip": None}, "slow_round_trip must be 0 or more, not None"),
        ({"protocol": 4}, "protocol"),
        ({"backlog": "drop"}, "backlog"),
        (
            {"tls_versions": ("Tls12", "TLSv1.3")},
            "tls_versions knows no 'TLSv1.3'. There are: Tls, Tls11, Tls12, Tls13.",
        ),
    ],
)
def test_wrong_value_is_named(wrong: dict[str, Any], named: str) -> None:
    """A value out of range is an error that names the option."""
    with pytest.raises(ConfigurationError, match=f"RedisOptions.{named}"):
        RedisOptions(**wrong)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"endpoints": (Endpoint("h", 65536),)}, "The port of h:65536 must be 0 to 65535."),
        ({"endpoints": (Endpoint("h", -1),)}, "The port of h:-1 must be 0 to 65535."),
        ({"endpoints": (Endpoint(path="/s"),), "tls": True}, "TLS over a unix socket needs RedisOptions.tls_host"),
    ],
)
def test_address_that_no_attempt_could_reach_is_refused(wrong: dict[str, Any], text: str) -> None:
    """A port out of range, or TLS without a name to check, is an error at once."""
    with pytest.raises(ConfigurationError, match=text):
        RedisOptions(**wrong)


def test_commands_keep_their_names_unless_mapped() -> None:
    """The command map renames, and an empty name means that the server has it not."""
    options = RedisOptions(command_map={"PUBLISH": "tell", "CLIENT": ""})
    assert [options.command(name) for name in ("PUBLISH", "CLIENT", "PING")] == ["tell", "", "PING"]
