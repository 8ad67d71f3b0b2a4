"""Facts about the parts for Django that need no database: it may be missing, and streams are not decorated."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator

import pytest

from hubplane.errors import ConfigurationError
from hubplane.frameworks.django import DjangoSessionAuthenticator, django_database


def test_missing_django_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Django the authenticator says what to install."""
    monkeypatch.setitem(sys.modules, "django", None)
    with pytest.raises(ConfigurationError, match="pip install django"):
        DjangoSessionAuthenticator()


def test_streams_are_refused() -> None:
    """A stream would keep a connection to the database for as long as a client likes."""

    async def numbers() -> AsyncIterator[int]:
        yield 1

    def plain_numbers() -> Iterator[int]:
        yield 1

    for method in (numbers, plain_numbers):
        with pytest.raises(ConfigurationError, match="numbers streams"):
            django_database(method)


def test_signature_is_kept() -> None:
    """A decorated method is bound by the annotations it was written with, and stays async or not."""

    def history(room: str, count: int = 3) -> list[str]:
        return [room] * count

    async def say(room: str) -> str:
        return room

    for method in (history, say):
        assert django_database(method).__wrapped__ is method  # type: ignore[attr-defined]  # set by functools.wraps
        assert django_database(method).__annotations__ == method.__annotations__
