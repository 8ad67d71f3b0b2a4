"""What a client, and the log, are told about a call that failed, in ASP.NET Core's words.

Source: signalr-server section 4.5. X is the declared name of the method where it is known, else the client's text.
"""

from __future__ import annotations

import logging

from hubplane.errors import BindingError, HubException, wire_error_name
from hubplane.hubs.call import CallSite
from hubplane.hubs.methods import HubMethod
from hubplane.protocol.messages import Completion, Invocation, StreamInvocation

__all__ = [
    "Answers",
    "describe",
    "failed_to_invoke",
    "id_in_use",
    "no_stream_returned",
    "not_a_stream",
    "stream_in_use",
    "streaming_failed",
    "threw",
    "too_many_streams",
    "unauthorized",
    "without_streaming",
    "wrong_stream_count",
]

logger = logging.getLogger(__name__)


def describe(text: str, error: BaseException, *, detailed: bool) -> str:
    """`text`, with the exception's type and text behind it where the client may see them."""
    if detailed or isinstance(error, HubException):
        return f"{text} {wire_error_name(error)}: {error}"
    return text


def failed_to_invoke(name: str, error: BaseException, *, detailed: bool) -> str:
    """The method is unknown, or the arguments do not fit."""
    return describe(f"Failed to invoke '{name}' due to an error on the server.", error, detailed=detailed)


def threw(name: str, error: BaseException, *, detailed: bool) -> str:
    """The method raised, or its hub could not be made."""
    return describe(f"An unexpected error occurred invoking '{name}' on the server.", error, detailed=detailed)


def unauthorized(name: str) -> str:
    """Authorization of the method failed."""
    return f"Failed to invoke '{name}' because user is unauthorized"


def without_streaming(name: str) -> str:
    """A stream method was called with type 1."""
    return f"The client attempted to invoke the streaming '{name}' method with a non-streaming invocation."


def not_a_stream(name: str) -> str:
    """A plain method was called with type 4."""
    return f"The client attempted to invoke the non-streaming '{name}' method with a streaming invocation."


def wrong_stream_count(name: str, sent: int, expected: int) -> str:
    """The client sent another number of upload streams than the method takes."""
    error = HubException(f"Client sent {sent} stream(s), Hub method expects {expected}.")
    return threw(name, error, detailed=False)


def id_in_use(invocation_id: str) -> str:
    """A stream with this id is still running."""
    return f"Invocation ID '{invocation_id}' is already in use."


def stream_in_use(name: str, stream_id: str) -> str:
    """An upload with this id is still open; hubplane's own, the original mixes the two uploads."""
    return threw(name, HubException(f"Stream ID '{stream_id}' is already in use."), detailed=False)


def no_stream_returned(name: str) -> str:
    """A stream method returned something that cannot be iterated."""
    return f"The value returned by the streaming method '{name}' is not a ChannelReader<> or IAsyncEnumerable<>."


def streaming_failed(error: BaseException, *, detailed: bool) -> str:
    """A stream raised after it had started."""
    return describe("An error occurred on the server while streaming results.", error, detailed=detailed)


def too_many_streams(name: str, limit: int) -> str:
    """The connection has as many streams running as it may; hubplane's own, the original has no limit."""
    return threw(name, HubException(f"The connection already has {limit} active streams."), detailed=False)


class Answers:
    """Writes the completions of calls that failed.

    Args:
        detailed: Tell clients the types and texts of all exceptions.
    """

    __slots__ = ("detailed",)

    def __init__(self, *, detailed: bool) -> None:
        self.detailed = detailed

    def error(self, site: CallSite, invocation_id: str | None, text: str) -> None:
        """Answer with an error; without an id the client wants none."""
        if invocation_id is not None:
            site.connection.write_message(Completion(invocation_id, error=text))

    def refused(self, site: CallSite, message: Invocation | StreamInvocation, method: HubMethod | None) -> None:
        """The method is unknown (None), or its arguments do not fit."""
        error: Exception
        if method is None:
            name, error = message.target, HubException("Method does not exist.")
        else:
            name, error = method.name, BindingError(message.binding_error or "")
        logger.debug("Call of '%s' refused: %s", name, error, extra={"connection_id": site.connection.connection_id})
        self.error(site, message.invocation_id, failed_to_invoke(name, error, detailed=self.detailed))

    def threw(self, site: CallSite, method: HubMethod, invocation_id: str | None, error: BaseException) -> None:
        """The method raised."""
        self._log("Failed to invoke hub method '%s'.", site, method.name, error, event_id=8)
        self.error(site, invocation_id, threw(method.name, error, detailed=self.detailed))

    def stream_failed(self, site: CallSite, method: HubMethod, invocation_id: str, error: BaseException) -> None:
        """The stream raised."""
        self._log("The stream of hub method '%s' failed.", site, method.name, error, event_id=None)
        self.error(site, invocation_id, streaming_failed(error, detailed=self.detailed))

    def callback_threw(self, site: CallSite, name: str, error: BaseException) -> None:
        """A callback raised that nobody waits for."""
        self._log("Failed to invoke hub method '%s'.", site, name, error, event_id=8)

    def _log(self, text: str, site: CallSite, name: str, error: BaseException, *, event_id: int | None) -> None:
        extra = {"connection_id": site.connection.connection_id, "event_id": event_id}
        logger.error(text, name, exc_info=error, extra=extra)
