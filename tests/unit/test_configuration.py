"""Facts about options from the environment and from a file."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hubplane.asgi.app import HubApp
from hubplane.backplane.redis.options import RedisOptions
from hubplane.configuration import layered, load
from hubplane.errors import ConfigurationError
from hubplane.hubs.hub import Hub
from hubplane.options import HttpTransportType, HubOptions, TransportOptions

FILE = """
shutdown_timeout = 2
keep_alive_interval = 7
client_timeout_interval = 40.5
transports = ["web_sockets", "long_polling"]
allowed_origins = ["https://app.example"]

[hubs."/chat"]
keep_alive_interval = 3
maximum_receive_message_size = "none"
"""


class ConfiguredHub(Hub):
    """Has no methods; its options matter."""


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes a file and tells its path."""

    def write(text: str) -> Path:
        path = tmp_path / "hubplane.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_every_kind_of_value_is_read_from_the_environment() -> None:
    """Numbers, flags, lists, transports and None are written as text."""
    found = load(
        {
            "HUBPLANE_KEEP_ALIVE_INTERVAL": "5",
            "HUBPLANE_ENABLE_DETAILED_ERRORS": "true",
            "HUBPLANE_SUPPORTED_PROTOCOLS": "json, messagepack",
            "HUBPLANE_MAXIMUM_RECEIVE_MESSAGE_SIZE": "None",
            "HUBPLANE_TRANSPORTS": "web_sockets,server_sent_events",
            "HUBPLANE_SHUTDOWN_TIMEOUT": "1.5",
            "HUBPLANE_REDIS": "localhost",
            "PATH": "/bin",
        }
    )
    assert found.environment == {
        "keep_alive_interval": 5.0,
        "enable_detailed_errors": True,
        "supported_protocols": ("json", "messagepack"),
        "maximum_receive_message_size": None,
        "transports": HttpTransportType.WEB_SOCKETS | HttpTransportType.SERVER_SENT_EVENTS,
    }
    assert (found.shutdown_timeout, found.redis) == (1.5, "localhost")


def test_a_file_has_options_for_all_hubs_and_for_one(written: Any) -> None:
    """A TOML file holds any option at its top, and in a section for each hub's path."""
    found = load({}, written(FILE))
    assert found.file == {
        "keep_alive_interval": 7,
        "client_timeout_interval": 40.5,
        "transports": HttpTransportType.WEB_SOCKETS | HttpTransportType.LONG_POLLING,
        "allowed_origins": ("https://app.example",),
    }
    assert found.hubs == {"/chat": {"keep_alive_interval": 3, "maximum_receive_message_size": None}}
    assert found.shutdown_timeout == 2


