"""Cutting a stream of bytes into messages: record separators for text, length prefixes for binary.

Both functions return the bodies without their framing and the bytes behind the last complete message. Neither looks
into a body.

Source: signalr-server sections 4.2, 4.3 and 5.14.
"""

from __future__ import annotations

from typing import Final

from hubplane.errors import RemoteProtocolError

__all__ = [
    "RECORD_SEPARATOR",
    "FramingError",
    "frame",
    "frame_length",
    "split_frames",
    "split_records",
]

RECORD_SEPARATOR: Final = b"\x1e"
"""Ends every text message and both handshake messages."""

_MORE = 0x80
_PREFIX_BYTES = 5
_LAST_OF_FIVE = 0x07
_ONE_BYTE_PREFIXES = tuple(bytes((length,)) for length in range(_MORE))


class FramingError(RemoteProtocolError):
    """A message is too large, or its length prefix is broken.

    Attributes:
        bodies: The complete messages in front of it.
    """

    def __init__(self, detail: str, bodies: list[bytes], *, error_type: str = "InvalidDataException") -> None:
        super().__init__(detail, error_type=error_type)
        self.bodies = bodies

    @classmethod
    def too_large(cls, limit: int, bodies: list[bytes]) -> FramingError:
        """Make the verdict on a message of more than `limit` bytes, framing included."""
        return cls(
            f"The maximum message size of {limit}B was exceeded. The message size can be configured in AddHubOptions.",
            bodies,
        )


def split_records(buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
    r"""Cut `buffer` at its record separators (``1e``).

    Args:
        buffer: What has arrived and was not yet cut.
        limit: Largest message in bytes, separator included; None for no limit.

    Returns:
        The bodies of the complete messages, and the unfinished rest.

    Raises:
        FramingError: A message, complete or not, is larger than `limit`.
    """
    bodies = buffer.split(RECORD_SEPARATOR)
    rest = bodies.pop()
    if limit is not None and len(buffer) > limit:
        for index, body in enumerate(bodies):
            if len(body) >= limit:
                raise FramingError.too_large(limit, bodies[:index])
        if len(rest) > limit:
            raise FramingError.too_large(limit, bodies)
    return bodies, rest


def split_frames(buffer: bytes, limit: int | None) -> tuple[list[bytes], bytes]:
    """Cut `buffer` by its length prefixes (base 128, least significant group first, at most five bytes).

    Args:
        buffer: What has arrived and was not yet cut.
        limit: Largest message in bytes, prefix included; None for no limit. A prefix that announces more is refused
            at once, before the bytes it announces have arrived.

    Returns:
        The bodies of the complete messages, and the unfinished rest.

    Raises:
        FramingError: A message is larger than `limit`, or a prefix announces more than 2 GB.
    """
    bodies: list[bytes] = []
    start = 0
    available = len(buffer)
    while start < available:
        length = buffer[start]
        if length < _MORE:
            body = start + 1
            end = body + length
        else:
            prefix, length = _long_prefix(buffer, start, bodies)
            if prefix == 0:
                break
            body = start + prefix
            end = body + length
        if limit is not None and end - start > limit:
            raise FramingError.too_large(limit, bodies)
        if end > available:
            break
        bodies.append(buffer[body:end])
        start = end
    return bodies, buffer[start:]


def frame_length(buffer: bytes | bytearray) -> int:
    """Count the bytes, prefix included, of the frame that `buffer` starts with.

    As long as the prefix itself is unfinished, that is one byte more than there is.

    Raises:
        FramingError: The prefix announces more than 2 GB.
    """
    if not buffer:
        return 1
    if buffer[0] < _MORE:
        return buffer[0] + 1
    prefix, length = _long_prefix(buffer, 0, [])
    return prefix + length if prefix else len(buffer) + 1


def frame(body: bytes) -> bytes:
    """Put the length prefix before `body`."""
    length = len(body)
    if length < _MORE:
        return _ONE_BYTE_PREFIXES[length] + body
    prefix = bytearray()
    while length >= _MORE:
        prefix.append(length & 0x7F | _MORE)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + body


def _long_prefix(buffer: bytes | bytearray, start: int, bodies: list[bytes]) -> tuple[int, int]:
    """Read the prefix at `start`: its size and the length it announces; size 0 when it is unfinished."""
    length = 0
    group = buffer[start : start + _PREFIX_BYTES]
    for index, byte in enumerate(group):
        if index == _PREFIX_BYTES - 1 and byte > _LAST_OF_FIVE:
            raise FramingError("Messages over 2GB in size are not supported.", bodies, error_type="FormatException")
        length |= (byte & 0x7F) << (7 * index)
        if byte < _MORE:
            return index + 1, length
    return 0, 0
