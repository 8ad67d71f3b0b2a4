"""A hub method that never returns, in a process that is to end."""

from __future__ import annotations

import subprocess
import sys

BLOCKED = """
import asyncio, threading
from hubplane.hubs.threads import run_in_thread

async def main():
    started = threading.Event()
    task = asyncio.ensure_future(run_in_thread(lambda: (started.set(), threading.Event().wait())))
    while not started.is_set():
        await asyncio.sleep(0)
    task.cancel()

asyncio.run(main())
"""


def test_a_method_that_never_returns_does_not_hold_the_process() -> None:
    """Event loop and process end although a thread is blocked for ever."""
    subprocess.run([sys.executable, "-c", BLOCKED], check=True, timeout=20)
