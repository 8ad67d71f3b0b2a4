"""One message, its bytes per protocol."""

from __future__ import annotations

import pytest

from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import Invocation
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.serialized import SerializedHubMessage

PROTOCOLS = (JsonHubProtocol(), MessagePackHubProtocol())


def test_a_message_is_encoded_once_per_protocol() -> None:
    """The payloads stand under the protocols' names, in the order of registration."""
    message = SerializedHubMessage.of(Invocation("Send", ["hi", 42]), PROTOCOLS)
    assert list(message.payloads.items()) == [
        ("json", b'{"type":1,"target":"Send","arguments":["hi",42]}\x1e'),
        ("messagepack", bytes.fromhex("0f960180c0a453656e6492a268692a90")),
    ]


@pytest.mark.parametrize("value", [float("nan"), 2**64, object()])
@pytest.mark.row("X18")
def test_what_one_protocol_cannot_write_is_written_by_none(value: object) -> None:
    """NaN has no JSON and 2**64 no MessagePack: the message is not made, so that nobody gets it alone."""
    with pytest.raises((TypeError, ValueError, OverflowError)):
        SerializedHubMessage.of(Invocation("Send", [value]), PROTOCOLS)
