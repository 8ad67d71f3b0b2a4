"""Microsoft's JavaScript client in Node, from Python."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # arguments and results are whatever a hub method takes and gives

from tests.e2e.processes import JsonLines

__all__ = ["ClientError", "JsClient", "JsDriver"]

DRIVER = Path(__file__).parent / "driver.mjs"


class ClientError(Exception):
    """Microsoft's client rejected a promise; the text is its error's message."""


class JsClient:
    """One connection.

    Attributes:
        connection_id: Its public id, None without negotiation.
    """

    def __init__(self, driver: JsDriver, name: str) -> None:
        self._driver = driver
        self.name = name
        self.connection_id: str = ""

    def invoke(self, method: str, *arguments: Any, timeout: float = 15.0) -> Any:
        """Call a hub method and wait for its result.

        Raises:
            ClientError: The call failed.
        """
        return self._driver.ask("invoke", timeout, client=self.name, method=method, args=list(arguments))

    def begin(self, method: str, *arguments: Any) -> int:
        """Call a hub method; `end` gives the result."""
        return self._driver.begin("invoke", client=self.name, method=method, args=list(arguments))

    def end(self, number: int, timeout: float = 15.0) -> Any:
        """The result of a call that `begin` started. Raises as `invoke`."""
        return self._driver.end(number, timeout)

    def send(self, method: str, *arguments: Any) -> None:
        """Call a hub method without wanting an answer."""
        self._driver.ask("send", client=self.name, method=method, args=list(arguments))

    def stream(self, method: str, *arguments: Any, timeout: float = 15.0) -> tuple[list[Any], str | None]:
        """All items of a stream, and the error it ended with."""
        number = self._driver.begin("stream", client=self.name, method=method, args=list(arguments))
        end = self._driver.take(lambda e: e["event"] == "stream_end" and e["id"] == number, timeout)
        assert end is not None, f"the stream {method} did not end"
        items = [e["value"] for e in self._driver.events if e["event"] == "stream_item" and e["id"] == number]
        return items, end["error"] and end["error"]["message"]

    def message(self, method: str = "ReceiveMessage", timeout: float = 10.0) -> list[Any] | None:
        """The arguments of the oldest call of this client method that was not taken yet; None when the time is up."""
        event = self._driver.take(
            lambda e: e["event"] == "message" and e["client"] == self.name and e["method"] == method, timeout
        )
        return None if event is None else list(event["args"])

    def untaken(self, method: str = "ReceiveMessage") -> list[list[Any]]:
        """All calls of this client method that have arrived and were not taken yet; takes them."""
        found = []
        while (arguments := self.message(method, timeout=0)) is not None:
            found.append(arguments)
        return found

    def event(self, name: str, timeout: float = 15.0) -> dict[str, Any] | None:
        """The oldest event of this name: closed, reconnecting, reconnected."""
        return self._driver.take(lambda e: e["event"] == name and e.get("client") == self.name, timeout)

    @property
    def state(self) -> str:
        """Connected, Disconnected, Reconnecting ..."""
        return str(self._driver.ask("state", client=self.name)["state"])

    def stop(self) -> None:
        """End the connection."""
        self._driver.ask("stop", client=self.name)


class JsDriver(JsonLines):
    """One Node process with any number of connections."""

    def __init__(self, node: str) -> None:
        self._numbers = itertools.count(1)
        super().__init__([node, str(DRIVER)], environment={"NODE_OPTIONS": ""})
        if self.take(lambda e: e["event"] == "ready", 30.0) is None:
            raise AssertionError(f"Node did not start: {self.stderr}")

    def begin(self, command: str, **parts: Any) -> int:
        """Give a command; `end` gives its answer."""
        number = next(self._numbers)
        self.tell(id=number, cmd=command, **parts)
        return number

    def end(self, number: int, timeout: float = 15.0) -> Any:
        """The answer to a command."""
        event = self.take(lambda e: e.get("id") == number and e["event"] in {"result", "error"}, timeout)
        if event is None:
            raise AssertionError(f"no answer from Node; stderr: {self.stderr[-2000:]}")
        if event["event"] == "error":
            raise ClientError(event["error"]["message"])
        return event.get("value")

    def ask(self, command: str, timeout: float = 15.0, **parts: Any) -> Any:
        """Give a command and wait for its answer."""
        return self.end(self.begin(command, **parts), timeout)

    def connect(
        self,
        url: str,
        protocol: str = "json",
        *,
        user: str | None = None,
        on: Sequence[str] = ("ReceiveMessage", "Fence"),
        timeout: float = 20.0,
        **options: Any,
    ) -> JsClient:
        """A started connection.

        Raises:
            ClientError: It could not start.
        """
        client = JsClient(self, f"c{next(self._numbers)}")
        parts: dict[str, Any] = {"url": url, "protocol": protocol, "on": list(on), **options}
        if user is not None:
            parts["token"] = f"user:{user}"
        client.connection_id = self.ask("connect", timeout, client=client.name, **parts)
        return client
