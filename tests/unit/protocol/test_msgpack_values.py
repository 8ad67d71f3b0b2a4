"""Values as MessagePack."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID

import msgspec
import pytest

from hubplane.protocol.msgpack_values import prepared, write_msgpack


class Color(Enum):
    GREEN = 5


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        (1.0, "cb3ff0000000000000"),
        (float("nan"), "cb7ff8000000000000"),
        (Color.GREEN, "a5475245454e"),
        ({Color.GREEN: [Color.GREEN]}, "81a5475245454e91a5475245454e"),
        (Decimal("1.10"), "a4312e3130"),
        (UUID(int=0), "d924" + b"00000000-0000-0000-0000-000000000000".hex()),
        (date(2024, 1, 2), "ce000b4646"),
        (time(0, 0, 1), "ce00989680"),
        (timedelta(seconds=90), "ce35a4e900"),
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "d6ff65937d25"),
        (datetime(2024, 1, 2, 3, 4, 5), "d6ff65937d25"),  # noqa: DTZ001 - naive on purpose
        (datetime(2024, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))), "d6ff65937d25"),
        (b"\1", "c40101"),
        ({1}, "9101"),
        ("a\ud800", "a461efbfbd"),
        (["\ud83d\ude00"], "91a4f09f9880"),
        ({"\udc00": "a"}, "81a3efbfbda161"),
    ],
)
def test_values_are_written_as_by_dotnet(value: object, packed: str) -> None:
    """Each value has the bytes that ASP.NET Core's MessagePack protocol writes for its like."""
    assert write_msgpack((prepared(value),)).hex() == "91" + packed


@pytest.mark.parametrize("value", [object(), [iter("a")], 1j])
def test_what_has_no_messagepack_raises(value: object) -> None:
    """A type without a form raises TypeError."""
    with pytest.raises(TypeError):
        write_msgpack((prepared(value),))


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, timedelta.max])
def test_what_is_too_large_raises(value: object) -> None:
    """Integers beyond 64 bits, and spans that .NET cannot hold, raise OverflowError."""
    with pytest.raises(OverflowError):
        write_msgpack((prepared(value),))


def test_nesting_without_end_raises() -> None:
    """A list that holds itself raises ValueError."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested without end"):
        prepared(endless)


def test_a_decimal_that_is_no_number_raises() -> None:
    """.NET's decimal has no NaN."""
    with pytest.raises(ValueError, match="cannot be written as a decimal"):
        prepared([Decimal("NaN")])


def test_raw_values_pass() -> None:
    """What is encoded already is written as it is."""
    assert write_msgpack((prepared(msgspec.Raw(b"\xc3")),)) == b"\x91\xc3"
