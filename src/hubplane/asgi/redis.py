"""From what an application says about Redis to a `RedisBackplane`; imported only where Redis is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from typing import Any, get_type_hints  # options by name are anything until RedisOptions has checked them

import msgspec

from hubplane.backplane.redis.client import ClientSource, ConnectionFactory, RedisClient
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisGap, RedisHandlers
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.configuration import Configuration
from hubplane.errors import ConfigurationError

__all__ = ["make_redis_backplane", "options_of_environment"]

_DEFAULTS = {
    each.name: each.default if each.default is not MISSING else MISSING for each in fields(RedisOptions) if each.init
}
_HINTS = get_type_hints(RedisOptions)
# Objects of the program, and what the configuration string or URL says.
_CODE_ONLY = {"credential_provider", "ssl_context", "command_map", "endpoints"}
_WRITTEN = {name: hint for name, hint in _HINTS.items() if name in _DEFAULTS and name not in _CODE_ONLY}


def make_redis_backplane(
    configuration: str | RedisOptions | RedisClient | None,
    *,
    around: Configuration | None = None,
    configure: Callable[[RedisOptions], RedisOptions] | None = None,
    connection_factory: ConnectionFactory | None = None,
    handlers: RedisHandlers | None = None,
    hub_names: Callable[[], Sequence[str]] = tuple,
    options: Mapping[str, Any] | None = None,
) -> RedisBackplane:
    """The backplane for `HubApp` and its `add_redis`, which documents the arguments.

    Args:
        configuration: Where Redis is, or a client that knows; None for what the environment or the file says.
        around: The environment and the file. Their options count where the code's are at their defaults.
        configure: Changes the options; the last word.
        connection_factory: Makes a client that knows.
        handlers: Who wants to hear of losses, returns and gaps.
        hub_names: The names of the hubs, once all are added.
        options: Options by name.

    Raises:
        ConfigurationError: Something of it is wrong, or contradicts the rest.
    """
    source: ClientSource | None = None
    around = around or Configuration()
    in_code = configuration is not None
    if configuration is None:
        configuration = around.redis
    if configuration is None:
        found = RedisOptions()
    elif isinstance(configuration, RedisOptions):
        found = configuration
    elif isinstance(configuration, str):
        found = parse(configuration)
    else:
        found, source = RedisOptions(), ClientSource(configuration)
    if connection_factory is not None:
        if source is not None:
            raise ConfigurationError("A Redis client and a connection_factory exclude each other. Keep one.")
        source = ClientSource(factory=connection_factory)
    found = replace(_surrounded(found, around, in_code=in_code), **_known(options or {}))
    if configure is not None:
        configured: object = configure(found)
        if not isinstance(configured, RedisOptions):
            raise ConfigurationError(
                f"configure must return RedisOptions, such as dataclasses.replace(options, ...), not {configured!r}."
            )
        found = configured
    return RedisBackplane(found, handlers=_with_hubs(handlers or RedisHandlers(), hub_names), source=source)


def options_of_environment(around: Configuration) -> RedisOptions:
    """The options of a node whose code names none.

    Args:
        around: The environment and the file.

    Raises:
        ConfigurationError: Something of it is wrong.
    """
    found = RedisOptions() if around.redis is None else parse(around.redis)
    return _surrounded(found, around, in_code=False)


def _surrounded(options: RedisOptions, around: Configuration, *, in_code: bool) -> RedisOptions:
    in_file = _read(around.redis_file, f"{around.source}: redis.", refuse=True)
    in_environment = _read(around.redis_environment, "HUBPLANE_REDIS_", refuse=False)
    if in_code:
        return _layered(options, {**in_file, **in_environment}, over=False)
    found = _layered(options, in_file, over=not around.redis_in_environment)
    return _layered(found, in_environment, over=True)


def _layered(options: RedisOptions, layer: Mapping[str, Any], *, over: bool) -> RedisOptions:
    changes = {name: value for name, value in layer.items() if over or getattr(options, name) == _DEFAULTS[name]}
    return replace(options, **changes)


def _read(layer: Mapping[str, Any], where: str, *, refuse: bool) -> dict[str, Any]:
    """Options as the environment or a file has them; platforms set variables of their own, so those may be others."""
    found: dict[str, Any] = {}
    for name, value in layer.items():
        if name in _WRITTEN:
            found[name] = _converted(name, value, f"{where}{name if refuse else name.upper()}")
            continue
        near = get_close_matches(name, _WRITTEN, n=1, cutoff=0.5 if refuse else 0.9)
        if near or refuse:
            hint = f" Do you mean {near[0] if refuse else near[0].upper()!r}?" if near else ""
            raise ConfigurationError(f"{where}{name if refuse else name.upper()} is no option of Redis.{hint}")
    return found


def _converted(name: str, value: Any, where: str) -> Any:
    if isinstance(value, str) and value.strip().lower() == "none":
        value = None
    if isinstance(value, str) and name == "tls_versions":
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, str) and name == "protocol":
        value = int(value) if value.isdecimal() else value
    try:
        return msgspec.convert(value, _WRITTEN[name], strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        shown = "" if "password" in name else f" {value!r}"
        raise ConfigurationError(f"{where} cannot be{shown or ' that'}: {error}") from error


def _known(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in options:
        if name not in _DEFAULTS:
            near = get_close_matches(name, _DEFAULTS, n=1)
            hint = f" Do you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"RedisOptions has no option {name!r}.{hint}")
    return options


def _with_hubs(handlers: RedisHandlers, hub_names: Callable[[], Sequence[str]]) -> RedisHandlers:
    """The same handlers, and gaps that say which hubs they concern: the backplane knows channels only."""
    on_gap = handlers.on_gap
    if on_gap is None:
        return handlers

    def complete(gap: RedisGap) -> Awaitable[None] | None:
        hubs = (name for name in hub_names() if any(channel.startswith(f"{name}:") for channel in gap.channels))
        return on_gap(replace(gap, hubs=tuple(hubs)))

    return replace(handlers, on_gap=complete)
