"""Values as JSON, byte for byte as System.Text.Json writes them.

Source: signalr-server section 4.2, "JSON payload values".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any  # the user's values
from uuid import UUID

import msgspec

from hubplane.protocol.dotnet_values import datetime_text, decimal_text, float_text, time_text, timedelta_text
from hubplane.protocol.json_escapes import dotnet_escapes
from hubplane.protocol.writing import SAFE_TYPES, TreeWriter, Writer

__all__ = ["write_json"]

_encode = msgspec.json.Encoder(decimal_format="number").encode


def _float(value: float) -> object:
    # msgspec writes the shortest digits too, but 1.0 for 1, 1e16 for 1E+16 and null for NaN.
    if -1e15 < value < 1e15 and not value.is_integer() and not -1e-4 < value < 1e-4:
        return value
    return msgspec.Raw(float_text(value).encode())


def _floats(values: Sequence[float]) -> object:
    # One text is mended faster than each of its numbers, unless it holds an exponent, NaN or a tiny number.
    text = _encode(values)
    if b"e" in text or b"n" in text or b"0.0000" in text:
        return [_float(value) for value in values]
    return msgspec.Raw(text.replace(b".0,", b",").replace(b".0]", b"]"))


def _decimal(value: Decimal) -> object:
    return msgspec.Raw(decimal_text(value).encode())


def _enum(member: Enum) -> object:
    return _write(member.value)


_SAFE = SAFE_TYPES | {date, UUID}
_LEAVES: dict[type, Writer] = {
    float: _float,
    Decimal: _decimal,
    datetime: datetime_text,
    date: date.isoformat,  # of classes derived from it
    time: time_text,
    timedelta: timedelta_text,
}
_write = TreeWriter(_SAFE, _LEAVES, _enum, rows={float: _floats})


def _text(text: str) -> object:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if _SURROGATE.search(joined) is None:
        return joined
    # .NET escapes the U+FFFD that it puts in the place of a lone surrogate, and writes one of the user's raw.
    parts = (_encode(part)[1:-1] for part in _SURROGATE.split(joined))
    return msgspec.Raw(b'"' + b"\\uFFFD".join(parts) + b'"')


_SURROGATE = re.compile("[\ud800-\udfff]")
_mend = TreeWriter(_SAFE - {str}, {**_LEAVES, str: _text}, _enum)


def write_json(value: Any) -> bytes:
    """Write `value` as JSON.

    Raises:
        TypeError: There is no JSON for a value of its type.
        ValueError: NaN, an infinity, or nesting without end.
        OverflowError: A `timedelta` longer than .NET's `TimeSpan`.
    """
    kind = type(value)
    try:
        if kind is str:
            data = _encode(value)
            if len(data) == len(value) + 2 and "\x7f" not in value:
                return data  # two quotes and nothing escaped: all of it is plain ASCII
            return dotnet_escapes(data)
        if kind not in _SAFE:
            value = _write(value)
        data = _encode(value)
    except UnicodeEncodeError:
        data = _encode(_mend(value))
    except RecursionError:
        raise ValueError("The value is nested without end, or too deeply, and cannot be written as JSON.") from None
    return dotnet_escapes(data)
