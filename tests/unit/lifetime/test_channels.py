"""Facts about channel names."""

from __future__ import annotations

from hubplane.lifetime.channels import HubChannels

NODE = "web1_02db60e5fab243b890a847fa5c4dcb29"


def test_names() -> None:
    """The names are those of ASP.NET Core, without a prefix."""
    channels = HubChannels("Chat.Hubs.ChatHub", NODE)
    assert channels.all == "Chat.Hubs.ChatHub:all"
    assert channels.group("room-1") == "Chat.Hubs.ChatHub:group:room-1"
    assert channels.user("alice@example.com") == "Chat.Hubs.ChatHub:user:alice@example.com"
    assert channels.connection("EZKi1eJnQ2Zx0aLw0r9c7g") == "Chat.Hubs.ChatHub:connection:EZKi1eJnQ2Zx0aLw0r9c7g"
    assert channels.groups == "Chat.Hubs.ChatHub:internal:groups"
    assert channels.ack == f"Chat.Hubs.ChatHub:internal:ack:{NODE}"
    assert channels.returns == f"Chat.Hubs.ChatHub:internal:return:{NODE}"
    assert channels.ack_of("other") == "Chat.Hubs.ChatHub:internal:ack:other"


def test_names_are_taken_as_they_are() -> None:
    """Nothing is escaped: colons, stars, blanks and empty names are data."""
    channels = HubChannels("Hub`1[[System.String]]", "n")
    assert channels.group("a:b*? ü") == "Hub`1[[System.String]]:group:a:b*? ü"
    assert channels.group("") == "Hub`1[[System.String]]:group:"
    assert channels.user("") == "Hub`1[[System.String]]:user:"
