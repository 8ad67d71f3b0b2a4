"""Times, spans, numbers and enumerations in .NET's forms."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.protocol.dotnet_values import (
    date_from_days,
    datetime_text,
    days_of_date,
    decimal_text,
    enum_member,
    enum_name,
    float_text,
    parse_datetime,
    parse_time,
    parse_timedelta,
    ticks_of_time,
    ticks_of_timedelta,
    time_from_ticks,
    time_text,
    timedelta_from_ticks,
    timedelta_text,
)

TIMESPAN_MAX = timedelta(microseconds=(2**63 - 1) // 10)
SPANS = st.timedeltas(min_value=-TIMESPAN_MAX, max_value=TIMESPAN_MAX)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-0.0, "-0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e15, "1000000000000000"),
        (9007199254740993.0, "9007199254740992"),
        (1e16, "10000000000000000"),
        (99999999999999984.0, "99999999999999980"),
        (1e17, "1E+17"),
        (-1.5e300, "-1.5E+300"),
        (0.0001, "0.0001"),
        (0.00009, "9E-05"),
        (5e-324, "5E-324"),
    ],
)
def test_numbers_are_written_as_by_dotnet(value: float, text: str) -> None:
    """Shortest digits, no point where none is needed, an exponent from 1E+17 up and 1E-05 down."""
    assert float_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_keep_their_value(value: float) -> None:
    """What is written is read back as the same number."""
    assert float(float_text(value)) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_without_a_form_raise(value: float) -> None:
    """JSON has no NaN and no infinities."""
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        float_text(value)


@pytest.mark.parametrize(
    ("value", "text"), [("1.10", "1.10"), ("1E+3", "1000"), ("1E-10", "0.0000000001"), ("-0", "-0")]
)
def test_decimals_have_no_exponent(value: str, text: str) -> None:
    """A decimal is written in full, its zeros kept."""
    assert decimal_text(Decimal(value)) == text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "sNaN"])
def test_decimals_that_are_no_numbers_raise(value: str) -> None:
    """.NET's decimal knows neither NaN nor infinities."""
    with pytest.raises(ValueError, match="cannot be written as a decimal"):
        decimal_text(Decimal(value))


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(), "00:00:00"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=500), "1.02:03:04.5000000"),
        (timedelta(microseconds=1), "00:00:00.0000010"),
        (timedelta(milliseconds=-1500), "-00:00:01.5000000"),
        (timedelta(days=-2), "-2.00:00:00"),
        (TIMESPAN_MAX, "10675199.02:48:05.4775800"),
    ],
)
def test_spans_as_text(span: timedelta, text: str) -> None:
    """A span is ``[-][d.]hh:mm:ss[.fffffff]`` both ways."""
    assert timedelta_text(span) == text
    assert parse_timedelta(text) == span


@pytest.mark.parametrize(
    "text", ["24:00:00", "00:60:00", "00:00:60", "1:00:00", "90", "PT90S", "", "00:00:00.12345678"]
)
def test_what_is_no_span(text: str) -> None:
    """Other texts are no spans, among them those that .NET refuses."""
    assert parse_timedelta(text) is None


def test_spans_lose_the_seventh_digit() -> None:
    """Parts of a microsecond are cut off, towards zero."""
    assert parse_timedelta("00:00:00.0000019") == timedelta(microseconds=1)
    assert timedelta_from_ticks(-19) == timedelta(microseconds=-1)


@given(SPANS)
def test_spans_go_both_ways(span: timedelta) -> None:
    """Text and ticks give the span back."""
    assert parse_timedelta(timedelta_text(span)) == span
    assert timedelta_from_ticks(ticks_of_timedelta(span)) == span


@pytest.mark.parametrize("span", [timedelta.max, timedelta.min, TIMESPAN_MAX + timedelta(microseconds=1)])
def test_spans_beyond_dotnet_raise(span: timedelta) -> None:
    """Python's spans are longer than .NET's."""
    with pytest.raises(OverflowError, match="longer than a TimeSpan"):
        ticks_of_timedelta(span)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("03:04", time(3, 4)),
        ("03:04:05", time(3, 4, 5)),
        ("03:04:05.5", time(3, 4, 5, 500_000)),
        ("23:59:59.9999999", time(23, 59, 59, 999_999)),
    ],
)
def test_times_are_read(text: str, value: time) -> None:
    """Seconds and their fraction may be left out."""
    assert parse_time(text) == value


@pytest.mark.parametrize("text", ["24:00", "3:04", "03:04:05Z", "", "03:60"])
def test_what_is_no_time(text: str) -> None:
    """Other texts are no times."""
    assert parse_time(text) is None


@given(st.times())
def test_times_go_both_ways(value: time) -> None:
    """Text and ticks give the time back."""
    assert parse_time(time_text(value)) == value
    assert time_from_ticks(ticks_of_time(value)) == value


