"""Chance, injected: connection ids and tokens, node names and invocation ids."""

from __future__ import annotations

import base64
import secrets
import socket
from typing import Protocol

__all__ = ["IdSource", "SystemIds"]


class IdSource(Protocol):
    """Makes the names that must be unique, or unguessable, across a fleet."""

    def connection_id(self) -> str:
        """128 random bits, base64url without padding: 22 characters (signalr-server section 1.2)."""
        ...

    def node_name(self) -> str:
        """``{machine}_{32 hex digits}``, unique per hub and process (redis-backplane section 1.2, rule 7)."""
        ...

    def invocation_id(self) -> str:
        """128 random bits, standard base64 without padding: 22 characters (redis-backplane section 2.10)."""
        ...


class SystemIds:
    """Ids from the operating system's cryptographic random source."""

    __slots__ = ()

    def connection_id(self) -> str:
        """128 random bits, base64url without padding: 22 characters."""
        return secrets.token_urlsafe(16)

    def node_name(self) -> str:
        """The machine's name, an underscore and 32 random hex digits."""
        return f"{socket.gethostname()}_{secrets.token_hex(16)}"

    def invocation_id(self) -> str:
        """128 random bits, standard base64 without padding."""
        return base64.b64encode(secrets.token_bytes(16))[:22].decode("ascii")
