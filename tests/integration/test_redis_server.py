"""`RedisServer`: the tests' own server does what it says, and never outlives who started it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hubplane.errors import BackplaneUnavailableError, ConfigurationError
from hubplane.testing.redis_server import RedisServer, find_redis_server
from hubplane.testing.resp import RespError


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("kind", ["any", "valkey", "redis"])
def test_starts_what_was_asked_for(kind: str) -> None:
    """Each kind starts the server of that name, and "any" the first there is."""
    with RedisServer(kind=kind) as server:  # type: ignore[arg-type]
        info = server.command("INFO", "server")
        assert isinstance(info, bytes)
        assert (b"server_name:valkey" in info) is (kind != "redis")
        assert server.pid is not None
        assert server.url == f"redis://127.0.0.1:{server.port}"


def test_restart_keeps_the_address_and_forgets_the_data() -> None:
    """After a restart, or a stop and a start, the server is empty and listens where it did."""
    with RedisServer() as server:
        port, pid = server.port, server.pid
        assert server.command("SET", "key", b"value") == b"OK"
        assert server.command("GET", "key") == b"value"
        server.restart()
        assert (server.port, server.command("GET", "key")) == (port, None)
        assert server.pid != pid
        server.stop()
        assert server.pid is None
        with pytest.raises(BackplaneUnavailableError):
            server.command("PING")
        server.stop()
        server.start()
        server.start()
        assert server.command("LRANGE", "key", 0, 1) == []


def test_secrets_in_urls_are_encoded() -> None:
    """The password stands percent-encoded in the URL, as it is in the string, and the raw helper logs in with it."""
    with RedisServer(password="p@ss w/o?") as server:
        assert server.url == f"redis://:p%40ss%20w%2Fo%3F@127.0.0.1:{server.port}"
        assert server.configuration == f"127.0.0.1:{server.port},password=p@ss w/o?"
        assert server.command("PING") == b"PONG"
        with pytest.raises(RespError, match="unknown command"):
            server.command("NOSUCH")


def test_frozen_server_can_be_woken_stopped_and_killed() -> None:
    """A frozen server answers when woken up, and ends politely or by force without being woken first."""
    with RedisServer(unix=True) as server:
        assert server.port == 0
        server.pause()
        server.resume()
        assert server.command("PING") == b"PONG"
        server.pause()
        server.stop()
        server.start()
        server.pause()
        pid = server.pid
        server.kill()
        assert pid is not None
        assert not alive(pid)
        server.pause()
        server.resume()


def test_failed_start_tells_why() -> None:
    """A server that does not start raises with its own words; a port that was asked for is not exchanged."""
    with pytest.raises(BackplaneUnavailableError, match="no-such-option"):
        RedisServer(arguments=["--no-such-option", "1"]).start()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BackplaneUnavailableError, match="in use"):
            RedisServer(port=taken.getsockname()[1]).start()


def test_missing_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such program the error says what to install."""
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_redis_server("redis") is None
    with pytest.raises(ConfigurationError, match="put redis-server on the PATH"):
        RedisServer(kind="redis")


def test_pinned_server_runs_on_its_core() -> None:
    """`cpu` ties the server to one core."""
    with RedisServer(cpu=0) as server:
        assert server.pid is not None
        assert os.sched_getaffinity(server.pid) == {0}


async def test_async_use() -> None:
    """As an async context manager it is the same."""
    async with RedisServer() as server:
        pid = server.pid
        assert await asyncio.to_thread(server.command, "PING") == b"PONG"
        assert server.output
    assert pid is not None
    assert not alive(pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_server_dies_with_who_started_it(number: signal.Signals) -> None:
    """However the starting process ends, even frozen servers end with it."""
    program = """
import sys
from hubplane.testing.redis_server import RedisServer
server = RedisServer()
server.start()
server.pause()
print(server.pid, flush=True)
sys.stdin.read()
"""
    starter = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    with starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        ended = select.poll()
        ended.register(os.pidfd_open(pid), select.POLLIN)
        assert alive(pid)
        starter.send_signal(number)
        assert ended.poll(10_000)
    assert not alive(pid)
