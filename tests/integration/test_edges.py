"""One suite over both edges: what a client sees on the wire, whatever serves it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocket
from tests.integration.edges import BINARY, CLOSE, EDGES, PING, PONG, TEXT, Edge, RawWebSocket, serving

from hubplane import Hub, HubApp
from hubplane.options import HttpTransportType, HubOptions, TransportOptions

Open = Callable[..., AbstractAsyncContextManager[RawWebSocket]]

# What hubs report, by the tag in the query of the connection.
REPORTS: dict[str, Callable[[str], None]] = {}


class EdgeHub(Hub):
    """Echoes, and reports its connections' ends."""

    async def echo(self, text: str) -> str:
        return text

    async def whoami(self) -> list[str | None]:
        return [self.context.connection_id, self.context.user_identifier]

    async def abort(self) -> None:
        self.context.abort()

    async def flood(self, count: int, size: int) -> None:
        for _ in range(count):
            await self.clients.caller.send("Noise", "x" * size)

    async def flood_all(self, count: int, size: int) -> None:
        for _ in range(count):
            await self.clients.all.send("Noise", "x" * size)

    async def flood_others(self, count: int, size: int) -> None:
        for _ in range(count):
            await self.clients.others.send("Noise", "x" * size)

    async def on_disconnected(self, error: Exception | None) -> None:
        request = self._hub_call.site.connection.request
        if (tag := request.query_value("tag")) in REPORTS:
            REPORTS[tag](f"disconnected: {error!r}")


def make_app(transport_options: TransportOptions | None = None) -> HubApp:
    """The app of most tests."""
    hubs = HubApp(transport_options=transport_options)
    hubs.add_hub("/hub", EdgeHub)
    return hubs


@pytest.fixture(params=EDGES, ids=lambda edge: edge.name, scope="module")
def edge(request: pytest.FixtureRequest) -> Edge:
    """How the hub is served."""
    chosen: Edge = request.param
    return chosen


@pytest.fixture(scope="module")
def port(edge: Edge) -> Iterator[int]:
    """A server shared by the tests of an edge."""
    with serving(make_app(), edge) as server:
        yield server.port


@pytest.fixture
def opened(port: int) -> Open:
    """Opens a WebSocket at the hub."""
    return lambda query="", *fields: RawWebSocket.opened(port, "/hub" + query, *fields)


@pytest.fixture
async def http(port: int) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for the same server."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client


@asynccontextmanager
async def reports(tag: str) -> AsyncIterator[asyncio.Queue[str]]:
    """What the hub says about the connections with this tag; it says so on another thread."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[str] = asyncio.Queue()

    def report(text: str) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, text)

    REPORTS[tag] = report
    try:
        async with asyncio.timeout(20):
            yield queue
    finally:
        del REPORTS[tag]


# -- negotiate and status codes --------------------------------------------------------------------------------------


@pytest.mark.row("B1", "B11")
async def test_negotiated_websocket(opened: Open, http: httpx.AsyncClient) -> None:
    """Negotiate gives distinct ids of 22 URL-safe characters; the token opens the WebSocket with that public id."""
    answer = await http.post("/hub/negotiate?NegotiateVersion=1&unknown=1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.content)
    body = answer.json()
    ids = {body["connectionId"], body["connectionToken"]}
    assert len(ids) == 2
    assert all(len(each) == 22 and each.replace("-", "").replace("_", "").isalnum() for each in ids)
    assert body["availableTransports"] == [
        {"transport": "WebSockets", "transferFormats": ["Text", "Binary"]},
        {"transport": "ServerSentEvents", "transferFormats": ["Text"]},
        {"transport": "LongPolling", "transferFormats": ["Text", "Binary"]},
    ]
    async with opened(f"?Id={body['connectionToken']}&_=1") as client:
        await client.shake_hands()
        assert (await client.invoke("whoami"))["result"] == [body["connectionId"], None]


@pytest.mark.row("B2")
async def test_version_0_id_is_the_token(opened: Open, http: httpx.AsyncClient) -> None:
    """Without a version the id opens the WebSocket."""
    connection_id = (await http.post("/hub/negotiate")).json()["connectionId"]
    async with opened(f"?id={connection_id}") as client:
        await client.shake_hands()
        assert (await client.invoke("WHOAMI"))["result"][0] == connection_id


@pytest.mark.row("B7", "B12", "B13", "B21")
@pytest.mark.parametrize(
    ("method", "target", "status", "text"),
    [
        ("GET", "/hub/negotiate", 405, ""),
        ("PUT", "/hub", 405, ""),
        ("OPTIONS", "/hub?id=x", 405, ""),
        ("POST", "/hub", 400, "Connection ID required"),
        ("DELETE", "/hub?id=", 400, "Connection ID required"),
        ("GET", "/hub", 400, "Connection ID required"),
        ("POST", "/hub?id=x", 404, "No Connection with that ID"),
        ("DELETE", "/hub?id=x", 404, "No Connection with that ID"),
        ("GET", "/hub?id=x", 404, "No Connection with that ID"),
    ],
)
async def test_status_codes(http: httpx.AsyncClient, method: str, target: str, status: int, text: str) -> None:
    """Requests that cannot be served get the reference's status, media type and text."""
    answer = await http.request(method, target)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (status, "text/plain", text)


