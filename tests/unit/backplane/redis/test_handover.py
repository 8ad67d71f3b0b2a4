"""`Handover`: each message once and in order, wherever it came first."""

from __future__ import annotations

from random import Random

import pytest

from hubplane.backplane.redis.handover import Handover, Passage


def test_old_server_is_heard_until_the_end() -> None:
    """While both are subscribed the old one is heard; afterwards only the new one."""
    move = Handover(0.0)
    assert move.from_old(b"1", 0.6)
    assert not move.from_new(b"1", 0.6)
    assert not move.is_due(1.49)
    assert move.is_due(1.5)
    assert move.settle(1.5) == []
    assert not move.from_old(b"2", 1.6)
    assert move.from_new(b"2", 1.6)


def test_what_the_old_server_missed_is_delivered() -> None:
    """A message that only the new server brought is not lost."""
    move = Handover(0.0)
    for payload in (b"1", b"2", b"2"):
        move.from_new(payload, 0.6)
    move.from_old(b"2", 0.6)
    assert move.settle(1.5) == [b"1", b"2"]


def test_copy_of_what_was_delivered_before() -> None:
    """What the old server brought before both were subscribed may come from the new one a little later: no message."""
    move = Handover(0.0)
    move.from_new(b"delivered before", 0.4)
    assert move.settle(1.5) == []


def test_late_copy_is_recognised() -> None:
    """What the old server brought last is not taken again when the new one brings it later."""
    move = Handover(0.0)
    move.from_old(b"1", 1.45)
    assert move.settle(1.5) == []
    assert not move.from_new(b"1", 1.6)
    assert move.from_new(b"1", 1.6)


def test_old_message_is_not_taken_for_a_copy() -> None:
    """What the old server alone had heard long before does not swallow an equal message that comes later."""
    move = Handover(0.0)
    move.from_old(b"ping", 0.01)
    move.settle(1.5)
    assert move.from_new(b"ping", 1.6)


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
    """However much one server runs ahead of the other, within the time allowed, each message arrives once, in order."""
    random = Random(seed)
    # Message n is published at n hundredths; each server brings it a little later, in order.
    arrivals: list[tuple[float, int, int]] = []
    for server in range(2):
        now = 0.0
        for number in range(300):
            now = max(now, number / 100 + random.uniform(0.0, 0.4))
            arrivals.append((now, server, number))
    subscribed = random.uniform(0.0, 0.5)
    move: Handover | None = None
    got: list[int] = []
    for now, server, number in sorted(arrivals):
        payload = b"%d" % number
        if move is None and now >= subscribed:
            move = Handover(now)
        if move is not None and not move.is_settled and move.is_due(now):
            got += map(int, move.settle(now))
        if server == 0 and (move is None or move.from_old(payload, now)):
            got.append(number)
        # What the bus brings late comes even if it was published before.
        if server == 1 and move is not None and move.from_new(payload, now):
            got.append(number)
    assert move is not None
    assert move.is_settled
    assert got == list(range(300))


def test_shard_that_changes_its_primary() -> None:
    """What is published at the new primary is heard from the moment it is subscribed there; the old one has copies."""
    move = Handover(0.0, shard=True)
    assert move.from_old(b"before", 0.01)
    assert not move.from_new(b"before", 0.02)
    assert not move.from_new(b"both", 0.02)
    assert move.from_old(b"both", 0.03)
    move.begin(0.03)
    assert not move.from_new(b"new only", 0.04)
    assert not move.is_due(1.02)
    assert move.is_due(1.03)
    assert move.settle(1.03) == [b"new only"]
    assert not move.from_old(b"new only", 1.1)


def test_slot_that_changes_its_shard() -> None:
    """Equal messages from both servers are two messages: neither hears what is published at the other."""
    move = Passage(0.0)
    assert move.from_old(b"tick", 0.1)
    assert move.from_new(b"tick", 0.1)
    assert move.settle(0.5) == []
    assert move.from_new(b"tick", 0.6)
    assert move.from_old(b"late", 0.6)
