"""Stateful reconnect over real sockets, on both edges: what breaks off, what closes, what is half open."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any  # JSON

import httpx
import pytest
from tests.integration.edges import BINARY, CLOSE, EDGES, TEXT, Edge, RawWebSocket, Server, serving

from hubplane import Hub, HubApp, HubOptions, TransportOptions

HANDSHAKE = b'{"protocol":"json","version":2}\x1e'


class BreakHub(Hub):
    """Counts, tells everybody, and reports who leaves."""

    gone: list[str]

    async def echo(self, text: str) -> str:
        return text

    async def whoami(self) -> str:
        return self.context.connection_id

    async def abort(self) -> None:
        self.context.abort()

    async def tell_all(self, first: int, last: int, size: int) -> int:
        for number in range(first, last):
            await self.clients.all.send("M", number, "x" * size)
        return last

    async def count(self, items: int) -> AsyncIterator[int]:
        for number in range(items):
            yield number
            await asyncio.sleep(0)

    async def left(self) -> list[str]:
        return self.gone

    async def on_disconnected(self, error: Exception | None) -> None:
        self.gone.append(self.context.connection_id)


@pytest.fixture(params=EDGES, ids=lambda edge: edge.name)
def edge(request: pytest.FixtureRequest) -> Edge:
    """How the hub is served."""
    chosen: Edge = request.param
    return chosen


@pytest.fixture
def server(edge: Edge) -> Iterator[Server]:
    """A server of its own for each test, with short limits."""
    hubs = HubApp(
        options=HubOptions(stateful_reconnect_buffer_size=100_000),
        transport_options=TransportOptions(
            allow_stateful_reconnects=True, disconnect_timeout=3, close_timeout=1, outbound_buffer_limit=16_000_000
        ),
    )
    hubs.add_hub("/hub", type("ThisHub", (BreakHub,), {"gone": []}))
    with serving(hubs, edge) as running:
        yield running


class Client:
    """A client with stateful reconnect, made of bytes; it opens one socket after the other."""

    def __init__(self, port: int, token: str, connection_id: str) -> None:
        self._port = port
        self.token = token
        self.connection_id = connection_id

    @classmethod
    async def negotiated(cls, port: int) -> Client:
        """Ask for a token."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            answer = await http.post("/hub/negotiate?negotiateVersion=1&useStatefulReconnect=true")
        body = answer.json()
        assert body["useStatefulReconnect"] is True
        return cls(port, body["connectionToken"], body["connectionId"])

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[RawWebSocket]:
        """The next socket."""
        async with RawWebSocket.opened(self._port, f"/hub?id={self.token}") as opened:
            yield opened

    @asynccontextmanager
    async def first(self) -> AsyncIterator[RawWebSocket]:
        """The first socket, behind its handshake."""
        async with self.socket() as opened:
            opened.write_frame(TEXT, HANDSHAKE)
            assert await opened.read_json() == {}
            yield opened


@pytest.fixture
async def client(server: Server) -> Client:
    """A client that has negotiated."""
    return await Client.negotiated(server.port)


async def counted(socket: RawWebSocket) -> Any:
    """The next message that is counted; pings and acknowledgements come whenever it is time."""
    while (message := await socket.read_json())["type"] in {6, 8}:
        pass
    return message


async def call(socket: RawWebSocket, target: str, *arguments: object) -> Any:
    """Call a method, and return its result, which is the next counted message."""
    socket.write_json({"type": 1, "invocationId": "1", "target": target, "arguments": arguments})
    return (await counted(socket))["result"]


@asynccontextmanager
async def plain(server: Server) -> AsyncIterator[RawWebSocket]:
    """A client without the feature."""
    async with RawWebSocket.opened(server.port, "/hub") as opened:
        await opened.shake_hands()
        yield opened


async def gone(observer: RawWebSocket) -> list[str]:
    """Who has left, as a client without the feature learns."""
    result: list[str] = await call(observer, "left")
    return result


async def say_goodbye(socket: RawWebSocket) -> None:
    """Read on to the server's Close frame, answer it, and wait for the end."""
    with contextlib.suppress(EOFError, ConnectionError):
        while (await socket.read_frame())[0] != CLOSE:
            pass
        socket.write_frame(CLOSE, (1000).to_bytes(2))
    await socket.read_all()


async def until_gone(observer: RawWebSocket, connection_id: str) -> None:
    """Wait until a connection has ended."""
    async with asyncio.timeout(20):
        while connection_id not in await gone(observer):
            pass


async def reattach(client: Client, *, sequence: int) -> tuple[contextlib.AsyncExitStack, RawWebSocket]:
    """The next socket and its first message; it is not refused while the server has not yet noticed the loss."""
    stack = contextlib.AsyncExitStack()
    opened = await stack.enter_async_context(client.socket())
    assert opened.status == 101
    assert await opened.read_json() == {"type": 9, "sequenceId": sequence}
    return stack, opened


