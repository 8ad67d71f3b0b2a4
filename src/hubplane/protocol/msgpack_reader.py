"""Reads MessagePack item by item.

That is for messages that are wrong, to say in ASP.NET Core's words what is, and for values that .NET writes in a form
of its own. It is slow, and only used where msgspec, which decodes whole messages at once, has given up.

Source: signalr-server section 4.3; the MessagePack specification.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from hubplane.errors import RemoteProtocolError

__all__ = ["InvalidText", "PackReader", "read_value"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_NIL, _NEVER_USED, _FALSE, _TRUE = 0xC0, 0xC1, 0xC2, 0xC3
# fmt: off
_NAMES = (
    "nil", "(never used)", "false", "true", "bin 8", "bin 16", "bin 32", "ext 8", "ext 16", "ext 32", "float 32",
    "float 64", "uint 8", "uint 16", "uint 32", "uint 64", "int 8", "int 16", "int 32", "int 64", "fixext 1",
    "fixext 2", "fixext 4", "fixext 8", "fixext 16", "str 8", "str 16", "str 32", "array 16", "array 32", "map 16",
    "map 32",
)
# fmt: on
_NUMBERS = {
    code: struct.Struct(f">{form}")
    for code, form in zip(range(0xCA, 0xD4), ("f", "d", "B", "H", "I", "Q", "b", "h", "i", "q"), strict=True)
}
_LENGTHS = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_STR = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY = {0xDC: 2, 0xDD: 4}
_MAP = {0xDE: 2, 0xDF: 4}
_FIXEXT = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_TIMESTAMP = -1


class InvalidText(bytes):
    """The bytes of a str item that are not UTF-8; .NET takes them for a byte array."""

    __slots__ = ()


class PackReader:
    """A position in a MessagePack body.

    Attributes:
        position: Where the next item begins.

    Every method moves behind what it read. All raise `RemoteProtocolError` when the bytes end too early or are of
    another kind.
    """

    __slots__ = ("_data", "position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def array_length(self) -> int:
        """Read the head of an array."""
        return self._length(0x90, _ARRAY, 1)

    def map_length(self) -> int:
        """Read the head of a map."""
        return self._length(0x80, _MAP, 2)

    def integer(self) -> int:
        """Read an integer of any width."""
        code = self._code()
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if 0xCC <= code <= 0xD3:
            return int(self._number(code))
        raise _unexpected(code)

    def boolean(self) -> bool:
        """Read true or false."""
        code = self._code()
        if code not in {_FALSE, _TRUE}:
            raise _unexpected(code)
        return code == _TRUE

    def text(self) -> str | None:
        """Read a str or nil; bytes that are not UTF-8 become U+FFFD, as in .NET."""
        code = self._code()
        if code == _NIL:
            return None
        return self._str(code).decode(errors="replace")

    def value(self) -> object:
        """Read one item of any kind into builtins, `datetime`, `InvalidText` and `msgspec.msgpack.Ext`."""
        code = self._code()
        if _NIL <= code <= _TRUE and code != _NEVER_USED:
            return (None, None, False, True)[code - _NIL]
        if code in _BIN:
            return self._take(self._size(_BIN[code]))
        if code in _EXT or code in _FIXEXT:
            return self._ext(_FIXEXT[code] if code in _FIXEXT else self._size(_EXT[code]))
        if 0xA0 <= code < 0xC0 or code in _STR:
            raw = self._str(code)
            try:
                return raw.decode()
            except UnicodeDecodeError:
                return InvalidText(raw)
        return self._number_or_container(code)

    def _number_or_container(self, code: int) -> object:
        if code in _NUMBERS:
            return self._number(code)
        self.position -= 1
        if 0x80 <= code < 0x90 or code in _MAP:
            return {_key(self.value()): self.value() for _ in range(self.map_length())}
        if 0x90 <= code < 0xA0 or code in _ARRAY:
            return [self.value() for _ in range(self.array_length())]
        return self.integer()

    def raw(self) -> msgspec.Raw:
        """Read one item of any kind, and leave it encoded."""
        start = self.position
        self.skip()
        return msgspec.Raw(self._data[start : self.position])

    def skip(self) -> None:
        """Pass over one item of any kind, however deeply nested."""
        pending = 1
        while pending:
            pending -= 1
            code = self._code()
            if 0x80 <= code < 0xA0 or code in _MAP or code in _ARRAY:
                self.position -= 1
                is_map = code < 0x90 or code in _MAP
                pending += 2 * self.map_length() if is_map else self.array_length()
            elif 0xA0 <= code < 0xC0 or code in _STR:
                self._str(code)
            elif code in _NUMBERS:
                self._take(_NUMBERS[code].size)
            elif code in _BIN:
                self._take(self._size(_BIN[code]))
            elif code in _FIXEXT or code in _EXT:
                self._take(1 + (_FIXEXT[code] if code in _FIXEXT else self._size(_EXT[code])))
            elif code == _NEVER_USED:
                raise _unexpected(code)

    def _length(self, fix: int, sizes: dict[int, int], smallest: int) -> int:
        code = self._code()
        if code in sizes:
            length = self._size(sizes[code])
        elif fix <= code < fix + 0x10:
            length = code - fix
        else:
            raise _unexpected(code)
        if length * smallest > len(self._data) - self.position:
            raise _end()
        return length

    def _str(self, code: int) -> bytes:
        if 0xA0 <= code < 0xC0:
            return self._take(code - 0xA0)
        if code in _STR:
            return self._take(self._size(_STR[code]))
        raise _unexpected(code)

    def _ext(self, size: int) -> object:
        kind = int.from_bytes(self._take(1), signed=True)
        data = self._take(size)
        if kind != _TIMESTAMP:
            return msgspec.msgpack.Ext(kind, data)
        if size == 4:
            seconds, nanoseconds = int.from_bytes(data), 0
        elif size == 8:
            both = int.from_bytes(data)
            seconds, nanoseconds = both & 0x3_FFFF_FFFF, both >> 34
        elif size == 12:
            seconds, nanoseconds = int.from_bytes(data[4:], signed=True), int.from_bytes(data[:4])
        else:
            raise _unexpected(0xC7)
        try:
            return EPOCH + timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
        except OverflowError:
            raise RemoteProtocolError("The time is outside the years 1 to 9999.") from None

    def _number(self, code: int) -> int | float:
        form = _NUMBERS[code]
        value: int | float = form.unpack(self._take(form.size))[0]
        return value

    def _size(self, width: int) -> int:
        return int(_LENGTHS[width].unpack(self._take(width))[0])

    def _code(self) -> int:
        return self._take(1)[0]

    def _take(self, count: int) -> bytes:
        start = self.position
        end = start + count
        if end > len(self._data):
            raise _end()
        self.position = end
        return self._data[start:end]


def read_value(data: bytes) -> object:
    """Read one value into builtins; bytes behind it are ignored.

    Raises:
        RemoteProtocolError: `data` is not MessagePack.
        TypeError: A map has a key that cannot be one in Python.
        RecursionError: It is nested too deeply.
    """
    return PackReader(data).value()


def _key(key: object) -> object:
    return tuple(map(_key, key)) if isinstance(key, list) else key


def _unexpected(code: int) -> RemoteProtocolError:
    if code < 0x80:
        name = "positive fixint"
    elif code < 0xC0:
        name = ("fixmap", "fixarray", "fixstr", "fixstr")[(code - 0x80) >> 4]
    elif code < 0xE0:
        name = _NAMES[code - _NIL]
    else:
        name = "negative fixint"
    return RemoteProtocolError(
        f"Unexpected msgpack code {code} ({name}) encountered.", error_type="MessagePackSerializationException"
    )


def _end() -> RemoteProtocolError:
    return RemoteProtocolError("Attempted to read past the end of the stream.", error_type="EndOfStreamException")
