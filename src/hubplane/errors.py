"""Every exception of hubplane, split by whose fault it is.

::

    HubplaneError
    ├── HubException                  raised by user code; its text reaches the client
    ├── ConfigurationError            (also ValueError) an option, a hub or a connection string is wrong
    ├── RemoteProtocolError           the client broke the rules; the connection ends with a Close message
    │   ├── HandshakeError            ... during the handshake; answered with ``{"error": ...}``
    │   └── ClientTimeoutError        ... by staying silent too long
    ├── LocalProtocolError            we, or the caller, broke the rules
    ├── BindingError                  arguments do not fit the hub method; the call fails, the connection stays
    ├── ConnectionClosedError         the connection ended before the operation could finish
    ├── ClientResultError             asking a client for a result failed
    └── BackplaneError
        ├── BackplaneUnavailableError the broker cannot be reached or refused the command
        │   ├── BackplaneAuthenticationError  ... it does not take our user, password or certificate
        │   └── BackplanePermissionError      ... its access rules forbid this command or channel
        ├── AckTimeoutError           no node acknowledged a group command in time
        └── EnvelopeError             a payload on a backplane channel is malformed

Source: docs/architecture.md, "Errors"; signalr-server sections 4.5 and 5.8.
"""

from __future__ import annotations

__all__ = [
    "AckTimeoutError",
    "BackplaneAuthenticationError",
    "BackplaneError",
    "BackplanePermissionError",
    "BackplaneUnavailableError",
    "BindingError",
    "ClientResultError",
    "ClientTimeoutError",
    "ConfigurationError",
    "ConnectionClosedError",
    "EnvelopeError",
    "HandshakeError",
    "HubException",
    "HubplaneError",
    "LocalProtocolError",
    "RemoteProtocolError",
    "wire_error_name",
]


class HubplaneError(Exception):
    """Base of all exceptions that hubplane raises on purpose."""


class HubException(HubplaneError):  # noqa: N818 - SignalR's own name, which users of every client know
    """Raise it in a hub method to tell the caller what went wrong: its text is sent to the client.

    The text of any other exception stays on the server unless `HubOptions.enable_detailed_errors` is set.
    """


class ConfigurationError(HubplaneError, ValueError):
    """An option, a hub class or a connection string is wrong; the text names it and what to do."""


class RemoteProtocolError(HubplaneError):
    """The client broke the protocol; its connection is closed with a Close message.

    Attributes:
        detail: What was wrong, in ASP.NET Core's words where it has any.
        error_type: ASP.NET Core's short name of the exception, shown with detailed errors.
    """

    def __init__(self, detail: str, *, error_type: str = "InvalidDataException") -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_type = error_type


class HandshakeError(RemoteProtocolError):
    """The handshake failed. `answer` is for the client's ``{"error": ...}``; None when nothing is to be sent."""

    def __init__(self, answer: str | None, detail: str = "", *, error_type: str = "InvalidDataException") -> None:
        super().__init__(detail or answer or "The handshake was not completed.", error_type=error_type)
        self.answer = answer


class ClientTimeoutError(RemoteProtocolError):
    """The client pinged once and then was silent for longer than `client_timeout_interval`."""

    def __init__(self) -> None:
        super().__init__(
            "Client hasn't sent a message/ping within the configured ClientTimeoutInterval.",
            error_type="OperationCanceledException",
        )


class LocalProtocolError(HubplaneError):
    """hubplane or its caller asked for something the protocol does not allow."""


class BindingError(HubplaneError):
    """The arguments of one call do not fit the hub method.

    Attributes:
        detail: ASP.NET Core's text, shown to the client with detailed errors only.
        error_type: ASP.NET Core's short exception name.
    """

    def __init__(self, detail: str, *, error_type: str = "InvalidDataException") -> None:
        super().__init__(detail)
        self.detail = detail
        self.error_type = error_type


class ConnectionClosedError(HubplaneError):
    """The connection ended before the operation could finish.

    Attributes:
        connection_id: The public id of the connection.
    """

    def __init__(self, connection_id: str, text: str | None = None) -> None:
        super().__init__(text or f"Connection '{connection_id}' is closed.")
        self.connection_id = connection_id


class ClientResultError(HubplaneError):
    """A client could not be asked, or did not give a usable result."""


class BackplaneError(HubplaneError):
    """Base of everything that goes wrong between nodes."""


class BackplaneUnavailableError(BackplaneError):
    """The broker cannot be reached, or refused a command; the cause is in `__cause__`.

    It means "not confirmed", never "certainly not delivered": a command may have reached the broker before the
    connection broke (redis-backplane section 3.14).
    """


class BackplaneAuthenticationError(BackplaneUnavailableError):
    """The broker does not let this node in, or the node does not trust the broker: a login or a certificate is wrong.

    The text holds the broker's words, never a password. It is tried again, for credentials and certificates change.
    """


class BackplanePermissionError(BackplaneUnavailableError):
    """The broker's access rules forbid a command or a channel; the text says what to allow.

    Attributes:
        command: The command that was refused, such as ``PUBLISH``.
        channel: The channel as the broker knows it, with its prefix; empty where the command names none.
    """

    def __init__(self, text: str, *, command: str, channel: str = "") -> None:
        super().__init__(text)
        self.command = command
        self.channel = channel


class AckTimeoutError(BackplaneError):
    """No node acknowledged a group command in time, or no node has the connection.

    Attributes:
        connection_id: The connection that was to join or leave.
        group: The group.
    """

    def __init__(self, connection_id: str, group: str, text: str) -> None:
        super().__init__(text)
        self.connection_id = connection_id
        self.group = group


class EnvelopeError(BackplaneError):
    """A payload on a backplane channel is malformed; it is dropped (redis-backplane section 2.8)."""


def wire_error_name(error: BaseException) -> str:
    """The exception's short name as a client with detailed errors sees it, ASP.NET Core's where there is one."""
    name = getattr(error, "error_type", None)
    return name if isinstance(name, str) else type(error).__name__
