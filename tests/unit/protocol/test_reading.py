"""Arguments and values into the types of a hub method, in both encodings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntFlag
from typing import Annotated, Any, NamedTuple, TypedDict  # Any: a parameter that takes anything
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel, Field

from hubplane.errors import BindingError
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Invocation, Raw, StreamItem
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol

WRONG_TYPE = (
    "Error binding arguments. Make sure that the types of the provided values match the types of the hub method being "
    "invoked."
)
PROTOCOLS: list[HubProtocol] = [JsonHubProtocol(), MessagePackHubProtocol()]
both = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)


class Color(Enum):
    RED = 0
    GREEN = 5


class Rights(IntFlag):
    READ = 1
    WRITE = 2


class Lap(msgspec.Struct, rename="camel"):
    lap_time: timedelta
    color: Color = Color.RED
    next_lap: Lap | None = None


class Cat(msgspec.Struct, tag="cat"):
    age: timedelta


class Dog(msgspec.Struct, tag="dog"):
    age: timedelta


class Row(msgspec.Struct, array_like=True):
    name: str
    age: timedelta


class TaggedRow(msgspec.Struct, array_like=True, tag="row"):
    age: timedelta


class OtherRow(msgspec.Struct, array_like=True, tag="other"):
    age: timedelta


class Pair(NamedTuple):
    left: timedelta
    right: int


class Options(TypedDict):
    pause: timedelta


@dataclasses.dataclass
class Plan:
    start: time
    length: timedelta = timedelta()


class Model(BaseModel):
    some_number: int = Field(alias="someNumber")


class Checked(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        if not self.name:
            raise KeyError("name")


def sent(protocol: HubProtocol, *values: object) -> Raw:
    """The encoded arguments of a call, as they come out of the decoder."""
    (body,), _ = protocol.split(protocol.encode(Invocation("Send", values)), None)
    message = protocol.decode(body)
    assert isinstance(message, Invocation)
    assert isinstance(message.arguments, Raw)
    return message.arguments


def bound(protocol: HubProtocol, types: Sequence[object], *values: object) -> tuple[object, ...]:
    """What a method with these parameter types gets."""
    return tuple(protocol.argument_decoder(types)(sent(protocol, *values)))


DAY = timedelta(days=1)
NOON = time(12, 30)
MOMENT = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)


@both
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, 5),
        (float, 1.5),
        (str, "é😀"),
        (bool, True),
        (bytes, b"\1\2"),
        (bytearray, b"\1\2"),
        (object, {"a": [1, None]}),
        (Any, "x"),
        (list[object], [1, {"a": 2}]),
        (datetime, MOMENT),
        (date, date(2024, 1, 2)),
        (time, NOON),
        (timedelta, -DAY),
        (UUID, UUID(int=7)),
        (Decimal, Decimal("1.10")),
        (Color, Color.GREEN),
        (Rights, Rights.READ | Rights.WRITE),
        (list[timedelta], [DAY]),
        (set[timedelta], {DAY}),
        (tuple[time, ...], (NOON,)),
        (tuple[timedelta, int], (DAY, 1)),
        (dict[str, timedelta], {"a": DAY}),
        (dict[Color, time], {Color.GREEN: NOON}),
        (timedelta | None, DAY),
        (timedelta | None, None),
        (list[Color | None] | None, [Color.GREEN, None]),
        (int | None, None),
        (Lap, Lap(DAY, Color.GREEN, Lap(-DAY))),
        (Cat | Dog, Dog(DAY)),
        (Row, Row("a", DAY)),
        (TaggedRow | OtherRow, OtherRow(DAY)),
        (Pair, Pair(DAY, 1)),
        (Options, {"pause": DAY}),
        (Plan, Plan(NOON, DAY)),
        (Annotated[timedelta, "a note"], DAY),
        (list[Decimal], [Decimal("0.1000000000000000000001"), Decimal(3)]),
    ],
)
def test_what_we_write_is_bound(protocol: HubProtocol, type_: object, value: object) -> None:
    """Every type of value that we write in .NET's form is read from it when a parameter declares the type."""
    assert bound(protocol, [type_], value) == (value,)
    assert bound(protocol, [int, type_], 1, value) == (1, value)


