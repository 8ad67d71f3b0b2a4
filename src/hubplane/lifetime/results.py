"""Questions to clients that wait for an answer: those of this node, and those it passes on for others.

Source: redis-backplane sections 2.5 and 3.11; signalr-server section 5.13.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hubplane.connection.hub_connection import HubConnection
from hubplane.errors import (
    BindingError,
    ClientResultError,
    ConnectionClosedError,
    HubException,
    HubplaneError,
    RemoteProtocolError,
)
from hubplane.protocol.hub_protocol import HubProtocol
from hubplane.protocol.messages import UNSET_RESULT, Completion, Raw

__all__ = ["ClientResults", "ForwardAnswer"]

_STRIKES = 2

_COLLISION = "ID collision occurred when using client results. This is likely a bug in SignalR."
_DISCONNECTED = "Connection disconnected."
_TOO_MANY = "Too many client results are pending for this connection's server."

ForwardAnswer = Callable[[HubConnection, Completion], None]
"""Sends a client's answer to the node that asked; must not raise."""


class _Call:
    """A question of this node; `connection` is None when the client is on another one."""

    __slots__ = ("connection", "connection_id", "future", "result_type", "strikes")

    def __init__(
        self,
        future: asyncio.Future[object],
        connection_id: str,
        connection: HubConnection | None,
        result_type: object,
    ) -> None:
        self.future = future
        self.connection_id = connection_id
        self.connection = connection
        self.result_type = result_type
        self.strikes = 0


class _Errand:
    """A question of another node to a client of this one."""

    __slots__ = ("connection", "forward", "on_abort")

    def __init__(self, connection: HubConnection, forward: ForwardAnswer, on_abort: Callable[[], None]) -> None:
        self.connection = connection
        self.forward = forward
        self.on_abort = on_abort


class ClientResults:
    """Pending questions by invocation id.

    Args:
        max_errands: Questions of other nodes that may wait here for their clients; further ones are answered with an
            error at once.
    """

    __slots__ = ("_calls", "_errands", "_max_errands")

    def __init__(self, *, max_errands: int = 65_536) -> None:
        self._calls: dict[str, _Call] = {}
        self._errands: dict[str, _Errand] = {}
        self._max_errands = max_errands

    # -- asking -------------------------------------------------------------------------------------------------

    async def ask_local(
        self, invocation_id: str, connection: HubConnection, result_type: object, ask: Callable[[], None]
    ) -> object:
        """Ask a client of this node and return its answer; None when it answered without a value.

        Args:
            invocation_id: A fresh id.
            connection: The client.
            result_type: What the answer is converted to.
            ask: Writes the question.

        Raises:
            HubException: The client answered with an error, or with a value of another type.
            ConnectionClosedError: The client left.
            ClientResultError: The node stops.
        """
        connection_id = connection.connection_id
        answer = self.expect(invocation_id, connection_id, result_type, connection)

        def gone() -> None:
            _fail(answer, ConnectionClosedError(connection_id, f"Connection '{connection_id}' disconnected."))

        connection.on_abort(gone)
        try:
            ask()
            return await answer
        finally:
            connection.remove_on_abort(gone)
            self.forget(invocation_id)

    def expect(
        self,
        invocation_id: str,
        connection_id: str,
        result_type: object,
        connection: HubConnection | None = None,
    ) -> asyncio.Future[object]:
        """Expect an answer; call `forget` in the end.

        The future fails with `HubException` or `ClientResultError` as `ask_local` says.
        """
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._calls[invocation_id] = _Call(future, connection_id, connection, result_type)
        return future

    def forget(self, invocation_id: str) -> None:
        """Nobody waits for this answer any more; should it come, it is ignored."""
        self._calls.pop(invocation_id, None)

    # -- asking for another node --------------------------------------------------------------------------------

    def run_errand(self, invocation_id: str, connection: HubConnection, forward: ForwardAnswer) -> None:
        """Let the answer of a client of this node go to `forward`, or word that the client has left."""
        if invocation_id in self._errands or invocation_id in self._calls:
            forward(connection, Completion(invocation_id, error=_COLLISION))
            return
        if len(self._errands) >= self._max_errands:
            forward(connection, Completion(invocation_id, error=_TOO_MANY))
            return

        def gone() -> None:
            self._errands.pop(invocation_id, None)
            forward(connection, Completion(invocation_id, error=_DISCONNECTED))

        self._errands[invocation_id] = _Errand(connection, forward, gone)
        connection.on_abort(gone)

    # -- answers ------------------------------------------------------------------------------------------------

    def answer(self, connection: HubConnection, completion: Completion) -> bool:
        """A client of this node answered; False when nobody waits for it.

        A client that answers a question put to another one has broken the protocol: its connection ends.
        """
        invocation_id = completion.invocation_id
        errand = self._errands.get(invocation_id)
        if errand is not None:
            if errand.connection is not connection:
                return _expel(connection, invocation_id)
            del self._errands[invocation_id]
            connection.remove_on_abort(errand.on_abort)
            errand.forward(connection, completion)
            return True
        call = self._calls.get(invocation_id)
        if call is None or call.connection is None:
            return False
        if call.connection is not connection:
            return _expel(connection, invocation_id)
        _resolve(call, completion, connection.protocol)
        return True

    def answer_from_afar(self, completion: Completion, protocol: HubProtocol) -> None:
        """A client of another node answered, in `protocol`."""
        call = self._calls.get(completion.invocation_id)
        if call is not None:
            _resolve(call, completion, protocol)

    # -- whether an answer can still come -----------------------------------------------------------------------

    def asked_afar(self) -> list[str]:
        """The connections of other nodes that have been asked, each once."""
        return list(
            dict.fromkeys(
                call.connection_id
                for call in self._calls.values()
                if call.connection is None and not call.future.done()
            )
        )

    def seen(self, counts: dict[str, int]) -> None:
        """How many nodes serve each of those connections now.

        A question to a connection that twice running no node serves fails: once may be a node that is just
        reconnecting to its broker.
        """
        for call in self._calls.values():
            count = counts.get(call.connection_id) if call.connection is None else None
            if count is None:
                continue
            call.strikes = call.strikes + 1 if count == 0 else 0
            if call.strikes >= _STRIKES:
                _fail(
                    call.future,
                    ClientResultError(
                        f"Connection '{call.connection_id}' is gone, and the node that served it with it."
                    ),
                )

    def pardon(self) -> None:
        """The broker was away: what was not seen then proves nothing."""
        for call in self._calls.values():
            call.strikes = 0

    def close(self) -> None:
        """The node stops: end all questions."""
        for call in self._calls.values():
            _fail(call.future, ClientResultError("The hub is shutting down."))
        self._calls.clear()
        errands, self._errands = self._errands, {}
        for errand in errands.values():
            errand.connection.remove_on_abort(errand.on_abort)


