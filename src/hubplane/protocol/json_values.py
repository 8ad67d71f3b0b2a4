"""Values as JSON, byte for byte as System.Text.Json writes them.

Source: signalr-server section 4.2, "JSON payload values".
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
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
_write = TreeWriter(_SAFE, _LEAVES, _enum)


def _text(text: str) -> object:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if _SURROGATE.search(joined) is None:
        return joined
    # .NET escapes the U+FFFD that it puts in the place of a lone surrogate, and writes one of the user's raw.
    parts = (_encode(part)[1:-1] for part in _SURROGATE.split(joined))
    return msgspec.Raw(b'"' + b"\\uFFFD".join(parts) + b'"')


_SURROGATE = re.compile("[\ud800-\udfff]")
_mend = TreeWriter(_SAFE - {str}, {**_LEAVES, str: _text}, _enum)


def write_json(value: object) -> bytes:
    """Write `value` as JSON.

    Raises:
        TypeError: There is no JSON for a value of its type.
        ValueError: NaN, an infinity, or nesting without end.
        OverflowError: A `timedelta` longer than .NET's `TimeSpan`.
    """
    try:
        if type(value) not in _SAFE:
            value = _write(value)
        data = _encode(value)
    except UnicodeEncodeError:
        data = _encode(_mend(value))
    except RecursionError:
        raise ValueError("The value is nested without end, or too deeply, and cannot be written as JSON.") from None
    return dotnet_escapes(data)
