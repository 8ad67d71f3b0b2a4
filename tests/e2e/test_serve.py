"""`hubplane serve`: one process or several, clear errors, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest
from tests.e2e.clients import JsDriver
from tests.e2e.nodes import HERE, HubNode, hubplane_command
from tests.e2e.processes import Process, eventually

PLAIN = """
import os

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if {fails} and message["type"] == "lifespan.startup":
                await send({{"type": "lifespan.startup.failed", "message": "no luck"}})
                return
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": str(os.getpid()).encode()}})

def make():
    return app

class Wrong:
    pass

number = 1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small application."""
    (tmp_path / "plain.py").write_text(PLAIN.format(fails=False))
    (tmp_path / "failing.py").write_text(PLAIN.format(fails=True))
    (tmp_path / "broken.py").write_text("import surely_not_installed\n")
    return tmp_path


def serve(folder: Path, *arguments: str, app: str = "plain:app") -> Process:
    """A running `hubplane serve`, with no Redis from outside."""
    return Process(hubplane_command("serve", app, *arguments), cwd=str(folder), environment={"HUBPLANE_REDIS": ""})


def get(url: str) -> str:
    """The body of an answer."""
    return httpx.get(url, timeout=10).raise_for_status().text


def address(process: Process) -> str:
    """Where it listens, once it does."""
    found = re.search(r"http://\S+\d", process.line("hubplane serves"))
    assert found
    return found[0]


def family(process: Process) -> list[int]:
    """The process ids of its children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii")
    return [int(child) for child in children.split()]


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_signal_ends_it_with_status_0_and_without_children(folder: Path, workers: str, number: signal.Signals) -> None:
    """SIGINT and SIGTERM are orderly ends: status 0, no process left, the port free."""
    with serve(folder, "--port", "0", "--workers", workers) as process:
        url = address(process)
        assert int(get(url)) == process.pid if workers == "1" else int(get(url)) in family(process)
        children = family(process)
        assert len(children) == (0 if workers == "1" else 3), "the workers and the embedded server"
        assert process.stop(number) == 0
        assert not any(alive(child) for child in children)
    with serve(folder, "--port", url.rpartition(":")[2]) as again:
        assert address(again) == url


def test_killed_command_takes_its_workers_and_server_along(folder: Path) -> None:
    """After a SIGKILL of the command, its workers and the embedded server end by themselves."""
    with serve(folder, "--port", "0", "--workers", "2") as process:
        address(process)
        children = family(process)
        process.process.kill()
        process.process.wait()
        assert eventually(lambda: not any(alive(child) for child in children), 15.0)


def test_worker_that_dies_is_replaced(folder: Path) -> None:
    """The fleet goes on with a new worker where one has died, and says so."""
    with serve(folder, "--port", "0", "--workers", "2") as process:
        url = address(process)
        victim = int(get(url))
        os.kill(victim, signal.SIGKILL)
        assert process.logged("was ended by signal 9, starting it again")
        assert eventually(lambda: len(family(process)) == 3 and victim not in family(process))
        assert int(get(url)) in family(process)
        assert process.stop() == 0


@pytest.mark.parametrize(
    ("app", "options", "sentence"),
    [
        ("nowhere:app", [], "There is no module 'nowhere' in"),
        ("plain:nothing", [], "Module 'plain' has no 'nothing'. It does have: app."),
        ("plain", [], "'plain' is not of the form MODULE:APP"),
        ("plain:number", [], "plain:number is no ASGI application, it is of type int."),
        ("plain:Wrong", [], "plain:Wrong is a class"),
        ("plain:make", [], "plain:make takes no arguments; if it makes the application, add --factory."),
        ("plain:number", ["--factory"], "plain:number is no function"),
        ("broken:app", [], "No module named 'surely_not_installed'"),
        ("failing:app", [], "no luck"),
    ],
)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_wrong_application_is_a_clear_error(
    folder: Path, app: str, options: list[str], sentence: str, workers: str
) -> None:
    """What is no application ends the command with status 1 and a sentence that says why."""
    with serve(folder, "--port", "0", "--workers", workers, *options, app=app) as process:
        assert process.wait() == 1
        assert sentence in process.stderr
        assert not process.lines


