"""Facts about the payloads between nodes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import EnvelopeError
from hubplane.lifetime.envelope import (
    ADD_TO_GROUP,
    REMOVE_FROM_GROUP,
    CompletionEnvelope,
    GroupCommand,
    decode_ack,
    decode_completion,
    decode_group_command,
    decode_invocation,
    encode_ack,
    encode_completion,
    encode_group_command,
    encode_invocation,
)

H = bytes.fromhex

JSON_HI = b'{"type":1,"target":"Hi","arguments":[1]}\x1e'
MSGPACK_HI = H("0a 96 01 80 c0 a2 48 69 91 01 90")
BOTH = {"json": JSON_HI, "messagepack": MSGPACK_HI}
NODE = "srvA_0123456789abcdef0123456789abcdef"
ASK_ID = "AAECAwQFBgcICQoLDA0ODw"

V5 = H(
    "92 90 81 A4 6A 73 6F 6E C4 29 7B 22 74 79 70 65 22 3A 31 2C 22 74 61 72 67 65 74 22 3A 22 48 69 22 2C 22 61 72 67"
    "75 6D 65 6E 74 73 22 3A 5B 31 5D 7D 1E"
)
V6 = H(
    "92 90 82 A4 6A 73 6F 6E C4 29 7B 22 74 79 70 65 22 3A 31 2C 22 74 61 72 67 65 74 22 3A 22 48 69 22 2C 22 61 72 67"
    "75 6D 65 6E 74 73 22 3A 5B 31 5D 7D 1E AB 6D 65 73 73 61 67 65 70 61 63 6B C4 0B 0A 96 01 80 C0 A2 48 69 91 01 90"
)
V7 = H("92 92 A2 63 31 A2 63 32") + V6[2:]
V8 = H(
    "94 90 82 A4 6A 73 6F 6E C4 52 7B 22 74 79 70 65 22 3A 31 2C 22 69 6E 76 6F 63 61 74 69 6F 6E 49 64 22 3A 22 41 41"
    "45 43 41 77 51 46 42 67 63 49 43 51 6F 4C 44 41 30 4F 44 77 22 2C 22 74 61 72 67 65 74 22 3A 22 41 73 6B 22 2C 22"
    "61 72 67 75 6D 65 6E 74 73 22 3A 5B 37 5D 7D 1E AB 6D 65 73 73 61 67 65 70 61 63 6B C4 22 21 96 01 80 B6 41 41 45"
    "43 41 77 51 46 42 67 63 49 43 51 6F 4C 44 41 30 4F 44 77 A3 41 73 6B 91 07 90 B6 41 41 45 43 41 77 51 46 42 67 63"
    "49 43 51 6F 4C 44 41 30 4F 44 77 B6 48 75 62 3A 69 6E 74 65 72 6E 61 6C 3A 72 65 74 75 72 6E 3A 73 32"
)
V9 = H(
    "92 A4 6A 73 6F 6E C4 3F 7B 22 74 79 70 65 22 3A 33 2C 22 69 6E 76 6F 63 61 74 69 6F 6E 49 64 22 3A 22 41 41 45 43"
    "41 77 51 46 42 67 63 49 43 51 6F 4C 44 41 30 4F 44 77 22 2C 22 72 65 73 75 6C 74 22 3A 34 32 7D 1E"
)
V10 = H(
    "92 AB 6D 65 73 73 61 67 65 70 61 63 6B C4 1D 1C 95 03 80 B6 41 41 45 43 41 77 51 46 42 67 63 49 43 51 6F 4C 44 41"
    "30 4F 44 77 03 2A"
)
V11 = H(
    "92 AB 6D 65 73 73 61 67 65 70 61 63 6B C4 35 34 95 03 80 B6 41 41 45 43 41 77 51 46 42 67 63 49 43 51 6F 4C 44 41"
    "30 4F 44 77 01 B8 43 6F 6E 6E 65 63 74 69 6F 6E 20 64 69 73 63 6F 6E 6E 65 63 74 65 64 2E"
)
V12 = H("95 90 81 A4 6A 73 6F 6E C4 29") + JSON_HI + H("C0 C0 82 A1 6F A4 73 72 76 41 A1 6E 01")


@pytest.mark.parametrize(
    ("number", "payload"),
    [
        pytest.param(0, "91 00", marks=pytest.mark.row("R46")),
        pytest.param(42, "91 2A", marks=pytest.mark.row("R47"), id="V1"),
        pytest.param(180, "91 CC B4", marks=pytest.mark.row("R48")),
        pytest.param(384, "91 CD 01 80", marks=pytest.mark.row("R49")),
        pytest.param(70000, "91 CE 00 01 11 70", marks=pytest.mark.row("R50"), id="V2"),
        (127, "91 7F"),
        (128, "91 CC 80"),
        (255, "91 CC FF"),
        (256, "91 CD 01 00"),
        (65536, "91 CE 00 01 00 00"),
        (2147483647, "91 CE 7F FF FF FF"),
        (-1, "91 FF"),
        (-2147483648, "91 D2 80 00 00 00"),
    ],
)
def test_acks(number: int, payload: str) -> None:
    """An acknowledgement is an array of the command's id, in its smallest form."""
    assert encode_ack(number) == H(payload)
    assert decode_ack(H(payload)) == number


