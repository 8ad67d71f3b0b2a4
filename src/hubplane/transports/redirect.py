"""What an application may answer to negotiate itself: go elsewhere, or no.

Source: signalr-server section 1.4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeAlias

from hubplane.connection.request import ConnectionRequest
from hubplane.errors import HubException
from hubplane.protocol.negotiation import NegotiateRedirect, encode_negotiate_error, encode_negotiate_redirect
from hubplane.transports.exchange import HttpExchange

__all__ = ["NegotiateHook", "answered_by"]

NegotiateHook: TypeAlias = Callable[
    [ConnectionRequest], "NegotiateRedirect | Awaitable[NegotiateRedirect | None] | None"
]
"""Looks at a negotiate request: None to go on here, or where to go; a `HubException` refuses with its text."""


async def answered_by(hook: NegotiateHook, exchange: HttpExchange) -> bool:
    """Whether the application has answered a negotiate request; if not, it is to be answered as always.

    Both answers have status 200: clients show the text of an error only then. Other exceptions of the hook come out.
    """
    try:
        found = hook(exchange.request)
        redirect = await found if isawaitable(found) else found
    except HubException as refusal:
        body = encode_negotiate_error(str(refusal))
    else:
        if redirect is None:
            return False
        body = encode_negotiate_redirect(redirect)
    await exchange.respond(200, body, content_type="application/json")
    return True
