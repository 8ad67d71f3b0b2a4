"""`Subscriber` and `WantedChannels`: what is wanted becomes true at Redis, without a socket."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pytest

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.subscriber import Subscriber
from hubplane.backplane.redis.wanted import Channel
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.fakes import FakeClock

if TYPE_CHECKING:
    from .conftest import Wire

LOST = BackplaneUnavailableError("The connection was lost.")
NOPERM = b"-NOPERM no permissions\r\n"


class Rig:
    """A subscriber with its clock, what it delivered, and how often it reported to be settled."""

    def __init__(self, options: RedisOptions | None = None) -> None:
        self.clock = FakeClock()
        self.heard: list[tuple[str, bytes]] = []
        self.settled = 0
        self.subscriber = Subscriber(
            options or RedisOptions(async_timeout=5.0), self.clock, self.deliver, self.count_settled
        )
        self.tasks: list[asyncio.Task[None]] = []

    def deliver(self, channel: str, payload: bytes) -> None:
        if payload == b"bad":
            raise RuntimeError("the sink broke its word")
        self.heard.append((channel, payload))

    def count_settled(self) -> None:
        self.settled += 1

    async def want(self, *names: str, keep: bool = False) -> asyncio.Task[None]:
        """Begin to subscribe, and let the turn end."""
        return await self._begin(self.subscriber.subscribe(names, keep=keep))

    async def drop(self, *names: str) -> asyncio.Task[None]:
        """Begin to unsubscribe, and let the turn end."""
        return await self._begin(self.subscriber.unsubscribe(names))

    async def _begin(self, call: object) -> asyncio.Task[None]:
        assert asyncio.iscoroutine(call)
        task: asyncio.Task[None] = asyncio.create_task(call)
        self.tasks.append(task)
        await turns()
        return task

    def pass_time(self, seconds: float) -> None:
        """Advance the clock and let deadlines act."""
        self.clock.advance(seconds)
        self.subscriber.tick(self.clock.monotonic())


async def turns(count: int = 3) -> None:
    """Let the loop go round a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def error_of(task: asyncio.Task[None]) -> str:
    """The error that a call ended with."""
    with pytest.raises(BackplaneUnavailableError) as caught:
        await task
    return str(caught.value)


def names(commands: Iterable[list[bytes]], kind: bytes = b"SUBSCRIBE") -> list[bytes]:
    """The channels of all commands of a kind."""
    return [name for command in commands if command[0] == kind for name in command[1:]]


async def test_calls_of_one_turn_are_one_command(wire: Callable[[], Wire]) -> None:
    """Many calls in one turn of the loop leave as one SUBSCRIBE, with the prefix in front of every name."""
    rig, redis = Rig(RedisOptions(channel_prefix="P:")), wire()
    rig.subscriber.attach(redis.connection)
    tasks = [asyncio.create_task(rig.subscriber.subscribe([name], keep=False)) for name in "abc"]
    await turns()
    assert redis.commands() == [[b"SUBSCRIBE", b"P:a", b"P:b", b"P:c"]]
    redis.answer(b"subscribe", b"P:a", b"P:b")
    await turns()
    assert [task.done() for task in tasks] == [True, True, False]
    redis.answer(b"subscribe", b"P:c")
    await asyncio.gather(*tasks)
    assert rig.subscriber.wanted == 3


async def test_many_channels_go_in_bounded_batches(wire: Callable[[], Wire]) -> None:
    """A thousand names per command and sixteen commands under way; the next goes when one is confirmed."""
    rig, redis = Rig(), wire()
    wanted = [f"{number}" for number in range(17_500)]
    rig.subscriber.keep(wanted)
    rig.subscriber.attach(redis.connection)
    commands = redis.commands()
    assert [len(command) - 1 for command in commands] == [1_000] * 16
    redis.answer(b"subscribe", *commands[0][1:])
    commands += redis.commands()
    assert len(commands) == 17
    for command in commands[1:]:
        redis.answer(b"subscribe", *command[1:])
    commands += redis.commands()
    assert len(commands[-1]) - 1 == 500
    assert not rig.subscriber.is_restored
    redis.answer(b"subscribe", *commands[-1][1:])
    assert rig.subscriber.is_restored
    assert sorted(names(commands)) == sorted(name.encode() for name in wanted)


