"""Whole conversations recorded with ASP.NET Core 10, held again with a hub: every byte that it answers is the same."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any  # ASGI messages and recorded JSON

import pytest

from hubplane import Hub, HubApp, HubException
from hubplane.options import HubOptions
from hubplane.testing.fakes import FakeClock, SeededIds

DATA = Path(__file__).parent / "data"
CLOCK = FakeClock()

# Held elsewhere: with a clock, with two sockets, or by what they show about values.
ELSEWHERE = (
    "stateful/",
    "ping/server",
    "close/client-timeout",
    "close/never-pinged",
    "close/websocket-",
    "handshake/timeout",
    "handshake/client-closes-first",
    "handshake/refused-by-OnConnected",
    "stream/values",
    "stream/upload-objects",
    "official-js/receive",
    "official-js/upload-send",
    "official-js/client-result",
)
# The original goes deaf behind a message of an unknown type; hubplane passes it over.
DEAF = ("unknown-type/",)
# The words of .NET's readers and writers, and its exception for an answer without a value.
WORDS_OF_DOTNET = (
    "error/result-not-serialisable-detailed",
    "client-result/void",
    "client-result/null",
    "client-result/nil",
    "client-result/wrong-type",
)
# Python's int has no upper end.
LONG_INTEGERS = ("error/int-overflow", "error/int-overflow-detailed")


class InvalidOperationException(Exception):  # noqa: N818 - its name is on the wire
    """What the recorded hub raises."""


class VectorHub(Hub):
    """The recorded hub, as far as these conversations call it."""

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def nothing(self) -> None: ...

    async def nothing_async(self) -> None: ...

    async def nothing_value_task(self) -> None: ...

    async def null_string(self) -> str | None:
        return None

    async def forty_two_async(self) -> int:
        return 42

    async def throw(self) -> None:
        raise InvalidOperationException("plain <secret>")

    async def throw_hub(self) -> None:
        raise HubException("hub <text>")

    async def value(self, name: str) -> float:
        assert name == "double_nan"
        return float("nan")

    async def got_string(self, text: str) -> str:
        told = json.dumps({"type": "System.String", "value": text}, separators=(",", ":"))
        return re.sub(r"\\u[0-9a-f]{4}", lambda escape: "\\u" + escape[0][2:].upper(), told)

    async def big(self, size: int) -> str:
        return "x" * size

    async def burst(self, count: int) -> None:
        for number in range(count):
            await self.clients.caller.send("m", number)

    async def abort(self) -> None:
        self.context.abort()

    async def ask_caller(self, method: str) -> str:
        try:
            return f"got {await self.clients.caller.invoke(method, 7, result=int)}"
        except HubException as error:
            return f"Microsoft.AspNetCore.SignalR.HubException: {error}"

    async def counter(self, count: int, milliseconds: int) -> AsyncIterator[int]:
        for number in range(count):
            if milliseconds:
                await CLOCK.sleep(milliseconds / 1000)
            yield number

    async def channel_counter(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number

    async def counter_throw(self, of_the_hub: bool) -> AsyncIterator[int]:
        yield 0
        raise HubException("stream <hub>") if of_the_hub else InvalidOperationException("stream plain")

    async def null_stream(self) -> AsyncIterator[int]:
        return None  # type: ignore[return-value]  # a mistake on purpose

    async def upload_ints(self, label: str, first: AsyncIterator[int], second: AsyncIterator[int]) -> str:
        try:
            parts = [",".join([str(item) async for item in stream]) for stream in (first, second)]
        except HubException as error:
            return f"{label} HubException: {error}"
        return " ".join((label, *parts))


class RecordedIds(SeededIds):
    """Questions get the recorded ids."""

    def __init__(self, questions: list[str]) -> None:
        super().__init__()
        self._questions = questions

    def invocation_id(self) -> str:
        return self._questions.pop(0)


def raw(recorded: Any) -> bytes:
    """Recorded bytes: hex, or parts of [hex, times]."""
    if isinstance(recorded, str):
        return bytes.fromhex(recorded)
    return b"".join(bytes.fromhex(part) * times for part, times in recorded["parts"])


def conversations() -> list[Any]:
    """Those that are held here."""
    return [
        pytest.param(entry, id=f"{entry['protocol']}-{entry['name']}")
        for file in ("hub-json", "hub-msgpack")
        for entry in json.loads((DATA / f"{file}.json").read_text("utf-8"))["transcripts"]
        if not entry["name"].startswith((*ELSEWHERE, *DEAF)) and entry["name"] not in (*WORDS_OF_DOTNET, *LONG_INTEGERS)
        if "GotObject" not in str(entry["messages"]) or entry["name"].startswith("protocol-error/")
    ]


class Caller:
    """The client's end of a WebSocket."""

    def __init__(self, app: HubApp) -> None:
        self.received = b""
        self.closed: int | None = None
        self._incoming: asyncio.Queue[Any] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/vector", "query_string": b"", "headers": []}
        self.task = asyncio.ensure_future(app(scope, self._incoming.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            self.received += message.get("bytes") or message["text"].encode()
        elif message["type"] == "websocket.close":
            self.closed = message["code"]
            self._incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})

    def say(self, data: bytes) -> None:
        """Send one message."""
        self._incoming.put_nowait({"type": "websocket.receive", "bytes": data})

    async def hear(self, length: int) -> None:
        """Let happen what can, until so many bytes are there."""
        for _ in range(20):
            for _ in range(40):
                await asyncio.sleep(0)
            if len(self.received) >= length:
                return
            CLOCK.advance(0.05)

    async def leave(self) -> None:
        """Close the socket."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.task


def test_most_of_what_was_recorded_is_held() -> None:
    """The lists of exceptions have not swallowed the rest."""
    assert len(conversations()) >= 330


@pytest.mark.row("B62", "B63", "B64", "B66", "B67", "B68", "B69", "B70", "B71", "B72", "B76", "B77", "B78")
@pytest.mark.row("B81", "B83", "B84", "B88", "B89", "B90", "B91", "B92", "B93", "B102", "B103", "B104", "B105", "B106")
@pytest.mark.row("B108", "B109", "B110", "B111", "B113", "B120", "B127", "B128")
@pytest.mark.parametrize("entry", conversations())
async def test_conversation(entry: dict[str, Any]) -> None:
    """What the client sent is answered as it was, byte for byte, and the connection lives or ends as it did."""
    questions = re.findall(r"'(s\d+)'", str([message for who, message in entry["messages"] if who == "S"]))
    options = HubOptions(
        enable_detailed_errors=entry["detailed"],
        maximum_receive_message_size=entry.get("limit", 32_768),
        supported_protocols=(entry["only"],) if entry.get("only") else None,
        keep_alive_interval=60,
    )
    app = HubApp(options=options, clock=CLOCK, ids=RecordedIds(questions))
    app.add_hub("/vector", VectorHub)
    frames = entry["frames"]
    if entry["name"].startswith("official-js/") and frames[-1][0] == "C":
        frames = frames[:-1]  # that client does not stay to hear its Close message answered
    async with app.lifespan():
        caller = Caller(app)
        expected = b""
        if entry["handshake"] != "recorded":
            caller.say(b'{"protocol":"%b","version":1}\x1e' % entry["protocol"].encode())
            expected = b"{}\x1e"
        for who, frame in frames:
            if who == "S":
                expected += raw(frame)
            else:
                await caller.hear(len(expected))
                caller.say(raw(frame))
        await caller.hear(len(expected))
        await caller.hear(len(expected) + 1)
        assert caller.received == expected
        if "after" in entry:
            assert (caller.closed is not None) is (entry["after"] == "ended")
        await caller.leave()
