"""Facts about subscriptions that come with the first local member and go with the last."""

from __future__ import annotations

import asyncio
import logging

import pytest

from hubplane.errors import BackplaneUnavailableError
from hubplane.lifetime.interest import Interest
from hubplane.supervisor import Supervisor
from hubplane.testing.recording import RecordingBackplane


class Setup:
    def __init__(self) -> None:
        self.backplane = RecordingBackplane()
        self.supervisor = Supervisor("test")
        self.refused: list[str] = []
        self.interest = Interest(self.backplane, self.supervisor, on_refused=self.refused.append)

    async def settled(self) -> None:
        """All work has ended."""
        await self.supervisor.close(grace=1.0)
        self.supervisor.open()

    async def want(self, channel: str) -> None:
        """Join and wait."""
        if (confirmed := self.interest.want(channel)) is not None:
            await confirmed


def some_turns() -> asyncio.Future[None]:
    """Let everything scheduled by now run."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def count(left: int) -> None:
        if left:
            asyncio.get_running_loop().call_soon(count, left - 1)
        else:
            future.set_result(None)

    count(5)
    return future


async def test_first_and_last() -> None:
    """The first member subscribes and waits, the next one does neither, the last one unsubscribes."""
    setup = Setup()
    first = setup.interest.want("g")
    assert first is not None
    await first
    assert setup.interest.want("g") is None
    assert setup.interest.channels() == ["g"]
    released = setup.interest.release("g")
    assert released is not None
    await released
    await setup.settled()
    assert setup.backplane.commands == [("subscribe", "g"), ("unsubscribe", "g")]
    assert setup.interest.channels() == []
    assert setup.interest.release("g") is None


async def test_joiners_share_the_outcome() -> None:
    """Everybody who joins while the subscription is under way waits for the same one."""
    setup = Setup()
    setup.backplane.hold()
    waiting = [setup.interest.want("g") for _ in range(3)]
    await some_turns()
    assert all(future is not None and not future.done() for future in waiting)
    setup.backplane.let_go()
    for future in waiting:
        assert future is not None
        await future
    assert setup.backplane.commands == [("subscribe", "g")]


@pytest.mark.row("X11")
async def test_refused() -> None:
    """A refused subscription fails all who wait for it, after the rollback; the next join subscribes."""
    setup = Setup()
    setup.backplane.refusal = BackplaneUnavailableError("no")
    waiting = [setup.interest.want("g") for _ in range(2)]
    for future in waiting:
        assert future is not None
        with pytest.raises(BackplaneUnavailableError, match="no"):
            await future
    assert setup.refused == ["g"]
    assert setup.interest.channels() == []
    setup.backplane.refusal = None
    await setup.want("g")
    assert setup.backplane.subscribed == {"g"}


@pytest.mark.row("X9")
async def test_join_while_the_last_one_leaves() -> None:
    """Whoever joins while the last member's unsubscription is under way waits for a new subscription."""
    setup = Setup()
    await setup.want("g")
    setup.backplane.hold()
    released = setup.interest.release("g")
    await some_turns()
    joined = setup.interest.want("g")
    assert released is not None
    assert joined is not None
    setup.backplane.let_go()
    await released
    await joined
    assert setup.backplane.commands == [("subscribe", "g"), ("unsubscribe", "g"), ("subscribe", "g")]
    assert setup.backplane.subscribed == {"g"}


@pytest.mark.row("X9")
async def test_join_before_the_unsubscription_has_left() -> None:
    """A join in the same turn as the last leave keeps the subscription as it is."""
    setup = Setup()
    await setup.want("g")
    released = setup.interest.release("g")
    assert setup.interest.want("g") is None
    assert released is not None
    await released
    assert setup.backplane.commands == [("subscribe", "g")]


@pytest.mark.row("X8")
async def test_leave_while_the_first_one_joins() -> None:
    """If the only member leaves before its subscription is confirmed, none is left behind."""
    setup = Setup()
    setup.backplane.hold()
    joined = setup.interest.want("g")
    await some_turns()
    released = setup.interest.release("g")
    setup.backplane.let_go()
    assert joined is not None
    assert released is not None
    await joined
    await released
    assert setup.backplane.commands == [("subscribe", "g"), ("unsubscribe", "g")]


