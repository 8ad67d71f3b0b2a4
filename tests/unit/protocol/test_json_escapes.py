"""Escaping as .NET's JSON writer does it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubplane.protocol.json_escapes import ESCAPED, dotnet_escapes


def written(text: str) -> str:
    """`text` as msgspec writes it and we escape it, without the quotes."""
    return dotnet_escapes(msgspec.json.encode(text)).decode()[1:-1]


@pytest.mark.parametrize(
    ("text", "json"),
    [
        ("plain", "plain"),
        ('"\\/', '\\"\\\\/'),
        ("\b\t\n\f\r", "\\b\\t\\n\\f\\r"),
        ("a\x1eb", "a\\u001Eb"),
        ("\x0b\x7f", "\\u000B\\u007F"),
        ("<>&'+`", "<>&'+`"),
        ("Zürich 日本語", "Zürich 日本語"),
        ("\u00a0\u2028\ufeff", "\\u00A0\\u2028\\uFEFF"),
        ("😀", "\\uD83D\\uDE00"),
        ("\U00010000\U0010ffff", "\\uD800\\uDC00\\uDBFF\\uDFFF"),
        ("❤\u200b", "❤\u200b"),
        ("\\u001e", "\\\\u001e"),
        ("\\\x1e", "\\\\\\u001E"),
        ("\\é\x1f", "\\\\é\\u001F"),
        ("\ufffd", "\ufffd"),
    ],
)
def test_characters_are_escaped_as_by_dotnet(text: str, json: str) -> None:
    """Controls, odd spaces, unassigned and private characters and all above U+FFFF are escaped in upper-case hex."""
    assert written(text) == json


@given(st.text())
def test_escaping_keeps_the_meaning(text: str) -> None:
    """What is written is read back as the same text."""
    assert msgspec.json.decode(f'"{written(text)}"') == text


def test_the_table_is_in_order() -> None:
    """The ranges ascend and do not touch each other, so each stands for itself."""
    end = 0x7E
    for word in ESCAPED.split():
        first, _, last = word.partition("-")
        assert int(first, 16) > end + 1 or end == 0x7E
        end = int(last or first, 16)
        assert int(first, 16) <= end <= 0xFFFF
