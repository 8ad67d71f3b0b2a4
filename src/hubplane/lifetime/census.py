"""Who is on a Redis: hubs and their nodes, read off the channels that have subscribers.

Every node of a hub is subscribed to the hub's All channel, its group commands, and an Ack and a Return channel of its
own, so counting them tells how many nodes there are, and which of them are not whole.

Source: redis-backplane sections 1.4 and 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.envelope import REMOVE_FROM_GROUP, GroupCommand, encode_group_command

__all__ = ["HubCensus", "census_patterns", "hub_wide_channels", "private_channels", "take_census"]

_ALL = ":all"
_GROUPS = ":internal:groups"
_ACK = ":internal:ack:"
_RETURN = ":internal:return:"
# A group, user or connection may be called anything, also "x:all".
_NO_HUB = re.compile(r":(?:group|user|connection|internal):")


@dataclass(frozen=True, slots=True)
class HubCensus:
    """One hub, as its channels show it.

    Attributes:
        name: Prefix and full name as they stand on the wire; Redis does not tell where the one ends.
        hearing_all: Nodes subscribed to messages for all.
        hearing_groups: Nodes subscribed to group commands.
        acks: Names of the nodes that can be acknowledged.
        returns: Names of the nodes that can be answered.
    """

    name: str
    hearing_all: int
    hearing_groups: int
    acks: tuple[str, ...]
    returns: tuple[str, ...]

    @property
    def nodes(self) -> int:
        """How many nodes Redis counts."""
        return max(self.hearing_all, self.hearing_groups, len(self.acks))

    @property
    def deaf(self) -> int:
        """Nodes that Redis counts for messages to all, and that are subscribed to nothing else.

        An ASP.NET Core node that started while Redis was away ends like this: it hears nothing, until it is restarted.
        """
        return max(0, self.hearing_all - self.hearing_groups)

    @property
    def without_results(self) -> int:
        """Nodes that cannot be answered: ASP.NET Core before version 7, which has no client results."""
        return len(set(self.acks) - set(self.returns))


def census_patterns(prefix: str) -> tuple[str, ...]:
    """Glob patterns of the channels to list: hubs of the whole server, and the nodes under `prefix`."""
    literal = re.sub(r"([\\*?\[\]^-])", r"\\\1", prefix)
    return (f"*{_ALL}", f"*{_GROUPS}", f"{literal}*{_ACK}*", f"{literal}*{_RETURN}*")


def hub_wide_channels(channels: Iterable[str]) -> list[str]:
    """Those of the listed channels that each node of a hub subscribes: the ones whose subscribers are to be counted."""
    return sorted({name for name in channels if _hub_of(name, _ALL) or _hub_of(name, _GROUPS)})


def take_census(channels: Iterable[str], counts: Mapping[str, int]) -> list[HubCensus]:
    """The hubs behind the channels, by name.

    Args:
        channels: As Redis lists them, prefix included.
        counts: Subscribers of each of `hub_wide_channels`.
    """
    acks: dict[str, set[str]] = {}
    returns: dict[str, set[str]] = {}
    names: set[str] = set()
    for channel in channels:
        for infix, found in ((_ACK, acks), (_RETURN, returns)):
            hub, separator, node = channel.partition(infix)
            if separator and hub and not _NO_HUB.search(f"{hub}:"):
                found.setdefault(hub, set()).add(node)
                names.add(hub)
        names.update(hub for suffix in (_ALL, _GROUPS) if (hub := _hub_of(channel, suffix)))
    return [
        HubCensus(
            name,
            counts.get(name + _ALL, 0),
            counts.get(name + _GROUPS, 0),
            tuple(sorted(acks.get(name, ()))),
            tuple(sorted(returns.get(name, ()))),
        )
        for name in sorted(names)
    ]


def private_channels(hub_name: str, token: str, *, real: bool) -> list[tuple[str, str, bytes | None]]:
    """One channel of each kind to try: what it is for, its name, and a payload that changes nothing anywhere.

    Args:
        hub_name: The hub's name on the backplane.
        token: Unguessable, so that nobody else is subscribed to the channels it is part of.
        real: The hub exists, and its nodes hear what goes to its hub-wide channels. They get a group command for a
            connection that exists nowhere, which no node acts on, and on All nothing at all.
    """
    channels = HubChannels(hub_name, f"hubplane-check_{token}")
    mark = b"hubplane check " + token.encode() + b" "
    command = GroupCommand(1, channels.node_name, REMOVE_FROM_GROUP, token, token)
    return [
        ("messages to all", channels.all, None if real else mark + b"all"),
        ("messages to a group", channels.group(token), mark + b"group"),
        ("messages to a user", channels.user(token), mark + b"user"),
        ("messages to a connection", channels.connection(token), mark + b"connection"),
        ("group commands", channels.groups, encode_group_command(command)),
        ("acknowledgements", channels.ack, mark + b"ack"),
        ("client results", channels.returns, mark + b"return"),
    ]


def _hub_of(channel: str, suffix: str) -> str:
    """The hub whose channel this is; empty where it is none."""
    hub = channel.removesuffix(suffix)
    return hub if hub != channel and not _NO_HUB.search(f"{hub}:") else ""