@pytest.mark.row("B21")
async def test_head_is_refused(http: httpx.AsyncClient) -> None:
    """HEAD on the hub's path gives 405."""
    assert (await http.head("/hub")).status_code == 405


@pytest.mark.row("B10", "B14")
async def test_unknown_id_is_not_upgraded(edge: Edge, opened: Open, http: httpx.AsyncClient) -> None:
    """A WebSocket with an unknown id, or with the public id, gets 404 instead of an upgrade."""
    body = (await http.post("/hub/negotiate?negotiateVersion=1")).json()
    for token in ("nobody", body["connectionId"]):
        async with opened(f"?id={token}") as client:
            assert (client.status, client.body) == (404, b"No Connection with that ID")
            # uvicorn's own class adds a media type where there is none.
            assert ("content-type" in client.headers) is not edge.fast
            await client.read_end()


@pytest.mark.row("B18", "B19", "B20")
async def test_busy_connection(opened: Open, http: httpx.AsyncClient) -> None:
    """While a WebSocket is open a second one gets 409, a POST 405, a DELETE 400, and the first notices nothing."""
    token = (await http.post("/hub/negotiate?negotiateVersion=1")).json()["connectionToken"]
    async with opened(f"?id={token}") as client:
        await client.shake_hands()
        async with opened(f"?id={token}") as second:
            assert (second.status, second.body) == (409, b"")
        post = await http.post(f"/hub?id={token}", content=b"x")
        assert (post.status_code, post.text) == (405, "POST requests are not allowed for WebSocket connections.")
        delete = await http.delete(f"/hub?id={token}")
        assert (delete.status_code, delete.text) == (
            400,
            "Cannot terminate this connection using the DELETE endpoint.",
        )
        assert (await client.invoke("echo", "still here"))["result"] == "still here"


@pytest.mark.row("B16")
async def test_websockets_switched_off(edge: Edge) -> None:
    """Where WebSockets are switched off, the upgrade gets 404 and says so."""
    with serving(make_app(TransportOptions(transports=HttpTransportType.LONG_POLLING)), edge) as server:
        async with RawWebSocket.opened(server.port, "/hub") as client:
            assert (client.status, client.body) == (404, b"WebSockets transport not supported by this end point type")