@pytest.mark.parametrize(
    ("command", "payload"),
    [
        pytest.param(
            GroupCommand(42, "S", ADD_TO_GROUP, "G", "C"),
            H("95 2A A1 53 01 A1 47 A1 43"),
            marks=pytest.mark.row("R51"),
            id="add",
        ),
        pytest.param(
            GroupCommand(42, "S", REMOVE_FROM_GROUP, "G", "C"),
            H("95 2A A1 53 02 A1 47 A1 43"),
            marks=pytest.mark.row("R52"),
            id="remove",
        ),
        pytest.param(
            GroupCommand(7, NODE, ADD_TO_GROUP, "room", "c1"),
            b"\x95\x07\xd9\x25" + NODE.encode() + H("01 A4 72 6F 6F 6D A2 63 31"),
            id="V3",
        ),
        pytest.param(
            GroupCommand(8, NODE, REMOVE_FROM_GROUP, "room", "c1"),
            b"\x95\x08\xd9\x25" + NODE.encode() + H("02 A4 72 6F 6F 6D A2 63 31"),
            id="V4",
        ),
        pytest.param(
            GroupCommand(1, "s", ADD_TO_GROUP, "Zürich", "c"),
            H("95 01 A1 73 01 A7 5A C3 BC 72 69 63 68 A1 63"),
            id="V13",
        ),
    ],
)
def test_group_commands(command: GroupCommand, payload: bytes) -> None:
    """A group command is an array of five items."""
    assert encode_group_command(command) == payload
    assert decode_group_command(payload) == command


P1_P2 = H("82 A2 70 31 C4 01 2A A2 70 32 C4 01 2A")


@pytest.mark.parametrize(
    ("excluded", "payloads", "payload"),
    [
        pytest.param([], {"p1": b"*", "p2": b"*"}, H("92 90") + P1_P2, marks=pytest.mark.row("R53"), id="R53"),
        pytest.param(["a"], {"p1": b"*", "p2": b"*"}, H("92 91 A1 61") + P1_P2, marks=pytest.mark.row("R54"), id="R54"),
        pytest.param(
            list("abcdef"),
            {"p1": b"*", "p2": b"*"},
            H("92 96 A1 61 A1 62 A1 63 A1 64 A1 65 A1 66") + P1_P2,
            marks=pytest.mark.row("R55"),
            id="R55",
        ),
        pytest.param([], {"json": JSON_HI}, V5, id="V5"),
        pytest.param([], BOTH, V6, id="V6"),
        pytest.param(["c1", "c2"], BOTH, V7, id="V7"),
    ],
)
def test_invocations(excluded: list[str], payloads: dict[str, bytes], payload: bytes) -> None:
    """An invocation is an array of the excluded ids and the map of framed messages."""
    assert encode_invocation(excluded, payloads) == payload
    envelope = decode_invocation(payload)
    assert (envelope.excluded, envelope.payloads) == (excluded, payloads)
    assert list(envelope.payloads) == list(payloads)
    assert envelope.invocation_id is None


def test_question() -> None:
    """A question to a client has two more items: its id, and the channel for the answer without a prefix (V8)."""
    envelope = decode_invocation(V8)
    assert envelope.invocation_id == ASK_ID
    assert envelope.return_channel == "Hub:internal:return:s2"
    assert encode_invocation((), envelope.payloads, ASK_ID, "Hub:internal:return:s2") == V8


