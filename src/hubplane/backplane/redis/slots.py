"""Slots of a Redis Cluster: which slot a name has, and what a node says about who owns which.

Functions of bytes, without I/O. Source: Redis Cluster specification, "Key distribution model" and "CLUSTER NODES".
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field

from hubplane.backplane.redis.options import Endpoint

__all__ = ["SLOTS", "ClusterNode", "ClusterView", "read_view", "slot_of"]

SLOTS = 16_384
"""How many slots a cluster has."""


def slot_of(name: bytes) -> int:
    """The slot of a key or a channel: of the part in braces, where there is one that is not empty."""
    start = name.find(b"{")
    if start >= 0:
        end = name.find(b"}", start + 1)
        if end > start + 1:
            name = name[start + 1 : end]
    return binascii.crc_hqx(name, 0) % SLOTS


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node as another one sees it.

    Attributes:
        endpoint: Where clients reach it.
        primary: It is a primary.
        failed: The cluster holds it to have failed.
        doubted: The asked node suspects it, or has no connection to it.
        epoch: Of its configuration; the newest wins.
        slots: Ranges that it owns, both ends included.
        shard: The id of its primary; its own if it is one.
    """

    endpoint: Endpoint
    primary: bool
    failed: bool
    doubted: bool
    epoch: int
    slots: tuple[tuple[int, int], ...]
    shard: str = ""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster as one of its nodes sees it.

    Attributes:
        asked: Who was asked.
        nodes: All nodes that have an address.
        primaries: Those of them that own slots, by their first slot.
    """

    asked: Endpoint
    nodes: tuple[ClusterNode, ...]
    primaries: tuple[ClusterNode, ...] = field(init=False)

    def __post_init__(self) -> None:
        owners = sorted((node for node in self.nodes if node.primary and node.slots), key=lambda node: node.slots)
        object.__setattr__(self, "primaries", tuple(owners))

    @property
    def rank(self) -> tuple[int, int, int]:
        """The greater, the more it is worth: a node that is cut off sees few others, and no new epoch.

        Of two that claim a slot the one with the newer epoch has it, so among equals the view counts that gives more
        slots to newer nodes.
        """
        alive = sum(not node.doubted and not node.failed for node in self.primaries)
        newest = max((node.epoch for node in self.nodes), default=0)
        weight = sum(node.epoch * (last + 1 - first) for node in self.primaries for first, last in node.slots)
        return alive, newest, weight

    def related(self, one: Endpoint, other: Endpoint) -> bool:
        """Whether two servers are of one shard: what is published on its channels at the one, the other hears too."""
        shards = [node.shard for node in self.nodes if node.endpoint in {one, other}]
        return len(shards) == 2 and len(set(shards)) == 1

    @property
    def replicas(self) -> tuple[Endpoint, ...]:
        """The replicas that are alive."""
        return tuple(node.endpoint for node in self.nodes if not node.primary and not node.failed)

    @property
    def others(self) -> tuple[Endpoint, ...]:
        """Who is alive and owns no slots: replicas, and who has just stepped down and still passes for a primary."""
        return tuple(node.endpoint for node in self.nodes if node not in self.primaries and not node.failed)

    def owners(self) -> list[Endpoint | None]:
        """The owner of each slot."""
        found: list[Endpoint | None] = [None] * SLOTS
        for node in self.primaries:
            for first, last in node.slots:
                found[first : last + 1] = [node.endpoint] * (last + 1 - first)
        return found

    @classmethod
    def single(cls, endpoint: Endpoint) -> ClusterView:
        """A server that is no cluster: it owns everything."""
        return cls(endpoint, (ClusterNode(endpoint, True, False, False, 0, ((0, SLOTS - 1),)),))


def read_view(text: str, asked: Endpoint, *, tls: bool) -> ClusterView:
    """Read what a node answers to CLUSTER NODES.

    Args:
        text: The answer.
        asked: Whom it came from; it may not know its own address.
        tls: Prefer host names, which certificates carry.

    Raises:
        ValueError: This is no such answer.
    """
    nodes = [node for line in text.splitlines() if line.strip() and (node := _node(line, asked, tls=tls))]
    if not nodes:
        raise ValueError("names no node")
    return ClusterView(asked, tuple(nodes))


def _node(line: str, asked: Endpoint, *, tls: bool) -> ClusterNode | None:
    """One line; None for a node without an address."""
    words = line.split()
    if len(words) < 8:
        raise ValueError(f"has a line of {len(words)} words")
    flags = words[2].split(",")
    address, *more = words[1].split(",")
    host, _, port = address.partition("@")[0].rpartition(":")
    hostname = more[0] if more and "=" not in more[0] else ""
    host = (hostname if tls else "") or host
    if "myself" in flags:
        host = host or asked.host
    if "noaddr" in flags or "handshake" in flags or not host or not int(port):
        return None
    return ClusterNode(
        endpoint=Endpoint(host, int(port)),
        primary="master" in flags,
        failed="fail" in flags,
        doubted="myself" not in flags and ("fail?" in flags or words[7] != "connected"),
        epoch=int(words[6]),
        slots=tuple(_range(word) for word in words[8:] if not word.startswith("[")),
        shard=words[0] if words[3] == "-" else words[3],
    )


def _range(word: str) -> tuple[int, int]:
    first, _, last = word.partition("-")
    low, high = int(first), int(last or first)
    if not 0 <= low <= high < SLOTS:
        raise ValueError(f"has the slots {word}")
    return low, high
