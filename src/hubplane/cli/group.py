"""The group of all commands, and how their errors are shown."""

from __future__ import annotations

import click

from hubplane.cli.check import check
from hubplane.cli.demo import demo
from hubplane.cli.serve import serve
from hubplane.cli.version import version
from hubplane.errors import HubplaneError

__all__ = ["hubplane"]


class _Commands(click.Group):
    """Shows an error of ours as one sentence; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HubplaneError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def hubplane() -> None:
    """The SignalR server for Python, with the Redis backplane.

    \b
    Exit status: 0 after an orderly end (also by Ctrl-C or SIGTERM), 1 when something could not start or run,
    2 when the command line is wrong.
    """  # noqa: D301 - click reads the \b


hubplane.add_command(serve)
hubplane.add_command(demo)
hubplane.add_command(check)
hubplane.add_command(version)
