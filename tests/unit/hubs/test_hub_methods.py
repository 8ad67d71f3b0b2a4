"""Which methods clients may call, and under which names."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import msgspec
import pytest

from hubplane.errors import ConfigurationError
from hubplane.hubs.hub import Hub
from hubplane.hubs.methods import HubMethod, HubMethods, hub_method

if TYPE_CHECKING:
    from decimal import Decimal

T = TypeVar("T")


def methods_of(hub_type: type) -> HubMethods:
    """All methods of a hub."""
    return HubMethods(hub_type, Hub)


def names_of(hub_type: type) -> set[str]:
    """Their declared names."""
    return {method.name for method in methods_of(hub_type)}


def the_method(hub_type: type) -> HubMethod:
    """The only method of a hub."""
    (method,) = methods_of(hub_type)
    return method


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as applications write them."""

    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class Base(Hub):
    async def inherited(self) -> None: ...

    async def overridden(self) -> None: ...


class Everything(Base):
    attribute = 1
    class_of_its_own = dict

    async def overridden(self) -> None: ...

    async def send_message(self, user: str, text: str) -> None: ...

    def blocking(self): ...  # type: ignore[no-untyped-def]  # noqa: ANN201

    async def on_connected(self) -> None: ...

    async def on_disconnected(self, error: Exception | None) -> None: ...

    async def _private(self) -> None: ...

    async def __mangled(self) -> None: ...

    @property
    def prop(self) -> int:
        return 1

    @functools.cached_property
    def cached(self) -> int:
        return 1

    @staticmethod
    async def static() -> None: ...

    @classmethod
    async def of_class(cls) -> None: ...

    def __call__(self) -> None: ...


def test_callable_are_public_methods_of_the_class_and_its_bases() -> None:
    """Public methods of a hub and its bases are callable once each; no lifecycle, private, static or class members."""
    assert names_of(Everything) == {"Inherited", "Overridden", "SendMessage", "Blocking"}
    function = next(method.function for method in methods_of(Everything) if method.name == "Overridden")
    assert function is Everything.overridden


def test_members_of_the_hub_base_class_are_never_callable() -> None:
    """A member of Hub that a subclass overrides with a method is still not callable."""

    class Odd(Hub):
        async def clients(self) -> None: ...  # type: ignore[override]

    assert names_of(Odd) == set()


def test_a_method_hidden_by_a_subclass_is_not_callable() -> None:
    """A subclass takes a method of its base away by setting it to None."""

    class Hidden(Base):
        inherited = None  # type: ignore[assignment]

    assert names_of(Hidden) == {"Overridden"}


@pytest.mark.parametrize(
    "target", ["SendMessage", "sendMessage", "send_message", "SENDMESSAGE", "sendmessage", "Send_Message"]
)
def test_a_name_is_matched_in_any_case_without_underscores(target: str) -> None:
    """A client may spell a method in any case and with or without underscores."""
    found = methods_of(Everything).find(target)
    assert found is not None
    assert found.name == "SendMessage"


@pytest.mark.parametrize("target", ["", "_", "Send Message", "SendMessages", "on_connected", "OnConnected", "__init__"])
def test_other_names_are_unknown(target: str) -> None:
    """What is no spelling of a method is not found."""
    assert methods_of(Everything).find(target) is None


@pytest.mark.parametrize(
    ("python_name", "declared"),
    [("add", "Add"), ("send_message", "SendMessage"), ("sendMessage", "SendMessage"), ("get_URL", "GetURL")],
)
def test_the_declared_name_follows_from_the_python_name(python_name: str, declared: str) -> None:
    """The declared name is the Python name with each part's first letter in upper case."""

    async def method(self: Hub) -> None: ...

    assert the_method(type("Named", (Hub,), {python_name: method})).name == declared


def test_a_set_name_is_matched_with_its_underscores() -> None:
    """A name set with hub_method is quoted as it is, and matched in any case but with exactly its underscores."""

    class Named(Hub):
        @hub_method("Send_It")
        async def first(self) -> None: ...

        @hub_method("SendIt")
        async def second(self) -> None: ...

    methods = methods_of(Named)
    found = [methods.find(target) for target in ("SEND_IT", "sendit", "first", "S_endIt")]
    assert [method and method.name for method in found] == ["Send_It", "SendIt", None, None]


