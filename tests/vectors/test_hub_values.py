"""Values as a running ASP.NET Core 10 wrote them and took them, against our encoders and decoders."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntFlag
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict  # Any: recorded values in JSON
from uuid import UUID

import msgspec
import pytest

from hubplane.errors import BindingError
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Completion, Invocation, Raw
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol

DATA = Path(__file__).parent / "data"
RECORDINGS = {name: json.loads((DATA / f"hub-{name}.json").read_text("utf-8")) for name in ("json", "msgpack")}
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "msgpack": MessagePackHubProtocol()}


def raw_bytes(recorded: Any) -> bytes:
    """Recorded bytes: hex, or parts of [hex, times]."""
    if isinstance(recorded, str):
        return bytes.fromhex(recorded)
    return b"".join(bytes.fromhex(part) * times for part, times in recorded["parts"])


# -- the hub's types, in Python ---------------------------------------------------------------------------------


class Color(Enum):
    Red = 0
    Green = 5


class Rights(IntFlag):
    Read = 1
    Write = 2


def records(rename: Literal["camel", "pascal"]) -> tuple[Any, Any]:
    """The recorded classes, Nested and Poco, with their members named as in one of the encodings."""
    nested = msgspec.defstruct("Nested", [("depth", int, 0), ("label", str | None, None)], rename=rename)
    members = [
        ("id", int, 0),
        ("name", str, ""),
        ("missing", str | None, None),
        ("child", nested | None, None),
        ("children", list[nested], msgspec.field(default_factory=list)),  # type: ignore[valid-type]  # made above
        ("color", Color, Color.Red),
        ("maybe", int | None, None),
        ("when", datetime, datetime(1, 1, 1)),  # noqa: DTZ001 - .NET's default has no zone
    ]
    return nested, msgspec.defstruct("Poco", members, rename=rename)


JsonNested, JsonPoco = records("camel")
PackNested, PackPoco = records("pascal")


class NamedPair(TypedDict):
    left: int
    right: int


MOMENT = datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
TICKS = MOMENT.replace(microsecond=123456)  # the seventh digit does not fit into Python


LAST = datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)


def zone(minutes: int) -> timezone:
    """A fixed offset from UTC."""
    return timezone(timedelta(minutes=minutes))


def poco(outer: Any, inner: Any) -> object:
    """The recorded object, in the names of one encoding."""
    return outer(
        id=7,
        name="Ann <b>",
        child=inner(1, "é"),
        children=[inner(2), inner(3, "z")],
        color=Color.Green,
        when=MOMENT,
    )


# What the recorded C# values are in Python. Left out are values that it cannot express: 32-bit floats that are no short
# 64-bit ones, seventh digits of seconds, .NET's local times, containers of type object with their fixed widths (which
# readers do not tell apart), BigInteger, Uri and Version objects, get-only properties, the order
# of sets.
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "false": False,
    "int_0": 0,
    "int_m1": -1,
    "int_m33": -33,
    "int_127": 127,
    "int_128": 128,
    "int_m32769": -32769,
    "int_min": -(2**31),
    "long_2p31": 2**31,
    "long_m2p31m1": -(2**31) - 1,
    "long_2p32": 2**32,
    "long_max": 2**63 - 1,
    "long_min": -(2**63),
    "ulong_max": 2**64 - 1,
    "byte_200": 200,
    "short_m300": -300,
    "double_0": 0.0,
    "double_m0": -0.0,
    "double_1": 1.0,
    "double_1_5": 1.5,
    "double_0_1": 0.1,
    "double_1e300": 1e300,
    "double_1e21": 1e21,
    "double_1e16": 1e16,
    "double_1e15": 1e15,
    "double_1e_7": 1e-7,
    "double_1e_5": 1e-5,
    "double_0_0001": 0.0001,
    "double_third": 1 / 3,
    "double_max": 1.7976931348623157e308,
    "double_epsilon": 5e-324,
    "decimal_0": Decimal(0),
    "decimal_1_10": Decimal("1.10"),
    "decimal_m0_0000001": Decimal("-0.0000001"),
    "decimal_max": Decimal(79228162514264337593543950335),
    "decimal_1e_28": Decimal("1e-28"),
    "str_empty": "",
    "str_ascii": "hello world",
    "str_html": "<b>&'\"\\/`+=</b>",
    "str_control": "".join(map(chr, range(32))) + "\x7f",
    "str_c1": "\u0080\u0085\u009f\u00a0",
    "str_latin": "Zürich é ß",
    "str_cjk": "日本語 한국어",
    "str_emoji": "\U0001f600\U0001f44d\U0001f3fd",
    "str_lines": "a\u2028b\u2029c",
    "str_format": "\u200b\u200d\ufeff\u00ad\u202e",
    "str_private": "\ue000\uf8ff",
    "str_nonchar": "\ufffe\uffff",
    "str_combining": "e\u0301",
    "str_rs": "a\x1eb",
    "str_lone_high": "a\ud800b",
    "str_lone_low": "a\udc00b",
    "str_31": "a" * 31,
    "str_32": "a" * 32,
    "str_255": "a" * 255,
    "str_256": "a" * 256,
    "str_65535": "a" * 65535,
    "str_65536": "a" * 65536,
    "bytes_empty": b"",
    "bytes_3": b"\1\2\3",
    "bytes_all": bytes(range(256)),
    "bytes_65536": bytes(65536),
    "bytes_memory": memoryview(b"\xfb\xff\xfe"),
    "array_empty": [],
    "array_int": [1, 2, 3],
    "array_16": list(range(16)),
    "array_string": ["a", None, "c"],
    "array_jagged": [[1], [2, 3]],
    "array_bool": [True, False],
    "array_double": [1.0, 2.5],
    "list_int": (1, 2),
    "dict_empty": {},
    "dict_int": {1: "one", -2: "minus two"},
    "dict_guid": {UUID("00112233-4455-6677-8899-aabbccddeeff"): 1},
    "dict_16": {f"k{index}": index for index in range(16)},
    "dict_nested": {"Outer": {"Inner": [1]}},
    "datetime_utc": MOMENT,
    "datetime_utc_half": MOMENT.replace(microsecond=500_000),
    "datetime_unspecified": MOMENT.replace(tzinfo=None),
    "datetime_epoch": datetime(1970, 1, 1, tzinfo=UTC),
    "datetime_1960": datetime(1960, 1, 1, tzinfo=UTC),
    "datetime_2106": datetime(2106, 2, 7, 6, 28, 16, tzinfo=UTC),
    "datetime_2600": datetime(2600, 1, 1, tzinfo=UTC),
    "datetime_min": datetime(1, 1, 1),  # noqa: DTZ001 - .NET's has no zone
    "dateonly": date(2024, 1, 2),
    "dateonly_min": date.min,
    "timeonly": time(3, 4, 5, 500_000),
    "timeonly_zero": time.min,
    "timespan_zero": timedelta(),
    "timespan": timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=500),
    "timespan_short": timedelta(seconds=90),
    "timespan_negative": timedelta(milliseconds=-1500),
    "guid": UUID("00112233-4455-6677-8899-aabbccddeeff"),
    "guid_empty": UUID(int=0),
    "enum_red": Color.Red,
    "enum_green": Color.Green,
    "enum_flags": Rights.Read | Rights.Write,
    "enum_flags_unnamed": Rights(9),
}
JSON_VALUES = VALUES | {
    "float_1_5": 1.5,
    "float_16777216": 16777216.0,
    "char_e_acute": "é",
    "array_mixed": [1, "two", 3.5, None, True, b"\x09", [1]],
    "dict_string": {"Upper": 1, "lower": "x", "with space": None, "é": 1.5, "<k>": True},
    "poco": poco(JsonPoco, JsonNested),
    "record_struct": NamedPair(left=1, right=2),
    # DateTimeOffset keeps its offset; the DateTime of another zone is written with that zone's.
    "datetime_local_winter": datetime(2024, 1, 2, 3, 4, 5, tzinfo=zone(60)),
    "datetime_local_summer": datetime(2024, 7, 2, 3, 4, 5, tzinfo=zone(120)),
    "datetimeoffset_plus2": datetime(2024, 1, 2, 3, 4, 5, tzinfo=zone(120)),
}
PACK_VALUES = VALUES | {
    "double_nan": float("nan"),
    "double_inf": float("inf"),
    "double_minf": float("-inf"),
    "char_a": 97,
    "tuple_value": (1, "a"),
    "dict_enum": {Color.Green: 1},
    "poco": poco(PackPoco, PackNested),
    "poco_holder_null": {"Any": None},
    "datetime_local_winter": datetime(2024, 1, 2, 3, 4, 5, tzinfo=zone(60)),
}
# NaN has a bit that .NET sets and Python does not.
BITS_OF_NAN = {"double_nan": ("7ff8000000000000", "fff8000000000000")}


def results() -> list[Any]:
    """One parameter per recorded result with a value in Python."""
    parameters = []
    for name, values in (("json", JSON_VALUES), ("msgpack", PACK_VALUES)):
        recorded = {entry["name"]: entry for entry in RECORDINGS[name]["results"]}
        parameters += [
            pytest.param(name, key, value, recorded[key]["frame"], id=f"{name}-{key}") for key, value in values.items()
        ]
    return parameters


@pytest.mark.parametrize(("protocol", "key", "value", "frame"), results())
@pytest.mark.row("B73", "B74", "B85", "B87")
def test_results_are_written_byte_for_byte(protocol: str, key: str, value: object, frame: Any) -> None:
    """A hub method's result leaves with the very bytes that ASP.NET Core wrote for its value."""
    assert frame is not None
    written = PROTOCOLS[protocol].encode_result("1", value).hex()
    python, dotnet = BITS_OF_NAN.get(key, ("", ""))
    assert written.replace(python, dotnet) == raw_bytes(frame).hex()


