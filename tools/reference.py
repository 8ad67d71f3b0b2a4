"""Writes docs/reference: api.md and testing.md from the docstrings of public names, command.md from the command's help.

    tools/reference.py            write the pages anew
    tools/reference.py --check    fail if one is stale

The code is the reference; this only sets it as Markdown, so the two cannot differ.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any  # whatever a public name may be

import click

__all__ = ["main", "markdown", "render", "render_command"]

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"

HEAD = """# Public names

Everything that `from hubplane import ...` offers, in reading order. Durations are seconds, sizes bytes. This page is
written from the docstrings by `make docs`.
"""

TESTING_HEAD = """# Names for tests

Everything that `from hubplane.testing import ...` offers; [how to test hubs](../how-to/test.md) shows them at work.
This page is written from the docstrings by `make docs`.
"""

LINE = 100

SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note):$")
ENTRY = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*)(?: \([^)]*\))?: (.*)$")


def sections(doc: str) -> list[tuple[str, list[str]]]:
    """A docstring's parts: ("", prose), then (title, lines) for each section, with the indentation taken off."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in inspect.cleandoc(doc).splitlines():
        if found := SECTION.match(line):
            parts.append((found[1], []))
        elif parts[-1][0] and line and not line.startswith(" "):
            parts.append(("", [line]))
        else:
            parts[-1][1].append(line.removeprefix("    ") if parts[-1][0] else line)
    return parts


def entries(lines: list[str]) -> list[tuple[str, str]]:
    """The "name: text" items of a section, continuation lines joined."""
    found: list[tuple[str, str]] = []
    for line in lines:
        if match := ENTRY.match(line):
            found.append((match[1], match[2]))
        elif found and line.strip():
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
    return found


def defaults(owner: object) -> dict[str, str]:
    """The default values of a dataclass's fields, as code."""
    if not (isinstance(owner, type) and dataclasses.is_dataclass(owner)):
        return {}
    return {
        field.name: str(field.default) if isinstance(field.default, enum.Flag) else repr(field.default)
        for field in dataclasses.fields(owner)
        if field.default is not dataclasses.MISSING
    }


def markdown(doc: str, values: dict[str, str] | None = None) -> str:
    """A docstring as Markdown: prose as it stands, sections of named things as tables.

    Args:
        doc: A docstring in Google's style.
        values: Default values by attribute name; they get a column.
    """
    said: list[str] = []
    for title, lines in sections(doc):
        items = entries(lines) if title in {"Args", "Attributes", "Raises"} else []
        if not title:
            said.append(prose(lines))
        elif items and title == "Attributes" and values:
            rows = [f"| `{name}` | {code(values.get(name))} | {cell(text)} |" for name, text in items]
            said.append("| name | default | meaning |\n| --- | --- | --- |\n" + "\n".join(rows))
        elif items:
            what = {"Args": "argument", "Attributes": "name", "Raises": "raises"}[title]
            rows = [f"| `{name}` | {cell(text)} |" for name, text in items]
            said.append(f"| {what} | meaning |\n| --- | --- |\n" + "\n".join(rows))
        else:
            said.append(f"{title}: {prose(lines)}")
    return "\n\n".join(part for part in said if part)


def cell(text: str) -> str:
    """Text as it may stand in a table."""
    return re.sub(r"``([^`]+)``", r"`\1`", text).replace("|", "\\|")


def code(value: str | None) -> str:
    """A value as code; empty where there is none."""
    return f"`{cell(value)}`" if value is not None else ""


def prose(lines: list[str]) -> str:
    """Paragraphs; a literal block (after "::") becomes a fenced one."""
    text = "\n".join(lines).strip()
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    return re.sub(
        r"(?:^|\n)(?P<lead>[^\n]*)::\n\n(?P<code>(?:[ ]{4}[^\n]*(?:\n|$)|\n)+)",
        lambda block: (
            f"\n{block['lead']}{':' if block['lead'] else ''}\n\n```text\n{inspect.cleandoc(block['code'])}\n```\n\n"
        ),
        text,
    ).strip()


