"""Where the options of Redis come from, and who wins: code, environment, file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any  # options by name

import pytest

from hubplane.asgi.app import HubApp
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import ConfigurationError
from hubplane.hubs.hub import Hub


class ChatHub(Hub):
    """Has no methods; its backplane matters."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this machine counts."""
    for name in ("HUBPLANE_REDIS", "HUBPLANE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def options_of(hubs: HubApp) -> RedisOptions:
    """The options that an app ends up with."""
    backplane = hubs._backplane
    assert isinstance(backplane, RedisBackplane)
    return backplane.options


def configured(*arguments: Any, **named: Any) -> RedisOptions:
    """The options after `add_redis`."""
    hubs = HubApp()
    hubs.add_redis(*arguments, **named)
    return options_of(hubs)


FULL = "redis.internal:6390,user=u,password=p,ssl=true,channelPrefix=App,asyncTimeout=1500,abortConnect=true,name=n"
SAME: dict[str, Any] = {
    "endpoints": (Endpoint("redis.internal", 6390),),
    "user": "u",
    "password": "p",
    "tls": True,
    "channel_prefix": "App",
    "async_timeout": 1.5,
    "abort_on_connect_fail": True,
    "client_name": "n",
}


@pytest.mark.row("S21")
def test_every_way_leads_to_the_same_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A string, a URL, options, names and a function in code, the environment, and a file in both forms are alike."""
    expected = RedisOptions(**SAME)
    assert options_of(HubApp(FULL)) == expected
    assert options_of(HubApp(expected)) == expected
    assert configured(FULL) == expected
    query = "channelPrefix=App&asyncTimeout=1500&abortConnect=true&name=n"
    assert configured(f"rediss://u:p@redis.internal:6390?{query}") == expected
    assert configured(**SAME) == expected
    assert configured("other", configure=lambda options: replace(options, **SAME)) == expected
    file = tmp_path / "hubplane.toml"
    file.write_text(f'redis = "{FULL}"', encoding="utf-8")
    assert options_of(HubApp.from_file(file)) == expected
    file.write_text(
        """
[redis]
configuration = "redis.internal:6390"
user = "u"
password = "p"
tls = true
channel_prefix = "App"
async_timeout = 1.5
abort_on_connect_fail = true
client_name = "n"
""",
        encoding="utf-8",
    )
    assert options_of(HubApp.from_file(file)) == expected
    monkeypatch.setenv("HUBPLANE_REDIS", FULL)
    assert options_of(HubApp()) == expected
    monkeypatch.setenv("HUBPLANE_REDIS", "redis.internal:6390")
    for name, value in SAME.items():
        if name != "endpoints":
            monkeypatch.setenv(f"HUBPLANE_REDIS_{name.upper()}", str(value))
    assert options_of(HubApp()) == expected


@pytest.mark.row("S23")
def test_code_wins_over_the_string() -> None:
    """A name wins over the string, and the function over both; what neither names stays as the string says."""
    text = "a:1,channelPrefix=A,asyncTimeout=1000,user=u"
    options = configured(
        text, channel_prefix="B", user="v", configure=lambda options: replace(options, channel_prefix="C")
    )
    assert (options.channel_prefix, options.user, options.async_timeout) == ("C", "v", 1.0)
    assert configured(text, channel_prefix="B").channel_prefix == "B"


@pytest.mark.row("S26")
def test_function_sees_what_the_string_said() -> None:
    """The configuring function gets the parsed string: addresses, prefix, timeouts, all of it."""
    seen: list[RedisOptions] = []

    def configure(options: RedisOptions) -> RedisOptions:
        seen.append(options)
        return options

    configured(FULL, configure=configure)
    assert seen == [RedisOptions(**SAME)]


@pytest.mark.row("S21")
def test_environment_wins_over_the_file_and_code_over_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each option by itself: code, then its variable, then the string, then the file."""
    file = tmp_path / "hubplane.toml"
    file.write_text(
        '[redis]\nconfiguration = "file:1"\nchannel_prefix = "File"\nuser = "file"\nretry_max = 7\n', encoding="utf-8"
    )
    monkeypatch.setenv("HUBPLANE_REDIS_CHANNEL_PREFIX", "Variable")
    assert options_of(HubApp.from_file(file)) == RedisOptions(
        endpoints=(Endpoint("file", 1),), channel_prefix="Variable", user="file", retry_max=7.0
    )
    monkeypatch.setenv("HUBPLANE_REDIS", "env:2,user=env,channelPrefix=String")
    assert options_of(HubApp.from_file(file)) == RedisOptions(
        endpoints=(Endpoint("env", 2),), channel_prefix="Variable", user="env", retry_max=7.0
    )
    hubs = HubApp.from_file(file)
    hubs.add_redis("code:3,channelPrefix=Code", user="code")
    assert options_of(hubs) == RedisOptions(
        endpoints=(Endpoint("code", 3),), channel_prefix="Code", user="code", retry_max=7.0
    )
    # Without a place of its own, the code takes the one around it.
    hubs = HubApp.from_file(file)
    hubs.add_redis(liveness_interval=0.5)
    assert options_of(hubs).endpoints == (Endpoint("env", 2),)
    assert options_of(hubs).liveness_interval == 0.5


def test_variables_are_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, truth, lists and None are read from text; a wrong one is refused by its name."""
    monkeypatch.setenv("HUBPLANE_REDIS", "localhost,user=u")
    for name, text in {
        "PROTOCOL": "3",
        "TLS_VERSIONS": "Tls12, Tls13",
        "TCP_KEEP_ALIVE": "false",
        "USER": "none",
    }.items():
        monkeypatch.setenv(f"HUBPLANE_REDIS_{name}", text)
    options = options_of(HubApp())
    assert (options.protocol, options.tls_versions, options.tcp_keep_alive, options.user) == (
        3,
        ("Tls12", "Tls13"),
        False,
        None,
    )
    monkeypatch.setenv("HUBPLANE_REDIS_PROTOCOL", "4")
    with pytest.raises(ConfigurationError, match="HUBPLANE_REDIS_PROTOCOL cannot be 4"):
        HubApp()


def test_variables_of_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Kubernetes sets for a service named hubplane-redis is no option; what is nearly one is a mistake."""
    monkeypatch.setenv("HUBPLANE_REDIS", "localhost")
    monkeypatch.setenv("HUBPLANE_REDIS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("HUBPLANE_REDIS_PORT_6379_TCP", "tcp://10.0.0.1:6379")
    assert options_of(HubApp()) == RedisOptions(endpoints=(Endpoint("localhost"),))
    monkeypatch.setenv("HUBPLANE_REDIS_CHANEL_PREFIX", "App")
    with pytest.raises(ConfigurationError, match="Do you mean 'CHANNEL_PREFIX'"):
        HubApp()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[redis]\nchannel_prefx = 'a'", "redis.channel_prefx is no option of Redis. Do you mean 'channel_prefix'?"),
        ("[redis]\nasync_timeout = 'soon'", "redis.async_timeout cannot be 'soon'"),
        ("[redis]\npassword = 4711", "redis.password cannot be that"),
        ("[redis]\nretry_max = 0", "RedisOptions.retry_max must be greater than 0"),
        ("[redis]\nconfiguration = 4711", "or a table with one"),
        ("redis = ['a']", "or a table with one"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    """An unknown option, a value of the wrong kind or out of range stops the app; a password is not repeated."""
    file = tmp_path / "hubplane.toml"
    file.write_text(text, encoding="utf-8")

    def configure() -> None:
        HubApp(config_file=file).add_redis("localhost")

    with pytest.raises(ConfigurationError) as caught:
        configure()
    assert says in str(caught.value)
    assert "4711" not in str(caught.value)


async def test_options_without_a_place_are_a_mistake(tmp_path: Path) -> None:
    """A file that has options of Redis and does not say where it is stops an app that does not say it either."""
    file = tmp_path / "hubplane.toml"
    file.write_text("[redis]\nchannel_prefix = 'App'", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="has options of Redis, but nothing says where it is"):
        async with HubApp.from_file(file).lifespan():
            pass


def test_options_by_name_are_checked() -> None:
    """An option that does not exist is refused with the nearest one, and a function must return options."""
    with pytest.raises(ConfigurationError, match=r"no option 'channelprefix'\. Do you mean 'channel_prefix'"):
        configured(channelprefix="a")
    with pytest.raises(ConfigurationError, match="configure must return RedisOptions"):
        configured(configure=lambda _: None)


def test_redis_is_given_once_and_in_time() -> None:
    """A second Redis, and one that comes after a context was handed out, are refused."""
    with pytest.raises(ConfigurationError, match="There is a Redis already"):
        HubApp("localhost").add_redis("localhost")
    hubs = HubApp()
    hubs.add_redis("localhost")
    with pytest.raises(ConfigurationError, match="There is a Redis already"):
        hubs.add_redis("localhost")
    hubs = HubApp()
    hubs.add_hub("/chat", ChatHub)
    hubs.context(ChatHub)
    with pytest.raises(ConfigurationError, match="comes before"):
        hubs.add_redis("localhost")


@pytest.mark.row("S11")
def test_order_of_hubs_and_redis_is_free() -> None:
    """Hubs that were added before `add_redis` are on the backplane as are those added after."""
    before, after = HubApp(), HubApp()
    before.add_redis("localhost,channelPrefix=A")
    before.add_hub("/chat", ChatHub)
    after.add_hub("/chat", ChatHub)
    after.add_redis("localhost,channelPrefix=A")
    for hubs in (before, after):
        (endpoint,) = hubs._endpoints.values()
        assert type(endpoint.lifetime).__name__ == "ScaleoutHubLifetimeManager"


async def test_redis_is_not_added_to_a_running_app() -> None:
    """While the app runs it is too late."""
    hubs = HubApp()
    async with hubs.lifespan():
        with pytest.raises(ConfigurationError, match="comes before the app starts"):
            hubs.add_redis("localhost")


@pytest.mark.parametrize("variable", ["V", ""])
def test_a_variable_wins_over_the_file_under_code_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Where the code says only where Redis is, an option comes from its variable, whatever the file has."""
    path = tmp_path / "hubplane.toml"
    path.write_text('redis = { configuration = "elsewhere", channel_prefix = "T", client_name = "file" }')
    monkeypatch.setenv("HUBPLANE_REDIS_CHANNEL_PREFIX", variable)
    options = options_of(HubApp("code:3", config_file=path))
    assert options.endpoints == (Endpoint("code", 3),)
    assert (options.channel_prefix, options.client_name) == (variable, "file")
