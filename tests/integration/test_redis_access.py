"""The Redis backplane under access rules: who may connect, which channels are refused, and what happens then."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest

from hubplane.backplane.redis.configuration import parse
from hubplane.backplane.redis.pubsub import RedisBackplane
from hubplane.errors import BackplaneAuthenticationError, BackplanePermissionError
from hubplane.testing.backplane_contract import RecordingSink
from hubplane.testing.redis_server import RedisServer

GAP = "restored with a gap"
# redis-backplane section 4.5: the least that is enough for pub/sub. ours needs no +echo.
LEAST = ("+subscribe", "+unsubscribe", "+publish", "+ping", "+hello", "+auth", "+client", "+pubsub")


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A server with a user `node` that may do nothing yet."""
    with RedisServer(kind=request.param) as server:
        server.command("ACL", "SETUSER", "node", "on", ">pw", "resetchannels", *LEAST)
        yield server


def node_of(server: RedisServer, **changes: object) -> RedisBackplane:
    """A backplane that logs in as that user."""
    options = replace(parse(server.configuration), user="node", password="pw", channel_prefix="App:")
    return RedisBackplane(replace(options, **changes))  # type: ignore[arg-type]


async def test_least_rights_are_enough(server: RedisServer) -> None:
    """Seven commands on the channels of one prefix are all a node needs."""
    server.command("ACL", "SETUSER", "node", "&App:*")
    node, sink = node_of(server), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        assert await node.publish("room", b"x") == 1
        await sink.message("room", b"x")
        assert sink.events == []


@pytest.mark.row("X11")
async def test_refused_channel_is_rolled_back_and_can_be_retried(server: RedisServer) -> None:
    """A channel that Redis refuses raises, stays unsubscribed, and works on a retry once it is allowed."""
    server.command("ACL", "SETUSER", "node", "&App:room*")
    node, sink = node_of(server), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room"])
        with pytest.raises(
            BackplanePermissionError, match="Redis refused to subscribe channel secret: NOPERM"
        ) as caught:
            await node.subscribe(["room 2", "secret", "room"])
        assert "NOPERM" in str(caught.value.__cause__)
        assert await node.count_subscribers(["room", "room 2", "secret"]) == {"room": 1, "room 2": 0, "secret": 0}
        assert node.is_connected
        server.command("ACL", "SETUSER", "node", "&App:*")
        await node.subscribe(["room 2", "secret"])
        assert await node.count_subscribers(["room", "room 2", "secret"]) == {"room": 1, "room 2": 1, "secret": 1}
        assert sink.events == []


async def test_refusal_of_one_harms_nobody_in_the_same_batch(server: RedisServer) -> None:
    """Of a thousand calls in one turn of the loop only those whose own channel is refused fail."""
    server.command("ACL", "SETUSER", "node", "&App:room*")
    node = node_of(server)
    async with node.run(RecordingSink()):
        names = [f"secret {n}" if n in (3, 500, 999) else f"room {n}" for n in range(1000)]
        results = await asyncio.gather(*[node.subscribe([name]) for name in names], return_exceptions=True)
        failed = [name for name, result in zip(names, results, strict=True) if result is not None]
        assert failed == ["secret 3", "secret 500", "secret 999"]
        counts = await node.count_subscribers(names)
        assert counts == {name: 0 if name in failed else 1 for name in names}


async def test_kept_channel_is_retried_until_allowed(server: RedisServer) -> None:
    """A refused channel to keep shows in `is_connected` and is subscribed soon after it is allowed."""
    server.command("ACL", "SETUSER", "node", "&App:room*")
    node, sink = node_of(server), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room", *[f"secret {n}" for n in range(40)]], keep=True)
        assert not node.is_connected
        assert await node.publish("room", b"works") == 1
        server.command("ACL", "SETUSER", "node", "&App:*")
        async with asyncio.timeout(5.0):
            while not node.is_connected:  # noqa: ASYNC110 - nothing announces it: there was no outage
                await asyncio.sleep(0.02)
        counts = await node.count_subscribers([f"secret {n}" for n in range(40)])
        assert counts is not None
        assert set(counts.values()) == {1}
        assert sink.events == []


