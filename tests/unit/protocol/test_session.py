"""One connection's progress: handshake, messages, faults and the clock."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import ClientTimeoutError, HandshakeError, RemoteProtocolError
from hubplane.options import HubOptions
from hubplane.protocol.framing import frame
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import HandshakeRequest, HubMessage, Invocation, Ping, Raw
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.session import HubSession, SessionState, ping_bytes

PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
BOTH_FORMATS = tuple(TransferFormat)
JSON = b'{"protocol":"json","version":1}\x1e'
PACK = b'{"protocol":"messagepack","version":2}\x1e'
PING = b'{"type":6}\x1e'
ADD = b'{"type":1,"invocationId":"0","target":"Add","arguments":[1,2]}\x1e'
PACK_PING = bytes.fromhex("029106")
PACK_ADD = bytes.fromhex("0d960180a130a341646492010290")
TOO_LARGE = "The maximum message size of 100B was exceeded. The message size can be configured in AddHubOptions."

either = pytest.mark.parametrize(
    ("hello", "ping", "add"),
    [pytest.param(JSON, PING, ADD, id="json"), pytest.param(PACK, PACK_PING, PACK_ADD, id="pack")],
)


def new_session(
    hello: bytes = b"", *, limit: int | None = 32_768, formats: Iterable[TransferFormat] = BOTH_FORMATS
) -> HubSession:
    """A session that began at second 100, behind the handshake `hello` if there is one."""
    options = HubOptions(maximum_receive_message_size=limit)
    session = HubSession(PROTOCOLS, options, now=100.0, transfer_formats=tuple(formats))
    if hello:
        (request,) = session.receive_data(hello)
        assert isinstance(request, HandshakeRequest)
    return session


def kinds(messages: list[HandshakeRequest | HubMessage]) -> list[str]:
    """The names of the messages' classes."""
    return [type(message).__name__ for message in messages]


def test_a_session_begins_with_the_handshake() -> None:
    """Before it there is no protocol."""
    session = new_session()
    assert (session.state, session.protocol, session.version, session.failure) == (
        SessionState.HANDSHAKE,
        None,
        0,
        None,
    )
    assert session.receive_data(b"") == []


@either
def test_the_handshake_chooses_the_protocol(hello: bytes, ping: bytes, add: bytes) -> None:
    """The request is the first message, and the protocol is chosen when it is returned."""
    session = new_session()
    (request,) = session.receive_data(hello)
    assert isinstance(request, HandshakeRequest)
    assert session.protocol is PROTOCOLS[request.protocol]
    assert (session.state, session.version) == (SessionState.OPEN, request.version)


@either
def test_bytes_behind_the_handshake_are_messages(hello: bytes, ping: bytes, add: bytes) -> None:
    """What came with the request is read at once, in the chosen protocol."""
    session = new_session()
    assert kinds(session.receive_data(hello + ping + add)) == ["HandshakeRequest", "Ping", "Invocation"]


@pytest.mark.parametrize(
    ("data", "formats", "answer"),
    [
        (b'{"protocol":"xml","version":1}\x1e', BOTH_FORMATS, "The protocol 'xml' is not supported."),
        (
            b'{"protocol":"json","version":3}\x1e',
            BOTH_FORMATS,
            "The server does not support version 3 of the 'json' protocol.",
        ),
        (
            PACK,
            (TransferFormat.TEXT,),
            (
                "Cannot use the 'messagepack' protocol on the current transport. The transport does not support "
                "'Binary' transfer format."
            ),
        ),
        (b"hello\x1e", BOTH_FORMATS, "An unexpected error occurred during connection handshake."),
    ],
)
@pytest.mark.row("B62", "B64")
def test_a_handshake_that_fails(data: bytes, formats: tuple[TransferFormat, ...], answer: str) -> None:
    """The failure carries the answer, the session is closed, and nothing more is read."""
    session = new_session(formats=formats)
    assert session.receive_data(data + PING) == []
    assert isinstance(session.failure, HandshakeError)
    assert session.failure.answer == answer
    assert session.state is SessionState.CLOSED
    assert session.receive_data(JSON) == []


