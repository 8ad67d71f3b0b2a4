"""`RedisCluster`: a real Redis Cluster for tests, with its faults at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.redis_fleets import RedisFleet, bytes_of, fixed_port, text_of, wait_until
from hubplane.testing.redis_server import RedisServer, RedisServerKind
from hubplane.testing.resp import RespError

__all__ = ["RedisCluster"]

_SLOTS = 16_384
_FAILOVERS = 4
_FAILOVER_SECONDS = 6.0


class RedisCluster(RedisFleet):
    """A Redis Cluster on the loopback interface.

    Args:
        primaries: How many; the slots are dealt out evenly, in order.
        replicas: How many for each primary.
        kind: Which server, as for `RedisServer`.
        node_timeout: Seconds after which a silent node counts as failing.
        arguments: More options of every server.
        tls: Options that let every server speak TLS: certificate, key, authority; it does then on a second port.

    Attributes:
        tls_ports: Those ports.
        servers: First the primaries as they were created, then the replicas.

    Raises:
        ConfigurationError: No such server on this machine.
    """

    def __init__(
        self,
        *,
        primaries: int = 3,
        replicas: int = 0,
        kind: RedisServerKind = "any",
        node_timeout: float = 1.0,
        arguments: Sequence[str] = (),
        tls: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._primaries = primaries
        self._buses: list[int] = []
        self.tls_ports: list[int] = []
        for _ in range(primaries * (1 + replicas)):
            port, bus = fixed_port(self._ports), fixed_port(self._ports)
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), *arguments]
            options += ["--cluster-node-timeout", str(round(node_timeout * 1000))]
            # An election waits for fresh replication, and a primary without a replica must not stop the others.
            options += ["--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no"]
            options += ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
            if tls:
                self.tls_ports.append(fixed_port(self._ports))
                options += ["--tls-cluster", "yes", "--tls-port", str(self.tls_ports[-1]), *tls]
            self.servers.append(RedisServer(kind=kind, port=port, arguments=options))
            self._buses.append(bus)

    @property
    def configuration(self) -> str:
        """All servers as a StackExchange.Redis configuration string."""
        return ",".join(server.configuration for server in self.servers)

    @property
    def url(self) -> str:
        """All servers as a ``redis+cluster://`` URL."""
        return "redis+cluster://" + self.configuration

    def _begin(self) -> None:
        for server in self.servers:
            self._stack.enter_context(server)
        heads = self.servers[: self._primaries]
        for number, head in enumerate(heads):
            first = number * _SLOTS // len(heads)
            last = (number + 1) * _SLOTS // len(heads) - 1
            head.command("CLUSTER", "ADDSLOTSRANGE", first, last)
            head.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for server, bus in zip(self.servers[1:], self._buses[1:], strict=True):
            self.servers[0].command("CLUSTER", "MEET", server.host, server.port, bus)
        wait_until(lambda: all(self._knows_all(server) for server in self.servers), "all nodes know each other")
        for number, server in enumerate(self.servers[self._primaries :]):
            head = heads[number % len(heads)]
            server.command("CLUSTER", "REPLICATE", self.node_id(head))
        self.wait_until_well()

    def _knows_all(self, server: RedisServer) -> bool:
        lines = self.nodes(server)
        return len(lines) == len(self.servers) and all("handshake" not in line[2] for line in lines)

    def nodes(self, server: RedisServer) -> list[list[str]]:
        """The fields of each line that a server answers to CLUSTER NODES."""
        reply = server.command("CLUSTER", "NODES")
        assert isinstance(reply, bytes)
        return [line.split(" ") for line in reply.decode().splitlines() if line]

    def node_id(self, server: RedisServer) -> str:
        """A server's name in the cluster."""
        return text_of(server.command("CLUSTER", "MYID"))

    def role(self, server: RedisServer) -> str:
        """What a server says it is: master or slave."""
        reply = server.command("ROLE")
        assert isinstance(reply, list)
        return text_of(reply[0])

    def primary_of(self, replica: RedisServer) -> RedisServer | None:
        """The server that a replica follows."""
        reply = replica.command("ROLE")
        assert isinstance(reply, list)
        return next((server for server in self.servers if server.port == reply[2]), None)

    def wait_until_well(self) -> None:
        """Block until every running server finds the cluster in order, all links up and all replicas in step.

        They agree then, too, which primary owns which slots, and in which epoch.
        """
        running = [server for server in self.servers if server.pid is not None]
        try:
            wait_until(
                lambda: all(self._is_well(server) for server in running) and self._agreed(), "the cluster is well"
            )
        except TimeoutError as error:
            raise TimeoutError("\n".join([str(error), *map(self._picture, running)])) from error

    def _picture(self, server: RedisServer) -> str:
        """What a server sees, for whoever has to find out why the cluster is not well."""
        try:
            info, nodes = bytes_of(server.command("CLUSTER", "INFO")), bytes_of(server.command("CLUSTER", "NODES"))
        except (RespError, BackplaneUnavailableError, EOFError) as error:
            return f"{server.port}: {error}"
        return f"{server.port}, {server.command('ROLE')!r}, {info.split()[0].decode()}:\n{nodes.decode()}"

    def _is_well(self, server: RedisServer) -> bool:
        if b"cluster_state:ok" not in bytes_of(server.command("CLUSTER", "INFO")):
            return False
        alive = {other.port for other in self.servers if other.pid is not None}
        for line in self.nodes(server):
            if _port(line) in alive and ("fail" in line[2] or line[7] != "connected"):
                return False
        role = server.command("ROLE")
        return isinstance(role, list) and (text_of(role[0]) == "master" or role[3] == b"connected")

    def owner(self, slot: int) -> RedisServer:
        """The running primary that owns a slot, as the majority of the running servers says; blocks until there is one.

        Raises:
            TimeoutError: The majority did not agree on a running one in time.
        """
        found: list[RedisServer] = []

        def is_agreed() -> bool:
            found[:] = [server for server in (self._elected(slot),) if server is not None]
            return bool(found)

        wait_until(is_agreed, f"most servers agree who owns slot {slot}")
        return found[0]

    def _elected(self, slot: int) -> RedisServer | None:
        running = {s.port: s for s in self.servers if s.pid is not None and not s.paused}
        votes: dict[int, int] = {}
        for server in running.values():
            for line in self.nodes(server):
                if "master" in line[2] and "fail" not in line[2] and _has(line[8:], slot):
                    votes[_port(line)] = votes.get(_port(line), 0) + 1
        port = max(votes, key=lambda port: votes[port], default=0)
        return running[port] if port in running and votes[port] * 2 > len(running) else None

    def _agreed(self) -> set[int]:
        """The ports of all primaries that own slots; empty while two running primaries differ in who owns what."""
        pictures: set[frozenset[tuple[int | str, ...]]] = set()
        owners: set[int] = set()
        for server in self.servers:
            # Replicas may never learn that a slot was moved to a primary with an older epoch, and need not.
            if server.pid is not None and not server.paused and self.role(server) == "master":
                lines = [line for line in self.nodes(server) if "master" in line[2] and line[8:]]
                owners = {_port(line) for line in lines}
                pictures.add(frozenset((_port(line), line[6], *line[8:]) for line in lines))
        return owners if len(pictures) == 1 else set()

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Hand an empty slot to another primary, as a resharding does, and wait until all running servers know it.

        A replica that did not would leave the slot to nobody when it takes its primary's place.

        Raises:
            TimeoutError: They did not agree in time.
        """
        source, target = self.owner(slot), self.node_id(to)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        to.command("CLUSTER", "SETSLOT", slot, "NODE", target)
        source.command("CLUSTER", "SETSLOT", slot, "NODE", target)
        # With the newest epoch it keeps the slot when a late heartbeat of the old owner claims it; else nobody would.
        to.command("CLUSTER", "BUMPEPOCH")
        running = [server for server in self.servers if server.pid is not None]
        for server in running:
            if server not in {to, source} and self.role(server) == "master":
                server.command("CLUSTER", "SETSLOT", slot, "NODE", target)
        wait_until(
            lambda: all(self._owners(server, slot) == [to.port] for server in running),
            f"all servers know that slot {slot} is at {to.port}",
        )

    def _owners(self, server: RedisServer, slot: int) -> list[int]:
        return [_port(line) for line in self.nodes(server) if "master" in line[2] and _has(line[8:], slot)]

    def fail_over(self, replica: RedisServer) -> int:
        """Let a replica take its primary's place in agreement with it, and wait until all running servers know it.

        Returns:
            How many attempts it took: one that fails costs its primary's clients up to five seconds of silence.

        Raises:
            TimeoutError: The servers did not come to that in four attempts.
        """
        for attempt in range(1, _FAILOVERS + 1):
            # Late success of the last attempt makes it a primary, which refuses.
            with contextlib.suppress(RespError):
                replica.command("CLUSTER", "FAILOVER")
            # Nobody votes twice in a short time, and after five seconds a server gives up. One that calls itself a
            # primary may be told that it is none: another epoch was newer. It is one when all say so.
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: replica.port in self._agreed(), "the replica is a primary", _FAILOVER_SECONDS)
                self.wait_until_well()
                if replica.port in self._agreed():
                    return attempt
        raise TimeoutError(f"Not in {_FAILOVERS} attempts: {replica.port} is a primary.")

    def resume(self) -> None:
        """Start every server that does not run, and wait until the cluster is well."""
        self.start()
        self.wait_until_well()


def _port(line: Sequence[str]) -> int:
    return int(line[1].partition("@")[0].rpartition(":")[2])


def _has(ranges: Sequence[str], slot: int) -> bool:
    for text in ranges:
        if not text.startswith("["):
            first, _, last = text.partition("-")
            if int(first) <= slot <= int(last or first):
                return True
    return False
