"""Facts about what the lifetime manager tells the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from hubplane.lifetime import redis_log

ERROR = ValueError("why")

EVENTS: list[tuple[Callable[[], None], int, str, int, str]] = [
    (
        lambda: redis_log.connecting_to_endpoints(["a:1", "b:2"], "n"),
        1,
        "ConnectingToEndpoints",
        logging.INFO,
        "Connecting to Redis endpoints: a:1, b:2. Using Server Name: n",
    ),
    (redis_log.connected, 2, "Connected", logging.INFO, "Connected to Redis."),
    (lambda: redis_log.subscribing("c"), 3, "Subscribing", logging.DEBUG, "Subscribing to channel: c."),
    (
        lambda: redis_log.received_from_channel("c"),
        4,
        "ReceivedFromChannel",
        logging.DEBUG,
        "Received message from Redis channel c.",
    ),
    (
        lambda: redis_log.publish_to_channel("c"),
        5,
        "PublishToChannel",
        logging.DEBUG,
        "Publishing message to Redis channel c.",
    ),
    (lambda: redis_log.unsubscribe("c"), 6, "Unsubscribe", logging.DEBUG, "Unsubscribing from channel: c."),
    (redis_log.not_connected, 7, "NotConnected", logging.ERROR, "Not connected to Redis."),
    (redis_log.connection_restored, 8, "ConnectionRestored", logging.INFO, "Connection to Redis restored."),
    (
        lambda: redis_log.connection_failed(ERROR),
        9,
        "ConnectionFailed",
        logging.ERROR,
        "Connection to Redis failed.",
    ),
    (
        lambda: redis_log.failed_writing_message(ERROR),
        10,
        "FailedWritingMessage",
        logging.DEBUG,
        "Failed writing message.",
    ),
    (
        lambda: redis_log.internal_message_failed(ERROR),
        11,
        "InternalMessageFailed",
        logging.WARNING,
        "Error processing message for internal server message.",
    ),
    (
        lambda: redis_log.mismatched_servers("p"),
        12,
        "MismatchedServers",
        logging.ERROR,
        (
            "Received a client result for protocol p which is not supported by this server. "
            "This likely means you have different versions of your server deployed."
        ),
    ),
    (
        lambda: redis_log.error_forwarding_result("i", ERROR),
        13,
        "ErrorForwardingResult",
        logging.ERROR,
        "Error forwarding client result with ID 'i' to server.",
    ),
    (lambda: redis_log.error_connecting(ERROR), 14, "ErrorConnecting", logging.ERROR, "Error connecting to Redis."),
    (
        lambda: redis_log.error_parsing_result("p", ERROR),
        15,
        "ErrorParsingResult",
        logging.WARNING,
        "Error parsing client result with protocol p.",
    ),
]


@pytest.mark.parametrize(("say", "number", "name", "level", "text"), EVENTS, ids=[event[2] for event in EVENTS])
def test_events(
    caplog: pytest.LogCaptureFixture, say: Callable[[], None], number: int, name: str, level: int, text: str
) -> None:
    """Ids, names, levels and texts are .NET's; its Trace is DEBUG; exceptions ride along."""
    with caplog.at_level(logging.DEBUG, logger="hubplane.lifetime.redis_log"):
        say()
    (record,) = caplog.records
    assert (record.__dict__["event_id"], record.__dict__["event_name"]) == (number, name)
    assert (record.levelno, record.getMessage()) == (level, text)
    assert (record.exc_info is not None) == (number in {9, 10, 11, 13, 14, 15})


@pytest.mark.parametrize("say", [event[0] for event in EVENTS if event[3] == logging.DEBUG and event[1] != 10])
def test_quiet(caplog: pytest.LogCaptureFixture, say: Callable[[], None]) -> None:
    """Above DEBUG nothing is said per message."""
    with caplog.at_level(logging.INFO, logger="hubplane.lifetime.redis_log"):
        say()
    assert caplog.records == []
