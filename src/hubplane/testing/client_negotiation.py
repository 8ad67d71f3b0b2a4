"""How a client asks for a connection before it opens one.

Source: signalr-server sections 1.2 and 1.4.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from hubplane.testing.arrivals import shown
from hubplane.testing.failures import ConnectError
from hubplane.testing.memory_server import MemoryServer
from hubplane.testing.memory_socket import MemoryResponse

__all__ = ["Connecting", "negotiate", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connecting:
    """How to reach a hub.

    Attributes:
        path: Of the whole application.
        query: Further parameters.
        headers: For both requests.
        extra: Further members of the scopes.
        access_token: For both requests, where browsers put it.
        negotiates: Whether to ask before the WebSocket is opened.
    """

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    extra: Mapping[str, object]
    access_token: str | None
    negotiates: bool


async def negotiate(server: MemoryServer, how: Connecting) -> tuple[str, str]:
    """Ask for a connection: its public id, and the token that opens it.

    Raises:
        ConnectError: The application refused, or offers no WebSockets.
    """
    headers = dict(how.headers)
    if how.access_token is not None:
        headers.setdefault("authorization", f"Bearer {how.access_token}")
    address = f"{how.path}/negotiate"
    query = urlencode({**how.query, "negotiateVersion": "1"}, quote_via=quote)
    answer = await server.http("POST", address, query=query, headers=headers, extra=how.extra)
    if answer.status != 200:
        raise refused(answer, f"POST {address}", how.path)
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ConnectError(f"What answers POST {address} is no hub: {answer.body[:200]!r}", body=answer.body)
    if "error" in said:
        raise ConnectError(f"The negotiation at {how.path} failed: {said['error']}", status=200, body=answer.body)
    offered = [str(each.get("transport")) for each in said.get("availableTransports", ())]
    if "WebSockets" not in offered:
        raise ConnectError(f"The hub at {how.path} offers no WebSockets, but {shown(offered) or 'nothing'}.")
    return said["connectionId"], str(said.get("connectionToken") or said["connectionId"])


def refused(answer: MemoryResponse, what: str, path: str) -> ConnectError:
    """What to raise for an answer that is no success."""
    text = f"The application answered {answer.status} to {what}."
    if answer.status == 404:
        text += (
            f" Is there a hub at {path!r}? The path is that of the whole application: "
            "'/hubs/chat' for a hub at '/chat' in a HubApp mounted at '/hubs'."
        )
    elif answer.status in {401, 403}:
        text += " Who may connect is decided by the hub and by what stands before it: see `user` and `access_token`."
    return ConnectError(text, status=answer.status, body=answer.body)
