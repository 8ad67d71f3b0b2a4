"""The fast edge: hub WebSockets straight on the event loop, inside uvicorn."""
