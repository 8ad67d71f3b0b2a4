"""The course of `hubplane check`: reach a server, ask it everything, judge the answers."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace

from hubplane.backplane.redis.diagnosis import Listener, who_listens
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.probe import LoopPath, LoopResult, Probe, Refusal
from hubplane.backplane.redis.sentinel import sentinel_login
from hubplane.backplane.redis.slots import ClusterView, read_view, slot_of
from hubplane.cli.findings import Finding, Report, Verdict
from hubplane.cli.judging import (
    judge_access,
    judge_buffers,
    judge_census,
    judge_clients,
    judge_clock,
    judge_loops,
    judge_memory,
    judge_neighbours,
    judge_round_trips,
    judge_server,
)
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.ids import IdSource
from hubplane.lifetime.census import HubCensus, census_patterns, hub_wide_channels, private_channels, take_census

__all__ = ["Examination"]

_ROUND_TRIPS = 20
# A node that starts or ends subscribes one after the other: only what stays is reported.
_LOOKS = 3
_BETWEEN_LOOKS = 1.0
_UNKNOWN_HUB = "Hubplane.Check"
_LARGEST_SEARCH = 1_000_000

# Each begins with what was found there and ends with what to do, so that it stands behind "Cannot connect ...".
_HINTS: dict[Listener, str] = {
    "redis": "A Redis without TLS answers there. Leave out ssl=true, or use its TLS port.",
    "tls": "Something that speaks TLS answers there. Add ssl=true (or write rediss://).",
    "http": "A web server answers there, no Redis. Check host and port.",
    "silent": "It takes connections and says nothing: frozen, overloaded, or something else than Redis.",
    "closing": "It takes connections and closes them at once: it may speak TLS (add ssl=true), or want none of ours.",
    "other": "Something answers there that is no Redis. Check host and port.",
    "unknown": "No name server knows that name.",
    "nobody": "Nobody listens there, or a firewall is between.",
}


class Examination:
    """One look at the Redis of a fleet.

    Args:
        options: As the node's own.
        hubs: Full names of its hubs; None when they are not known.
        clock: Measures and pauses.
        ids: Names the channels that are tried.
        seconds: To wait for each answer.
    """

    def __init__(
        self, options: RedisOptions, hubs: Collection[str] | None, *, clock: Clock, ids: IdSource, seconds: float
    ) -> None:
        self._options = replace(options, connect_timeout=min(options.connect_timeout, seconds))
        self._hubs = hubs
        self._clock = clock
        self._ids = ids
        self._seconds = seconds
        self._view: ClusterView | None = None
        prefix = options.channel_prefix
        where = ", ".join(map(str, options.addresses))
        self._report = Report(f"Redis at {where}, " + (f"channel prefix {prefix!r}" if prefix else "no channel prefix"))

    async def run(self) -> Report:
        """Look at everything; what cannot be asked is said, and the rest is asked all the same."""
        add = self._report.add
        try:
            async with AsyncExitStack() as stack:
                probe = await self._reach(stack)
                if probe is not None:
                    await self._ask(probe, await self._primaries(probe, stack))
        except BackplaneUnavailableError as error:
            advice = "It went away, or froze, while it was asked."
            if str(error).startswith("Cannot connect"):
                # One connection was there; how the server words its refusal is a matter of who hangs up first.
                advice = "One connection was possible and a second one not; a node needs two: see maxclients."
            add(Finding("reachable", "failed", str(error), advice))
        return self._report

    # -- reaching it ---------------------------------------------------------------------------------------------

    async def _reach(self, stack: AsyncExitStack) -> Probe | None:
        """A connection to the server that a node would use: the first that is no replica."""
        options = self._options
        addresses = await self._behind_sentinels() if options.service_name else options.addresses
        found: list[Probe] = []
        for address in addresses:
            try:
                probe = await stack.enter_async_context(self._open(address, options))
            except BackplaneUnavailableError as error:
                verdict: Verdict = "failed" if len(addresses) == 1 else "warning"
                self._report.add(Finding("reachable", verdict, str(error), await self._hint(address, str(error))))
                continue
            role = {"": "", "master": ", a primary"}.get(probe.connection.role, f", a {probe.connection.role}")
            text = f"{address} answers (RESP{probe.connection.resp}{role})."
            self._report.add(Finding("reachable", "ok", text, data={"address": str(address)}))
            found.append(probe)
        if addresses and not found and len(addresses) > 1:
            self._report.add(Finding("reachable", "failed", "None of the addresses can be used."))
        primaries = [probe for probe in found if probe.connection.role in {"", "master"}]
        if found and not primaries and len(addresses) > 1:
            self._report.add(Finding("reachable", "failed", "All of them are replicas.", "Name the primary."))
            return None
        return next(iter(primaries or found), None)

    def _open(self, address: Endpoint, options: RedisOptions) -> AbstractAsyncContextManager[Probe]:
        return Probe.open(address, options, clock=self._clock, seconds=self._seconds)

    async def _hint(self, address: Endpoint, error: str) -> str:
        if "WRONGPASS" in error or "invalid username-password" in error:
            return "User or password is wrong."
        if "NOAUTH" in error:
            return "It wants a password: add password=..."
        if "certificate verify failed" in error.lower():
            return "The certificate is not trusted or is for another name: see sslHost, or give an ssl_context in code."
        if "Redis refused" in error:
            return ""
        listener = await who_listens(address, seconds=min(2.0, self._seconds))
        if listener == "redis" and not self._options.tls:
            return ""
        if listener == "tls" and self._options.tls:
            return "TLS is spoken there; see what the error says about it."
        return _HINTS[listener]

    async def _behind_sentinels(self) -> tuple[Endpoint, ...]:
        """What the Sentinels call the primary."""
        options = self._options
        name = options.service_name or ""
        login = sentinel_login(options)
        told: dict[Endpoint, None] = {}
        for address in options.addresses:
            try:
                async with self._open(address, login) as sentinel:
                    reply = await sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name)
            except BackplaneUnavailableError as error:
                self._report.add(
                    Finding("topology", "warning", f"Sentinel: {error}", await self._hint(address, str(error)))
                )
                continue
            if isinstance(reply, list) and len(reply) == 2:
                primary = Endpoint(reply[0].decode(), int(reply[1]))
                told[primary] = None
                self._report.add(
                    Finding("topology", "ok", f"Sentinel {address} calls {primary} the primary of {name}.")
                )
            else:
                said = reply.text if isinstance(reply, Refusal) else "it knows no such name"
                self._report.add(
                    Finding("topology", "warning", f"Sentinel {address} names no primary of {name}: {said}.")
                )
        if not told:
            self._report.add(Finding("reachable", "failed", f"No Sentinel names a primary of {name}."))
        elif len(told) > 1:
            self._report.add(Finding("topology", "warning", "The Sentinels disagree."))
        return tuple(told)

    async def _primaries(self, probe: Probe, stack: AsyncExitStack) -> list[Probe]:
        """In a Cluster each primary counts its own subscribers only, so all are asked."""
        view = await self._look(probe)
        if view is None or not view.primaries:
            return [probe]
        self._view = view
        probes: list[Probe] = []
        for node in view.primaries:
            if node.endpoint == probe.connection.endpoint:
                probes.append(probe)
                continue
            try:
                probes.append(await stack.enter_async_context(self._open(node.endpoint, self._options)))
            except BackplaneUnavailableError as error:
                self._report.add(Finding("topology", "warning", f"A primary of the Cluster: {error}"))
        return probes or [probe]

    async def _look(self, probe: Probe) -> ClusterView | None:
        """What a node of a Cluster says of the others; None where it is no Cluster, or is not to be taken for one."""
        if self._options.topology == "single" or self._options.service_name:
            return None
        reply = await probe.ask("CLUSTER", "NODES")
        if isinstance(reply, Refusal) and reply.by_rights and probe.connection.mode == "cluster":
            text = f"A node may not ask who is in the Cluster. Redis says: {reply.text}."
            self._report.add(Finding("topology", "failed", text, "Add the rule: +cluster|nodes"))
        try:
            text = reply.decode(errors="replace") if isinstance(reply, bytes) else ""
            return read_view(text, probe.connection.endpoint, tls=self._options.tls) if text else None
        except ValueError as error:
            self._report.add(Finding("topology", "warning", f"The answer to CLUSTER NODES {error}."))
            return None

    # -- asking it -----------------------------------------------------------------------------------------------

    async def _ask(self, probe: Probe, primaries: list[Probe]) -> None:
        add = self._report.add
        info = await probe.info("server", "replication", "clients", "memory", "stats")
        settings = await probe.settings("client-output-buffer-limit", "maxclients", "maxmemory-clients")
        add(judge_server(info))
        add(await self._topology(probe, info, len(primaries)))
        add(self._tls(probe))
        await self._try(primaries)
        add(judge_round_trips(await probe.round_trips(_ROUND_TRIPS)))
        hubs = await self._census(primaries)
        prefix = self._options.channel_prefix
        inside: list[HubCensus] = []
        if isinstance(hubs, Refusal):
            add(Finding("nodes", "unknown", f"PUBSUB CHANNELS is refused ({hubs.text}), so nodes cannot be counted."))
        else:
            inside = [hub for hub in hubs if hub.name.startswith(prefix)]
            add(*judge_census(inside, prefix))
            patterns = await probe.ask("PUBSUB", "NUMPAT")
            add(*judge_neighbours(hubs, prefix, self._hubs, patterns if isinstance(patterns, int) else Refusal("")))
        nodes = len({name.rpartition("_")[0] for hub in inside for name in hub.acks}) if inside else 0
        maxmemory = 0 if isinstance(info, Refusal) else int(info.get("maxmemory", "0"))
        add(judge_buffers(settings, max([nodes, *[hub.nodes for hub in inside]]), maxmemory))
        add(judge_clients(info, settings))
        add(judge_memory(info, settings))
        add(judge_clock(await probe.skew()))

    async def _try(self, primaries: list[Probe]) -> None:
        """Do what a node does; in a Cluster at each primary.

        A plain message goes from each other primary to the first, a shard channel's stays at the owner of its slot.
        """
        probe, others = primaries[0], primaries[1:]
        sharded = self._options.mode == "sharded"
        token = self._ids.connection_id()
        names = list(self._hubs or [_UNKNOWN_HUB])
        paths = [
            LoopPath(f"{kind} of {name}" if self._hubs else kind, channel, payload)
            for name in names
            for kind, channel, payload in private_channels(name, token, real=self._hubs is not None)
        ]
        if sharded:
            paths += [self._path_at(each, f"{paths[1].channel}@") for each in primaries]
        results: list[LoopResult] = []
        for path in paths:
            results += await self._owner(path.channel, primaries).loop_back([path]) if sharded else []
        results = results or await probe.loop_back(paths)
        for other in [] if sharded else others:
            here, there = probe.connection.endpoint, other.connection.endpoint
            across = LoopPath(f"messages from {there} to {here}", f"{paths[1].channel}@{there}", f"{there}".encode())
            results += await other.loop_back([across], at=here)
        counted = await probe.counts([self._options.channel_prefix + paths[0].channel])
        user = await probe.ask("ACL", "WHOAMI")
        told = user.decode() if isinstance(user, bytes) else self._options.user or "default"
        self._report.add(
            *judge_access(results, counted, self._options.channel_prefix, f"The user {told}", sharded=sharded)
        )
        self._report.add(judge_loops(results))

    def _owner(self, channel: str, primaries: list[Probe]) -> Probe:
        """The primary that owns the slot of a shard channel; the first where there are no slots."""
        name = f"{self._options.channel_prefix}{channel}".encode()
        owner = None if self._view is None else self._view.owners()[slot_of(name)]
        return next((probe for probe in primaries if probe.connection.endpoint == owner), primaries[0])

    def _path_at(self, primary: Probe, stem: str) -> LoopPath:
        """A shard channel that belongs to one primary."""
        owners = [] if self._view is None else self._view.owners()
        where, prefix = primary.connection.endpoint, self._options.channel_prefix
        # A primary has slots, and every slot is met soon.
        names = (f"{stem}{number}" for number in range(_LARGEST_SEARCH))
        name = next((n for n in names if owners and owners[slot_of(f"{prefix}{n}".encode())] == where), f"{stem}0")
        return LoopPath(f"messages at {where}", name, str(where).encode())

    async def _topology(self, probe: Probe, info: Mapping[str, str] | Refusal, primaries: int) -> Finding:
        mode = "" if isinstance(info, Refusal) else info.get("redis_mode") or info.get("server_mode", "")
        if not mode:
            reply = await probe.ask("ROLE")
            role = reply[0].decode() if isinstance(reply, list) and reply else probe.connection.role
            if not role:
                return Finding("topology", "unknown", "INFO, ROLE and HELLO do not tell what kind of server it is.")
            mode = "sentinel" if role == "sentinel" else "standalone"
        else:
            role = "" if isinstance(info, Refusal) else info.get("role", "")
        data = {"mode": mode, "role": role}
        if mode == "sentinel":
            text = "This is a Sentinel, not the server that carries messages."
            return Finding(
                "topology", "failed", text, "Add serviceName=NAME, the name of the primary it watches.", data
            )
        if mode == "cluster":
            state = await probe.ask("CLUSTER", "INFO")
            told = state.decode() if isinstance(state, bytes) else ""
            data["primaries"] = str(primaries)
            shown = ""
            if self._view is not None:
                data["nodes"] = ", ".join(str(node.endpoint) for node in self._view.primaries)
                data["replicas"] = ", ".join(map(str, self._view.replicas))
                shown = f" Primaries: {data['nodes'] or 'none'}. Replicas: {data['replicas'] or 'none'}."
            if "cluster_state:ok" in told:
                return Finding("topology", "ok", f"A Cluster of {primaries} primaries, in order.{shown}", data=data)
            text = f"A Cluster that is not in order ({primaries} primaries).{shown}"
            return Finding("topology", "warning", text, data=data)
        if role in {"slave", "replica"}:
            return Finding(
                "topology",
                "warning",
                "This is a replica: what is published here does not reach subscribers of its primary.",
                "Name the primary.",
                data,
            )
        replicas = "" if isinstance(info, Refusal) else info.get("connected_slaves", "")
        return Finding(
            "topology",
            "ok",
            "One primary" + (f" with {replicas} replicas." if replicas not in {"", "0"} else "."),
            data=data,
        )

    def _tls(self, probe: Probe) -> Finding:
        if version := probe.connection.tls:
            return Finding("TLS", "ok", f"Encrypted with {version}.", data={"version": version})
        endpoint = probe.connection.endpoint
        if endpoint.path or _is_here(endpoint.host):
            return Finding("TLS", "ok", "Not encrypted, and it does not leave this machine.")
        if self._options.password is not None:
            return Finding("TLS", "warning", "Password and messages travel unencrypted.", "Use TLS: ssl=true.")
        return Finding("TLS", "note", "Messages travel unencrypted.")

    async def _census(self, probes: list[Probe]) -> list[HubCensus] | Refusal:
        """Hubs and nodes; asked again while a node seems half subscribed."""
        found: list[HubCensus] = []
        for look in range(_LOOKS):
            if look:
                await self._clock.sleep(_BETWEEN_LOOKS)
            names: set[str] = set()
            for probe in probes:
                for pattern in census_patterns(self._options.channel_prefix):
                    listed = await probe.channels(pattern)
                    if isinstance(listed, Refusal):
                        return listed
                    names.update(listed)
            totals: dict[str, int] = {}
            for probe in probes:
                counts = await probe.counts(hub_wide_channels(names))
                if isinstance(counts, Refusal):
                    return counts
                for name, count in counts.items():
                    totals[name] = totals.get(name, 0) + count
            found = take_census(names, totals)
            if not any(hub.deaf for hub in found):
                break
        return found


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