@pytest.mark.parametrize("name", ["json", "msgpack"])
def test_every_recorded_result_is_read(name: str) -> None:
    """Each recorded result is decoded, and bound to `object`, whatever it is."""
    protocol = PROTOCOLS[name]
    bind = protocol.value_decoder(object)
    for entry in RECORDINGS[name]["results"]:
        if entry["frame"] is None:
            continue  # .NET could not write it
        (body,), _ = protocol.split(raw_bytes(entry["frame"]), None)
        message = protocol.decode(body)
        assert isinstance(message, Completion)
        assert isinstance(message.result, Raw)
        bind(message.result)


READ_BACK = {
    "datetime_utc": datetime,
    "datetime_utc_half": datetime,
    "datetime_1960": datetime,
    "datetime_2106": datetime,
    "datetime_2600": datetime,
    "dateonly": date,
    "dateonly_min": date,
    "timeonly": time,
    "timeonly_zero": time,
    "timespan": timedelta,
    "timespan_short": timedelta,
    "timespan_negative": timedelta,
    "guid": UUID,
    "enum_green": Color,
    "enum_flags": Rights,
    "decimal_1_10": Decimal,
    "decimal_1e_28": Decimal,
    "bytes_all": bytes,
}


@pytest.mark.parametrize("key", READ_BACK)
@pytest.mark.parametrize("name", ["json", "msgpack"])
@pytest.mark.row("B85")
def test_dotnet_forms_are_read_back(name: str, key: str) -> None:
    """What .NET writes for a value becomes that value again, when a method declares its type."""
    protocol = PROTOCOLS[name]
    entry = next(entry for entry in RECORDINGS[name]["results"] if entry["name"] == key)
    (body,), _ = protocol.split(raw_bytes(entry["frame"]), None)
    message = protocol.decode(body)
    assert isinstance(message, Completion)
    assert isinstance(message.result, Raw)
    assert protocol.value_decoder(READ_BACK[key])(message.result) == VALUES[key]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("json", "datetime_utc_ticks", TICKS),
        ("json", "datetime_max", LAST.replace(tzinfo=None)),
        ("msgpack", "datetime_max", LAST),
        ("json", "datetimeoffset_plus2", MOMENT.replace(tzinfo=zone(120))),
        ("msgpack", "datetimeoffset_plus2", MOMENT.replace(tzinfo=zone(120))),
        ("msgpack", "datetimeoffset_utc", MOMENT),
    ],
)
def test_times_beyond_python_are_read_as_near_as_can_be(name: str, key: str, value: datetime) -> None:
    """The seventh digit of a second is lost, the rest is kept: .NET's last moment stays in the year 9999."""
    protocol = PROTOCOLS[name]
    entry = next(entry for entry in RECORDINGS[name]["results"] if entry["name"] == key)
    (body,), _ = protocol.split(raw_bytes(entry["frame"]), None)
    message = protocol.decode(body)
    assert isinstance(message, Completion)
    assert isinstance(message.result, Raw)
    read = protocol.value_decoder(datetime)(message.result)
    assert isinstance(read, datetime)
    assert abs(read - value) <= timedelta(microseconds=1)
    assert read.utcoffset() == value.utcoffset()


