"""What hostile and broken clients send to a real server, over both edges: each is refused or bounded, and harms nobody.

Tokens, polls, slow requests and handshakes, compression, numbers and sizes. Another client is connected all the time,
and still served afterwards. What servers usually get wrong is in tests/unit/test_pitfalls.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any  # JSON

import httpx
import msgspec
import pytest
from tests.integration.edges import BINARY, CLOSE, EDGES, RS, TEXT, Edge, RawWebSocket, serving

from hubplane import ConnectionRequest, Hub, HubApp, HubOptions, TransportOptions

Open = Callable[..., AbstractAsyncContextManager[RawWebSocket]]

HANDSHAKE = b'{"protocol":"json","version":1}\x1e'
GONE = b"No Connection with that ID"


class TargetHub(Hub):
    """What there is to attack.

    Attributes:
        release: What `wait` waits for, of the whole module; set by the tests' thread.
    """

    release = threading.Event()

    async def echo(self, text: object) -> object:
        return text

    async def who(self) -> str | None:
        return self.context.user_identifier

    async def join(self, count: int) -> int:
        for number in range(count):
            await self.groups.add(self.context.connection_id, f"group {number} {'x' * 100}")
        return count

    async def join_one(self, name: str) -> None:
        await self.groups.add(self.context.connection_id, name)
        await self.clients.group(name).send("Joined", len(name))

    async def endless(self) -> AsyncIterator[int]:
        yield 1
        await self.context.wait_aborted()

    async def read(self, items: AsyncIterator[int]) -> int:
        return sum([item async for item in items])

    def wait(self) -> None:
        self.release.wait(20)


def user_of(request: ConnectionRequest) -> object | None:
    """The name in the query is the login."""
    name = request.query_value("user")
    return {"sub": name} if name else None


def make_app() -> HubApp:
    """Two hubs, with limits that a test can reach."""
    hubs = HubApp(
        options=HubOptions(handshake_timeout=1.0, keep_alive_interval=300.0, maximum_streams_per_client=1_000),
        transport_options=TransportOptions(disconnect_timeout=2.0, poll_timeout=2.0),
        authenticators=[user_of],
    )
    hubs.add_hub("/hub", TargetHub)
    hubs.add_hub("/other", type("OtherHub", (TargetHub,), {}))
    return hubs


@pytest.fixture(params=EDGES, ids=lambda edge: edge.name, scope="module")
def edge(request: pytest.FixtureRequest) -> Edge:
    """How the hubs are served."""
    chosen: Edge = request.param
    return chosen


@pytest.fixture(scope="module")
def port(edge: Edge) -> Iterator[int]:
    """A server shared by the tests of an edge."""
    with serving(make_app(), edge, access_log=False) as server:
        yield server.port


@pytest.fixture
def opened(port: int) -> Open:
    """Opens a WebSocket at the hub."""
    return lambda query="", *fields: RawWebSocket.opened(port, "/hub" + query, *fields)


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for the same server."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture(autouse=True)
async def bystander(opened: Open) -> AsyncIterator[None]:
    """Somebody else, connected during the whole test, who is served afterwards as before."""
    async with opened() as client:
        await client.shake_hands()
        yield
        assert (await client.invoke("echo", "well"))["result"] == "well"


async def negotiate(http: httpx.AsyncClient, path: str = "/hub", query: str = "") -> Any:
    """The answer to a negotiation."""
    return (await http.post(f"{path}/negotiate?negotiateVersion=1{query}")).json()


@asynccontextmanager
async def shaken(opened: Open, query: str = "") -> AsyncIterator[RawWebSocket]:
    """A WebSocket behind its handshake."""
    async with opened(query) as client:
        await client.shake_hands()
        yield client


# -- tokens -----------------------------------------------------------------------------------------------------------


FORGERIES: dict[str, Callable[[str], str]] = {
    "shorter": lambda token: token[:-1],
    "longer": lambda token: token + "A",
    "in the other case": str.swapcase,
    "made up": lambda token: "A" * len(token),
    "huge": lambda token: token * 300,
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
async def test_forged_tokens(http: httpx.AsyncClient, opened: Open, change: Callable[[str], str]) -> None:
    """A token that differs in anything opens nothing, on any transport; the true one still does."""
    true = (await negotiate(http))["connectionToken"]
    forged = change(true)
    async with opened(f"?id={forged}") as client:
        assert (client.status, client.body) == (404, GONE)
    for answer in (
        await http.get(f"/hub?id={forged}"),
        await http.get(f"/hub?id={forged}", headers={"accept": "text/event-stream"}),
        await http.post(f"/hub?id={forged}", content=HANDSHAKE),
        await http.delete(f"/hub?id={forged}"),
    ):
        assert (answer.status_code, answer.content) == (404, GONE)
    async with shaken(opened, f"?id={true}") as client:
        assert (await client.invoke("echo", 1))["result"] == 1


async def test_used_tokens(http: httpx.AsyncClient, opened: Open) -> None:
    """A token whose connection has ended opens nothing again."""
    token = (await negotiate(http))["connectionToken"]
    async with shaken(opened, f"?id={token}") as client:
        await client.close()
        await client.read_end()
    async with opened(f"?id={token}") as client:
        assert client.status == 404
    assert (await http.get(f"/hub?id={token}")).status_code == 404
    assert (await http.post(f"/hub?id={token}", content=HANDSHAKE)).status_code == 404


async def test_expired_tokens(http: httpx.AsyncClient, opened: Open) -> None:
    """A token that nobody used in time opens nothing, also when something was posted with it."""
    quiet, early = [(await negotiate(http))["connectionToken"] for _ in range(2)]
    assert (await http.post(f"/hub?id={early}", content=HANDSHAKE)).status_code == 200
    async with asyncio.timeout(10):
        # A DELETE looks without claiming: 400 while the token is known.
        for token in (quiet, early):
            while (await http.delete(f"/hub?id={token}")).status_code != 404:  # noqa: ASYNC110 - the server's clock
                await asyncio.sleep(0.1)
    for token in (quiet, early):
        async with opened(f"?id={token}") as client:
            assert (client.status, client.body) == (404, GONE)


async def test_tokens_of_another_hub(http: httpx.AsyncClient, opened: Open) -> None:
    """A token opens the hub that gave it and no other."""
    token = (await negotiate(http, "/other"))["connectionToken"]
    async with opened(f"?id={token}") as client:
        assert client.status == 404
    assert (await http.get(f"/hub?id={token}")).status_code == 404
    assert (await http.get(f"/other?id={token}")).status_code == 200


async def test_somebody_elses_token(http: httpx.AsyncClient, opened: Open) -> None:
    """Nobody with another login opens a WebSocket with it; its owner still does."""
    token = (await negotiate(http, query="&user=ann"))["connectionToken"]
    async with opened(f"?id={token}&user=bob") as client:
        assert client.status == 403
    async with shaken(opened, f"?id={token}&user=ann") as client:
        assert (await client.invoke("who"))["result"] == "ann"


async def test_post_without_a_connection(http: httpx.AsyncClient, opened: Open) -> None:
    """A POST without an id, with an empty one, with the public id, or to a WebSocket's connection is refused."""
    assert (await http.post("/hub", content=HANDSHAKE)).status_code == 400
    assert (await http.post("/hub?id=", content=HANDSHAKE)).status_code == 400
    said = await negotiate(http)
    assert (await http.post(f"/hub?id={said['connectionId']}", content=HANDSHAKE)).status_code == 404
    async with shaken(opened, f"?id={said['connectionToken']}"):
        assert (await http.post(f"/hub?id={said['connectionToken']}", content=HANDSHAKE)).status_code == 405


