"""The code in README.md and under docs/ runs: each page is one program, its Python blocks in reading order.

A page runs in an interpreter and a folder of its own: it may call `asyncio.run` and write files, and leaves nothing.
Shell blocks (``console``) show what to type and are not run.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL)
LANGUAGES = {
    "python",
    "console",
    "text",
    "json",
    "toml",
    "ini",
    "nginx",
    "haproxy",
    "javascript",
    "html",
    "csharp",
    "http",
}
SECONDS = 30


def blocks(text: str) -> list[tuple[int, str, str]]:
    """The fenced blocks of a page: line of the first line of code, what stands behind the fence, the code."""
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        code = "".join(part.removeprefix(match["indent"]) for part in match["code"].splitlines(keepends=True))
        found.append((line, match["info"].strip(), code))
    return found


def program(text: str) -> str:
    """The Python blocks of a page as one module, each on the lines where the page has it."""
    lines: list[str] = []
    for first, info, code in blocks(text):
        if info == "python":
            lines += [""] * (first - 1 - len(lines))
            lines += code.splitlines()
    return "\n".join(lines) + "\n"


def in_house(path: Path) -> str:
    """A page's name for the report."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=in_house)
def test_fences_say_what_they_hold(path: Path) -> None:
    """Each code block names its language, and none asks to be left out."""
    text = path.read_text(encoding="utf-8")
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(blocks(text)), "a fence is not closed"
    said = [f"{in_house(path)}:{line - 1}: ```{info}" for line, info, _ in blocks(text) if info not in LANGUAGES]
    assert not said, "\n".join(said)


@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("path", PAGES, ids=in_house)
def test_code_of_page_runs(path: Path, tmp_path: Path) -> None:
    """The Python code of a page runs to its end, with warnings as errors."""
    source = program(path.read_text(encoding="utf-8"))
    ast.parse(source, in_house(path))
    if not source.strip():
        return  # prose
    script = tmp_path / "page.py"
    script.write_text(source, encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("COV_", "COVERAGE_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{in_house(path)}:\n{done.stdout}{done.stderr.replace(str(script), in_house(path))}"


def test_blocks_keep_their_lines() -> None:
    """A block of a page, indented or not, becomes code on the same line numbers, and other languages are left out."""
    page = (
        "Text\n\n```python\na = 1\n```\n```console\n$ ls\n```\n1. Step\n   ```python\n   if a:\n       b = 2\n   ```\n"
    )
    assert program(page).splitlines() == ["", "", "", "a = 1", "", "", "", "", "", "", "if a:", "    b = 2"]
