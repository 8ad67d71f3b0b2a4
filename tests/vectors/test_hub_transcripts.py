"""Conversations of clients with a running ASP.NET Core 10, replayed against our session and protocols.

What clients sent must be read as the recording reads it, or be refused in ASP.NET Core's words; what the server sent
must come out of our encoders byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any  # recorded values in JSON

import msgspec
import pytest

from hubplane.errors import HandshakeError, RemoteProtocolError
from hubplane.options import HttpTransportType, HubOptions
from hubplane.protocol.framing import split_frames
from hubplane.protocol.handshake import HANDSHAKE_SUCCESS, encode_handshake_error, parse_handshake_response
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import (
    UNSET_RESULT,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HandshakeRequest,
    HubMessage,
    Invocation,
    Ping,
    Raw,
    Sequence_,
    StreamInvocation,
    StreamItem,
)
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.negotiation import encode_negotiate_error, encode_negotiate_response, parse_negotiate_query
from hubplane.protocol.session import HubSession

DATA = Path(__file__).parent / "data"
RECORDINGS = {name: json.loads((DATA / f"hub-{name}.json").read_text("utf-8")) for name in ("json", "msgpack")}
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
GENERIC = "Connection closed with an error."

# Two endings that have other causes than the bytes the client sent.
TIMED_OUT = {"handshake/timeout", "handshake/timeout-partial"}
# Seven digits of a second; a float of 32 bits; a U+FFFD that was a lone surrogate (test_hub_values has it).
NOT_IN_PYTHON = {
    "official-js/receive-datetime_utc_ticks",
    "official-js/receive-float_0_1",
    "official-js/receive-str_lone_high",
}
# Closed by what the hub did, not by the protocol.
NOT_THE_CLIENTS_FAULT = ("error/", "close/", "stateful/", "handshake/refused")


def raw_bytes(recorded: Any) -> bytes:
    """Recorded bytes: hex, or parts of [hex, times]."""
    if isinstance(recorded, str):
        return bytes.fromhex(recorded)
    return b"".join(bytes.fromhex(part) * times for part, times in recorded["parts"])


@dataclass
class Transcript:
    """One recorded connection.

    Attributes:
        sent: The client's WebSocket messages.
        received: All bytes of the server.
        asked: What an independent reader saw in `sent`.
        answered: The same for `received`.
    """

    name: str
    protocol: str
    shakes_hands: bool
    limit: int | None
    only: str | None
    detailed: bool
    sent: list[bytes] = field(default_factory=list)
    received: bytes = b""
    asked: list[Any] = field(default_factory=list)
    answered: list[Any] = field(default_factory=list)


def transcripts() -> Iterator[Transcript]:
    """All recorded connections of both files."""
    for recording in RECORDINGS.values():
        for entry in recording["transcripts"]:
            transcript = Transcript(
                entry["name"],
                entry["protocol"],
                entry["handshake"] == "recorded",
                entry.get("limit", 32_768),
                entry.get("only"),
                entry["detailed"],
            )
            for direction, frame in entry["frames"]:
                if direction == "C":
                    transcript.sent.append(raw_bytes(frame))
                else:
                    transcript.received += raw_bytes(frame)
            for direction, message in entry["messages"]:
                (transcript.asked if direction == "C" else transcript.answered).append(message)
            yield transcript


every_transcript = pytest.mark.parametrize(
    "transcript", list(transcripts()), ids=lambda transcript: f"{transcript.protocol}-{transcript.name}"
)


def open_session(transcript: Transcript) -> HubSession:
    """A session in the state in which the recording begins."""
    protocols = {transcript.only: PROTOCOLS[transcript.only]} if transcript.only else PROTOCOLS
    session = HubSession(
        protocols,
        HubOptions(maximum_receive_message_size=transcript.limit),
        now=0.0,
        transfer_formats=tuple(TransferFormat),
    )
    if not transcript.shakes_hands:
        session.receive_data(b'{"protocol":"%b","version":1}\x1e' % transcript.protocol.encode())
    return session


def plain(value: Any) -> Any:
    """A recorded value in Python's types; only MessagePack's need more than JSON has."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not any(key.startswith("$") for key in value):
        return {key: plain(item) for key, item in value.items()}
    ((kind, content), *more) = value.items()
    if kind == "$map":
        return {plain(key): plain(item) for key, item in content}
    if kind == "$ext":
        members = dict(more)
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=members["seconds"])
        return moment + timedelta(microseconds=(members["nanoseconds"] + 500) // 1000)
    if kind == "$repeat":
        text, times = content
        return text * times
    return SCALARS[kind](content)


SCALARS: dict[str, Callable[[str], object]] = {
    "$bin": bytes.fromhex,
    "$f32": float,
    "$f64": float,
    "$int": int,
    "$str": lambda content: bytes.fromhex(content).decode(errors="replace"),  # no UTF-8
}


def expected(transcript: Transcript) -> list[dict[str, Any]]:
    """What the recording says that the client sent, in the shape of `view`; unknown types are left out."""
    views = []
    for message in transcript.asked:
        if message is None:  # unfinished
            continue
        if isinstance(message, dict) and "protocol" in message and "type" not in message:
            views.append({"handshake": message["protocol"], "version": message["version"]})
            continue
        value = named(plain(message)) if transcript.protocol == "messagepack" else plain(message)
        if value["type"] in MEMBERS:
            views.append({name: value[name] for name in MEMBERS[value["type"]] if is_there(name, value)})
    return views


def is_there(name: str, value: dict[str, Any]) -> bool:
    """Whether a member says anything: empty ids, headers and lists of streams are as good as none."""
    return name in value and (name in {"arguments", "item", "result", "target"} or bool(value[name]))


MEMBERS = {
    1: ("type", "headers", "invocationId", "target", "arguments", "streamIds"),
    2: ("type", "headers", "invocationId", "item"),
    3: ("type", "headers", "invocationId", "error", "result"),
    4: ("type", "headers", "invocationId", "target", "arguments", "streamIds"),
    5: ("type", "headers", "invocationId"),
    6: ("type",),
    7: ("type", "error", "allowReconnect"),
    8: ("type", "sequenceId"),
    9: ("type", "sequenceId"),
}


KINDS = {
    Invocation: 1,
    StreamItem: 2,
    Completion: 3,
    StreamInvocation: 4,
    CancelInvocation: 5,
    Ping: 6,
    Close: 7,
    Ack: 8,
    Sequence_: 9,
}
WIRE_NAMES = {
    "invocation_id": "invocationId",
    "stream_ids": "streamIds",
    "allow_reconnect": "allowReconnect",
    "sequence_id": "sequenceId",
}


def named(items: list[Any]) -> dict[str, Any]:
    """A MessagePack message with the JSON protocol's names."""
    kind = items[0]
    if kind in {6, 8, 9} or kind not in MEMBERS:
        return dict(zip(("type", "sequenceId"), items, strict=False))
    if kind == 7:
        return dict(zip(MEMBERS[7], items, strict=False))
    if kind != 3:
        return dict(zip(MEMBERS[kind], items, strict=False))
    value = dict(zip(("type", "headers", "invocationId"), items, strict=False))
    if items[3] != 2:
        value["error" if items[3] == 1 else "result"] = items[4]
    return value


def view(message: HandshakeRequest | HubMessage, protocol: str) -> dict[str, Any]:
    """A message that we read, in the shape of the JSON protocol, without what is absent."""
    read = msgspec.json.decode if protocol == "json" else msgspec.msgpack.decode

    def opened(value: object) -> Any:
        if not isinstance(value, Raw):
            return value
        try:
            return read(value)
        except ValueError:  # text that is no Unicode: to be refused when the types are known
            return ...

    if isinstance(message, HandshakeRequest):
        return {"handshake": message.protocol, "version": message.version}
    kind = KINDS[type(message)]
    value = {
        "type": kind,
        **{WIRE_NAMES.get(name, name): item for name, item in msgspec.structs.asdict(message).items()},
    }
    for name in ("arguments", "item", "result"):
        if name in value:
            value[name] = opened(value[name])
    if value.get("result") is UNSET_RESULT:
        del value["result"]
    if value.pop("binding_error", None):
        value["arguments"] = ...  # the recording shows what they were
    if "streamIds" in value:
        value["streamIds"] = list(value["streamIds"])
    return {name: value[name] for name in MEMBERS[kind] if is_there(name, value)}


def sendable(value: dict[str, Any]) -> HubMessage:
    """The message that a recorded answer of the server is."""
    match value["type"]:
        case 1:
            return Invocation(value["target"], value["arguments"], value.get("invocationId"))
        case 2:
            return StreamItem(value["invocationId"], value["item"])
        case 3:
            result = value.get("result", UNSET_RESULT)
            return Completion(value["invocationId"], value.get("error"), result)
        case 6:
            return Ping()
        case 7:
            return Close(value.get("error"), value.get("allowReconnect", False))
        case 8:
            return Ack(value["sequenceId"])
        case kind:
            assert kind == 9
            return Sequence_(value["sequenceId"])


def recorded_fault(transcript: Transcript) -> str | None:
    """The error that the server's last word names, if the client's bytes were its cause."""
    if not transcript.answered or transcript.name.startswith(NOT_THE_CLIENTS_FAULT):
        return None
    last = transcript.answered[-1]
    if transcript.protocol == "messagepack" and isinstance(last, list):
        last = named(plain(last))
    error = last.get("error") if isinstance(last, dict) and last.get("type", 7) == 7 else None
    return None if error is None else str(error)


@every_transcript
@pytest.mark.row("B69", "B70", "B79", "B81", "B86")
def test_what_clients_sent_is_read_as_recorded(transcript: Transcript) -> None:
    """Each message in front of a fault is read as the independent reader of the recording did, unknown types apart."""
    session = open_session(transcript)
    read = [view(message, transcript.protocol) for data in transcript.sent for message in session.receive_data(data)]
    wanted = expected_before_fault(transcript, len(read)) if session.failure else expected(transcript)
    for seen, meant in zip(read, wanted, strict=True):
        if seen.get("arguments") is ...:
            del seen["arguments"]
            meant.pop("arguments", None)
        assert repr(seen) == repr(meant)  # NaN equals NaN, 1 does not equal True


def expected_before_fault(transcript: Transcript, count: int) -> list[dict[str, Any]]:
    """The first `count` messages; a faulty one has no shape that `expected` could show."""
    whole = transcript.asked
    try:
        transcript.asked = whole[:count]
        return expected(transcript)
    finally:
        transcript.asked = whole


@every_transcript
@pytest.mark.row("B62", "B64", "B66", "B68", "B72", "B83", "B84")
def test_faults_are_found_and_named_as_recorded(transcript: Transcript) -> None:
    """The session fails where ASP.NET Core ended the connection, with its text, and nowhere else."""
    session = open_session(transcript)
    for data in transcript.sent:
        session.receive_data(data)
    recorded = recorded_fault(transcript)
    failure = session.failure
    if transcript.name in TIMED_OUT:
        assert failure is None
        with pytest.raises(HandshakeError) as late:
            session.tick(15.5, busy=False)
        assert late.value.answer == recorded
        return
    if recorded is None:
        assert failure is None
        return
    assert failure is not None
    assert told(failure, detailed=transcript.detailed) == recorded


def told(failure: RemoteProtocolError, *, detailed: bool) -> str:
    """What the client is told of a failure."""
    if isinstance(failure, HandshakeError):
        assert failure.answer is not None
        detail = f" {failure.error_type}: {failure.detail}" if detailed and failure.detail != failure.answer else ""
        return failure.answer + detail
    return f"{GENERIC} {failure.error_type}: {failure.detail}" if detailed else GENERIC


@every_transcript
@pytest.mark.row("B78", "B80")
def test_what_the_server_sent_is_written_byte_for_byte(transcript: Transcript) -> None:
    """Each message of the server, made anew from its recorded meaning, has the recorded bytes."""
    if transcript.name in NOT_IN_PYTHON:
        return
    received = transcript.received
    protocol = PROTOCOLS[transcript.protocol]
    answers = list(transcript.answered)
    if transcript.shakes_hands and answers:
        head, separator, received = received.partition(b"\x1e")
        answer = answers.pop(0)
        error = parse_handshake_response(head)
        assert error == answer.get("error")
        written = HANDSHAKE_SUCCESS if error is None else encode_handshake_error(error)
        assert written == head + separator
    if transcript.protocol == "json":
        answers = [json.loads(text, parse_float=number) for text in received.split(b"\x1e")[:-1]]
    for answer in answers:
        value = named(plain(answer)) if transcript.protocol == "messagepack" else answer
        written = protocol.encode(sendable(value))
        assert received[: len(written)] == written
        received = received[len(written) :]
    assert not received


def number(text: str) -> float | Decimal:
    """A number with a fraction, as the type that can be written with the same digits."""
    return Decimal(text) if text.endswith("0") else float(text)


@every_transcript
@pytest.mark.row("B82")
def test_any_cut_gives_the_same_messages(transcript: Transcript) -> None:
    """Cut in two at any byte, or into single bytes, the client's bytes give the same messages and the same failure."""
    stream = b"".join(transcript.sent)
    whole = read_pieces(transcript, [stream])
    step = 1 + len(stream) // 400
    for cut in range(1, len(stream), step):
        assert read_pieces(transcript, [stream[:cut], stream[cut:]]) == whole
    if len(stream) < 2_000:
        assert read_pieces(transcript, [stream[index : index + 1] for index in range(len(stream))]) == whole


def read_pieces(transcript: Transcript, pieces: list[bytes]) -> str:
    """The messages that a session reads from `pieces`, and how it failed; as text, in which NaN equals NaN."""
    session = open_session(transcript)
    read = [view(message, transcript.protocol) for piece in pieces for message in session.receive_data(piece)]
    return f"{read} {session.failure!r}"


@every_transcript
def test_what_the_server_sent_is_read(transcript: Transcript) -> None:
    """Our decoders, which are clients in tests, read what the server sent as the recording does."""
    protocol = PROTOCOLS[transcript.protocol]
    received, answers = transcript.received, list(transcript.answered)
    if transcript.shakes_hands and answers:
        received = received.partition(b"\x1e")[2]
        answers.pop(0)
    bodies, rest = protocol.split(received, None)
    assert not rest
    views = [view(message, transcript.protocol) for body in bodies if (message := protocol.decode(body))]
    asked, transcript.asked = transcript.asked, answers
    try:
        assert views == expected(transcript)
    finally:
        transcript.asked = asked


# -- negotiate --------------------------------------------------------------------------------------------------

NEGOTIATIONS = [entry for entry in RECORDINGS["json"]["negotiate"] if entry["status"] == 200]


@pytest.mark.parametrize("entry", NEGOTIATIONS, ids=lambda entry: entry["name"])
@pytest.mark.row("B1", "B2", "B3", "B4", "B5", "B9")
def test_negotiate_answers_byte_for_byte(entry: dict[str, Any]) -> None:
    """Each recorded negotiate query gets the recorded body, ids apart."""
    path, _, text = entry["target"].partition("?")
    query = [(key, value) for pair in text.split("&") if pair for key, _, value in [pair.partition("=")]]
    recorded = json.loads(entry["body"])
    if "error" in recorded:
        with pytest.raises(RemoteProtocolError) as refused:
            parse_negotiate_query(query)
        assert encode_negotiate_error(refused.value.detail).decode() == entry["body"]
        return
    request = parse_negotiate_query(query)
    body = encode_negotiate_response(
        version=request.version,
        connection_id=recorded["connectionId"],
        connection_token=recorded.get("connectionToken"),
        transports=~HttpTransportType.NONE,
        use_stateful_reconnect=path.startswith("/stateful") and request.use_stateful_reconnect,
    )
    assert body.decode() == entry["body"]


def test_frames_of_messagepack_are_whole() -> None:
    """The recording of MessagePack holds whole frames only, so the tests above left nothing out."""
    for transcript in transcripts():
        if transcript.protocol == "messagepack" and not transcript.shakes_hands:
            assert split_frames(transcript.received, None)[1] == b""