def signature(name: str, value: Callable[..., Any]) -> str:
    """How to call it, one parameter a line where it is long; empty where Python cannot tell."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    start = f"{'async ' if inspect.iscoroutinefunction(value) else ''}{name}("
    returns = "" if found.return_annotation is inspect.Signature.empty else f" -> {tidy(str(found.return_annotation))}"
    shown = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    # The signature's own text knows where "*" and "/" belong.
    whole = tidy(str(found.replace(parameters=shown, return_annotation=inspect.Signature.empty)))
    line = f"{start}{whole[1:]}{returns}"
    if len(line) <= LINE:
        return line
    parts = [tidy(str(parameter)) for parameter in shown]
    keyword = next((i for i, parameter in enumerate(shown) if parameter.kind is parameter.KEYWORD_ONLY), None)
    if keyword is not None and not any(parameter.kind is parameter.VAR_POSITIONAL for parameter in shown):
        parts.insert(keyword, "*")
    return start + "".join(f"\n    {part}," for part in parts) + f"\n){returns}"


def tidy(text: str) -> str:
    """Annotations without their quotes, and default values without the address they happen to have."""
    return re.sub(r"<(?:function|class) '?(?:\w+\.)*(\w+)'?(?: at 0x[0-9a-f]+)?>", r"\1", text.replace("'", ""))


def members(owner: type) -> list[tuple[str, str, str]]:
    """The public methods and properties that a class of ours defines itself: name, signature, docstring."""
    found: list[tuple[str, str, str]] = []
    for name, value in vars(owner).items():
        plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        doc = inspect.getdoc(plain)
        if name.startswith("_") or not doc:
            continue
        if isinstance(value, property):
            found.append((name, "", doc))
        elif inspect.isfunction(plain):
            found.append((name, signature(name, plain), doc))
    return found


def entry(name: str, value: object) -> str:
    """One public name."""
    parts = [f"## `{name}`"]
    if isinstance(value, type):
        is_plain = issubclass(value, (Exception, enum.Enum)) or dataclasses.is_dataclass(value)
        shown = "" if is_plain else signature(name, value)
    else:
        shown = signature(name, value) if callable(value) else ""
    if shown and shown != f"{name}()":
        parts.append(f"```text\n{shown}\n```")
    parts.append(markdown(inspect.getdoc(value) or "", defaults(value)))
    if isinstance(value, type) and issubclass(value, enum.Enum):
        parts.append(
            "| member | value |\n| --- | --- |\n" + "\n".join(f"| `{m.name}` | `{m.value!r}` |" for m in value)
        )
    if isinstance(value, type):
        promises = [doc for member, _, doc in members(value) if member.startswith("test_")]
        if promises:
            parts.append("\n".join(["What it tests:", "", *(f"- {' '.join(doc.split())}" for doc in promises)]))
        for member, how, doc in members(value):
            if member.startswith("test_"):
                continue
            parts.append(f"### `{name}.{member}`")
            if how:
                parts.append(f"```text\n{how}\n```")
            parts.append(markdown(doc))
    return "\n\n".join(part for part in parts if part)


def render(names: dict[str, object], head: str = HEAD) -> str:
    """The page."""
    return head + "".join(f"\n{entry(name, value)}\n" for name, value in names.items())


COMMAND_HEAD = """# The command

`hubplane` comes with the extra `server`. This page is written from the command's own help by `make docs`.
"""


def help_text(text: str) -> str:
    """A command's help as Markdown: what follows a backspace keeps its lines."""
    paragraphs = [paragraph.strip() for paragraph in inspect.cleandoc(text).split("\n\n")]
    return "\n\n".join(
        f"```text\n{paragraph.removeprefix(chr(8)).strip()}\n```" if paragraph.startswith("\b") else paragraph
        for paragraph in paragraphs
    )


def option_row(option: click.Option) -> str:
    """One option of a command."""
    names = ", ".join([*option.opts, *option.secondary_opts])
    kind = option.type
    metavar = option.metavar or (
        "/".join(kind.choices) if isinstance(kind, click.Choice) else kind.name.upper().split()[0]
    )
    value = "" if option.is_flag else f" {metavar}"
    preset = option.default if option.show_default and not option.is_flag else None
    variable = option.envvar if isinstance(option.envvar, str) else ""
    environment = f" Also from `{variable}`." if variable and variable not in (option.help or "") else ""
    shown = str(preset) if isinstance(preset, (str, int, float)) else None
    return f"| `{names}{value}` | {code(shown)} | {cell(option.help or '')}{environment} |"


def render_command(group: click.Group) -> str:
    """The page of the command and its commands."""
    parts = [COMMAND_HEAD.strip(), help_text(group.help or "")]
    for name, command in group.commands.items():
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        arguments = [
            parameter.human_readable_name for parameter in command.params if isinstance(parameter, click.Argument)
        ]
        usage = " ".join([f"{group.name} {name}", *(["[OPTIONS]"] if options else []), *arguments])
        parts += [f"## `{group.name} {name}`", f"```text\n{usage}\n```", help_text(command.help or "")]
        if options:
            rows = "\n".join(option_row(option) for option in options)
            parts.append(f"| option | default | meaning |\n| --- | --- | --- |\n{rows}")
    return "\n\n".join(parts) + "\n"


def public_names(module: str) -> dict[str, object]:
    """What a module's `__all__` offers, in its order."""
    found = importlib.import_module(module)
    return {name: getattr(found, name) for name in getattr(found, "__all__", []) if not name.startswith("_")}


def main(arguments: list[str]) -> int:
    """Write or check the pages; 1 if one is stale."""
    names = public_names("hubplane")
    testing = public_names("hubplane.testing")
    command = importlib.import_module("hubplane.cli.group").hubplane
    stale = 0
    pages = {
        "api.md": render(names),
        "testing.md": render(testing, TESTING_HEAD),
        "command.md": render_command(command),
    }
    for page, text in pages.items():
        path = PAGES / page
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{path.relative_to(ROOT)} is stale: run 'make docs'", file=sys.stderr)
            stale = 1
    print(f"reference: {len(names)} public names, {len(testing)} for tests, {len(command.commands)} commands")
    return stale


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