async def test_no_hub_at_the_path(port: int) -> None:
    """A WebSocket where there is no hub is refused with 404."""
    for target in ("/elsewhere", "/hub/elsewhere"):
        async with RawWebSocket.opened(port, target) as client:
            assert client.status == 404


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /hub HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n", 400),
        (
            (
                b"GET /hub HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 8\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ),
            400,
        ),
        (b"POST /hub HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 405),
    ],
)
async def test_bad_upgrade_requests(port: int, head: bytes, status: int) -> None:
    """A malformed upgrade request is refused, and the server goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head.replace(b"\r\n", b"\r\nHost: x\r\n", 1))
    async with asyncio.timeout(10):
        assert (await reader.readline()).split()[1] == str(status).encode()
    writer.close()


# -- WebSockets ------------------------------------------------------------------------------------------------------


@pytest.mark.row("B15", "B33")
async def test_websocket_without_negotiation(opened: Open) -> None:
    """A WebSocket without an id works; the answer names no sub-protocol and no extension, though both were offered."""
    offers = ("Sec-WebSocket-Protocol: v1", "Sec-WebSocket-Extensions: x-unknown")
    async with opened("", *offers) as client:
        assert client.status == 101
        assert "sec-websocket-protocol" not in client.headers
        assert "sec-websocket-extensions" not in client.headers
        await client.shake_hands()
        assert (await client.invoke("echo", "hello"))["result"] == "hello"


@pytest.mark.row("B28")
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_json_handshake_in_either_frame(opened: Open, opcode: int) -> None:
    """The JSON handshake works in a text and in a binary frame; the answer is text."""
    async with opened() as client:
        client.write_frame(opcode, b'{"protocol":"json","version":1}\x1e')
        assert await client.read_frame() == (TEXT, b"{}\x1e")


@pytest.mark.row("B28")
async def test_text_that_is_not_utf8(opened: Open) -> None:
    """A text frame that is not UTF-8 is closed with 1007 and without a Close message."""
    async with reports("utf8") as told, opened("?tag=utf8") as client:
        await client.shake_hands()
        client.write_frame(TEXT, b'{"type":1,"invocationId":"1","target":"echo","arguments":["\xff"]}\x1e')
        assert await client.read_close() == 1007
        assert (await told.get()).startswith("disconnected: ")


@pytest.mark.row("B28")
async def test_binary_that_is_not_utf8(opened: Open) -> None:
    """The same in a binary frame is only a call that cannot be bound; the connection goes on."""
    async with opened() as client:
        await client.shake_hands()
        client.write_frame(BINARY, b'{"type":1,"invocationId":"1","target":"echo","arguments":["\xff"]}\x1e')
        completion = await client.read_json()
        assert (completion["type"], completion["invocationId"]) == (3, "1")
        assert "error" in completion
        assert (await client.invoke("echo", "on"))["result"] == "on"


@pytest.mark.row("B29")
async def test_messagepack(opened: Open) -> None:
    """A MessagePack handshake in a text frame is answered in a binary one, as is what follows; a later text closes."""

    def framed(message: list[object]) -> bytes:
        body = msgspec.msgpack.encode(message)
        return bytes((len(body),)) + body

    call = framed([1, {}, "1", "echo", ["caf\u00e9"]])
    async with opened() as client:
        client.write_frame(TEXT, b'{"protocol":"messagepack","version":1}\x1e')
        assert await client.read_frame() == (BINARY, b"{}\x1e")
        client.write_frame(BINARY, call)
        assert await client.read_frame() == (BINARY, framed([3, {}, "1", 3, "caf\u00e9"]))
        client.write_frame(TEXT, call)
        assert await client.read_close() == 1007


@pytest.mark.row("B30")
async def test_handshake_and_messages_in_one_frame(opened: Open) -> None:
    """What follows the handshake in its frame is processed."""
    async with opened() as client:
        client.write_json(
            {"protocol": "json", "version": 1},
            *({"type": 1, "invocationId": str(n), "target": "echo", "arguments": [str(n)]} for n in range(3)),
        )
        assert await client.read_json() == {}
        assert [(await client.read_json())["result"] for _ in range(3)] == ["0", "1", "2"]


@pytest.mark.row("B31", "B32")
async def test_messages_split_over_frames(opened: Open) -> None:
    """Handshake and messages may be cut anywhere: into messages, into fragments, with a Ping between."""
    async with opened() as client:
        for piece in (b'{"protocol":', b'"json","ver', b'sion":1}', b"\x1e"):
            client.write_frame(TEXT, piece)
        assert await client.read_json() == {}
        call = (
            json.dumps({"type": 1, "invocationId": "1", "target": "echo", "arguments": ["\u2615"]}).encode() + b"\x1e"
        )
        client.write_frame(TEXT, call[:20])
        client.write_frame(TEXT, call[20:40], fin=False)
        client.write_frame(PING, b"between")
        client.write_frame(0, call[40:], fin=True)
        assert await client.read_frame() == (PONG, b"between")
        assert (await client.read_json())["result"] == "\u2615"


@pytest.mark.row("B32")
async def test_many_messages_in_one_frame(opened: Open) -> None:
    """Many calls in one frame are all answered, in order."""
    async with opened() as client:
        await client.shake_hands()
        calls = [{"type": 1, "invocationId": str(n), "target": "echo", "arguments": [str(n)]} for n in range(200)]
        client.write_json(*calls)
        assert [(await client.read_json())["result"] for _ in calls] == [str(n) for n in range(200)]


async def test_bytes_that_come_one_by_one(opened: Open) -> None:
    """Frames may arrive in any number of TCP segments."""
    async with opened() as client:
        await client.shake_hands()
        frame = client.frame(TEXT, b'{"type":1,"invocationId":"1","target":"echo","arguments":["slow"]}\x1e')
        client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in frame:
            client.writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        assert (await client.read_json())["result"] == "slow"


@pytest.mark.parametrize("size", [100, 126, 5_000, 30_000])
async def test_messages_of_all_lengths(opened: Open, size: int) -> None:
    """Frames with short, 16-bit and 64-bit lengths pass in both directions."""
    async with opened() as client:
        await client.shake_hands()
        assert (await client.invoke("echo", "x" * size))["result"] == "x" * size
        client.write_json({"type": 1, "target": "flood", "arguments": [1, size * 10]})
        assert (await client.read_json())["arguments"] == ["x" * size * 10]


@pytest.mark.row("B34")
async def test_client_close(opened: Open) -> None:
    """A client's Close frame is answered with 1000 and the socket ends; the hub hears of no error."""
    async with reports("closed") as told, opened("?tag=closed") as client:
        await client.shake_hands()
        assert await client.close() == 1000
        await client.read_end()
        assert await told.get() == "disconnected: None"