async def test_many_sockets_for_one_token(http: httpx.AsyncClient, opened: Open) -> None:
    """Of twenty sockets that come with one token at the same time one is opened and the others are refused."""
    token = (await negotiate(http))["connectionToken"]
    async with contextlib.AsyncExitStack() as stack:
        clients = await asyncio.gather(
            *(stack.enter_async_context(opened(f"?id={token}")) for _ in range(20)), return_exceptions=False
        )
        statuses = sorted(client.status for client in clients)
        assert statuses == [101] + [409] * 19
        first = next(client for client in clients if client.status == 101)
        await first.shake_hands()
        assert (await first.invoke("echo", "mine"))["result"] == "mine"


async def test_a_poll_storm(http: httpx.AsyncClient) -> None:
    """Of a hundred polls at once one stays and the others are sent away, none is forgotten; the connection is whole."""
    token = (await negotiate(http))["connectionToken"]
    address = f"/hub?id={token}"
    assert (await http.get(address)).status_code == 200
    assert (await http.post(address, content=HANDSHAKE)).status_code == 200
    assert (await http.get(address)).content == b"{}\x1e"
    polls = [asyncio.ensure_future(http.get(address)) for _ in range(100)]
    statuses = sorted([(await poll).status_code for poll in polls])
    assert set(statuses) <= {200, 204, 409}
    assert 200 in statuses  # the one that stayed, when its time was over
    call = b'{"type":1,"invocationId":"1","target":"echo","arguments":["still"]}\x1e'
    assert (await http.post(address, content=call)).status_code == 200
    assert b'"result":"still"' in (await http.get(address)).content
    assert (await http.delete(address)).status_code == 202


