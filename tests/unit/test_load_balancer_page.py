"""The guide to load balancers shows the files that the tests run, to the letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["haproxy.cfg", "nginx.conf", "nginx-cookie.conf"])
def test_page_shows_the_file(name: str) -> None:
    """Each configuration under examples/ stands in the guide, whole."""
    page = (ROOT / "docs" / "how-to" / "load-balancers.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```(?:nginx|haproxy)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert (ROOT / "examples" / name).read_text(encoding="utf-8") in shown
