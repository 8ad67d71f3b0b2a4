"""`hubplane check`: whether Redis is fit to be the backplane, in plain words."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any  # an application is any ASGI callable

import click

from hubplane.errors import ConfigurationError

if TYPE_CHECKING:
    from hubplane.asgi.app import HubApp
    from hubplane.backplane.redis.options import RedisOptions

__all__ = ["check"]


@click.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@click.option(
    "--redis",
    metavar="CONFIGURATION",
    envvar="HUBPLANE_REDIS",
    help="The Redis to check, or that of an APP that names none itself: a redis:// URL or a StackExchange.Redis "
    "string. Also from HUBPLANE_REDIS, which keeps a password out of the process list.",
)
@click.option(
    "--hub", "hubs", metavar="NAME", multiple=True, help="Full name of a hub, such as MyApp.ChatHub; repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
@click.option("--strict", is_flag=True, help="Warnings count as failures.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=5.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@click.option("--factory", is_flag=True, help="APP is a function without arguments that makes the application.")
@click.option("--app-dir", default=".", show_default=True, metavar="FOLDER", help="Folder to import MODULE from.")
def check(
    app: str | None,
    redis: str | None,
    hubs: tuple[str, ...],
    as_json: bool,  # noqa: FBT001 - click passes options by name
    strict: bool,  # noqa: FBT001 - click passes options by name
    timeout: float,
    factory: bool,  # noqa: FBT001 - click passes options by name
    app_dir: str,
) -> None:
    """Connect to Redis as a node would, and say what it is fit for.

    With APP the application's own configuration and hubs are checked; it is imported and not started. Nothing is
    written to Redis, and no connected client notices anything. The exit status is 0 when hubplane works on this Redis
    and 1 when it does not.

    \b
    hubplane check --redis redis://localhost:6379
    hubplane check chat:app
    """  # noqa: D301 - click reads the \b
    from hubplane.cli.examine import Examination
    from hubplane.clock import SystemClock
    from hubplane.ids import SystemIds

    if app is None and not redis:
        raise click.UsageError("Name an application (MODULE:APP), or a Redis with --redis.")
    if redis:
        os.environ["HUBPLANE_REDIS"] = redis
    names = list(hubs)
    if app is None:
        options = _options_around()
    else:
        found = _hub_app(app, factory=factory, app_dir=app_dir)
        options = _options_of(found, app)
        names = names or list(found.hub_names.values())
    examination = Examination(options, names or None, clock=SystemClock(), ids=SystemIds(), seconds=timeout)
    report = asyncio.run(examination.run())
    click.echo(report.json() if as_json else report.words())
    sys.exit(report.verdict == "failed" or (strict and report.verdict == "warning"))


def _options_around() -> RedisOptions:
    """Those of an app that leaves them to the environment, where ``HUBPLANE_REDIS_...`` may hold the password."""
    from hubplane.asgi.redis import options_of_environment
    from hubplane.configuration import load

    return options_of_environment(load(os.environ))


def _hub_app(target: str, *, factory: bool, app_dir: str) -> HubApp:
    """The one HubApp that the application is, has mounted, or stands beside.

    Raises:
        ConfigurationError: There is none, or more than one.
    """
    from hubplane.cli.loading import load_app

    app = load_app(target, factory=factory, app_dir=app_dir)
    module = sys.modules[target.partition(":")[0]]
    found = _within(app) or _within(*vars(module).values())
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigurationError(f"There are {len(found)} HubApps in {target}. Name one of them, such as chat:hubs.")
    raise ConfigurationError(f"There is no HubApp in {target}. Name it, such as chat:hubs, or use --redis.")


def _within(*objects: Any) -> list[HubApp]:
    """The HubApps among some objects, and those mounted in them."""
    from hubplane.asgi.app import HubApp

    found: list[HubApp] = []
    for thing in objects:
        if isinstance(thing, HubApp):
            found.append(thing)
        else:
            routes = getattr(thing, "routes", None)
            mounted = [getattr(route, "app", None) for route in routes] if isinstance(routes, (list, tuple)) else []
            found += [app for app in mounted if isinstance(app, HubApp)]
    return list(dict.fromkeys(found))


def _options_of(app: HubApp, target: str) -> RedisOptions:
    from hubplane.backplane.redis.pubsub import RedisBackplane

    backplane = app.backplane
    if backplane is None:
        raise ConfigurationError(
            f"The HubApp of {target} has no Redis: its hubs are one node in memory. Give it one, or use --redis."
        )
    if not isinstance(backplane, RedisBackplane):
        raise ConfigurationError(
            f"The HubApp of {target} uses {backplane.traits.name}, which this command cannot check."
        )
    options = backplane.options
    if not all(endpoint.host or endpoint.path for endpoint in options.endpoints):
        raise ConfigurationError(
            f"The HubApp of {target} makes its connections itself. Check the address with --redis."
        )
    return options
