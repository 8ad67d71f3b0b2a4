"""Cutting bytes into messages."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.framing import FramingError, frame, frame_length, split_frames, split_records

Split = Callable[[bytes, int | None], tuple[list[bytes], bytes]]

BODIES = st.lists(st.binary(max_size=300).filter(lambda body: b"\x1e" not in body), max_size=8)
TOO_LARGE = "The maximum message size of {}B was exceeded. The message size can be configured in AddHubOptions."


def record(body: bytes) -> bytes:
    """A body and its separator."""
    return body + b"\x1e"


both = pytest.mark.parametrize(
    ("wrap", "split"), [pytest.param(record, split_records, id="text"), pytest.param(frame, split_frames, id="binary")]
)


@both
def test_nothing_gives_nothing(wrap: Callable[[bytes], bytes], split: Split) -> None:
    """No bytes are no messages and no rest."""
    assert split(b"", None) == ([], b"")


@both
@given(bodies=BODIES, data=st.data())
def test_any_cut_gives_the_same_bodies(
    wrap: Callable[[bytes], bytes], split: Split, bodies: list[bytes], data: st.DataObject
) -> None:
    """However a stream is cut, the bodies are those that went in, and nothing is left."""
    stream = b"".join(map(wrap, bodies))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    found: list[bytes] = []
    rest = b""
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        some, rest = split(rest + stream[start:end], None)
        found += some
    assert found == bodies
    assert rest == b""


@both
@pytest.mark.row("B76")
def test_a_message_of_exactly_the_limit_passes(wrap: Callable[[bytes], bytes], split: Split) -> None:
    """The limit counts the framing: as many bytes pass, one more does not."""
    exact = wrap(b"x" * 99)
    assert len(exact) == 100
    assert split(exact, 100) == ([b"x" * 99], b"")
    assert split(exact * 3, 100) == ([b"x" * 99] * 3, b"")
    with pytest.raises(FramingError) as fault:
        split(wrap(b"x" * 100), 100)
    assert fault.value.detail == TOO_LARGE.format(100)
    assert fault.value.error_type == "InvalidDataException"


@both
@pytest.mark.row("B77")
def test_many_small_messages_pass_whatever_their_sum(wrap: Callable[[bytes], bytes], split: Split) -> None:
    """The limit is for one message, not for what arrives at once."""
    bodies = [b"x" * 69] * 10
    assert split(b"".join(map(wrap, bodies)), 100) == (bodies, b"")


@both
def test_an_unfinished_message_beyond_the_limit_fails(wrap: Callable[[bytes], bytes], split: Split) -> None:
    """What can no longer become a message of the allowed size is refused before it is complete."""
    with pytest.raises(FramingError):
        split(wrap(b"x" * 200)[:101], 100)


@both
def test_messages_in_front_of_a_fault_are_told(wrap: Callable[[bytes], bytes], split: Split) -> None:
    """The error carries the complete messages that came before the one that is too large."""
    small = [b"a", b"b"]
    for tail in (wrap(b"x" * 200), wrap(b"x" * 200)[:150]):
        with pytest.raises(FramingError) as fault:
            split(b"".join(map(wrap, small)) + tail, 100)
        assert fault.value.bodies == small


def test_a_record_of_the_limit_that_is_unfinished_may_go_on() -> None:
    """As many bytes as the limit without a separator are no fault yet: ASP.NET Core waits for the next one."""
    assert split_records(b"x" * 100, 100) == ([], b"x" * 100)


@pytest.mark.parametrize(
    ("length", "prefix"),
    [
        (0, "00"),
        (15, "0f"),
        (127, "7f"),
        (128, "8001"),
        (208, "d001"),
        (5248, "8029"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (30_000, "b0ea01"),
    ],
)
@pytest.mark.row("B82")
def test_prefixes_of_one_to_three_bytes(length: int, prefix: str) -> None:
    """Lengths are written in base 128, least significant group first, in as few bytes as will do."""
    assert frame(bytes(length)) == bytes.fromhex(prefix) + bytes(length)
    assert split_frames(frame(bytes(length)), None) == ([bytes(length)], b"")


def test_a_long_prefix_is_written() -> None:
    """A length of 100,000 takes three bytes."""
    assert frame(bytes(100_000))[:3].hex() == "a08d06"


def test_a_prefix_need_not_be_minimal() -> None:
    """14 may be written as 8E 00."""
    assert split_frames(b"\x8e\x00" + bytes(14), None) == ([bytes(14)], b"")


@pytest.mark.parametrize("prefix", ["ffffffff08", "8180808080", "ffffffffff01"])
def test_more_than_two_gigabytes_are_refused(prefix: str) -> None:
    """A prefix beyond 0x7FFFFFFF, or of six bytes, is refused with ASP.NET Core's words, limit or not."""
    for split in (lambda data: split_frames(data, None), lambda data: split_frames(data, 100), frame_length):
        with pytest.raises(RemoteProtocolError) as fault:
            split(bytes.fromhex(prefix))
        assert fault.value.detail == "Messages over 2GB in size are not supported."
        assert fault.value.error_type == "FormatException"


def test_two_gigabytes_less_one_are_waited_for() -> None:
    """FF FF FF FF 07 is the largest length."""
    largest = bytes.fromhex("ffffffff07")
    assert split_frames(largest, None) == ([], largest)
    assert frame_length(largest) == 5 + 2**31 - 1


def test_an_announced_size_beyond_the_limit_fails_at_once() -> None:
    """The announcement is enough; the bytes need not come."""
    with pytest.raises(FramingError):
        split_frames(b"\xff\x7f", 100)


@pytest.mark.parametrize(
    ("start", "length"), [("", 1), ("00", 1), ("0f", 16), ("80", 2), ("8001", 130), ("ffffff", 4), ("8001ff", 130)]
)
def test_frame_length_is_what_is_needed(start: str, length: int) -> None:
    """The size of a frame is told by its prefix; one more byte is needed while that is unfinished."""
    assert frame_length(bytes.fromhex(start)) == length


@given(st.binary(max_size=50), st.integers(1, 40))
def test_garbage_is_framed_or_refused(data: bytes, limit: int) -> None:
    """Any bytes are cut, kept or refused; what is cut and kept is what came."""
    bodies, rest = split_records(data, None)
    assert b"".join(map(record, bodies)) + rest == data
    for split in (split_records, split_frames):
        try:
            bodies, rest = split(data, limit)
        except RemoteProtocolError:
            continue
        assert sum(map(len, bodies)) + len(rest) <= len(data)
        assert all(len(body) < limit for body in bodies)
