"""The real ASP.NET Core node and Microsoft's .NET client, from Python; README.md says what they offer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any  # JSON of another process

import httpx
from tests.e2e.processes import JsonLines

__all__ = ["AspNetNode", "DotnetClient", "DotnetError"]


class DotnetError(Exception):
    """The .NET side answered with an error.

    Attributes:
        kind: .NET's exception type.
        text: Its message.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        self.kind = str(error.get("type"))
        self.text = str(error.get("message"))
        super().__init__(f"{self.kind}: {self.text}")


class AspNetNode(JsonLines):
    """An ASP.NET Core node that accepts connections.

    Args:
        run: The program that starts it.
        redis: StackExchange.Redis configuration string.
        prefix: Channel prefix.
        settings: More of its environment variables.
    """

    def __init__(self, run: str, redis: str, prefix: str, **settings: str) -> None:
        variables = {"REDIS": redis, "PREFIX": prefix, "PORT": "0", "NODE": "aspnet", "STOP_ON_EOF": "1", **settings}
        super().__init__([run, "server"], environment=variables)
        ready = self.take(lambda e: e["event"] == "ready", 60.0)
        if ready is None:
            self.__exit__()
            raise AssertionError(f"the ASP.NET Core node did not start: {self.stderr}")
        self.url = str(ready["url"])

    @property
    def chat(self) -> str:
        """The address of its chat hub."""
        return f"{self.url}/chat"

    def ask(self, path: str, body: object = None) -> Any:
        """GET, or POST with a body; the answer's JSON.

        Raises:
            DotnetError: SignalR or Redis threw.
        """
        answer = httpx.request("GET" if body is None else "POST", self.url + path, json=body, timeout=60)
        result = answer.json()
        if answer.status_code == 503:
            raise DotnetError(result["error"])
        answer.raise_for_status()
        return result

    def send(self, to: Mapping[str, object], *arguments: object, method: str = "ReceiveMessage") -> None:
        """Send through its hub context, outside any call."""
        self.ask("/send", {"to": to, "method": method, "args": list(arguments)})

    def groups_of(self, connection_id: str) -> list[str]:
        """The groups that its hub manager holds for a connection of its own."""
        return next((list(c["groups"]) for c in self.ask("/connections") if c["connectionId"] == connection_id), [])

    def redis_connected(self) -> bool:
        """Whether both of its Redis connections of every hub stand."""
        return all(hub["connected"] and hub["subscriptionConnected"] for hub in self.ask("/healthz")["redis"].values())


class DotnetClient(JsonLines):
    """Microsoft's .NET client; over WebSockets unless told otherwise."""

    def __init__(
        self,
        run: str,
        url: str,
        protocol: str = "json",
        *,
        transport: str = "ws",
        user: str = "",
        options: Sequence[str] = (),
    ) -> None:
        self._numbers = itertools.count(1)
        arguments = [run, "client", "--url", url, "--protocol", protocol, "--transport", transport, *options]
        arguments += ["--access-token", f"user:{user}"] if user else []
        super().__init__(arguments)
        first = self.take(lambda e: e["event"] in {"connected", "start_failed"}, 60.0)
        if first is None or first["event"] == "start_failed":
            self.__exit__()
            raise DotnetError((first or {}).get("error") or {"type": "none", "message": self.stderr})
        self.connection_id = str(first["connectionId"])

    def do(self, command: str, timeout: float = 20.0, **parts: Any) -> Any:
        """Give a command and wait for its answer.

        Raises:
            DotnetError: It failed.
        """
        return self.end(self.begin(command, **parts), timeout)

    def invoke(self, method: str, *arguments: Any, **parts: Any) -> Any:
        """Call a hub method and wait for its result. Raises as `do`."""
        return self.do("invoke", method=method, args=list(arguments), **parts)

    def begin(self, command: str, **parts: Any) -> int:
        """Give a command; `end` gives its answer."""
        number = next(self._numbers)
        self.tell(cmd=command, id=number, **parts)
        return number

    def end(self, number: int, timeout: float = 20.0) -> Any:
        """The answer to a command. Raises as `do`."""
        answers = {"result", "error", "sent", "ok", "connected"}
        event = self.take(lambda e: e.get("id") == number and e["event"] in answers, timeout)
        assert event is not None, f"no answer from the .NET client: {self.stderr}"
        if event["event"] == "error":
            raise DotnetError(event["error"])
        return event.get("value")

    def item(self, stream: int, timeout: float = 15.0) -> Any:
        """The oldest item of a stream that was not taken yet; None when the time is up."""
        event = self.take(lambda e: e["event"] == "stream_item" and e["id"] == stream, timeout)
        return event and event["value"]

    def streamed(self, stream: int, timeout: float = 15.0) -> tuple[list[Any], str | None]:
        """All items of a stream that were not taken yet, and the error it ended with."""
        end = self.take(lambda e: e["event"] == "stream_end" and e["id"] == stream, timeout)
        assert end is not None, f"the stream did not end: {self.stderr}"
        items = []
        while (event := self.take(lambda e: e["event"] == "stream_item" and e["id"] == stream, 0)) is not None:
            items.append(event["value"])
        return items, end["error"] and end["error"]["message"]

    def on(self, method: str, arguments: int) -> None:
        """From now on `message` sees this client method, which has so many arguments."""
        self.do("on", method=method, args=arguments)

    def message(self, method: str = "ReceiveMessage", timeout: float = 10.0) -> list[Any] | None:
        """The arguments of the oldest call of a client method that was not taken yet; None when the time is up."""
        event = self.take(lambda e: e["event"] == "message" and e["method"] == method, timeout)
        return None if event is None else list(event["args"])

    def event(self, name: str, timeout: float = 15.0) -> dict[str, Any] | None:
        """The oldest event of this name that was not taken yet."""
        return self.take(lambda e: e["event"] == name, timeout)

    def leave(self) -> None:
        """End the connection and the process."""
        self.tell(cmd="exit")
        assert self.event("exit") is not None
        self.wait()
