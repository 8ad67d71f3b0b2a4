"""`hubplane serve`: an application on the fast edge, in one process or several."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from hubplane.cli.addresses import bind_tcp, bind_unix, url_of
from hubplane.cli.embedded import EmbeddedServer
from hubplane.cli.fleet import Fleet, WorkerPlan
from hubplane.cli.logs import LEVELS, log_config
from hubplane.cli.serving import Target, run_server

__all__ = ["serve"]


@click.command()
@click.argument("app", metavar="MODULE:APP")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the port.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for any free port.")
@click.option("--uds", metavar="PATH", help="Listen on a unix socket instead.")
@click.option(
    "--redis",
    metavar="CONFIGURATION",
    envvar="HUBPLANE_REDIS",
    help="Redis of the fleet, for a HubApp that names none itself: a redis:// URL or a StackExchange.Redis string. "
    "Also from HUBPLANE_REDIS, which keeps a password out of the process list. Without it, several workers share an "
    "embedded Valkey.",
)
@click.option("--no-embedded", is_flag=True, help="No embedded Valkey: the application names its Redis itself.")
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="Least level to log.")
@click.option("--factory", is_flag=True, help="APP is a function without arguments that makes the application.")
@click.option("--app-dir", default=".", show_default=True, metavar="FOLDER", help="Folder to import MODULE from.")
def serve(  # noqa: PLR0913, PLR0917 - one argument an option
    app: str,
    workers: int,
    host: str,
    port: int,
    uds: str | None,
    redis: str | None,
    no_embedded: bool,  # noqa: FBT001 - click passes options by name
    log_level: str,
    factory: bool,  # noqa: FBT001 - click passes options by name
    app_dir: str,
) -> None:
    """Serve the ASGI application APP of MODULE on the fast edge.

    With several workers, or several machines behind a balancer without sticky sessions, clients have to use WebSockets
    and skip negotiation: a connection lives in the process that negotiated it.

    \b
    hubplane serve chat:app
    hubplane serve chat:app --workers 4 --redis redis://localhost:6379
    """  # noqa: D301 - click reads the \b
    from logging.config import dictConfig

    dictConfig(log_config(log_level))
    if redis:
        os.environ["HUBPLANE_REDIS"] = redis
    target = Target(app=app, factory=factory, app_dir=app_dir, log_level=log_level)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(host, port, uds))
        if uds:
            stack.callback(_remove, uds)
        where = url_of(listener)
        if workers == 1:
            status = run_server(target, [listener], on_ready=lambda: _announce(app, where, ""))
        else:
            status = _serve_fleet(target, listener, workers, where, embed=not (redis or no_embedded))
    sys.exit(status)


def _listen(host: str, port: int, uds: str | None) -> socket.socket:
    return bind_unix(uds) if uds else bind_tcp(host, port)


def _remove(path: str) -> None:
    with suppress(FileNotFoundError):
        Path(path).unlink()


def _serve_fleet(target: Target, listener: socket.socket, workers: int, where: str, *, embed: bool) -> int:
    with ExitStack() as stack:
        embedded = stack.enter_context(EmbeddedServer(unix=True)) if embed else None
        environment = {} if embedded is None else {"HUBPLANE_REDIS": embedded.configuration}
        plans = [
            WorkerPlan(
                name=f"worker {number}",
                target=Target(
                    app=target.app,
                    factory=target.factory,
                    app_dir=target.app_dir,
                    log_level=target.log_level,
                    label=f"worker {number}",
                ),
                listeners=[listener],
                environment=environment,
            )
            for number in range(1, workers + 1)
        ]
        how = f", {workers} workers, one fleet through {'an embedded Valkey' if embed else 'your Redis'}"
        fleet = Fleet(
            plans,
            on_ready=lambda: _announce(target.app, where, how),
            on_tick=embedded.keep_alive if embedded else lambda: None,
        )
        return fleet.run()


def _announce(app: str, where: str, how: str) -> None:
    click.echo(f"hubplane serves {app} on {where}{how}. Ctrl-C ends it.")
    sys.stdout.flush()