async def test_kept_channel_no_longer_wanted_is_no_longer_retried(server: RedisServer) -> None:
    """Unsubscribing a refused channel makes the node whole at once."""
    node = node_of(server)
    async with node.run(RecordingSink()):
        await node.subscribe(["secret"], keep=True)
        assert await node.count_subscribers(["secret"]) == {"secret": 0}
        assert not node.is_connected
        await node.unsubscribe(["secret"])
        assert node.is_connected


async def test_revoked_channel_is_an_outage_until_allowed_again(server: RedisServer) -> None:
    """Redis cuts a subscriber whose channel it forbids: lost, then restored once the channel is allowed again."""
    server.command("ACL", "SETUSER", "node", "&App:*")
    node, sink = node_of(server), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room", "other"])
        server.command("ACL", "SETUSER", "node", "resetchannels", "&App:room")
        await sink.event("lost")
        # What is still allowed works meanwhile; the node itself says that it is not whole.
        assert await node.publish("room", b"meanwhile") == 1
        await sink.message("room", b"meanwhile")
        assert not node.is_connected
        server.command("ACL", "SETUSER", "node", "&App:*")
        await sink.event(GAP)
        assert node.is_connected
        assert await node.publish("other", b"back") == 1
        assert sink.events == ["lost", GAP]


async def test_refused_publish_raises_the_servers_words(server: RedisServer) -> None:
    """A PUBLISH that Redis refuses names its channel and what to allow, among others in one write that work."""
    server.command("ACL", "SETUSER", "node", "&App:room")
    node = node_of(server)
    async with node.run(RecordingSink()):
        publishes = [node.publish("secret" if n == 7 else "room", b"x") for n in range(20)]
        results = await asyncio.gather(*publishes, return_exceptions=True)
        (refused,) = [result for result in results if result != 0]
        assert results.index(refused) == 7
        assert isinstance(refused, BackplanePermissionError)
        assert (refused.command, refused.channel) == ("PUBLISH", "App:secret")
        assert str(refused).startswith("Redis refused the command PUBLISH App:secret: NOPERM")
        assert "NOPERM" in str(refused.__cause__)
        # What the text says to do is what helps.
        rule = str(refused).rpartition("needs: ")[2].split()
        server.command(*rule)
        assert await node.publish("secret", b"x") == 0


async def test_refused_question_says_what_it_needs(server: RedisServer) -> None:
    """Without the right to ask PUBSUB NUMSUB a typed error names the command; a renamed one by its usual name."""
    server.command("ACL", "SETUSER", "node", "&App:*", "-pubsub")
    async with (node := node_of(server)).run(RecordingSink()):
        with pytest.raises(BackplanePermissionError, match=r"PUBSUB: NOPERM.*\+pubsub") as caught:
            await node.count_subscribers(["room"])
        assert (caught.value.command, caught.value.channel) == ("PUBSUB", "")


async def test_server_without_hello_is_spoken_to_in_resp2() -> None:
    """Where the server has no HELLO, as before Redis 6, the node speaks RESP2; nothing else changes."""
    with RedisServer(password="pw", arguments=["--rename-command", "HELLO", ""]) as server:
        node, sink = RedisBackplane(parse(server.configuration)), RecordingSink()
        async with node.run(sink):
            await node.subscribe(["room"])
            assert await node.publish("room", b"x") == 1
            await sink.message("room", b"x")
            assert await node.count_subscribers(["room"]) == {"room": 1}
            assert b"resp=3" not in server.command("CLIENT", "LIST")  # type: ignore[operator]


