"""What is said about a refused command."""

from __future__ import annotations

import pytest

from hubplane.backplane.redis.access import read_command, refusal, rule_for
from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.resp import ReplyError, pack_command
from hubplane.errors import BackplanePermissionError


@pytest.mark.parametrize(
    ("prefix", "pattern"),
    [("", "&*"), ("App:", "&App:*"), ("a*b?[c]\\", "&a\\*b\\?\\[c\\]\\\\*")],
)
def test_rule_covers_the_prefix_and_nothing_else(prefix: str, pattern: str) -> None:
    """The advised pattern is the prefix, taken literally, and whatever follows."""
    options = RedisOptions(user="node", channel_prefix=prefix)
    assert rule_for(options, "PUBLISH") == f"ACL SETUSER node +publish {pattern}"


def test_only_access_rules_are_a_matter_of_permission() -> None:
    """NOPERM is a permission error with advice; anything else keeps the server's words."""
    denied = refusal("no", ReplyError("NOPERM why."), RedisOptions(), command="PUBLISH", channel="c")
    assert isinstance(denied, BackplanePermissionError)
    assert (denied.command, denied.channel) == ("PUBLISH", "c")
    assert str(denied) == "no: NOPERM why. The node's user needs: ACL SETUSER default +publish &*"
    other = refusal("no", ReplyError("OOM why"), RedisOptions(), command="PUBLISH")
    assert not isinstance(other, BackplanePermissionError)
    assert str(other) == "no: OOM why"
    assert isinstance(other.__cause__, ReplyError)


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (pack_command(("publish", "room", b"\xff")), ("PUBLISH", "room")),
        (pack_command(("PING",)), ("PING", "")),
        (b"*3\r\n$7\r\nPUB", ("", "")),
        (b"+OK\r\n", ("", "")),
    ],
)
def test_command_is_read_back(command: bytes, found: tuple[str, str]) -> None:
    """Name and first argument of what was sent; nothing of what is no whole command."""
    assert read_command(command) == found
