"""Which methods of a hub class clients may call, under which names, with which types.

A method is callable when it is public and not declared by `Hub` itself. Its *declared name*, which error texts quote,
is the name given with `@hub_method`, else its Python name in .NET's spelling: ``send_message`` is ``SendMessage``. A
client may spell it in any case and with or without underscores; a name set with `@hub_method` is matched in any case,
but with exactly its underscores.

Every parameter must be sent, as in .NET, so defaults are refused; only keyword-only parameters may have them, and those
never come from the client.

Source: signalr-server sections 4.4 and 5.2; design.md section 3.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import (
    Any,  # what hub methods take, return and are annotated with is the application's choice
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from hubplane.errors import ConfigurationError
from hubplane.hubs.authorization import Policy, PolicyMark, policies_of
from hubplane.hubs.depends import Dependencies, Marker, find_marker
from hubplane.hubs.threads import run_in_thread

__all__ = ["HubMethod", "HubMethods", "UploadParameter", "call_in_thread", "hub_method", "is_async_function"]

F = TypeVar("F", bound=Callable[..., Any])

_NAME_ATTRIBUTE = "__hub_method_name__"
_STREAM_RETURNS = (AsyncIterator, AsyncIterable, AsyncGenerator)
_UPLOADS = (AsyncIterator, AsyncIterable)


def hub_method(name: str, /) -> Callable[[F], F]:
    """Set the name under which clients call a method; without it the name follows from the Python name.

    Args:
        name: The declared name, for example ``"SendMessage"``. Clients may spell it in any case.

    Raises:
        ConfigurationError: `name` is not a string or is empty.
    """
    if not name or type(name) is not str:
        raise ConfigurationError('hub_method needs a name: @hub_method("SendMessage").')

    def mark(function: F) -> F:
        vars(function)[_NAME_ATTRIBUTE] = name
        return function

    return mark


class UploadParameter(NamedTuple):
    """A parameter that is fed by a stream of the client: its place among the arguments and the type of its items."""

    position: int
    item_type: object


class HubMethod:
    """One method that clients may call.

    Attributes:
        name: The declared name, as error texts quote it.
        python_name: Its name in the class.
        function: The function, to be called with the hub instance first.
        parameter_types: What the client sends in `arguments`, in order, uploads left out.
        uploads: The parameters fed by client streams, in order.
        is_async: It is a coroutine function.
        is_stream: It answers with a stream of items.
        is_plain: A call of type 1 without uploads takes a slot: neither `is_stream` nor any uploads.
        policies: Who may call it; empty for everybody.
        dependencies: What is made for each call instead of being sent, for keyword arguments; None for nothing.
    """

    __slots__ = (
        "dependencies",
        "function",
        "is_async",
        "is_plain",
        "is_stream",
        "name",
        "parameter_types",
        "policies",
        "python_name",
        "uploads",
    )

    def __init__(
        self,
        name: str,
        python_name: str,
        function: Callable[..., Any],
        *,
        parameter_types: Sequence[object],
        uploads: Sequence[UploadParameter],
        is_stream: bool,
        policies: Sequence[Policy] = (),
        dependencies: Dependencies | None = None,
    ) -> None:
        self.name = name
        self.python_name = python_name
        self.function = function
        self.parameter_types = tuple(parameter_types)
        self.uploads = tuple(uploads)
        self.is_async = is_async_function(function)
        self.is_stream = is_stream
        self.is_plain = not is_stream and not uploads
        self.policies = tuple(policies)
        self.dependencies = dependencies

    async def run(self, hub: object, arguments: Sequence[object], injected: Mapping[str, Any] | None = None) -> Any:
        """Run the method and return what it returned, for a stream method its stream.

        A coroutine function runs on the loop; a plain function runs in a worker thread, with the caller's context
        variables, and an awaitable that it returns is awaited on the loop.
        """
        function = self.function if injected is None else partial(self.function, **injected)
        if self.is_async:
            return await function(hub, *arguments)
        if self.is_stream and inspect.isasyncgenfunction(inspect.unwrap(self.function)):
            return function(hub, *arguments)
        return await call_in_thread(function, hub, *arguments)


def is_async_function(function: Callable[..., Any]) -> bool:
    """Whether calling `function` gives an awaitable, also behind decorators that use `functools.wraps`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(inspect.unwrap(function))


async def call_in_thread(function: Callable[..., Any], *arguments: object) -> Any:
    """Run a plain function in a worker thread; what it returns is awaited here if it can be."""
    result = await run_in_thread(partial(_call, function, arguments))
    return await result if inspect.isawaitable(result) else result