@pytest.mark.parametrize(
    ("protocol", "blob", "payload"),
    [
        pytest.param(
            "json",
            b'{"type":3,"invocationId":"1","result":1}',
            H("92 A4 6A 73 6F 6E C4 28") + b'{"type":3,"invocationId":"1","result":1}',
            marks=pytest.mark.row("R56"),
            id="R56",
        ),
        pytest.param(
            "messagepack",
            H("95 03 80 A3 78 79 7A 03 2A"),
            H("92 AB 6D 65 73 73 61 67 65 70 61 63 6B C4 09 95 03 80 A3 78 79 7A 03 2A"),
            marks=pytest.mark.row("R57"),
            id="R57",
        ),
        pytest.param("json", V9[8:], V9, id="V9"),
        pytest.param("messagepack", V10[15:], V10, id="V10"),
        pytest.param("messagepack", V11[15:], V11, id="V11"),
    ],
)
def test_completions(protocol: str, blob: bytes, payload: bytes) -> None:
    """A client's answer travels as the name of its protocol and the framed completion."""
    assert encode_completion(protocol, blob) == payload
    assert decode_completion(payload) == CompletionEnvelope(protocol, blob)


@pytest.mark.parametrize(
    ("length", "header"),
    [(31, "BF"), (32, "D9 20"), (255, "D9 FF"), (256, "DA 01 00"), (65535, "DA FF FF"), (65536, "DB 00 01 00 00")],
)
def test_string_headers(length: int, header: str) -> None:
    """Strings take the smallest header that holds their length."""
    payload = encode_group_command(GroupCommand(1, "s", 1, "g" * length, "c"))
    assert payload == H("95 01 A1 73 01") + H(header) + b"g" * length + H("A1 63")
    assert decode_group_command(payload).group == "g" * length


@pytest.mark.parametrize(("length", "header"), [(255, "C4 FF"), (256, "C5 01 00"), (65536, "C6 00 01 00 00")])
def test_binary_headers(length: int, header: str) -> None:
    """Framed messages are binary, with the smallest header that holds their length."""
    payload = encode_invocation((), {"p": b"x" * length})
    assert payload == H("92 90 81 A1 70") + H(header) + b"x" * length
    assert decode_invocation(payload).payloads == {"p": b"x" * length}


@pytest.mark.parametrize(("count", "header"), [(15, "9F"), (16, "DC 00 10")])
def test_array_headers(count: int, header: str) -> None:
    """Sixteen excluded ids need the longer header."""
    payload = encode_invocation(["a"] * count, {})
    assert payload == b"\x92" + H(header) + b"\xa1a" * count + b"\x80"
    assert decode_invocation(payload).excluded == ["a"] * count


MAP = V6[2:]
NIL_BLOB = H("82 A4 6A 73 6F 6E C0 AB 6D 65 73 73 61 67 65 70 61 63 6B C4 0B") + MSGPACK_HI
EMPTY_BLOB = H("82 A4 6A 73 6F 6E C4 00 AB 6D 65 73 73 61 67 65 70 61 63 6B C4 0B") + MSGPACK_HI
RAW_16_BLOB = H("81 A4 6A 73 6F 6E DA 00 29") + JSON_HI
DEEP = b"\x91" * 5_000 + b"\xc0"


