"""A patient MessagePack reader: what ASP.NET Core's reader takes, it takes; what that refuses, it refuses alike.

Source: redis-backplane sections 2.1, 2.7 and 2.8; texts from `redis-inject.json`.
"""

from __future__ import annotations

from hubplane.errors import EnvelopeError

__all__ = ["MsgpackReader"]

_NAMES = {
    0xC0: "nil",
    0xC1: "(never used)",
    0xC2: "false",
    0xC3: "true",
    0xC4: "bin 8",
    0xC5: "bin 16",
    0xC6: "bin 32",
    0xC7: "ext 8",
    0xC8: "ext 16",
    0xC9: "ext 32",
    0xCA: "float 32",
    0xCB: "float 64",
    0xCC: "uint 8",
    0xCD: "uint 16",
    0xCE: "uint 32",
    0xCF: "uint 64",
    0xD0: "int 8",
    0xD1: "int 16",
    0xD2: "int 32",
    0xD3: "int 64",
    0xD4: "fixext 1",
    0xD5: "fixext 2",
    0xD6: "fixext 4",
    0xD7: "fixext 8",
    0xD8: "fixext 16",
    0xD9: "str 8",
    0xDA: "str 16",
    0xDB: "str 32",
    0xDC: "array 16",
    0xDD: "array 32",
    0xDE: "map 16",
    0xDF: "map 32",
}

# First byte of the length form -> bytes of the length that follow it.
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
# Old-spec raw strings count as binary, but str 8 is younger than they are (2.1).
_BINARIES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xDA: 2, 0xDB: 4}
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_SIGNED = {0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


class MsgpackReader:
    """Reads one value after the other from `data`; bytes behind the last one asked for do not matter.

    All methods raise `EnvelopeError` when the next value is of another type or the data ends.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def array(self) -> int:
        """The number of items of an array; the items follow."""
        code = self._code()
        if code & 0xF0 == 0x90:
            return code & 0x0F
        return self._length(code, _ARRAYS)

    def map(self) -> int:
        """The number of pairs of a map; keys and values follow in turn."""
        code = self._code()
        if code & 0xF0 == 0x80:
            return code & 0x0F
        return self._length(code, _MAPS)

    def string(self) -> str | None:
        """A string, None for nil; broken UTF-8 becomes replacement characters."""
        code = self._code()
        if code == 0xC0:
            return None
        length = code & 0x1F if code & 0xE0 == 0xA0 else self._length(code, _STRINGS)
        return self._take(length).decode("utf-8", "replace")

    def binary(self) -> bytes | None:
        """Bytes, None for nil."""
        code = self._code()
        if code == 0xC0:
            return None
        return self._take(code & 0x1F if code & 0xE0 == 0xA0 else self._length(code, _BINARIES))

    def integer(self, least: int, most: int) -> int:
        """An integer of any width within the bounds."""
        code = self._code()
        if code <= 0x7F:
            value = code
        elif code >= 0xE0:
            value = code - 0x100
        elif code in _SIGNED:
            value = int.from_bytes(self._take(_SIGNED[code]), "big", signed=True)
        else:
            value = self._length(code, _UNSIGNED)
        if not least <= value <= most:
            raise EnvelopeError("Arithmetic operation resulted in an overflow.")
        return value

    def _code(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        start = self._position
        taken = self._data[start : start + count]
        if len(taken) < count:
            raise EnvelopeError("Attempted to read past the end of the stream.")
        self._position = start + count
        return taken

    def _length(self, code: int, widths: dict[int, int]) -> int:
        width = widths.get(code)
        if width is None:
            raise EnvelopeError(f"Unexpected msgpack code {code} ({_name(code)}) encountered.")
        return int.from_bytes(self._take(width), "big")


def _name(code: int) -> str:
    if code <= 0x7F:
        return "positive fixint"
    if code <= 0x8F:
        return "fixmap"
    if code <= 0x9F:
        return "fixarray"
    if code <= 0xBF:
        return "fixstr"
    return _NAMES.get(code, "negative fixint")
