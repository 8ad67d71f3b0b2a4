"""What the answers of a server mean: the thresholds of `hubplane check`."""

from __future__ import annotations

import json

import pytest

from hubplane.backplane.redis.probe import LoopPath, LoopResult, Refusal
from hubplane.cli.findings import Finding, Report
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
from hubplane.lifetime.census import HubCensus

NO = Refusal("NOPERM this user has no permissions to run the 'x' command")
MIB = 1_048_576


@pytest.mark.parametrize(
    ("info", "verdict", "text"),
    [
        ({"redis_version": "7.0.15"}, "ok", "Redis 7.0.15."),
        ({"redis_version": "6.2.0"}, "ok", "Redis 6.2.0."),
        ({"redis_version": "6.0.16"}, "warning", "Redis 6.0.16 is old."),
        ({"redis_version": "7.2.4", "valkey_version": "9.0.1"}, "ok", "Valkey 9.0.1."),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.0"}, "warning", "Valkey 7.0.0 is old."),
        ({}, "ok", "Redis of an unknown version."),
        (NO, "unknown", f"INFO is refused ({NO.text}), so the version is unknown."),
    ],
)
def test_server(info: dict[str, str] | Refusal, verdict: str, text: str) -> None:
    """Redis before 6.2 and Valkey before 7.2 are too old to be supported."""
    finding = judge_server(info)
    assert (finding.verdict, finding.text) == (verdict, text)


@pytest.mark.parametrize(
    ("milliseconds", "verdict", "text"),
    [
        (0.49, "ok", "the same machine"),
        (0.51, "ok", "the same data centre"),
        (4.9, "ok", "the same data centre"),
        (5.1, "warning", "probably not the same data centre"),
        (19.9, "warning", "probably not the same data centre"),
        (20.1, "warning", "probably another region"),
    ],
)
def test_distance(milliseconds: float, verdict: str, text: str) -> None:
    """The median of the round trips tells how far Redis is; one slow one does not count."""
    finding = judge_round_trips([milliseconds / 1000] * 4 + [9.0])
    assert finding.verdict == verdict
    assert text in finding.text
    assert finding.data["worst"] == 9.0


def test_distance_without_any_command() -> None:
    """Where not even a harmless command is allowed the distance is unknown."""
    assert judge_round_trips(NO).verdict == "unknown"


@pytest.mark.parametrize(
    ("setting", "verdict"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "ok"),
        (f"pubsub {8 * MIB} 0 0", "ok"),
        (f"pubsub {8 * MIB - 1} 0 0", "warning"),
        (f"pubsub 0 {MIB} 60", "warning"),
        ("pubsub 0 0 0", "note"),
        ("normal 0 0 0", "unknown"),
        ("", "unknown"),
    ],
)
def test_buffers(setting: str, verdict: str) -> None:
    """Less than 8 MiB for a subscriber is a warning, no limit at all a note."""
    assert judge_buffers({"client-output-buffer-limit": setting}, 2, 0).verdict == verdict


def test_buffers_of_all_nodes_against_the_memory() -> None:
    """When all nodes' buffers together exceed maxmemory that is said."""
    finding = judge_buffers({"client-output-buffer-limit": f"pubsub {32 * MIB} 0 0"}, 4, 100 * MIB)
    assert finding.verdict == "note"
    assert "The 4 processes seen may need more than maxmemory (100 MiB) together." in finding.text
    assert judge_buffers(NO, 4, 0).verdict == "unknown"


def test_clients() -> None:
    """Four fifths of the connections in use is a warning; clients that were cut are told."""
    limit = {"maxclients": "1000"}
    assert judge_clients({"connected_clients": "799"}, limit).verdict == "ok"
    assert judge_clients({"connected_clients": "800"}, limit).verdict == "warning"
    assert "so 100 more fit" in judge_clients({"connected_clients": "800"}, limit).text
    cut = judge_clients({"connected_clients": "1", "client_output_buffer_limit_disconnections": "3"}, limit)
    assert cut.verdict == "note"
    assert "has cut 3 connections" in cut.text
    assert judge_clients(NO, limit).verdict == judge_clients({"connected_clients": "1"}, NO).verdict == "unknown"


def test_memory() -> None:
    """Nine tenths of maxmemory is a warning, and so is a limit on what clients may hold."""
    assert judge_memory({"used_memory": "90", "maxmemory": "100"}, {}).verdict == "ok"
    assert judge_memory({"used_memory": "91", "maxmemory": "100"}, NO).verdict == "warning"
    assert judge_memory({"used_memory": "91"}, {}).verdict == "ok"
    assert judge_memory({"used_memory": "1"}, {"maxmemory-clients": "5%"}).verdict == "warning"
    assert judge_memory(NO, {}).verdict == judge_memory({}, {}).verdict == "unknown"


