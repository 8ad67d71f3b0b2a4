"""What other SignalR servers get wrong, and what the specification says but no client expects: where each is tested.

The first table has the pitfalls of the server reference, section 9.1, by their numbers; the second one its section 9.2,
what the text says and what ASP.NET Core does instead. Each entry names the tests that would fail if hubplane fell for
it.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable
from functools import cache
from pathlib import Path

import pytest

from hubplane import Hub, HubApp
from hubplane.testing import FakeClock, MemoryServer

ROOT = Path(__file__).resolve().parents[2]

EDGES = "tests/integration/test_edges.py"
DISPATCH = "tests/unit/hubs/test_dispatch.py"
POLLS = "tests/unit/transports/test_long_polling.py"
EVENTS = "tests/unit/transports/test_server_sent_events.py"
POSTS = "tests/unit/transports/test_upload.py"
ROUTER = "tests/unit/transports/test_router.py"
LIFE = "tests/unit/endpoint/test_connection_life.py"
JSON = "tests/unit/protocol/test_json_messages.py"
JSON_OUT = "tests/unit/protocol/test_json_protocol.py"
MSGPACK = "tests/unit/protocol/test_msgpack_messages.py"
MSGPACK_OUT = "tests/unit/protocol/test_msgpack_protocol.py"
SESSION = "tests/unit/protocol/test_session.py"
DOWN = "tests/unit/hubs/test_downloads.py"
UP = "tests/unit/hubs/test_uploads.py"
TRANSCRIPTS = "tests/vectors/test_hub_transcripts.py"
VALUES = "tests/vectors/test_hub_values.py"
ACCESS = "tests/integration/test_access.py"
HERE = "tests/unit/test_pitfalls.py"

Proof = tuple[str, str]

PITFALLS: dict[int, tuple[str, tuple[Proof, ...]]] = {
    1: (
        "a call with an id gets one completion, also without a result",
        ((DISPATCH, "test_void_is_answered_with_null"),),
    ),
    2: ("a call without an id gets none, nor its error", ((DISPATCH, "test_nobody_asked_nobody_is_answered"),)),
    3: (
        "ids are strings, and what is absent is not written as null",
        (
            (JSON_OUT, "test_messages_are_written_in_order_and_without_what_is_absent"),
            (TRANSCRIPTS, "test_what_the_server_sent_is_written_byte_for_byte"),
        ),
    ),
    4: (
        "a message is never cut over two frames, events or polls, and ends with its separator",
        (
            (EDGES, "test_messages_of_all_lengths"),
            ("tests/vectors/test_sse.py", "test_recorded_session"),
            (POLLS, "test_stream_fills_a_poll"),
        ),
    ),
    5: ("JSON comes in text and binary frames", ((EDGES, "test_json_handshake_in_either_frame"),)),
    6: ("the answer to a MessagePack handshake is JSON", ((EDGES, "test_messagepack"),)),
    7: ("members come in any order", ((JSON, "test_messages_are_read_alike_fast_and_exactly"),)),
    8: (
        "methods are found in any case, lifecycle and private ones are not found",
        (
            (DISPATCH, "test_targets_are_matched_in_any_case"),
            ("tests/unit/hubs/test_hub_methods.py", "test_callable_are_public_methods_of_the_class_and_its_bases"),
        ),
    ),
    9: (
        "what follows the handshake in its frame, or its POST, counts",
        (
            (EDGES, "test_handshake_and_messages_in_one_frame"),
            (SESSION, "test_bytes_behind_the_handshake_are_messages"),
        ),
    ),
    10: (
        "the first poll is answered at once and empty, a timeout with 200",
        (
            (POLLS, "test_first_poll_is_answered_at_once"),
            (POLLS, "test_idle_poll_is_answered_after_the_poll_timeout"),
        ),
    ),
    11: (
        "a connection that just ended answers 204, after its Close message was fetched",
        ((POLLS, "test_close_message_before_the_end"), ("tests/vectors/test_long_polling.py", "test_recorded_close")),
    ),
    12: ("a second poll replaces the first", ((POLLS, "test_newer_poll_replaces_the_open_one"),)),
    13: (
        "POSTs at the same time queue, and none waits for its method",
        ((POSTS, "test_concurrent_posts"), (POSTS, "test_post_does_not_wait_for_the_method")),
    ),
    14: (
        "the public id opens nothing in version 1, and tokens need no encoding",
        ((ROUTER, "test_public_id_is_no_key"), (EDGES, "test_negotiated_websocket")),
    ),
    15: ("unknown query parameters are ignored", ((EDGES, "test_negotiated_websocket"),)),
    16: (
        "a failed negotiation is a 200 with its text, a wrong id a 404 instead of an upgrade",
        ((ROUTER, "test_negotiate_chooses_the_version"), (EDGES, "test_unknown_id_is_not_upgraded")),
    ),
    17: (
        "stateful reconnect is offered to those who ask, and version 1 hears no acknowledgements",
        ((ROUTER, "test_stateful_reconnect_is_agreed_on"), (HERE, "test_version_1_hears_no_acknowledgements")),
    ),
    18: (
        "the server pings, and only a client that has pinged can be too silent",
        (
            (LIFE, "test_pings_do_not_care_for_traffic"),
            (LIFE, "test_a_client_that_never_pings_is_never_timed_out"),
            (LIFE, "test_a_client_that_pinged_and_fell_silent"),
        ),
    ),
    19: ("long polling has neither", ((POLLS, "test_no_pings_and_no_client_timeout"),)),
    20: (
        "a Close message, then the end of the transport, with permission to reconnect at a restart",
        ((EDGES, "test_server_close"), (EDGES, "test_shutdown_says_goodbye")),
    ),
    21: (
        "a method that asks a client blocks nobody and gives its slot back",
        ((DISPATCH, "test_asking_the_caller_hands_the_slot_back"),),
    ),
    22: ("calls of one connection run one after the other", ((DISPATCH, "test_calls_run_one_after_the_other"),)),
    23: ("a cancelled stream is completed, without an error", ((DOWN, "test_cancel"),)),
    24: ("the end of a stream has no result", ((DOWN, "test_items_then_completion"),)),
    25: (
        "streams wait, in both directions",
        ((DOWN, "test_a_slow_client_stalls_its_stream"), (UP, "test_a_full_buffer_stops_the_input")),
    ),
    26: ("groups end with the connection and do not come back", ((HERE, "test_groups_end_with_the_connection"),)),
    27: (
        "MessagePack in .NET's form: headers, numbers of items, results, names of enums",
        (
            (MSGPACK_OUT, "test_frames_are_written_byte_for_byte"),
            (MSGPACK, "test_messages_are_read_alike_fast_and_item_by_item"),
            ("tests/unit/protocol/test_msgpack_values.py", "test_values_are_written_as_by_dotnet"),
        ),
    ),
    28: ("names go out as they are", (("tests/unit/hubs/test_hub_clients.py", "test_the_target_is_sent_verbatim"),)),
    29: ("texts of exceptions stay here by default", ((DISPATCH, "test_a_method_that_raises"),)),
    32: ("event streams ask proxies not to buffer them", ((EVENTS, "test_opening"),)),
    33: ("CORS as credentials need it, preflight included", ((ACCESS, "test_cors_is_the_frameworks"),)),
    34: (
        "unknown members and types are passed over",
        (
            (JSON, "test_messages_are_read_alike_fast_and_exactly"),
            (SESSION, "test_unknown_types_are_skipped"),
            (MSGPACK, "test_messages_are_read_alike_fast_and_item_by_item"),
        ),
    ),
    35: ("the limit is that of a message, not of a frame", ((EDGES, "test_many_messages_in_one_frame"),)),
}

# Counting, and what ends a connection for good, belong to stateful reconnect; its own tests prove them.
OF_STATEFUL_RECONNECT = {30, 31}

STALE_TEXT: dict[str, tuple[Proof, ...]] = {
    "targets are case-sensitive; they are not": ((DISPATCH, "test_targets_are_matched_in_any_case"),),
    "unknown members are errors; they are ignored": ((JSON, "test_messages_are_read_alike_fast_and_exactly"),),
    "POSTs at the same time get 409; they queue": ((POSTS, "test_concurrent_posts"),),
    "pings follow silence; they have a fixed period": ((LIFE, "test_pings_do_not_care_for_traffic"),),
    "negotiation has useAck; it has useStatefulReconnect": ((ROUTER, "test_stateful_reconnect_is_agreed_on"),),
    "the handshake has version 1; up to 2 is taken": (
        ("tests/unit/protocol/test_handshake.py", "test_a_protocol_is_found_by_name_and_version"),
        (HERE, "test_version_2_is_taken_and_version_3_is_not"),
    ),
    "using an id again may end the connection; it may not": ((HERE, "test_an_id_may_be_used_again"),),
    "MessagePack enums are integers; they are names": (
        ("tests/unit/protocol/test_msgpack_values.py", "test_values_are_written_as_by_dotnet"),
    ),
    "events and polls have metadata; they have none": (
        ("tests/vectors/test_sse.py", "test_recorded_session"),
        ("tests/vectors/test_long_polling.py", "test_recorded_session"),
    ),
    "a replaced poll brings what was written; it is empty": ((POLLS, "test_newer_poll_replaces_the_open_one"),),
    "unexpected errors are a 500; the socket opens first": ((LIFE, "test_on_connected_that_fails"),),
}


@cache
def functions_of(path: str) -> frozenset[str]:
    """The test functions of a module."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


