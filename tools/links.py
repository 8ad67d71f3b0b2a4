"""Checks the links of all Markdown pages: relative ones lead to a file that exists, and to a heading that it has.

Links to other sites are not followed: a check must not depend on the network.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import unquote

__all__ = ["anchors", "broken", "main"]

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1\s*$", flags=re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """The page without its code blocks, line numbers kept."""
    return FENCE.sub(lambda block: "\n" * block.group().count("\n"), text)


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown page's headings make."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", prose(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (candidate := slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(candidate)
    return found


def broken(path: Path) -> list[str]:
    """The links of a page that lead nowhere, as "line: sentence"."""
    said: list[str] = []
    for number, line in enumerate(prose(path.read_text(encoding="utf-8")).splitlines(), 1):
        for match in LINK.finditer(re.sub(r"(?<!\[)`[^`]*`", "", line)):
            target = unquote(match.group(1) or match.group(2))
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            name, _, anchor = target.partition("#")
            file = (path.parent / name).resolve() if name else path
            if not file.exists():
                said.append(f"{number}: there is no {name}")
            elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
                said.append(f"{number}: {name or path.name} has no heading #{anchor}")
    return said


def pages() -> list[Path]:
    """All Markdown pages of the project."""
    return sorted(
        [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("changelog.d/*.md"), *ROOT.glob("benchmarks/*.md")]
    )


def main() -> int:
    """Print what is broken; 1 if anything is."""
    said = [f"{path.relative_to(ROOT)}:{text}" for path in pages() for text in broken(path)]
    print("\n".join(said) if said else f"links: all of {len(pages())} pages lead somewhere")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