@pytest.mark.parametrize(
    ("skew", "verdict"),
    [(0.9, "ok"), (-0.9, "ok"), (1.0, "note"), (-29.0, "note"), (30.0, "warning"), (-31.0, "warning")],
)
def test_clock(skew: float, verdict: str) -> None:
    """A second of difference is worth a note, half a minute a warning; either may be ahead."""
    finding = judge_clock(skew)
    assert finding.verdict == verdict
    assert verdict == "ok" or ("ahead of" in finding.text) is (skew > 0)
    assert judge_clock(NO).verdict == "unknown"


def census(name: str, hearing_all: int, hearing_groups: int, *acks: str) -> HubCensus:
    """A hub whose nodes all have return channels."""
    return HubCensus(name, hearing_all, hearing_groups, acks, acks)


def test_census() -> None:
    """Nodes are counted under the hub's own name, deaf ones are a warning, none at all is fine."""
    assert judge_census([], "P").pop().text == "No node is connected with this prefix."
    seen, deaf = judge_census([census("PHub", 3, 1, "web_1"), census("POther", 1, 1, "web_2")], "P")
    assert seen.text == "With this prefix: Hub (3 nodes), Other (1 node)."
    assert (deaf.verdict, deaf.data) == ("warning", {"hub": "Hub", "deaf": 2, "whole": ["web_1"]})
    assert judge_census([census("PHub", 1, 0)], "P")[1].advice.endswith("None of them is whole.")


def test_many_neighbours_are_not_all_listed() -> None:
    """Five names are shown, the others counted; the data has them all."""
    finding = judge_neighbours([census(f"H{n}", 1, 1) for n in range(8)], "P", None, NO)[0]
    assert "H0, H1, H2, H3, H4 and 3 more" in finding.text
    assert finding.data["server"] == [f"H{n}" for n in range(8)]
    assert judge_neighbours([], "P", ["Hub"], 3)[0].text.startswith("3 pattern subscriptions")


PATH = LoopPath("group commands", "H:internal:groups", b"x")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (LoopResult(PATH, NO), "SUBSCRIBE was refused: NOPERM"),
        (LoopResult(PATH, True, NO), "PUBLISH was refused: NOPERM"),
        (LoopResult(PATH, True, 0), "Redis counted 0 receivers and delivered nothing"),
    ],
)
def test_broken_loop(result: LoopResult, text: str) -> None:
    """Each way in which a message may not come back has its words, once for all channels it happened to."""
    finding = judge_loops([result, result, LoopResult(PATH, True, 1, 0.1)])
    assert finding.verdict == "failed"
    assert finding.text.count(text) == 1
    assert "(group commands, group commands)" in finding.text


def test_refusal_of_a_channel_is_not_one_of_a_command() -> None:
    """A forbidden channel, in Redis' and in Valkey's words, asks for a rule on channels, a command for one on it."""
    for words in (
        "NOPERM this user has no permissions to access one of the channels used as arguments",
        "NOPERM No permissions to access a channel",
    ):
        finding = judge_access([LoopResult(PATH, Refusal(words))], {}, "App", "The user a")[0]
        assert finding.data == {"missing": ["&App*"]}
    words = "NOPERM User a has no permissions to run the 'pubsub|numsub' command"
    assert judge_access([], Refusal(words), "App", "The user a")[0].data == {"missing": ["+pubsub|numsub"]}
    # An error that is no matter of rights is none that a rule could mend.
    assert judge_access([LoopResult(PATH, Refusal("ERR unknown"))], Refusal("ERR"), "", "The user a")[0].verdict == "ok"


def test_report() -> None:
    """The gravest finding decides; notes and what is unknown decide nothing; both forms hold everything."""
    report = Report("Redis at h:1", [Finding("a", "note", "One."), Finding("b", "unknown", "Two.")])
    assert (report.verdict, report.conclusion) == ("ok", "hubplane works on this Redis.")
    report.add(Finding("c", "warning", "Three.", "Do it.", {"n": 1}), Finding("d", "warning", "Four " * 40))
    assert (report.verdict, report.conclusion) == ("warning", "hubplane works on this Redis, with 2 warnings.")
    report.add(Finding("e", "failed", "Five."))
    assert report.verdict == "failed"
    assert "warning  c            Three. Do it.\n" in report.words()
    assert max(map(len, report.words().splitlines())) <= 110
    whole = json.loads(report.json())
    assert whole["findings"][2] == {
        "check": "c", "verdict": "warning", "text": "Three.", "advice": "Do it.", "data": {"n": 1}
    }  # fmt: skip
