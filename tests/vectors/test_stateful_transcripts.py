"""The recorded conversations with stateful reconnect, held again with our server: every byte it sends is the same."""

from __future__ import annotations

import json
from typing import Any  # recorded entries

import pytest
from tests.unit.transports.stateful_node import Node, Socket, node
from tests.vectors.conftest import DATA

ENTRIES = [
    pytest.param(entry, id=f"{entry['protocol']}-{entry['name']}")
    for entry in json.loads((DATA / "stateful.json").read_text(encoding="utf-8"))["entries"]
]
ACKNOWLEDGEMENTS = (b'{"type":8,', b"\x03\x92\x08")


async def held(running: Node, socket: Socket, frames: list[list[Any]]) -> None:
    """One socket's part of a conversation."""
    seen = 0
    for who, *frame in frames:
        if who == "cut":
            socket.cut()
        elif frame[0] == "close":
            if who == "C":
                socket.close()
        elif who == "C":
            socket.raw(bytes.fromhex(frame[1]))
        else:
            expected = bytes.fromhex(frame[1])
            if expected.startswith(ACKNOWLEDGEMENTS):
                await running.seconds(1)
            assert socket.transport.sent[seen:].startswith(expected)
            seen += len(expected)
            assert socket.transport.binary is (frame[0] == "binary")
        await running.settle()
    assert socket.transport.sent[seen:] == b"", "more was sent than recorded"


@pytest.mark.row("B141", "B142", "B144", "B145", "B146", "B147", "B148", "B151")
@pytest.mark.parametrize("entry", ENTRIES)
async def test_conversation(entry: dict[str, Any]) -> None:
    """What the original sent on each socket of a connection, and whether it took the socket, is what we do."""
    async with node() as running:
        token = running.negotiate()
        sockets: list[Socket] = []
        for recorded in entry["sockets"]:
            socket = await running.open(token)
            assert (socket.rejected or 101) == recorded["status"]
            if socket.rejected is None:
                sockets.append(socket)
                await held(running, socket, recorded["frames"])
        for socket, recorded in zip(sockets, entry["sockets"], strict=False):
            said = [frame[2] for frame in recorded["frames"] if frame[:2] == ["S", "close"]]
            answered = ["C", "close"] in [frame[:2] for frame in recorded["frames"]]  # then the edge does it
            if not answered:
                closed = socket.transport.closed
                assert said == ([] if closed is None else [closed.value])


def test_there_is_something_to_hold() -> None:
    """The recordings have such conversations in both protocols."""
    assert len(ENTRIES) > 10
