"""A new login of a connected client, on its way to the hub."""

from __future__ import annotations

from typing import Final

from hubplane.connection.hub_connection import HubConnection, Refreshed
from hubplane.connection.request import ConnectionRequest

__all__ = ["PENDING_LOGINS", "announce"]

PENDING_LOGINS: Final = 16
"""Logins of one connection that may wait for its calls to end; then the newest takes the place of the one before."""


def announce(connection: HubConnection, request: ConnectionRequest) -> None:
    """Let the hub see the login of `request` as soon as a call may start, in front of the calls that wait.

    Calls that are running keep the login they began with, unless further ones may run beside them.
    """
    inbox = connection.inbox
    waiting = 0
    while waiting < len(inbox) and type(inbox[waiting]) is Refreshed:
        waiting += 1
    if waiting == PENDING_LOGINS:
        inbox[waiting - 1] = Refreshed(request)
    else:
        inbox.insert(waiting, Refreshed(request))
    if connection.on_input is not None:
        connection.on_input()