def test_a_set_name_is_inherited() -> None:
    """An override keeps the name set on the method that it overrides, and may set another one."""

    class Parent(Hub):
        @hub_method("Original")
        async def kept(self) -> None: ...

        @hub_method("Former")
        async def renamed(self) -> None: ...

    class Child(Parent):
        async def kept(self) -> None: ...

        @hub_method("Latter")
        async def renamed(self) -> None: ...

    assert names_of(Child) == {"Original", "Latter"}


def duplicates() -> list[type]:
    """Hubs with two methods that answer to one name."""

    async def first(self: Hub) -> None: ...

    async def second(self: Hub) -> None: ...

    def named(name: str) -> Callable[..., Any]:
        async def function(self: Hub) -> None: ...

        return hub_method(name)(function)

    return [
        type("TwoCases", (Hub,), {"send": first, "Send": second}),
        type("TwoSpellings", (Hub,), {"send_it": first, "sendIt": second}),
        type("SetAndSet", (Hub,), {"a": named("Send"), "b": named("SEND")}),
        type("SetAndImplied", (Hub,), {"a": named("Send_It"), "send_it": first}),
        type("ImpliedAndSet", (Hub,), {"send_it": first, "z": named("Send_It")}),
    ]


@pytest.mark.row("B98")
@pytest.mark.parametrize("hub_type", duplicates(), ids=lambda hub_type: hub_type.__name__)
def test_methods_of_the_same_name_are_refused(hub_type: type) -> None:
    """Two methods that a client could not tell apart fail at registration, both named."""
    both = [name for name, value in vars(hub_type).items() if callable(value)]
    with pytest.raises(
        ConfigurationError, match=r"Duplicate definitions of '.+'\. Overloading is not supported\."
    ) as info:
        methods_of(hub_type)
    assert f"({hub_type.__qualname__}.{both[0]} and {hub_type.__qualname__}.{both[1]})" in str(info.value)


def test_overriding_is_no_duplicate() -> None:
    """The same Python name in base and subclass is one method."""
    assert names_of(Everything) >= {"Overridden"}


# -- parameters ---------------------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: int


class Typed(Hub):
    class Nested(msgspec.Struct):
        """A type that is not found in the module."""

        value: int

    async def method(  # type: ignore[no-untyped-def]  # one parameter has no annotation
        self,
        number: int,
        point: Point,
        points: list[Point],
        nested: Nested,
        few: Annotated[int, msgspec.Meta(le=3)],
        untyped,  # noqa: ANN001
        *,
        hidden: int = 1,
    ) -> list[str]:  # a method of this class is named so too
        raise NotImplementedError

    async def list(self, names: set[str]) -> None: ...


def test_parameter_types_come_from_annotations() -> None:
    """Annotations are resolved, nested ones too; a missing one admits anything; what is keyword-only is not sent."""
    found = methods_of(Typed).find("method")
    assert found is not None
    few = Annotated[int, msgspec.Meta(le=3)]
    assert found.parameter_types == (int, Point, list[Point], Typed.Nested, few, Any)
    assert found.is_async
    assert found.is_plain


def test_a_decorated_method_keeps_its_signature() -> None:
    """A decorator that uses functools.wraps hides neither types nor the coroutine function."""

    class Decorated(Hub):
        @passing
        async def method(self, number: int) -> None: ...

    assert the_method(Decorated).parameter_types == (int,)
    assert the_method(Decorated).is_async


class UnresolvableParameter(Hub):
    async def pay(self, name: str, amount: Decimal) -> None: ...


class UnresolvableReturn(Hub):
    async def pay(self) -> AsyncIterator[Decimal]:
        raise NotImplementedError


class VarPositional(Hub):
    async def pay(self, *amounts: int) -> None: ...


class VarKeyword(Hub):
    async def pay(self, **amounts: int) -> None: ...


class KeywordOnly(Hub):
    async def pay(self, *, amount: int) -> None: ...


class WithDefault(Hub):
    async def pay(self, amount: int = 1) -> None: ...


class Generating(Hub):
    def pay(self) -> Iterator[int]:
        yield 1


class WithoutSelf(Hub):
    async def pay() -> None:  # type: ignore[misc]
        ...


class OfTypeVariable(Hub, Generic[T]):
    async def pay(self, amount: T) -> None: ...


class UploadToThread(Hub):
    def pay(self, amounts: AsyncIterator[int]) -> None: ...


class MarkedStatic(Hub):
    @staticmethod
    @hub_method("Pay")
    async def pay() -> None: ...


class MarkedPrivate(Hub):
    @hub_method("Pay")
    async def _pay(self) -> None: ...


