"""Reading MessagePack item by item."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.msgpack_reader import InvalidText, PackReader, read_value

END = "Attempted to read past the end of the stream."


@pytest.mark.parametrize(
    ("packed", "value"),
    [
        ("00", 0),
        ("7f", 127),
        ("e0", -32),
        ("ff", -1),
        ("ccff", 255),
        ("cdffff", 65535),
        ("ceffffffff", 2**32 - 1),
        ("cfffffffffffffffff", 2**64 - 1),
        ("d080", -128),
        ("d18000", -32768),
        ("d280000000", -(2**31)),
        ("d38000000000000000", -(2**63)),
        ("ca3fc00000", 1.5),
        ("cb3ff8000000000000", 1.5),
        ("c0", None),
        ("c2", False),
        ("c3", True),
        ("a161", "a"),
        ("d90161", "a"),
        ("da000161", "a"),
        ("db0000000161", "a"),
        ("a1ff", InvalidText(b"\xff")),
        ("c40161", b"a"),
        ("c5000161", b"a"),
        ("c60000000161", b"a"),
        ("9201a161", [1, "a"]),
        ("dc000101", [1]),
        ("dd0000000101", [1]),
        ("81a16101", {"a": 1}),
        ("de0001a16101", {"a": 1}),
        ("df00000001a16101", {"a": 1}),
        ("819101a161", {(1,): "a"}),
        ("81919101a161", {((1,),): "a"}),
        ("d6ff65937d25", datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("d7ff7735940065937d25", datetime(2024, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("d7ff0000000100000000", datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC)),
        ("c70cff00000000ffffffffed300880", datetime(1960, 1, 1, tzinfo=UTC)),
        ("c70cff3b9ac99c0000003afff4417f", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_every_kind_of_item_is_read(packed: str, value: object) -> None:
    """All forms of all kinds are read; the same items are passed over to their last byte."""
    data = bytes.fromhex(packed)
    read = read_value(data + b"behind it")
    assert read == value
    assert type(read) is type(value)
    reader = PackReader(data + b"\xc0")
    assert bytes(reader.raw()) == data
    assert reader.position == len(data)


@pytest.mark.parametrize(
    "packed", ["d40501", "d5050102", "d80500112233445566778899aabbccddeeff", "c7010501", "c8000105ff"]
)
def test_other_extensions_keep_their_code(packed: str) -> None:
    """An extension that is no timestamp is its code and its bytes."""
    value = read_value(bytes.fromhex(packed))
    assert isinstance(value, msgspec.msgpack.Ext)
    assert value.code == 5
    assert bytes(PackReader(bytes.fromhex(packed)).raw()) == bytes.fromhex(packed)


@pytest.mark.parametrize("packed", ["c703ff000000", "c90000000dff" + "00" * 13])
def test_timestamps_have_three_sizes(packed: str) -> None:
    """A timestamp of another size is malformed."""
    with pytest.raises(RemoteProtocolError):
        read_value(bytes.fromhex(packed))


@pytest.mark.parametrize("packed", ["c70cff000000007fffffffffffffff", "c70cff0000000080ffffffffffffff"])
def test_times_outside_of_the_calendar(packed: str) -> None:
    """A timestamp beyond the years 1 to 9999 is told as that."""
    with pytest.raises(RemoteProtocolError, match="years 1 to 9999"):
        read_value(bytes.fromhex(packed))


@pytest.mark.parametrize(
    "packed", ["", "cc", "a2ff", "92c0", "dc", "81c0", "c403ff", "d6ff00", "c7", "d9", "d3ffff", "9291c0", "de0001c0"]
)
def test_what_ends_too_early(packed: str) -> None:
    """An unfinished item is told as such, read or passed over."""
    data = bytes.fromhex(packed)
    for read in (PackReader(data).value, PackReader(data).raw):
        with pytest.raises(RemoteProtocolError) as fault:
            read()
        assert fault.value.detail == END
        assert fault.value.error_type == "EndOfStreamException"


def test_a_length_that_cannot_be_true_is_refused() -> None:
    """An array or map of more items than there are bytes left ends too early, whatever it announces."""
    for packed in ("ddffffffff", "dfffffffff", "9f", "81c0"):
        with pytest.raises(RemoteProtocolError, match=END):
            PackReader(bytes.fromhex(packed)).raw()


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        ("05", "5 (positive fixint)"),
        ("81", "129 (fixmap)"),
        ("a1", "161 (fixstr)"),
        ("bf", "191 (fixstr)"),
        ("c0", "192 (nil)"),
        ("c1", "193 ((never used))"),
        ("c4", "196 (bin 8)"),
        ("d4", "212 (fixext 1)"),
        ("db", "219 (str 32)"),
        ("df", "223 (map 32)"),
        ("ff", "255 (negative fixint)"),
    ],
)
def test_an_unexpected_item_is_named(packed: str, name: str) -> None:
    """What stands in the place of an array is told by its code and its name."""
    with pytest.raises(RemoteProtocolError) as fault:
        PackReader(bytes.fromhex(packed)).array_length()
    assert fault.value.detail == f"Unexpected msgpack code {name} encountered."
    assert fault.value.error_type == "MessagePackSerializationException"


def test_an_array_is_no_map_and_no_number() -> None:
    """Each reader takes its own kind only."""
    reader = PackReader(b"\x91\xc0")
    for read in (reader.map_length, reader.integer, reader.boolean, reader.text):
        reader.position = 0
        with pytest.raises(RemoteProtocolError, match="fixarray"):
            read()


def test_items_of_a_known_kind() -> None:
    """Numbers, truth, text and nil are read one behind the other; bad UTF-8 becomes U+FFFD."""
    reader = PackReader(bytes.fromhex("93 81 05 ff cd0100 c2 c3 a161 c0 a2ffff"))
    assert (reader.array_length(), reader.map_length()) == (3, 1)
    assert [reader.integer() for _ in range(3)] == [5, -1, 256]
    assert [reader.boolean() for _ in range(2)] == [False, True]
    assert [reader.text() for _ in range(3)] == ["a", None, "\ufffd\ufffd"]


@pytest.mark.parametrize("packed", ["c1", "91c1", "81c1c0"])
def test_the_unused_code_is_refused(packed: str) -> None:
    """C1 is never used."""
    data = bytes.fromhex(packed)
    for read in (PackReader(data).value, PackReader(data).raw):
        with pytest.raises(RemoteProtocolError, match="never used"):
            read()


def test_passing_over_needs_no_stack() -> None:
    """Items nested ten thousand deep are passed over."""
    data = b"\x91" * 10_000 + b"\xc0"
    assert bytes(PackReader(data).raw()) == data


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(VALUES)
def test_what_msgspec_writes_is_read(value: object) -> None:
    """Any tree of values comes back as it was, and is as long as it is."""
    data = msgspec.msgpack.encode(value)
    assert read_value(data) == value
    assert bytes(PackReader(data + b"\xc0").raw()) == data


@given(st.binary(max_size=40))
def test_garbage_is_read_or_refused(data: bytes) -> None:
    """Any bytes are a value or a fault; a map key that Python has no use for is a TypeError."""
    try:
        read_value(data)
    except (RemoteProtocolError, TypeError):
        return
    assert bytes(PackReader(data).raw()) == data[: len(bytes(PackReader(data).raw()))]
