"""`RedisConnection`: bytes in, replies out, and every way in which it ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from hubplane.backplane.redis.connection import RedisConnection, describe_error
from hubplane.backplane.redis.options import Endpoint
from hubplane.errors import BackplaneUnavailableError

if TYPE_CHECKING:
    from .conftest import Wire


async def test_calls_are_answered_in_order(wire: Callable[[], Wire]) -> None:
    """During the greeting each reply answers one call, errors are values, and pushes are nobody's."""
    redis = wire()
    calls = [redis.connection.call("PING"), redis.connection.call("AUTH", "x"), redis.connection.call("GET", 1)]
    assert redis.commands() == [[b"PING"], [b"AUTH", b"x"], [b"GET", b"1"]]
    calls[0].cancel()
    redis.receive(b"+PONG\r\n>1\r\n+hi\r\n-ERR no\r\n_\r\n")
    assert str(await calls[1]) == "ERR no"
    assert await calls[2] is None
    assert redis.connection.heard


@pytest.mark.parametrize("data", [b"+PONG\r\n", b"what is this\r\n", b"\x00\x01\x02"])
async def test_unexpected_bytes_end_it(wire: Callable[[], Wire], data: bytes) -> None:
    """A reply to nothing and bytes that are not RESP abort the connection, and the error says why."""
    redis = wire()
    redis.receive(data)
    assert redis.transport.aborted
    await redis.connection.trouble
    assert str(redis.connection.error).startswith("The connection to Redis at redis:6379 was lost: ")


async def test_failing_reader_of_replies_ends_it(wire: Callable[[], Wire], caplog: pytest.LogCaptureFixture) -> None:
    """An error in whoever takes the replies is logged with its traceback and ends this connection only."""
    redis = wire()

    def broken(gets: Callable[[], object]) -> None:
        raise KeyError("unforeseen")

    redis.connection.drain = broken
    redis.receive(b"+PONG\r\n")
    assert redis.transport.aborted
    assert caplog.records[0].exc_info is not None


async def test_reply_without_end_is_bounded(wire: Callable[..., Wire]) -> None:
    """More bytes than the limit without a whole reply end the connection; whole replies start the count anew."""
    redis = wire(limit=100)
    for _ in range(5):
        before = redis.connection.call("GET")
        redis.receive(b"$40\r\n", b"x" * 20)
        redis.receive(b"x" * 20, b"\r\n")
        assert await before == b"x" * 40
    call = redis.connection.call("GET")
    redis.receive(b"$200\r\n", b"x" * 60)
    assert not redis.transport.aborted
    redis.receive(b"x" * 60)
    assert redis.transport.aborted
    with pytest.raises(BackplaneUnavailableError, match="100 bytes without a whole reply"):
        await call


async def test_loss_fails_the_calls(wire: Callable[[], Wire]) -> None:
    """When the socket ends, whoever waits gets the reason, and later calls and writes find it closed."""
    redis = wire()
    call = redis.connection.call("PING")
    done = redis.connection.call("PING")
    done.cancel()
    redis.transport.lose(ConnectionResetError("reset by peer"))
    await redis.connection.trouble
    with pytest.raises(BackplaneUnavailableError, match="was lost: reset by peer") as caught:
        await call
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(BackplaneUnavailableError, match="was lost"):
        await redis.connection.call("PING")
    redis.connection.write(b"x")
    redis.connection.abort()
    redis.connection.close()
    redis.connection.suspect()
    redis.connection.trust()
    redis.connection.resume_writing()
    assert redis.connection.trouble.done()
    assert not redis.connection.writable


async def test_connection_that_never_opened_refuses() -> None:
    """A call before the socket is open fails from its future."""
    with pytest.raises(BackplaneUnavailableError, match="is not open"):
        await RedisConnection(Endpoint("redis", 6379)).call("PING")


async def test_first_reason_is_the_one_reported(wire: Callable[[], Wire]) -> None:
    """Of several reasons to abort the first is reported, rather than what the socket says afterwards."""
    redis = wire()
    redis.connection.abort(ValueError("first"))
    redis.connection.abort(ValueError("second"))
    await redis.connection.trouble
    assert "first" in str(redis.connection.error)


async def test_closed_connection_hands_nothing_on(wire: Callable[[], Wire]) -> None:
    """What arrives after close is dropped."""
    redis = wire()
    call = redis.connection.call("PING")
    redis.connection.close()
    redis.receive(b"+PONG\r\n")
    with pytest.raises(BackplaneUnavailableError, match="the server closed the connection"):
        await call


async def test_suspicion_can_be_taken_back(wire: Callable[[], Wire]) -> None:
    """`suspect` wakes who waits for trouble, once, and `trust` makes it wait again."""
    redis = wire()
    redis.connection.suspect()
    redis.connection.suspect()
    assert redis.connection.trouble.done()
    redis.connection.trust()
    assert not redis.connection.trouble.done()


async def test_resumed_writing_is_told(wire: Callable[[], Wire]) -> None:
    """Whoever uses the connection is told when the socket takes more, but not when it is closing."""
    redis = wire()
    told: list[bool] = []
    redis.connection.pause_writing()
    redis.connection.resume_writing()
    redis.connection.on_writable = lambda: told.append(True)
    redis.connection.resume_writing()
    assert told == [True]
    redis.connection.close()
    redis.connection.resume_writing()
    assert told == [True]
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TimeoutError(), "no answer in time"),
        (TimeoutError("slow."), "slow"),
        (OSError(), "OSError"),
        (OSError("x."), "x"),
    ],
)
def test_errors_are_never_empty(error: Exception, text: str) -> None:
    """An error without a text is described by what it is."""
    assert describe_error(error) == text


@pytest.mark.row("S18")
def test_missing_hiredis_names_the_extra() -> None:
    """Without hiredis importing the Redis backplane is a ConfigurationError that names the extra; the rest works."""
    program = """
import sys
sys.modules["hiredis"] = None
import hubplane.backplane.memory
from hubplane.backplane.redis.configuration import parse
parse("localhost")
from hubplane.errors import ConfigurationError
try:
    import hubplane.backplane.redis.pubsub
except ConfigurationError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert "pip install 'hubplane[redis]'" in done.stdout