@pytest.mark.parametrize("pieces", [1, 3, 50])
@pytest.mark.row("B66")
def test_a_handshake_may_have_the_size_of_a_message(pieces: int) -> None:
    """The limit counts the separator, and holds however the request is cut; what follows does not count."""

    def cut(data: bytes) -> list[bytes]:
        size = -(-len(data) // pieces)
        return [data[start : start + size] for start in range(0, len(data), size)]

    request = b'{"protocol":"json","version":1,"x":"' + b"j" * 61 + b'"}\x1e'
    assert len(request) == 100
    session = new_session(limit=100)
    for piece in cut(request):
        session.receive_data(piece)
    assert session.state is SessionState.OPEN
    session = new_session(limit=100)
    session.receive_data(request + PING * 20)
    assert session.state is SessionState.OPEN
    for too_long in (request.replace(b"jj", b"jjj", 1), b"j" * 101):
        session = new_session(limit=100)
        for piece in cut(too_long):
            session.receive_data(piece)
        assert isinstance(session.failure, HandshakeError)
        assert session.failure.answer == "Handshake was canceled."


def test_without_a_limit_everything_may_be_long() -> None:
    """None means no limit, for the handshake and for messages of both kinds, in one piece or in two."""
    session = new_session(limit=None)
    request = b'{"protocol":"json","version":1,"x":"' + b"j" * 100_000 + b'"}\x1e'
    session.receive_data(request[:50_000])
    assert kinds(session.receive_data(request[50_000:])) == ["HandshakeRequest"]
    long = ADD.replace(b"Add", b"A" * 100_000)
    assert session.receive_data(long[:50_000]) == []
    assert kinds(session.receive_data(long[50_000:])) == ["Invocation"]
    session = new_session(PACK, limit=None)
    body = bytes.fromhex("950180c0db000186a0") + b"A" * 100_000 + b"\x90"
    assert session.receive_data(frame(body)[:50_000]) == []
    assert kinds(session.receive_data(frame(body)[50_000:])) == ["Invocation"]


@either
@pytest.mark.row("B70", "B86")
def test_unknown_types_are_skipped(hello: bytes, ping: bytes, add: bytes) -> None:
    """A message of an unknown type is passed over, and those behind it are read."""
    unknown = b'{"type":99}\x1e' if hello is JSON else bytes.fromhex("029163")
    assert kinds(new_session(hello).receive_data(unknown + ping + unknown + add)) == ["Ping", "Invocation"]


@either
def test_messages_in_front_of_a_fault_are_returned(hello: bytes, ping: bytes, add: bytes) -> None:
    """A faulty message ends the session; what came before it is returned, what comes after it is ignored."""
    fault = b'{"type":"1"}\x1e' if hello is JSON else b"\x01\x05"
    session = new_session(hello)
    assert kinds(session.receive_data(ping + add + fault + add)) == ["Ping", "Invocation"]
    assert isinstance(session.failure, RemoteProtocolError)
    assert session.state is SessionState.CLOSED
    assert session.receive_data(add) == []


@either
@pytest.mark.row("B76", "B77")
def test_a_message_that_is_too_large_ends_the_session(hello: bytes, ping: bytes, add: bytes) -> None:
    """Small messages in front of it are returned, and their sum does not matter."""
    large = PING.replace(b"}", b" " * 100 + b"}") if hello is JSON else frame(b"\x91\x06" + bytes(100))
    for cut in (0, 10, 101):
        session = new_session(hello, limit=100)
        data = add * 3 + large
        head, tail = data[: len(add) * 3 + cut], data[len(add) * 3 + cut :]
        messages = session.receive_data(head) + session.receive_data(tail)
        assert kinds(messages) == ["Invocation"] * 3
        assert session.failure is not None
        assert session.failure.detail == TOO_LARGE


@either
def test_a_message_may_become_too_large_bit_by_bit(hello: bytes, ping: bytes, add: bytes) -> None:
    """The size is judged while the message arrives: a text when it has more bytes, a frame when its prefix says so."""
    large = b"x" * 102 if hello is JSON else frame(bytes(200))
    for size in (1, 7):
        session = new_session(hello, limit=100)
        for start in range(0, len(large), size):
            session.receive_data(large[start : start + size])
        assert session.failure is not None
        assert session.failure.detail == TOO_LARGE


@either
def test_a_faulty_message_in_front_of_one_too_large(hello: bytes, ping: bytes, add: bytes) -> None:
    """Of two faults the first one counts."""
    fault = b'{"type":"1"}\x1e' if hello is JSON else b"\x01\x05"
    large = PING.replace(b"}", b" " * 100 + b"}") if hello is JSON else frame(b"\x91\x06" + bytes(100))
    session = new_session(hello, limit=100)
    assert kinds(session.receive_data(ping + fault + large)) == ["Ping"]
    assert session.failure is not None
    assert session.failure.detail != TOO_LARGE


def test_a_broken_prefix_ends_the_session() -> None:
    """A length beyond 2 GB is refused, whole or byte by byte."""
    for cut in range(1, 5):
        session = new_session(PACK, limit=None)
        prefix = bytes.fromhex("ffffffffff")
        session.receive_data(prefix[:cut])
        session.receive_data(prefix[cut:])
        assert session.failure is not None
        assert session.failure.error_type == "FormatException"


@pytest.mark.parametrize(("size", "prefix"), [(100, 1), (1_000, 2), (30_000, 3)])
@pytest.mark.row("B82")
def test_prefixes_are_cut_anywhere(size: int, prefix: int) -> None:
    """A call behind a length of one, two or three bytes is whole, though each of these bytes comes by itself."""
    body = msgspec.msgpack.encode([1, {}, "1", "Echo", ["x" * size], []])
    call = frame(body)
    assert len(call) - len(body) == prefix
    session = new_session(PACK)
    for index in range(prefix):
        assert session.receive_data(call[index : index + 1]) == []
    assert session.receive_data(call[prefix:-1]) == []
    (message,) = session.receive_data(call[-1:] + PACK_PING[:1])
    assert isinstance(message, Invocation)
    assert isinstance(message.arguments, Raw)
    assert bytes(message.arguments) == msgspec.msgpack.encode(["x" * size])
    assert kinds(session.receive_data(PACK_PING[1:])) == ["Ping"]


@either
@pytest.mark.row("B82")
def test_an_unfinished_message_waits(hello: bytes, ping: bytes, add: bytes) -> None:
    """Bytes are kept until the message is whole, and the next one may begin behind it."""
    session = new_session(hello)
    assert session.receive_data(add[:5]) == []
    assert session.receive_data(b"") == []
    assert session.receive_data(add[5:-1]) == []
    assert kinds(session.receive_data(add[-1:] + ping + add[:3])) == ["Invocation", "Ping"]
    assert kinds(session.receive_data(add[3:])) == ["Invocation"]


def test_a_protocol_of_ones_own_may_refuse_to_split() -> None:
    """A protocol whose framing raises the plain error ends the session, too."""

    class Refusing(JsonHubProtocol):
        def split(self, buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
            raise RemoteProtocolError("no")

    session = HubSession({"json": Refusing()}, HubOptions(), now=0.0, transfer_formats=BOTH_FORMATS)
    assert kinds(session.receive_data(JSON + PING)) == ["HandshakeRequest"]
    assert str(session.failure) == "no"


STREAMS = st.sampled_from(["json", "messagepack"]).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.lists(
            st.sampled_from([PING, ADD, b'{"type":99}\x1e'] if name == "json" else [PACK_PING, PACK_ADD]), max_size=6
        ),
    )
)


