"""What an ASGI server asks for, led to the hub at its path; and the lifespan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from hubplane.asgi.http import AsgiHttpExchange, Receive, Scope, Send
from hubplane.asgi.websocket import open_websocket
from hubplane.endpoint.endpoint import HubEndpoint
from hubplane.errors import ConfigurationError

__all__ = ["serve_lifespan", "serve_scope"]

# What a 401 has to say (RFC 9110); browsers show no dialog for it.
_CHALLENGE = (("www-authenticate", "Bearer"),)


async def serve_scope(endpoints: Mapping[str, HubEndpoint], scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request or WebSocket.

    Args:
        endpoints: The hubs, by path.
        scope: ASGI's three.
        receive: As above.
        send: As above.

    Raises:
        ConfigurationError: The scope is of another kind.
    """
    kind = scope["type"]
    endpoint, subpath = _match(endpoints, scope)
    if kind == "websocket":
        exchange = open_websocket(scope, receive, send)
        if endpoint is None or subpath:
            await exchange.reject(404, b"", content_type=None)
        elif (status := await endpoint.gate.refusal(exchange.request)) is not None:
            await exchange.reject(status, b"", content_type=None)
        else:
            await endpoint.router.websocket(exchange)
    elif kind == "http":
        http = AsgiHttpExchange(scope, receive, send)
        if endpoint is None:
            await http.respond(404, b"", content_type=None)
        elif (status := await endpoint.gate.refusal(http.request)) is not None:
            await http.respond(status, b"", content_type=None, headers=_CHALLENGE if status == 401 else ())
        else:
            await endpoint.router.http(http, subpath)
    else:
        raise ConfigurationError(f"HubApp serves http, websocket and lifespan scopes, not {kind!r}.")


def _match(endpoints: Mapping[str, HubEndpoint], scope: Scope) -> tuple[HubEndpoint | None, str]:
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    # Some servers leave the root out of the path; a root that ends within a name is none of ours.
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in {"", "/"}:
        path = path[len(root) :]
    path = path.rstrip("/")
    endpoint = endpoints.get(path)
    if endpoint is not None:
        return endpoint, ""
    base, _, last = path.rpartition("/")
    return (endpoints.get(base), last) if last in {"negotiate", "refresh"} else (None, "")


async def serve_lifespan(
    lifespan: Callable[[], AbstractAsyncContextManager[None]], receive: Receive, send: Send
) -> None:
    """Speak ASGI's lifespan protocol around `lifespan`; what it raises is told to the server and raised on."""
    await receive()
    async with AsyncExitStack() as stack:  # for a server that cancels instead of shutting down
        try:
            await stack.enter_async_context(lifespan())
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await stack.aclose()
        except Exception as error:
            await send({"type": "lifespan.shutdown.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.shutdown.complete"})
