"""Names: what a module offers stands in its `__all__`, and what hubplane offers stands in the reference."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "hubplane"
MODULES = sorted(SOURCES.rglob("*.py"))
REFERENCE = ROOT / "docs" / "reference"

by_path = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCES)))


def exported(tree: ast.Module) -> list[str] | None:
    """The names in a module's `__all__`, None where it has none."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            value: object = ast.literal_eval(node.value)  # type: ignore[attr-defined]  # an assignment, by its targets
            assert isinstance(value, (list, tuple))
            return list(value)
    return None


def dotted(path: Path) -> str:
    """The name under which a module is imported."""
    parts = path.relative_to(SOURCES.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_prose(tree: ast.Module) -> bool:
    """Whether a module holds nothing but its docstring (and the future import)."""
    return all(
        (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
        for node in tree.body
    )


def in_house_order(name: str) -> tuple[int, str]:
    """The order of ruff's RUF022: constants, classes, the rest."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


@by_path
def test_module_says_what_it_is(path: Path) -> None:
    """Each module opens with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@by_path
def test_module_lists_what_it_offers(path: Path) -> None:
    """Each module that holds code has an `__all__`: sorted (the façade: in reading order), of names that it defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if is_prose(tree):
        return
    names = exported(tree)
    assert names is not None, f"{path.relative_to(ROOT)} has no __all__"
    assert len(names) == len(set(names))
    module = importlib.import_module(dotted(path))
    assert [name for name in names if not hasattr(module, name)] == []
    if path != SOURCES / "__init__.py":
        assert names == sorted(names, key=in_house_order)


@by_path
def test_module_holds_one_idea(path: Path) -> None:
    """No module is longer than 450 lines: one that nears 400 holds two ideas."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_facade_offers_what_it_lists() -> None:
    """Every name in `hubplane.__all__` can be imported from hubplane."""
    facade = importlib.import_module("hubplane")
    for name in getattr(facade, "__all__", []):
        assert hasattr(facade, name), name


@pytest.mark.parametrize("module", ["hubplane", "hubplane.testing"])
def test_public_names_are_documented(module: str) -> None:
    """Every name that hubplane and hubplane.testing offer has its entry in the reference."""
    facade = importlib.import_module(module)
    pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted(REFERENCE.glob("*.md")))
    entries = set(re.findall(r"^#{2,4} `(\w+)`", pages, flags=re.MULTILINE))
    assert set(getattr(facade, "__all__", [])) - {"__version__"} <= entries


def test_no_module_is_a_drawer() -> None:
    """No module is called utils, helpers or common."""
    assert not [path for path in MODULES if path.stem in {"utils", "util", "helpers", "common", "misc"}]
