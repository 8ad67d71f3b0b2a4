"""`RedisSentinels`: a real primary with replicas and Sentinels for tests, with their faults at hand."""

from __future__ import annotations

from collections.abc import Sequence

from hubplane.errors import BackplaneUnavailableError
from hubplane.testing.redis_fleets import RedisFleet, fixed_port, text_of, wait_until
from hubplane.testing.redis_server import RedisServer, RedisServerKind
from hubplane.testing.resp import RespValue

__all__ = ["RedisSentinels", "SentinelServer"]


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


class RedisSentinels(RedisFleet):
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
        down_after: float = 1.0,
        password: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self._secrets = (password, sentinel_password)
        options = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        options += ["--masterauth", password] if password else []
        self.servers = [
            RedisServer(kind=kind, port=fixed_port(self._ports), password=password, arguments=options)
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
            SentinelServer(kind=kind, port=fixed_port(self._ports), configuration=lines, password=sentinel_password)
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


def _pairs(value: RespValue) -> dict[str, str]:
    assert isinstance(value, list)
    words = [text_of(word) for word in value]
    return dict(zip(words[::2], words[1::2], strict=True))
