"""`RedisCluster` and `RedisSentinels`: several real servers for tests, with the faults that such fleets know.

All processes are `RedisServer`s of this one: they end with it, and with the fleet's `with` block.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from hubplane.clock import SystemClock
from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.redis_server import RedisServer, RedisServerKind
from hubplane.testing.resp import RespError, RespValue

__all__ = ["RedisCluster", "RedisSentinels", "SentinelServer", "wait_until"]

_SLOTS = 16_384
_PATIENCE = 30.0
_STEP = 0.02
_FAILOVERS = 4
_FAILOVER_SECONDS = 6.0


def wait_until(check: Callable[[], object], what: str, timeout: float = _PATIENCE) -> None:
    """Block until `check` is true; servers that refuse or cannot be reached meanwhile count as not yet.

    Args:
        check: Asked 50 times a second.
        what: Names the condition in the error.
        timeout: Seconds.

    Raises:
        TimeoutError: It did not become true in time.
    """
    clock, never = SystemClock(), threading.Event()
    end = clock.monotonic() + timeout
    while True:
        with contextlib.suppress(RespError, BackplaneUnavailableError, EOFError, ValueError):
            if check():
                return
        if clock.monotonic() > end:
            raise TimeoutError(f"Not within {timeout:g} s: {what}.")
        never.wait(_STEP)


def _fixed_port(taken: set[int]) -> int:
    """A port below those that the system gives to outgoing connections, so that a server can be restarted on it."""
    for _ in range(1_000):
        port = random.SystemRandom().randint(12_000, 31_000)  # noqa: TID251 - ports, for tests
        if port in taken:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            taken.add(port)
            return port
    raise BackplaneUnavailableError("No free TCP port between 12000 and 31000.")


class _Fleet:
    """Servers that start and end together."""

    def __init__(self) -> None:
        self.servers: list[RedisServer] = []
        self._stack = ExitStack()
        self._ports: set[int] = set()

    def close(self) -> None:
        """Kill all servers and remove their folders."""
        self._stack.close()

    def start(self) -> None:
        """Start every server that does not run; from the thread that the fleet was started in (see `RedisServer`)."""
        for server in self._all():
            server.start()

    def _all(self) -> Sequence[RedisServer]:
        return self.servers

    def interrupt(self) -> None:
        """Kill all servers as if at one moment."""
        for server in self.servers:
            server.pause()
        for server in self.servers:
            server.kill()

    def _begin(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        """Start everything and return when it works."""
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


class RedisCluster(_Fleet):
    """A Redis Cluster on the loopback interface.

    Args:
        primaries: How many; the slots are dealt out evenly, in order.
        replicas: How many for each primary.
        kind: Which server, as for `RedisServer`.
        node_timeout: Seconds after which a silent node counts as failing.
        arguments: More options of every server.

    Attributes:
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
    ) -> None:
        super().__init__()
        self._primaries = primaries
        self._buses: list[int] = []
        for _ in range(primaries * (1 + replicas)):
            port, bus = _fixed_port(self._ports), _fixed_port(self._ports)
            options = ["--cluster-enabled", "yes", "--cluster-port", str(bus), *arguments]
            options += ["--cluster-node-timeout", str(round(node_timeout * 1000))]
            # An election waits for fresh replication, and a primary without a replica must not stop the others.
            options += ["--cluster-replica-validity-factor", "0", "--cluster-require-full-coverage", "no"]
            options += ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
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
        return _text(server.command("CLUSTER", "MYID"))

    def role(self, server: RedisServer) -> str:
        """What a server says it is: master or slave."""
        reply = server.command("ROLE")
        assert isinstance(reply, list)
        return _text(reply[0])

    def primary_of(self, replica: RedisServer) -> RedisServer | None:
        """The server that a replica follows."""
        reply = replica.command("ROLE")
        assert isinstance(reply, list)
        return next((server for server in self.servers if server.port == reply[2]), None)

    def wait_until_well(self) -> None:
        """Block until every running server finds the cluster in order, all links up and all replicas in step."""
        running = [server for server in self.servers if server.pid is not None]
        wait_until(lambda: all(self._is_well(server) for server in running), "the cluster is well")

    def _is_well(self, server: RedisServer) -> bool:
        if b"cluster_state:ok" not in _bytes(server.command("CLUSTER", "INFO")):
            return False
        alive = {str(other.port) for other in self.servers if other.pid is not None}
        for line in self.nodes(server):
            if line[1].partition("@")[0].rpartition(":")[2] in alive and ("fail" in line[2] or line[7] != "connected"):
                return False
        role = server.command("ROLE")
        return isinstance(role, list) and (_text(role[0]) == "master" or role[3] == b"connected")

    def owner(self, slot: int) -> RedisServer:
        """The running primary that owns a slot, as the majority of the running servers says.

        Raises:
            BackplaneUnavailableError: No two of three agree on a running one.
        """
        running = {s.port: s for s in self.servers if s.pid is not None and not s.paused}
        votes: dict[int, int] = {}
        for server in running.values():
            for line in self.nodes(server):
                port = int(line[1].partition("@")[0].rpartition(":")[2])
                if "master" in line[2] and "fail" not in line[2] and _has(line[8:], slot):
                    votes[port] = votes.get(port, 0) + 1
        port = max(votes, key=lambda port: votes[port], default=0)
        if port not in running or votes[port] * 2 <= len(running):
            raise BackplaneUnavailableError(f"Nobody owns slot {slot}.")
        return running[port]

    def move_slot(self, slot: int, to: RedisServer) -> None:
        """Hand an empty slot to another primary, as a resharding does."""
        source, target = self.owner(slot), self.node_id(to)
        to.command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        to.command("CLUSTER", "SETSLOT", slot, "NODE", target)
        source.command("CLUSTER", "SETSLOT", slot, "NODE", target)
        for server in self.servers:
            if server not in {to, source} and server.pid is not None and self.role(server) == "master":
                server.command("CLUSTER", "SETSLOT", slot, "NODE", target)

    def fail_over(self, replica: RedisServer) -> None:
        """Let a replica take its primary's place in agreement with it, and wait until it has."""
        for attempt in range(_FAILOVERS):
            replica.command("CLUSTER", "FAILOVER")
            try:
                wait_until(lambda: self.role(replica) == "master", "the replica is a primary", _FAILOVER_SECONDS)
            except TimeoutError:
                # Nobody votes twice in a short time, and after five seconds a server gives up.
                if attempt == _FAILOVERS - 1:
                    raise
            else:
                return

    def resume(self) -> None:
        """Start every server that does not run, and wait until the cluster is well."""
        self.start()
        self.wait_until_well()


