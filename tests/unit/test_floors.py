"""The floors of docs/architecture.md hold: the tables there are the rules, and the imports of the package the facts."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "hubplane"
FACADE = "hubplane"


@dataclass(frozen=True)
class House:
    """What the tables say."""

    floors: dict[str, int]
    libraries: dict[str, tuple[str, ...]]
    banned: list[tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    confined: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Import:
    """One imported module, in absolute form."""

    name: str
    line: int


def read_house(text: str) -> House:
    """The floor and library tables of the architecture page."""
    floors: dict[str, int] = {}
    libraries: dict[str, tuple[str, ...]] = {}
    banned: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    confined: dict[str, tuple[str, ...]] = {}
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not set(line) <= set("|- "):
            names = tuple(re.findall(r"`([^`]+)`", cells[0]))
            rooms = tuple(re.findall(r"`([^`]+)`", cells[1]))
            if head[:2] == ["floor", "rooms"]:
                floors.update(dict.fromkeys(rooms, int(cells[0].removeprefix("F"))))
            elif head[:2] == ["library", "imported only in"]:
                libraries.update(dict.fromkeys(names, rooms))
            elif head[:2] == ["standard library", "never in"]:
                if cells[1].startswith("anywhere but"):
                    confined.update(dict.fromkeys(names, rooms))
                else:
                    banned.append((names, rooms))
    return House(floors, libraries, banned, confined)


def room_of(module: str, house: House) -> str:
    """The room a module of ours lives in: its package, a floor-0 module, or the façade."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] not in house.floors:
        return FACADE
    return parts[1]


