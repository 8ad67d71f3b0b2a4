"""The fixtures of `hubplane.testing.plugin`, here and in a project of somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from hubplane import HubApp
from hubplane.testing import FakeClock, MemoryServer
from hubplane.testing.plugin import HubClients, MemoryFleets

Make = Callable[..., HubApp]


async def test_clients_of_one_app_share_it(
    make_app: Make, hub_client: HubClients, memory_fleet: MemoryFleets, fake_clock: FakeClock
) -> None:
    """The first client starts its application, further ones join it; apps, servers and fleets stand side by side."""
    app = make_app(clock=fake_clock)
    ann = await hub_client(app, "/chat", user="ann")
    bob = await hub_client(app, "/chat", user="bob")
    await ann.invoke("say", "hi")
    assert await bob.receive("Said") == ["ann", "hi"]
    other = await hub_client(make_app(), "/chat")
    assert len(other.received) == 1
    fleet = await memory_fleet(make_app, nodes=2)
    eve = await hub_client(fleet.nodes[1], "/chat")
    tom = await hub_client(fleet.nodes[0], "/chat")
    await tom.invoke("say", "here")
    assert await eve.receive("Said") == [None, "here"]
    async with MemoryServer(make_app()) as server:
        assert (await (await hub_client(server, "/chat")).receive("Welcome")) == [None]


PROJECT = {
    # Importing the plugin's types before pytest loads it must cause no warning.
    "conftest.py": 'import hubplane.testing.plugin\n\npytest_plugins = ["hubplane.testing.plugin"]\n',
    "pytest.ini": "[pytest]\nasyncio_default_fixture_loop_scope = function\n",
    "chat.py": """
from hubplane import Hub, HubApp

class ChatHub(Hub):
    async def say(self, text: str) -> None:
        await self.clients.all.send("Said", text)

def make_hubs(backplane=None):
    hubs = HubApp(redis=backplane)
    hubs.add_hub("/chat", ChatHub)
    return hubs

hubs = make_hubs()
""",
    "test_chat.py": """
import pytest
from chat import hubs, make_hubs

pytestmark = pytest.mark.asyncio

@pytest.mark.parametrize("protocol", ["json", "messagepack"])
async def test_say(hub_client, protocol):
    ann = await hub_client(hubs, "/chat", protocol=protocol)
    await ann.invoke("say", "hi")
    assert await ann.receive("Said") == ["hi"]

async def test_fleet(memory_fleet, hub_client):
    fleet = await memory_fleet(make_hubs, nodes=2)
    ann = await hub_client(fleet.nodes[0], "/chat")
    bob = await hub_client(fleet.nodes[1], "/chat")
    await ann.invoke("say", "hi")
    assert await bob.receive("Said") == ["hi"]

async def test_redis(redis_server, hub_client):
    ann = await hub_client(make_hubs(redis_server.url), "/chat")
    for _ in range(200):
        await ann.invoke("say", "hi")
    assert await ann.receive("Said") == ["hi"]

async def test_that_fails(hub_client):
    ann = await hub_client(hubs, "/chat")
    await ann.receive("Nothing", timeout=0.01)
""",
}


def test_a_project_with_the_plugin(tmp_path: Path) -> None:
    """A project that asks for the plugin has its fixtures, in strict mode, too, and one app for all its tests."""
    for name, text in PROJECT.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE_", "PYTEST"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "No 'Nothing' arrived within 0.01 s. Nothing else arrived either." in done.stdout


def test_nothing_is_loaded_unasked() -> None:
    """Hubplane registers no plugin of its own with pytest: it is loaded where a project asks for it."""
    assert not [found for found in entry_points(group="pytest11") if found.value.startswith("hubplane")]