class SentinelServer(RedisServer):
    """One Sentinel.

    Args:
        kind: Which server, as for `RedisServer`.
        port: Its TCP port.
        configuration: Lines of its configuration file.
        password: Its own password.
    """

    _ready = "Sentinel ID is"

    def __init__(
        self, *, kind: RedisServerKind = "any", port: int, configuration: Sequence[str], password: str | None = None
    ) -> None:
        super().__init__(kind=kind, port=port, password=password)
        self._lines = configuration

    def _command_line(self) -> list[str]:
        assert self._folder is not None
        path = self._folder / "sentinel.conf"
        if not path.exists():
            lines = [f"port {self.port}", f"bind {self.host}", f'dir "{self._folder}"', *self._lines]
            lines += [f"requirepass {self._password}"] if self._password else []
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return [str(self.program), str(path), "--sentinel"]


class RedisSentinels(_Fleet):
    """A primary, its replicas, and Sentinels that watch them.

    Args:
        replicas: How many.
        sentinels: How many; more than half of them must agree.
        kind: Which server, as for `RedisServer`.
        name: What the Sentinels call the primary.
        down_after: Seconds after which a silent server counts as down.
        password: Password of the servers.
        sentinel_password: Password of the Sentinels.

    Attributes:
        servers: First the one that was the primary at the start, then its replicas.
        sentinels: The Sentinels.

    Raises:
        ConfigurationError: No such server on this machine.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        kind: RedisServerKind = "any",
        name: str = "mymaster",
        down_after: float = 0.5,
        password: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self._secrets = (password, sentinel_password)
        options = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        options += ["--masterauth", password] if password else []
        self.servers = [
            RedisServer(kind=kind, port=_fixed_port(self._ports), password=password, arguments=options)
            for _ in range(1 + replicas)
        ]
        first = self.servers[0]
        lines = [
            f"sentinel monitor {name} {first.host} {first.port} {sentinels // 2 + 1}",
            f"sentinel down-after-milliseconds {name} {round(down_after * 1000)}",
            f"sentinel failover-timeout {name} 3000",
        ]
        lines += [f"sentinel auth-pass {name} {password}"] if password else []
        lines += [f"sentinel sentinel-pass {sentinel_password}"] if sentinel_password else []
        self.sentinels = [
            SentinelServer(kind=kind, port=_fixed_port(self._ports), configuration=lines, password=sentinel_password)
            for _ in range(sentinels)
        ]

    def _all(self) -> Sequence[RedisServer]:
        return [*self.servers, *self.sentinels]

    @property
    def configuration(self) -> str:
        """A StackExchange.Redis configuration string: the Sentinels and the primary's name."""
        password, sentinel_password = self._secrets
        text = ",".join(f"{server.host}:{server.port}" for server in self.sentinels) + f",serviceName={self.name}"
        text += f",password={password}" if password else ""
        return text + (f",sentinelPassword={sentinel_password}" if sentinel_password else "")

    @property
    def url(self) -> str:
        """The same as a ``redis+sentinel://`` URL, for servers without passwords."""
        return "redis+sentinel://" + ",".join(f"{s.host}:{s.port}" for s in self.sentinels) + f"/{self.name}"

    def _begin(self) -> None:
        for server in self.servers:
            self._stack.enter_context(server)
        for server in self.servers[1:]:
            server.command("REPLICAOF", self.servers[0].host, self.servers[0].port)
        for sentinel in self.sentinels:
            self._stack.enter_context(sentinel)
        self.wait_until_well()

    def primary(self) -> RedisServer:
        """The running primary, as most of the running Sentinels say and as the server itself says; no frozen one.

        Raises:
            BackplaneUnavailableError: They do not agree on a running one.
        """
        running = [sentinel for sentinel in self.sentinels if sentinel.pid is not None]
        said = [sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name) for sentinel in running]
        for server in self.servers:
            agreeing = sum(isinstance(item, list) and item[1] == str(server.port).encode() for item in said)
            if server.pid is not None and not server.paused and agreeing * 2 > len(running):
                role = server.command("ROLE")
                if isinstance(role, list) and role[0] == b"master":
                    return server
        raise BackplaneUnavailableError("There is no primary.")

    def wait_until_well(self) -> None:
        """Block until all running Sentinels know each other and every running replica, and replicas are in step."""
        wait_until(self._is_well, "the Sentinels are well")

    def _is_well(self) -> bool:
        primary = self.primary()
        running = [sentinel for sentinel in self.sentinels if sentinel.pid is not None]
        replicas = [server for server in self.servers if server.pid is not None and server is not primary]
        for sentinel in running:
            facts = _pairs(sentinel.command("SENTINEL", "MASTER", self.name))
            if int(facts["num-other-sentinels"]) < len(running) - 1 or facts["flags"] != "master":
                return False
            known = sentinel.command("SENTINEL", "REPLICAS", self.name)
            assert isinstance(known, list)
            well = {_pairs(item)["port"] for item in known if _pairs(item)["flags"] == "slave"}
            if not {str(server.port) for server in replicas} <= well:
                return False
        roles = [server.command("ROLE") for server in replicas]
        return all(isinstance(role, list) and role[0] == b"slave" and role[3] == b"connected" for role in roles)

    def fail_over(self) -> None:
        """Force a failover; it is under way when this returns."""
        self.sentinels[0].command("SENTINEL", "FAILOVER", self.name)

    def resume(self) -> None:
        """Start every server that does not run, and wait until all is well."""
        self.start()
        self.wait_until_well()


def _text(value: RespValue) -> str:
    return _bytes(value).decode()


def _bytes(value: RespValue) -> bytes:
    assert isinstance(value, bytes)
    return value


def _pairs(value: RespValue) -> dict[str, str]:
    assert isinstance(value, list)
    words = [_text(word) for word in value]
    return dict(zip(words[::2], words[1::2], strict=True))


def _has(ranges: Sequence[str], slot: int) -> bool:
    for text in ranges:
        if not text.startswith("["):
            first, _, last = text.partition("-")
            if int(first) <= slot <= int(last or first):
                return True
    return False