def _expel(sender: HubConnection, invocation_id: str) -> bool:
    fault = RemoteProtocolError(
        f"Connection ID '{sender.connection_id}' is not valid for invocation ID '{invocation_id}'.",
        error_type="InvalidOperationException",
    )
    sender.end(fault, allow_reconnect=True)
    return False


def _fail(future: asyncio.Future[object], error: HubplaneError | TypeError) -> None:
    if not future.done():
        future.set_exception(error)
        # Counts as looked at: asking may have failed for another reason, and then nobody awaits it.
        future.exception()


def _resolve(call: _Call, completion: Completion, protocol: HubProtocol) -> None:
    if call.future.done():
        return
    if completion.error:
        # .NET raises a HubException for a client of another node that left, and an I/O error for one of its own.
        left = call.connection is None and completion.error == _DISCONNECTED
        text = f"Connection '{call.connection_id}' disconnected."
        _fail(call.future, ConnectionClosedError(call.connection_id, text) if left else HubException(completion.error))
        return
    result = completion.result
    if result is UNSET_RESULT or call.result_type is None or call.result_type is type(None):
        # .NET raises a HubException for an answer without a value; some clients answer so when there is nothing to say.
        call.future.set_result(None)
        return
    if isinstance(result, Raw):
        try:
            result = protocol.value_decoder(call.result_type)(result)
        except BindingError as error:
            failure = HubException(
                f"Error trying to deserialize result to {_type_name(call.result_type)}. {error.detail}"
            )
            failure.__cause__ = error
            _fail(call.future, failure)
            return
        except TypeError as error:
            # The caller asked for a type that no client can send.
            _fail(call.future, error)
            return
    call.future.set_result(result)


def _type_name(type_: object) -> str:
    return type_.__name__ if isinstance(type_, type) else str(type_)