@pytest.mark.row("B143", "B144", "B145")
@pytest.mark.parametrize("how", ["reset", "end"])
async def test_broken_socket(server: Server, client: Client, how: str) -> None:
    """A socket that is reset, or ends without a Close frame, can be replaced: same id, nobody left, nothing lost."""
    async with plain(server) as observer:
        async with client.first() as socket:
            assert await call(socket, "whoami") == client.connection_id
            if how == "reset":
                socket.reset()
        stack, again = await reattach(client, sequence=1)
        async with stack:
            assert (await counted(again))["result"] == client.connection_id
            assert await call(again, "echo", "x") == "x"
            assert await gone(observer) == []
            again.write_json({"type": 8, "sequenceId": 2})
            assert await call(again, "echo", "y") == "y"
            again.reset()
        stack, _ = await reattach(client, sequence=3)
        async with stack:
            pass


@pytest.mark.row("B148")
@pytest.mark.parametrize("how", ["close frame", "no code", "close message", "bad frame", "abort"])
async def test_final_end(server: Server, client: Client, how: str) -> None:
    """A Close frame, a Close message, a broken rule or an abort is final: the hub is told, and the token is unknown."""
    async with plain(server) as observer:
        async with client.first() as socket:
            if how == "close frame":
                socket.write_frame(CLOSE, (1001).to_bytes(2))
            elif how == "no code":
                socket.write_frame(CLOSE)
            elif how == "close message":
                socket.write_json({"type": 7})
            elif how == "bad frame":
                socket.write_frame(3, b"x")
            else:
                socket.write_json({"type": 1, "target": "abort", "arguments": []})
            await say_goodbye(socket)
            await until_gone(observer, client.connection_id)
        async with client.socket() as refused:
            assert refused.status == 404


@pytest.mark.row("B149")
async def test_client_that_does_not_come_back(server: Server, client: Client) -> None:
    """Without a new socket within the disconnect timeout the connection ends, not earlier."""
    loop = asyncio.get_running_loop()
    async with plain(server) as observer:
        async with client.first() as socket:
            socket.reset()
        begun = loop.time()
        await until_gone(observer, client.connection_id)
        assert loop.time() - begun > 2.5
        async with client.socket() as refused:
            assert refused.status == 404


@pytest.mark.row("B147")
@pytest.mark.parametrize("answers", [True, False])
async def test_half_open_socket_is_taken_over(edge: Edge, server: Server, client: Client, answers: bool) -> None:
    """A new socket is served at once while the old one is open, whether its peer answers the Close frame or not."""
    async with client.first() as old:
        stack, new = await reattach(client, sequence=1)
        async with stack:
            assert await call(new, "echo", "new") == "new"
            assert await old.read_close() == 1000
            if answers:
                old.write_frame(CLOSE, (1000).to_bytes(2))
            if answers or edge.fast:  # over ASGI the wait for an answer is the server's, which is longer
                await old.read_all()
            assert await call(new, "echo", "still") == "still"


@pytest.mark.row("B147", "B150")
async def test_taken_over_from_a_socket_that_takes_nothing(server: Server, client: Client) -> None:
    """A socket whose peer has stopped reading, with megabytes under way, holds its successor up no more than any."""
    async with plain(server) as other, client.first():
        other.write_json({"type": 1, "invocationId": "1", "target": "tell_all", "arguments": [0, 100, 60_000]})
        for number in range(100):
            assert (await other.read_json())["arguments"][0] == number
        assert (await other.read_json())["result"] == 100
        stack, new = await reattach(client, sequence=1)
        async with stack:
            for number in range(100):
                assert (await counted(new))["arguments"][0] == number
            assert await call(new, "echo", "x") == "x"


@pytest.mark.row("B153")
async def test_stream_and_broadcasts_survive_many_breaks(server: Server, client: Client) -> None:
    """A stream and broadcasts to a client whose socket breaks again and again arrive whole, once and in order."""
    items: list[int] = []
    told: list[int] = []
    received = 0
    ended = False
    async with plain(server) as other:
        async with client.first() as socket:
            socket.write_json({"type": 4, "invocationId": "s", "target": "count", "arguments": [300]})
            socket.reset()
        socket_number = 0
        next_told = 0
        while not ended or len(told) < 30:
            socket_number += 1
            other.write_json({"type": 1, "target": "tell_all", "arguments": [next_told, next_told + 1, 10]})
            next_told += 1
            stack = contextlib.AsyncExitStack()
            async with stack:
                opened = await stack.enter_async_context(client.socket())
                sequence = await opened.read_json()
                current = sequence["sequenceId"]
                assert current <= received + 1
                if socket_number == 1:
                    # The call may have been lost with the first socket.
                    opened.write_json(
                        {"type": 9, "sequenceId": 1},
                        {"type": 4, "invocationId": "s", "target": "count", "arguments": [300]},
                    )
                for _ in range(25):
                    try:
                        async with asyncio.timeout(0.2):
                            message = await opened.read_json()
                    except TimeoutError:
                        break
                    if message["type"] > 5:
                        continue
                    fresh = current > received
                    current += 1
                    if not fresh:
                        continue
                    received += 1
                    if message["type"] == 2:
                        items.append(message["item"])
                    elif message["type"] == 1:
                        told.append(message["arguments"][0])
                    else:
                        assert message == {"type": 3, "invocationId": "s"}
                        ended = True
                if socket_number % 3:
                    opened.write_json({"type": 8, "sequenceId": received})
                    await opened.writer.drain()
                opened.reset()
    assert items == list(range(300))
    assert told == list(range(len(told)))


