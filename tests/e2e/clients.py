"""Microsoft's JavaScript client in Node or Chromium, from Python."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any  # arguments and results are whatever a hub method takes and gives

from tests.e2e.processes import JsonLines

__all__ = ["ClientError", "JsClient", "JsDriver", "PageDriver"]

HERE = Path(__file__).parent
DRIVER = HERE / "driver_node.mjs"
PAGE_DRIVER = HERE / "driver_page.mjs"
NEWEST = "10.0"


class ClientError(Exception):
    """Microsoft's client rejected a promise; the text is its error's message."""


class JsClient:
    """One connection.

    Attributes:
        driver: Where it runs.
        connection_id: Its public id, None without negotiation.
    """

    def __init__(self, driver: JsDriver, name: str, version: str = NEWEST) -> None:
        self.driver = driver
        self.name = name
        self.version = version
        self.connection_id: str = ""

    def invoke(self, method: str, *arguments: Any, timeout: float = 15.0) -> Any:
        """Call a hub method and wait for its result.

        Raises:
            ClientError: The call failed.
        """
        return self.driver.ask("invoke", timeout, client=self.name, method=method, args=list(arguments))

    def begin(self, method: str, *arguments: Any) -> int:
        """Call a hub method; `end` gives the result."""
        return self.driver.begin("invoke", client=self.name, method=method, args=list(arguments))

    def end(self, number: int, timeout: float = 15.0) -> Any:
        """The result of a call that `begin` started. Raises as `invoke`."""
        return self.driver.end(number, timeout)

    def send(self, method: str, *arguments: Any) -> None:
        """Call a hub method without wanting an answer."""
        self.driver.ask("send", client=self.name, method=method, args=list(arguments))

    def stream(self, method: str, *arguments: Any, timeout: float = 15.0) -> tuple[list[Any], str | None]:
        """All items of a stream, and the error it ended with."""
        number = self.driver.begin("stream", client=self.name, method=method, args=list(arguments))
        return self._streamed(number, method, timeout)

    def begin_stream(self, method: str, *arguments: Any) -> int:
        """Start a stream; `item` gives its items."""
        return self.driver.begin("stream", client=self.name, method=method, args=list(arguments))

    def item(self, stream: int, timeout: float = 15.0) -> Any:
        """The oldest item of a stream that was not taken yet; None when the time is up."""
        event = self.driver.take(lambda e: e["event"] == "stream_item" and e["id"] == stream, timeout)
        return event and event["value"]

    def cancel(self, stream: int) -> None:
        """Give a stream up."""
        self.driver.ask("cancel", client=self.name, stream=stream)

    def upload(self, method: str, *arguments: Any, items: Sequence[Any], fails: str | None = None) -> Any:
        """Call a hub method whose last argument is a stream of these items, which ends well or with an error.

        Raises:
            ClientError: The call failed.
        """
        number = self._begin_upload(method, args=list(arguments), items=list(items), fails=fails)
        return self.driver.end(number)

    def echo_stream(self, method: str, *, items: Sequence[Any]) -> tuple[list[Any], str | None]:
        """A stream there and a stream back: all items of the latter, and the error it ended with."""
        return self._streamed(self._begin_upload(method, items=list(items), stream=True), method, 15.0)

    def _begin_upload(self, method: str, **parts: Any) -> int:
        return self.driver.begin("upload", client=self.name, version=self.version, method=method, **parts)

    def answer(self, method: str, value: Any = None, **how: Any) -> None:
        """From now on answer this client result with a value, or as driver.mjs tells: ``error``, ``wait``."""
        self.driver.ask("answer", client=self.name, method=method, **({"value": value} | how))

    def raw(self, text: str) -> None:
        """Send text as it is, past the hub protocol."""
        self.driver.ask("raw", client=self.name, text=text)

    def overhear(self) -> None:
        """From now on `heard` sees what the server sends, in text."""
        self.driver.ask("overhear", client=self.name)

    def heard(self, part: str, timeout: float = 15.0) -> str:
        """The oldest text from the server with this in it that was not taken yet."""
        event = self.driver.take(
            lambda e: e["event"] == "heard" and e["client"] == self.name and part in e["text"], timeout
        )
        assert event is not None, f"the server sent nothing with {part!r}"
        return str(event["text"])

    def asked(self, method: str = "Ask", timeout: float = 10.0) -> list[Any] | None:
        """The arguments of the oldest question that was not taken yet; None when the time is up."""
        event = self.driver.take(
            lambda e: e["event"] == "asked" and e["client"] == self.name and e["method"] == method, timeout
        )
        return None if event is None else list(event["args"])

    def _streamed(self, number: int, method: str, timeout: float) -> tuple[list[Any], str | None]:
        end = self.driver.take(lambda e: e["event"] == "stream_end" and e["id"] == number, timeout)
        assert end is not None, f"the stream {method} did not end"
        items = [e["value"] for e in self.driver.events if e["event"] == "stream_item" and e["id"] == number]
        return items, end["error"] and end["error"]["message"]

    def message(self, method: str = "ReceiveMessage", timeout: float = 10.0) -> list[Any] | None:
        """The arguments of the oldest call of this client method that was not taken yet; None when the time is up."""
        event = self.driver.take(
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
        return self.driver.take(lambda e: e["event"] == name and e.get("client") == self.name, timeout)

    @property
    def state(self) -> str:
        """Connected, Disconnected, Reconnecting ..."""
        return str(self.driver.ask("state", client=self.name)["state"])

    def stop(self) -> None:
        """End the connection."""
        self.driver.ask("stop", client=self.name)


class JsDriver(JsonLines):
    """One Node process with any number of connections, of any versions of the client."""

    def __init__(self, node: str, *command: str) -> None:
        self._numbers = itertools.count(1)
        super().__init__([node, *(command or [str(DRIVER)])], environment={"NODE_OPTIONS": ""})
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
        version: str = NEWEST,
        user: str | None = None,
        on: Sequence[str] = ("ReceiveMessage", "Fence"),
        timeout: float = 20.0,
        **options: Any,
    ) -> JsClient:
        """A started connection.

        Raises:
            ClientError: It could not start.
        """
        client = JsClient(self, f"c{next(self._numbers)}", version)
        parts: dict[str, Any] = {"url": url, "version": version, "protocol": protocol, "on": list(on), **options}
        if user is not None:
            parts["token"] = f"user:{user}"
        client.connection_id = self.ask("connect", timeout, client=client.name, **parts)
        return client


class PageDriver(JsDriver):
    """One page of Chromium with any number of connections, of one version of the client.

    Args:
        node: Node, which drives Chromium.
        chromium: The browser.
        origin: The server whose page it is.
        version: The client's.
    """

    def __init__(self, node: str, chromium: str, origin: str, version: str) -> None:
        super().__init__(node, str(PAGE_DRIVER), chromium, origin, version)
