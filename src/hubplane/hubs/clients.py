"""Choose who hears a message, and send it.

Source: signalr-server sections 5.12 and 5.13; redis-backplane sections 3.4-3.7.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
from threading import get_ident
from typing import (
    Any,  # what a client answers is the application's choice
    TypeVar,
    overload,
)

from hubplane.errors import ClientResultError, ConnectionClosedError, LocalProtocolError
from hubplane.hubs.call import HubCall
from hubplane.hubs.port import HubPort
from hubplane.lifetime.audience import ALL, Audience, AudienceKind

__all__ = ["ClientProxy", "HubCallerClients", "HubClients", "SingleClientProxy"]

T = TypeVar("T")


class ClientProxy:
    """Sends to an audience; cheap to make and to keep."""

    __slots__ = ("_audience", "_port")

    def __init__(self, port: HubPort, audience: Audience) -> None:
        self._port = port
        self._audience = audience

    def send(self, target: str, *arguments: object) -> Awaitable[None]:
        """Call `target` on every client of the audience; nobody answers.

        The message is encoded in the call; the awaitable ends when this node, or the broker behind it, took it. Unknown
        ids, groups and users are no error. In a thread without an event loop, so in every hub method written as plain
        ``def``, the call blocks until then, and there is nothing to await.

        Args:
            target: The client's method, sent verbatim. Some clients distinguish case.
            arguments: Anything that the hub protocols can write.

        Raises:
            TypeError, ValueError, OverflowError: `target` is no string or empty, or an argument cannot be written;
                nothing was sent.
            BackplaneUnavailableError: Not confirmed; from the awaitable.
        """
        if not target or type(target) is not str:
            _check_target(target)
        port = self._port
        if get_ident() == port.thread:
            return port.lifetime.send(self._audience, target, arguments)
        return port.run(partial(port.lifetime.send, self._audience, target, arguments))


class SingleClientProxy(ClientProxy):
    """Sends to one connection, and can ask it for a result."""

    __slots__ = ("_call",)

    def __init__(self, port: HubPort, connection_id: str, call: HubCall | None = None) -> None:
        super().__init__(port, Audience(AudienceKind.CONNECTION, (connection_id,)))
        self._call = call

    @overload
    async def invoke(self, target: str, *arguments: object, result: type[T], timeout: float | None = None) -> T: ...

    @overload
    async def invoke(
        self, target: str, *arguments: object, result: object = ..., timeout: float | None = None
    ) -> Any: ...

    async def invoke(
        self, target: str, *arguments: object, result: object = Any, timeout: float | None = None
    ) -> object:
        """Call `target` on the client and wait for what it returns.

        While a hub method waits, the next call of its own client may start: the method gives up its place among
        `maximum_parallel_invocations_per_client` for good.

        Args:
            target: The client's method, sent verbatim.
            arguments: Anything that the client's protocol can write.
            result: The type that the answer is converted to.
            timeout: Seconds to wait; None waits until the client answers or is gone.

        Raises:
            HubException: The client answered with an error, or with something that does not fit `result`.
            ClientResultError: The connection does not exist, ended meanwhile, or took longer than `timeout`.
            LocalProtocolError: Called in `on_connected`, where the client cannot answer yet, or off the event loop.
        """
        _check_target(target)
        call = self._call
        if call is not None and not call.results_allowed:
            raise LocalProtocolError("Client results inside OnConnectedAsync Hub methods are not allowed.")
        port = self._port
        if get_ident() != port.thread:
            if port.thread:
                raise LocalProtocolError("A client can be asked for a result on the hub's event loop only.")
            port.open()
        if call is not None:
            call.hand_slot_back()
        try:
            return await port.lifetime.invoke_connection(
                self._audience.names[0], target, arguments, result, timeout=timeout
            )
        except ConnectionClosedError as error:
            raise ClientResultError(str(error)) from error


class HubClients:
    """The audiences that exist without a caller."""

    __slots__ = ("_call", "_port")

    def __init__(self, port: HubPort) -> None:
        self._port = port
        self._call: HubCall | None = None

    @property
    def all(self) -> ClientProxy:
        """Every connection of the hub, on every node."""
        return ClientProxy(self._port, ALL)

    def all_except(self, excluded: Iterable[str]) -> ClientProxy:
        """Every connection but those with these ids."""
        return ClientProxy(self._port, Audience(AudienceKind.ALL, (), _names(excluded, "connection ids")))

    def client(self, connection_id: str) -> SingleClientProxy:
        """One connection, on any node."""
        return SingleClientProxy(self._port, _name(connection_id, "A connection id"), self._call)

    def clients(self, connection_ids: Iterable[str]) -> ClientProxy:
        """Several connections."""
        return self._plural(AudienceKind.CONNECTIONS, connection_ids, "connection ids")

    def group(self, group: str) -> ClientProxy:
        """The members of a group; names are case-sensitive."""
        return ClientProxy(self._port, Audience(AudienceKind.GROUP, (_name(group, "A group"),)))

    def groups(self, groups: Iterable[str]) -> ClientProxy:
        """The members of several groups; who is in two of them hears it twice, as in ASP.NET Core."""
        return self._plural(AudienceKind.GROUPS, groups, "groups")

    def group_except(self, group: str, excluded: Iterable[str]) -> ClientProxy:
        """The members of a group but those with these connection ids."""
        return ClientProxy(
            self._port,
            Audience(AudienceKind.GROUP, (_name(group, "A group"),), _names(excluded, "connection ids")),
        )

    def user(self, user: str) -> ClientProxy:
        """Every connection of a user; ids are case-sensitive."""
        return ClientProxy(self._port, Audience(AudienceKind.USER, (_name(user, "A user id"),)))

    def users(self, users: Iterable[str]) -> ClientProxy:
        """Every connection of several users."""
        return self._plural(AudienceKind.USERS, users, "user ids")

    def _plural(self, kind: AudienceKind, names: Iterable[str], what: str) -> ClientProxy:
        return ClientProxy(self._port, Audience(kind, _names(names, what)))


class HubCallerClients(HubClients):
    """The audiences as seen from a call: also the caller, and the others."""

    __slots__ = ("_caller_id",)

    def __init__(self, call: HubCall) -> None:
        self._port = call.site.port
        self._call: HubCall | None = call
        self._caller_id = call.site.connection.connection_id

    @property
    def caller(self) -> SingleClientProxy:
        """The connection that calls."""
        return SingleClientProxy(self._port, self._caller_id, self._call)

    @property
    def others(self) -> ClientProxy:
        """Every connection but the caller's."""
        return ClientProxy(self._port, Audience(AudienceKind.ALL, (), (self._caller_id,)))

    def others_in_group(self, group: str) -> ClientProxy:
        """The members of a group, without the caller."""
        return ClientProxy(self._port, Audience(AudienceKind.GROUP, (_name(group, "A group"),), (self._caller_id,)))


def _check_target(target: object) -> None:
    if not isinstance(target, str):
        raise TypeError(f"The target is the name of a client method, not {target!r}.")
    if not target:
        raise ValueError("The value cannot be an empty string. (Parameter 'target')")


def _name(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is a string, not {value!r}.")
    return value


def _names(values: Iterable[str], what: str) -> tuple[str, ...]:
    # A string is an iterable of strings, and never what was meant.
    if isinstance(values, str):
        raise TypeError(f"Pass a list of {what}, not the string {values!r}.")
    names = tuple(values)
    for name in names:
        _name(name, f"Each of the {what}")
    return names
