"""Options from the environment and from a TOML file, under those that the code gives.

Each option is looked up on its own: what the code names wins over the environment, the environment over the file.
Within each of them what stands for one hub wins over what stands for all.

Source: signalr-server section 5.1, "a per-hub copy starts from the global values".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, get_type_hints  # values from files and variables are anything until converted

import msgspec

from hubplane.errors import ConfigurationError
from hubplane.options import HttpTransportType, HubOptions, TransportOptions

__all__ = ["Configuration", "layered", "load"]

OptionsT = TypeVar("OptionsT", HubOptions, TransportOptions)

PREFIX = "HUBPLANE_"
HUB_PREFIX = "HUBPLANE_HUBS__"
CONFIG_VARIABLE = "HUBPLANE_CONFIG"
_REDIS_PREFIX = "HUBPLANE_REDIS_"

_OWN_KEYS = ("redis", "shutdown_timeout", "hubs")


def _types(kind: type[HubOptions | TransportOptions]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}


_HUB, _TRANSPORT = _types(HubOptions), _types(TransportOptions)
_ALL = {**_HUB, **_TRANSPORT}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the environment and the file say.

    Attributes:
        source: The file, for messages; empty without one.
        redis: The Redis configuration, None for none.
        redis_in_environment: It comes from the environment.
        redis_file: Options of Redis in the file, by name, unchecked: who uses Redis knows them.
        redis_environment: Those of the environment, likewise: every variable behind ``HUBPLANE_REDIS_``.
        shutdown_timeout: Seconds, None for the default.
        file: Options of the file for all hubs.
        environment: Options of the environment.
        hubs: Options of the file for one hub, by its path.
        environment_hubs: Options of the environment for one hub, by its path as variables spell it.
    """

    source: str = ""
    redis: str | None = None
    redis_in_environment: bool = False
    redis_file: Mapping[str, Any] = field(default_factory=dict)
    redis_environment: Mapping[str, str] = field(default_factory=dict)
    shutdown_timeout: float | None = None
    file: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    hubs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    environment_hubs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def layers(self, path: str) -> tuple[Mapping[str, Any] | None, ...]:
        """What stands under the code for the hub at `path`, the strongest last."""
        return self.file, self.hubs.get(path), self.environment, self.environment_hubs.get(_spelled(path))

    def check_hubs(self, paths: Collection[str]) -> None:
        """See that every section of the file, and every variable for one hub, belongs to a hub.

        Raises:
            ConfigurationError: One does not, and the text names the nearest hub; or a variable belongs to two.
        """
        spelled: dict[str, str] = {}
        for path in paths:
            other = spelled.setdefault(_spelled(path), path)
            if other != path and _spelled(path) in self.environment_hubs:
                raise ConfigurationError(
                    f"{HUB_PREFIX}{_spelled(path)}__... stands for two hubs, {other!r} and {path!r}: use the file."
                )
        for name in self.environment_hubs:
            if name not in spelled:
                raise ConfigurationError(
                    f"The environment has {HUB_PREFIX}{name}__..., but there is no such hub.{_nearest(name, spelled)}"
                )
        for path in self.hubs:
            if path not in paths:
                raise ConfigurationError(
                    f"{self.source} has a section for the hub {path!r}, but there is no hub at this path."
                    f"{_nearest(path, paths)}"
                )

    def check_redis(self, *, used: bool) -> None:
        """See that options of Redis in the file have a Redis to be for.

        Raises:
            ConfigurationError: There is none.
        """
        if self.redis_file and not used:
            raise ConfigurationError(
                f"{self.source} has options of Redis, but nothing says where it is. Set configuration among them."
            )