@both
def test_pydantic_models_are_bound(protocol: HubProtocol) -> None:
    """A model is validated by pydantic, by its aliases."""
    assert bound(protocol, [Model], {"someNumber": 3}) == (Model(someNumber=3),)
    assert bound(protocol, [list[Model]], [{"someNumber": 3}]) == ([Model(someNumber=3)],)
    with pytest.raises(BindingError):
        bound(protocol, [Model], {"someNumber": "x"})


@both
def test_no_parameters_take_no_arguments(protocol: HubProtocol) -> None:
    """A method without parameters is called with an empty list."""
    assert bound(protocol, []) == ()


@both
@pytest.mark.parametrize(("types", "values"), [([], [1]), ([int, int], [1]), ([int], [1, 2]), ([timedelta], [DAY, 1])])
def test_the_number_of_arguments_must_be_right(
    protocol: HubProtocol, types: list[object], values: list[object]
) -> None:
    """Too many or too few arguments are told with both numbers."""
    with pytest.raises(BindingError) as fault:
        bound(protocol, types, *values)
    text = f"Invocation provides {len(values)} argument(s) but target expects {len(types)}."
    assert fault.value.detail == text
    assert fault.value.error_type == "InvalidDataException"


@both
@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (int, "x"),
        (int, 1.5),
        (str, 1),
        (timedelta, "soon"),
        (timedelta, True),
        (datetime, "today"),
        (Color, "BLUE"),
        (list[int], {"a": 1}),
        (tuple[timedelta, int], 5),
        (dict[str, timedelta], {"a": "x"}),
        (Lap, {"lapTime": 1.5}),
        (Cat | Dog, {"type": "cow", "age": DAY}),
        (TaggedRow | OtherRow, ["none", DAY]),
        (TaggedRow | OtherRow, []),
        (Checked, {"name": ""}),
        (Lap, [DAY]),
        (tuple[timedelta, int], [DAY, {"a": 1}]),
    ],
)
def test_what_does_not_fit_is_refused(protocol: HubProtocol, type_: object, value: object) -> None:
    """A value of the wrong type fails the call, in ASP.NET Core's words; so does the user's own check."""
    with pytest.raises(BindingError) as fault:
        bound(protocol, [type_], value)
    assert fault.value.detail == WRONG_TYPE
    assert fault.value.__cause__ is not None


def test_json_reports_a_wrong_type_before_a_wrong_number() -> None:
    """JSON arguments are bound one by one, so a wrong one is found before the count is known."""
    with pytest.raises(BindingError, match=r"^Error binding"):
        bound(PROTOCOLS[0], [int, int], "a")
    with pytest.raises(BindingError, match=r"^Error binding"):
        bound(PROTOCOLS[0], [int], "a", 2)
    with pytest.raises(BindingError, match=r"^Invocation provides 2"):
        bound(PROTOCOLS[0], [int], 1, "a")


def test_messagepack_reports_a_wrong_number_before_a_wrong_type() -> None:
    """MessagePack tells the number of arguments first, so that is judged first."""
    with pytest.raises(BindingError, match=r"^Invocation provides 1"):
        bound(PROTOCOLS[1], [int, int], "a")


@both
def test_values_are_decoded_one_by_one(protocol: HubProtocol) -> None:
    """Stream items and client results are bound to a type, and refused with what is wrong."""
    (body,), _ = protocol.split(protocol.encode(StreamItem("1", DAY)), None)
    message = protocol.decode(body)
    assert isinstance(message, StreamItem)
    assert isinstance(message.item, Raw)
    assert protocol.value_decoder(timedelta)(message.item) == DAY
    assert protocol.value_decoder(object)(message.item) in {"1.00:00:00", 864_000_000_000}
    with pytest.raises(BindingError, match="Expected `bool`"):
        protocol.value_decoder(bool)(message.item)


