"""`hubplane demo`: two nodes, a server of its own and a page that is used in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # what the browser saw

import pytest
from tests.e2e.clients import JsDriver
from tests.e2e.nodes import HERE, hubplane_command
from tests.e2e.processes import Process, eventually
from tests.e2e.test_serve import alive, family

from hubplane.testing.redis_server import RedisServer

MODULES = HERE / "node_modules"


def start(*arguments: str) -> Process:
    """A running demo."""
    return Process(
        hubplane_command("demo", "--port", "0", "--node-modules", str(MODULES), *arguments),
        environment={"HUBPLANE_REDIS": ""},
    )


def addresses(process: Process) -> tuple[str, str]:
    """Where its nodes are."""
    process.line("Ctrl-C ends everything")
    found = [re.search(r"http://\S+\d", process.line(f"Node {letter}")) for letter in "AB"]
    assert found[0]
    assert found[1]
    return found[0][0], found[1][0]


@pytest.fixture
def modules(part: Callable[[str], str]) -> None:
    """Microsoft's client is installed."""
    part("node-modules")


@pytest.fixture
def look(part: Callable[[str], str], tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Uses the page in Chromium; screenshots go to the test's temporary folder."""
    chromium, node = part("chromium"), part("node")
    part("node-modules")
    # Chromium's own temporary files, so that nothing is left behind.
    scratch = tempfile.mkdtemp(prefix="hubplane-chromium-")

    def use(url: str, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [node, str(HERE / "demo_page.mjs"), chromium, url, str(tmp_path), *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={"PATH": "/usr/bin:/bin", "HOME": scratch, "TMPDIR": scratch},
        )
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen

    yield use
    shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.timeout(120)
@pytest.mark.row("B25")
def test_what_is_typed_in_one_pane_is_read_in_the_other(look: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """The page, in a browser: messages cross between the nodes, also after Redis was stopped, and nothing complains."""
    with start() as process:
        first, second = addresses(process)
        seen = look(first, "outage")
        assert "failure" not in seen, seen
        said = ["Hello from the left!", "Read you on the other process."]
        assert seen["a"] == seen["b"] == said
        assert seen["ownOnA"] == said[:1]
        assert seen["crossed"] == "2"
        assert re.fullmatch(r"[\d.]+ ms", seen["latency"])
        assert re.search(r"process \d+ · speaks JSON", seen["facts"][0])
        assert re.search(r"process \d+ · speaks MessagePack", seen["facts"][1])
        assert seen["phoneOverflow"] == 0
        assert seen["duringOutage"] == ["connected", "connected"]
        assert "Whole again" in seen["afterOutage"]
        assert seen["console"] == [], "the browser's console is clean"
        elsewhere = [url for url in seen["requests"] if not url.startswith((first, second))]
        assert elsewhere == [], "the page asks nobody but the two nodes"
        for picture in ("empty", "light", "dark", "phone", "outage", "healed"):
            assert (tmp_path / f"{picture}.png").stat().st_size > 10_000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_demo_leaves_no_process_behind(modules: None, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end the nodes and the server; the status is 0."""
    with start() as process:
        addresses(process)
        children = family(process)
        assert len(children) == 3, "two nodes and the embedded server"
        # As a terminal does it: to the whole process group.
        os.killpg(process.pid, number)
        assert process.wait() == 0
        assert not any(alive(child) for child in children)
        assert process.line("nothing is left running", timeout=0)
        assert process.stderr == "", "an orderly end is no error"


def test_killed_demo_takes_everything_along(modules: None) -> None:
    """After a SIGKILL of the command, the nodes and the embedded server end by themselves."""
    with start() as process:
        addresses(process)
        children = family(process)
        process.process.kill()
        process.process.wait()
        assert eventually(lambda: not any(alive(child) for child in children), 15.0)


def test_demo_takes_a_redis_of_the_user(modules: None, driver: JsDriver, redis: RedisServer) -> None:
    """With `--redis` the nodes meet on the user's server, and nothing offers to stop it."""
    with start("--redis", redis.url) as process:
        first, second = addresses(process)
        assert len(family(process)) == 2
        one = driver.connect(f"{first}/hubs/chat")
        two = driver.connect(f"{second}/hubs/chat", "messagepack")
        one.invoke("SendMessage", "1", "Ada", "hi")
        assert two.message() == [{"id": "1", "user": "Ada", "text": "hi", "node": "Node A"}]
        channels = redis.command("PUBSUB", "CHANNELS", "Hubplane.Demo.ChatHub:all")
        assert channels == [b"Hubplane.Demo.ChatHub:all"]
        one.stop()
        two.stop()
        assert process.stop(signal.SIGINT) == 0


def run_with_npm(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A demo on a machine whose npm is a shell script, with an empty cache; it ends before anything starts."""
    npm = folder / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    path = f"{npm.parent}:/usr/bin:/bin"
    return subprocess.run(
        # The port is refused once the client is there, so nothing is started.
        hubplane_command("demo", "--port", "1", "--host", "203.0.113.1"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": path, "XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)},
    )


def test_client_that_cannot_be_fetched_is_a_clear_error(tmp_path: Path) -> None:
    """Without a way to the npm registry the demo says what npm said and what to do, and leaves nothing half done."""
    done = run_with_npm(tmp_path, "echo 'npm error code ENOTFOUND' >&2; exit 1")
    assert done.returncode == 1
    assert "npm could not install Microsoft's client" in done.stderr
    assert "npm error code ENOTFOUND" in done.stderr
    assert "hubplane demo --node-modules FOLDER" in done.stderr
    assert list((tmp_path / "cache" / "hubplane").iterdir()) == []


def test_client_is_fetched_once(tmp_path: Path) -> None:
    """The client is installed as the lock file says, and the next run finds it."""
    script = """
        echo "$@" >> "$HOME/calls"
        test "$1" = ci && grep -q '"lockfileVersion": 3' package-lock.json || exit 1
        mkdir -p node_modules/@microsoft/signalr/dist/browser
        touch node_modules/@microsoft/signalr/dist/browser/signalr.min.js
    """
    first = run_with_npm(tmp_path, script)
    assert "Fetching Microsoft's JavaScript client from npm, this once" in first.stdout
    assert "203.0.113.1" in first.stderr
    (tmp_path / "bin" / "npm").unlink()
    (tmp_path / "bin").rmdir()
    second = run_with_npm(tmp_path, "exit 1")
    assert "Fetching" not in second.stdout
    assert second.stderr == first.stderr
    assert (tmp_path / "calls").read_text().count("ci --ignore-scripts") == 1


def test_busy_port_is_a_clear_error(modules: None) -> None:
    """A port that is in use is one sentence and status 1, and nothing was started."""
    with start() as first:
        port = addresses(first)[0].rpartition(":")[2]
        command = hubplane_command("demo", "--port", port, "--node-modules", str(MODULES))
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (
            1,
            f"Error: Port {port} on 127.0.0.1 is in use. Choose another one with --port.\n",
        )
