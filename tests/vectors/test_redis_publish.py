"""What ASP.NET Core publishes: its envelopes are read and written byte for byte; the same calls give the same bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any  # recorded JSON

import pytest

from hubplane.lifetime.audience import ALL, Audience, AudienceKind
from hubplane.lifetime.envelope import (
    GroupCommand,
    decode_ack,
    decode_completion,
    decode_group_command,
    decode_invocation,
    encode_ack,
    encode_completion,
    encode_group_command,
    encode_invocation,
)
from hubplane.lifetime.routes import BackplaneRoutes
from hubplane.lifetime.scaleout import ScaleoutHubLifetimeManager
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Invocation
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.serialized import SerializedHubMessage
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.recording import RecordedClient, RecordingBackplane

DATA = Path(__file__).parent / "data"
RECORDED = json.loads((DATA / "redis-publish.json").read_text(encoding="utf-8"))
PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}

# The values of the catalogue that mean the same in Python, and are written by both protocols.
VALUES: dict[str, object] = {
    "null": None,
    "true": True,
    "false": False,
    "int_0": 0,
    "int_1": 1,
    "int_m1": -1,
    "int_m32": -32,
    "int_m33": -33,
    "int_m128": -128,
    "int_m129": -129,
    "int_m32768": -32768,
    "int_m32769": -32769,
    "int_min": -(2**31),
    "int_127": 127,
    "int_128": 128,
    "int_255": 255,
    "int_256": 256,
    "int_32767": 32767,
    "int_32768": 32768,
    "int_65535": 65535,
    "int_65536": 65536,
    "int_max": 2**31 - 1,
    "long_2p31": 2**31,
    "long_m2p31m1": -(2**31) - 1,
    "long_2p32m1": 2**32 - 1,
    "long_2p32": 2**32,
    "long_2p53": 2**53,
    "long_max": 2**63 - 1,
    "long_min": -(2**63),
    "ulong_max": 2**64 - 1,
    "ulong_2p63": 2**63,
    "double_1_5": 1.5,
    "double_0_1": 0.1,
    "double_third": 1 / 3,
    "str_empty": "",
    "str_ascii": "hello world",
    "str_html": "<b>&'\"\\/`+=</b>",
    "str_control": "".join(map(chr, range(32))) + "\x7f",
    "str_c1": "\u0080\u0085\u009f\u00a0",
    "str_latin": "Zürich é ß",
    "str_cjk": "日本語 한국어",
    "str_emoji": "😀👍🏽",
    "str_lines": "a\u2028b\u2029c",
    "str_rs": "a\x1eb",
    "str_31": "a" * 31,
    "str_32": "a" * 32,
    "str_255": "a" * 255,
    "str_256": "a" * 256,
    "str_65535": "a" * 65535,
    "str_65536": "a" * 65536,
    "bytes_empty": b"",
    "bytes_3": b"\x01\x02\x03",
    "bytes_all": bytes(range(256)),
    "bytes_65536": bytes(65536),
    "array_empty": [],
    "array_int": [1, 2, 3],
    "array_16": list(range(16)),
    "array_string": ["a", None, "c"],
    "array_jagged": [[1], [2, 3]],
    "array_bool": [True, False],
    "array_double": [1.0, 2.5],
    "dict_empty": {},
    "dict_16": {f"k{number}": number for number in range(16)},
}


SELECTORS = {
    "All": AudienceKind.ALL,
    "AllExcept": AudienceKind.ALL,
    "Others": AudienceKind.ALL,
    "Group": AudienceKind.GROUP,
    "GroupExcept": AudienceKind.GROUP,
    "OthersInGroup": AudienceKind.GROUP,
    "Groups": AudienceKind.GROUPS,
    "User": AudienceKind.USER,
    "Users": AudienceKind.USERS,
    "Client": AudienceKind.CONNECTION,
    "Caller": AudienceKind.CONNECTION,
    "Clients": AudienceKind.CONNECTIONS,
}


def unhex(value: Any) -> bytes:
    """Recorded bytes."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return b"".join(bytes.fromhex(part) * times for part, times in value["parts"])


def publications() -> list[Any]:
    """Every recorded publication."""
    found = [
        pytest.param(published, id=f"{entry['name']}-{number}")
        for part in ("entries", "values", "hub_names")
        for entry in RECORDED[part]
        for number, published in enumerate(entry["published"])
    ]
    found += [
        pytest.param(command, id=f"prefix-{number}")
        for number, command in enumerate(RECORDED["prefix"]["commands"])
        if command["command"] == "PUBLISH"
    ]
    return found


@pytest.mark.row("S10", "S13")
@pytest.mark.parametrize("published", publications())
def test_envelope(published: Any) -> None:
    """Reading a recorded payload gives its recorded content, and writing that gives the payload."""
    payload = unhex(published["payload_hex"])
    decoded = published["decoded"]
    match decoded["kind"]:
        case "invocation":
            envelope = decode_invocation(payload)
            assert envelope.excluded == decoded["excluded"]
            assert envelope.payloads == {
                message["protocol"]: unhex(message["blob_hex"]) for message in decoded["messages"]
            }
            assert envelope.invocation_id == decoded.get("invocation_id")
            assert envelope.return_channel == decoded.get("return_channel")
            again = encode_invocation(
                envelope.excluded, envelope.payloads, envelope.invocation_id, envelope.return_channel
            )
        case "group-command":
            command = decode_group_command(payload)
            assert command == GroupCommand(
                decoded["id"], decoded["server"], decoded["action"], decoded["group"], decoded["connection"]
            )
            again = encode_group_command(command)
        case "ack":
            assert decode_ack(payload) == decoded["id"]
            again = encode_ack(decoded["id"])
        case _:
            completion = decode_completion(payload)
            assert completion.protocol == decoded["protocol"]
            again = encode_completion(completion.protocol, completion.payload)
    assert again == payload


