"""Frames: what the reader of the fast edge makes of bytes, judged by RFC 6455 and by another implementation."""

from __future__ import annotations

import sys
from codecs import getincrementaldecoder
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from hubplane.connection.transport import OutboundBatch
from hubplane.server import frames
from hubplane.server.frames import FrameReader, binary_frame, close_frame, pong_frame, text_frame

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x11\x22\x33\x44"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """A frame as a client sends it, or should not."""
    length = len(payload)
    flag = 0x80 if masked else 0
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if length < 126:
        head += bytes((flag | length,))
    elif length < 65_536:
        head += bytes((flag | 126,)) + length.to_bytes(2)
    else:
        head += bytes((flag | 127,)) + length.to_bytes(8)
    return head + (MASK + apply_mask(payload, MASK) if masked else payload)


def closing(code: int, reason: bytes = b"") -> bytes:
    """A Close frame of a client."""
    return frame(CLOSE, code.to_bytes(2) + reason)


def feed_in_pieces(reader: FrameReader, data: bytes, size: int) -> bytes:
    """Feed the data cut into pieces of a size."""
    return b"".join(reader.feed(data[at : at + size]) for at in range(0, len(data), size))


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("size", [1, 7, 4_096, 1_000_000])
def test_payload_of_any_length_comes_out(opcode: int, length: int, size: int) -> None:
    """A message comes out whole, whatever its length and however its bytes arrive."""
    payload = (b"0123456789abcdef" * (length // 16 + 1))[:length]
    reader = FrameReader()
    assert feed_in_pieces(reader, frame(opcode, payload) + frame(BINARY, b"next"), size) == payload + b"next"
    assert not reader.notice


@pytest.mark.row("B32")
def test_messages_of_a_chunk_come_out_joined() -> None:
    """The payload of all messages in a chunk is one piece of the byte pipe."""
    reader = FrameReader()
    assert reader.feed(frame(TEXT, b"one") + frame(BINARY, b"two") + frame(TEXT, b"three")) == b"onetwothree"


@pytest.mark.row("B32")
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1_000])
def test_fragments_with_control_frames_between(size: int) -> None:
    """A fragmented message comes out whole though control frames arrive inside it."""
    data = (
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"ping")
        + frame(CONTINUATION, b"", fin=False)
        + frame(PONG, b"pong")
        + frame(CONTINUATION, b"b")
        + frame(TEXT, b"c")
    )
    reader = FrameReader()
    assert feed_in_pieces(reader, data, size) == b"abc"
    assert reader.ping == b"ping"
    assert reader.failure is None


def test_partial_frame_gives_what_has_arrived() -> None:
    """Payload is handed on before its frame is complete, so a reader keeps no more than a header."""
    reader = FrameReader()
    data = frame(BINARY, bytes(range(256)) * 100)
    assert reader.feed(data[:1_000]) == (bytes(range(256)) * 100)[:992]
    assert reader.feed(data[1_000:]) == (bytes(range(256)) * 100)[992:]


@pytest.mark.parametrize("cut", range(1, 131))
def test_control_frame_waits_until_it_is_complete(cut: int) -> None:
    """A control frame cut anywhere is acted on once, when its last byte is there."""
    data = frame(PING, b"p" * 125)
    reader = FrameReader()
    assert reader.feed(data[:cut]) == b""
    assert not reader.notice
    assert reader.feed(data[cut:]) == b""
    assert reader.ping == b"p" * 125


def test_only_the_latest_ping_is_kept() -> None:
    """Of several pings in a chunk the latest is to be answered (RFC 6455, 5.5.3)."""
    reader = FrameReader()
    reader.feed(frame(PING, b"1") + frame(PING, b"2"))
    assert reader.ping == b"2"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"a", masked=False), 1002),
        (frame(TEXT, b"", masked=False), 1002),
        (frame(TEXT, b"a", rsv=4), 1002),
        (frame(TEXT, b"a", rsv=1), 1002),
        (frame(3), 1002),
        (frame(7), 1002),
        (frame(11), 1002),
        (frame(15), 1002),
        (frame(PING, fin=False), 1002),
        (frame(PING, b"p" * 126), 1002),
        (frame(CLOSE, b"\x03\xe8" + b"r" * 124), 1002),
        (frame(CONTINUATION, b"a"), 1002),
        (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), 1002),
        (frame(BINARY, b"a", fin=False) + frame(TEXT, b"b", fin=False), 1002),
        (b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00" + MASK, 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (closing(999), 1002),
        (closing(1004), 1002),
        (closing(1005), 1002),
        (closing(1006), 1002),
        (closing(1015), 1002),
        (closing(2999), 1002),
        (closing(5000), 1002),
        (closing(1000, b"\xff"), 1007),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"(", fin=False), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b""), 1007),
    ],
)
@pytest.mark.parametrize("size", [1, 6, 1_000])
def test_broken_rules_end_the_reading(data: bytes, code: int, size: int) -> None:
    """A frame against the rules fails with the close code of RFC 6455, section 7.4, and nothing is read after it."""
    reader = FrameReader()
    feed_in_pieces(reader, frame(TEXT, b"before") + data, size)
    assert reader.failure is not None
    assert reader.failure[0] == code
    assert reader.feed(frame(TEXT, b"after")) == b""
    assert reader.close_code is None


@pytest.mark.row("B28", "B29")
def test_text_that_is_not_utf8_does_not_come_out() -> None:
    """The messages before a text message that is not UTF-8 come out; it and what follows do not."""
    reader = FrameReader()
    assert reader.feed(frame(TEXT, b"good") + frame(TEXT, b"\xff\xfe") + frame(TEXT, b"late")) == b"good"
    assert reader.failure == (1007, "A text message is not valid UTF-8.")


@pytest.mark.row("B28")
def test_binary_may_hold_anything() -> None:
    """A binary message is not checked for UTF-8."""
    assert FrameReader().feed(frame(BINARY, b"\xff\xfe")) == b"\xff\xfe"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_character_may_be_cut_by_fragments(size: int) -> None:
    """A character that two fragments share is valid."""
    text = "caf\u00e9 \u2615 \U0001f600".encode()
    data = frame(TEXT, text[:4], fin=False) + frame(CONTINUATION, text[4:8], fin=False) + frame(CONTINUATION, text[8:])
    reader = FrameReader()
    assert feed_in_pieces(reader, data, size) == text
    assert reader.failure is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(CLOSE), 1005),
        (closing(1000), 1000),
        (closing(1001, b"going"), 1001),
        (closing(1014), 1014),
        (closing(3000), 3000),
        (closing(4999, "caf\u00e9".encode()), 4999),
    ],
)
def test_close_ends_the_reading(data: bytes, code: int) -> None:
    """The peer's Close frame gives its code, and nothing is read after it."""
    reader = FrameReader()
    assert reader.feed(frame(TEXT, b"last") + data + frame(TEXT, b"late")) == b"last"
    assert reader.close_code == code
    assert reader.feed(frame(TEXT, b"later")) == b""
    assert reader.failure is None


