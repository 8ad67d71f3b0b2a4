"""`hubplane demo`: a Redis-compatible server, two nodes and a chat page, to look at and to play with."""

from __future__ import annotations

import os
import sys
import webbrowser
from contextlib import ExitStack
from pathlib import Path
from socket import socket

import click

from hubplane.cli.addresses import bind_tcp, url_of
from hubplane.cli.embedded import EmbeddedServer
from hubplane.cli.fleet import Fleet, WorkerPlan
from hubplane.cli.logs import LEVELS, log_config
from hubplane.cli.serving import Target
from hubplane.clock import SystemClock
from hubplane.errors import ConfigurationError

__all__ = ["demo"]

_FIRST_PORT = 5080
_TRIES = 20
_OUTAGE_SECONDS = 5


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65534),
    help=f"Port of the first node; the second takes the next one. 0 for any; else {_FIRST_PORT} or the next free.",
)
@click.option(
    "--redis",
    metavar="CONFIGURATION",
    envvar="HUBPLANE_REDIS",
    help="Your own Redis instead of an embedded Valkey: a redis:// URL or a StackExchange.Redis string.",
)
@click.option("--open/--no-open", "open_page", default=False, help="Open the page in your browser.")
@click.option(
    "--node-modules",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with Microsoft's client, for machines without a way to the npm registry.",
)
@click.option(
    "--log-level", type=click.Choice(LEVELS), default="warning", show_default=True, help="Least level to log."
)
def demo(
    host: str,
    port: int | None,
    redis: str | None,
    open_page: bool,  # noqa: FBT001 - click passes options by name
    node_modules: Path | None,
    log_level: str,
) -> None:
    """Run two nodes, a Redis-compatible server and a chat page that shows messages crossing."""
    from logging.config import dictConfig

    dictConfig(log_config(log_level))
    client = _client(node_modules)
    with ExitStack() as stack:
        listeners = _bind(host, port)
        for listener in listeners:
            stack.enter_context(listener)
        embedded = None if redis else stack.enter_context(EmbeddedServer())
        status = _Demo(listeners, embedded, redis, client, log_level, open_page=open_page).run()
    click.echo("The demo has ended; nothing is left running.")
    sys.exit(status)


def _client(node_modules: Path | None) -> Path:
    from hubplane.demo.client import CLIENT_FILE, install_client, installed_client

    if node_modules is not None:
        if not (node_modules / CLIENT_FILE).is_file():
            raise ConfigurationError(f"There is no {CLIENT_FILE} in {node_modules}.")
        return node_modules.resolve()
    if (found := installed_client()) is not None:
        return found
    click.echo("Fetching Microsoft's JavaScript client from npm, this once ...")
    sys.stdout.flush()
    return install_client()


def _bind(host: str, port: int | None) -> list[socket]:
    if port is not None:
        first = bind_tcp(host, port)
        try:
            return [first, bind_tcp(host, port + 1 if port else 0)]
        except ConfigurationError:
            first.close()
            raise
    for start in range(_FIRST_PORT, _FIRST_PORT + 2 * _TRIES, 2):
        try:
            return _bind(host, start)
        except ConfigurationError as error:
            last = error
    raise last


class _Demo:
    """The running demo."""

    def __init__(
        self,
        listeners: list[socket],
        embedded: EmbeddedServer | None,
        redis: str | None,
        client: Path,
        log_level: str,
        *,
        open_page: bool,
    ) -> None:
        self._listeners = listeners
        self._embedded = embedded
        self._redis = redis
        self._client = client
        self._log_level = log_level
        self._open_page = open_page
        self._clock = SystemClock()
        self._back_at: float | None = None

    def run(self) -> int:
        """Run until the user has seen enough; return the exit status."""
        from hubplane.demo.settings import DemoNode, DemoSettings

        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        nodes = tuple(
            DemoNode(f"Node {letter}", listener.getsockname()[1])
            for letter, listener in zip("AB", self._listeners, strict=True)
        )
        redis = self._embedded.configuration if self._embedded else self._redis or ""
        plans = [
            WorkerPlan(
                name=node.name,
                target=Target(
                    app="hubplane.demo.app:create_app", factory=True, log_level=self._log_level, label=node.name
                ),
                listeners=[listener],
                environment={
                    "HUBPLANE_REDIS": redis,
                    **DemoSettings(
                        node=node.name,
                        nodes=nodes,
                        client=str(self._client),
                        broker=self._embedded.name if self._embedded else "Your Redis",
                        outage_descriptor=writer if self._embedded else None,
                        outage_seconds=_OUTAGE_SECONDS,
                    ).to_environment(),
                },
                descriptors=(writer,),
            )
            for node, listener in zip(nodes, self._listeners, strict=True)
        ]
        fleet = Fleet(plans, on_ready=self._announce, on_tick=self._tick, clock=self._clock)
        fleet.watch(reader, lambda: self._begin_outage(reader))
        try:
            return fleet.run()
        finally:
            os.close(reader)
            os.close(writer)

    def _announce(self) -> None:
        first, second = (url_of(listener) for listener in self._listeners)
        between = self._embedded.name if self._embedded else "your Redis"
        click.echo(f"\n  Open  {click.style(first, bold=True)}\n")
        click.echo(f"  Node A  {first}")
        click.echo(f"  Node B  {second}")
        click.echo(f"  Between them: {between}")
        click.echo("\n  Ctrl-C ends everything.\n")
        sys.stdout.flush()
        if self._open_page:
            webbrowser.open(first)

    def _begin_outage(self, reader: int) -> None:
        os.read(reader, 64)
        if self._embedded is not None and self._back_at is None:
            self._embedded.stop()
            self._back_at = self._clock.monotonic() + _OUTAGE_SECONDS

    def _tick(self) -> None:
        if self._embedded is None:
            return
        if self._back_at is None:
            self._embedded.keep_alive()
        elif self._clock.monotonic() >= self._back_at:
            self._back_at = None
            self._embedded.start()