def make_manager(
    hub_name: str, protocols: list[str], backplane: RecordingBackplane
) -> tuple[ScaleoutHubLifetimeManager, BackplaneRoutes]:
    """A node that speaks these protocols."""
    routes = BackplaneRoutes()
    manager = ScaleoutHubLifetimeManager(
        hub_name,
        backplane=backplane,
        routes=routes,
        protocols=[PROTOCOLS[name] for name in protocols],
        clock=FakeClock(),
        ids=SeededIds(),
    )
    return manager, routes


@pytest.mark.row("X17")
@pytest.mark.parametrize("entry", RECORDED["entries"], ids=lambda entry: str(entry["name"]))
async def test_same_call(entry: Any) -> None:
    """The recorded call, made here, publishes the recorded bytes on the recorded channels in the recorded order."""
    backplane = RecordingBackplane()
    manager, routes = make_manager(entry["hub"], entry["protocols"], backplane)
    local = entry.get("volatile", {}).get("local_connection", "caller")
    selector = entry["selector"]
    names = tuple(entry["ids"])
    excluded = tuple(entry["excluded"])
    if selector == "Caller":
        names = (local,)
    elif selector.startswith("Others"):
        excluded = (local,)
    arguments = [VALUES[name] for name in entry["arguments"]]
    audience = Audience(SELECTORS[selector], names, excluded)
    async with backplane.run(routes), manager.run():
        client = RecordedClient(local, PROTOCOLS[entry["protocols"][0]])
        await manager.on_connected(client.connection)
        if entry["outcome"] == "ok":
            await manager.send(audience, entry["target"], arguments)
        else:
            message = entry["outcome"]["exception"]["message"]
            with pytest.raises(ValueError, match="empty string") as caught:
                manager.send(audience, entry["target"], arguments)
            assert str(caught.value) == message
        written = len(client.received())
    assert backplane.published == [
        (published["channel"], unhex(published["payload_hex"])) for published in entry["published"]
    ]
    # Nothing is published for a single connection of this node: it is written to directly.
    assert written == (1 if names == (local,) and entry["outcome"] == "ok" else 0)


@pytest.mark.parametrize(
    "entry",
    [entry for entry in RECORDED["values"] if entry["name"].removeprefix("value/") in VALUES],
    ids=lambda entry: str(entry["name"]),
)
async def test_same_value(entry: Any) -> None:
    """A value that Python has too is written with the recorded bytes, in both protocols."""
    backplane = RecordingBackplane()
    manager, routes = make_manager("Vectors.VectorHub", ["json", "messagepack"], backplane)
    async with backplane.run(routes), manager.run():
        await manager.send(ALL, "m", [VALUES[entry["name"].removeprefix("value/")]])
    (published,) = entry["published"]
    assert backplane.published == [(published["channel"], unhex(published["payload_hex"]))]


def test_python_values_are_all_recorded() -> None:
    """No value of the list above is left out of the comparison."""
    recorded = {entry["name"].removeprefix("value/") for entry in RECORDED["values"] if entry["published"]}
    assert set(VALUES) <= recorded


@pytest.mark.row("X18")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, object(), {1, object()}, lambda: None])
async def test_value_that_a_protocol_cannot_write(value: object) -> None:
    """If one of the protocols cannot write an argument the send raises, and nothing is published."""
    backplane = RecordingBackplane()
    manager, routes = make_manager("Vectors.VectorHub", ["json", "messagepack"], backplane)
    async with backplane.run(routes), manager.run():
        with pytest.raises((TypeError, ValueError, OverflowError)):
            manager.send(ALL, "m", [value])
    assert backplane.published == []


@pytest.mark.parametrize("entry", RECORDED["hub_names"], ids=lambda entry: str(entry["name"]))
async def test_hub_names(entry: Any) -> None:
    """A hub's name is taken as it is: nested, generic and nameless .NET types included."""
    (published,) = entry["published"]
    backplane = RecordingBackplane()
    envelope = decode_invocation(unhex(published["payload_hex"]))
    hub_name = published["channel"].removesuffix(":all")
    manager, routes = make_manager(hub_name, list(envelope.payloads), backplane)
    async with backplane.run(routes), manager.run():
        await manager.send(ALL, "m", [1])
    assert backplane.published == [(published["channel"], unhex(published["payload_hex"]))]


TARGET = Invocation("target", [])
TARGET_JSON = b'{"type":1,"target":"target","arguments":[]}\x1e'
TARGET_MSGPACK = bytes.fromhex("0D 96 01 80 C0 A6 74 61 72 67 65 74 90 90")


@pytest.mark.parametrize(
    ("names", "payloads"),
    [
        pytest.param(["messagepack"], {"messagepack": TARGET_MSGPACK}, marks=pytest.mark.row("R58"), id="R58"),
        pytest.param(
            ["messagepack", "json"],
            {"messagepack": TARGET_MSGPACK, "json": TARGET_JSON},
            marks=pytest.mark.row("R59"),
            id="R59",
        ),
        pytest.param([], {}, marks=pytest.mark.row("R61"), id="R61"),
    ],
)
def test_serializer(names: list[str], payloads: dict[str, bytes]) -> None:
    """A message is written once for each protocol of the hub, in their order."""
    serialized = SerializedHubMessage.of(TARGET, [PROTOCOLS[name] for name in names])
    assert list(serialized.payloads.items()) == list(payloads.items())