async def test_confirmed_channel_is_not_asked_for_again(wire: Callable[[], Wire]) -> None:
    """Wanting what is confirmed returns at once; wanting what is under way waits for the same answer."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    first, second = await rig.want("a"), await rig.want("a")
    assert redis.commands() == [[b"SUBSCRIBE", b"a"]]
    redis.answer(b"subscribe", b"a")
    await asyncio.gather(first, second)
    await asyncio.wait_for(await rig.want("a"), 1)
    assert redis.commands() == []


@pytest.mark.row("X9")
async def test_last_wanted_state_wins_on_the_wire(wire: Callable[[], Wire]) -> None:
    """Commands follow each other without waiting, and only the confirmation of the last one counts."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    first = await rig.want("a")
    leaving = await rig.drop("a")
    await first
    again = await rig.want("a")
    assert redis.commands() == [[b"SUBSCRIBE", b"a"], [b"UNSUBSCRIBE", b"a"], [b"SUBSCRIBE", b"a"]]
    redis.answer(b"subscribe", b"a")
    redis.answer(b"unsubscribe", b"a")
    await turns()
    assert leaving.done()
    assert not again.done()
    redis.answer(b"subscribe", b"a")
    await again
    assert rig.subscriber.wanted == 1


async def test_opposite_wishes_of_one_turn_send_nothing(wire: Callable[[], Wire]) -> None:
    """Subscribing and unsubscribing in one turn cancel out, in both orders."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await asyncio.gather(rig.subscriber.subscribe(["a"], keep=False), rig.subscriber.unsubscribe(["a"]))
    assert redis.commands() == []
    rig.subscriber.keep(["b"])
    await turns()
    redis.answer(b"subscribe", b"b")
    redis.commands()
    await asyncio.gather(rig.subscriber.unsubscribe(["b"]), rig.subscriber.subscribe(["b"], keep=False))
    assert redis.commands() == []


async def test_channels_are_not_kept_by_their_batch(wire: Callable[[], Wire]) -> None:
    """Of the channels confirmed by one command those that nobody wants any more are gone, though one stays."""
    rig, redis = Rig(), wire()
    rig.subscriber.keep(["stays", *(f"goes {number}" for number in range(100))])
    rig.subscriber.attach(redis.connection)
    ((_, *asked),) = redis.commands()
    redis.answer(b"subscribe", *asked)
    dropping = await rig.drop(*(f"goes {number}" for number in range(100)))
    redis.answer(b"unsubscribe", *asked[1:])
    await dropping
    gc.collect()
    assert [one.name for one in gc.get_objects() if type(one) is Channel and one.name.startswith("goes")] == []


async def test_messages_reach_wanted_channels_only(wire: Callable[[], Wire], caplog: pytest.LogCaptureFixture) -> None:
    """Prefixes are taken off, foreign and dropped channels are silent, and a failing sink loses one message."""
    rig, redis = Rig(RedisOptions(channel_prefix="P:")), wire()
    rig.subscriber.attach(redis.connection)
    rig.subscriber.keep(["a", "b"])
    await turns()
    redis.answer(b"subscribe", b"P:a", b"P:b")
    await rig.drop("b")
    for channel, payload in ((b"P:a", b"1"), (b"P:b", b"2"), (b"Q:a", b"3"), (b"P:a", b"bad"), (b"P:a", b"4")):
        redis.receive(b"*3\r\n$7\r\nmessage\r\n$3\r\n%b\r\n$%d\r\n%b\r\n" % (channel, len(payload), payload))
    assert rig.heard == [("a", b"1"), ("a", b"4")]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


async def test_refusal_is_rolled_back(wire: Callable[[], Wire]) -> None:
    """When one channel of a call is refused the call fails, and what only it wanted is unsubscribed again."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    other = await rig.want("shared")
    call = await rig.want("shared", "mine", "secret")
    assert redis.commands() == [[b"SUBSCRIBE", b"shared"], [b"SUBSCRIBE", b"mine", b"secret"]]
    redis.answer(b"subscribe", b"shared")
    redis.receive(NOPERM)
    assert redis.commands() == [[b"SUBSCRIBE", b"mine"], [b"SUBSCRIBE", b"secret"]]
    redis.answer(b"subscribe", b"mine")
    redis.receive(NOPERM)
    assert await error_of(call) == (
        "Redis refused to subscribe channel secret: NOPERM no permissions. "
        "The node's user needs: ACL SETUSER default +subscribe &*"
    )
    await other
    await turns()
    assert redis.commands() == [[b"UNSUBSCRIBE", b"mine"]]
    assert rig.subscriber.refused == 0
    assert rig.subscriber.wanted == 1