@given(stream=STREAMS, data=st.data())
@pytest.mark.row("B82")
def test_any_split_gives_the_same_messages(stream: tuple[str, list[bytes]], data: st.DataObject) -> None:
    """However the bytes of a connection are cut, the messages are the same."""
    name, frames = stream
    whole = b'{"protocol":"%b","version":1}\x1e' % name.encode() + b"".join(frames)
    expected = new_session().receive_data(whole)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    session = new_session()
    found: list[HandshakeRequest | HubMessage] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += session.receive_data(whole[start:end])
    assert kinds(found) == kinds(expected)
    assert session.failure is None


@given(
    hello=st.sampled_from([b"", JSON, PACK]),
    pieces=st.lists(
        st.binary(max_size=30) | st.sampled_from([PING, ADD, PACK_PING, PACK_ADD, b"\x1e", b"\x80"]), max_size=6
    ),
    limit=st.none() | st.integers(40, 120),
)
def test_garbage_never_raises(hello: bytes, pieces: list[bytes], limit: int | None) -> None:
    """Whatever a client sends, the session returns messages or keeps a fault; after one it stays silent."""
    session = new_session(hello, limit=limit)
    for piece in pieces:
        before = session.failure
        messages = session.receive_data(piece)
        assert before is None or messages == []
        assert session.failure is None or isinstance(session.failure, RemoteProtocolError)
        assert (session.failure is not None) == (session.state is SessionState.CLOSED)


