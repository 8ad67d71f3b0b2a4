"""The negotiate request: ids and transports for a client that is about to connect.

Source: signalr-server sections 1.2 and 1.4.
"""

from __future__ import annotations

import logging

from hubplane.errors import RemoteProtocolError
from hubplane.ids import IdSource
from hubplane.options import HttpTransportType
from hubplane.protocol.negotiation import encode_negotiate_error, encode_negotiate_response, parse_negotiate_query
from hubplane.transports.exchange import HttpExchange
from hubplane.transports.ownership import Ownership
from hubplane.transports.registry import ConnectionRegistry, RegistryFullError

__all__ = ["negotiate"]

logger = logging.getLogger(__name__)

_JSON = "application/json"


async def negotiate(
    exchange: HttpExchange,
    registry: ConnectionRegistry,
    *,
    ownership: Ownership,
    offered: HttpTransportType,
    minimum_version: int,
    stateful_reconnect: bool,
    ids: IdSource,
    token_lifetime: int | None = None,
) -> None:
    """Answer a negotiate request: register a connection and tell its ids, or say what is wrong.

    A registry that is full answers 503, which clients report as a failed negotiation.

    Args:
        exchange: The POST request; its body means nothing.
        registry: Where the connection waits for its transport.
        ownership: Knows whose it is.
        offered: The transports to name.
        minimum_version: The lowest negotiate version accepted.
        stateful_reconnect: Whether to agree to stateful reconnect when asked.
        ids: Makes the id and the token.
        token_lifetime: Seconds that the login of the request lasts, where it may be refreshed.
    """
    try:
        asked = parse_negotiate_query(exchange.request.query, minimum_version=minimum_version)
    except RemoteProtocolError as error:
        await exchange.respond(200, encode_negotiate_error(error.detail), content_type=_JSON)
        return
    connection_id = ids.connection_id()
    token = ids.connection_id() if asked.version > 0 else connection_id
    is_stateful = stateful_reconnect and asked.use_stateful_reconnect
    owner = ownership.owner(exchange.request, connection_id)
    try:
        registry.add(token, connection_id, is_stateful=is_stateful, owner=owner)
    except RegistryFullError as error:
        logger.warning("A negotiate request was refused: %s", error)
        await exchange.respond(503, b"Too many connections wait for their transport.")
        return
    body = encode_negotiate_response(
        version=asked.version,
        connection_id=connection_id,
        connection_token=token if asked.version > 0 else None,
        transports=offered,
        use_stateful_reconnect=is_stateful,
        token_lifetime=token_lifetime,
    )
    await exchange.respond(200, body, content_type=_JSON)
