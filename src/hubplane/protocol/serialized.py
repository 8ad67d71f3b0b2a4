"""One message for many connections: its bytes per hub protocol, each made once.

Source: redis-backplane section 2.6; signalr-server section 5.7.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import HubMessage

__all__ = ["SerializedHubMessage"]


class SerializedHubMessage:
    """A message's framed bytes by protocol name, made here or received from another node.

    Attributes:
        payloads: Protocol name to bytes, in the order of registration.
    """

    __slots__ = ("payloads",)

    def __init__(self, payloads: Mapping[str, bytes]) -> None:
        self.payloads = payloads

    @classmethod
    def of(cls, message: HubMessage, protocols: Iterable[HubProtocol]) -> SerializedHubMessage:
        """Encode `message` once per protocol.

        Raises:
            TypeError, ValueError, OverflowError: One of the protocols cannot write a value; nothing was encoded, so
                that no connection gets a message that others miss (row X18).
        """
        return cls({protocol.name: protocol.encode(message) for protocol in protocols})
