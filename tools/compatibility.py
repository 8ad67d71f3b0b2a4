"""Writes docs/compatibility.md: each reference row and the tests that prove it.

    tools/compatibility.py            write the page anew
    tools/compatibility.py --check    fail if the page is stale

Rows and their wording are data: docs/rows.json. Proof is what the tests claim with ``@pytest.mark.row("B17")``, found
by reading them, not by running them; a test that is expected to fail proves nothing. An unknown row is an error.
"""

from __future__ import annotations

import ast
import json
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Citation", "Rows", "citations", "main", "read_rows", "render"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
DATA = ROOT / "docs" / "rows.json"
# The contract suites that hubplane ships are tests too.
FOLDERS = ("tests", "src/hubplane/testing")

HEAD = """# Compatibility

What hubplane has to do to be the SignalR server, and the tests that prove it. This page is written by
`make docs` from the tests themselves; `make check` fails when it is stale. Each row is a behaviour that was observed on
ASP.NET Core 10 or read in its specifications.

"""


@dataclass(frozen=True)
class Rows:
    """The data file: row texts by group, and explanations of rows that no test can or need prove."""

    areas: dict[str, str]
    groups: list[tuple[str, str, dict[str, str]]]
    explained: dict[str, str]

    def ids(self) -> list[str]:
        """All row ids, in order."""
        return [row for _, _, rows in self.groups for row in rows]


@dataclass(frozen=True, order=True)
class Citation:
    """A test that claims a row."""

    path: str
    test: str
    row: str
    line: int
    expected_to_fail: bool = False


def read_rows(text: str) -> Rows:
    """Parse the data file."""
    data = json.loads(text)
    groups = [(group["area"], group["title"], group["rows"]) for group in data["groups"]]
    return Rows(data["areas"], groups, data["explained"])


def is_mark(node: ast.AST, name: str) -> bool:
    """Whether `node` is ``pytest.mark.<name>``, or ``mark.<name>``."""
    if isinstance(node, ast.Call):
        node = node.func
    if not (isinstance(node, ast.Attribute) and node.attr == name):
        return False
    owner = node.value
    return getattr(owner, "attr", None) == "mark" or getattr(owner, "id", None) == "mark"


def citations(source: str, path: str) -> list[Citation]:
    """All rows that a test module claims: on functions, classes, parameters or the whole module.

    Raises:
        ValueError: A row is not written as a plain string.
    """
    found: list[Citation] = []

    def visit(node: ast.AST, names: tuple[str, ...], failing: bool) -> None:  # noqa: FBT001 - passed down, never spelled
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names = (*names, node.name)
            failing = failing or any(is_mark(mark, "xfail") for mark in node.decorator_list)
        if isinstance(node, ast.Call) and is_mark(node, "row"):
            for argument in node.args:
                if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
                    raise ValueError(f"{path}:{node.lineno}: write each row as a plain string")
                found.append(Citation(path, "::".join(names), argument.value, node.lineno, failing))
        for child in ast.iter_child_nodes(node):
            visit(child, names, failing)

    visit(ast.parse(source), (), False)
    return sorted(set(found))


def collect() -> list[Citation]:
    """The citations of all test modules."""
    files = [
        path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")) if "node_modules" not in path.parts
    ]
    return [
        citation
        for path in files
        for citation in citations(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    ]


def proof(tests: list[Citation], explanation: str | None) -> str:
    """What stands in a row's last cell."""
    passing = sorted({(test.path, test.test) for test in tests if not test.expected_to_fail})
    cell = [f"[`{Path(path).name}{'::' if test else ''}{test}`](../{path})" for path, test in passing]
    if explanation:
        cell.append(explanation)
    return "<br>".join(cell) or "not yet"


def render(rows: Rows, cited: list[Citation]) -> str:
    """The page."""
    by_row: dict[str, list[Citation]] = {}
    for citation in cited:
        by_row.setdefault(citation.row, []).append(citation)
    proven = {row for row, tests in by_row.items() if any(not test.expected_to_fail for test in tests)}

    summary = ["| area | rows | proven by tests | explained | not yet |", "| --- | --- | --- | --- | --- |"]
    for area, title in rows.areas.items():
        ids = [row for key, _, group in rows.groups for row in group if key == area]
        summary.append(f"| {area}: {title} | {' | '.join(map(str, count(ids, proven, rows.explained)))} |")
    summary.append(f"| all | {' | '.join(map(str, count(rows.ids(), proven, rows.explained)))} |")

    body: list[str] = []
    last = ""
    for area, title, group in rows.groups:
        if area != last:
            body.append(f"\n## {rows.areas[area]}\n")
            last = area
        body.append(f"### {title}\n\n| row | behaviour | proof |\n| --- | --- | --- |")
        body += [
            f"| {row} | {text} | {proof(by_row.get(row, []), rows.explained.get(row))} |" for row, text in group.items()
        ]
        body.append("")
    return HEAD + "\n".join(summary) + "\n" + "\n".join(body).rstrip() + "\n"


def count(ids: list[str], proven: set[str], explained: dict[str, str]) -> tuple[int, int, int, int]:
    """How many rows, and of these proven, only explained, and open."""
    yes = sum(row in proven for row in ids)
    told = sum(row not in proven and row in explained for row in ids)
    return len(ids), yes, told, len(ids) - yes - told


def main(arguments: list[str]) -> int:
    """Write or check the page; 1 if it is stale or a test claims a row that does not exist."""
    rows = read_rows(DATA.read_text(encoding="utf-8"))
    known = set(rows.ids())
    cited = collect()
    unknown = [citation for citation in cited if citation.row not in known]
    for citation in unknown:
        print(f"{citation.path}:{citation.line}: there is no row {citation.row}", file=sys.stderr)
    for row in sorted(set(rows.explained) - known):
        print(f"docs/rows.json: there is no row {row} to explain", file=sys.stderr)
    if unknown or set(rows.explained) - known:
        return 1

    page = render(rows, cited)
    total, yes, told, open_ = count(
        rows.ids(), {citation.row for citation in cited if not citation.expected_to_fail}, rows.explained
    )
    print(f"compatibility: {yes} of {total} rows proven by tests, {told} explained, {open_} not yet")
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != page:
            print("docs/compatibility.md is stale: run 'make docs'", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
