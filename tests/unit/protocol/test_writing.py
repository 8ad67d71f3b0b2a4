"""Walking trees of values on their way out."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple  # Any: what comes out of the writer

import msgspec
import pytest
from pydantic import BaseModel, Field

from hubplane.protocol.writing import SAFE_TYPES, TreeWriter, mended


class Kind(Enum):
    ONE = 1


class Record(msgspec.Struct, rename="camel", tag="r", omit_defaults=True):
    first_name: object
    more: object = None


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: object
    y: object


class Pair(NamedTuple):
    left: object
    right: object


class Attrs:
    """A class as attrs makes them, as far as its fields are concerned."""

    __attrs_attrs__ = (SimpleNamespace(name="a"), SimpleNamespace(name="b"))

    def __init__(self, a: object, b: object) -> None:
        self.a = a
        self.b = b


class Model(BaseModel):
    some_number: float = Field(serialization_alias="someNumber")


class Name(str):
    __slots__ = ()


class Count(int):
    pass


class Ratio(float):
    pass


class Blob(bytes):
    pass


def marked(value: object) -> str:
    """What the test's writer makes of floats: it shows that a value was written."""
    return f"<{value}>"


write = TreeWriter(SAFE_TYPES, {float: marked}, lambda member: member.name)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "text",
        b"bytes",
        [1, "a", None],
        (1, True),
        {1, 2},
        frozenset("ab"),
        {"a": 1, 2: "b"},
        Record("Ann", 1),
        Point(1, "y"),
        Attrs(1, 2),
        OrderedDict(a=1),
    ],
)
def test_what_is_safe_stays_itself(value: object) -> None:
    """Nothing is copied that need not be."""
    assert write(value) is value


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (1.5, "<1.5>"),
        (Kind.ONE, "ONE"),
        ([1, 1.5], [1, "<1.5>"]),
        ((1.5, Kind.ONE), ["<1.5>", "ONE"]),
        ({1.5}, ["<1.5>"]),
        ({"a": 1.5}, {"a": "<1.5>"}),
        ({1.5: "a"}, {"<1.5>": "a"}),
        ({"é": 1.5}, {"é": "<1.5>"}),
        ({Kind.ONE: [{"x": 1.5}]}, {"ONE": [{"x": "<1.5>"}]}),
        (Point(1.5, 2), {"x": "<1.5>", "y": 2}),
        (Attrs([], 1.5), {"a": [], "b": "<1.5>"}),
        (Pair(1, 1.5), [1, "<1.5>"]),
        (Model(some_number=1.5), {"someNumber": "<1.5>"}),
        (bytearray(b"a"), b"a"),
        (memoryview(b"a"), b"a"),
        (Name("x"), "x"),
        (Count(3), 3),
        (Ratio(1.5), "<1.5>"),
        (Blob(b"a"), b"a"),
        (OrderedDict(a=1.5), {"a": "<1.5>"}),
    ],
)
def test_what_is_not_safe_is_replaced_wherever_it_stands(value: object, written: object) -> None:
    """Leaves are written in containers of all kinds, and subclasses of plain types become plain."""
    assert write(value) == written
    assert write(value) == written  # now from the table of known classes


def test_a_struct_keeps_what_only_its_class_knows() -> None:
    """A struct with something to replace is copied as a struct: renamed, tagged, its defaults left out."""
    original = Record(1.5)
    written: Any = write(original)
    assert msgspec.json.encode(written) == b'{"type":"r","firstName":"<1.5>"}'
    assert original.first_name == 1.5


def test_rows_of_one_type_can_be_written_at_once() -> None:
    """A list whose elements all have a type with a row writer goes there whole, a mixed one does not."""
    rows = TreeWriter(SAFE_TYPES, {float: marked}, lambda member: member.name, rows={float: sum})
    assert rows([1.5, 2.5]) == 4
    assert rows([1.5, 2]) == ["<1.5>", 2]


def test_keys_may_be_written_values() -> None:
    """A key that is written as raw text becomes that text."""
    raw = TreeWriter(SAFE_TYPES, {float: lambda _value: msgspec.Raw(b"1E+17")}, lambda member: member.name)
    assert raw({1e17: 1}) == {"1E+17": 1}


def test_what_nobody_knows_is_left_to_msgspec() -> None:
    """An unknown object stays; msgspec says that it cannot be written."""
    value = object()
    assert write(value) is value


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("é", "é"),
    ],
)
def test_lone_surrogates_are_mended(text: str, whole: str) -> None:
    """A surrogate without its partner becomes U+FFFD; two halves of a pair become the character."""
    assert mended(text) == whole
