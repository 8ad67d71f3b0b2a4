"""Django: the session's user as the hub's user, and hub methods that use the database."""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar, cast  # users are of the application's own model

from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConfigurationError
from hubplane.hubs.threads import WorkerThreads, run_in_thread

__all__ = ["DjangoSessionAuthenticator", "django_database"]

P = ParamSpec("P")
R = TypeVar("R")


class DjangoSessionAuthenticator:
    """Finds the user who is logged in to the session that the request's cookie names, as Django's middleware does.

    It asks the session engine and the authentication backends of Django's settings, in threads of its own, for every
    HTTP request of a hub, and only reads: sessions are neither extended nor ended, and no cookie is set. Without a
    cookie nothing is asked.

    Raises:
        ConfigurationError: Django is not installed.
    """

    def __init__(self) -> None:
        try:
            import django  # noqa: F401, PLC0415 - only where Django is used
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "DjangoSessionAuthenticator needs Django, which is not installed: pip install django"
            ) from error
        # Not those of hub methods, which may be waiting for a client whose next request is one to authenticate.
        self._threads = WorkerThreads(min(32, (os.cpu_count() or 1) + 4))

    async def __call__(self, request: ConnectionRequest) -> object | None:
        """The user of the request's session; None without one who is logged in and active.

        Exceptions of the session engine and the database come out.
        """
        # Django's settings may be set up after this object was made.
        from django.conf import settings  # noqa: PLC0415 - as above
        from django.http import parse_cookie  # noqa: PLC0415 - as above

        header = "; ".join(value for name, value in request.headers if name == "cookie")
        key: str | None = parse_cookie(header).get(settings.SESSION_COOKIE_NAME) if header else None
        return await run_in_thread(partial(_user_of_session, key), threads=self._threads) if key else None


class _Login(dict[str, Any]):
    """The data of a session, for Django's `get_user`, which in a request may also end or renew it."""

    def flush(self) -> None:
        """The login is no longer valid; the next request to Django itself ends the session."""

    def cycle_key(self) -> None:
        """A key of an older secret; a new one could not be told to the browser from here."""


class _Request:
    """What Django's `get_user` looks at."""

    def __init__(self, session: _Login) -> None:
        self.session = session


def _user_of_session(key: str) -> object | None:
    from django.conf import settings  # noqa: PLC0415 - only where Django is used
    from django.contrib.auth import get_user  # noqa: PLC0415 - as above
    from django.db import close_old_connections  # noqa: PLC0415 - as above

    close_old_connections()
    try:
        store = import_module(settings.SESSION_ENGINE).SessionStore(key)
        user: object = get_user(_Request(_Login(store.load())))
    finally:
        close_old_connections()
    return user if getattr(user, "is_authenticated", False) else None


def django_database(method: Callable[P, R]) -> Callable[P, R]:
    """Decorate a hub method, ``def`` or ``async def``, that uses Django's database.

    Django looks after its connections to the database when a request begins and ends. A call of a hub method is no
    request: without this, the method's thread keeps its connection for ever, and fails with it when the database was
    restarted or has closed it for being idle.

    Raises:
        ConfigurationError: The method streams; decorate what it calls instead.
    """
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        raise ConfigurationError(
            f"{method.__qualname__} streams, and would keep the database busy all that time: "
            "use django_database on what it calls for each item."
        )
    if inspect.iscoroutinefunction(method):
        return cast("Callable[P, R]", _around_coroutine(method))

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from django.db import close_old_connections  # noqa: PLC0415 - only where Django is used

        close_old_connections()
        try:
            return method(*args, **kwargs)
        finally:
            close_old_connections()

    return call


def _around_coroutine(method: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from asgiref.sync import sync_to_async  # noqa: PLC0415 - only where Django is used
        from django.db import close_old_connections  # noqa: PLC0415 - as above

        # In the very thread in which Django's asynchronous calls run.
        tidy = sync_to_async(close_old_connections)
        await tidy()
        try:
            return await method(*args, **kwargs)
        finally:
            await tidy()

    return call