# -- arguments --------------------------------------------------------------------------------------------------

Int = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
Long = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
ULong = Annotated[int, msgspec.Meta(ge=0)]
METHODS: dict[str, object] = {
    "GotInt": Int,
    "GotNullableInt": Int | None,
    "GotByte": Byte,
    "GotLong": Long,
    "GotULong": ULong,
    "GotDouble": float,
    "GotFloat": float,
    "GotDecimal": Decimal,
    "GotBool": bool,
    "GotString": str | None,
    "GotBytes": bytes | None,
    "GotObject": object,
    "GotInts": list[Int] | None,
    "GotObjects": list[object],
    "GotDict": dict[str, object],
    "GotIntDict": dict[int, str],
    "GotDateTime": datetime,
    "GotDateTimeOffset": datetime,
    "GotDateOnly": date,
    "GotTimeOnly": time,
    "GotTimeSpan": timedelta,
    "GotGuid": UUID,
    "GotColor": Color,
    "GotRights": Rights,
    "GotUri": str,
}
JSON_METHODS = METHODS | {
    "GotPoco": JsonPoco | None,
    "GotChar": Annotated[str, msgspec.Meta(min_length=1, max_length=1)],
}
PACK_METHODS = METHODS | {"GotPoco": PackPoco | None, "GotChar": int}