def test_busy_port_is_a_clear_error(folder: Path) -> None:
    """A port that is in use ends the command before anything starts."""
    with serve(folder, "--port", "0") as first:
        port = address(first).rpartition(":")[2]
        with serve(folder, "--port", port) as second:
            assert second.wait() == 1
            assert second.stderr == f"Error: Port {port} on 127.0.0.1 is in use. Choose another one with --port."


@pytest.mark.parametrize("arguments", [["--workers", "0"], ["--port", "65536"], ["--log-level", "loud"], ["--nope"]])
def test_wrong_command_line_has_status_2(folder: Path, arguments: list[str]) -> None:
    """An option that does not exist, or a value out of range, is status 2."""
    with serve(folder, *arguments) as process:
        assert process.wait() == 2


def test_unix_socket_is_served_and_removed(folder: Path) -> None:
    """`--uds` listens on a unix socket, takes over a dead one, refuses a live one, and removes it at the end."""
    path = folder / "app.sock"
    with serve(folder, "--uds", str(path)) as process:
        assert process.line(f"on unix:{path}")
        curl = ["curl", "-s", "--unix-socket", str(path), "http://localhost/"]
        assert int(subprocess.run(curl, capture_output=True, check=True).stdout) == process.pid
        with serve(folder, "--uds", str(path)) as second:
            assert second.wait() == 1
            assert "Another process listens on" in second.stderr
        process.process.kill()
        process.process.wait()
    assert path.exists()
    with serve(folder, "--uds", str(path)) as process:
        assert process.line(f"on unix:{path}")
        assert process.stop() == 0
    assert not path.exists()


def test_embedded_server_is_optional(folder: Path) -> None:
    """With `--no-embedded`, or a Redis of the user's, no server is started beside the workers."""
    for option in (["--no-embedded"], ["--redis", "127.0.0.1:1"]):
        with serve(folder, "--port", "0", "--workers", "2", *option) as process:
            assert "one fleet through your Redis" in process.line("hubplane serves")
            assert len(family(process)) == 2
            assert process.stop() == 0


def test_factory_makes_the_application(folder: Path) -> None:
    """With `--factory` the name is a function that makes the application."""
    with serve(folder, "--port", "0", "--factory", app="plain:make") as process:
        assert int(get(address(process))) == process.pid


def test_workers_form_one_fleet(driver: JsDriver) -> None:
    """Without a Redis of their own, workers of one command share an embedded one: messages cross between them."""
    with HubNode(options=("--workers", "2")) as node:
        # Each worker takes connections from the one port, so a few of them land on both.
        clients = [driver.connect(node.chat, skipNegotiation=True, user="ann") for _ in range(12)]
        assert len({client.invoke("Process") for client in clients}) == 2
        clients[0].invoke("SendMessage", "to", "all workers")
        assert [client.message() for client in clients] == [["to", "all workers"]] * 12
        for client in clients:
            client.stop()
        assert node.stop() == 0


def test_log_holds_no_token(folder: Path) -> None:
    """Access tokens and connection tokens, which clients send in the query, appear in no log."""
    (folder / "telling.py").write_text(
        "import logging\n"
        "from plain import app as plain\n"
        "async def app(scope, receive, send):\n"
        "    if scope['type'] == 'http':\n"
        "        logging.getLogger('telling').warning('asked for /?%s', scope['query_string'].decode())\n"
        "    await plain(scope, receive, send)\n"
    )
    with serve(folder, "--port", "0", "--log-level", "debug", app="telling:app") as process:
        get(f"{address(process)}/?a=1&access_token=user:secret&id=secret")
        assert process.logged("asked for /?a=1&access_token=***&id=***")
        assert process.stop() == 0
        assert "secret" not in process.stderr


def test_version_names_what_it_runs_on() -> None:
    """`hubplane version` prints hubplane's version and those of its parts."""
    done = subprocess.run(hubplane_command("version"), capture_output=True, text=True, check=True, cwd=HERE)
    assert re.match(r"hubplane \d+\.\d+", done.stdout)
    assert re.search(r"^uvicorn \d", done.stdout, re.MULTILINE)
