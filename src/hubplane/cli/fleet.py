"""`Fleet`: several worker processes as one, from start to a clean end."""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any  # what signal.signal gives back

import msgspec

from hubplane.cli.link import READY
from hubplane.cli.serving import Target
from hubplane.cli.worker import WorkerOrder
from hubplane.clock import Clock, SystemClock

__all__ = ["Fleet", "WorkerPlan"]

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 15.0
_RESTART_SECONDS = 1.0
_TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """One worker to be.

    Attributes:
        name: For messages.
        target: What it serves.
        listeners: Sockets that listen already; workers may share them.
        environment: Added to this process's environment.
        descriptors: More file descriptors that it inherits.
    """

    name: str
    target: Target
    listeners: Sequence[socket.socket]
    environment: Mapping[str, str] = field(default_factory=dict)
    descriptors: tuple[int, ...] = ()


class _Worker:
    """A running worker process and our end of its line."""

    def __init__(self, plan: WorkerPlan) -> None:
        self.plan = plan
        self.ready = False
        ours, theirs = socket.socketpair()
        with theirs:
            order = WorkerOrder(
                target=plan.target, listeners=tuple(one.fileno() for one in plan.listeners), link=theirs.fileno()
            )
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hubplane.cli.worker", msgspec.json.encode(order).decode()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **plan.environment},
                pass_fds=(*order.listeners, order.link, *plan.descriptors),
                # Ctrl-C in a terminal goes to the command alone, which then ends everything in order.
                start_new_session=True,
            )
        self.link = ours

    def end(self) -> int:
        """Close the line and wait for a process that has ended, or is about to; return its exit status."""
        self.link.close()
        try:
            return self.process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Fleet:
    """Starts workers, starts one again that died, and ends them all.

    A worker that does not come up the first time ends the fleet: what keeps it from starting will not go away.

    Args:
        plans: The workers.
        on_ready: Called once, when all workers accept connections.
        on_tick: Called every 0.25 s or so, on the same thread.
        clock: Where time comes from.
    """

    def __init__(
        self,
        plans: Sequence[WorkerPlan],
        *,
        on_ready: Callable[[], None],
        on_tick: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self._plans = plans
        self._on_ready = on_ready
        self._on_tick = on_tick
        self._clock = clock or SystemClock()
        self._selector = selectors.DefaultSelector()
        self._workers: dict[socket.socket, _Worker] = {}
        self._readers: dict[object, Callable[[], None]] = {}
        self._restarts: list[tuple[float, WorkerPlan]] = []
        self._complete = False
        self._stopping_since: float | None = None
        self._status = 0

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> None:
        """Also call `on_readable` whenever there is something to read on `descriptor`."""
        self._readers[descriptor] = on_readable
        self._selector.register(descriptor, selectors.EVENT_READ)

    def run(self) -> int:
        """Run until SIGINT, SIGTERM or SIGHUP, or until a worker fails to start; return the exit status."""
        try:
            with self._signals():
                for plan in self._plans:
                    self._start(plan)
                while self._workers or (self._stopping_since is None and self._restarts):
                    for key, _ in self._selector.select(_TICK_SECONDS):
                        self._readable(key.fileobj)
                    self._tick()
        finally:
            for worker in self._workers.values():
                worker.process.kill()
                worker.end()
            self._selector.close()
        return self._status

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.settimeout(0)
        before: dict[signal.Signals, Any] = {}
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            for number in _SIGNALS:
                before[number] = signal.signal(number, lambda *_: None)
            self.watch(ours.fileno(), lambda: self._signalled(ours))
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
            ours.close()
            theirs.close()

    def _signalled(self, wakeup: socket.socket) -> None:
        for number in wakeup.recv(16):
            if number in _SIGNALS:
                if self._stopping_since is not None and number == signal.SIGINT:
                    self._send(signal.SIGKILL)
                self._stop()

    def _start(self, plan: WorkerPlan) -> None:
        worker = _Worker(plan)
        self._workers[worker.link] = worker
        self._selector.register(worker.link, selectors.EVENT_READ)

    def _readable(self, file: object) -> None:
        if not isinstance(file, socket.socket):
            self._readers[file]()
            return
        worker = self._workers[file]
        try:
            said = file.recv(64)
        except OSError:
            said = b""
        if not said:
            self._ended(worker)
        elif said == READY:
            worker.ready = True
            if not self._complete and all(one.ready for one in self._workers.values()):
                self._complete = True
                self._on_ready()

    def _ended(self, worker: _Worker) -> None:
        self._selector.unregister(worker.link)
        del self._workers[worker.link]
        status = worker.end()
        if self._stopping_since is not None:
            return
        if not self._complete:
            self._status = 1
            self._stop()
            return
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        logger.error("%s %s, starting it again.", worker.plan.name, how)
        # At once after a crash in service; with a pause when it did not even start.
        self._restarts.append((self._clock.monotonic() + (0 if worker.ready else _RESTART_SECONDS), worker.plan))

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if self._stopping_since is None:
            self._on_tick()
            for due, plan in [one for one in self._restarts if one[0] <= now]:
                self._restarts.remove((due, plan))
                self._start(plan)
        elif now - self._stopping_since > _STOP_SECONDS:
            self._send(signal.SIGKILL)

    def _stop(self) -> None:
        if self._stopping_since is None:
            self._stopping_since = self._clock.monotonic()
            self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            worker.process.send_signal(number)
