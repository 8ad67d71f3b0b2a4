"""One node of ours: a process that runs `hubplane serve` with the hubs of `app.py`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.e2e.processes import Process

__all__ = ["HubNode", "hubplane_command"]

HERE = Path(__file__).parent


def hubplane_command(*arguments: str) -> list[str]:
    """The command line of `hubplane` with this interpreter."""
    return [sys.executable, "-m", "hubplane.cli.main", *arguments]


class HubNode(Process):
    """A node that accepts connections.

    Args:
        redis: StackExchange.Redis configuration string; empty for one node in memory.
        prefix: Channel prefix.
        name: What `WhoAmI` tells.
        detailed_errors: Send exception types and texts.
        options: More options of `hubplane serve`.
    """

    def __init__(
        self,
        redis: str = "",
        prefix: str = "",
        name: str = "hubplane",
        *,
        detailed_errors: bool = False,
        options: tuple[str, ...] = (),
    ) -> None:
        configuration = f"{redis},channelPrefix={prefix}" if prefix else redis
        super().__init__(
            hubplane_command("serve", "app:app", "--app-dir", str(HERE), "--port", "0", *options),
            environment={
                "HUBPLANE_REDIS": configuration,
                "NODE": name,
                "DETAILED_ERRORS": "1" if detailed_errors else "",
            },
        )
        try:
            found = re.search(r"http://\S+\d", self.line("hubplane serves"))
        except AssertionError:
            self.__exit__()
            raise
        assert found
        self.url = found[0]

    @property
    def chat(self) -> str:
        """The address of the chat hub."""
        return f"{self.url}/chat"
