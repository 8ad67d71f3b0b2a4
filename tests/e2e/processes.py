"""A process that tells what happens as lines of text, and can be waited for without sleeping."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self  # JSON from another process can be anything

__all__ = ["JsonLines", "Process", "eventually"]


def eventually(check: Callable[[], object], timeout: float = 10.0, step: float = 0.02) -> bool:
    """Whether `check` becomes true in time; a connection that is refused meanwhile counts as not yet."""
    end = time.monotonic() + timeout
    while True:
        with contextlib.suppress(OSError):
            if check():
                return True
        if time.monotonic() > end:
            return False
        time.sleep(step)


class Process:
    """A child in a session of its own, whose stdout and stderr are read as they come."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: bool = False,
    ) -> None:
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, kept), daemon=True)
            for stream, kept in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, kept: list[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    self.heard(line.rstrip("\n"), kept)
                    self._news.notify_all()
        with self._news:
            self._ended = kept is self.lines or self._ended
            self._news.notify_all()

    def heard(self, line: str, kept: list[str]) -> None:
        """A line came; the lock is held."""
        kept.append(line)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has written to stderr so far."""
        return "\n".join(self.errors)

    def wait_for(self, wanted: Callable[[], object], timeout: float = 15.0) -> bool:
        """Whether `wanted` becomes true before the output ends and the time is up; asked after each line."""
        end = time.monotonic() + timeout
        with self._news:
            while True:
                if wanted():
                    return True
                left = end - time.monotonic()
                if left <= 0 or self._ended:
                    return False
                self._news.wait(left)

    def line(self, part: str, timeout: float = 15.0) -> str:
        """The first line of stdout with this text in it."""
        found: list[str] = []

        def search() -> bool:
            found[:] = [line for line in self.lines if part in line][:1]
            return bool(found)

        if not self.wait_for(search, timeout):
            raise AssertionError(f"no line with {part!r}; stdout: {self.lines}; stderr: {self.stderr[-4000:]}")
        return found[0]

    def logged(self, part: str, timeout: float = 10.0) -> bool:
        """Whether a line with this text comes on stderr."""
        return self.wait_for(lambda: any(part in line for line in self.errors), timeout)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal, wait for the end, return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 20.0) -> int:
        """Wait for the end; return the exit status."""
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return status

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """It must not outlive the test, whatever happened."""
        if self.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(timeout=10.0)
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()


class JsonLines(Process):
    """A process that takes one JSON object a line on stdin, and tells one a line on stdout."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._taken: set[int] = set()
        super().__init__(command, environment=environment, stdin=True)

    def heard(self, line: str, kept: list[str]) -> None:
        """Events from stdout; stderr stays text."""
        kept.append(line)
        if kept is self.lines:
            self.events.append(json.loads(line))

    def tell(self, **command: Any) -> None:
        """Give one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def forget(self) -> None:
        """Drop what it has told so far, so that looking for what comes stays quick."""
        with self._news:
            self.events.clear()
            self._taken.clear()

    def take(self, wanted: Callable[[dict[str, Any]], bool], timeout: float = 15.0) -> dict[str, Any] | None:
        """The oldest event that is wanted and was not taken yet; None when the time is up."""
        found: list[dict[str, Any]] = []

        def search() -> bool:
            for number, event in enumerate(self.events):
                if number not in self._taken and wanted(event):
                    self._taken.add(number)
                    found.append(event)
                    return True
            return False

        self.wait_for(search, timeout)
        return found[0] if found else None
