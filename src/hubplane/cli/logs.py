"""How `serve` and `demo` write their logs: one line an event on stderr, and no token in it."""

from __future__ import annotations

import logging
import re
from typing import Any  # logging's configuration is a dictionary of anything

__all__ = ["LEVELS", "LineFormatter", "log_config"]

LEVELS = ("critical", "error", "warning", "info", "debug")

# Query parameters that let somebody act as the client (signalr-server section 1.7).
_SECRET = re.compile(r"([?&](?:access_token|id)=)[^&\s\"']+", re.IGNORECASE)


class LineFormatter(logging.Formatter):
    """Time, level, who, what; connection tokens and access tokens in addresses are masked."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with a traceback behind it if there is one."""
        return _SECRET.sub(r"\1***", super().format(record))


def log_config(level: str, label: str = "") -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`.

    Args:
        level: One of `LEVELS`.
        label: Which process this is, in a fleet.
    """
    who = f" [{label}]" if label else ""
    server_level = "DEBUG" if level == "debug" else "WARNING"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": "hubplane.cli.logs.LineFormatter",
                "fmt": f"%(asctime)s.%(msecs)03d %(levelname)-7s{who} %(name)s: %(message)s",
                "datefmt": "%H:%M:%S",
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": level.upper(), "handlers": ["stderr"]},
        # Its "started" and "finished" would only repeat what the command itself says.
        "loggers": {"uvicorn": {"level": server_level}, "asyncio": {"level": "WARNING"}},
    }
