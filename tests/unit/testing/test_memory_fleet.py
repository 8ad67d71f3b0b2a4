"""`MemoryFleet`: several nodes in one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI

from hubplane import ConfigurationError, HubApp, HubException
from hubplane.backplane.base import Backplane
from hubplane.testing import MemoryFleet

Make = Callable[..., HubApp]


async def test_nodes_share_groups(make_app: Make) -> None:
    """A group has members on every node, each of which is an application of its own."""
    async with MemoryFleet(make_app, nodes=3) as fleet:
        assert len(fleet.nodes) == 3
        async with (
            fleet.client("/chat", user="ann") as ann,
            fleet.client("/chat", node=1, user="bob", protocol="messagepack") as bob,
            fleet.nodes[2].client("/chat", user="eve") as eve,
        ):
            await ann.invoke("say", "hi")
            for client in (ann, bob, eve):
                assert await client.receive("Said") == ["ann", "hi"]
            bob.on("Name", lambda: "bob")
            assert await eve.invoke("ask", bob.connection_id) == "bob"


async def test_a_backplane_that_goes_and_comes(make_app: Make) -> None:
    """While the backplane is away sends fail and clients stay; afterwards all is as before."""
    async with (
        MemoryFleet(make_app) as fleet,
        fleet.client("/chat") as ann,
        fleet.client("/chat", node=1) as bob,
    ):
        fleet.interrupt()
        with pytest.raises(HubException):
            await ann.invoke("say", "lost")
        fleet.resume()
        await ann.invoke("say", "back")
        assert await bob.receive("Said") == [None, "back"]


async def test_a_node_that_restarts(make_app: Make) -> None:
    """One node stops and starts while the others serve."""
    async with MemoryFleet(make_app) as fleet, fleet.client("/chat") as ann:
        async with fleet.client("/chat", node=1) as bob:
            await fleet.nodes[1].stop()
            assert (await bob.wait_closed()).allow_reconnect
        await ann.invoke("say", "alone")
        await fleet.nodes[1].start()
        async with fleet.client("/chat", node=1) as bob:
            await ann.invoke("say", "together")
            assert await bob.receive("Said") == [None, "together"]


async def test_a_forgotten_backplane(make_app: Make) -> None:
    """A factory that does not hand its backplane on is refused, with a framework around the hubs, too."""

    def forgetful(_backplane: Backplane) -> FastAPI:
        hubs = make_app()
        app = FastAPI(lifespan=hubs.lifespan)
        app.mount("/", hubs)
        return app

    with pytest.raises(ConfigurationError, match=r"belongs into HubApp\(redis=\.\.\.\)"):
        async with MemoryFleet(forgetful):
            pass
    with pytest.raises(ConfigurationError, match="at least one node"):
        MemoryFleet(make_app, nodes=0)
