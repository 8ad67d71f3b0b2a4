"""Tools for testing hubs, backplanes and lifetime managers.

For hubs: `HubClient`, `MemoryServer`, `MemoryFleet` and `FakeClock`, and the fixtures of `hubplane.testing.plugin`. For
backplanes: `backplane_contract`. For lifetime managers: `lifetime_contract` and `scaleout_contract`, with the stand-ins
of `recording`. A real server: `redis_server`.
"""

from hubplane.testing.arrivals import ServerCall
from hubplane.testing.backplane_contract import BackplaneContract, BackplaneFleet, RecordingSink
from hubplane.testing.client_connection import ConnectionEnd
from hubplane.testing.client_stream import ClientStream
from hubplane.testing.failures import ConnectError, NothingArrivedError
from hubplane.testing.fakes import FakeClock, SeededIds
from hubplane.testing.hub_client import FakeUser, HubClient
from hubplane.testing.memory_fleet import MemoryFleet
from hubplane.testing.memory_server import MemoryServer

__all__ = [
    "BackplaneContract",
    "BackplaneFleet",
    "ClientStream",
    "ConnectError",
    "ConnectionEnd",
    "FakeClock",
    "FakeUser",
    "HubClient",
    "MemoryFleet",
    "MemoryServer",
    "NothingArrivedError",
    "RecordingSink",
    "SeededIds",
    "ServerCall",
]
