"""Slots: which one a name has, and what CLUSTER NODES says."""

from __future__ import annotations

import pytest

from hubplane.backplane.redis.options import Endpoint
from hubplane.backplane.redis.slots import SLOTS, ClusterView, read_view, slot_of

ASKED = Endpoint("10.0.0.1", 7000)
NODES = """\
aa :7000@17000 myself,master - 0 0 1 connected 0-5460
bb 10.0.0.2:7000@17000,two.example master - 0 1 2 connected 5461-10000 10001 [10001->-aa]
cc 10.0.0.3:7000@17000,,shard-id=1 master,fail - 0 1 7 disconnected 10002-16383
dd 10.0.0.4:7000@17000 slave bb 0 1 2 connected
ee 2001:db8::5:7000@17000,five.example,shard-id=1 slave cc 0 1 7 disconnected
ff :0@0 slave,fail,noaddr aa 0 1 1 disconnected
gg 10.0.0.7:7000@17000 handshake - 0 0 0 connected
hh 10.0.0.8:7000@17000 master - 0 0 0 connected
"""


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        (b"", 0),
        (b"foo", 12182),
        (b"{foo}bar", 12182),
        (b"x{foo}{bar}", 12182),
        (b"foo{}{bar}", slot_of(b"foo{}{bar}")),
        (b"123456789", 0x31C3),
    ],
)
def test_slot_of_a_name(name: bytes, slot: int) -> None:
    """The slot is CRC16 of the name, or of what stands in its first pair of braces if that is not empty."""
    assert slot_of(name) == slot


def test_empty_braces_are_no_tag() -> None:
    """Empty braces, or ones that do not close, leave the whole name to be counted."""
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"a{b") != slot_of(b"b")


def test_view_of_a_cluster() -> None:
    """Who is a primary, who owns what, who is doubted; nodes without an address are left out."""
    view = read_view(NODES, ASKED, tls=False)
    assert [str(node.endpoint) for node in view.primaries] == ["10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"]
    assert [(node.failed, node.doubted) for node in view.primaries] == [(False, False), (False, False), (True, True)]
    assert [str(endpoint) for endpoint in view.replicas] == ["10.0.0.4:7000", "[2001:db8::5]:7000"]
    assert [str(endpoint) for endpoint in view.others] == ["10.0.0.4:7000", "[2001:db8::5]:7000", "10.0.0.8:7000"]
    owners = view.owners()
    assert [str(owners[slot]) for slot in (0, 5460, 5461, 10001, 10002, SLOTS - 1)] == [
        *["10.0.0.1:7000"] * 2,
        *["10.0.0.2:7000"] * 2,
        *["10.0.0.3:7000"] * 2,
    ]
    assert view.rank[:2] == (2, 7)


def test_servers_of_one_shard() -> None:
    """A primary and its replica are related, two primaries are not, and neither is a server that nobody knows."""
    view = read_view(NODES, ASKED, tls=False)
    one, two, three = (node.endpoint for node in view.primaries)
    replica = Endpoint("10.0.0.4", 7000)
    assert view.related(two, replica)
    assert view.related(replica, two)
    assert not view.related(one, replica)
    assert not view.related(one, three)
    assert not view.related(two, Endpoint("10.0.0.9", 7000))


def test_host_names_count_with_tls() -> None:
    """With TLS a node's host name is used, which its certificate carries; without one its address."""
    view = read_view(NODES, ASKED, tls=True)
    assert [node.endpoint.host for node in view.primaries] == ["10.0.0.1", "two.example", "10.0.0.3"]
    assert [endpoint.host for endpoint in view.replicas] == ["10.0.0.4", "five.example"]


def test_rank_prefers_who_sees_more() -> None:
    """A node that is cut off sees fewer primaries alive than the others, and is not believed, whatever its epoch."""
    alone = NODES.replace("bb 10.0.0.2:7000@17000,two.example master", "bb 10.0.0.2:7000@17000 master,fail?")
    assert read_view(alone, ASKED, tls=False).rank < read_view(NODES, ASKED, tls=False).rank


def test_newer_claim_to_a_slot_counts() -> None:
    """Of two views that differ in one slot's owner the one counts whose owner has the newer epoch."""
    before = NODES.replace("0-5460", "0-5461").replace("5461-10000", "5462-10000")
    assert before != NODES
    assert read_view(before, ASKED, tls=False).rank < read_view(NODES, ASKED, tls=False).rank


def test_single_server_owns_everything() -> None:
    """A server that is no Cluster is taken for the owner of all slots."""
    assert set(ClusterView.single(ASKED).owners()) == {ASKED}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aa 10.0.0.1:7000@17000 master",
        NODES.replace("0-5460", "0-99999"),
        "what\n",
        NODES.replace("2 con", "x con"),
    ],
)
def test_nonsense_is_refused(text: str) -> None:
    """What is no answer to CLUSTER NODES is an error, not half a picture."""
    with pytest.raises(ValueError, match=r".+"):
        read_view(text, ASKED, tls=False)
