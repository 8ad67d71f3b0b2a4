"""The ASGI edge: runs under any ASGI 3 server, mountable in any framework."""