@pytest.mark.parametrize(
    ("hello", "message"), [(JSON, ADD.replace(b"Add", b"A" * 60_000)), (PACK, frame(PACK_ADD[1:] + bytes(60_000)))]
)
def test_bytes_may_drip(hello: bytes, message: bytes) -> None:
    """A large message that comes byte by byte is read in a time that grows with its size, not with its square."""
    session = new_session(hello, limit=None)
    for index in range(len(message) - 1):
        assert not session.receive_data(message[index : index + 1])
    assert kinds(session.receive_data(message[-1:])) == ["Invocation"]


# -- the clock --------------------------------------------------------------------------------------------------


@pytest.mark.row("B65")
def test_a_late_handshake_is_given_up() -> None:
    """After 15 s without a whole request the session fails with the answer for the client."""
    session = new_session()
    session.receive_data(b'{"protocol"')
    assert session.tick(115.0, busy=False) is False
    with pytest.raises(HandshakeError) as fault:
        session.tick(115.1, busy=False)
    assert fault.value.answer == "Handshake was canceled."
    assert session.failure is fault.value
    assert session.state is SessionState.CLOSED
    assert session.tick(200.0, busy=False) is False


def test_a_ping_is_due_every_15_seconds() -> None:
    """Counted from the beginning and then from the last ping, whatever else happens."""
    session = new_session(JSON)
    due = []
    for second in range(101, 150):
        session.receive_data(ADD)
        if session.tick(float(second), busy=second % 2 == 0):
            due.append(second)
    assert due == [115, 130, 145]


def test_no_ping_is_due_before_the_handshake() -> None:
    """A session without a protocol has nothing to ping with."""
    session = HubSession(PROTOCOLS, HubOptions(handshake_timeout=60.0), now=100.0, transfer_formats=BOTH_FORMATS)
    assert session.tick(150.0, busy=False) is False
    session.receive_data(JSON)
    assert session.tick(151.0, busy=False) is True


def test_a_client_that_never_pings_may_be_silent() -> None:
    """Old clients do not ping, so their silence means nothing."""
    session = new_session(JSON)
    session.receive_data(ADD)
    for second in range(101, 1000):
        session.tick(float(second), busy=False)
    assert session.state is SessionState.OPEN


@either
def test_a_client_that_has_pinged_must_not_be_silent(hello: bytes, ping: bytes, add: bytes) -> None:
    """30 s without a message are allowed, no more."""
    session = new_session(hello)
    session.receive_data(ping)
    session.tick(101.0, busy=False)
    session.tick(131.0, busy=False)
    with pytest.raises(ClientTimeoutError) as fault:
        session.tick(131.1, busy=False)
    assert session.failure is fault.value
    assert session.state is SessionState.CLOSED
    assert session.receive_data(ping) == []


def test_every_message_ends_the_silence_but_bytes_do_not() -> None:
    """A whole message of any type counts, an unfinished one does not."""
    session = new_session(JSON)
    session.receive_data(PING)
    session.tick(101.0, busy=False)
    session.receive_data(b'{"type":99}\x1e')
    session.tick(125.0, busy=False)
    session.receive_data(ADD[:10])
    session.tick(155.0, busy=False)
    with pytest.raises(ClientTimeoutError):
        session.tick(156.0, busy=False)


def test_time_in_which_the_hub_is_busy_is_no_silence() -> None:
    """A client cannot be blamed while its messages wait for the hub."""
    session = new_session(JSON)
    session.receive_data(PING)
    for second in range(101, 200):
        session.tick(float(second), busy=True)
    session.tick(229.0, busy=False)
    with pytest.raises(ClientTimeoutError):
        session.tick(230.0, busy=False)


@either
def test_a_closed_session_is_deaf(hello: bytes, ping: bytes, add: bytes) -> None:
    """After `close` bytes and ticks are ignored, without a failure."""
    session = new_session(hello)
    session.receive_data(add[:5])
    session.close()
    assert session.state is SessionState.CLOSED
    assert session.receive_data(add[5:] + ping) == []
    assert session.tick(1000.0, busy=False) is False
    assert session.failure is None


def test_pings_have_ready_bytes() -> None:
    """The bytes of a Ping are made once per protocol."""
    assert ping_bytes(PROTOCOLS["json"]) == PING
    assert ping_bytes(PROTOCOLS["messagepack"]) is ping_bytes(PROTOCOLS["messagepack"])
    assert isinstance(PROTOCOLS["json"].decode(PING[:-1]), Ping)


def test_messages_are_of_the_documented_classes() -> None:
    """Those who dispatch by class may compare with `is`."""
    for hello, add in ((JSON, ADD), (PACK, PACK_ADD)):
        (message,) = new_session(hello).receive_data(add)
        assert type(message) is Invocation