def test_close_inside_a_fragmented_message() -> None:
    """A client may close before it has ended its message (RFC 6455, 5.4)."""
    reader = FrameReader()
    assert reader.feed(frame(TEXT, b"half", fin=False) + closing(1001)) == b"half"
    assert reader.close_code == 1001
    assert reader.failure is None


@pytest.mark.parametrize(
    ("length", "head"),
    [
        (0, b"\x00"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (65_535, b"\x7e\xff\xff"),
        (65_536, b"\x7f" + bytes(5) + b"\x01\x00\x00"),
    ],
)
def test_frames_are_unmasked_and_made_once(length: int, head: bytes) -> None:
    """A batch is framed once for each opcode, unmasked, with the shortest length."""
    batch = OutboundBatch(b"x" * length)
    assert text_frame(batch) == b"\x81" + head + b"x" * length
    assert binary_frame(batch) == b"\x82" + head + b"x" * length
    assert batch.text_frame == text_frame(batch)
    assert batch.binary_frame == binary_frame(batch)


def test_control_frames() -> None:
    """Close frames carry their code and no reason; a Pong carries the payload of its Ping."""
    assert close_frame(1011) == b"\x88\x02\x03\xf3"
    assert pong_frame(b"abc") == b"\x8a\x03abc"


def test_without_compiled_unmasking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library has no compiled part, frames are unmasked all the same."""
    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    spec = spec_from_file_location("frames_without_speedups", frames.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.apply_mask is not apply_mask
    assert module.FrameReader().feed(frame(TEXT, b"hello") + frame(BINARY, b"\x00" * 200)) == b"hello" + b"\x00" * 200


# -- against a second implementation: the sans-I/O core of websockets ------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a reader made of a connection: the payload that is certain, what may follow, and the end."""

    payload: bytes
    in_doubt: bytes
    failure: int | None
    closed: int | None


def judged_by_websockets(data: bytes) -> Outcome:
    """The verdict of the library, with the UTF-8 check that it leaves to the layer above.

    One difference is passed over: a Close frame inside a fragmented message is a failure to the library. RFC 6455,
    section 5.4, allows control frames there, so it is an orderly end to us.
    """
    core = ServerProtocol(state=State.OPEN, max_size=None)
    core.receive_data(data)
    payload = b""
    text, decoder = False, getincrementaldecoder("utf-8")()
    for event in core.events_received():
        assert isinstance(event, Frame)
        if event.opcode in {Opcode.TEXT, Opcode.BINARY}:
            text = event.opcode is Opcode.TEXT
            decoder.reset()
        if event.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            if text:
                try:
                    decoder.decode(event.data, final=event.fin)
                except UnicodeDecodeError:
                    return Outcome(payload, bytes(event.data), 1007, None)
            payload += event.data
    if core.parser_exc is not None and core.close_rcvd is None:
        assert core.close_sent is not None
        return Outcome(payload, b"", core.close_sent.code, None)
    return Outcome(payload, b"", None, core.close_rcvd.code if core.close_rcvd is not None else None)


payloads = st.one_of(
    st.binary(max_size=20),
    st.text(max_size=12).map(str.encode),
    st.integers(120, 135).map(lambda length: b"x" * length),
    st.sampled_from([b"\xc3", b"\xa9", b"\xf0\x9f", b"\x98\x80", b"\xff", "\u2615".encode()]),
)
close_payloads = st.one_of(
    st.just(b""),
    st.binary(max_size=3),
    st.builds(
        lambda code, reason: code.to_bytes(2) + reason,
        st.one_of(st.integers(990, 1020), st.integers(2990, 3010), st.integers(4990, 5010)),
        st.one_of(st.just(b""), st.text(max_size=5).map(str.encode), st.binary(max_size=3)),
    ),
)


@st.composite
def sequences(draw: st.DrawFn) -> bytes:
    """Frames of a client that mostly keeps the rules."""
    data, within = b"", False
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from(["data"] * 12 + ["ping", "pong", "close", "wild"]))
        if kind == "data":
            opcode = CONTINUATION if within else draw(st.sampled_from([TEXT, TEXT, BINARY]))
            fin = draw(st.booleans())
            within = not fin
            data += frame(opcode, draw(payloads), fin=fin)
        elif kind == "close":
            data += frame(CLOSE, draw(close_payloads))
        elif kind == "wild":
            data += frame(
                draw(st.integers(0, 15)),
                draw(payloads),
                fin=draw(st.booleans()),
                rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4])),
                masked=draw(st.sampled_from([True, True, True, False])),
            )
        else:
            data += frame(PING if kind == "ping" else PONG, draw(st.binary(max_size=5)))
    return data


@settings(deadline=None)
@given(data=sequences(), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_reader_agrees_with_websockets(data: bytes, cuts: list[int]) -> None:
    """For any frames in any pieces, payload, failure and close code are those that the websockets library finds."""
    expected = judged_by_websockets(data)
    reader = FrameReader()
    marks = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    payload = b"".join(reader.feed(data[start:end]) for start, end in pairwise(marks))
    assert (reader.failure[0] if reader.failure else None) == expected.failure
    assert reader.close_code == expected.closed
    # A message that turns out not to be UTF-8 may have been handed on in part, when it arrived in parts.
    assert payload.startswith(expected.payload)
    assert (expected.payload + expected.in_doubt).startswith(payload)


@settings(deadline=None)
@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=6))
def test_garbage_is_judged_alike_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Whatever arrives, the verdict does not depend on how the network cuts it."""
    whole, pieces = FrameReader(), FrameReader()
    marks = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    at_once = whole.feed(data)
    cut_up = b"".join(pieces.feed(data[start:end]) for start, end in pairwise(marks))
    assert whole.failure == pieces.failure
    assert whole.close_code == pieces.close_code
    assert cut_up.startswith(at_once)
    if whole.failure is None:
        assert cut_up == at_once
