"""Values as MessagePack, byte for byte as ASP.NET Core's MessagePack protocol writes them.

Source: signalr-server section 4.3, ".NET encodes values in MessagePack".
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import msgspec

from hubplane.protocol.dotnet_values import (
    days_of_date,
    decimal_text,
    enum_name,
    ticks_of_time,
    ticks_of_timedelta,
)
from hubplane.protocol.writing import SAFE_TYPES, TreeWriter, Writer, mended

__all__ = ["prepared", "write_msgpack"]

_encode = msgspec.msgpack.Encoder().encode


def _datetime(value: datetime) -> datetime:
    # A naive time is taken as UTC, as .NET does with DateTimeKind.Unspecified; msgspec writes the timestamp.
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


_SAFE = SAFE_TYPES | {float, UUID}
_LEAVES: dict[type, Writer] = {
    datetime: _datetime,
    date: days_of_date,
    time: ticks_of_time,
    timedelta: ticks_of_timedelta,
    Decimal: decimal_text,
}
_write = TreeWriter(_SAFE, _LEAVES, enum_name)
_mend = TreeWriter(_SAFE - {str}, {**_LEAVES, str: mended}, enum_name)


def prepared(value: object) -> object:
    """Return what `write_msgpack` is to be given in the place of `value`: mostly itself.

    Raises:
        ValueError: A `Decimal` that is no number, or nesting without end.
        OverflowError: A `timedelta` longer than .NET's `TimeSpan`.
    """
    if type(value) in _SAFE:
        return value
    try:
        return _write(value)
    except RecursionError:
        raise ValueError("The value is nested without end, or too deeply, and cannot be written.") from None


def write_msgpack(items: tuple[object, ...]) -> bytes:
    """Write `items`, whose values are `prepared`, as one array.

    Raises:
        TypeError: There is no MessagePack for a value of its type.
        OverflowError: An integer beyond 64 bits.
    """
    try:
        return _encode(items)
    except UnicodeEncodeError:
        return _encode(_mend(items))
