""".NET's forms of times, spans, numbers and enumerations, in text and in ticks of 100 ns.

Python counts microseconds, so the seventh digit of a fraction is always 0 when written and is cut off when read. Values
that .NET cannot hold raise when written, before anything reaches a client.

Source: signalr-server sections 4.2 ("JSON payload values") and 4.3 (".NET encodes values in MessagePack").
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Final, cast

__all__ = [
    "date_from_days",
    "datetime_text",
    "days_of_date",
    "decimal_text",
    "enum_member",
    "enum_name",
    "float_text",
    "parse_datetime",
    "parse_time",
    "parse_timedelta",
    "ticks_of_time",
    "ticks_of_timedelta",
    "time_from_ticks",
    "time_text",
    "timedelta_from_ticks",
    "timedelta_text",
]

TICKS_PER_SECOND: Final = 10_000_000
TICKS_PER_DAY: Final = 86_400 * TICKS_PER_SECOND
_TICKS_PER_MICROSECOND = 10
_LARGEST_TICKS = 2**63 - 1

_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_DATETIME = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,16}))?(Z|[+-]\d\d:\d\d)?)?",
    re.ASCII,
)
_TIMEDELTA = re.compile(r"(-?)(?:(\d{1,8})\.)?(\d\d):(\d\d):(\d\d)(?:\.(\d{1,7}))?", re.ASCII)


# -- numbers ----------------------------------------------------------------------------------------------------


def float_text(value: float) -> str:
    """Write a number as .NET does: ``1``, ``-0``, ``1.5``, ``1E+300``, ``1E-05``.

    Raises:
        ValueError: NaN and the infinities have no form in JSON (row X18).
    """
    if not math.isfinite(value):
        raise ValueError(f"{value!r} cannot be written as JSON.")
    if value.is_integer() and -1e16 < value < 1e16:
        return f"{value:.0f}"
    if 1e16 <= abs(value) < 1e17:
        return format(Decimal(repr(value)), "f")  # the shortest digits, then a zero, not the exact last ones
    return repr(value).upper()


def decimal_text(value: Decimal) -> str:
    """Write a decimal with all its digits and without an exponent: ``1.10``.

    Raises:
        ValueError: NaN and the infinities are no decimals in .NET.
    """
    if not value.is_finite():
        raise ValueError(f"{value!r} cannot be written as a decimal.")
    return format(value, "f")


# -- spans ------------------------------------------------------------------------------------------------------


def ticks_of_timedelta(value: timedelta) -> int:
    """Count the ticks of a span.

    Raises:
        OverflowError: More than 2**63 - 1 ticks (10,675,199 days), .NET's limit.
    """
    ticks = (value.days * 86_400 + value.seconds) * TICKS_PER_SECOND + value.microseconds * _TICKS_PER_MICROSECOND
    if not -_LARGEST_TICKS - 1 <= ticks <= _LARGEST_TICKS:
        raise OverflowError(f"{value!r} is longer than a TimeSpan can be.")
    return ticks


def timedelta_from_ticks(ticks: int) -> timedelta:
    """Turn ticks into a span; parts of a microsecond are cut off."""
    microseconds = abs(ticks) // _TICKS_PER_MICROSECOND
    return timedelta(microseconds=microseconds if ticks >= 0 else -microseconds)


def timedelta_text(value: timedelta) -> str:
    """Write a span as ``[-][d.]hh:mm:ss[.fffffff]``.

    Raises:
        OverflowError: More than .NET's limit.
    """
    ticks = ticks_of_timedelta(value)
    days, rest = divmod(abs(ticks), TICKS_PER_DAY)
    return f"{'-' if ticks < 0 else ''}{f'{days}.' if days else ''}{_clock_text(rest)}"


def parse_timedelta(text: str) -> timedelta | None:
    """Read ``[-][d.]hh:mm:ss[.fffffff]``; None when `text` is something else."""
    match = _TIMEDELTA.fullmatch(text)
    if match is None:
        return None
    sign, days, hours, minutes, seconds, fraction = match.groups()
    if int(hours) > 23 or int(minutes) > 59 or int(seconds) > 59:
        return None
    ticks = int(days or 0) * TICKS_PER_DAY + TICKS_PER_SECOND * (int(hours) * 3600 + int(minutes) * 60 + int(seconds))
    ticks += int((fraction or "").ljust(7, "0"))
    return timedelta_from_ticks(-ticks if sign else ticks)


# -- times of day -----------------------------------------------------------------------------------------------


def ticks_of_time(value: time) -> int:
    """Count the ticks since midnight; a time zone is ignored, .NET's `TimeOnly` has none."""
    seconds = value.hour * 3600 + value.minute * 60 + value.second
    return seconds * TICKS_PER_SECOND + value.microsecond * _TICKS_PER_MICROSECOND


