"""From ``module:name`` to an ASGI application, with a sentence for each way it can go wrong."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any  # an ASGI application is any callable that fits

from hubplane.errors import ConfigurationError

__all__ = ["load_app"]


def load_app(target: str, *, factory: bool = False, app_dir: str = ".") -> Any:
    """Import the application.

    Args:
        target: ``module:name``; the name may have dots.
        factory: The name is a function without arguments that makes the application.
        app_dir: Folder to import from, first.

    Raises:
        ConfigurationError: There is no such module or name, or it is no ASGI application. An exception raised by the
            module itself comes through as it is.
    """
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        raise ConfigurationError(f"{target!r} is not of the form MODULE:APP, such as chat:app.")
    folder = str(Path(app_dir).resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    app: Any = _import(module_name, folder)
    module = app
    for part in name.split("."):
        try:
            app = getattr(app, part)
        except AttributeError:
            raise ConfigurationError(f"Module {module_name!r} has no {name!r}.{_offers(module)}") from None
    if factory:
        if not callable(app):
            raise ConfigurationError(f"{target} is no function; --factory calls it to make the application.")
        app = app()
    _check(app, target)
    return app


def _import(name: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only the module that was asked for, or a package it lies in; one that it imports is its own affair.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"There is no module {name!r} in {folder} or among the installed packages. "
            "Start from the folder it lies in, or name that with --app-dir."
        ) from error


def _offers(module: ModuleType) -> str:
    found = sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and _takes_three(value)
        and (inspect.iscoroutinefunction(value) or not inspect.isroutine(value))
    )
    return f" It does have: {', '.join(found)}." if found else ""


def _takes_three(value: object) -> bool:
    """Whether it can be called with a scope, a receive and a send; True also where that cannot be found out."""
    if inspect.isclass(value) or not callable(value):
        return False
    try:
        inspect.signature(value).bind({}, None, None)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _check(app: object, target: str) -> None:
    if _takes_three(app):
        return
    if inspect.isclass(app):
        raise ConfigurationError(f"{target} is a class; an application is an object of it, such as app = HubApp().")
    if inspect.isfunction(app) and not inspect.signature(app).parameters:
        raise ConfigurationError(f"{target} takes no arguments; if it makes the application, add --factory.")
    if callable(app):
        raise ConfigurationError(f"{target} is no ASGI application: it does not take scope, receive and send.")
    raise ConfigurationError(f"{target} is no ASGI application, it is of type {type(app).__name__}.")