def load(environ: Mapping[str, str], path: str | PathLike[str] | None = None) -> Configuration:
    """Read the environment, and the file at `path` or else the one that ``HUBPLANE_CONFIG`` names.

    Args:
        environ: The environment's variables. Those named like an option, in capitals behind ``HUBPLANE_``, are options;
            a name that is nearly one is refused, and others are left alone, for platforms set variables of their own.
            Those of one hub have its path between ``HUBPLANE_HUBS__`` and ``__``, in capitals, with a single
            underscore for all between letters and digits.
        path: The TOML file.

    Raises:
        ConfigurationError: The file cannot be read, a key is unknown, or a value does not fit; the text says where.
    """
    chosen = path or environ.get(CONFIG_VARIABLE)
    source = str(chosen) if chosen else ""
    document = _read(Path(source)) if source else {}
    for key in document:
        if key not in _ALL and key not in _OWN_KEYS:
            raise ConfigurationError(f"{source} has an unknown key {key!r}.{_nearest(key, (*_ALL, *_OWN_KEYS))}")
    sections = document.get("hubs", {})
    if not isinstance(sections, dict) or not all(isinstance(section, dict) for section in sections.values()):
        raise ConfigurationError(f'{source}: sections of hubs are written [hubs."/path"].')
    hubs: dict[str, Mapping[str, Any]] = {}
    for hub, section in sections.items():
        for key in section:
            if key not in _ALL:
                raise ConfigurationError(
                    f"{source} has an unknown key {key!r} in the section of hub {hub!r}.{_nearest(key, _ALL)}"
                )
        hubs[hub] = {key: _convert(key, value, f"{source}, hub {hub!r}: {key}") for key, value in section.items()}
    timeout = environ.get(f"{PREFIX}SHUTDOWN_TIMEOUT", document.get("shutdown_timeout"))
    redis_table = document.get("redis") or {}
    if isinstance(redis_table, str):
        redis_table = {"configuration": redis_table}
    if not isinstance(redis_table, dict) or not isinstance(redis_table.get("configuration", ""), str):
        raise ConfigurationError(f"{source}: redis is a configuration string or a redis:// URL, or a table with one.")
    return Configuration(
        source=source,
        redis=environ.get(f"{PREFIX}REDIS") or redis_table.get("configuration") or None,
        redis_in_environment=bool(environ.get(f"{PREFIX}REDIS")),
        redis_file={key: value for key, value in redis_table.items() if key != "configuration"},
        redis_environment={
            variable.removeprefix(_REDIS_PREFIX).lower(): text
            for variable, text in environ.items()
            if variable.startswith(_REDIS_PREFIX)
        },
        shutdown_timeout=None if timeout is None else _checked(timeout, float, "shutdown_timeout"),
        file={key: _convert(key, value, f"{source}: {key}") for key, value in document.items() if key in _ALL},
        environment=_environment(environ),
        hubs=hubs,
        environment_hubs=_environment_hubs(environ),
    )


def layered(kind: type[OptionsT], *layers: OptionsT | Mapping[str, Any] | None) -> OptionsT:
    """Options of one kind from several layers, the strongest last.

    Args:
        kind: The class of options.
        layers: Options of the code, of which those count that were named; or options by name, those of the other kind
            left out; or None.

    Raises:
        ConfigurationError: A value is out of range.
    """
    known = _HUB if kind is HubOptions else _TRANSPORT
    values: dict[str, Any] = {}
    for layer in layers:
        if isinstance(layer, (HubOptions, TransportOptions)):
            values.update({name: getattr(layer, name) for name in layer.given})
        elif layer is not None:
            values.update({name: value for name, value in layer.items() if name in known})
    return kind(**values)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The configuration file {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"The configuration file {path} is no TOML: {error}") from error


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names = {f"{PREFIX}{name.upper()}": name for name in _ALL}
    for variable, text in environ.items():
        # Those of Redis are judged by who uses Redis; one of them is nearly the name of an option here.
        if not variable.startswith(PREFIX) or variable.startswith((HUB_PREFIX, _REDIS_PREFIX)):
            continue
        if variable in names:
            name = names[variable]
            found[name] = _convert(name, text, variable)
        elif close := get_close_matches(variable, names, n=1, cutoff=0.9):
            raise ConfigurationError(f"The environment has an unknown {variable}. Do you mean {close[0]}?")
    return found


def _environment_hubs(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for variable, text in environ.items():
        if not variable.startswith(HUB_PREFIX):
            continue
        hub, separator, option = variable.removeprefix(HUB_PREFIX).rpartition("__")
        name = option.lower()
        if not separator or not hub or option != name.upper() or name not in _ALL:
            raise ConfigurationError(
                f"The environment has an unknown {variable}. Options of one hub are written "
                f"{HUB_PREFIX}<ITS PATH>__<OPTION>.{_nearest(name, _ALL)}"
            )
        found.setdefault(hub, {})[name] = _convert(name, text, variable)
    return found


def _spelled(path: str) -> str:
    """A hub's path as variables spell it: ``/api/chat-hub`` is ``API_CHAT_HUB``."""
    return re.sub(r"[^0-9A-Z]+", "_", path.upper()).strip("_")


def _convert(name: str, value: Any, where: str) -> Any:
    kind = _ALL[name]
    if isinstance(value, str) and value.strip().lower() == "none":
        value = None
    if kind is HttpTransportType:
        return _transports(value, where)
    if isinstance(value, str) and "tuple" in str(kind):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return _checked(value, kind, where)


def _checked(value: Any, kind: Any, where: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where} cannot be {value!r}: {error}") from error


def _transports(value: Any, where: str) -> HttpTransportType:
    names = value.replace("|", ",").split(",") if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigurationError(f"{where} is a list of names such as web_sockets, not {value!r}.")
    result = HttpTransportType.NONE
    for name in names:
        try:
            result |= HttpTransportType[name.strip().upper()]
        except KeyError:
            known = [member.lower() for member in HttpTransportType.__members__]
            raise ConfigurationError(f"{where} names no transport {name!r}.{_nearest(name.lower(), known)}") from None
    return result


def _nearest(key: str, known: Collection[str]) -> str:
    close = get_close_matches(key, known, n=1, cutoff=0.5)
    return f" Do you mean {close[0]!r}?" if close else f" There are: {', '.join(known)}."
