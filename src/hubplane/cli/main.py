"""`main`: where the `hubplane` command begins."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; without the `server` extra, say how to get it."""
    try:
        from hubplane.cli.group import hubplane
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        sys.exit("The hubplane command needs more packages: pip install 'hubplane[server]'")
    hubplane()


if __name__ == "__main__":
    main()
