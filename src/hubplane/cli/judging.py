"""What the answers of a Redis server mean for a fleet: functions from facts to findings, without I/O.

The thresholds stand here, and docs/how-to/check.md repeats them.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Mapping, Sequence

from hubplane.backplane.redis.probe import LoopResult, Refusal
from hubplane.cli.findings import Finding
from hubplane.lifetime.census import HubCensus

__all__ = [
    "judge_access",
    "judge_buffers",
    "judge_census",
    "judge_clients",
    "judge_clock",
    "judge_loops",
    "judge_memory",
    "judge_neighbours",
    "judge_round_trips",
    "judge_server",
]

# Round trips, in seconds (row S3 of the reference advises 5 ms).
_SAME_MACHINE = 0.0005
_SAME_PLACE = 0.005
_SAME_REGION = 0.020

_OLDEST = {"redis": (6, 2), "valkey": (7, 2)}
_MEGABYTE = 1_048_576
_SMALL_BUFFER = 8 * _MEGABYTE
# HubOptions' largest message, in both hub protocols.
_LARGEST_MESSAGE = 2 * 32_768
_CROWDED = 0.8
_FULL = 0.9
_SKEW_NOTE = 1.0
_SKEW_WARNING = 30.0
# One connection for commands and one for subscriptions.
_PER_PROCESS = 2
_SHOWN = 5

# What a node does, the rule that allows it, and whether it can do without.
_RULES = {"SUBSCRIBE": "+subscribe", "PUBLISH": "+publish", "NUMSUB": "+pubsub|numsub", "UNSUBSCRIBE": "+unsubscribe"}
_SHARD_RULES = {"SUBSCRIBE": "+ssubscribe", "PUBLISH": "+spublish", "NUMSUB": "+pubsub|shardnumsub"}


def judge_server(info: Mapping[str, str] | Refusal) -> Finding:
    """Which server, and whether it is one that hubplane supports."""
    if isinstance(info, Refusal):
        return Finding("server", "unknown", f"INFO is refused ({info.text}), so the version is unknown.")
    name = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    shown = f"{name.capitalize()} {version or 'of an unknown version'}"
    data = {"name": name, "version": version}
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _OLDEST[name]:
        least = ".".join(map(str, _OLDEST[name]))
        return Finding(
            "server",
            "warning",
            f"{shown} is old.",
            f"hubplane is tested with {name.capitalize()} {least} and newer.",
            data,
        )
    return Finding("server", "ok", f"{shown}.", data=data)


def judge_access(
    results: Sequence[LoopResult], counted: object, prefix: str, user: str, *, sharded: bool = False
) -> list[Finding]:
    """Whether the user may do what a node does; names each rule that is missing."""
    rules_for = _SHARD_RULES if sharded else _RULES
    missing: dict[str, str] = {}
    for result in results:
        for command, answer in (("SUBSCRIBE", result.subscribed), ("PUBLISH", result.receivers)):
            if isinstance(answer, Refusal) and answer.by_rights:
                rule = f"&{prefix}*" if answer.of_channel else rules_for[command]
                missing.setdefault(rule, answer.text)
    if isinstance(counted, Refusal) and counted.by_rights:
        missing[rules_for["NUMSUB"]] = counted.text
    if not missing:
        return [Finding("access", "ok", f"{user} may subscribe, publish and count subscribers.")]
    rules = " ".join(missing)
    return [
        Finding(
            "access",
            "failed",
            f"{user} lacks rights. Redis says: {'; '.join(dict.fromkeys(missing.values()))}.",
            f"Add the rule{'s' if len(missing) > 1 else ''}: {rules}",
            {"missing": list(missing)},
        )
    ]


def judge_loops(results: Sequence[LoopResult]) -> Finding:
    """Whether messages came back, on each kind of channel."""
    broken = [result for result in results if not result.works]
    data = {
        "paths": [
            {
                "kind": result.path.kind,
                "works": result.works,
                "seconds": result.seconds,
                "sent": result.path.payload is not None,
            }
            for result in results
        ]
    }
    if broken:
        causes: dict[str, list[str]] = {}
        for result in broken:
            causes.setdefault(_why(result), []).append(result.path.kind)
        told = "; ".join(f"{cause} ({_some(kinds, 7)})" for cause, kinds in causes.items())
        return Finding("loop-back", "failed", f"Messages do not come back: {told}.", data=data)
    slowest = max((result.seconds for result in results if result.seconds is not None), default=0.0)
    tried = sum(result.path.payload is not None for result in results)
    text = f"A message on each of {tried} channels came back, the slowest after {_milliseconds(slowest)}."
    if quiet := [result.path.kind for result in results if result.path.payload is None]:
        text += f" Only subscribed, because the fleet hears them: {_some(quiet)}."
    return Finding("loop-back", "ok", text, data=data)


def _why(result: LoopResult) -> str:
    if isinstance(result.subscribed, Refusal):
        return f"SUBSCRIBE was refused: {result.subscribed.text}"
    if isinstance(result.receivers, Refusal):
        return f"PUBLISH was refused: {result.receivers.text}"
    return f"Redis counted {result.receivers} receivers and delivered nothing"


def judge_round_trips(taken: Sequence[float] | Refusal) -> Finding:
    """How far away Redis is."""
    if isinstance(taken, Refusal):
        return Finding("distance", "unknown", f"No harmless command is allowed ({taken.text}).")
    middle, worst = statistics.median(taken), max(taken)
    data = {"median": middle, "worst": worst, "count": len(taken)}
    text = f"A round trip takes {_milliseconds(middle)} (median of {len(taken)}; the slowest {_milliseconds(worst)})"
    cost = "Each message to more than one connection waits for one, and so does each first join of a group."
    if middle < _SAME_MACHINE:
        return Finding("distance", "ok", f"{text}: the same machine, or the next one.", data=data)
    if middle < _SAME_PLACE:
        return Finding("distance", "ok", f"{text}: the same data centre.", data=data)
    where = "not the same data centre" if middle < _SAME_REGION else "another region"
    return Finding("distance", "warning", f"{text}: probably {where}. {cost}", "Put Redis beside the nodes.", data)


def judge_buffers(settings: Mapping[str, str] | Refusal, nodes: int, maxmemory: int) -> Finding:
    """How far a node may fall behind before Redis cuts it."""
    if isinstance(settings, Refusal):
        return Finding(
            "buffers",
            "unknown",
            f"CONFIG is refused ({settings.text}), as on most managed servers.",
            "Redis' own default lets a subscriber fall 32 MiB behind, or 8 MiB for 60 s.",
        )
    words = settings.get("client-output-buffer-limit", "").split()
    at = words.index("pubsub") if "pubsub" in words else -1
    if at < 0 or len(words) < at + 4:
        return Finding("buffers", "unknown", "Redis does not tell its client-output-buffer-limit for pubsub.")
    hard, soft, seconds = (int(word) for word in words[at + 1 : at + 4])
    data = {"hard": hard, "soft": soft, "seconds": seconds, "nodes": nodes}
    if not hard and not soft:
        return Finding(
            "buffers",
            "note",
            "Subscribers may fall behind without a limit: one that hangs fills Redis' memory.",
            "Redis' default is: client-output-buffer-limit pubsub 32mb 8mb 60",
            data,
        )
    limits = [f"{_size(hard)}"] if hard else []
    limits += [f"{_size(soft)} for {seconds} s"] if soft else []
    messages = (hard or soft) // _LARGEST_MESSAGE
    text = (
        f"Redis cuts a process that falls {' or '.join(limits)} behind: about {messages} messages of 32 KiB in both "
        "hub protocols. What it misses then is lost."
    )
    if (hard or soft) < _SMALL_BUFFER:
        return Finding(
            "buffers",
            "warning",
            text,
            "Raise it, for example: CONFIG SET client-output-buffer-limit 'pubsub 33554432 8388608 60'",
            data,
        )
    if maxmemory and nodes * hard > maxmemory:
        text += f" The {nodes} processes seen may need more than maxmemory ({_size(maxmemory)}) together."
        return Finding("buffers", "note", text, data=data)
    return Finding("buffers", "ok", text, data=data)


def judge_clients(info: Mapping[str, str] | Refusal, settings: Mapping[str, str] | Refusal) -> Finding:
    """Whether there is room for more connections."""
    limit = "" if isinstance(settings, Refusal) else settings.get("maxclients", "")
    if isinstance(info, Refusal) or not (info.get("maxclients") or limit).isdecimal():
        return Finding("clients", "unknown", "Redis does not tell how many connections it takes.")
    most, now = int(info.get("maxclients") or limit), int(info.get("connected_clients", "0"))
    room = max(0, most - now) // _PER_PROCESS
    data: dict[str, object] = {"connected": now, "maxclients": most}
    text = f"{now} of {most} connections are in use; each process needs {_PER_PROCESS}, so {room} more fit."
    cut = int(info.get("client_output_buffer_limit_disconnections", "0"))
    if cut:
        data["cut"] = cut
        text += f" Since its start Redis has cut {cut} connections that did not read fast enough."
    if now >= most * _CROWDED:
        return Finding("clients", "warning", text, "Raise maxclients.", data)
    return Finding("clients", "note" if cut else "ok", text, data=data)


def judge_memory(info: Mapping[str, str] | Refusal, settings: Mapping[str, str] | Refusal) -> Finding:
    """Whether output buffers find memory; the backplane itself keeps nothing."""
    if isinstance(info, Refusal) or "used_memory" not in info:
        return Finding("memory", "unknown", "Redis does not tell its memory.")
    used, most = int(info["used_memory"]), int(info.get("maxmemory", "0"))
    data: dict[str, object] = {"used": used, "maxmemory": most}
    evicts = "0" if isinstance(settings, Refusal) else settings.get("maxmemory-clients", "0")
    text = f"{_size(used)} in use" + (f" of {_size(most)}." if most else ", without a limit.")
    text += " The backplane keeps no keys; only what waits for slow subscribers counts."
    if evicts not in {"", "0"}:
        data["maxmemory-clients"] = evicts
        text += (
            f" maxmemory-clients is {evicts}: above it Redis drops the connections that wait for most, which are the "
            "subscribers of busy nodes."
        )
        return Finding("memory", "warning", text, "Exempt them, or set it to 0.", data)
    if most and used > most * _FULL:
        return Finding("memory", "warning", text, "Give Redis more memory.", data)
    return Finding("memory", "ok", text, data=data)


def judge_clock(skew: float | Refusal) -> Finding:
    """Whether the clocks agree."""
    if isinstance(skew, Refusal):
        return Finding("clock", "unknown", f"TIME is refused ({skew.text}).")
    data = {"ahead": skew}
    if abs(skew) < _SKEW_NOTE:
        return Finding("clock", "ok", "Redis and this machine agree on the time to less than a second.", data=data)
    text = f"Redis' clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's."
    advice = "Messages do not depend on it; logs of several machines and the expiry of logins do."
    return Finding("clock", "warning" if abs(skew) >= _SKEW_WARNING else "note", text, advice, data)


def judge_census(hubs: Sequence[HubCensus], prefix: str) -> list[Finding]:
    """Which nodes there are, and whether they are whole."""
    if not hubs:
        return [Finding("nodes", "ok", "No node is connected with this prefix.", data={"hubs": []})]
    findings: list[Finding] = []
    told = [f"{hub.name.removeprefix(prefix)} ({hub.nodes} node{'s' * (hub.nodes != 1)})" for hub in hubs]
    data = {
        "hubs": [
            {"name": h.name.removeprefix(prefix), "nodes": h.nodes, "deaf": h.deaf, "names": list(h.acks)} for h in hubs
        ]
    }
    findings.append(Finding("nodes", "ok", f"With this prefix: {_some(told)}.", data=data))
    for hub in hubs:
        name = hub.name.removeprefix(prefix)
        if hub.deaf:
            findings.append(
                Finding(
                    "deaf nodes",
                    "warning",
                    f"{hub.deaf} of {hub.nodes} nodes of {name} hear nothing that is sent to all, though Redis counts "
                    "them: they are subscribed to messages to all and not to group commands. ASP.NET Core nodes that "
                    "start while Redis is away end like this; sends succeed, and their clients get nothing.",
                    "Restart them, and give them abortConnect=true. " + _heard_from(hub),
                    {"hub": name, "deaf": hub.deaf, "whole": list(hub.acks)},
                )
            )
        if hub.without_results:
            findings.append(
                Finding(
                    "nodes",
                    "note",
                    f"{hub.without_results} nodes of {name} have no channel for client results: ASP.NET Core before 7.",
                    data={"hub": name},
                )
            )
    return findings


def _heard_from(hub: HubCensus) -> str:
    return f"Whole are: {_some(hub.acks)}." if hub.acks else "None of them is whole."


def judge_neighbours(
    hubs: Sequence[HubCensus], prefix: str, own: Collection[str] | None, patterns: int | Refusal
) -> list[Finding]:
    """Who else uses this Redis.

    Args:
        hubs: All of the server.
        prefix: Of the fleet that is checked.
        own: Full names of its hubs; None when they are not known.
        patterns: Pattern subscriptions on the server.
    """
    findings: list[Finding] = []
    inside = [hub.name.removeprefix(prefix) for hub in hubs if hub.name.startswith(prefix)]
    outside = [hub.name for hub in hubs if not hub.name.startswith(prefix)]
    foreign = [] if own is None else [name for name in inside if name not in own]
    data = {"prefix": foreign, "server": outside}
    if foreign and not prefix:
        findings.append(
            Finding(
                "neighbours",
                "note",
                f"No channel prefix is set, and there are hubs of other applications: {_some(foreign)}. A hub of the "
                "same full name would hear yours.",
                "Give each application a channelPrefix of its own.",
                data,
            )
        )
    elif foreign:
        findings.append(
            Finding(
                "neighbours",
                "warning",
                f"There are hubs with this prefix that are none of this application: {_some(foreign)}.",
                "If they belong to another application, give it another prefix; one must not begin with the other.",
                data,
            )
        )
    if outside:
        text = (
            f"This Redis also carries {len(outside)} hubs with other prefixes: {_some(outside)}. They share its load."
        )
        findings.append(Finding("neighbours", "note", text, data=data))
    if isinstance(patterns, int) and patterns:
        text = f"{patterns} pattern subscriptions are on this Redis; each is matched against every message."
        findings.append(Finding("neighbours", "note", text, data={"patterns": patterns}))
    return findings or [Finding("neighbours", "ok", "Nobody else's hubs are on this Redis.", data=data)]


def _some(names: Sequence[str], most: int = _SHOWN) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _size(count: int) -> str:
    return f"{count / _MEGABYTE:.0f} MiB" if count >= _MEGABYTE else f"{count / 1024:.0f} KiB"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
