"""Arguments and single values from their encoded form into the types that a hub method declares.

msgspec decodes straight into the declared types. Where .NET writes a value in a form that msgspec does not take (a
`TimeSpan`, an enumeration's name in MessagePack) the value is read into builtins first, those forms are turned into
Python's objects wherever the declared type asks for them, and msgspec converts the result.

Source: signalr-server sections 4.2-4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, TypeAlias  # Any: nodes of msgspec's type tree, and the user's values

import msgspec
from msgspec import inspect

from hubplane.errors import BindingError, RemoteProtocolError
from hubplane.protocol.hub_protocol import ArgumentDecoder, ValueDecoder
from hubplane.protocol.messages import Raw

__all__ = ["BINDING_FAILED", "Leaf", "ValueFormat", "argument_decoder", "kinds_of", "read_custom", "value_decoder"]

BINDING_FAILED = (
    "Error binding arguments. Make sure that the types of the provided values match the types of the hub method being "
    "invoked."
)

Leaf: TypeAlias = Callable[[Any, Any], object]
"""Takes a node of the type tree and a value; returns the value as that type, or the value itself if it has no say."""

# What converting a client's value can raise, the user's own __post_init__ and validators included.
_FAULTS = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError, RemoteProtocolError)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFormat:
    """How one encoding is read.

    Attributes:
        decoder: Makes a function that decodes a value into a type, at msgspec's speed.
        parse: Decodes a value into builtins; the flag asks for numbers with a fraction as `Decimal`.
        split: Cuts an encoded array into its encoded items.
        no_array: What is wrong with arguments that are no array.
        leaves: What to make of values in .NET's own forms, by kind of declared type.
        plain_leaves: What `parse` leaves to be done at other kinds of type.
        ready_made: Types that `parse` and the leaves make themselves; msgspec is not to make them from text.
        misread: Kinds of type that `decoder` would read differently from .NET; they are never left to it.
        count_first: Whether a wrong number of arguments is reported before a wrong type.
        text_keys: Whether the keys of a mapping are always text.
        mends_text: Whether text that is no UTF-8 is taken, with U+FFFD in it.
    """

    decoder: Callable[[object], Callable[[Raw], object]]
    parse: Callable[[Raw, bool], object]
    split: Callable[[Raw], list[Raw]]
    no_array: str
    leaves: Mapping[type[inspect.Type], Leaf]
    plain_leaves: Mapping[type[inspect.Type], Leaf]
    ready_made: tuple[type, ...]
    misread: frozenset[type[inspect.Type]]
    count_first: bool
    text_keys: bool
    mends_text: bool


def argument_decoder(form: ValueFormat, types: Sequence[object]) -> ArgumentDecoder:
    """Make the decoder for the arguments of a method.

    Raises:
        TypeError: A type cannot be read from a client.
    """
    wanted = tuple(map(_free, types))
    reader = _Reader(form, GenericAlias(tuple, wanted))
    read = reader.read

    def bind(raw: Raw) -> Sequence[object]:
        try:
            return read(raw)  # type: ignore[return-value]  # the type decoded into is a tuple
        except _FAULTS as fault:
            try:
                return reader.read_again(raw, fault)  # type: ignore[return-value]  # as above
            except _FAULTS:
                raise BindingError(_what_is_wrong(form, wanted, raw)) from fault

    return bind


def value_decoder(form: ValueFormat, type_: object) -> ValueDecoder:
    """Make the decoder for single values of a type.

    Raises:
        TypeError: The type cannot be read from a client.
    """
    reader = _Reader(form, _free(type_))
    read = reader.read

    def bind(raw: Raw) -> object:
        try:
            return read(raw)
        except _FAULTS as fault:
            try:
                return reader.read_again(raw, fault)
            except _FAULTS:
                raise BindingError(str(fault) or type(fault).__name__) from fault

    return bind


def kinds_of(info: inspect.Type) -> set[type[inspect.Type]]:
    """Collect the kinds of all nodes in a type tree."""
    seen: dict[int, inspect.Type] = {}
    waiting: list[inspect.Type] = [info]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if isinstance(node, inspect.CustomType):
            _check_custom(node.cls)
        waiting.extend(_children(node))
    return set(map(type, seen.values()))


def _free(type_: object) -> object:
    return Any if type_ is object else type_


def _children(node: Any) -> Iterable[inspect.Type]:
    if isinstance(node, inspect.UnionType):
        yield from node.types
    elif isinstance(node, inspect.TupleType):
        yield from node.item_types
    elif isinstance(node, inspect.DictType):
        yield node.key_type
        yield node.value_type
    elif isinstance(node, inspect.CollectionType):
        yield node.item_type
    else:
        for field in getattr(node, "fields", ()):
            yield field.type


def _check_custom(cls: type) -> None:
    if cls is not object and not callable(getattr(cls, "model_validate", None)):
        raise TypeError(
            f"{cls!r} cannot be read from a client. Use builtins, a dataclass, a msgspec.Struct, a TypedDict, an Enum, "
            "attrs or pydantic."
        )


def read_custom(cls: Any, value: object) -> object:
    """Make an instance of a class that msgspec does not know: a pydantic model; `object` takes any value."""
    return value if cls is object else cls.model_validate(value)


class _Reader:
    """Reads values of one type, by msgspec's decoder first."""

    __slots__ = ("_exact", "_form", "_info", "_shape", "_shaped", "_type", "read")

    def __init__(self, form: ValueFormat, type_: object) -> None:
        self._form = form
        self._type = type_
        self._info = inspect.type_info(type_)
        kinds = kinds_of(self._info)
        self._exact = inspect.DecimalType in kinds
        self._shape = _Shaper({**form.leaves, **form.plain_leaves})
        self._shaped = not kinds.isdisjoint(form.leaves)
        self.read = form.decoder(type_) if kinds.isdisjoint(form.misread) else self._read_shaped

    def read_again(self, raw: Raw, fault: Exception) -> object:
        """Read what `read` has refused with `fault`; raise if a second look cannot help."""
        if not self._shaped and not (isinstance(fault, UnicodeDecodeError) and self._form.mends_text):
            raise fault
        return self._read_shaped(raw)

    def _read_shaped(self, raw: Raw) -> object:
        form = self._form
        return msgspec.convert(
            self._shape(self._info, form.parse(raw, self._exact)),
            self._type,
            builtin_types=form.ready_made,
            str_keys=form.text_keys,
            dec_hook=read_custom,
        )


