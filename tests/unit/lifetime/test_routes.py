"""Facts about the sink that all hubs of a process share."""

from __future__ import annotations

import logging

import pytest

from hubplane.errors import BackplaneError, BackplaneUnavailableError, ConfigurationError
from hubplane.lifetime.routes import BackplaneRoutes


class Listener:
    def __init__(self) -> None:
        self.heard: list[object] = []

    def backplane_lost(self, error: BackplaneError) -> None:
        self.heard.append(error)

    def backplane_restored(self, *, gap: bool) -> None:
        self.heard.append(gap)


def ignore(name: str, payload: bytes) -> None:
    """A handler that does nothing."""


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[int, int, str]]:
    """Ids, levels and texts of the records with an event id."""
    return [
        (record.__dict__["event_id"], record.levelno, record.getMessage())
        for record in caplog.records
        if "event_id" in record.__dict__
    ]


def test_deliver() -> None:
    """A payload goes to its channel's handler with the handler's name for it; other channels are dropped."""
    routes = BackplaneRoutes()
    got: list[tuple[str, bytes]] = []
    routes.add("c", lambda name, payload: got.append((name, payload)), "the name")
    routes.deliver("c", b"1")
    routes.deliver("d", b"2")
    routes.discard(("c", "unknown"))
    routes.deliver("c", b"3")
    assert got == [("the name", b"1")]
    assert len(routes) == 0


def test_handler_fails(caplog: pytest.LogCaptureFixture) -> None:
    """A handler's failure is logged with its traceback and does not reach the carrier."""
    routes = BackplaneRoutes()

    def fail(name: str, payload: bytes) -> None:
        raise ArithmeticError("broken")

    routes.add("c", fail, "")
    routes.deliver("c", b"secret payload")
    assert "Serving a message on channel c failed." in caplog.text
    assert "ArithmeticError: broken" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.row("X15")
def test_claimed_twice() -> None:
    """Two hubs with one name are a mistake, and the second one claims nothing."""
    routes = BackplaneRoutes()
    routes.claim({"Hub:all": ignore})
    with pytest.raises(ConfigurationError, match="two hubs share one hub_name"):
        routes.claim({"Hub:other": ignore, "Hub:all": ignore})
    assert len(routes) == 1


def test_first_connect(caplog: pytest.LogCaptureFixture) -> None:
    """The first success is logged once, as event 2."""
    routes = BackplaneRoutes()
    with caplog.at_level(logging.DEBUG):
        routes.answered()
        routes.answered()
        routes.restored(gap=False)
    assert events(caplog) == [(2, logging.INFO, "Connected to Redis.")]


@pytest.mark.row("S40")
def test_outage(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged once, as event 9 with its error, and its end as event 8."""
    routes = BackplaneRoutes()
    listener = Listener()
    routes.listen(listener)
    routes.answered()
    caplog.clear()
    error = BackplaneUnavailableError("SocketClosed")
    with caplog.at_level(logging.INFO):
        routes.lost(error)
        routes.lost(error)
        routes.restored(gap=True)
    assert events(caplog) == [
        (9, logging.ERROR, "Connection to Redis failed."),
        (8, logging.INFO, "Connection to Redis restored."),
    ]
    assert caplog.records[0].exc_info is not None
    assert caplog.records[0].exc_info[1] is error
    assert listener.heard == [error, error, True]
    routes.forget(listener)
    routes.forget(listener)
    routes.lost(error)
    assert len(listener.heard) == 3


@pytest.mark.row("S51")
def test_away_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away at the start is logged once: event 14 with the error, event 7; later 2 and 8."""
    routes = BackplaneRoutes()
    error = BackplaneUnavailableError("refused")
    with caplog.at_level(logging.INFO):
        routes.lost(error)
        routes.answered()
        routes.lost(error)
        routes.restored(gap=False)
    assert events(caplog) == [
        (14, logging.ERROR, "Error connecting to Redis."),
        (7, logging.ERROR, "Not connected to Redis."),
        (2, logging.INFO, "Connected to Redis."),
        (8, logging.INFO, "Connection to Redis restored."),
    ]


def test_what_there_is_to_watch() -> None:
    """What arrives is counted, whether anybody serves it or not, and whether the broker is there is known."""
    routes = BackplaneRoutes()
    assert not routes.is_connected
    routes.add("a", ignore, "A")
    routes.deliver("a", b"1")
    routes.deliver("b", b"2")
    assert routes.received == 2
    routes.answered()
    assert routes.is_connected
    routes.lost(BackplaneUnavailableError("reset"))
    assert not routes.is_connected
    routes.restored(gap=False)
    assert routes.is_connected