PROOFS = [(f"9.1 {number}", proofs) for number, (_, proofs) in PITFALLS.items()]
PROOFS += [(f"9.2 {text}", proofs) for text, proofs in STALE_TEXT.items()]


@pytest.mark.parametrize(("pitfall", "proofs"), PROOFS, ids=[name for name, _ in PROOFS])
def test_each_pitfall_has_its_tests(pitfall: str, proofs: tuple[Proof, ...]) -> None:
    """The tests that an entry names exist."""
    assert proofs
    assert [f"{path}::{test}" for path, test in proofs if test not in functions_of(path)] == []


def test_no_pitfall_is_left_out() -> None:
    """All 35 pitfalls have an entry, or belong to stateful reconnect."""
    assert set(PITFALLS) | OF_STATEFUL_RECONNECT == set(range(1, 36))


# -- pitfalls that no other test is about ----------------------------------------------------------------------------


class RoomHub(Hub):
    """A room."""

    async def enter(self) -> None:
        await self.groups.add(self.context.connection_id, "room")

    async def say(self, text: str) -> None:
        await self.clients.group("room").send("Said", text)

    async def echo(self, text: str) -> str:
        return text


def make_app(clock: FakeClock | None = None) -> HubApp:
    """With a room."""
    app = HubApp(clock=clock)
    app.add_hub("/room", RoomHub)
    return app


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_groups_end_with_the_connection(how: str) -> None:
    """A client that comes back, however it left, is in no group that its last connection was in."""
    async with MemoryServer(make_app()) as server, server.client("/room") as stays, server.client("/room") as leaves:
        await stays.invoke("enter")
        await leaves.invoke("enter")
        await leaves.invoke("say", "one")
        await (leaves.close() if how == "close" else leaves.drop())
        await leaves.connect()
        await stays.invoke("say", "two")
        await leaves.invoke("echo", "")
        assert leaves.received == []
        assert [call.arguments for call in stays.received] == [["one"], ["two"]]