def _call(function: Callable[..., Any], arguments: Sequence[object]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as error:
        # A future refuses to carry StopIteration, and its waiter would wait for ever.
        raise RuntimeError("The hub method raised StopIteration.") from error


class HubMethods:
    """The methods of one hub class.

    Args:
        hub_type: The application's class.
        base: The class whose own members are not callable: `Hub`.

    Raises:
        ConfigurationError: Two methods have the same name, or a method's signature cannot be served; the text names
            the method, the parameter and what to do.
    """

    __slots__ = ("_explicit", "_implicit", "hub_type")

    def __init__(self, hub_type: type, base: type) -> None:
        self.hub_type = hub_type
        self._explicit: dict[str, HubMethod] = {}
        self._implicit: dict[str, HubMethod] = {}
        for python_name in _attribute_names(hub_type):
            if python_name in vars(base) or python_name in vars(object):
                continue
            explicit_name = _explicit_name(hub_type, python_name)
            attribute = inspect.getattr_static(hub_type, python_name)
            if isinstance(attribute, PolicyMark):
                raise ConfigurationError(
                    f"{hub_type.__qualname__}.{python_name} was taken for a policy of @authorize: "
                    "call the method's first parameter 'self', or write @authorize()."
                )
            if not isinstance(attribute, FunctionType) or python_name.startswith("_"):
                if explicit_name is not None and attribute is not None:
                    raise ConfigurationError(
                        f"{hub_type.__qualname__}.{python_name} is marked with hub_method, but clients can only call "
                        "public methods of instances."
                    )
                continue
            self._add(_inspect(hub_type, python_name, attribute, explicit_name), explicit=explicit_name is not None)

    def __iter__(self) -> Iterator[HubMethod]:
        """Every method, once."""
        yield from self._explicit.values()
        yield from self._implicit.values()

    def _add(self, method: HubMethod, *, explicit: bool) -> None:
        key = method.name.lower() if explicit else _normalized(method.name)
        other = self._explicit.get(method.name.lower())
        if explicit:
            other = other or self._implicit.get(_normalized(method.name))
        else:
            other = other or self._implicit.get(key)
            # A name set explicitly that an undecorated one would answer to as well is ambiguous.
            other = other or next((m for k, m in self._explicit.items() if k.replace("_", "") == key), None)
        if other is not None:
            owner = self.hub_type.__qualname__
            raise ConfigurationError(
                f"Duplicate definitions of '{method.name}'. Overloading is not supported. "
                f"({owner}.{other.python_name} and {owner}.{method.python_name})"
            )
        (self._explicit if explicit else self._implicit)[key] = method

    def find(self, target: str) -> HubMethod | None:
        """The method a client means by `target`, or None."""
        lowered = target.lower()
        return self._explicit.get(lowered) or self._implicit.get(lowered.replace("_", ""))

    def spellings(self) -> dict[str, HubMethod]:
        """The spellings that clients are likely to use, for a table that saves `find` its work."""
        found: dict[str, HubMethod] = {}
        for method in self._implicit.values():
            name = method.name
            for spelling in (method.python_name, name, name[:1].lower() + name[1:], name.lower()):
                found[spelling] = method
        for method in self._explicit.values():
            found[method.name] = method
        return found


def _attribute_names(hub_type: type) -> list[str]:
    """Names of all attributes, those of bases first, each once, in order of definition."""
    names: dict[str, None] = {}
    for owner in reversed(hub_type.__mro__):
        names.update(dict.fromkeys(vars(owner)))
    return list(names)


def _explicit_name(hub_type: type, python_name: str) -> str | None:
    """The name set by `@hub_method`, on the method itself or on one that it overrides."""
    for owner in hub_type.__mro__:
        attribute = vars(owner).get(python_name)
        # A static or class method keeps the mark on the function inside.
        for marked in (attribute, getattr(attribute, "__func__", None)):
            name = getattr(marked, _NAME_ATTRIBUTE, None)
            if isinstance(name, str):
                return name
    return None


def _normalized(name: str) -> str:
    return name.lower().replace("_", "")


def _declared_name(python_name: str) -> str:
    """``send_message`` as .NET would have declared it: ``SendMessage``; capitals of the Python name stay."""
    return "".join(part[:1].upper() + part[1:] for part in python_name.split("_"))


def _inspect(hub_type: type, python_name: str, function: FunctionType, explicit_name: str | None) -> HubMethod:
    where = f"{hub_type.__qualname__}.{python_name}"
    if inspect.isgeneratorfunction(inspect.unwrap(function)):
        raise ConfigurationError(f"{where} is a generator. Write it as 'async def' to stream items to the client.")
    if getattr(inspect.unwrap(function), "__type_params__", ()):
        raise ConfigurationError(f"Method '{where}' is a generic method which is not supported on a Hub.")
    try:
        signature = inspect.signature(function)
    except NameError as error:  # Python 3.14 evaluates annotations here
        raise ConfigurationError(f"The types of {where} cannot be resolved: {error}. {_RESOLVE_ADVICE}") from error
    parameters = list(signature.parameters.values())
    if not parameters or parameters[0].kind not in _POSITIONAL:
        raise ConfigurationError(f"{where} takes no 'self'.")
    types: list[object] = []
    uploads: list[UploadParameter] = []
    injected: dict[str, tuple[inspect.Parameter, Marker]] = {}
    for position, parameter in enumerate(parameters[1:]):
        dependency = _dependency(parameter, function, hub_type, where)
        if dependency is not None:
            injected[parameter.name] = dependency
            continue
        if not _is_sent(parameter, where):
            continue
        if injected and parameter.kind in _POSITIONAL:
            raise ConfigurationError(
                f"Parameter '{parameter.name}' of {where} stands behind one with Depends. Clients send arguments by "
                "position: put the dependencies last."
            )
        annotation = _parameter_type(parameter, function, hub_type, where)
        if get_origin(annotation) in _UPLOADS or annotation in _UPLOADS:
            uploads.append(UploadParameter(position, (*get_args(annotation), Any)[0]))
        else:
            types.append(annotation)
    method = HubMethod(
        explicit_name or _declared_name(python_name),
        python_name,
        function,
        parameter_types=types,
        uploads=uploads,
        is_stream=_is_stream(signature.return_annotation, function, hub_type, where),
        policies=policies_of(hub_type, python_name),
        dependencies=Dependencies(injected, where) if injected else None,
    )
    if uploads and not method.is_stream and not method.is_async:
        raise ConfigurationError(f"{where} reads a stream of its client, so it must be 'async def'.")
    return method


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_RESOLVE_ADVICE = (
    "Arguments are bound by annotation at run time: the type must be importable from the module, "
    "outside 'if TYPE_CHECKING'."
)


def _dependency(
    parameter: inspect.Parameter, function: FunctionType, hub_type: type, where: str
) -> tuple[inspect.Parameter, Marker] | None:
    """A parameter with FastAPI's `Depends`, its annotation resolved."""
    annotation = parameter.annotation
    if isinstance(annotation, str) and "Depends" not in annotation and find_marker(parameter) is None:
        # An alias may hide it; then it must be resolved, as a sent parameter's type is anyway.
        try:
            annotation = _resolve(annotation, function, hub_type)
        except Exception:  # noqa: BLE001 - told where the type is needed
            return None
    elif isinstance(annotation, str):
        annotation = _parameter_type(parameter, function, hub_type, where)
    resolved = parameter.replace(annotation=annotation)
    marker = find_marker(resolved)
    if marker is not None and parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise ConfigurationError(f"Parameter '{parameter.name}' of {where} with Depends must not be positional-only.")
    return None if marker is None else (resolved, marker)


def _is_sent(parameter: inspect.Parameter, where: str) -> bool:
    """Whether a client sends it; raises for what the protocol cannot express."""
    name = parameter.name
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise ConfigurationError(
            f"{where} takes '*{name}'. Clients send a fixed number of arguments: name each one. "
            "(A decorator keeps the signature with functools.wraps.)"
        )
    has_default = parameter.default is not inspect.Parameter.empty
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        if not has_default:
            raise ConfigurationError(
                f"Parameter '{name}' of {where} is keyword-only, but clients send arguments by position. "
                "Make it positional, or give it a default that no client can change."
            )
        return False
    if has_default:
        raise ConfigurationError(
            f"Parameter '{name}' of {where} has a default, but clients must send every argument. "
            "Remove the default, or make the parameter keyword-only, out of reach for clients."
        )
    return True


def _resolve(annotation: object, function: FunctionType, hub_type: type) -> Any:
    holder = SimpleNamespace(__annotations__={"value": annotation})
    names = inspect.unwrap(function).__globals__
    try:
        return get_type_hints(holder, names, include_extras=True)["value"]
    except NameError:
        # Types nested in the hub class; tried second, because its methods may be named like builtins.
        inherited: dict[str, Any] = {}
        for owner in reversed(hub_type.__mro__):
            inherited.update(vars(owner))
        return get_type_hints(holder, names, inherited, include_extras=True)["value"]


def _parameter_type(parameter: inspect.Parameter, function: FunctionType, hub_type: type, where: str) -> Any:
    if parameter.annotation is inspect.Parameter.empty:
        return Any
    try:
        resolved = _resolve(parameter.annotation, function, hub_type)
    except Exception as error:  # an annotation is the application's code, and may fail in any way
        raise ConfigurationError(
            f"The type of parameter '{parameter.name}' of {where} cannot be resolved: {error}. {_RESOLVE_ADVICE}"
        ) from error
    if isinstance(resolved, TypeVar):
        raise ConfigurationError(f"Method '{where}' is a generic method which is not supported on a Hub.")
    return resolved


def _is_stream(annotation: object, function: FunctionType, hub_type: type, where: str) -> bool:
    if inspect.isasyncgenfunction(inspect.unwrap(function)):
        return True
    if annotation is inspect.Signature.empty:
        return False
    try:
        resolved = _resolve(annotation, function, hub_type)
    except Exception as error:  # as above
        # Results are written as they are, so their type matters only where it may mean a stream.
        if "Async" in str(annotation):
            raise ConfigurationError(
                f"The return type of {where} cannot be resolved: {error}. {_RESOLVE_ADVICE}"
            ) from error
        return False
    return get_origin(resolved) in _STREAM_RETURNS or resolved in _STREAM_RETURNS