# -- slow clients -----------------------------------------------------------------------------------------------------


async def test_slow_negotiations(port: int, http: httpx.AsyncClient) -> None:
    """Heads that never end and bodies that never come hold up nobody; an announced body is not waited for."""
    halves = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
    try:
        for _, writer in halves[:25]:
            writer.write(b"POST /hub/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        for _, writer in halves[25:]:
            writer.write(
                b"POST /hub/negotiate?negotiateVersion=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
            )
        for round_ in range(3):
            for _, writer in halves[:25]:
                writer.write(b"x")
            assert "connectionToken" in await negotiate(http), round_
        for reader, _ in halves[25:]:
            async with asyncio.timeout(5):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    finally:
        for _, writer in halves:
            writer.close()


@pytest.mark.parametrize("dripping", [True, False], ids=["dripping", "silent"])
async def test_slow_handshakes(opened: Open, dripping: bool) -> None:
    """A handshake that is not whole in time ends the connection with the reason, however it drips."""
    async with opened() as client:

        async def drip() -> None:
            for byte in b'{"protocol":"json"' + b" " * 1_000:
                client.write_frame(TEXT, bytes((byte,)))
                await asyncio.sleep(0.02)

        task = asyncio.ensure_future(drip()) if dripping else None
        try:
            assert await client.read_json() == {"error": "Handshake was canceled."}
            assert await client.read_close() == 1000
        finally:
            if task is not None:
                task.cancel()


async def test_an_endless_handshake(opened: Open) -> None:
    """A handshake larger than a message may be is refused at that size, without waiting for its end."""
    async with opened() as client:
        client.write_frame(TEXT, b'{"protocol":"' + b"x" * 40_000)
        assert await client.read_json() == {"error": "Handshake was canceled."}
        assert await client.read_close() == 1000


# -- frames -----------------------------------------------------------------------------------------------------------


def deflated(payload: bytes) -> bytes:
    """As permessage-deflate sends it."""
    squeezer = zlib.compressobj(wbits=-15)
    return (squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\x00\x00\xff\xff")


def compressed_frame(payload: bytes) -> bytes:
    """A text frame that says it is compressed."""
    frame = bytearray(RawWebSocket.frame(TEXT, deflated(payload)))
    frame[0] |= 0x40
    return bytes(frame)


async def test_compressed_without_an_agreement(opened: Open) -> None:
    """A frame that says it is compressed, on a connection that agreed on none, breaks the protocol: 1002."""
    async with shaken(opened) as client:
        client.writer.write(compressed_frame(b'{"type":6}\x1e'))
        assert await client.read_close() == 1002


async def test_compression_that_is_offered(opened: Open, edge: Edge) -> None:
    """The fast edge agrees to no compression, so it stays off; where uvicorn's own edge agrees, frames are read."""
    async with opened("", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits") as client:
        agreed = "permessage-deflate" in client.headers.get("sec-websocket-extensions", "")
        assert not (agreed and edge.fast)
        if agreed:
            client.writer.write(compressed_frame(HANDSHAKE + b'{"type":1,"target":"echo","arguments":[1]}\x1e'))
        else:
            await client.shake_hands()
            client.writer.write(compressed_frame(b'{"type":6}\x1e'))
            assert await client.read_close() == 1002


async def test_a_bomb(opened: Open, edge: Edge) -> None:
    """A frame of some kilobytes that would inflate to 64 MB ends its connection and costs no more than its limit."""
    async with opened("", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits") as client:
        client.writer.write(compressed_frame(b" " * 67_108_864))
        await client.read_all()
        assert client.reader.at_eof()


@pytest.mark.parametrize("opcode", [TEXT, BINARY], ids=["text", "binary"])
async def test_text_that_is_no_utf8(opened: Open, opcode: int) -> None:
    """Bytes that are no UTF-8 close a text frame's connection with 1007; in a binary frame they fail the call alone."""
    async with shaken(opened) as client:
        call = b'{"type":1,"invocationId":"1","target":"echo","arguments":["\xff\xfe"]}\x1e'
        client.write_frame(opcode, call)
        if opcode == TEXT:
            assert await client.read_close() == 1007
        else:
            assert "error" in await client.read_json()
            assert (await client.invoke("echo", 1))["result"] == 1


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_ten_thousand_streams(opened: Open, direction: str) -> None:
    """Above `maximum_streams_per_client` a call with streams fails with the number; those below it go on."""
    async with shaken(opened) as client:

        async def ask() -> None:
            for start in range(0, 10_000, 200):
                if direction == "down":
                    messages = [
                        {"type": 4, "invocationId": str(number), "target": "endless", "arguments": []}
                        for number in range(start, start + 200)
                    ]
                else:
                    messages = [
                        {
                            "type": 1,
                            "invocationId": str(number),
                            "target": "read",
                            "arguments": [],
                            "streamIds": [f"s{number}"],
                        }
                        for number in range(start, start + 200)
                    ]
                client.write_json(*messages)
                await client.writer.drain()

        asking = asyncio.ensure_future(ask())
        running = 1_000 if direction == "down" else 0
        came = [await client.read_json() for _ in range(9_000 + running)]
        await asking
        refused = [message for message in came if message["type"] == 3]
        assert len(refused) == 9_000
        assert all("already has 1000 active streams" in message["error"] for message in refused)
        assert sorted(int(message["invocationId"]) for message in refused) == list(range(1_000, 10_000))
        # One that ends makes room for one.
        if direction == "down":
            client.write_json({"type": 5, "invocationId": "0"})
        else:
            client.write_json({"type": 2, "invocationId": "s0", "item": 7}, {"type": 3, "invocationId": "s0"})
        ended = await client.read_json()
        assert (ended["type"], ended["invocationId"], ended.get("result")) == (
            3,
            "0",
            None if direction == "down" else 7,
        )
        client.write_json({"type": 4, "invocationId": "again", "target": "endless", "arguments": []})
        assert await client.read_json() == {"type": 2, "invocationId": "again", "item": 1}


async def test_ten_thousand_streams_for_one_call(opened: Open) -> None:
    """A call with more streams than its method has parameters fails, and none of them is opened."""
    async with shaken(opened) as client:
        ids = [str(number) for number in range(3_000)]
        client.write_json({"type": 1, "invocationId": "1", "target": "read", "arguments": [], "streamIds": ids})
        assert "error" in await client.read_json()
        client.write_json(*({"type": 2, "invocationId": each, "item": 1} for each in ids[:1_000]))
        assert (await client.invoke("echo", 1))["result"] == 1


async def test_ten_thousand_groups(opened: Open) -> None:
    """A client may be in ten thousand groups; it leaves them all with its connection, and others join them."""
    for _ in range(2):
        async with shaken(opened) as client:
            assert (await client.invoke("join", 10_000))["result"] == 10_000
            assert await client.close() == 1000


async def test_very_many_calls_at_once(opened: Open) -> None:
    """Calls beyond what a connection may hold unread wait in the client's own socket, and all are answered in order."""
    TargetHub.release.clear()
    async with shaken(opened) as client:
        sock = client.writer.get_extra_info("socket")
        client.writer.transport.set_write_buffer_limits(high=0)
        assert sock is not None
        sent = 0
        pad = "x" * 900
        client.write_json({"type": 1, "invocationId": "w", "target": "wait", "arguments": []})
        with contextlib.suppress(TimeoutError):
            while sent < 100_000:
                client.write_json({"type": 1, "invocationId": str(sent), "target": "echo", "arguments": [pad]})
                sent += 1
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
        # Kernel buffers hold some megabytes; 90 MB would not have been taken.
        assert sent < 50_000
        TargetHub.release.set()
        assert (await client.read_json())["invocationId"] == "w"
        for number in range(sent):
            assert (await client.read_json())["invocationId"] == str(number)


# -- sizes ------------------------------------------------------------------------------------------------------------


async def test_huge_names(opened: Open) -> None:
    """Targets, ids, groups and protocols as large as a message may be are names like others."""
    huge = "n" * 30_000
    async with shaken(opened) as client:
        assert "Method does not exist" in (await client.invoke(huge))["error"]
        client.write_json({"type": 1, "invocationId": "i" * 30_000, "target": "echo", "arguments": [1]})
        assert await client.read_json() == {"type": 3, "invocationId": "i" * 30_000, "result": 1}
        client.write_json({"type": 1, "invocationId": "1", "target": "joinOne", "arguments": ["g" * 30_000]})
        assert await client.read_json() == {"type": 1, "target": "Joined", "arguments": [30_000]}
        assert (await client.read_json())["result"] is None
        client.write_json({"type": 5, "invocationId": "i" * 30_000}, {"type": 3, "invocationId": "i" * 30_000})
        assert (await client.invoke("echo", 2))["result"] == 2
    async with opened() as client:
        client.write_json({"protocol": "p" * 30_000, "version": 1})
        assert "is not supported" in (await client.read_json())["error"]


@pytest.mark.parametrize("head", ['{"type":1,"invocationId":"1","target":"echo","arguments":[', '{"type":6,"x":', ""])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")], ids=["lists", "maps"])
async def test_deep_json(opened: Open, head: str, left: str, right: str) -> None:
    """JSON nested beyond 64 levels ends the connection with an error that allows to come back, wherever it stands."""
    levels = 4_000
    async with shaken(opened) as client:
        client.write_frame(
            TEXT, f"{head}{left * levels}1{right * levels}{']' if 'argum' in head else ''}}}".encode() + RS
        )
        said = await client.read_json()
        assert said == {"type": 7, "error": "Connection closed with an error.", "allowReconnect": True}
        assert await client.read_close() == 1000


async def test_deep_handshake(opened: Open) -> None:
    """The same in a handshake is answered with its error."""
    async with opened() as client:
        client.write_frame(TEXT, b'{"protocol":"json","version":1,"x":' + b"[" * 15_000 + b"]" * 15_000 + b"}\x1e")
        answer = await client.read_json()
        assert answer == {"error": "An unexpected error occurred during connection handshake."}
        assert await client.read_close() == 1000


async def test_deep_messagepack(opened: Open) -> None:
    """MessagePack nested ten thousand deep fails the call or the connection, and nothing else."""
    async with opened() as client:
        client.write_json({"protocol": "messagepack", "version": 1})
        assert await client.read_frame() == (BINARY, b"{}\x1e")
        body = b"\x96\x01\x80\xa11\xa4echo\x91" + b"\x91" * 10_000 + b"\x01" + b"\x90"
        client.write_frame(BINARY, prefixed(body))
        opcode, answer = await client.read_frame()
        assert opcode == BINARY
        message = msgspec.msgpack.decode(unprefixed(answer))
        assert message[0] == 7 or (message[0] == 3 and message[3] == 1), message
        # A length that cannot be true is no reason to reserve memory.
        with contextlib.suppress(ConnectionError, EOFError):
            client.write_frame(BINARY, b"\xff\xff\xff\xff\x07" + b"\x00" * 100)
            while (await client.read_frame())[0] != CLOSE:
                pass


async def test_lengths_that_cannot_be_true(opened: Open) -> None:
    """A MessagePack list that announces four thousand million items is a fault, not an allocation."""
    async with opened() as client:
        client.write_json({"protocol": "messagepack", "version": 1})
        await client.read_frame()
        client.write_frame(BINARY, prefixed(b"\x96\x01\x80\xa11\xa4echo\xdd\xff\xff\xff\xff\x01"))
        opcode, answer = await client.read_frame()
        message = msgspec.msgpack.decode(unprefixed(answer))
        assert (opcode, message[0]) in {(BINARY, 7), (BINARY, 3)}


def prefixed(body: bytes) -> bytes:
    """A frame of the MessagePack protocol."""
    length, prefix = len(body), bytearray()
    while True:
        length, low = length >> 7, length & 0x7F
        prefix.append(low | (0x80 if length else 0))
        if not length:
            return bytes(prefix) + body


def unprefixed(frame: bytes) -> bytes:
    """The body of the first frame."""
    length = shift = at = 0
    while True:
        byte = frame[at]
        length |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return frame[at : at + length]


async def test_random_messages(opened: Open) -> None:
    """Whatever stands in a message, the connection is served on or ends with a Close message."""
    for _ in range(20):
        async with shaken(opened) as client:
            client.write_frame(BINARY, os.urandom(200).replace(RS, b"") + RS)
            said = await client.read_json()
            assert said["type"] == 7
            assert json.dumps(said)