# Where we differ, and why: more is taken wherever it cannot be mistaken, less where Python has no such value.
DIFFERENT = {
    "json": {
        "GotDouble/1e400": "an infinity out of a number is an accident",
        'GotDecimal/"1.10"': "taken: a decimal in quotes is exact",
        'GotDateTime/"2024-01-02 03:04:05"': "taken: unambiguous",
        'GotGuid/"00112233445566778899aabbccddeeff"': "taken: unambiguous",
        "GotColor/99": "no such member, and Python's enumerations hold no others",
        'GotPoco/{"Id":1,"Color":"Green"}': "names are compared exactly, so these are unknown members",
    },
    "msgpack": {
        "GotDecimal/01": "taken: exact",
        "GotDecimal/cb3ff199999999999a": "taken, with the shortest digits",
        "GotDict/82a16101a16102": "the last of two equal keys wins, as in JSON",
        "GotDateTime/b4323032342d30312d30325430333a30343a30355a": "taken: unambiguous",
        "GotDateTimeOffset/d6ff65937d25": "taken: Python has one type for both",
        "GotDateOnly/aa323032342d30312d3032": "taken: unambiguous",
        "GotGuid/c41000112233445566778899aabbccddeeff": "taken: unambiguous",
        "GotColor/05": "taken: the number of a member",
        "GotRights/03": "taken: the number of a member",
        "GotPoco/81a5436f6c6f7205": "taken: the number of a member",
    },
}


def arguments() -> list[Any]:
    """One parameter per recorded argument."""
    return [
        pytest.param(name, methods[entry["name"].split("/")[0]], entry, id=f"{name}-{entry['name']}")
        for name, methods in (("json", JSON_METHODS), ("msgpack", PACK_METHODS))
        for entry in RECORDINGS[name]["arguments"]
    ]


@pytest.mark.parametrize(("name", "type_", "entry"), arguments())
@pytest.mark.row("B87")
def test_arguments_are_bound_or_refused_as_recorded(name: str, type_: object, entry: dict[str, Any]) -> None:
    """An argument binds where ASP.NET Core bound it, and is refused with its text where not, but for a listed few."""
    protocol = PROTOCOLS[name]
    (body,), _ = protocol.split(bytes.fromhex(entry["sent"]), None)
    message = protocol.decode(body)
    assert isinstance(message, Invocation)
    assert isinstance(message.arguments, Raw)
    bind = protocol.argument_decoder([type_])
    if (entry["verdict"] == "bound") is (entry["name"] not in DIFFERENT[name]):
        (value,) = bind(message.arguments)
        saw = entry["saw"]
        if saw and saw["type"] in {"System.Int32", "System.Int64", "System.UInt64", "System.Byte"}:
            assert value == int(saw["value"])
        if saw and saw["type"] == "System.String":
            assert value == saw["value"]
        if saw and saw["type"] == "System.Byte[]":
            assert value == bytes.fromhex(saw["value"])
    else:
        with pytest.raises(BindingError, match=r"Error binding arguments\. Make sure that the types"):
            bind(message.arguments)


# -- escapes ----------------------------------------------------------------------------------------------------


@pytest.mark.row("B73", "B74")
def test_every_character_is_escaped_as_by_dotnet() -> None:
    """All 63,488 characters of the basic plane are written as .NET's JSON writer writes them, raw or escaped."""
    recorded = json.loads((DATA / "hub-json-escapes.json").read_text("utf-8"))
    short = {int(code.replace("U+", "0x"), base=16): escape for escape, code in recorded["short_escapes"].items()}
    escaped = {
        code for first, last in recorded["escaped_ranges"] for code in range(int(first, 16), int(last, 16) + 1)
    } - short.keys()
    protocol = PROTOCOLS["json"]
    for code in range(0x10000):
        if 0xD800 <= code < 0xE000:
            continue
        wanted = short.get(code) or (f"\\u{code:04X}" if code in escaped else chr(code))
        written = protocol.encode_result("1", chr(code)).decode()
        assert written == f'{{"type":3,"invocationId":"1","result":"{wanted}"}}\x1e'
