"""Values as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any  # values that have no JSON
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.protocol.json_values import write_json


class Color(Enum):
    GREEN = 5
    SHADE = 0.5
    NAME = "green"


class Day(date):
    pass


@dataclasses.dataclass
class Reading:
    celsius: float
    when: datetime


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (2**64, "18446744073709551616"),
        ("é\x1e", '"é\\u001E"'),
        ([1.0, 2.5], "[1,2.5]"),
        ([1.0, 2.5, -0.0, 10.05], "[1,2.5,-0,10.05]"),
        ([1e16, 0.5], "[10000000000000000,0.5]"),
        ([0.00001], "[1E-05]"),
        ([1.0, 1], "[1,1]"),
        ((1.0,), "[1]"),
        ([], "[]"),
        (b"\xfb\xff", '"+/8="'),
        (Color.GREEN, "5"),
        (Color.SHADE, "0.5"),
        ({"a": Color.NAME}, '{"a":"green"}'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.10"), "1.10"),
        (date(2024, 1, 2), '"2024-01-02"'),
        (Day(2024, 1, 2), '"2024-01-02"'),
        (time(3, 4, 5, 500_000), '"03:04:05.5000000"'),
        (timedelta(days=1), '"1.00:00:00"'),
        (datetime(2024, 1, 2, tzinfo=UTC), '"2024-01-02T00:00:00Z"'),
        (Reading(20.0, datetime(2024, 1, 2, tzinfo=UTC)), '{"celsius":20,"when":"2024-01-02T00:00:00Z"}'),
        ({1: 1, 2.0: 2, 1e300: 3}, '{"1":1,"2":2,"1E+300":3}'),
        ("a\ud800\ud83d\ude00\ufffd", '"a\\uFFFD\\uD83D\\uDE00\ufffd"'),
        (["\ud83d\ude00", "a"], '["\\uD83D\\uDE00","a"]'),
        (["\udc00", {"\ud83d\ude00": 1.0}], '["\\uFFFD",{"\\uD83D\\uDE00":1}]'),
    ],
)
def test_values_are_written_as_by_dotnet(value: object, text: str) -> None:
    """Each value has the text that System.Text.Json writes for its like."""
    assert write_json(value).decode() == text


@pytest.mark.parametrize("value", [math.nan, [1.5, math.inf], {"a": -math.inf}, [math.nan, math.nan], Decimal("NaN")])
@pytest.mark.row("X18")
def test_what_is_no_number_raises(value: object) -> None:
    """NaN and infinities raise, also inside of others, and never become null."""
    with pytest.raises(ValueError, match="cannot be written as"):
        write_json(value)


@pytest.mark.parametrize("value", [object(), {None: 1}, [iter("a")], {(1, 2): 3}, 1j])
@pytest.mark.row("X18")
def test_what_has_no_json_raises(value: Any) -> None:
    """A type without a form raises TypeError."""
    with pytest.raises(TypeError):
        write_json(value)


def test_what_is_longer_than_a_timespan_raises() -> None:
    """A span that .NET cannot hold raises."""
    with pytest.raises(OverflowError):
        write_json([timedelta.max])


def test_nesting_without_end_raises() -> None:
    """A list that holds itself raises ValueError."""
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested without end"):
        write_json(endless)


# From 1E16 to 1E17 .NET ends the digits with a zero, which a reader of exact integers takes for another number.
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not 1e16 <= abs(number) < 1e17)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(JSON)
def test_what_is_written_means_the_same(value: object) -> None:
    """Any tree of JSON's own kinds is read back as itself by an independent reader."""
    assert json.loads(write_json(value)) == value
