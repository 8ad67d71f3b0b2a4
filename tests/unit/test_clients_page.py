"""docs/reference/clients.md says what the tests of the clients run, neither more nor less."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reference" / "clients.md").read_text(encoding="utf-8")
LADDER = ROOT / "tests" / "e2e" / "test_ladder.py"
INTEROP = ROOT / "tests" / "interop"
PROTOCOLS = {"json": "JSON", "messagepack": "MessagePack"}
NONE = "\N{EN DASH}"


def row(client: str) -> list[str]:
    """The cells of a client's row: version, WebSockets, Server-Sent Events, long polling, tests."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {client} | ") and line.count("|") == 7]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def constant(path: Path, name: str) -> tuple[object, ...]:
    """What a module assigns to a name, without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == name:
            value: tuple[object, ...] = ast.literal_eval(node.value)
            return value
    raise AssertionError(f"{path.name} has no {name}")


def cells(ways: tuple[object, ...]) -> list[str]:
    """The three cells of a row for pairs of transport and protocol."""
    found: dict[str, list[str]] = {"ws": [], "sse": [], "lp": []}
    for way in ways:
        assert isinstance(way, tuple)
        transport, protocol = way
        found[transport].append(PROTOCOLS[protocol])
    return [", ".join(protocols) or NONE for protocols in found.values()]


def locked(name: str) -> str:
    """The version of a Python package in the lock file."""
    found = re.search(rf"^{name}==(\S+)", (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return found[1]


def test_javascript_rows() -> None:
    """The versions are those of the lock file, split by where the ladder runs them; the ways are the ladder's."""
    packages = json.loads((ROOT / "tests" / "e2e" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    versions = {}
    for version in map(str, constant(LADDER, "VERSIONS")):
        pinned = packages.get(f"signalr-{version}", packages["@microsoft/signalr"]).rpartition("@")[2]
        assert pinned.startswith(f"{version}.")
        versions[version] = pinned
    in_chromium = constant(LADDER, "IN_CHROMIUM")
    in_node = [pinned for version, pinned in versions.items() if version not in in_chromium]
    ways = cells(constant(LADDER, "WAYS"))
    assert row("Microsoft's JavaScript client, in Node")[:4] == [", ".join(in_node), *ways]
    assert row("Microsoft's JavaScript client, in Chromium")[:4] == [
        ", ".join(versions[str(version)] for version in in_chromium),
        *ways,
    ]


def test_java_row() -> None:
    """The version is the one that Maven is asked for, and the checksum's."""
    version, *ways = row("Microsoft's Java client")[:4]
    assert f"<version>{version}</version>" in (INTEROP / "java" / "pom.xml").read_text(encoding="utf-8")
    assert f"  signalr-{version}.jar\n" in (INTEROP / "java" / "SHA256SUMS").read_text(encoding="utf-8")
    assert ways == cells(constant(INTEROP / "test_java_client.py", "WAYS"))


def test_dotnet_row() -> None:
    """The ways are those of its tests; the version is compared where the client runs."""
    assert row("Microsoft's .NET client")[1:4] == cells(constant(INTEROP / "test_dotnet_ladder.py", "WAYS"))


@pytest.mark.parametrize("client", ["pysignalr", "signalrcore"])
def test_python_rows(client: str) -> None:
    """The versions are the locked ones, the ways those of the tests."""
    version, *ways = row(client)[:4]
    assert version == locked(client)
    assert ways == cells(constant(INTEROP / "test_python_clients.py", f"WAYS_OF_{client.upper()}"))


def test_every_row_is_checked() -> None:
    """The table has these six rows, each with a test module that exists."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 7][1:]
    clients = [line.strip("|").split("|")[0].strip() for line in rows if not line.startswith("| ---")]
    assert clients == [
        "Microsoft's JavaScript client, in Node",
        "Microsoft's JavaScript client, in Chromium",
        "Microsoft's .NET client",
        "Microsoft's Java client",
        "pysignalr",
        "signalrcore",
    ]
    for client in clients:
        path = re.search(r"\]\((\S+)\)", row(client)[4])
        assert path
        assert (ROOT / "docs" / "reference" / path[1]).is_file()