class RawClient:
    """A socket at the room whose records are kept.

    Attributes:
        records: What came, without separators.
    """

    def __init__(self, server: MemoryServer) -> None:
        self.records: list[bytes] = []
        self._changed = asyncio.Event()
        self.socket = server.websocket("/room")
        self.socket.on_data = self._heard

    def _heard(self, data: bytes) -> None:
        self.records += data.removesuffix(b"\x1e").split(b"\x1e")
        self._changed.set()

    async def ask(self, data: str, count: int, *, stay: Awaitable[None] | None = None) -> list[bytes]:
        """Send `data`, wait for so many records, and see whether more come, during `stay` and until the end."""
        assert await self.socket.opened() is None
        await self.socket.send(data)
        async with asyncio.timeout(5):
            while len(self.records) < count:
                self._changed.clear()
                await self._changed.wait()
        if stay is not None:
            await stay
        self.socket.drop()
        await self.socket.returned()
        return self.records


def hello(version: int) -> str:
    """The handshake."""
    return f'{{"protocol":"json","version":{version}}}\x1e'


def echo(invocation_id: int) -> str:
    """A call."""
    return f'{{"type":1,"invocationId":"{invocation_id}","target":"echo","arguments":["x"]}}\x1e'


def echoed(invocation_id: int) -> bytes:
    """Its answer."""
    return b'{"type":3,"invocationId":"%d","result":"x"}' % invocation_id


async def test_version_1_hears_no_acknowledgements() -> None:
    """A client of version 1 that did not ask for stateful reconnect gets its answers and, for two seconds, no more."""
    clock = FakeClock()
    async with MemoryServer(make_app(clock)) as server:
        client = RawClient(server)
        records = await client.ask(hello(1) + "".join(map(echo, range(20))), 21, stay=clock.elapse(2))
        assert records == [b"{}", *map(echoed, range(20))]


@pytest.mark.parametrize(("version", "answer"), [(0, b"{}"), (1, b"{}"), (2, b"{}"), (3, b"not support version 3")])
async def test_version_2_is_taken_and_version_3_is_not(version: int, answer: bytes) -> None:
    """Versions up to 2 are taken although the text knows only 1."""
    async with MemoryServer(make_app()) as server:
        records = await RawClient(server).ask(hello(version), 1)
        assert answer in records[0]


async def test_an_id_may_be_used_again() -> None:
    """The same invocation id may be used again and again; each call is answered."""
    async with MemoryServer(make_app()) as server:
        assert await RawClient(server).ask(hello(1) + 5 * echo(1), 6) == [b"{}", *5 * [echoed(1)]]
