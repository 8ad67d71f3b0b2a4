"""In CI a missing part cannot hide behind a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SUITE = """
import pytest

def test_asks_for_a_part(part, monkeypatch):
    monkeypatch.setenv("HUBPLANE_ASPNET_NODE", "/nowhere/run")
    part("aspnet-node")

@pytest.mark.skipif(True, reason="no")
def test_skipped(): ...

@pytest.mark.xfail(reason="known")
def test_known(): assert False

def test_plain(): ...
"""


@pytest.mark.parametrize(
    ("required", "status", "summary"),
    [("", 0, "1 passed, 2 skipped, 1 xfailed"), ("1", 1, "1 failed, 1 passed, 1 xfailed, 1 error")],
)
def test_skip_is_a_failure_where_all_is_required(tmp_path: Path, required: str, status: int, summary: str) -> None:
    """A test that lacks its part is skipped on a developer's machine and fails with HUBPLANE_REQUIRE_ALL=1."""
    (tmp_path / "test_sample.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:randomly", "-p", "no:cacheprovider"],
        env={**os.environ, "HUBPLANE_REQUIRE_ALL": required, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert summary in done.stdout
