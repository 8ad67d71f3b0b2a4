"""`RedisHealth`: how a node stands with Redis, for the application."""

from __future__ import annotations

from dataclasses import dataclass

from hubplane.backplane.redis.options import Endpoint

__all__ = ["RedisHealth", "RedisServerHealth"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServerHealth:
    """How this node stands with one primary of a Redis Cluster.

    Attributes:
        endpoint: The server.
        publishing: It takes messages.
        subscription: The connection that channels are heard on works.
        server: Name and version, such as "redis 7.0.15"; empty where the server does not say.
        round_trip: Seconds to the server and back, measured after the last connect; None while that is not known.
        error: Why one of the two does not work; empty where both do. Holds no password.
    """

    endpoint: Endpoint
    publishing: bool
    subscription: bool
    server: str = ""
    round_trip: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisHealth:
    """How this node stands with Redis at one moment; for a health endpoint.

    Attributes:
        is_connected: Both connections work, and Redis has confirmed every channel that this node wants.
        publishing: The server that messages are published to; None while that connection is away. In a Cluster one of
            the primaries that work, and None while none does.
        subscription: The server that they come from; None while that connection is away. In a Cluster likewise.
        channels: How many channels this node wants.
        unconfirmed: How many of them Redis has still to confirm after the last connect; those are not heard.
        refused: How many of them Redis refuses at present, by its access rules; they are asked for again.
        server: Name and version, such as "redis 7.0.15"; empty where the server does not say. In a Cluster all that
            there are.
        round_trip: Seconds to the server and back, measured after the last connect; None while that is not known. In a
            Cluster to the farthest primary.
        error: Why it is not connected; empty where it is. Holds no password.
        servers: In a Cluster each of its primaries; else empty.
    """

    is_connected: bool = False
    publishing: Endpoint | None = None
    subscription: Endpoint | None = None
    channels: int = 0
    unconfirmed: int = 0
    refused: int = 0
    server: str = ""
    round_trip: float | None = None
    error: str = ""
    servers: tuple[RedisServerHealth, ...] = ()
