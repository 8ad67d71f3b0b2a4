"""The handshake: JSON and a record separator in both directions, whatever the hub protocol is.

Source: signalr-server section 3.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Final

from hubplane.errors import HandshakeError, RemoteProtocolError
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_reader import members, token_name
from hubplane.protocol.json_values import write_json
from hubplane.protocol.messages import HandshakeRequest

__all__ = [
    "HANDSHAKE_CANCELED",
    "HANDSHAKE_FAILED",
    "HANDSHAKE_SUCCESS",
    "encode_handshake_error",
    "encode_handshake_request",
    "parse_handshake_request",
    "parse_handshake_response",
    "select_protocol",
]

HANDSHAKE_SUCCESS: Final = b"{}\x1e"
"""The answer to a request that was accepted."""

HANDSHAKE_CANCELED: Final = "Handshake was canceled."
"""The answer to a request that took too long or is too long."""

_USUAL_LENGTH = 64

HANDSHAKE_FAILED: Final = "An unexpected error occurred during connection handshake."
"""What clients read about what has no better words."""


def encode_handshake_request(request: HandshakeRequest) -> bytes:
    """Write the request as a client sends it, separator included."""
    return b'{"protocol":%b,"version":%d}\x1e' % (write_json(request.protocol), request.version)


def encode_handshake_error(text: str) -> bytes:
    """Write the answer to a request that was refused, separator included."""
    return b'{"error":%b}\x1e' % write_json(text)


def parse_handshake_request(body: bytes) -> HandshakeRequest:
    """Read a request, separator removed. Member names are case-sensitive, their order is free, others are skipped.

    Raises:
        HandshakeError: The request is malformed. `answer` is the text for every client, `detail` what detailed errors
            add to it.
    """
    return _remembered(body) if len(body) <= _USUAL_LENGTH else _parse(body)


def _parse(body: bytes) -> HandshakeRequest:
    protocol: str | None = None
    version: int | None = None
    try:
        for member in members(body):
            if member.name == "protocol":
                protocol = _protocol(member.value)
            elif member.name == "version":
                version = _version(member.value)
        if protocol is None or version is None:
            name = "protocol" if protocol is None else "version"
            raise RemoteProtocolError(
                f"Missing required property '{name}'. Message content: {body.decode(errors='replace')}"
            )
    except RemoteProtocolError as fault:
        raise HandshakeError(HANDSHAKE_FAILED, fault.detail, error_type=fault.error_type) from fault
    except RecursionError:
        raise HandshakeError(HANDSHAKE_FAILED, "The JSON is nested too deeply.") from None
    return HandshakeRequest(protocol, version)


# Nearly all clients send one of a handful of requests; a failed one is not remembered.
_remembered = lru_cache(maxsize=64)(_parse)


def parse_handshake_response(body: bytes) -> str | None:
    """Read a server's answer, separator removed: its error, or None when the request was accepted.

    Raises:
        RemoteProtocolError: It is no answer to a handshake.
    """
    error: str | None = None
    for member in members(body):
        if member.name == "type":
            raise RemoteProtocolError("Expected a handshake response from the server.")
        if member.name == "error":
            if not isinstance(member.value, str):
                raise RemoteProtocolError("Expected 'error' to be of type String.")
            error = member.value
    return error


def select_protocol(
    request: HandshakeRequest, protocols: Mapping[str, HubProtocol], transfer_formats: Collection[TransferFormat]
) -> HubProtocol:
    """Find the hub protocol that a client wants; its name is compared without regard to case.

    Args:
        request: What the client sent.
        protocols: The protocols that the hub speaks, by name in lower case.
        transfer_formats: What the client's transport can carry.

    Raises:
        HandshakeError: The protocol is not spoken, not in that version, or cannot be carried.
    """
    protocol = protocols.get(request.protocol.lower())
    if protocol is None:
        raise HandshakeError(f"The protocol '{request.protocol}' is not supported.")
    if request.version > protocol.version:
        raise HandshakeError(
            f"The server does not support version {request.version} of the '{request.protocol}' protocol."
        )
    wanted = protocol.transfer_format
    if wanted not in transfer_formats:
        raise HandshakeError(
            f"Cannot use the '{protocol.name}' protocol on the current transport. The transport does not support "
            f"'{wanted.value}' transfer format."
        )
    return protocol


def _protocol(value: object) -> str:
    if not isinstance(value, str):
        raise RemoteProtocolError("Expected 'protocol' to be of type String.")
    return value


def _version(value: object) -> int | None:
    if value is None:
        return None
    if token_name(value) != "Number":
        raise RemoteProtocolError("Expected 'version' to be of type Number.")
    if not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise RemoteProtocolError(
            "Either the JSON value is not in a supported format, or is out of bounds for an Int32.",
            error_type="FormatException",
        )
    return value
