"""What the in-process client raises, with sentences that say what did happen."""

from __future__ import annotations

from hubplane.errors import HubplaneError

__all__ = ["ConnectError", "NothingArrivedError"]


class ConnectError(HubplaneError):
    """A client could not connect, or the application did not start.

    Attributes:
        status: The HTTP status of the refusal; None where the application answered otherwise.
        body: What came with it.
    """

    def __init__(self, text: str, *, status: int | None = None, body: bytes = b"") -> None:
        super().__init__(text)
        self.status = status
        self.body = body


class NothingArrivedError(HubplaneError, AssertionError, TimeoutError):
    """What a test waited for did not come in time; the text says what came instead."""
