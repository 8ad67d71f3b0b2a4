"""ASP.NET Core's verdict on a JSON message, member by member and in its words.

Source: signalr-server section 4.2; what it leaves open was asked of a running ASP.NET Core 10.0.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final  # Any: a member's value, which `_CHECKS` has judged

from hubplane.errors import RemoteProtocolError
from hubplane.protocol.json_reader import NOT_JSON, Member, is_too_deep, members, token_name
from hubplane.protocol.messages import (
    UNSET_RESULT,
    Ack,
    CancelInvocation,
    Close,
    Completion,
    HubMessage,
    Invocation,
    Ping,
    Raw,
    Sequence_,
    StreamInvocation,
    StreamItem,
)

__all__ = ["BAD_JSON", "read_message"]

BAD_JSON: Final = "Error reading JSON."


def read_message(body: bytes) -> HubMessage | None:
    """Turn one JSON object into a message; None for an unknown type. What follows the object is ignored.

    Raises:
        RemoteProtocolError: The message is malformed.
    """
    if is_too_deep(body):
        raise RemoteProtocolError(BAD_JSON)
    found: dict[str, Any] = {}
    arguments: list[Member] = []  # in the order in which ASP.NET Core binds them
    try:
        for member in members(body):
            check = _CHECKS.get(member.name)
            if check is None:
                continue
            if member.name != "arguments":
                found[member.name] = check(member)
            elif "target" in found:
                arguments.insert(-1 if "arguments" in found else len(arguments), _array(member))
            else:
                # The method is not known yet: these are bound at the end.
                arguments = [_array(member)]
                found["arguments"] = True
    except RemoteProtocolError as fault:
        if fault.error_type == NOT_JSON:
            raise RemoteProtocolError(BAD_JSON) from fault
        raise
    found["arguments"] = Raw(arguments[-1].raw) if arguments else None
    kind = found.get("type")
    if kind is None:
        raise _missing("type")
    maker = _MAKERS.get(kind)
    if maker is None:
        return None
    message = maker(found)
    if isinstance(message, (Invocation, StreamInvocation)):
        message.binding_error = _misfit(arguments)
    return message


def _misfit(arguments: list[Member]) -> str | None:
    """What is wrong with arguments given more than once: all must fit, so all must be of one length."""
    lengths = [len(member.value) for member in arguments if isinstance(member.value, list)]
    odd = next((length for length in lengths if length != lengths[-1]), None)
    return None if odd is None else f"Invocation provides {odd} argument(s) but target expects {lengths[-1]}."


# -- members ----------------------------------------------------------------------------------------------------


def _missing(name: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"Missing required property '{name}'.")


def _wrong(name: str, kind: str) -> RemoteProtocolError:
    return RemoteProtocolError(f"Expected '{name}' to be of type {kind}.")


def _text(member: Member) -> str:
    if not isinstance(member.value, str):
        raise _wrong(member.name, "String")
    return member.value


def _integer(member: Member, bits: int) -> int | None:
    value = member.value
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(member.name, "Number")
    if isinstance(value, float) or not -(2 ** (bits - 1)) <= value < 2 ** (bits - 1):
        raise RemoteProtocolError(
            f"Either the JSON value is not in a supported format, or is out of bounds for an Int{bits}.",
            error_type="FormatException",
        )
    return value


def _type(member: Member) -> int:
    value = _integer(member, 32)
    if value is None:
        raise _wrong(member.name, "Number")
    return value


def _sequence_id(member: Member) -> int | None:
    return _integer(member, 64)


def _boolean(member: Member) -> bool:
    if not isinstance(member.value, bool):
        raise RemoteProtocolError(f"Expected '{member.name}' to be true or false.")
    return member.value


def _array(member: Member) -> Member:
    if not isinstance(member.value, list):
        raise _wrong(member.name, "Array")
    return member


def _stream_ids(member: Member) -> list[str]:
    ids = _array(member).value
    for value in ids:  # type: ignore[attr-defined]  # `_array` has seen to it that it is a list
        if value is None:
            raise RemoteProtocolError(f"Null value for '{member.name}' is not valid.")
        if not isinstance(value, str):
            token = token_name(value)
            raise RemoteProtocolError(
                f"Cannot get the value of a token type '{token}' as a string.",
                error_type="InvalidOperationException",
            )
    return ids  # type: ignore[return-value]  # judged item by item


def _headers(member: Member) -> dict[str, str]:
    if not isinstance(member.value, dict):
        raise _wrong(member.name, "StartObject")
    for name, value in member.value.items():
        if not isinstance(value, str):
            raise RemoteProtocolError(f"Expected header '{name}' to be of type String.")
    return member.value


def _raw(member: Member) -> Raw:
    return Raw(member.raw)


_CHECKS: dict[str, Callable[[Member], object]] = {
    "type": _type,
    "invocationId": _text,
    "target": _text,
    "arguments": _array,
    "streamIds": _stream_ids,
    "headers": _headers,
    "item": _raw,
    "result": _raw,
    "error": _text,
    "allowReconnect": _boolean,
    "sequenceId": _sequence_id,
}


# -- messages ---------------------------------------------------------------------------------------------------


def _required(found: dict[str, Any], name: str) -> Any:
    value = found.get(name)
    if value is None:
        raise _missing(name)
    return value


def _invocation_id(found: dict[str, Any]) -> str:
    value = found.get("invocationId")
    if not value:
        raise _missing("invocationId")
    return str(value)


def _invocation(found: dict[str, Any]) -> HubMessage:
    target = _required(found, "target")
    arguments = _required(found, "arguments")
    invocation_id = found.get("invocationId") or None
    return Invocation(target, arguments, invocation_id, found.get("streamIds", ()), found.get("headers"))


def _stream_invocation(found: dict[str, Any]) -> HubMessage:
    target = _required(found, "target")
    arguments = _required(found, "arguments")
    return StreamInvocation(_invocation_id(found), target, arguments, found.get("streamIds", ()), found.get("headers"))


def _stream_item(found: dict[str, Any]) -> HubMessage:
    return StreamItem(_invocation_id(found), _required(found, "item"), found.get("headers"))


def _completion(found: dict[str, Any]) -> HubMessage:
    invocation_id = _invocation_id(found)
    if "error" in found and "result" in found:
        raise RemoteProtocolError("The 'error' and 'result' properties are mutually exclusive.")
    return Completion(invocation_id, found.get("error"), found.get("result", UNSET_RESULT), found.get("headers"))


def _cancel(found: dict[str, Any]) -> HubMessage:
    return CancelInvocation(_invocation_id(found), found.get("headers"))


def _close(found: dict[str, Any]) -> HubMessage:
    return Close(found.get("error"), found.get("allowReconnect", False))


_MAKERS: dict[int, Callable[[dict[str, Any]], HubMessage]] = {
    1: _invocation,
    2: _stream_item,
    3: _completion,
    4: _stream_invocation,
    5: _cancel,
    6: lambda _found: Ping(),
    7: _close,
    8: lambda found: Ack(_required(found, "sequenceId")),
    9: lambda found: Sequence_(_required(found, "sequenceId")),
}
