"""`Handover`: each message once and in order, wherever it came first."""

from __future__ import annotations

from random import Random

import pytest

from hubplane.backplane.redis.handover import Handover


def test_old_server_is_heard_until_the_end() -> None:
    """While both are subscribed the old one is heard; afterwards only the new one."""
    move = Handover(0.0)
    assert move.from_old(b"1", 0.1)
    assert not move.from_new(b"1")
    assert not move.is_due(0.49)
    assert move.is_due(0.5)
    assert move.settle(0.5) == []
    assert not move.from_old(b"2", 0.6)
    assert move.from_new(b"2")


def test_what_the_old_server_missed_is_delivered() -> None:
    """A message that only the new server brought is not lost."""
    move = Handover(0.0)
    for payload in (b"1", b"2", b"2"):
        move.from_new(payload)
    move.from_old(b"2", 0.1)
    assert move.settle(0.5) == [b"1", b"2"]


def test_late_copy_is_recognised() -> None:
    """What the old server brought last is not taken again when the new one brings it later."""
    move = Handover(0.0)
    move.from_old(b"1", 0.45)
    assert move.settle(0.5) == []
    assert not move.from_new(b"1")
    assert move.from_new(b"1")


def test_old_message_is_not_taken_for_a_copy() -> None:
    """What the old server alone had heard long before does not swallow an equal message that comes later."""
    move = Handover(0.0)
    move.from_old(b"ping", 0.01)
    move.settle(0.5)
    assert move.from_new(b"ping")


def test_flood_ends_it_early() -> None:
    """More than four megabytes are not remembered: the old server is given up."""
    move = Handover(0.0)
    move.from_old(b"x" * 5_000_000, 0.0)
    assert move.is_due(0.0)
    move.settle(0.0)
    assert not move.is_due(0.9)
    assert move.is_due(1.0)


@pytest.mark.parametrize("seed", range(200))
def test_any_interleaving(seed: int) -> None:
    """However two servers that both bring all messages run ahead of one another, each arrives once and in order."""
    random = Random(seed)
    sent = [b"%d" % number for number in range(100)]
    first = random.randrange(20)  # where the new server's subscription begins
    end = random.randrange(first, 80)
    move, got = Handover(0.0), sent[:first]
    old, new = list(sent[first:]), list(sent[first:])
    # The old server has all messages that were published before its end, sooner or later than the new one.
    lag = random.randrange(10)
    position = 0
    for step in range(len(new) + lag):
        if step < len(old) and first + step < end:
            got += [old[step]] if move.from_old(old[step], 0.4) else []
        if first + step == end:
            got += move.settle(0.5)
        if step >= lag and position < len(new):
            got += [new[position]] if move.from_new(new[position]) else []
            position += 1
    if end >= first + len(new) + lag:
        got += move.settle(0.5)
    assert got == sent
