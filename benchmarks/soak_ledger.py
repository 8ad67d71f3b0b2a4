"""The soak's ledger: what was published, who was to hear it, who did; and the judgement over it.

All times are seconds since the epoch, of one machine.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field

__all__ = ["Gap", "Ledger", "Life", "Published"]


@dataclass(slots=True)
class Published:
    """One message: `done` is when its sender was told that Redis has it; None when it was not told so."""

    publisher: str
    number: int
    sent: float
    done: float | None = None


@dataclass(slots=True)
class Gap:
    """What a node reported by `on_gap`."""

    since: float
    until: float
    channels: frozenset[str]


@dataclass(slots=True)
class Stay:
    """A membership: certain from `begin` to `end`; until `over`, and from `asked` on, it is possible."""

    asked: float
    begin: float = float("inf")
    end: float = float("inf")
    over: float = float("inf")


@dataclass(slots=True)
class Life:
    """One connection, from its negotiation to its end.

    Attributes:
        ended: When it was known here to have ended, or was cut; None while it lives.
        whole: It lived to the end of the run and read everything: what is missing at its end is missing.
        troubled: Times in which it did not read, or had no socket.
    """

    connection_id: str
    node: str
    kind: str
    user: str
    ended: float | None = None
    why: str = ""
    whole: bool = False
    stays: dict[str, list[Stay]] = field(default_factory=lambda: defaultdict(list))
    heard: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))
    troubled: list[tuple[float, float]] = field(default_factory=list)

    def was_troubled(self, begin: float, end: float) -> bool:
        """Whether it may have been unable to answer at some time in between."""
        if self.ended is not None and self.ended <= end:
            return True
        return any(since <= end and begin <= until for since, until in self.troubled)


class Ledger:
    """Everything that is known about messages, and what is wrong."""

    def __init__(self) -> None:
        self.published: dict[str, list[Published]] = defaultdict(list)
        self.numbers: Counter[tuple[str, str]] = Counter()
        self.lives: dict[str, Life] = {}
        self.wrong: list[str] = []
        self.figures: Counter[str] = Counter()

    def publish(self, publisher: str, channel: str, now: float) -> Published:
        """The next message of a publisher on a channel."""
        self.numbers[publisher, channel] += 1
        message = Published(publisher, self.numbers[publisher, channel], now)
        self.published[channel].append(message)
        return message

    def hear(self, life: Life, publisher: str, channel: str, number: int) -> None:
        """A client got a message."""
        self.figures["messages received"] += 1
        numbers = life.heard[publisher, channel]
        if numbers and number <= numbers[-1]:
            what = "twice" if number in numbers else "out of order"
            self.blame(f"{life.kind} client {life.connection_id} got {channel} {number} of {publisher} {what}")
        numbers.append(number)

    def blame(self, sentence: str) -> None:
        """Something is wrong."""
        self.wrong.append(sentence)

    def judge(self, gaps: dict[str, list[Gap]]) -> None:
        """Look for what is missing, and for what was heard outside a stay.

        Args:
            gaps: What the nodes reported, by node. A ledger's channels have the backplane's names.
        """
        for life in self.lives.values():
            for channel, stays in life.stays.items():
                found = [gap for gap in gaps.get(life.node, ()) if channel in gap.channels]
                self._judge(life, channel, stays, found)

    def _judge(self, life: Life, channel: str, stays: list[Stay], gaps: list[Gap]) -> None:
        heard = {
            message[0]: (set(numbers), numbers[-1]) for message, numbers in life.heard.items() if message[1] == channel
        }
        for message in self.published[channel]:
            numbers, last = heard.get(message.publisher, (frozenset(), 0))
            if message.number in numbers:
                if not any(
                    stay.asked <= (message.done or float("inf")) and message.sent <= stay.over for stay in stays
                ):
                    self.blame(
                        f"{life.kind} client {life.connection_id} got {channel} {message.number} after it had left"
                    )
                continue
            if message.done is None or not any(
                stay.begin <= message.sent and message.done <= stay.end for stay in stays
            ):
                continue
            if not life.whole and message.number > last:
                continue
            self.figures["deliveries due"] += 1
            if any(gap.since <= message.done and message.sent <= gap.until for gap in gaps):
                self.figures["missing, told as a gap"] += 1
            else:
                self.figures["MISSING"] += 1
                if self.figures["MISSING"] <= 50:
                    near = [(round(gap.since - message.sent, 3), round(gap.until - message.sent, 3)) for gap in gaps]
                    self.blame(
                        f"{life.kind} client {life.connection_id} of {life.node} ({life.why or 'alive'}) misses "
                        f"{channel} {message.number} of {message.publisher} of {message.sent:.3f}"
                        f"+{message.done - message.sent:.3f}; gaps of its node relative to it: {near}"
                    )
        self.figures["deliveries due"] += sum(len(numbers) for numbers, _ in heard.values())

    def table(self) -> str:
        """The figures."""
        totals = Counter({"messages published": sum(map(len, self.published.values())), "connections": len(self.lives)})
        unsure = sum(one.done is None for one in itertools.chain.from_iterable(self.published.values()))
        totals["published without a confirmation"] = unsure
        totals.update(self.figures)
        return "\n".join(f"  {name:44} {number:>10,}" for name, number in sorted(totals.items()))
