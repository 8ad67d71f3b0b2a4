"""The Redis protocol's bytes: hiredis, the one library the data plane needs, imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

from hubplane.errors import ConfigurationError

try:
    import hiredis
    from hiredis import ProtocolError, PushNotification, Reader, ReplyError
except ImportError as missing:  # pragma: no cover - proven by a test in an interpreter of its own
    raise ConfigurationError(
        "The Redis backplane needs the package hiredis. Install hubplane with its extra: pip install 'hubplane[redis]'"
    ) from missing

__all__ = [
    "NOTHING",
    "ProtocolError",
    "PushNotification",
    "Reader",
    "ReplyError",
    "new_reader",
    "pack_command",
]

NOTHING: Final = object()
"""What a reader of `new_reader` returns when no whole reply is there; RESP3 has its own False and null."""

# The stubs of hiredis 3.5 declare a tuple of exactly one item.
pack_command = cast("Callable[[tuple[str | bytes | int, ...]], bytes]", hiredis.pack_command)
"""One command as the bytes of an array of bulk strings; str is written as UTF-8."""


def new_reader() -> Reader:
    """A reader whose `gets` returns `NOTHING` when it needs more bytes, and errors as `ReplyError` values."""
    return Reader(notEnoughData=NOTHING)
