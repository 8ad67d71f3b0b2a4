"""Who shall hear a message.

Source: signalr-server section 5.12; redis-backplane sections 3.4-3.7.
"""

from __future__ import annotations

from enum import Enum

import msgspec

__all__ = ["ALL", "Audience", "AudienceKind"]


class AudienceKind(Enum):
    """What the names of an audience are."""

    ALL = "all"
    CONNECTION = "connection"
    CONNECTIONS = "connections"
    GROUP = "group"
    GROUPS = "groups"
    USER = "user"
    USERS = "users"


class Audience(msgspec.Struct, frozen=True):
    """Every connection, or those with certain ids, in certain groups, of certain users; minus the excluded.

    Attributes:
        kind: What `names` are. The plural kinds differ from the singular ones: they never take the local short cut and
            skip empty names as .NET does (groups and users; connections do not: row X17).
        names: Ids, groups or users, in order, duplicates kept; empty for ALL.
        excluded: Connection ids left out; honoured for ALL, GROUP only (redis-backplane section 2.2).
    """

    kind: AudienceKind
    names: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


ALL = Audience(AudienceKind.ALL)
