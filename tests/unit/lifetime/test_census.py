"""Hubs and nodes, read off channel names."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest

from hubplane.lifetime.census import census_patterns, hub_wide_channels, private_channels, take_census
from hubplane.lifetime.channels import HubChannels
from hubplane.lifetime.envelope import decode_group_command

CHANNELS = [
    "P:Chat:all", "P:Chat:internal:groups", "P:Chat:internal:ack:a_1", "P:Chat:internal:ack:b_2",
    "P:Chat:internal:return:a_1", "P:Chat:group:x:all", "P:Chat:user:u:internal:groups", "P:Chat:connection:all",
    "P:Chat:group:internal:ack:c_3", "P:Chat:internal:ack:all", ":all", "all",
]  # fmt: skip


def test_census_counts_nodes_of_a_hub() -> None:
    """A hub is what has hub-wide channels; groups, users and connections of such names are none."""
    assert hub_wide_channels(CHANNELS) == ["P:Chat:all", "P:Chat:internal:groups"]
    (hub,) = take_census(CHANNELS, {"P:Chat:all": 4, "P:Chat:internal:groups": 3})
    assert (hub.name, hub.nodes, hub.deaf, hub.without_results) == ("P:Chat", 4, 1, 2)
    assert hub.acks == ("a_1", "all", "b_2")
    assert hub.returns == ("a_1",)


def test_node_in_the_middle_of_its_start_is_not_deaf() -> None:
    """More nodes on group commands than on All is no deafness."""
    (hub,) = take_census(["Chat:internal:groups"], {"Chat:internal:groups": 1})
    assert (hub.nodes, hub.deaf) == (1, 0)


@pytest.mark.parametrize("prefix", ["", "MyApp", "a*b", "a?b", "a[b]", "a\\b", "a-b^"])
def test_patterns_take_the_prefix_literally(prefix: str) -> None:
    """Whatever a prefix holds, only channels that begin with it are listed as nodes."""
    channels = HubChannels("Chat", "web_1")
    pattern = census_patterns(prefix)[2]
    # fnmatch knows no backslash; a set of one is the same.
    plain = "".join(
        f"[{character}]" if escaped and character in "*?[" else character for character, escaped in unescaped(pattern)
    )
    assert fnmatchcase(prefix + channels.ack, plain)
    assert not prefix or not fnmatchcase("aXb" + channels.ack, plain)


def unescaped(pattern: str) -> list[tuple[str, bool]]:
    """Each character of a Redis glob, and whether a backslash stood before it."""
    characters = iter(pattern)
    return [(next(characters), True) if character == "\\" else (character, False) for character in characters]


def test_channels_to_try_disturb_nobody() -> None:
    """On a real hub All is only subscribed, group commands get one for nobody, other channels have secret names."""
    tried = {kind: (channel, payload) for kind, channel, payload in private_channels("Chat", "tok", real=True)}
    assert len(tried) == 7
    assert tried.pop("messages to all") == ("Chat:all", None)
    channel, payload = tried.pop("group commands")
    assert channel == "Chat:internal:groups"
    assert payload is not None
    assert decode_group_command(payload).connection_id == "tok"
    assert all("tok" in channel and payload is not None for channel, payload in tried.values())
    assert all(payload is not None for _, _, payload in private_channels("Chat", "tok", real=False))
