"""What to say when Redis refuses a command: which it was, and which access rule would allow it."""

from __future__ import annotations

import re

from hubplane.backplane.redis.options import RedisOptions
from hubplane.backplane.redis.resp import NOTHING, ReplyError, new_reader
from hubplane.errors import BackplanePermissionError, BackplaneUnavailableError

__all__ = ["read_command", "refusal", "rule_for"]

# What Redis' patterns of channels give a meaning.
_PATTERN = re.compile(r"([*?\[\]\\])")


def rule_for(options: RedisOptions, command: str) -> str:
    """The access rule that lets this node use a command on all its channels."""
    prefix = _PATTERN.sub(r"\\\1", options.channel_prefix)
    return f"ACL SETUSER {options.user or 'default'} +{command.lower()} &{prefix}*"


def refusal(
    text: str, reply: ReplyError, options: RedisOptions, *, command: str, channel: str = ""
) -> BackplaneUnavailableError:
    """The error for a command that Redis answered with `reply`.

    Args:
        text: What was refused.
        reply: Redis' words.
        options: Of the backplane.
        command: The command's usual name.
        channel: The channel on the wire, if it names one.
    """
    error = BackplaneUnavailableError(f"{text}: {reply}")
    if str(reply).startswith("NOPERM"):
        hint = f"The node's user needs: {rule_for(options, command)}"
        error = BackplanePermissionError(f"{text}: {str(reply).rstrip('.')}. {hint}", command=command, channel=channel)
    error.__cause__ = reply
    return error


def read_command(command: bytes) -> tuple[str, str]:
    """Name and first argument of a packed command."""
    reader = new_reader()
    reader.feed(command)
    words = reader.gets()
    if words is NOTHING or not isinstance(words, list):
        return "", ""
    name, argument, *_ = (*words, b"", b"")
    return name.decode(errors="replace").upper(), argument.decode(errors="replace")