@both
def test_faults_without_a_text_are_named(protocol: HubProtocol) -> None:
    """A check of the user's that raises without a word is told by the exception's name."""

    class Silent(BaseModel):
        @classmethod
        def model_validate(cls, *_args: object, **_options: object) -> Silent:
            raise LookupError

    with pytest.raises(BindingError, match="LookupError"):
        protocol.value_decoder(Silent)(Raw(b"1" if protocol.name == "json" else b"\1"))


@both
@pytest.mark.parametrize("type_", [timezone, list[timezone], dict[str, complex]])
def test_types_that_no_client_can_send_are_refused_early(protocol: HubProtocol, type_: object) -> None:
    """A parameter of a type that cannot be read fails when the decoder is made, not when it is used."""
    with pytest.raises(TypeError):
        protocol.argument_decoder([type_])


def test_json_numbers_beside_exact_ones() -> None:
    """Where one member wants decimals and another .NET's forms, floats, integers and free values stay what they are."""
    types = [Decimal, timedelta, float, object, list[object], dict[str, object], object]
    values = [Decimal("1.10"), DAY, 1.5, 2.5, [1.5, {"a": 3.5}], {"b": 4.5}, {"c": [5.5]}]
    assert bound(PROTOCOLS[0], types, *values) == tuple(values)
    read = bound(PROTOCOLS[0], types, *values)
    assert [type(value) for value in read[2:4]] == [float, float]
    assert bound(PROTOCOLS[0], [timedelta, Decimal], DAY, 3) == (DAY, Decimal(3))


@pytest.mark.parametrize(
    ("type_", "packed", "value"),
    [
        (bytes, "a3010203", b"\1\2\3"),
        (bytes, "93010203", b"\1\2\3"),
        (bytes, "a1ff", b"\xff"),
        (str, "a461ffffff", "a\ufffd\ufffd\ufffd"),
        (object, "81a1ff91a1ff", {"\ufffd": ["\ufffd"]}),
        (dict[str, object], "81a16181a1ffc3", {"a": {"\ufffd": True}}),
        (datetime, "92d6ff65937d2578", datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))),
        (datetime, "c70cff3b9ac99c0000003afff4417f", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (object, "c70cff3b9ac99c0000003afff4417f", datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (Color, "a135", Color.GREEN),
        (Color, "05", Color.GREEN),
        (object, "81920102a161", {(1, 2): "a"}),
    ],
)
@pytest.mark.row("B87")
def test_messagepack_of_other_forms_is_bound(type_: object, packed: str, value: object) -> None:
    """Byte arrays come as str and as arrays too, text need not be UTF-8, times may carry an offset."""
    raw = Raw(bytes.fromhex(packed))
    assert PROTOCOLS[1].value_decoder(type_)(raw) == value


@pytest.mark.parametrize(
    ("type_", "packed"),
    [
        (str, "c40161"),
        (bytes, "9301cd0100c0"),
        (bytes, "01"),
        (datetime, "92d6ff65937d25a178"),
        (date, "d2ffffffff"),
        (time, "ff"),
        (object, "8181010203"),
        (object, "c1"),
        (object, "d6"),
        (object, "c70cff000000007fffffffffffffff"),
        (object, "91" * 5000 + "c0"),
    ],
)
@pytest.mark.row("B87")
def test_messagepack_that_cannot_be_bound(type_: object, packed: str) -> None:
    """Bin is no text, numbers beyond a byte are no bytes, and what is malformed binds to nothing."""
    with pytest.raises(BindingError):
        PROTOCOLS[1].value_decoder(type_)(Raw(bytes.fromhex(packed)))


def test_arguments_that_are_no_array_are_named() -> None:
    """MessagePack arguments that are no array fail the call with the name of what could not be read."""
    with pytest.raises(BindingError) as fault:
        PROTOCOLS[1].argument_decoder([int])(Raw(b"\xc0"))
    assert fault.value.detail == "Reading array length for 'arguments' failed."