def imports_of(source: str, module: str, *, is_package: bool) -> list[Import]:
    """All imports in a module: at the top, in functions, under TYPE_CHECKING, and by `import_module`."""
    package = module if is_package else module.rpartition(".")[0]
    found: list[Import] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([base] if base else [])])
            found += [Import(f"{base}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                found.append(Import(node.args[0].value, node.lineno))
    return found


def violations(source: str, module: str, house: House, *, is_package: bool = False) -> list[str]:
    """What in a module contradicts the house: "line: sentence"."""
    own = room_of(module, house)
    inside = module.removeprefix("hubplane.")
    said: list[str] = []
    for imported in imports_of(source, module, is_package=is_package):
        top = imported.name.split(".")[0]
        if top == "hubplane":
            said += [f"{imported.line}: {text}" for text in check_own(imported.name, own, house)]
        else:
            said += [f"{imported.line}: {text}" for text in check_foreign(top, own, inside, house)]
    return said


def check_own(name: str, own: str, house: House) -> list[str]:
    """An import of a module of ours."""
    other = room_of(name, house)
    if other == own:
        return []
    here, there = house.floors[own], house.floors[other]
    if there > here:
        return [f"{own} (F{here}) imports {name} from the floor above (F{there})"]
    if there == here and here > 0:
        return [f"{own} imports {name}, its neighbour on F{here}"]
    return []


def check_foreign(top: str, own: str, inside: str, house: House) -> list[str]:
    """An import of a library."""
    said: list[str] = []
    if top in house.libraries and not any(within(inside, room) for room in house.libraries[top]):
        said.append(f"{top} is imported only in {', '.join(house.libraries[top])}")
    if top not in house.libraries and top not in sys.stdlib_module_names and top not in {"msgspec", "__future__"}:
        said.append(f"{top} is in no table of docs/architecture.md")
    said += [f"{top} never enters {own}" for names, rooms in house.banned if top in names and own in rooms]
    if top in house.confined and own not in house.confined[top]:
        said.append(f"{top} is imported only in {', '.join(house.confined[top])}")
    return said


def within(module: str, room: str) -> bool:
    """Whether a module lies in a room such as ``backplane.redis``."""
    return module == room or module.startswith(room + ".")


def modules() -> list[tuple[str, Path]]:
    """All modules of the package: dotted name and file."""
    found = []
    for path in sorted(SOURCES.rglob("*.py")):
        parts = path.relative_to(SOURCES.parent).with_suffix("").parts
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


HOUSE = read_house((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))

SAMPLE = read_house(
    """
| floor | rooms | what |
| --- | --- | --- |
| F7 | `hubplane`, `cli` | |
| F3 | `lifetime`, `transports` | |
| F1 | `protocol`, `backplane` | |
| F0 | `errors`, `clock` | |

| library | imported only in |
| --- | --- |
| `redis` | `backplane.redis` |

| standard library | never in | because |
| --- | --- | --- |
| `asyncio` | `protocol` | |
| `time` | anywhere but `clock` | |
"""
)


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_module_imports_only_from_below(module: str, path: Path) -> None:
    """A module imports only from lower floors and its own package, and libraries only where the tables allow."""
    said = violations(path.read_text(encoding="utf-8"), module, HOUSE, is_package=path.name == "__init__.py")
    assert not said, "\n".join(f"{path.relative_to(ROOT)}:{text}" for text in said)


def test_every_room_has_a_floor() -> None:
    """Each package and module of hubplane stands in the floor table, and the table names nothing else."""
    rooms = {path.stem for path in SOURCES.glob("*.py") if path.stem not in {"__init__", "__main__"}}
    rooms |= {path.parent.name for path in SOURCES.glob("*/__init__.py")}
    assert rooms | {FACADE} == set(HOUSE.floors)


def test_every_floor_is_read() -> None:
    """The table has floors 0 to 9, so a change of its form cannot empty the check."""
    assert set(HOUSE.floors.values()) == set(range(10))
    assert {"redis", "uvicorn", "pydantic"} <= set(HOUSE.libraries)
    assert HOUSE.banned
    assert HOUSE.confined


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("hubplane.protocol.framing", "from hubplane.errors import HubplaneError", None),
        ("hubplane.protocol.framing", "from hubplane.protocol.messages import Ping", None),
        ("hubplane.protocol.framing", "from hubplane.lifetime.table import T", "from the floor above"),
        ("hubplane.protocol.framing", "def f():\n    import hubplane.lifetime.table", "from the floor above"),
        ("hubplane.protocol.framing", "from hubplane import lifetime", "from the floor above"),
        ("hubplane.protocol.framing", "from hubplane import Hub", "from the floor above"),
        ("hubplane.protocol.framing", "import hubplane", "from the floor above"),
        ("hubplane.protocol.framing", "from ..backplane import base", "its neighbour"),
        ("hubplane.protocol.framing", "from .messages import Ping", None),
        ("hubplane.protocol.framing", "from importlib import import_module\nimport_module('hubplane.cli')", "above"),
        ("hubplane.protocol.framing", "import asyncio", "never enters protocol"),
        ("hubplane.protocol.framing", "from time import monotonic", "only in clock"),
        ("hubplane.protocol.framing", "import requests", "in no table"),
        ("hubplane.clock", "import time\nfrom hubplane.errors import HubplaneError", None),
        ("hubplane.backplane.base", "import redis.asyncio", "only in backplane.redis"),
        ("hubplane.backplane.redis.client", "import redis.asyncio", None),
        ("hubplane.cli.main", "from hubplane import Hub", "its neighbour"),
    ],
)
def test_check_sees_a_violation(module: str, source: str, expected: str | None) -> None:
    """The check finds an import that points up or sideways in any of its forms, and allows what points down."""
    said = violations(source, module, SAMPLE)
    if expected is None:
        assert said == []
    else:
        assert len(said) == 1
        assert expected in said[0]


def test_tasks_are_born_in_the_supervisor() -> None:
    """No module but supervisor.py calls `create_task` or `ensure_future`, not even on a loop."""
    said = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}"
        for module, path in modules()
        if module != "hubplane.supervisor"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"create_task", "ensure_future"}
    ]
    assert not said, "\n".join(said)