async def test_error_that_is_no_refusal_is_not_split(wire: Callable[[], Wire]) -> None:
    """An error that blames no channel fails the whole command at once; what is kept is tried again later."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    call = await rig.want("a", "b", keep=True)
    redis.commands()
    redis.receive(b"-LOADING later\r\n")
    await call
    assert redis.commands() == []
    assert rig.subscriber.refused == 2
    rig.pass_time(0.25)
    assert redis.commands() == [[b"SUBSCRIBE", b"a"], [b"SUBSCRIBE", b"b"]]
    redis.answer(b"subscribe", b"a", b"b")
    assert rig.subscriber.refused == 0


async def test_refused_channels_are_retried_in_turn_with_growing_pauses(wire: Callable[[], Wire]) -> None:
    """Each round asks for sixteen of them, all have their turn, and one success brings all others at once."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    rig.subscriber.keep([f"{number:02}" for number in range(40)])
    await turns()
    redis.commands()
    redis.receive(b"-ERR no\r\n")
    assert rig.subscriber.refused == 40
    rounds: list[list[bytes]] = []
    for pause in (0.25, 0.25, 0.5):
        rig.pass_time(pause - 0.01)
        assert redis.commands() == []
        rig.pass_time(0.01)
        commands = redis.commands()
        assert all(len(command) == 2 for command in commands)
        rounds.append(names(commands))
        if len(rounds) < 3:
            redis.receive(NOPERM * len(commands))
    assert [len(round_) for round_ in rounds] == [16, 16, 16]
    assert len({name for round_ in rounds for name in round_}) == 40
    redis.answer(b"subscribe", rounds[-1][0])
    await turns()
    [rest] = redis.commands()
    assert len(rest) - 1 == 24
    redis.answer(b"subscribe", *rounds[-1][1:], *rest[1:])
    assert rig.subscriber.refused == 0
    assert rig.subscriber.is_restored


async def test_dropping_a_refused_channel_ends_the_retries(wire: Callable[[], Wire]) -> None:
    """A refused channel that nobody wants any more is forgotten; asking for it anew asks Redis at once."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await rig.want("a", keep=True)
    redis.receive(NOPERM)
    assert rig.subscriber.refused == 1
    await asyncio.wait_for(await rig.drop("a"), 1)
    assert rig.subscriber.refused == 0
    redis.commands()
    rig.pass_time(10)
    assert redis.commands() == []
    await rig.want("b", keep=True)
    redis.receive(NOPERM)
    redis.commands()
    await rig.want("b")
    assert redis.commands() == [[b"SUBSCRIBE", b"b"]]


async def test_refusal_of_a_channel_dropped_meanwhile(wire: Callable[[], Wire]) -> None:
    """A refusal that arrives after the channel was dropped ends the waiting and leaves nothing behind."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await rig.want("a")
    call = asyncio.create_task(rig.subscriber.unsubscribe(["a"]))
    await asyncio.sleep(0)
    redis.receive(NOPERM)
    await turns()
    assert call.done()
    assert rig.subscriber.refused == 0
    assert rig.subscriber.wanted == 0


