"""Enough of the Redis protocol, blocking and plain, to give a test server a command and read the answer."""

from __future__ import annotations

from typing import BinaryIO, TypeAlias, Union

__all__ = ["RespError", "RespValue", "encode_command", "read_reply"]

RespValue: TypeAlias = Union[bytes, int, "RespError", list["RespValue"], None]


class RespError(Exception):
    """The server answered with an error; the text is the server's."""


def encode_command(*arguments: str | bytes | float) -> bytes:
    """One command as an array of bulk strings."""
    parts = [a if isinstance(a, bytes) else str(a).encode() for a in arguments]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def read_reply(source: BinaryIO) -> RespValue:
    """Read one RESP2 reply from a blocking stream; an error reply is returned, not raised.

    Raises:
        EOFError: The stream ended.
        ValueError: That is not RESP2.
    """
    line = source.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError("The server closed the connection.")
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest
    if kind == b"-":
        return RespError(rest.decode("utf-8", "replace"))
    if kind == b":":
        return int(rest)
    if kind == b"$":
        return None if rest == b"-1" else source.read(int(rest) + 2)[:-2]
    if kind == b"*":
        return None if rest == b"-1" else [read_reply(source) for _ in range(int(rest))]
    raise ValueError(f"Not a RESP2 reply: {line!r}")
