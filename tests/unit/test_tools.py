"""The tools behind the documents: who claims which row, and which link leads nowhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag
from pathlib import Path

import click
import pytest

from tools import compatibility, links, reference

ROWS = compatibility.read_rows(
    '{"areas": {"B": "Server", "S": "Guide"},'
    ' "groups": [{"area": "B", "title": "First", "rows": {"B1": "one", "B2": "two"}},'
    ' {"area": "S", "title": "Second", "rows": {"S1": "three"}}],'
    ' "explained": {"S1": "Nothing to port."}}'
)

SOURCE = """
import pytest
pytestmark = pytest.mark.row("B7")
CASES = [pytest.param(1, marks=pytest.mark.row("R53"))]

@pytest.mark.row("B1", "B2")
async def test_two(): ...

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.row("R1")), 2])
def test_case(x): ...

@pytest.mark.xfail(reason="known")
@pytest.mark.row("B3")
def test_failing(): ...

class TestIt:
    @pytest.mark.row("X1")
    def test_inner(self): ...

def row(*ids): ...
row("B9")
"""


def test_citations_are_found_wherever_a_mark_may_stand() -> None:
    """A row counts for the function, class, parameter or module whose mark claims it; other calls named row do not."""
    found = {(cited.test, cited.row) for cited in compatibility.citations(SOURCE, "t.py") if not cited.expected_to_fail}
    assert found == {
        ("", "B7"),
        ("", "R53"),
        ("test_two", "B1"),
        ("test_two", "B2"),
        ("test_case", "R1"),
        ("TestIt::test_inner", "X1"),
    }


def test_expected_failure_proves_nothing() -> None:
    """A row that only a test with xfail claims stays open."""
    (failing,) = [cited for cited in compatibility.citations(SOURCE, "t.py") if cited.expected_to_fail]
    assert failing.row == "B3"
    page = compatibility.render(ROWS, [compatibility.Citation("tests/t.py", "test_x", "B1", 1, expected_to_fail=True)])
    assert "| B1 | one | not yet |" in page


def test_computed_row_is_refused() -> None:
    """A row must be written out, or reading the tests could not find it."""
    with pytest.raises(ValueError, match=r"t\.py:1: write each row"):
        compatibility.citations('pytest.mark.row("B" + "1")', "t.py")


def test_page_counts_and_lists_proof() -> None:
    """The page names each row's tests, an explanation where there is one, and counts all three kinds."""
    page = compatibility.render(ROWS, [compatibility.Citation("tests/unit/t.py", "test_x", "B2", 3)])
    assert "| B: Server | 2 | 1 | 0 | 1 |" in page
    assert "| all | 3 | 1 | 1 | 1 |" in page
    assert "| B2 | two | [`t.py::test_x`](../tests/unit/t.py) |" in page
    assert "| S1 | three | Nothing to port. |" in page


def test_broken_links_are_found(tmp_path: Path) -> None:
    """A link to a missing file or heading is told with its line; other sites, code and good links are left alone."""
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Some *Heading*, with 2 words\n", encoding="utf-8")
    page.write_text(
        "# Top\n[a](other.md) [b](other.md#some-heading-with-2-words) [c](#top) [d](https://example.com/x)\n"
        "`[code](nowhere.md)`\n```\n[e](nowhere.md)\n```\n[f](missing.md)\n[`g`](other.md#nope) ![h](missing.png)\n",
        encoding="utf-8",
    )
    assert links.broken(page) == [
        "7: there is no missing.md",
        "8: other.md has no heading #nope",
        "8: there is no missing.png",
    ]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Holds values.

    More about it, with ``code``.

    Attributes:
        size: Bytes, this many
            or more; ``A | B``.
        name: What it is called.

    Raises:
        ValueError: Never.
    """

    name: str
    size: int = 3

    async def work(self, count: int, *, name: str | None = None) -> bool:
        """Do the work."""
        return count > 0 and name is None


class Suite:
    """To inherit."""

    def test_one(self) -> None:
        """One holds."""

    def make(self) -> None:
        """Make it."""


class Kinds(Flag):
    """What there is."""

    ONE = 1
    TWO = 2


def test_docstrings_become_reference_pages() -> None:
    """A public name's docstring is set as prose and tables, with the default values and the methods of its class."""
    page = reference.render({"Sample": Sample, "Kinds": Kinds, "Suite": Suite})
    assert "## `Sample`\n\nHolds values.\n\nMore about it, with `code`.\n\n| name | default | meaning |" in page
    assert "| `size` | `3` | Bytes, this many or more; `A \\| B`. |" in page
    assert "| `name` |  | What it is called. |" in page
    assert "| `ValueError` | Never. |" in page
    assert "### `Sample.work`\n\n```text\nasync work(count: int, *, name: str | None = None) -> bool\n```" in page
    assert "| `TWO` | `2` |" in page
    assert "What it tests:\n\n- One holds.\n\n### `Suite.make`" in page


@click.group()
def tool() -> None:
    """Does things."""


@tool.command()
@click.argument("app", metavar="MODULE:APP")
@click.option("--port", type=int, default=8000, show_default=True, help="Where to listen.")
@click.option("--redis", envvar="TOOL_REDIS", help="One | other.")
@click.option("--open/--no-open", default=False, help="Show it.")
def run(app: str, port: int, redis: str | None, open: bool) -> None:  # noqa: A002 - the option's name
    """Run APP.

    \b
    tool run chat:app
    """  # noqa: D301 - click reads the backspace


def test_command_becomes_a_reference_page() -> None:
    """Each command is set with its usage, its help and its options with their defaults."""
    page = reference.render_command(tool)
    assert "Does things.\n\n## `tool run`\n\n```text\ntool run [OPTIONS] MODULE:APP\n```\n\nRun APP." in page
    assert "```text\ntool run chat:app\n```" in page
    assert "| `--port INTEGER` | `8000` | Where to listen. |" in page
    assert "| `--redis TEXT` |  | One \\| other. Also from `TOOL_REDIS`. |" in page
    assert "| `--open, --no-open` |  | Show it. |" in page
