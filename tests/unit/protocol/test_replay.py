"""Facts about counting: what is kept, what is sent again, what is dropped, what is acknowledged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubplane.errors import RemoteProtocolError
from hubplane.options import HubOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import (
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HandshakeRequest,
    HubMessage,
    Invocation,
    Ping,
    Sequence_,
    StreamItem,
)
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.replay import ReceiptCount, ReplayLog, StatefulSession

PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}


def new_session(protocol: str = "json", version: int = 2) -> StatefulSession:
    """A session behind its handshake."""
    session = StatefulSession(PROTOCOLS, HubOptions(), now=0.0, transfer_formats=tuple(TransferFormat))
    (request,) = session.receive_data(json.dumps({"protocol": protocol, "version": version}).encode() + b"\x1e")
    assert isinstance(request, HandshakeRequest)
    return session


def log_of(*payloads: bytes) -> ReplayLog:
    """A log with these messages."""
    log = ReplayLog()
    for payload in payloads:
        log.add(payload)
    return log


# -- what was sent ----------------------------------------------------------------------------------------------------


def test_messages_are_numbered_from_one() -> None:
    """Messages are numbered 1, 2, 3 in the order of sending; all are kept, with their bytes counted."""
    log = log_of(b"a", b"bb", b"ccc")
    assert (log.first, log.last, log.size) == (1, 3, 6)
    assert log.messages() == [b"a", b"bb", b"ccc"]


@pytest.mark.row("B145")
def test_nothing_kept_begins_behind_the_last() -> None:
    """With nothing to send again, the sequence begins one behind the last message; before the first it is 1."""
    log = ReplayLog()
    assert log.first == 1
    log.add(b"a")
    log.acknowledge(1)
    assert (log.first, log.messages(), log.size) == (2, [], 0)


@pytest.mark.row("B144")
def test_acknowledged_messages_are_forgotten() -> None:
    """An acknowledgement drops what it covers, and what is sent again are the same bytes, oldest first."""
    kept = b"the very bytes"
    log = log_of(b"a", b"b", kept, b"d")
    log.acknowledge(2)
    assert (log.first, log.size) == (3, len(kept) + 1)
    assert log.messages()[0] is kept


@pytest.mark.parametrize("sequence_id", [-(2**63), -1, 0, 1, 2])
def test_acknowledged_twice(sequence_id: int) -> None:
    """An acknowledgement of what is forgotten already, or of nothing, changes nothing."""
    log = log_of(b"a", b"b", b"c")
    log.acknowledge(2)
    log.acknowledge(sequence_id)
    assert (log.first, log.messages()) == (3, [b"c"])


@pytest.mark.parametrize("sequence_id", [3, 4, 2**63 - 1])
def test_acknowledged_beyond_the_end(sequence_id: int) -> None:
    """An acknowledgement of more than was sent forgets everything, and the numbers go on where they were."""
    log = log_of(b"a", b"b", b"c")
    log.acknowledge(sequence_id)
    assert (log.first, log.last, log.size) == (4, 3, 0)
    log.add(b"d")
    assert (log.first, log.last) == (4, 4)


def test_cleared_log() -> None:
    """A log can be emptied at the end of its connection."""
    log = log_of(b"a", b"b")
    log.clear()
    assert (log.messages(), log.size) == ([], 0)


# -- what was received ------------------------------------------------------------------------------------------------


def accepted(count: ReceiptCount, times: int) -> list[bool]:
    """What becomes of so many messages."""
    return [count.accept() for _ in range(times)]


@pytest.mark.row("B144")
def test_known_messages_are_dropped() -> None:
    """After a sequence number that goes back, messages up to the highest one received are dropped, the next is not."""
    count = ReceiptCount()
    assert accepted(count, 3) == [True] * 3
    count.begin_at(2)
    assert accepted(count, 3) == [False, False, True]


def test_sequence_is_optional() -> None:
    """Without a sequence number counting just goes on."""
    count = ReceiptCount()
    accepted(count, 2)
    assert count.accept()
    assert count.latest == 3


@pytest.mark.row("B146")
def test_sequence_from_the_future() -> None:
    """A sequence number above the next message's means that some are lost for good: an error with .NET's text."""
    count = ReceiptCount()
    accepted(count, 2)
    count.begin_at(3)
    with pytest.raises(
        RemoteProtocolError, match=r"^Sequence ID greater than amount of messages we've received\.$"
    ) as failed:
        count.begin_at(4)
    assert failed.value.error_type == "InvalidOperationException"


@pytest.mark.row("B142")
def test_what_is_to_be_acknowledged() -> None:
    """Nothing is due before the first message; then the highest number, once, until there is a higher one."""
    count = ReceiptCount()
    assert count.due() is None
    accepted(count, 2)
    assert count.due() == 2
    count.acknowledged()
    assert count.due() is None
    count.accept()
    assert count.due() == 3


def test_repeated_messages_are_acknowledged_again() -> None:
    """A message that comes again shows that the acknowledgement was lost with the socket: it is due again."""
    count = ReceiptCount()
    accepted(count, 2)
    count.acknowledged()
    count.begin_at(1)
    assert count.due() is None
    assert not count.accept()
    assert count.due() == 2


# -- a session --------------------------------------------------------------------------------------------------------

COUNTED: list[HubMessage] = [
    Invocation("Do", []),
    Completion("1", result=None),
    StreamItem("1", 5),
    CancelInvocation("1"),
]


def encoded(protocol: HubProtocol, *messages: HubMessage) -> bytes:
    """Bytes of a client; the types that only clients send are written here."""
    parts = []
    for message in messages:
        if isinstance(message, CancelInvocation):
            parts.append(b'{"type":5,"invocationId":"1"}\x1e' if protocol.name == "json" else b"\x05\x93\x05\x80\xa11")
        else:
            parts.append(protocol.encode(message))
    return b"".join(parts)


@pytest.mark.row("B151")
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_what_counts(protocol: HubProtocol) -> None:
    """Calls, items, completions and cancellations count; pings, close, acknowledgements and sequence numbers do not."""
    session = new_session(protocol.name)
    session.log.add(b"x")
    data = encoded(protocol, Ping(), *COUNTED, Ack(1), Sequence_(5), Close())
    kinds = [type(message) for message in session.receive_data(data)]
    assert kinds == [Ping, *(type(message) for message in COUNTED), Close]
    assert session.receipts.latest == len(COUNTED)
    assert session.log.messages() == []


@pytest.mark.row("B151")
def test_a_stream_call_counts() -> None:
    """A call of a streaming method counts."""
    session = new_session()
    session.receive_data(b'{"type":4,"invocationId":"1","target":"S","arguments":[]}\x1e')
    assert session.receipts.latest == 1


def test_unknown_types_do_not_count() -> None:
    """A message of an unknown type is skipped and not counted."""
    session = new_session()
    assert session.receive_data(b'{"type":99}\x1e') == []
    assert session.receipts.latest == 0


@pytest.mark.row("B141")
def test_version_1_does_not_count() -> None:
    """With version 1 nothing is counted or dropped: acknowledgements and sequence numbers come out, to be ignored."""
    session = new_session(version=1)
    data = encoded(PROTOCOLS["json"], Invocation("Do", []), Sequence_(9), Ack(1), Invocation("Do", []))
    assert len(session.receive_data(data)) == 4
    assert not session.counts
    assert session.receipts.latest == 0
    assert session.failure is None


@pytest.mark.row("B146")
def test_sequence_too_high_ends_the_session() -> None:
    """What came before a sequence number that is too high is served, nothing behind it."""
    session = new_session()
    messages = session.receive_data(
        encoded(PROTOCOLS["json"], Invocation("One", []), Sequence_(3), Invocation("Two", []))
    )
    assert [message.target for message in messages if isinstance(message, Invocation)] == ["One"]
    assert str(session.failure) == "Sequence ID greater than amount of messages we've received."
    assert session.receive_data(encoded(PROTOCOLS["json"], Invocation("Three", []))) == []


def test_half_a_message_is_lost_with_its_socket() -> None:
    """The beginning of a message that broke off is forgotten; on the next socket the message comes whole."""
    session = new_session()
    data = encoded(PROTOCOLS["json"], Invocation("One", []))
    assert session.receive_data(data[:10]) == []
    session.socket_lost()
    assert len(session.receive_data(data)) == 1
    assert session.failure is None


# -- two sides --------------------------------------------------------------------------------------------------------


@dataclass
class Side:
    """One side of a connection, which numbers what its application sends: a model of client and server alike."""

    log: ReplayLog = field(default_factory=ReplayLog)
    receipts: ReceiptCount = field(default_factory=ReceiptCount)
    sent: int = 0
    arrived: list[int] = field(default_factory=list)
    wire: list[tuple[str, int]] = field(default_factory=list)

    def send(self) -> None:
        self.sent += 1
        self.log.add(b"%d" % self.sent)
        self.wire.append(("message", self.sent))

    def acknowledge(self) -> None:
        if (number := self.receipts.due()) is not None:
            self.wire.append(("ack", number))
            self.receipts.acknowledged()

    def come_back(self) -> None:
        self.wire = [("sequence", self.log.first), *(("message", int(kept)) for kept in self.log.messages())]

    def receive(self, part: tuple[str, int]) -> None:
        kind, number = part
        if kind == "ack":
            self.log.acknowledge(number)
        elif kind == "sequence":
            self.receipts.begin_at(number)
        elif self.receipts.accept():
            self.arrived.append(number)


def take(step: str, side: Side, other: Side) -> None:
    """One thing that happens."""
    if step == "send":
        side.send()
    elif step == "ack":
        side.acknowledge()
    elif step == "pass" and side.wire:
        other.receive(side.wire.pop(0))
    elif step == "cut":
        side.come_back()
        other.come_back()


def arrive(side: Side, other: Side) -> None:
    """Everything under way arrives."""
    while side.wire:
        other.receive(side.wire.pop(0))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1)),
        st.tuples(st.just("ack"), st.integers(0, 1)),
        st.tuples(st.just("pass"), st.integers(0, 1)),
        st.tuples(st.just("cut"), st.integers(0, 1)),
    ),
    max_size=120,
)


@pytest.mark.row("B153")
@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_every_message_arrives_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """However sends, acknowledgements and losses of the socket meet, both sides get everything once and in order."""
    sides = Side(), Side()
    for step, which in steps:
        take(step, sides[which], sides[1 - which])
        for each in sides:
            assert each.arrived == list(range(1, len(each.arrived) + 1))
    for side, other in (sides, sides[::-1]):
        arrive(side, other)
    for side, other in (sides, sides[::-1]):
        assert other.arrived == list(range(1, side.sent + 1))
        side.acknowledge()
        arrive(side, other)
    assert [side.log.messages() for side in sides] == [[], []]
