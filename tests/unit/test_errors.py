"""The exceptions: one tree, split by fault."""

from __future__ import annotations

import inspect
import re

import pytest

from hubplane import errors
from hubplane.errors import (
    AckTimeoutError,
    BackplaneError,
    BackplaneUnavailableError,
    BindingError,
    ClientResultError,
    ClientTimeoutError,
    ConfigurationError,
    ConnectionClosedError,
    EnvelopeError,
    HandshakeError,
    HubException,
    HubplaneError,
    LocalProtocolError,
    RemoteProtocolError,
    wire_error_name,
)


def classes() -> list[type[Exception]]:
    """Every exception of the module."""
    found = [getattr(errors, name) for name in errors.__all__]
    return [value for value in found if inspect.isclass(value) and issubclass(value, Exception)]


def test_all_are_in_one_tree() -> None:
    """Whoever catches `HubplaneError` catches everything that hubplane raises on purpose."""
    assert all(issubclass(kind, HubplaneError) for kind in classes())


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """The picture has every exception in its place."""
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:│   |    )*)(?:[├└]── )?(\w+)(?:\s.*)?$", line)
        if match is None:
            continue
        depth = len(match[1]) // 4 + (1 if "── " in line else 0)
        del above[depth:]
        if above:
            drawn[match[2]] = above[-1]
        above.append(match[2])
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in classes() if kind is not HubplaneError}


def test_a_configuration_error_is_a_value_error() -> None:
    """Wrong options can be caught as what they are in Python."""
    assert issubclass(ConfigurationError, ValueError)


def test_a_remote_fault_says_what_and_of_which_kind() -> None:
    """The text is the sentence; the kind is .NET's, for clients with detailed errors."""
    fault = RemoteProtocolError("It is broken.")
    assert (str(fault), fault.detail, fault.error_type) == ("It is broken.", "It is broken.", "InvalidDataException")
    assert RemoteProtocolError("x", error_type="FormatException").error_type == "FormatException"


@pytest.mark.parametrize(
    ("fault", "answer", "text"),
    [
        (HandshakeError("Handshake was canceled."), "Handshake was canceled.", "Handshake was canceled."),
        (HandshakeError("An error.", "Missing it."), "An error.", "Missing it."),
        (HandshakeError(None), None, "The handshake was not completed."),
    ],
)
def test_a_failed_handshake_has_an_answer_and_a_reason(fault: HandshakeError, answer: str | None, text: str) -> None:
    """The answer is for every client, the detail for those with detailed errors."""
    assert (fault.answer, str(fault), fault.detail) == (answer, text, text)


def test_a_timeout_has_the_words_of_asp_net() -> None:
    """The hub's disconnect callback sees ASP.NET Core's sentence."""
    fault = ClientTimeoutError()
    assert str(fault) == "Client hasn't sent a message/ping within the configured ClientTimeoutInterval."
    assert fault.error_type == "OperationCanceledException"


def test_a_binding_error_keeps_its_detail() -> None:
    """What does not fit is told with detailed errors only, so it stands apart."""
    fault = BindingError("Wrong.")
    assert (str(fault), fault.detail, fault.error_type) == ("Wrong.", "Wrong.", "InvalidDataException")


def test_a_closed_connection_is_named() -> None:
    """The public id is a field, and stands in the sentence unless there is a better one."""
    fault = ConnectionClosedError("abc")
    assert (str(fault), fault.connection_id) == ("Connection 'abc' is closed.", "abc")
    assert str(ConnectionClosedError("abc", "Connection 'abc' disconnected.")) == "Connection 'abc' disconnected."


def test_a_missing_acknowledgement_names_connection_and_group() -> None:
    """Both are fields."""
    fault = AckTimeoutError("abc", "room", "No node has it.")
    assert (str(fault), fault.connection_id, fault.group) == ("No node has it.", "abc", "room")


@pytest.mark.parametrize("kind", [BackplaneUnavailableError, AckTimeoutError, EnvelopeError])
def test_what_goes_wrong_between_nodes_has_one_base(kind: type[Exception]) -> None:
    """The backplane's errors can be caught together, and apart from those of clients."""
    assert issubclass(kind, BackplaneError)
    assert not issubclass(kind, RemoteProtocolError)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (RemoteProtocolError("x"), "InvalidDataException"),
        (ClientTimeoutError(), "OperationCanceledException"),
        (HubException("x"), "HubException"),
        (ClientResultError("x"), "ClientResultError"),
        (LocalProtocolError("x"), "LocalProtocolError"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_clients_see_the_name_of_dotnet_where_there_is_one(fault: Exception, name: str) -> None:
    """With detailed errors the client gets .NET's short name, else the class's own."""
    assert wire_error_name(fault) == name


def test_an_error_type_of_another_kind_is_no_name() -> None:
    """A user's exception may have an attribute of that name with another meaning."""

    class OddError(Exception):
        error_type = 5

    assert wire_error_name(OddError()) == "OddError"