async def test_everything_wanted_is_restored(wire: Callable[[], Wire]) -> None:
    """After a loss the wanted channels, and only those, are subscribed on the next connection before it settles."""
    rig, old, new = Rig(), wire(), wire()
    rig.subscriber.attach(old.connection)
    assert rig.settled == 1
    assert not rig.subscriber.missed
    rig.subscriber.keep(["a", "b", "c"])
    await turns()
    old.answer(b"subscribe", b"a", b"b", b"c")
    await rig.drop("c")
    rig.subscriber.detach(LOST)
    assert not rig.subscriber.is_answered
    await rig.drop("b")
    await rig.want("d", keep=True)
    rig.subscriber.attach(new.connection)
    assert new.commands() == [[b"SUBSCRIBE", b"a", b"d"]]
    assert rig.subscriber.missed
    new.answer(b"subscribe", b"a")
    assert (rig.settled, rig.subscriber.is_restored) == (1, False)
    new.answer(b"subscribe", b"d")
    assert (rig.settled, rig.subscriber.is_restored) == (2, True)


async def test_refused_restore_is_answered_but_not_restored(wire: Callable[[], Wire]) -> None:
    """A refusal counts as an answer; the outage ends when the refused channel is confirmed, or wanted no more."""
    rig, redis = Rig(), wire()
    rig.subscriber.keep(["a", "b"])
    rig.subscriber.attach(redis.connection)
    redis.receive(b"-ERR no\r\n")
    assert rig.subscriber.is_answered
    assert not rig.subscriber.is_restored
    rig.pass_time(0.25)
    redis.answer(b"subscribe", b"a")
    assert not rig.subscriber.is_restored
    await rig.drop("b")
    assert rig.subscriber.is_restored
    assert rig.settled >= 2


async def test_call_survives_a_loss_within_its_deadline(wire: Callable[[], Wire]) -> None:
    """A call whose channels were partly confirmed waits for all of them again on the next connection."""
    rig, old, new = Rig(), wire(), wire()
    rig.subscriber.attach(old.connection)
    call = await rig.want("a", "b")
    old.answer(b"subscribe", b"a")
    rig.subscriber.detach(LOST)
    rig.subscriber.attach(new.connection)
    new.answer(b"subscribe", b"a")
    await turns()
    assert not call.done()
    new.answer(b"subscribe", b"b")
    await call