GENERIC = r"Method '.*\.pay' is a generic method which is not supported on a Hub\."


@pytest.mark.parametrize(
    ("hub_type", "text"),
    [
        (UnresolvableParameter, r"parameter 'amount' of .*\.pay cannot be resolved: name 'Decimal'"),
        (UnresolvableReturn, r"return type of .*\.pay cannot be resolved: name 'Decimal'"),
        (VarPositional, r"\.pay takes '\*amounts'"),
        (VarKeyword, r"\.pay takes '\*amounts'"),
        (KeywordOnly, r"Parameter 'amount' of .*\.pay is keyword-only"),
        (WithDefault, r"Parameter 'amount' of .*\.pay has a default"),
        (Generating, r"\.pay is a generator"),
        (WithoutSelf, r"\.pay takes no 'self'"),
        (OfTypeVariable, GENERIC),
        (UploadToThread, r"\.pay reads a stream of its client"),
        (MarkedStatic, r"\.pay is marked with hub_method"),
        (MarkedPrivate, r"\._pay is marked with hub_method"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused(hub_type: type, text: str) -> None:
    """What clients could not call is refused at registration; the text names method and parameter."""
    with pytest.raises(ConfigurationError, match=text):
        methods_of(hub_type)


def test_a_generic_method_is_refused() -> None:
    """A method with type parameters of its own (Python 3.12 and later) is refused in .NET's words."""

    async def pay(self: Hub) -> None: ...

    pay.__type_params__ = (T,)  # type: ignore[attr-defined]
    with pytest.raises(ConfigurationError, match=GENERIC):
        methods_of(type("Broken", (Hub,), {"pay": pay}))


def test_annotations_that_are_evaluated_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where reading a signature evaluates annotations (Python 3.14), an unknown name is a configuration error too."""

    def signature(function: object) -> None:
        raise NameError("name 'Decimal' is not defined")

    monkeypatch.setattr("hubplane.hubs.methods.inspect.signature", signature)
    with pytest.raises(ConfigurationError, match=r"types of .*\.pay cannot be resolved: name 'Decimal'"):
        methods_of(WithDefault)


def test_an_unresolvable_result_type_does_not_matter() -> None:
    """Results are written as they are, so only a return type that may mean a stream must be known."""

    class Fine(Hub):
        async def pay(self) -> Decimal:
            raise NotImplementedError

    assert not the_method(Fine).is_stream


@pytest.mark.parametrize("name", ["", None, 1, test_overriding_is_no_duplicate])
def test_hub_method_needs_a_name(name: Any) -> None:
    """hub_method is called with a name; used bare it says so."""
    with pytest.raises(ConfigurationError, match="needs a name"):
        hub_method(name)


# -- streams ------------------------------------------------------------------------------------------------------


class Streams(Hub):
    async def generated(self) -> AsyncIterator[int]:
        yield 1

    async def unannotated(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        yield 1

    async def returned(self) -> AsyncIterable[int]:
        raise NotImplementedError

    async def generator(self) -> AsyncGenerator[int, None]:
        raise NotImplementedError

    def plain(self) -> AsyncIterator[int]:
        raise NotImplementedError

    def awaited(self) -> Awaitable[int]:
        raise NotImplementedError

    @passing
    async def decorated(self) -> AsyncIterator[int]:
        yield 1


@pytest.mark.parametrize(
    ("target", "is_stream"),
    [
        ("generated", True),
        ("unannotated", True),
        ("returned", True),
        ("generator", True),
        ("plain", True),
        ("decorated", True),
        ("awaited", False),
    ],
)
def test_streams_are_recognised(target: str, is_stream: bool) -> None:
    """An async generator streams, and so does what is annotated to return an async iterator, iterable or generator."""
    found = methods_of(Streams).find(target)
    assert found is not None
    assert found.is_stream is is_stream
    assert found.is_plain is not is_stream


def test_upload_parameters_are_not_among_the_arguments() -> None:
    """Parameters annotated as async iterators are fed by client streams, wherever they stand."""

    class Uploads(Hub):
        async def method(
            self,
            first: AsyncIterator[int],
            name: str,
            second: AsyncIterable[Point],
            third: AsyncIterator,  # type: ignore[type-arg]
        ) -> None: ...

    method = the_method(Uploads)
    assert method.parameter_types == (str,)
    assert method.uploads == ((0, int), (2, Point), (3, Any))
    assert not method.is_plain
