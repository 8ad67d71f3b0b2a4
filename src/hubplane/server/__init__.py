"""The fast edge: hub WebSockets straight on the event loop, inside uvicorn."""

from hubplane.server.uvicorn_hook import HubWebSocketProtocol

__all__ = ["HubWebSocketProtocol"]