@pytest.mark.row("B34")
async def test_client_close_without_a_code(edge: Edge, opened: Open) -> None:
    """Microsoft's JavaScript client closes without a code; that is in order too."""
    async with reports("nocode") as told, opened("?tag=nocode") as client:
        await client.shake_hands()
        client.write_frame(CLOSE)
        # uvicorn's own class echoes what it got.
        assert await client.read_close() == (1000 if edge.fast else 1005)
        assert await told.get() == "disconnected: None"


@pytest.mark.row("B35")
async def test_server_close(opened: Open) -> None:
    """When the hub ends a connection, a Close message comes, then Close 1000, and after our answer the socket ends."""
    async with reports("aborted") as told, opened("?tag=aborted") as client:
        await client.shake_hands()
        client.write_json({"type": 1, "target": "abort", "arguments": []})
        assert await client.read_json() == {"type": 7}
        assert await client.read_close() == 1000
        client.write_frame(CLOSE, (1000).to_bytes(2))
        await client.read_end()
        assert await told.get() == "disconnected: None"


@pytest.mark.row("B36", "B156")
@pytest.mark.parametrize("edge", [edge for edge in EDGES if edge.fast], ids=lambda edge: edge.name)
async def test_peer_that_never_answers_the_close(edge: Edge) -> None:
    """A client that does not answer our Close frame is cut when the time for it is over.

    ASGI leaves the wait for the peer's Close frame, and its length, to the server.
    """
    with serving(make_app(TransportOptions(close_timeout=0.05)), edge) as server:
        async with RawWebSocket.opened(server.port, "/hub") as client:
            await client.shake_hands()
            client.write_json({"type": 1, "target": "abort", "arguments": []})
            assert await client.read_json() == {"type": 7}
            assert await client.read_close() == 1000
            with pytest.raises((EOFError, ConnectionError)):
                await client.read_frame()


@pytest.mark.row("B37")
async def test_abrupt_loss(opened: Open) -> None:
    """A socket that is reset ends the connection without an error."""
    async with reports("lost") as told, opened("?tag=lost") as client:
        await client.shake_hands()
        client.reset()
        assert await told.get() == "disconnected: None"


@pytest.mark.row("B38")
@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name)
async def test_nobody_is_pinged(edge: Edge) -> None:
    """Whatever uvicorn is told about pings, hubs send none: their clients get messages that are pings.

    uvicorn's own class knows nothing of hubs, and pings.
    """
    hubs = HubApp(options=HubOptions(keep_alive_interval=1))
    hubs.add_hub("/hub", EdgeHub)
    with serving(hubs, edge, ws_ping_interval=0.05) as server:
        async with RawWebSocket.opened(server.port, "/hub") as client:
            await client.shake_hands()
            if edge.fast:
                assert await client.read_frame() == (TEXT, b'{"type":6}\x1e')
            else:
                assert (await client.read_frame())[0] == PING


