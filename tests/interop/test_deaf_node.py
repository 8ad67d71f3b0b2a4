"""`hubplane check` beside real ASP.NET Core nodes: those that went deaf are recognised."""

from __future__ import annotations

import asyncio

import pytest
from tests.e2e.processes import eventually
from tests.interop.dotnet import AspNetNode, DotnetError

from hubplane.backplane.redis.configuration import parse
from hubplane.cli.examine import Examination
from hubplane.cli.findings import Report
from hubplane.clock import SystemClock
from hubplane.ids import SystemIds
from hubplane.testing.redis_server import RedisServer

PREFIX = "Deaf:"
HUBS = ["Interop.ChatHub", "Interop.StrictHub"]


def look(server: RedisServer) -> Report:
    """What `hubplane check` finds."""
    options = parse(f"{server.configuration},channelPrefix={PREFIX}")
    return asyncio.run(Examination(options, HUBS, clock=SystemClock(), ids=SystemIds(), seconds=5.0).run())


def deaf(report: Report) -> dict[object, object]:
    """How many nodes of each hub are deaf."""
    return {f.data["hub"]: f.data["deaf"] for f in report.findings if f.check == "deaf nodes"}


def names_of_whole(report: Report) -> list[object]:
    """The hubs whose report names whole nodes."""
    return [f.data["hub"] for f in report.findings if f.check == "deaf nodes" and f.data["whole"]]


@pytest.mark.timeout(120)
def test_aspnet_node_that_started_without_redis_is_found_out(run: str) -> None:
    """A deaf node looks healthy to itself and to Redis; the check finds it, also beside a whole one."""
    with RedisServer() as server:
        server.kill()
        # The library's timeouts, five times as fast: how long Redis has to be away scales with them.
        patient = f"{server.configuration},abortConnect=false,connectTimeout=1000,syncTimeout=1000,asyncTimeout=1000"
        with AspNetNode(run, patient, PREFIX) as node:
            for hub in ("chat", "strict"):
                # A send waits for the first connect, its subscriptions included, to be over, and fails like it.
                with pytest.raises(DotnetError):
                    node.ask("/send", {"to": {"all": True}, "method": "M", "args": [], "hub": hub})
            server.start()
            assert eventually(node.redis_connected, 30.0)
            assert eventually(lambda: server.command("PUBSUB", "NUMSUB", f"{PREFIX}{HUBS[0]}:all")[1] == 1)  # type: ignore[index]
            assert deaf(look(server)) == dict.fromkeys(HUBS, 1)
            with AspNetNode(run, patient, PREFIX) as whole:
                assert eventually(whole.redis_connected, 30.0)
                assert eventually(lambda: len(names_of_whole(look(server))) == len(HUBS), 30.0)
                report = look(server)
                assert deaf(report) == dict.fromkeys(HUBS, 1)
                assert report.verdict == "warning"
                found = [f for f in report.findings if f.check == "deaf nodes"]
                assert all("1 of 2 nodes" in f.text for f in found)
        with AspNetNode(run, patient, PREFIX) as restarted:
            assert eventually(restarted.redis_connected, 30.0)
            assert eventually(lambda: look(server).verdict == "ok", 30.0)
