"""What the lifetime manager tells the log about its broker: ASP.NET Core's event ids, levels and texts.

Every record carries `event_id` and `event_name`. .NET's Trace is DEBUG here.

Source: redis-backplane section 5.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

__all__ = [
    "connected",
    "connecting_to_endpoints",
    "connection_failed",
    "connection_restored",
    "error_connecting",
    "error_forwarding_result",
    "error_parsing_result",
    "failed_writing_message",
    "internal_message_failed",
    "mismatched_servers",
    "not_connected",
    "publish_to_channel",
    "received_from_channel",
    "subscribing",
    "unsubscribe",
]

logger = logging.getLogger(__name__)


def _event(event_id: int, name: str) -> dict[str, object]:
    return {"event_id": event_id, "event_name": name}


_CONNECTING_TO_ENDPOINTS = _event(1, "ConnectingToEndpoints")
_CONNECTED = _event(2, "Connected")
_SUBSCRIBING = _event(3, "Subscribing")
_RECEIVED_FROM_CHANNEL = _event(4, "ReceivedFromChannel")
_PUBLISH_TO_CHANNEL = _event(5, "PublishToChannel")
_UNSUBSCRIBE = _event(6, "Unsubscribe")
_NOT_CONNECTED = _event(7, "NotConnected")
_CONNECTION_RESTORED = _event(8, "ConnectionRestored")
_CONNECTION_FAILED = _event(9, "ConnectionFailed")
_FAILED_WRITING_MESSAGE = _event(10, "FailedWritingMessage")
_INTERNAL_MESSAGE_FAILED = _event(11, "InternalMessageFailed")
_MISMATCHED_SERVERS = _event(12, "MismatchedServers")
_ERROR_FORWARDING_RESULT = _event(13, "ErrorForwardingResult")
_ERROR_CONNECTING = _event(14, "ErrorConnecting")
_ERROR_PARSING_RESULT = _event(15, "ErrorParsingResult")


def connecting_to_endpoints(endpoints: Sequence[str], node_name: str) -> None:
    """Event 1: a hub starts."""
    logger.info(
        "Connecting to Redis endpoints: %s. Using Server Name: %s",
        ", ".join(endpoints),
        node_name,
        extra=_CONNECTING_TO_ENDPOINTS,
    )


def connected() -> None:
    """Event 2: the broker was reached for the first time."""
    logger.info("Connected to Redis.", extra=_CONNECTED)


def subscribing(channel: str) -> None:
    """Event 3: a channel is wanted."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("Subscribing to channel: %s.", channel, extra=_SUBSCRIBING)


def received_from_channel(channel: str) -> None:
    """Event 4: a message for everybody arrived."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("Received message from Redis channel %s.", channel, extra=_RECEIVED_FROM_CHANNEL)


def publish_to_channel(channel: str) -> None:
    """Event 5: a message leaves."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("Publishing message to Redis channel %s.", channel, extra=_PUBLISH_TO_CHANNEL)


def unsubscribe(channel: str) -> None:
    """Event 6: a channel is no longer wanted."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("Unsubscribing from channel: %s.", channel, extra=_UNSUBSCRIBE)


def not_connected() -> None:
    """Event 7: the node starts without the broker."""
    logger.error("Not connected to Redis.", extra=_NOT_CONNECTED)


def connection_restored() -> None:
    """Event 8: the broker is back, and all channels with it."""
    logger.info("Connection to Redis restored.", extra=_CONNECTION_RESTORED)


def connection_failed(error: Exception) -> None:
    """Event 9: the broker was lost."""
    logger.error("Connection to Redis failed.", exc_info=error, extra=_CONNECTION_FAILED)


def failed_writing_message(error: Exception) -> None:
    """Event 10: a message to clients is malformed and was dropped."""
    logger.debug("Failed writing message.", exc_info=error, extra=_FAILED_WRITING_MESSAGE)


def internal_message_failed(error: Exception) -> None:
    """Event 11: a group command could not be read, carried out or acknowledged."""
    logger.warning(
        "Error processing message for internal server message.", exc_info=error, extra=_INTERNAL_MESSAGE_FAILED
    )


def mismatched_servers(protocol: str) -> None:
    """Event 12: a client's answer is in a protocol that this node does not speak."""
    logger.error(
        "Received a client result for protocol %s which is not supported by this server. "
        "This likely means you have different versions of your server deployed.",
        protocol,
        extra=_MISMATCHED_SERVERS,
    )


def error_forwarding_result(invocation_id: str, error: Exception) -> None:
    """Event 13: a client's answer could not be sent to the node that asked."""
    logger.error(
        "Error forwarding client result with ID '%s' to server.",
        invocation_id,
        exc_info=error,
        extra=_ERROR_FORWARDING_RESULT,
    )


def error_connecting(error: Exception) -> None:
    """Event 14: the first attempt to reach the broker failed."""
    logger.error("Error connecting to Redis.", exc_info=error, extra=_ERROR_CONNECTING)


def error_parsing_result(protocol: str, error: Exception | None) -> None:
    """Event 15: a client's answer cannot be read."""
    logger.warning(
        "Error parsing client result with protocol %s.", protocol, exc_info=error, extra=_ERROR_PARSING_RESULT
    )
