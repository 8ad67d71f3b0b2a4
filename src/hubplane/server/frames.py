"""WebSocket frames, the server's side: bytes in, payload out; RFC 6455 without its extensions.

No I/O here. A hub reads a byte pipe, so the payload of all data frames in a chunk comes out joined, and a frame that
has arrived in part gives what is there: nothing but an incomplete header or control frame (131 bytes at most) is kept.

Source: RFC 6455 sections 5 and 7.4; signalr-server section 2.1; docs/decisions/0002-frames-on-the-fast-edge.md.
"""

from __future__ import annotations

from codecs import utf_8_decode

from hubplane.connection.transport import OutboundBatch

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled part
    from websockets.utils import apply_mask

__all__ = ["FrameReader", "binary_frame", "close_frame", "pong_frame", "text_frame"]

_TEXT = 1
_BINARY = 2
_CLOSE = 8
_PING = 9
_PONG = 10

_PROTOCOL_ERROR = 1002
_NO_STATUS = 1005
_INVALID_DATA = 1007

# Close codes that may travel: RFC 6455 section 7.4.1 with the later registrations up to 1014, and the open ranges.
_CLOSE_CODES = frozenset((1000, 1001, 1002, 1003, *range(1007, 1015)))


class FrameReader:
    """Parses what one client sends.

    Attributes:
        notice: Something besides data has arrived since it was last cleared: look at the other attributes.
        ping: The payload of the latest Ping that has not been answered.
        close_code: The code of the peer's Close frame (1005 for none). Nothing is read after it.
        failure: Close code and text for a peer that broke the rules. Nothing is read after it.
    """

    __slots__ = (
        "_fin",
        "_left",
        "_mask",
        "_open",
        "_rest",
        "_resume",
        "_tail",
        "_text",
        "close_code",
        "failure",
        "notice",
        "ping",
    )

    def __init__(self) -> None:
        self.notice = False
        self.ping: bytes | None = None
        self.close_code: int | None = None
        self.failure: tuple[int, str] | None = None
        self._resume = False  # whether the next chunk goes on with something that has begun, or is to be ignored
        self._rest = b""
        self._left = 0  # bytes of the current data frame that have not arrived
        self._mask = b""  # for the next of them
        self._fin = True  # whether the current data frame ends its message
        self._open = False  # within a message of several frames
        self._text = False  # the current message is text
        self._tail = b""  # of the current text message: the beginning of a character

    def feed(self, data: bytes) -> bytes:
        """Parse a chunk as it came from the socket; return the payload of its data frames, joined."""
        at = 0
        payloads: list[bytes] = []
        if self._resume:
            data, at = self._go_on(data, payloads)
        end = len(data)
        last = end - 6
        while at <= last:
            first = data[at]
            # Nearly always: a whole message in one frame below 64 KiB.
            if (first == 0x81 or first == 0x82) and not self._open:  # noqa: PLR1714 - a tuple test is slower
                size = data[at + 1]  # with the mask bit, which makes it 128 more
                start = at + 6
                if size < 0xFE:
                    stop = start + size - 128
                elif size == 0xFE:
                    start = at + 8
                    stop = start + (data[at + 2] << 8 | data[at + 3])
                else:
                    stop = -1
                if start <= stop <= end:
                    payload = apply_mask(data[start:stop], data[start - 4 : start])
                    if first == 0x81 and not payload.isascii() and not self._is_text(payload):
                        break
                    payloads.append(payload)
                    at = stop
                    continue
            at = self._frame(data, at, end, payloads)
            if at < 0:
                break
        else:
            if at < end:
                self._frame(data, at, end, payloads)
        return payloads[0] if len(payloads) == 1 else b"".join(payloads)

    def _go_on(self, data: bytes, payloads: list[bytes]) -> tuple[bytes, int]:
        """Finish what an earlier chunk began; return what is to be parsed and where a new frame starts in it."""
        if self.close_code is not None or self.failure is not None:
            return b"", 0
        data = self._rest + data
        self._rest = b""
        self._resume = False
        at = self._payload(data, 0, len(data), payloads) if self._left else 0
        return data, at if at >= 0 else len(data)

    def _is_text(self, payload: bytes) -> bool:
        try:
            utf_8_decode(payload, "strict", True)
        except UnicodeDecodeError:
            self._fail(_INVALID_DATA, "A text message is not valid UTF-8.")
            return False
        return True

    def _frame(self, data: bytes, at: int, end: int, payloads: list[bytes]) -> int:
        """Parse one frame of any kind; return where the next one starts, or -1 when nothing more can be read."""
        have = end - at
        if have < 2:
            self._rest = data[at:]
            self._resume = True
            return -1
        first, second = data[at], data[at + 1]
        opcode, length = first & 0x0F, second & 0x7F
        if text := self._violation(first, second):
            self._fail(_PROTOCOL_ERROR, text)
            return -1
        header = 6
        if length == 126:
            header = 8
        elif length == 127:
            header = 14
        if have < header or (opcode >= _CLOSE and have < header + length):
            self._rest = data[at:]
            self._resume = True
            return -1
        start = at + header
        if length == 126:
            length = int.from_bytes(data[at + 2 : at + 4])
        elif length == 127:
            length = int.from_bytes(data[at + 2 : at + 10])
            if length >> 63:
                self._fail(_PROTOCOL_ERROR, "The most significant bit of a frame's length is set.")
                return -1
        if opcode >= _CLOSE:
            stop = start + length
            return self._control(opcode, apply_mask(data[start:stop], data[start - 4 : start]), stop)
        self._fin = first >= 0x80
        if opcode:
            self._text = opcode == _TEXT
        self._open = not self._fin
        self._left = length
        self._mask = data[start - 4 : start]
        return self._payload(data, start, end, payloads)

    def _violation(self, first: int, second: int) -> str | None:
        opcode = first & 0x0F
        if first & 0x70:
            return "A reserved bit is set."
        if opcode > _PONG or _BINARY < opcode < _CLOSE:
            return f"The opcode {opcode} is unknown."
        if second < 0x80:
            return "A frame is not masked."
        if opcode >= _CLOSE:
            if first < 0x80:
                return "A control frame is fragmented."
            if second > 0x80 + 125:
                return "A control frame is longer than 125 bytes."
        elif opcode == 0:
            if not self._open:
                return "There is no message to continue."
        elif self._open:
            return "A message begins before the one before it has ended."
        return None

    def _payload(self, data: bytes, at: int, end: int, payloads: list[bytes]) -> int:
        """Take what has arrived of the current data frame; return the position behind it, or -1."""
        left = self._left
        stop = at + left if left < end - at else end
        payload = apply_mask(data[at:stop], self._mask)
        self._left = left = left - (stop - at)
        if left:
            self._resume = True
            turn = (stop - at) & 3
            self._mask = self._mask[turn:] + self._mask[:turn]
        if self._text and (self._tail or not payload.isascii()) and not self._continues_text(payload):
            return -1
        if payload:
            payloads.append(payload)
        return stop

    def _continues_text(self, payload: bytes) -> bool:
        """Check UTF-8 across the frames of a message and the parts of a frame."""
        data = self._tail + payload
        try:
            used = utf_8_decode(data, "strict", self._fin and not self._left)[1]
        except UnicodeDecodeError:
            self._fail(_INVALID_DATA, "A text message is not valid UTF-8.")
            return False
        self._tail = data[used:]
        return True

    def _control(self, opcode: int, payload: bytes, at: int) -> int:
        if opcode == _PING:
            self.ping = payload
            self.notice = True
        elif opcode == _CLOSE:
            self._close(payload)
            return -1
        return at

    def _close(self, payload: bytes) -> None:
        try:
            utf_8_decode(payload[2:], "strict", True)
        except UnicodeDecodeError:
            self._fail(_INVALID_DATA, "The reason in the Close frame is not valid UTF-8.")
            return
        code = int.from_bytes(payload[:2]) if payload else _NO_STATUS
        if payload and not (len(payload) >= 2 and (code in _CLOSE_CODES or 3000 <= code < 5000)):
            self._fail(_PROTOCOL_ERROR, "The Close frame is malformed.")
            return
        self.close_code = code
        self._resume = self.notice = True

    def _fail(self, code: int, text: str) -> None:
        self.failure = (code, text)
        self._resume = self.notice = True


def _frame(opcode: int, payload: bytes) -> bytes:
    length = len(payload)
    if length < 126:
        return bytes((0x80 | opcode, length)) + payload
    if length < 65_536:
        return b"%c\x7e%b%b" % (0x80 | opcode, length.to_bytes(2), payload)
    return b"%c\x7f%b%b" % (0x80 | opcode, length.to_bytes(8), payload)


_SHORT_TEXT = tuple(bytes((0x80 | _TEXT, length)) for length in range(126))


def text_frame(batch: OutboundBatch) -> bytes:
    """The batch as one text message, framed once for all connections."""
    payload = batch.payload
    length = len(payload)
    frame = batch.text_frame = _SHORT_TEXT[length] + payload if length < 126 else _frame(_TEXT, payload)
    return frame


def binary_frame(batch: OutboundBatch) -> bytes:
    """The batch as one binary message, framed once for all connections."""
    frame = batch.binary_frame = _frame(_BINARY, batch.payload)
    return frame


def close_frame(code: int) -> bytes:
    """A Close frame with an empty reason."""
    return b"\x88\x02" + code.to_bytes(2)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a Ping with this payload."""
    return _frame(_PONG, payload)
