"""Compare the edges side by side: ``python benchmarks/run.py [--tests echo1,bc1000] [NAME=COMMAND ...]``.

Servers run on one core, the load and Redis on another; candidates take turns, and what is printed are medians and
ratios to the first candidate. Only ratios within one run mean anything.

A further candidate is NAME=COMMAND with ``{port}`` in it; it must serve the benchmark hub at /bench.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from load import TESTS

from hubplane.testing.redis_server import RedisServer

HERE = Path(__file__).resolve().parent
SERVER = f"{shlex.quote(sys.executable)} {shlex.quote(str(HERE / 'server.py'))} --port {{port}}"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def measure(command: str, test: str, cores: tuple[int, int]) -> float:
    """Start a server, run one test against it, stop it."""
    port = free_port()
    words = shlex.split(command.replace("{port}", str(port)))
    server = subprocess.Popen(["taskset", "-c", str(cores[0]), *words], start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {command}") from None
                time.sleep(0.05)
        done = subprocess.run(
            [sys.executable, str(HERE / "load.py"), test, str(port), str(server.pid), str(cores[1])],
            stdout=subprocess.PIPE,
            text=True,
            timeout=120,
            check=True,
        )
        return float(done.stdout)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", metavar="NAME=COMMAND")
    parser.add_argument("--tests", default=",".join(TESTS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cores = (0, 1 if (os.cpu_count() or 1) > 1 else 0)
    with RedisServer() as redis:
        os.sched_setaffinity(redis.pid, {cores[1]})
        candidates = {
            "fast edge, Redis": f"{SERVER} --edge fast --redis {redis.url}",
            "fast edge, memory": f"{SERVER} --edge fast",
            "ASGI edge, Redis": f"{SERVER} --edge asgi --redis {redis.url}",
        }
        candidates.update(text.split("=", 1) for text in options.candidates)
        for test in options.tests.split(","):
            figures: dict[str, list[float]] = {name: [] for name in candidates}
            for _ in range(options.rounds):
                for name in random.sample(list(candidates), len(candidates)):
                    figures[name].append(measure(candidates[name], test, cores))
            base = statistics.median(next(iter(figures.values())))
            unit = "KB per connection" if test == "idle" else "per second"
            print(f"\n{test}, {unit}: median of {options.rounds} (lowest - highest), ratio to the first")
            for name, values in figures.items():
                middle = statistics.median(values)
                print(f"  {name:20} {middle:12,.1f} ({min(values):,.1f} - {max(values):,.1f})  x{middle / base:.2f}")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
