"""`RedisBackplane`, as far as it goes without Redis; the rest is in tests/integration and the contract."""

from __future__ import annotations

from random import Random

import pytest
from redis.asyncio import Redis

from hubplane.backplane.redis.client import ClientSource
from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.events import RedisEventQueue, RedisHandlers
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.backplane.redis.session import RedisSession
from hubplane.errors import BackplaneUnavailableError, ConfigurationError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.fakes import FakeClock


def test_what_it_is_and_where_it_connects() -> None:
    """It counts receivers, leaves gaps, and tells its endpoints without any secret."""
    node = RedisBackplane(parse("a,b:1,!/c.sock,password=secret"))
    assert (node.traits.name, node.traits.counts_receivers, node.traits.resumes_after_loss) == ("redis", True, False)
    assert node.endpoints == ["a:6379", "b:1", "!/c.sock"]
    assert not node.is_connected
    assert "secret" not in repr(node) + repr(vars(node))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a,$SUBSCRIBE=", "needs the command SUBSCRIBE"),
        ("a,$publish=", "needs the command PUBLISH"),
    ],
)
def test_refuses_what_it_cannot_do(text: str, error: str) -> None:
    """Options that cannot work are refused when it is made, not when it runs."""
    with pytest.raises(ConfigurationError, match=error):
        RedisBackplane(parse(text))


async def test_refuses_outside_a_run() -> None:
    """Without a run nothing can be published, subscribed or counted; dropping a channel is always possible."""
    node = RedisBackplane(RedisOptions())
    for call in (node.publish("room", b""), node.subscribe(["room"]), node.count_subscribers(["room"])):
        with pytest.raises(BackplaneUnavailableError, match="not running"):
            await call
    assert await node.count_subscribers([]) == {}
    await node.unsubscribe(["room"])


async def test_failure_of_a_task_is_an_outage() -> None:
    """Should one of its own tasks ever fail, the backplane says that it is lost rather than be deaf."""
    sink = RecordingSink()
    events = RedisEventQueue(RedisHandlers())
    session = RedisSession(RedisOptions(), sink, clock=FakeClock(), random=Random(1), events=events)
    session._failed(RuntimeError("the clock stopped"))
    session._failed(RuntimeError("and another"))
    assert [str(error) for error in sink.errors] == ["The Redis backplane failed: the clock stopped."]
    assert not session.is_connected
    await session.close()
    session._failed(RuntimeError("too late"))
    assert sink.events == ["lost"]


def test_brought_client_is_no_cluster() -> None:
    """A client leads to one server, so options that say Cluster contradict it, and what is meant is said."""
    source = ClientSource(Redis(host="redis.internal"))
    with pytest.raises(ConfigurationError, match="leads to one server"):
        RedisBackplane(RedisOptions(topology="cluster"), source=source)
    assert RedisBackplane(RedisOptions(), source=source).options.topology == "single"
