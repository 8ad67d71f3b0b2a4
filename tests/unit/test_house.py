"""What is tracked by git holds nothing of the machine it was written on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written in halves, for this file is tracked too.
HOSTS = [
    "pypi." + "org",
    "files.python" + "hosted.org",
    "registry." + "npmjs.org",
    "registry." + "yarnpkg.com",
    "deb." + "debian.org",
    "proxy." + "golang.org",
    "api." + "nuget.org",
    "static.crates" + ".io",
]
PATHS = re.compile(
    r"(?<![\w.\-/}$])/(?:" + "|".join(["ro" + "ot", "wo" + "rk", "ho" + r"me/\w+", "op" + "t/wheels"]) + r")(?=/|\b)"
)


def tracked() -> list[Path]:
    """All files in the index of git."""
    git = shutil.which("git")
    assert git, "git is one of the three programs that hubplane's developers need"
    names = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return [ROOT / name for name in names.split("\0") if name]


@pytest.mark.parametrize(
    ("text", "foreign"),
    [
        ("cd /" + "work/main", True),
        ("see /" + "root/.cache", True),
        ("https://example.com/" + "work/", False),
        ("the net" + "work/worker", False),
        ("$ROOT/" + "work", False),
    ],
)
def test_pattern_knows_a_path_of_a_machine(text: str, foreign: bool) -> None:
    """The pattern finds absolute paths of a developer's machine, and leaves addresses and relative paths alone."""
    assert bool(PATHS.search(text)) is foreign


def test_tracked_files_name_no_registry_and_no_machine() -> None:
    """No tracked file names the host of a package registry or an absolute path of somebody's machine."""
    said = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # an image or recorded bytes; or removed, and not yet committed
        for number, line in enumerate(text.splitlines(), 1):
            if any(host in line for host in HOSTS) or PATHS.search(line):
                said.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not said, "\n".join(said)
