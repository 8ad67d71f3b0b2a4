"""Our node of the mixed fleet, driven from Python the way the ASP.NET Core node is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # JSON of another process

import httpx
from tests.e2e.nodes import hubplane_command
from tests.e2e.processes import Process
from tests.interop.dotnet import AspNetNode, DotnetError

__all__ = ["FLEET_ERRORS", "FleetNode", "Node", "OursError", "pair"]

ROOT = Path(__file__).resolve().parents[2]


class OursError(Exception):
    """Our node's HTTP API answered with an error.

    Attributes:
        kind: The exception's type.
        text: Its message.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        self.kind = str(error.get("type"))
        self.text = str(error.get("message"))
        super().__init__(f"{self.kind}: {self.text}")


class FleetNode(Process):
    """A hubplane node with the HTTP API of `fleet_app.py`.

    Args:
        redis: StackExchange.Redis configuration string.
        prefix: Channel prefix.
        hub_name: The chat hub's full name.
    """

    def __init__(self, redis: str, prefix: str = "", hub_name: str = "Interop.ChatHub") -> None:
        configuration = f"{redis},channelPrefix={prefix}" if prefix else redis
        super().__init__(
            hubplane_command("serve", "tests.interop.fleet_app:app", "--app-dir", str(ROOT), "--port", "0"),
            environment={"HUBPLANE_REDIS": configuration, "NODE": "ours", "HUB_NAME": hub_name},
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
        """The address of its chat hub."""
        return f"{self.url}/chat"

    def ask(self, path: str, body: object = None) -> Any:
        """GET, or POST with a body; the answer's JSON.

        Raises:
            OursError: hubplane raised.
        """
        answer = httpx.request("GET" if body is None else "POST", self.url + path, json=body, timeout=60)
        result = answer.json()
        if answer.status_code == 503:
            raise OursError(result["error"])
        answer.raise_for_status()
        return result

    def send(self, to: Mapping[str, object], *arguments: object, method: str = "ReceiveMessage") -> None:
        """Send from outside any call. Raises as `ask`."""
        self.ask("/send", {"to": to, "method": method, "args": arguments})

    def redis_connected(self) -> bool:
        """Whether every subscription it wants is confirmed."""
        return bool(self.ask("/healthz")["connected"])


Node = FleetNode | AspNetNode
FLEET_ERRORS = (OursError, DotnetError)


def pair(direction: str, ours: FleetNode, theirs: AspNetNode) -> tuple[Node, Node]:
    """The node that acts and the other one."""
    return (ours, theirs) if direction == "from ours" else (theirs, ours)