@pytest.mark.parametrize(
    ("command", "protocol", "says"),
    [
        ("HELLO", None, "does not take HELLO 3 (ERR unknown command 'HELLO')"),
        ("HELLO", 3, "Redis refused HELLO: ERR unknown command 'HELLO'"),
        ("AUTH", 2, "Redis refused AUTH: ERR unknown command 'AUTH'"),
    ],
)
async def test_password_of_an_unknown_command_is_not_repeated(
    command: str, protocol: Literal[2, 3] | None, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis repeats the arguments of a command that it does not know; logs and errors leave them out."""
    caplog.set_level(logging.DEBUG)
    with RedisServer(arguments=["--rename-command", command, ""]) as server:
        options = replace(parse(server.configuration), password="hunter2", protocol=protocol)
        sink = RecordingSink()
        async with RedisBackplane(options).run(sink):
            await sink.event("lost")
        assert says in caplog.text
        assert "hunter2" not in caplog.text
        assert "hunter2" not in "".join(map(str, sink.errors))


async def test_insisting_on_resp3_fails_where_there_is_no_hello() -> None:
    """With protocol=3 a server without HELLO counts as away."""
    with RedisServer(arguments=["--rename-command", "HELLO", ""]) as server:
        node, sink = RedisBackplane(replace(parse(server.configuration), protocol=3)), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            assert "Redis refused HELLO: ERR unknown command" in str(sink.errors[0])


async def test_renamed_commands_are_used_by_their_new_names() -> None:
    """A command map of the configuration string reaches the wire, and an empty name switches a command off."""
    renamed = [
        "--rename-command",
        "PUBLISH",
        "tell",
        "--rename-command",
        "CLIENT",
        "",
        "--rename-command",
        "HELLO",
        "hi",
    ]
    with RedisServer(arguments=renamed) as server:
        node = RedisBackplane(parse(f"{server.configuration},$PUBLISH=tell,$CLIENT=,$HELLO=hi"))
        async with node.run(RecordingSink()):
            await node.subscribe(["room"])
            assert await node.publish("room", b"x") == 1


@pytest.mark.parametrize("protocol", [2, None])
async def test_wrong_password_is_an_outage_that_ends_when_it_is_right(
    server: RedisServer, protocol: int | None
) -> None:
    """A wrong password is reported in the server's words, and the node connects once the server takes it."""
    server.command("ACL", "SETUSER", "node", "&App:*")
    node, sink = node_of(server, password="other", protocol=protocol, async_timeout=0.3), RecordingSink()
    async with node.run(sink):
        await sink.event("lost")
        assert "WRONGPASS" in str(sink.errors[0])
        assert isinstance(sink.errors[0], BackplaneAuthenticationError)
        with pytest.raises(BackplaneAuthenticationError, match="Check RedisOptions"):
            await node.publish("room", b"x")
        with pytest.raises(BackplaneAuthenticationError, match="Check RedisOptions"):
            await node.subscribe(["room"])
        server.command("ACL", "SETUSER", "node", ">other")
        await sink.event("restored")


async def test_missing_password_is_an_outage() -> None:
    """A server that wants a password and gets none counts as away, in the server's words."""
    with RedisServer(password="pw") as server:
        node, sink = RedisBackplane(parse(f"{server.host}:{server.port}")), RecordingSink()
        async with node.run(sink):
            await sink.event("lost")
            assert "NOAUTH" in str(sink.errors[0])
            assert isinstance(sink.errors[0], BackplaneAuthenticationError)


async def test_password_of_the_default_user() -> None:
    """A password without a user is the default user's, with RESP3 and with RESP2."""
    with RedisServer(password="p w") as server:
        for protocol in (2, 3):
            node = RedisBackplane(replace(parse(server.url), protocol=protocol))
            async with node.run(RecordingSink()):
                await node.subscribe(["room"])
                assert await node.publish("room", b"x") == 1


async def test_unsubscribe_without_the_right_harms_nothing(server: RedisServer) -> None:
    """Where UNSUBSCRIBE is forbidden the channel falls silent all the same, and the node goes on."""
    server.command("ACL", "SETUSER", "node", "&App:*", "-unsubscribe")
    node, sink = node_of(server), RecordingSink()
    async with node.run(sink):
        await node.subscribe(["room", "other"])
        await node.unsubscribe(["room"])
        await node.publish("room", b"late")
        await node.publish("other", b"on")
        await sink.message("other", b"on")
        assert sink.payloads("room") == []
        assert sink.events == []


async def test_subscribing_forbidden_altogether_does_not_hold_publishes(server: RedisServer) -> None:
    """A node that may not subscribe at all still publishes, and says that it is not whole."""
    server.command("ACL", "SETUSER", "node", "&App:*", "-subscribe")
    node = node_of(server)
    async with node.run(RecordingSink()):
        await node.subscribe([f"room {n}" for n in range(100)], keep=True)
        assert await node.publish("room 1", b"x") == 0
        assert not node.is_connected