@pytest.mark.row("B38")
async def test_client_pings(opened: Open) -> None:
    """A client's Ping is answered, before and after the handshake."""
    async with opened() as client:
        client.write_frame(PING, b"early")
        assert await client.read_frame() == (PONG, b"early")
        await client.shake_hands()
        client.write_frame(PING)
        assert await client.read_frame() == (PONG, b"")
        client.write_frame(PONG, b"unasked")
        assert (await client.invoke("echo", "on"))["result"] == "on"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"\x81\x01x", 1002),
        (b"\xc1\x80\x00\x00\x00\x00", 1002),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (b"\x80\x80\x00\x00\x00\x00", 1002),
        (b"\x89\xfe\x00\x7e\x00\x00\x00\x00" + b"p" * 126, 1002),
        (b"\x09\x80\x00\x00\x00\x00", 1002),
        (b"\x88\x81\x00\x00\x00\x00x", 1002),
    ],
)
async def test_broken_frames(opened: Open, frame: bytes, code: int) -> None:
    """A frame against the rules is closed with its code; another connection notices nothing."""
    async with opened() as other, opened() as client:
        await other.shake_hands()
        await client.shake_hands()
        client.writer.write(frame)
        assert await client.read_close() == code
        assert (await other.invoke("echo", "well"))["result"] == "well"


@pytest.mark.parametrize("garbage", [b"\x00" * 1_000, b"\xff" * 1_000, b"GET / HTTP/1.1\r\n\r\n" * 50, b"{}\x1e" * 300])
async def test_garbage(opened: Open, garbage: bytes) -> None:
    """Bytes that are no frames end their connection only."""
    async with opened() as other, opened() as client:
        await other.shake_hands()
        client.writer.write(garbage)
        await client.read_all()
        assert (await other.invoke("echo", "well"))["result"] == "well"


async def test_reader_that_does_not_read(edge: Edge) -> None:
    """A client that takes nothing is disconnected above its limit; another one notices nothing."""
    with serving(make_app(TransportOptions(outbound_buffer_limit=200_000)), edge) as server:
        async with (
            reports("stuck") as told,
            RawWebSocket.opened(server.port, "/hub?tag=stuck") as stuck,
            RawWebSocket.opened(server.port, "/hub") as other,
        ):
            await stuck.shake_hands()
            await other.shake_hands()
            # Nobody waits for the members of an audience.
            for _ in range(400):
                assert (await other.invoke("flood_others", 10, 10_000))["type"] == 3
            assert (await told.get()).startswith("disconnected: ")
            assert (await other.invoke("echo", "well"))["result"] == "well"


@pytest.mark.parametrize("target", ["flood", "flood_all"])
@pytest.mark.parametrize(("count", "size"), [(16, 300_000), (4_800, 1_000)])
async def test_reader_that_reads(opened: Open, target: str, count: int, size: int) -> None:
    """A method that sends in one loop more than a client's limit loses nothing, as long as the client reads."""
    async with opened() as client:
        await client.shake_hands()
        client.write_json({"type": 1, "invocationId": "1", "target": target, "arguments": [count, size]})
        for _ in range(count):
            assert len((await client.read_json())["arguments"][0]) == size
        assert (await client.read_json())["type"] == 3


# -- with an app around ----------------------------------------------------------------------------------------------


class ByHeader(AuthenticationBackend):
    """Trusts what a header says."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.headers.get("x-user")
        return (AuthCredentials(), SimpleUser(name)) if name else None


async def shout(websocket: WebSocket) -> None:
    """A WebSocket endpoint of the application's own."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text.upper())


async def test_mounted_behind_middleware(edge: Edge) -> None:
    """In a Starlette app, mounts and authentication reach the hub, and the app's own WebSockets work beside it."""
    hubs = make_app()
    app = Starlette(
        routes=[WebSocketRoute("/shout", shout), Mount("/hubs", hubs)],
        middleware=[Middleware(AuthenticationMiddleware, backend=ByHeader())],
        lifespan=hubs.lifespan,
    )
    with serving(app, edge) as server:
        async with RawWebSocket.opened(server.port, "/hubs/hub", "X-User: ada") as client:
            await client.shake_hands()
            assert (await client.invoke("whoami"))["result"][1] == "ada"
        async with RawWebSocket.opened(server.port, "/shout") as client:
            client.write_frame(TEXT, b"hello")
            assert await client.read_frame() == (TEXT, b"HELLO")
            assert await client.close() == 1000


@pytest.mark.row("B129")
async def test_shutdown_says_goodbye(edge: Edge) -> None:
    """When the server stops, a client is told that it may reconnect, and its WebSocket is closed in order."""
    with serving(make_app(), edge) as server:
        async with RawWebSocket.opened(server.port, "/hub") as client:
            await client.shake_hands()
            server.stop()
            if edge.fast:
                assert await client.read_json() == {"type": 7, "allowReconnect": True}
                assert await client.read_close() == 1000
                client.write_frame(CLOSE, (1000).to_bytes(2))
            else:
                assert await client.read_close() == 1012  # uvicorn's own class is asked first, and says this
            await client.read_end()
