"""From what an application says about Redis to a `RedisBackplane`; imported only where Redis is used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any  # options by name are anything until RedisOptions has checked them

from hubplane.backplane.redis.client import ClientSource, ConnectionFactory, RedisClient
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisGap, RedisHandlers
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import ConfigurationError

__all__ = ["make_redis_backplane"]

_NAMES = [each.name for each in fields(RedisOptions)]


def make_redis_backplane(
    configuration: str | RedisOptions | RedisClient | None,
    *,
    configure: Callable[[RedisOptions], RedisOptions] | None = None,
    connection_factory: ConnectionFactory | None = None,
    handlers: RedisHandlers | None = None,
    hub_names: Callable[[], Sequence[str]] = tuple,
    options: Mapping[str, Any] | None = None,
) -> RedisBackplane:
    """The backplane for `HubApp` and its `add_redis`, which documents the arguments.

    Args:
        configuration: Where Redis is, or a client that knows.
        configure: Changes the options; the last word.
        connection_factory: Makes a client that knows.
        handlers: Who wants to hear of losses, returns and gaps.
        hub_names: The names of the hubs, once all are added.
        options: Options by name.

    Raises:
        ConfigurationError: Something of it is wrong, or contradicts the rest.
    """
    source: ClientSource | None = None
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
    found = replace(found, **_known(options or {}))
    if configure is not None:
        configured: object = configure(found)
        if not isinstance(configured, RedisOptions):
            raise ConfigurationError(
                f"configure must return RedisOptions, such as dataclasses.replace(options, ...), not {configured!r}."
            )
        found = configured
    return RedisBackplane(found, handlers=_with_hubs(handlers or RedisHandlers(), hub_names), source=source)


def _known(options: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in options:
        if name not in _NAMES:
            near = get_close_matches(name, _NAMES, n=1)
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