async def test_call_without_an_answer_fails_in_time(wire: Callable[[], Wire]) -> None:
    """After the deadline the call fails and what it asked for is taken back; unsubscribing just returns."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    call = await rig.want("a", "b")
    rig.pass_time(4.9)
    assert not call.done()
    rig.pass_time(0.1)
    assert await error_of(call) == "Timeout awaiting confirmation of 2 channels (5000ms)."
    await turns()
    assert redis.commands() == [[b"SUBSCRIBE", b"a", b"b"], [b"UNSUBSCRIBE", b"a", b"b"]]
    await rig.want("c", keep=True)
    leaving = await rig.drop("c")
    rig.pass_time(5.0)
    await leaving
    redis.answer(b"subscribe", b"a", b"b")
    redis.answer(b"unsubscribe", b"a", b"b")
    redis.answer(b"subscribe", b"c")
    redis.answer(b"unsubscribe", b"c")
    assert rig.subscriber.wanted == 0


async def test_call_without_a_connection_fails_in_time() -> None:
    """Without a connection the error names the last reason, where there is one."""
    rig = Rig()
    call = await rig.want("a")
    rig.pass_time(5.0)
    assert (await error_of(call)).endswith("because no connection became available (5000ms)")
    rig.subscriber.detach(LOST)
    call = await rig.want("a")
    rig.pass_time(5.0)
    assert (await error_of(call)).endswith("(5000ms) - Last Connection Exception: The connection was lost.")


async def test_keep_returns_at_once_only_when_redis_is_away_for_sure(wire: Callable[[], Wire]) -> None:
    """While the first attempt to connect is undecided a call to keep waits for it; afterwards it does not."""
    rig, redis = Rig(), wire()
    undecided = await rig.want("a", keep=True)
    assert not undecided.done()
    rig.subscriber.detach(LOST)
    await undecided
    await asyncio.wait_for(await rig.want("b", keep=True), 1)
    rig.subscriber.attach(redis.connection)
    assert redis.commands() == [[b"SUBSCRIBE", b"a", b"b"]]


async def test_fail_fast_fails_at_once(wire: Callable[[], Wire]) -> None:
    """With "fail_fast" a call fails without a connection, and when the connection is lost under it."""
    rig, redis = Rig(RedisOptions(backlog="fail_fast")), wire()
    assert "No connection is active/available" in await error_of(await rig.want("a"))
    rig.subscriber.attach(redis.connection)
    call = await rig.want("b")
    rig.subscriber.detach(LOST)
    assert await error_of(call) == "Not confirmed: The connection was lost."
    assert rig.subscriber.wanted == 0


async def test_cancelled_call_is_rolled_back(wire: Callable[[], Wire]) -> None:
    """A call that is cancelled leaves nothing subscribed that only it wanted."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    call = await rig.want("a")
    call.cancel()
    await turns()
    assert call.cancelled()
    assert redis.commands() == [[b"SUBSCRIBE", b"a"], [b"UNSUBSCRIBE", b"a"]]
    confirmed = await rig.want("b")
    redis.answer(b"subscribe", b"a")
    redis.answer(b"unsubscribe", b"a")
    redis.answer(b"subscribe", b"b")
    confirmed.cancel()
    await turns()
    assert rig.subscriber.wanted == 1


async def test_name_that_cannot_be_encoded_leaves_no_trace() -> None:
    """A lone surrogate is the caller's error, and no other name of the call is wanted then."""
    rig = Rig()
    with pytest.raises(UnicodeEncodeError):
        await rig.subscriber.subscribe(["fine", "\ud800"], keep=True)
    assert rig.subscriber.wanted == 0


async def test_refused_unsubscribe_is_a_warning(wire: Callable[[], Wire], caplog: pytest.LogCaptureFixture) -> None:
    """Where Redis refuses UNSUBSCRIBE the caller does not wait for ever."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await rig.want("a", keep=True)
    redis.answer(b"subscribe", b"a")
    call = await rig.drop("a", "a")
    second = await rig.drop("a")
    redis.receive(NOPERM)
    await asyncio.gather(call, second)
    assert "Redis refused to unsubscribe 1 channels" in caplog.text


async def test_overlapping_unsubscribes_wait_for_the_same_answer(wire: Callable[[], Wire]) -> None:
    """Two calls that drop a channel in one turn both return when Redis has answered, or the connection is lost."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    for kind in ("answered", "lost"):
        await rig.want(kind, keep=True)
        redis.answer(b"subscribe", kind.encode())
        calls = [asyncio.create_task(rig.subscriber.unsubscribe([kind])) for _ in range(2)]
        await turns()
        assert not any(call.done() for call in calls)
        if kind == "answered":
            redis.answer(b"unsubscribe", b"answered")
        else:
            rig.subscriber.detach(LOST)
        await asyncio.gather(*calls)