@pytest.mark.parametrize("ticks", [-1, 24 * 3600 * 10_000_000])
def test_ticks_that_are_no_time(ticks: int) -> None:
    """A time lies within a day."""
    assert time_from_ticks(ticks) is None


@given(st.dates())
def test_dates_go_both_ways(value: date) -> None:
    """Days since 0001-01-01 give the date back."""
    assert date_from_days(days_of_date(value)) == value


@pytest.mark.parametrize("days", [-1, 3_652_059, 2**70])
def test_days_that_are_no_date(days: int) -> None:
    """Dates lie in the years 1 to 9999."""
    assert date_from_days(days) is None


def zone(**offset: float) -> timezone:
    """A fixed offset from UTC."""
    return timezone(timedelta(**offset))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02T03:04:05Z"),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),  # noqa: DTZ001 - naive on purpose
        (datetime(2024, 1, 2, 3, 4, 5, 120_000, tzinfo=UTC), "2024-01-02T03:04:05.12Z"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=zone(hours=2)), "2024-01-02T03:04:05+02:00"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=zone(hours=-3.5)), "2024-01-02T03:04:05-03:30"),
        (datetime(12, 1, 2, tzinfo=UTC), "0012-01-02T00:00:00Z"),
    ],
)
def test_moments_as_text(value: datetime, text: str) -> None:
    """Fractions are trimmed, UTC is Z, other offsets stay, a naive time has none; both ways."""
    assert datetime_text(value) == text
    read = parse_datetime(text)
    assert read == value
    assert read is not None
    assert read.utcoffset() == value.utcoffset()


def test_offsets_with_seconds_become_utc() -> None:
    """.NET's offsets are whole minutes."""
    local_mean_time = datetime(1890, 1, 1, 1, 0, 0, tzinfo=zone(minutes=53, seconds=28))
    assert datetime_text(local_mean_time) == "1890-01-01T00:06:32Z"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-02", datetime(2024, 1, 2)),  # noqa: DTZ001 - naive on purpose
        ("2024-01-02T03:04Z", datetime(2024, 1, 2, 3, 4, tzinfo=UTC)),
        ("2024-01-02T03:04:05.123456789Z", datetime(2024, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("9999-12-31T23:59:59.9999999", datetime(9999, 12, 31, 23, 59, 59, 999_999)),  # noqa: DTZ001 - as above
    ],
)
def test_moments_are_read(text: str, value: datetime) -> None:
    """A date alone, a time without seconds and up to 16 digits of a second are read; digits are cut, not rounded."""
    assert parse_datetime(text) == value


@pytest.mark.parametrize(
    "text", ["", "2024-01-02 03:04:05", "2024-13-01", "2024-02-30T00:00:00", "2024-01-02T03:04:05+25:00", "0"]
)
def test_what_is_no_moment(text: str) -> None:
    """Other texts are no moments."""
    assert parse_datetime(text) is None


class Color(Enum):
    RED = 0
    GREEN = 5
    VERDE = 5  # noqa: PIE796 - an alias on purpose


class Level(IntEnum):
    LOW = 1


class Rights(Flag):
    READ = 1
    WRITE = 2


class Bits(IntFlag):
    NONE = 0
    A = 1
    B = 2
    AB = 3


class Size(StrEnum):
    S = "small"


@pytest.mark.parametrize(
    ("member", "name"),
    [
        (Color.GREEN, "GREEN"),
        (Color.VERDE, "GREEN"),
        (Level.LOW, "LOW"),
        (Rights.READ, "READ"),
        (Rights.READ | Rights.WRITE, "READ, WRITE"),
        (Rights(0), "0"),
        (Bits(0), "NONE"),
        (Bits.A | Bits.B, "AB"),
        (Bits(9), "9"),
        (Bits(8), "8"),
        (Size.S, "S"),
    ],
)
def test_members_are_named(member: Enum, name: str) -> None:
    """A member is its name, flags are a list of names, bits without a name are digits."""
    assert enum_name(member) == name


@pytest.mark.parametrize(
    ("kind", "text", "member"),
    [
        (Color, "GREEN", Color.GREEN),
        (Color, "VERDE", Color.GREEN),
        (Color, "5", Color.GREEN),
        (Color, "6", None),
        (Color, "green", None),
        (Color, "RED, GREEN", Color.GREEN),
        (Rights, "READ, WRITE", Rights.READ | Rights.WRITE),
        (Rights, "READ, FLY", None),
        (Bits, "-1", Bits(-1)),
        (Size, "S", Size.S),
        (Size, "small", None),
        (Size, "S, S", None),
    ],
)
def test_members_are_found(kind: type[Enum], text: str, member: Enum | None) -> None:
    """A member is found by its name, flags by their names, both by the digits of the number."""
    assert enum_member(kind, text) == member