async def test_leave_in_the_turn_of_the_join() -> None:
    """A member that leaves in the turn in which it joined costs no command, and neither call fails."""
    setup = Setup()
    joined = setup.interest.want("g")
    released = setup.interest.release("g")
    assert joined is not None
    assert released is not None
    await joined
    await released
    assert setup.backplane.commands == []
    assert setup.interest.channels() == []


async def test_refused_after_all_have_left() -> None:
    """A refusal that nobody wants any more fails the joiner who waited for it, and rolls nobody back."""
    setup = Setup()
    setup.backplane.hold()
    joined = setup.interest.want("g")
    await some_turns()
    released = setup.interest.release("g")
    setup.backplane.refusal = BackplaneUnavailableError("no")
    setup.backplane.let_go()
    assert joined is not None
    assert released is not None
    with pytest.raises(BackplaneUnavailableError):
        await joined
    await released
    assert setup.refused == []


async def test_back_and_forth() -> None:
    """However often membership changes meanwhile, the last wanted state is reached."""
    setup = Setup()
    setup.backplane.hold()
    futures: list[asyncio.Future[None] | None] = []
    for turn in range(20):
        futures.append(setup.interest.want("g"))
        if turn % 3 == 0:
            await some_turns()
        futures.append(setup.interest.release("g"))
    last = setup.interest.want("g")
    setup.backplane.let_go()
    assert last is not None
    await last
    await setup.settled()
    assert setup.backplane.subscribed == {"g"}
    assert all(future is None or future.done() for future in futures)


async def test_channels_do_not_wait_for_each_other() -> None:
    """A slow subscription of one channel delays no other one."""
    setup = Setup()
    setup.backplane.hold()
    slow = setup.interest.want("slow")
    await some_turns()
    gate, setup.backplane._gate = setup.backplane._gate, None
    await setup.want("quick")
    assert slow is not None
    assert not slow.done()
    setup.backplane._gate = gate
    setup.backplane.let_go()
    await slow


async def test_cancelled_waiter() -> None:
    """A caller who gives up waiting takes neither the subscription nor the others' wait with it."""
    setup = Setup()
    setup.backplane.hold()
    one = setup.interest.want("g")
    two = setup.interest.want("g")
    await some_turns()
    assert one is not None
    assert two is not None
    one.cancel()
    setup.backplane.let_go()
    await two
    assert setup.backplane.subscribed == {"g"}


async def test_shutdown_while_joining() -> None:
    """If the hub stops while a subscription is under way, the joiner learns it."""
    setup = Setup()
    setup.backplane.hold()
    joined = setup.interest.want("g")
    await some_turns()
    await setup.supervisor.close()
    assert joined is not None
    with pytest.raises(BackplaneUnavailableError, match="shutting down"):
        await joined
    assert setup.refused == ["g"]


async def test_join_after_shutdown() -> None:
    """A hub that has stopped subscribes nothing; leaving it is quiet."""
    setup = Setup()
    await setup.want("g")
    await setup.supervisor.close()
    joined = setup.interest.want("late")
    assert joined is not None
    with pytest.raises(BackplaneUnavailableError, match="shutting down"):
        await joined
    released = setup.interest.release("g")
    assert released is not None
    await released
    assert setup.backplane.subscribed == {"g"}


async def test_unexpected_failure(caplog: pytest.LogCaptureFixture) -> None:
    """Should a carrier break its word, the joiner still gets an answer and the failure is logged."""

    class Broken(RecordingBackplane):
        async def subscribe(self, channels: object, *, keep: bool = False) -> None:
            raise ArithmeticError("broken")

    supervisor = Supervisor("test")
    refused: list[str] = []
    interest = Interest(Broken(), supervisor, on_refused=refused.append)
    with caplog.at_level(logging.ERROR):
        joined = interest.want("g")
        assert joined is not None
        with pytest.raises(BackplaneUnavailableError):
            await joined
        await supervisor.close(grace=1.0)
    assert "Task failed" in caplog.text
    assert refused == ["g"]