async def binary(socket: RawWebSocket) -> bytes:
    """The next binary frame, without the acknowledgement of one message."""
    payload = b""
    while not payload:
        opcode, payload = await socket.read_frame()
        assert opcode == BINARY
        payload = payload.replace(b"\x03\x92\x08\x01", b"")
    return payload


@pytest.mark.row("B144")
async def test_messagepack(server: Server, client: Client) -> None:
    """In MessagePack the sequence and what is sent again leave as binary frames, with the same bytes as before."""
    call = b"\x96\x01\x80\xa10\xa4echo\x91\xa2hi\x90"
    result = b"\x95\x03\x80\xa10\x03\xa2hi"
    async with client.socket() as socket:
        socket.write_frame(TEXT, b'{"protocol":"messagepack","version":2}\x1e')
        assert await socket.read_frame() == (BINARY, b"{}\x1e")
        socket.write_frame(BINARY, bytes([len(call)]) + call)
        assert await binary(socket) == bytes([len(result)]) + result
        socket.reset()
    async with client.socket() as again:
        assert await binary(again) == b"\x03\x92\x09\x01" + bytes([len(result)]) + result


@pytest.mark.row("B141")
async def test_off_by_default(edge: Edge) -> None:
    """Unless an option allows it nobody is promised anything; with the option set for one hub, only there."""
    hubs = HubApp()
    hubs.add_hub("/plain", type("PlainHub", (BreakHub,), {"gone": []}))
    hubs.add_hub(
        "/hub",
        type("ThisHub", (BreakHub,), {"gone": []}),
        transport_options=TransportOptions(allow_stateful_reconnects=True),
    )
    with serving(hubs, edge) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
            for path, promised in (("/plain", None), ("/hub", True)):
                answer = await http.post(f"{path}/negotiate?negotiateVersion=1&useStatefulReconnect=true")
                assert answer.json().get("useStatefulReconnect") is promised
                token = answer.json()["connectionToken"]
                async with RawWebSocket.opened(server.port, f"{path}?id={token}") as socket:
                    socket.write_frame(TEXT, HANDSHAKE)
                    assert await socket.read_json() == {}
                    async with RawWebSocket.opened(server.port, f"{path}?id={token}") as second:
                        assert second.status == (101 if promised else 409)


@pytest.mark.row("B141")
async def test_other_transports_do_without(server: Server, client: Client) -> None:
    """A client that negotiated it and then uses Server-Sent Events is served without it."""
    async with (
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False, timeout=10) as http,
        http.stream("GET", f"/hub?id={client.token}", headers={"accept": "text/event-stream"}) as stream,
    ):
        call = b'{"type":1,"invocationId":"0","target":"echo","arguments":["x"]}\x1e'
        await http.post(f"/hub?id={client.token}", content=HANDSHAKE + call)
        seen = b""
        async for chunk in stream.aiter_bytes():
            seen += chunk
            if b'"result":"x"' in seen:
                break
        records = [json.loads(line[6:].rstrip(b"\x1e")) for line in seen.splitlines() if line.startswith(b"data: {")]
        assert [record.get("type") for record in records] == [None, 3], "the handshake's answer, and the result"
    async with client.socket() as refused:
        assert refused.status in {400, 404}


async def test_shutdown(edge: Edge) -> None:
    """A server with a client that is away, and one that is here, stops at once and tells the one that is here."""
    loop = asyncio.get_running_loop()
    hubs = HubApp(transport_options=TransportOptions(allow_stateful_reconnects=True))
    reported: list[str] = []
    hubs.add_hub("/hub", type("ThisHub", (BreakHub,), {"gone": reported}))
    with serving(hubs, edge) as server:
        away, here = await Client.negotiated(server.port), await Client.negotiated(server.port)
        async with away.first() as socket:
            socket.reset()
        async with here.first() as socket:
            begun = loop.time()
            server.stop()
            if edge.fast:
                assert await socket.read_json() == {"type": 7, "allowReconnect": True}
            await say_goodbye(socket)
    assert loop.time() - begun < 10
    assert sorted(reported) == sorted([away.connection_id, here.connection_id])