def test_code_wins_over_environment_over_file(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each option by itself: code, then environment, then the hub's section, then the top of the file, then .NET's."""
    monkeypatch.setenv("HUBPLANE_CONFIG", str(written(FILE)))
    monkeypatch.setenv("HUBPLANE_HANDSHAKE_TIMEOUT", "4")
    monkeypatch.setenv("HUBPLANE_CLOSE_TIMEOUT", "6")
    # 15 s is the default, and yet the code's choice.
    app = HubApp(options=HubOptions(client_timeout_interval=60, stream_buffer_capacity=20))
    app.add_hub("/chat", ConfiguredHub, options=HubOptions(handshake_timeout=15, stream_buffer_capacity=30))
    app.add_hub("/other", type("OtherHub", (ConfiguredHub,), {}))
    chat, other = (app._endpoints[path] for path in ("/chat", "/other"))
    assert chat._options == HubOptions(
        handshake_timeout=15,
        keep_alive_interval=3,
        client_timeout_interval=60,
        maximum_receive_message_size=None,
        stream_buffer_capacity=30,
    )
    assert other._options == HubOptions(
        handshake_timeout=4, keep_alive_interval=7, client_timeout_interval=60, stream_buffer_capacity=20
    )
    assert chat._transport_options == TransportOptions(
        close_timeout=6,
        transports=HttpTransportType.WEB_SOCKETS | HttpTransportType.LONG_POLLING,
        allowed_origins=("https://app.example",),
    )
    assert app._shutdown_timeout == 2
    monkeypatch.setenv("HUBPLANE_KEEP_ALIVE_INTERVAL", "9")
    app = HubApp.from_file(written(FILE), shutdown_timeout=1)
    app.add_hub("/chat", ConfiguredHub)
    assert app._endpoints["/chat"]._options.keep_alive_interval == 9
    assert app._shutdown_timeout == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keep_alive_intervall = 1", "unknown key 'keep_alive_intervall'. Do you mean 'keep_alive_interval'"),
        ("zzz = 1", "unknown key 'zzz'. There are: handshake_timeout"),
        ('[hubs."/chat"]\nclose_time_out = 1', "section of hub '/chat'. Do you mean 'close_timeout'"),
        ("hubs = 3", "sections of hubs are written"),
        ('keep_alive_interval = "soon"', "keep_alive_interval cannot be 'soon'"),
        ("keep_alive_interval = true", "keep_alive_interval cannot be True"),
        ('transports = ["websocket"]', "names no transport 'websocket'. Do you mean 'web_sockets'"),
        ("transports = 7", "is a list of names such as web_sockets, not 7"),
        ("redis = 6379", "redis is a configuration string"),
        ("= 1", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_is_named(written: Any, text: str, said: str) -> None:
    """An unknown key names the nearest right one, and a wrong value its key; both name the file."""
    with pytest.raises(ConfigurationError) as caught:
        load({}, written(text))
    assert said in str(caught.value)
    assert "hubplane.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """A path that leads nowhere is a mistake, not an empty file."""
    with pytest.raises(ConfigurationError, match=r"nowhere\.toml cannot be read"):
        HubApp.from_file(tmp_path / "nowhere.toml")


def test_a_mistyped_variable_is_refused_and_a_foreign_one_is_not() -> None:
    """A variable that is nearly an option's names it; others, which platforms set for a service, are left alone."""
    assert load({"HUBPLANE_SERVICE_HOST": "10.0.0.1", "HUBPLANE_PORT": "tcp://10.0.0.1:80"}).environment == {}
    with pytest.raises(ConfigurationError, match="Do you mean HUBPLANE_KEEP_ALIVE_INTERVAL"):
        load({"HUBPLANE_KEEPALIVE_INTERVAL": "5"})
    with pytest.raises(ConfigurationError, match="HUBPLANE_CLOSE_TIMEOUT cannot be 'x'"):
        load({"HUBPLANE_CLOSE_TIMEOUT": "x"})


def test_the_environment_has_options_of_one_hub(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable for one hub wins over one for all, and both over the file; the code wins over all of them."""
    monkeypatch.setenv("HUBPLANE_CONFIG", str(written(FILE.replace("/chat", "/api/chat-hub.2"))))
    monkeypatch.setenv("HUBPLANE_KEEP_ALIVE_INTERVAL", "4")
    monkeypatch.setenv("HUBPLANE_HUBS__API_CHAT_HUB_2__KEEP_ALIVE_INTERVAL", "5")
    monkeypatch.setenv("HUBPLANE_HUBS__API_CHAT_HUB_2__POLL_TIMEOUT", "6")
    monkeypatch.setenv("HUBPLANE_HUBS__API_CHAT_HUB_2__CLIENT_TIMEOUT_INTERVAL", "7")
    app = HubApp()
    app.add_hub("/api/chat-hub.2", ConfiguredHub, options=HubOptions(client_timeout_interval=8))
    app.add_hub("/other", type("OtherHub", (ConfiguredHub,), {}))
    chat, other = (app._endpoints[path] for path in ("/api/chat-hub.2", "/other"))
    assert (chat._options.keep_alive_interval, chat._options.client_timeout_interval) == (5, 8)
    assert chat._options.maximum_receive_message_size is None
    assert chat._transport_options.poll_timeout == 6
    assert (other._options.keep_alive_interval, other._transport_options.poll_timeout) == (4, 90)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("HUBPLANE_HUBS__CHAT__KEEP_ALIVE_INTERVALL", "unknown HUBPLANE_HUBS__CHAT__KEEP_ALIVE_INTERVALL"),
        ("HUBPLANE_HUBS__CHAT__KEEP_ALIVE_INTERVALL", "Do you mean 'keep_alive_interval'"),
        ("HUBPLANE_HUBS__CHAT__keep_alive_interval", "Options of one hub are written HUBPLANE_HUBS__<ITS PATH>__"),
        ("HUBPLANE_HUBS__KEEP_ALIVE_INTERVAL", "Options of one hub are written"),
        ("HUBPLANE_HUBS____KEEP_ALIVE_INTERVAL", "Options of one hub are written"),
        ("HUBPLANE_HUBS__CHAT__REDIS", "unknown HUBPLANE_HUBS__CHAT__REDIS"),
    ],
)
def test_a_mistyped_variable_of_one_hub_is_refused(variable: str, said: str) -> None:
    """All names of this form are ours, so an unknown one is a mistake."""
    with pytest.raises(ConfigurationError) as caught:
        load({variable: "5"})
    assert said in str(caught.value)


async def test_a_variable_of_no_hub_or_of_two_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would count for nobody, or nobody knows for whom."""
    monkeypatch.setenv("HUBPLANE_HUBS__CHATS__KEEP_ALIVE_INTERVAL", "5")
    app = HubApp()
    app.add_hub("/chat", ConfiguredHub)
    with pytest.raises(
        ConfigurationError, match=r"HUBPLANE_HUBS__CHATS__\.\.\., but there is no such hub\. Do you mean 'CHAT'"
    ):
        async with app.lifespan():
            raise AssertionError("it has started")
    monkeypatch.delenv("HUBPLANE_HUBS__CHATS__KEEP_ALIVE_INTERVAL")
    monkeypatch.setenv("HUBPLANE_HUBS__THE_CHAT__KEEP_ALIVE_INTERVAL", "5")
    app = HubApp()
    app.add_hub("/the-chat", ConfiguredHub)
    app.add_hub("/the_chat", type("OtherHub", (ConfiguredHub,), {}))
    with pytest.raises(ConfigurationError, match="stands for two hubs, '/the-chat' and '/the_chat': use the file"):
        async with app.lifespan():
            raise AssertionError("it has started")


async def test_a_section_without_its_hub_is_refused_at_the_start(written: Any) -> None:
    """A section for a path where no hub is would never count, so the app does not start."""
    app = HubApp.from_file(written('[hubs."/chats"]\nkeep_alive_interval = 1'))
    app.add_hub("/chat", ConfiguredHub)
    with pytest.raises(ConfigurationError, match=r"no hub at this path\. Do you mean '/chat'"):
        async with app.lifespan():
            raise AssertionError("it has started")


def test_a_value_out_of_range_is_refused_wherever_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the environment are checked as those of the code."""
    monkeypatch.setenv("HUBPLANE_KEEP_ALIVE_INTERVAL", "0")
    with pytest.raises(ConfigurationError, match=r"HubOptions\.keep_alive_interval must be greater than 0"):
        HubApp().add_hub("/chat", ConfiguredHub)


def test_options_remember_what_was_given() -> None:
    """Copies remember it too; equality is about the values alone."""
    options = HubOptions(handshake_timeout=15)
    assert options == HubOptions()
    assert options.given == {"handshake_timeout"}
    assert copy.copy(options).given == pickle.loads(pickle.dumps(options)).given == options.given  # noqa: S301 - ours
    assert layered(HubOptions, {"handshake_timeout": 3.0, "close_timeout": 1.0}, HubOptions(), None) == HubOptions(
        handshake_timeout=3
    )


@pytest.mark.parametrize(
    "origin", ["app.example", "https://app.example/", "https://app.example/x", "https://*.example"]
)
def test_an_origin_that_can_never_match_is_refused(origin: str) -> None:
    """An allowed origin is scheme, host and port; anything else would silently allow nobody."""
    with pytest.raises(ConfigurationError, match="is no origin"):
        TransportOptions(allowed_origins=(origin,))


def test_one_string_is_no_list_of_origins() -> None:
    """A string would count as a list of letters."""
    with pytest.raises(ConfigurationError, match="not one string"):
        TransportOptions(allowed_origins="https://app.example")  # type: ignore[arg-type]  # the mistake


def test_variables_of_redis_are_no_misspelled_options() -> None:
    """Each option of `RedisOptions` can stand in a variable, also where its name is nearly that of another option."""
    names = [f"HUBPLANE_REDIS_{each.name.upper()}" for each in fields(RedisOptions)]
    assert "HUBPLANE_REDIS_CONNECT_TIMEOUT" in names
    found = load(dict.fromkeys(names, "1"))
    assert len(found.redis_environment) == len(names)