@pytest.mark.row("X3")
@pytest.mark.parametrize(
    ("payload", "payloads"),
    [
        pytest.param(b"\x93\x90" + MAP + H("C0"), BOTH, id="three items, the third nil"),
        pytest.param(b"\x93\x90" + MAP + H("A1 71"), BOTH, id="three items, the third a string"),
        pytest.param(b"\x93\x90" + MAP + H("05"), BOTH, id="three items, the third an integer"),
        pytest.param(H("DC 00 03 90") + MAP + H("A1 71"), BOTH, id="three items under a wide header"),
        pytest.param(H("DC 00 03 91 A1 61") + MAP + H("A1 71"), BOTH, id="the same with somebody excluded"),
        pytest.param(b"\x94\x90" + MAP + H("C0 C0"), BOTH, id="four items, two nil"),
        pytest.param(b"\x94\x90" + MAP + H("A0 A0"), BOTH, id="four items, two empty"),
        pytest.param(b"\x96\x90" + MAP + H("C0 C0 81 A1 6F 01 C4 01 00"), BOTH, id="six items"),
        pytest.param(b"\x95\x90" + MAP + H("C0 C0") + DEEP, BOTH, id="an extension of great depth"),
        pytest.param(V12, {"json": JSON_HI}, id="V12"),
        pytest.param(b"\x92\x90" + MAP + b"more", BOTH, id="bytes behind the array"),
        pytest.param(H("DC 00 02 DC 00 00 DE 00 02") + MAP[1:], BOTH, id="wide headers"),
        pytest.param(b"\x92\x90" + NIL_BLOB, {"json": b"", "messagepack": MSGPACK_HI}, id="nil instead of a message"),
        pytest.param(b"\x92\x90" + EMPTY_BLOB, {"json": b"", "messagepack": MSGPACK_HI}, id="no bytes"),
        pytest.param(b"\x92\x90" + RAW_16_BLOB, {"json": JSON_HI}, id="an old raw string as message"),
        pytest.param(H("92 90 81 C0 C4 01 2A"), {}, id="nil as name"),
        pytest.param(H("92 91 C0 81 A1 70 C4 01 2A"), {"p": b"*"}, id="nil among the excluded"),
        pytest.param(H("92 90 82 A1 70 C4 01 2A A1 70 C4 01 2B"), {"p": b"*"}, id="a name twice: the first counts"),
        pytest.param(
            H("92 91 A1 61 82 A1 70 C4 01 2A A1 70 C4 01 2B"), {"p": b"*"}, id="a name twice, somebody excluded"
        ),
        pytest.param(H("92 90 81 A2 70 FF C4 01 2A"), {"p�": b"*"}, id="broken UTF-8"),
    ],
)
def test_lenient_invocations(payload: bytes, payloads: dict[str, bytes]) -> None:
    """What .NET reads as a plain message is read as one."""
    envelope = decode_invocation(payload)
    assert envelope.payloads == payloads
    assert envelope.invocation_id is None


def test_question_without_return_channel() -> None:
    """An invocation id with nil as channel is a question all the same (row X13)."""
    envelope = decode_invocation(b"\x94\x90" + MAP + H("A1 71 C0"))
    assert (envelope.invocation_id, envelope.return_channel) == ("q", None)


@pytest.mark.row("X3")
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        pytest.param(b"\x94\x90" + MAP + H("05 C0"), "Unexpected msgpack code 5 (positive fixint)", id="number as id"),
        pytest.param(b"\x94\x90" + MAP + H("80 C0"), "Unexpected msgpack code 128 (fixmap)", id="map as id"),
        pytest.param(b"\x94\x90" + MAP + H("A1 71 FF"), "Unexpected msgpack code 255 (negative fixint)", id="channel"),
        pytest.param(b"\x92\xc0" + MAP, "Unexpected msgpack code 192 (nil) encountered.", id="nil for excluded"),
        pytest.param(b"\x92\x91\x01" + MAP, "Unexpected msgpack code 1 (positive fixint)", id="number excluded"),
        pytest.param(H("92 90 81 C4 01 70 C4 01 2A"), "Unexpected msgpack code 196 (bin 8)", id="binary name"),
        pytest.param(H("92 90 81 A1 70 D9 01 2A"), "Unexpected msgpack code 217 (str 8)", id="str 8 as message"),
        pytest.param(H("92 90 81 A1 70 90"), "Unexpected msgpack code 144 (fixarray)", id="array as message"),
        pytest.param(H("92 90 A1 78"), "Unexpected msgpack code 161 (fixstr)", id="no map"),
        pytest.param(H("91 90"), "Insufficient items in Invocation array.", id="one item"),
        pytest.param(H("A1 78"), "Unexpected msgpack code 161 (fixstr) encountered.", id="no array"),
        pytest.param(b"", "Attempted to read past the end of the stream.", id="nothing"),
        pytest.param(b"\xc1", "Unexpected msgpack code 193 ((never used)) encountered.", id="no MessagePack"),
        pytest.param(V6[:-1], "Attempted to read past the end of the stream.", id="cut"),
        pytest.param(H("92 90 DF FF FF FF FF"), "Attempted to read past the end of the stream.", id="boastful map"),
        pytest.param(H("DD FF FF FF FF"), "Attempted to read past the end of the stream.", id="boastful array"),
    ],
)
def test_malformed_invocations(payload: bytes, text: str) -> None:
    """What .NET drops raises, with .NET's words."""
    with pytest.raises(EnvelopeError, match="^" + text.replace("(", r"\(").replace(")", r"\)")):
        decode_invocation(payload)


