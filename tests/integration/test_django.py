"""Django's sessions, users and database as hubs use them, with a real database in a file."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any  # Django's models

import django
import pytest
from django.conf import settings
from django.test.utils import override_settings

from hubplane import ConnectionRequest, DjangoSessionAuthenticator, django_database

ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a database with Django's tables; Django is set up once for the whole process."""
    path = tmp_path_factory.mktemp("django") / "database.sqlite3"
    settings.configure(
        SECRET_KEY="a secret of the tests",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}},
        USE_TZ=True,
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    close()
    return path


@pytest.fixture
def ann(database: Path) -> Iterator[Any]:
    """A user."""
    from django.contrib.auth.models import User

    user = User.objects.create_user("ann", password="apple")
    close()
    yield user
    User.objects.all().delete()
    close()


def close() -> None:
    """Leave this thread without a connection to the database."""
    from django.db import connections

    connections.close_all()


async def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """What `work` returns, from a thread that is left without a connection: Django's calls may not block a loop."""

    def run() -> Any:
        try:
            return work(*arguments)
        finally:
            close()

    return await asyncio.to_thread(run)


def log_in(user: Any) -> str:
    """What a browser's cookie holds after a login by Django."""
    from importlib import import_module

    from django.contrib.auth import login
    from django.http import HttpRequest

    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    login(request, user)
    request.session.save()
    return str(request.session.session_key)


def asking(key: str | None, name: str = "sessionid") -> ConnectionRequest:
    """A request with this session."""
    headers = [] if key is None else [(b"cookie", f'theme=dark; {name}={key}; x="y"'.encode())]
    return ConnectionRequest({"type": "websocket", "headers": headers, "query_string": b""})


def open_files(path: Path) -> int:
    """How often this process has the database's file open."""
    return sum(os.path.realpath(each) == str(path) for each in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("engine", ENGINES)
async def test_login_of_each_session_engine(ann: Any, engine: str, tmp_path: Path) -> None:
    """Whatever engine keeps the sessions, the user of a login is found, by the cookie's configured name."""
    with override_settings(
        SESSION_ENGINE=f"django.contrib.sessions.backends.{engine}",
        SESSION_FILE_PATH=str(tmp_path),
        SESSION_COOKIE_NAME="login",
    ):
        key = await in_thread(log_in, ann)
        authenticate = DjangoSessionAuthenticator()
        assert await authenticate(asking(key, "login")) == ann
        for wrong in (asking(key, "sessionid"), asking(f"{key}x", "login"), asking("", "login"), asking(None)):
            assert await authenticate(wrong) is None


async def test_cookies_in_several_headers(ann: Any) -> None:
    """HTTP/2 may cut cookies into several headers."""
    key = await in_thread(log_in, ann)
    request = asking(None)
    request.scope["headers"].extend([(b"cookie", b"theme=dark"), (b"cookie", f"sessionid={key}".encode())])
    assert await DjangoSessionAuthenticator()(request) == ann


def deactivate(user: Any) -> None:
    """The account is closed."""
    user.is_active = False
    user.save()


def change_password(user: Any) -> None:
    """Which ends all sessions."""
    user.set_password("pear")
    user.save()


def delete(user: Any) -> None:
    """The account is gone."""
    user.delete()


@pytest.mark.parametrize("event", [deactivate, change_password, delete])
async def test_login_that_is_over_is_nobodys(ann: Any, event: Callable[[Any], None]) -> None:
    """An account that was closed or deleted, or got another password, is not logged in by its old session."""
    key = await in_thread(log_in, ann)
    await in_thread(event, ann)
    assert await DjangoSessionAuthenticator()(asking(key)) is None


async def test_sessions_are_only_read(ann: Any) -> None:
    """A session that Django would renew, or end, is left for Django to do so: only it can tell the browser."""
    from django.contrib.sessions.models import Session

    def rows() -> list[Any]:
        return list(Session.objects.values_list("session_key", "session_data", "expire_date"))

    key = await in_thread(log_in, ann)
    before = await in_thread(rows)
    with override_settings(SECRET_KEY="a new secret", SECRET_KEY_FALLBACKS=["a secret of the tests"]):
        assert await DjangoSessionAuthenticator()(asking(key)) == ann
        assert await in_thread(rows) == before
    with override_settings(SECRET_KEY="a new secret"):
        assert await DjangoSessionAuthenticator()(asking(key)) is None
        assert await in_thread(rows) == before


async def test_no_connection_stays_open(ann: Any, database: Path) -> None:
    """Neither logins nor decorated methods, of either kind, leave a connection open, also not by an error."""
    from django.contrib.auth.models import User

    @django_database
    def count() -> int:
        assert User.objects.count() == 1
        return open_files(database)

    @django_database
    async def count_later() -> int:
        assert await User.objects.acount() == 1
        return open_files(database)

    @django_database
    def fail() -> None:
        User.objects.get(username="nobody")

    @django_database
    async def fail_later() -> None:
        await User.objects.aget(username="nobody")

    key = await in_thread(log_in, ann)
    assert open_files(database) == 0
    authenticate = DjangoSessionAuthenticator()
    assert await asyncio.gather(*(authenticate(asking(key)) for _ in range(20))) == [ann] * 20
    assert open_files(database) == 0
    assert await asyncio.to_thread(count) > 0
    assert open_files(database) == 0
    assert await count_later() > 0
    assert open_files(database) == 0
    with pytest.raises(User.DoesNotExist):
        await asyncio.to_thread(fail)
    with pytest.raises(User.DoesNotExist):
        await fail_later()
    assert open_files(database) == 0


async def test_broken_session_store_is_no_login(ann: Any) -> None:
    """An engine that fails comes out, so that the request fails, instead of letting somebody in as nobody."""
    with (
        override_settings(SESSION_ENGINE="django.contrib.sessions.backends.nowhere"),
        pytest.raises(ModuleNotFoundError),
    ):
        await DjangoSessionAuthenticator()(asking("some-key"))


async def test_logins_do_not_wait_for_hub_methods(ann: Any) -> None:
    """Hub methods that wait in all their threads keep nobody from logging in, such as the client they wait for."""
    from hubplane.hubs.threads import run_in_thread

    key = await in_thread(log_in, ann)
    release = threading.Event()
    methods = [asyncio.create_task(run_in_thread(release.wait)) for _ in range(40)]
    try:
        async with asyncio.timeout(20):
            assert await DjangoSessionAuthenticator()(asking(key)) == ann
    finally:
        release.set()
        await asyncio.gather(*methods)