async def test_loss_ends_waiting_for_unsubscribes_not_sent_yet(wire: Callable[[], Wire]) -> None:
    """A call to unsubscribe that waits for a full socket returns when the connection is lost."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await rig.want("a", keep=True)
    redis.answer(b"subscribe", b"a")
    redis.connection.pause_writing()
    call = await rig.drop("a")
    assert not call.done()
    rig.subscriber.detach(LOST)
    await call


async def test_full_socket_delays_commands(wire: Callable[[], Wire]) -> None:
    """While the socket is full nothing is sent; when it drains, everything that still differs."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    redis.connection.pause_writing()
    rig.subscriber.keep(["a", "b"])
    rig.subscriber.probe()
    await turns()
    await rig.drop("a")
    assert redis.commands() == []
    redis.connection.resume_writing()
    assert redis.commands() == [[b"SUBSCRIBE", b"b"]]


@pytest.mark.parametrize("answer", [b"+PONG\r\n", b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", b"-NOPERM no\r\n"])
async def test_probe_takes_any_answer(wire: Callable[[], Wire], answer: bytes) -> None:
    """A PING is answered differently under RESP2, RESP3 and without the right; each is a sign of life."""
    rig, redis = Rig(), wire()
    rig.subscriber.probe()
    rig.subscriber.attach(redis.connection)
    rig.subscriber.probe()
    rig.subscriber.keep(["a"])
    await turns()
    assert redis.commands() == [[b"PING"], [b"SUBSCRIBE", b"a"]]
    redis.receive(answer)
    redis.answer(b"subscribe", b"a")
    assert not redis.transport.aborted
    assert rig.subscriber.wanted == 1


@pytest.mark.parametrize("answer", [b"+PONG\r\n", b"-NOPERM no\r\n"])
async def test_probes_of_a_frozen_server_do_not_hold_commands_back(wire: Callable[[], Wire], answer: bytes) -> None:
    """What is wanted while nothing but probes is under way is sent as soon as the first of them is answered."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    for _ in range(20):
        rig.subscriber.probe()
    call = await rig.want("a", keep=True)
    assert redis.commands() == [[b"PING"]] * 20
    redis.receive(answer * 20)
    assert redis.commands() == [[b"SUBSCRIBE", b"a"]]
    redis.answer(b"subscribe", b"a")
    await call


@pytest.mark.parametrize(
    ("commands", "answer"),
    [
        ("", b"+PONG\r\n"),
        ("", b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("ping", b":1\r\n"),
        ("ping", b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("a", b"+PONG\r\n"),
        ("a", b">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:1\r\n"),
        ("a", b">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n"),
        ("a", b">1\r\n$9\r\nsubscribe\r\n"),
        ("a", b">0\r\n"),
        ("a", b">3\r\n$7\r\nmessage\r\n*0\r\n$1\r\nb\r\n"),
    ],
)
async def test_wrong_answer_ends_the_connection(wire: Callable[[], Wire], commands: str, answer: bytes) -> None:
    """An answer that does not fit the command under way proves that the stream is out of step."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    if commands == "ping":
        rig.subscriber.probe()
    elif commands:
        await rig.want(*commands, keep=True)
    redis.receive(answer)
    assert redis.transport.aborted


async def test_closing_ends_every_call(wire: Callable[[], Wire]) -> None:
    """When the subscriber closes, calls to subscribe fail, also those to keep, and calls to unsubscribe return."""
    rig, redis = Rig(), wire()
    rig.subscriber.attach(redis.connection)
    await rig.want("x", keep=True)
    redis.answer(b"subscribe", b"x")
    one, two, three = await rig.want("a"), await rig.want("b", keep=True), await rig.drop("x")
    rig.subscriber.close()
    assert "The backplane is not running" in await error_of(one)
    assert "The backplane is not running" in await error_of(two)
    await three
    assert rig.subscriber.wanted == 0
    redis.receive(b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$4\r\nlate\r\n")
    assert rig.heard == []