@pytest.mark.parametrize("payload", [V5, V6, V7, V8, V9, V10, V11, V12], ids=lambda payload: payload[:4].hex())
def test_cut_anywhere(payload: bytes) -> None:
    """A payload cut at any byte raises an envelope error and nothing else."""
    decode = decode_completion if payload in {V9, V10, V11} else decode_invocation
    decode(payload)
    for end in range(len(payload)):
        if payload is V12 and end >= len(V12) - 11:
            decode(payload[:end])  # what follows the two nils is never looked at
        else:
            with pytest.raises(EnvelopeError):
                decode(payload[:end])


@pytest.mark.row("X3")
def test_longer_envelopes() -> None:
    """Group commands, acknowledgements and completions may be longer than known."""
    assert decode_ack(H("93 05 A1 78 C0")) == 5
    assert decode_group_command(H("97 01 A1 73 01 A1 67 A1 63 05 90")) == GroupCommand(1, "s", 1, "g", "c")
    assert decode_completion(H("93 A1 70 C4 01 2A 81 01 02")) == CompletionEnvelope("p", b"*")


@pytest.mark.row("X4")
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("90", "Insufficient items in Ack array."),
        ("05", r"Unexpected msgpack code 5 \(positive fixint\) encountered."),
        ("91 A1 78", r"Unexpected msgpack code 161 \(fixstr\) encountered."),
        ("91 CE 80 00 00 00", "Arithmetic operation resulted in an overflow."),
        ("91 CA 00 00 00 00", r"Unexpected msgpack code 202 \(float 32\) encountered."),
    ],
)
def test_malformed_acks(payload: str, text: str) -> None:
    """A malformed acknowledgement raises."""
    with pytest.raises(EnvelopeError, match=text):
        decode_ack(H(payload))


@pytest.mark.row("X4")
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("94 01 A1 73 01 A1 67", "Insufficient items in GroupCommand array."),
        ("95 01 A1 73 CD 01 2C A1 67 A1 63", "Arithmetic operation resulted in an overflow."),
        ("95 01 A1 73 FF A1 67 A1 63", "Arithmetic operation resulted in an overflow."),
        ("95 CF 00 00 00 00 80 00 00 00 A1 73 01 A1 67 A1 63", "Arithmetic operation resulted in an overflow."),
        ("95 A1 31 A1 73 01 A1 67 A1 63", r"Unexpected msgpack code 161 \(fixstr\) encountered."),
    ],
)
def test_malformed_group_commands(payload: str, text: str) -> None:
    """A malformed group command raises."""
    with pytest.raises(EnvelopeError, match=text):
        decode_group_command(H(payload))


@pytest.mark.parametrize(
    ("payload", "command"),
    [
        ("95 D3 00 00 00 00 00 00 00 07 A1 73 CD 00 01 A1 67 A1 63", GroupCommand(7, "s", 1, "g", "c")),
        ("95 D0 FF D9 01 73 09 A1 67 A1 63", GroupCommand(-1, "s", 9, "g", "c")),
        ("95 D1 80 00 C0 00 C0 C0", GroupCommand(-32768, "", 0, "", "")),
    ],
)
def test_lenient_group_commands(payload: str, command: GroupCommand) -> None:
    """Numbers may have any width, and nil names are empty ones."""
    assert decode_group_command(H(payload)) == command


@pytest.mark.row("X4")
@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ("91 A1 70", "Insufficient items in CompletionMessage array."),
        ("92 A1 70 D9 01 2A", r"Unexpected msgpack code 217 \(str 8\) encountered."),
    ],
)
def test_malformed_completions(payload: str, text: str) -> None:
    """A malformed answer raises."""
    with pytest.raises(EnvelopeError, match=text):
        decode_completion(H(payload))


@given(st.binary(max_size=200))
def test_any_bytes(payload: bytes) -> None:
    """Whatever arrives is either read or refused with an envelope error."""
    for decode in (decode_invocation, decode_group_command, decode_ack, decode_completion):
        with contextlib.suppress(EnvelopeError):
            decode(payload)


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.binary(max_size=300), max_size=20),
)
def test_round_trip(excluded: list[str], payloads: dict[str, bytes]) -> None:
    """What is packed is unpacked again."""
    envelope = decode_invocation(encode_invocation(excluded, payloads))
    assert (envelope.excluded, envelope.payloads) == (excluded, payloads)