def time_from_ticks(ticks: int) -> time | None:
    """Turn ticks since midnight into a time; None when they do not fit into a day."""
    if not 0 <= ticks < TICKS_PER_DAY:
        return None
    return (datetime(1, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // _TICKS_PER_MICROSECOND)).time()


def time_text(value: time) -> str:
    """Write a time of day as ``hh:mm:ss[.fffffff]``."""
    return _clock_text(ticks_of_time(value))


def parse_time(text: str) -> time | None:
    """Read ``hh:mm[:ss[.fffffff]]``; None when `text` is something else."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hour, minute, second, fraction = match.groups()
    try:
        return time(int(hour), int(minute), int(second or 0), _microseconds(fraction))
    except ValueError:
        return None


# -- dates ------------------------------------------------------------------------------------------------------


def days_of_date(value: date) -> int:
    """Count the days since 0001-01-01."""
    return value.toordinal() - 1


def date_from_days(days: int) -> date | None:
    """Turn a day number into a date; None when there is no such date."""
    try:
        return date.fromordinal(days + 1)
    except (ValueError, OverflowError):
        return None


def datetime_text(value: datetime) -> str:
    """Write ``2024-01-02T03:04:05.5Z``: fraction trimmed, UTC as ``Z``, other offsets kept, none when naive."""
    offset = value.utcoffset()
    if offset is not None and offset.seconds % 60:
        value, offset = value.astimezone(UTC), timedelta()
    fraction = f".{value.microsecond:06}".rstrip("0") if value.microsecond else ""
    text = value.replace(microsecond=0, tzinfo=None).isoformat() + fraction
    if offset is None:
        return text
    if not offset:
        return text + "Z"
    minutes = offset // timedelta(minutes=1)
    hours, minutes = divmod(abs(minutes), 60)
    return f"{text}{'-' if offset < timedelta() else '+'}{hours:02}:{minutes:02}"


def parse_datetime(text: str) -> datetime | None:
    """Read ISO 8601 as .NET's JSON reader does, a date alone included; None when `text` is something else.

    Parts of a microsecond are cut off, so that .NET's last moment of year 9999 stays in it.
    """
    match = _DATETIME.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.groups()
    try:
        value = datetime.fromisoformat(f"{day}T{clock or '00:00'}")
        if zone == "Z":
            value = value.replace(tzinfo=UTC)
        elif zone:
            sign = -1 if zone[0] == "-" else 1
            value = value.replace(tzinfo=timezone(sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:]))))
    except ValueError:
        return None
    return value.replace(microsecond=_microseconds(fraction))


# -- enumerations -----------------------------------------------------------------------------------------------


def enum_name(value: Enum) -> str:
    """Name a member as .NET does in MessagePack: ``Green``, flags ``Read, Write``, unnamed bits as digits."""
    members = type(value).__members__
    name = cast("str | None", value.name)
    if name is None:  # a combination of flags
        return str(value.value)
    if name in members:
        return name
    if all(part in members for part in name.split("|")):
        return name.replace("|", ", ")
    return str(value.value)


def enum_member(kind: type[Enum], text: str) -> Enum | None:
    """Find a member by its name, flags by their names, or by the digits of its number; None when there is none."""
    members = kind.__members__
    found = members.get(text)
    if found is not None:
        return found
    try:
        if text.removeprefix("-").isdigit():
            return kind(int(text))
        if ", " in text:
            return kind(sum({members[name].value for name in text.split(", ")}))
    except (KeyError, TypeError, ValueError):
        pass
    return None


# -- parts ------------------------------------------------------------------------------------------------------


def _microseconds(fraction: str | None) -> int:
    return int(fraction[:6].ljust(6, "0")) if fraction else 0


def _clock_text(ticks: int) -> str:
    seconds, fraction = divmod(ticks, TICKS_PER_SECOND)
    text = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{text}.{fraction:07}" if fraction else text