def _what_is_wrong(form: ValueFormat, types: tuple[object, ...], raw: Raw) -> str:
    try:
        items = form.split(raw)
    except _FAULTS:
        return form.no_array
    count = f"Invocation provides {len(items)} argument(s) but target expects {len(types)}."
    if len(items) == len(types):
        return BINDING_FAILED
    if form.count_first:
        return count
    for item, type_ in zip(items, types, strict=False):
        try:
            value_decoder(form, type_)(item)
        except BindingError:
            return BINDING_FAILED
    return count


class _Shaper:
    """Walks a value along the tree of its declared type, and lets the leaves turn what they know."""

    __slots__ = ("_leaves",)

    def __init__(self, leaves: Mapping[type[inspect.Type], Leaf]) -> None:
        self._leaves = leaves

    def __call__(self, node: Any, value: Any) -> object:
        leaf = self._leaves.get(type(node))
        if leaf is not None:
            return leaf(node, value)
        if isinstance(node, inspect.UnionType):
            return self._union(node, value)
        if isinstance(value, list):
            return self._list(node, value)
        if isinstance(value, dict):
            return self._dict(node, value)
        return value

    def _union(self, node: inspect.UnionType, value: object) -> object:
        for member in node.types:
            shaped = self(member, value)
            if shaped is not value:
                return shaped
        return value

    def _list(self, node: Any, values: list[object]) -> object:
        if isinstance(node, inspect.TupleType):
            types: Sequence[Any] = node.item_types
        elif isinstance(node, inspect.CollectionType):
            return [self(node.item_type, value) for value in values]
        elif isinstance(node, inspect.NamedTupleType):
            types = [field.type for field in node.fields]
        elif isinstance(node, inspect.StructType) and node.array_like:
            types = [field.type for field in node.fields]
            if node.tag is not None:
                if values[:1] != [node.tag]:
                    return values
                types = [inspect.AnyType(), *types]
        else:
            return values
        shaped = [self(type_, value) for type_, value in zip(types, values, strict=False)]
        return shaped + values[len(shaped) :]

    def _dict(self, node: Any, values: dict[object, object]) -> object:
        if isinstance(node, inspect.DictType):
            return {self(node.key_type, key): self(node.value_type, value) for key, value in values.items()}
        if isinstance(node, inspect.StructType) and node.tag is not None and values.get(node.tag_field) != node.tag:
            return values
        fields = {field.encode_name: field.type for field in getattr(node, "fields", ())}
        if not fields:
            return values
        return {key: self(fields[key], value) if key in fields else value for key, value in values.items()}
