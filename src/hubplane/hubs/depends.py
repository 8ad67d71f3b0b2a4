"""FastAPI's `Depends` in hubs, without FastAPI: what a constructor or a method asks for is made for one call.

FastAPI resolves dependencies from an HTTP request, by functions that are no public part of it. The declaration is
public, and little of it is about HTTP: a callable, its own dependencies, whether to make it once. That is done here.

Source: docs/decisions/0005-depends.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,  # what dependencies are is the application's choice
    NamedTuple,
    Protocol,
    get_args,
    get_origin,
)

from hubplane.errors import ConfigurationError
from hubplane.hubs.threads import run_in_thread

if TYPE_CHECKING:
    from hubplane.hubs.context import HubCallerContext

__all__ = ["Dependencies", "Marker", "Solved", "find_marker"]

Solved = dict[Callable[..., Any], Any]
"""What has been made for a call so far, by what made it."""

# Classes are told by their names, so that nothing is imported that the application does not use.
_DECLARATIONS = "fastapi.params"
_CONTEXT = {("hubplane.hubs.context", "HubCallerContext")}
_CONNECTIONS = {
    ("starlette.requests", "HTTPConnection"),
    ("starlette.requests", "Request"),
    ("starlette.websockets", "WebSocket"),
}


class Marker(Protocol):
    """`fastapi.Depends`, as far as it matters here."""

    @property
    def dependency(self) -> Callable[..., Any] | None:
        """What makes the value; None for the annotated class itself."""
        ...

    @property
    def use_cache(self) -> bool:
        """Whether one value serves the whole call."""
        ...


class _Parameter(NamedTuple):
    """What a callable wants: a dependency, the connection as a class of Starlette's, or the caller's context."""

    name: str
    dependency: Callable[..., Any] | None = None
    use_cache: bool = True
    connection: type | None = None


def find_marker(parameter: inspect.Parameter) -> Marker | None:
    """The `Depends` of a parameter, as its default or in its annotation; None without one."""
    for candidate in (parameter.default, *getattr(parameter.annotation, "__metadata__", ())):
        kind = type(candidate)
        if any(base.__module__ == _DECLARATIONS and base.__name__ == "Depends" for base in kind.__mro__):
            marker: Marker = candidate
            return marker
    return None


class Dependencies:
    """The dependencies of a constructor or a method.

    Args:
        wanted: Parameters with their markers.
        where: Whose they are, for messages.

    Raises:
        ConfigurationError: Something is asked for that only an HTTP route can give, or a dependency needs itself.
    """

    __slots__ = ("_parameters",)

    def __init__(self, wanted: Mapping[str, tuple[inspect.Parameter, Marker]], where: str) -> None:
        self._parameters = [_wanted(parameter, marker, where) for parameter, marker in wanted.values()]
        for parameter in self._parameters:
            if parameter.dependency is not None:
                _check(parameter.dependency, ())

    @classmethod
    def of(cls, made: type) -> Dependencies | None:
        """Those of a class's constructor; None when it declares none.

        Raises:
            ConfigurationError: As for the class; or a parameter has neither a dependency nor a default.
        """
        where = made.__qualname__
        if not _has_constructor(made):
            return None
        try:
            parameters = inspect.signature(made, eval_str=True).parameters.values()
        except NameError as error:
            # Without dependencies nobody needs to know the types of a constructor.
            parameters = inspect.signature(made).parameters.values()
            if any(find_marker(each) is not None or "Depends" in str(each.annotation) for each in parameters):
                raise ConfigurationError(
                    f"The dependencies of {where} cannot be read: {error}. Types must be importable from its module, "
                    "outside 'if TYPE_CHECKING'."
                ) from error
        wanted = {each.name: (each, marker) for each in parameters if (marker := find_marker(each)) is not None}
        if not wanted:
            return None
        for each in parameters:
            if each.name not in wanted and each.default is each.empty and each.kind not in _VARIADIC:
                raise ConfigurationError(
                    f"Parameter '{each.name}' of {where} is no dependency, and nobody gives it. "
                    "Add Depends to it, or make the object with a factory."
                )
        return cls(wanted, where)

    async def solve(self, context: HubCallerContext, solved: Solved, resources: AsyncExitStack) -> dict[str, Any]:
        """Make everything, by parameter name; what has to be closed goes into `resources`.

        Exceptions of dependencies come out.

        Args:
            context: The caller.
            solved: What is made already for this call; it grows.
            resources: Closed when the call has ended.
        """
        app = context.request.scope.get("app")
        overrides: Mapping[Any, Any] = getattr(app, "dependency_overrides", None) or {}
        run = _Run(context, overrides, solved, resources)
        return {each.name: await run.value(each) for each in self._parameters}


_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class _Run(NamedTuple):
    """One resolution."""

    context: HubCallerContext
    overrides: Mapping[Any, Any]
    solved: Solved
    resources: AsyncExitStack

    async def value(self, parameter: _Parameter) -> Any:
        """What a parameter gets."""
        if parameter.connection is not None:
            return _connection(parameter.connection, self.context.request.scope)
        if parameter.dependency is None:
            return self.context
        function = self.overrides.get(parameter.dependency, parameter.dependency)
        if parameter.use_cache and function in self.solved:
            return self.solved[function]
        value = await self._call(function)
        self.solved.setdefault(function, value)
        return value

    async def _call(self, function: Callable[..., Any]) -> Any:
        call = partial(function, **{each.name: await self.value(each) for each in _parameters(function)})
        plain = function
        while isinstance(plain, partial):
            plain = plain.func
        code = plain if inspect.isroutine(plain) or isinstance(plain, type) else type(plain).__call__
        code = inspect.unwrap(code)
        if isinstance(function, type):
            return call()
        if inspect.isasyncgenfunction(code):
            return await self.resources.enter_async_context(asynccontextmanager(call)())
        if inspect.isgeneratorfunction(code):
            return await _enter_in_thread(contextmanager(call)(), self.resources)
        if inspect.iscoroutinefunction(code):
            return await call()
        made = await run_in_thread(call)
        return await made if inspect.isawaitable(made) else made


async def _enter_in_thread(manager: AbstractContextManager[Any], resources: AsyncExitStack) -> Any:
    value = await run_in_thread(manager.__enter__)

    async def leave(*error: Any) -> bool | None:
        return await run_in_thread(partial(manager.__exit__, *error))

    resources.push_async_exit(leave)
    return value


def _check(function: Callable[..., Any], above: tuple[Callable[..., Any], ...]) -> None:
    """See that a dependency, and all below it, can be made."""
    if function in above:
        raise ConfigurationError(f"The dependency {_name(function)} needs itself.")
    for each in _parameters(function):
        if each.dependency is not None:
            _check(each.dependency, (*above, function))


def _parameters(function: Callable[..., Any]) -> Iterator[_Parameter]:
    """What a dependency wants itself; parameters with a plain default keep it."""
    where = _name(function)
    if isinstance(function, type) and not _has_constructor(function):
        return
    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (NameError, ValueError, TypeError) as error:
        raise ConfigurationError(f"The parameters of the dependency {where} cannot be read: {error}.") from error
    for parameter in parameters:
        marker = find_marker(parameter)
        annotation = parameter.annotation
        if get_origin(annotation) is not None and hasattr(annotation, "__metadata__"):
            annotation = get_args(annotation)[0]
        if marker is not None:
            yield _wanted(parameter, marker, where)
        elif _is_one_of(_CONTEXT, annotation):
            yield _Parameter(parameter.name)
        elif _is_one_of(_CONNECTIONS, annotation):
            yield _Parameter(parameter.name, connection=annotation)
        elif _is_of_http(parameter) or (parameter.default is parameter.empty and parameter.kind not in _VARIADIC):
            raise ConfigurationError(
                f"Parameter '{parameter.name}' of the dependency {where} is a part of an HTTP request, and a call of a "
                "hub is none. Take the HTTPConnection, or hubplane's HubCallerContext, and read from it what you need."
            )


def _wanted(parameter: inspect.Parameter, marker: Marker, where: str) -> _Parameter:
    dependency = marker.dependency
    if dependency is None:
        annotation = parameter.annotation
        dependency = get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if not callable(dependency) or dependency is inspect.Parameter.empty:
        raise ConfigurationError(f"Depends() of parameter '{parameter.name}' of {where} names nothing to call.")
    if getattr(marker, "max_concurrency", None) is not None:
        raise ConfigurationError(f"hubplane knows no max_concurrency: parameter '{parameter.name}' of {where}.")
    return _Parameter(parameter.name, dependency, marker.use_cache)


def _is_one_of(classes: set[tuple[str, str]], annotation: object) -> bool:
    return any((base.__module__, base.__name__) in classes for base in getattr(annotation, "__mro__", ()))


def _is_of_http(parameter: inspect.Parameter) -> bool:
    """Whether it is declared as a query parameter, header, cookie or body."""
    declared = (parameter.default, *getattr(parameter.annotation, "__metadata__", ()))
    return any(base.__module__ == _DECLARATIONS for each in declared for base in type(each).__mro__)


def _connection(kind: type, scope: Mapping[str, Any]) -> Any:
    """The request that opened the connection, as the class that a dependency asks for; its body is not to be had."""
    names = {base.__name__ for base in kind.__mro__}
    if "Request" in names:
        return kind({"method": "GET", **scope, "type": "http"}, _no_body)
    if "WebSocket" in names:
        return kind({**scope, "type": "websocket"}, _no_body, _no_body)
    return kind(dict(scope))


async def _no_body(*_: object) -> Any:
    raise RuntimeError("The connection belongs to the hub: only its scope can be read.")


def _has_constructor(made: type) -> bool:
    return inspect.getattr_static(made, "__init__") is not inspect.getattr_static(object, "__init__")


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
