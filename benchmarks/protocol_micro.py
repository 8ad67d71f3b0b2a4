"""How long one message takes in `hubplane.protocol`, in microseconds: decode, bind, encode, and a whole turn.

Run it with ``python benchmarks/protocol_micro.py``. Each figure is the processor time of the best of many short rounds,
which is what the code costs when nothing else runs; on a busy machine it is an upper bound.
"""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable

from hubplane.options import HubOptions
from hubplane.protocol.hub_protocol import HubProtocol, TransferFormat
from hubplane.protocol.json_protocol import JsonHubProtocol
from hubplane.protocol.messages import HandshakeRequest, Invocation, Raw
from hubplane.protocol.msgpack_protocol import MessagePackHubProtocol
from hubplane.protocol.session import HubSession

ROUNDS = 40
CALLS = 2_000

PROTOCOLS: dict[str, HubProtocol] = {"json": JsonHubProtocol(), "messagepack": MessagePackHubProtocol()}
RECORD = {"id": 7, "name": "Ann", "scores": [1.5, 2.25, 3.125], "tags": ["a", "b"], "nested": {"x": 1, "y": None}}


def microseconds(call: Callable[[], object], calls: int = CALLS) -> float:
    """The best of several rounds, per call."""
    return min(timeit.repeat(call, number=calls, repeat=ROUNDS, timer=time.process_time)) / calls * 1e6


def open_session(protocol: HubProtocol) -> HubSession:
    """A session behind its handshake."""
    session = HubSession(PROTOCOLS, HubOptions(), now=0.0, transfer_formats=tuple(TransferFormat))
    (request,) = session.receive_data(b'{"protocol":"%b","version":1}\x1e' % protocol.name.encode())
    if not isinstance(request, HandshakeRequest):
        raise SystemExit(f"the handshake failed: {session.failure}")
    return session


def measure(protocol: HubProtocol) -> dict[str, float]:
    """All figures of one protocol."""
    frame = protocol.encode(Invocation("Send", ["bob", "hi"], "17"))
    (body,), _ = protocol.split(frame, None)
    message = protocol.decode(body)
    if not isinstance(message, Invocation) or not isinstance(message.arguments, Raw):
        raise SystemExit("the benchmark's own message did not survive")
    arguments = message.arguments
    bind = protocol.argument_decoder([str, str])
    bind_any = protocol.argument_decoder([object, object])
    session = open_session(protocol)
    floats = [index / 7 for index in range(1000)]

    def turn() -> bytes:
        (call,) = session.receive_data(frame)
        bind(call.arguments)  # type: ignore[union-attr, arg-type]  # it is the Invocation above
        return protocol.encode_result("17", "bob: hi")

    return {
        "decode an invocation": microseconds(lambda: protocol.decode(body)),
        "bind (str, str)": microseconds(lambda: bind(arguments)),
        "bind (object, object)": microseconds(lambda: bind_any(arguments)),
        "session: receive an invocation": microseconds(lambda: session.receive_data(frame)),
        "encode a result: str": microseconds(lambda: protocol.encode_result("17", "hello world")),
        "encode a result: str, non-ASCII": microseconds(lambda: protocol.encode_result("17", "Zürich 日本")),
        "encode a result: str, emoji": microseconds(lambda: protocol.encode_result("17", "hello 😀")),
        "encode a result: int": microseconds(lambda: protocol.encode_result("17", 42)),
        "encode a result: None": microseconds(lambda: protocol.encode_result("17", None)),
        "encode a result: small record": microseconds(lambda: protocol.encode_result("17", RECORD)),
        "encode a result: 1000 floats": microseconds(lambda: protocol.encode_result("17", floats), 20),
        "encode an invocation, 2 str": microseconds(lambda: protocol.encode(Invocation("Send", ("bob", "hi")))),
        "receive, bind, encode": microseconds(turn),
    }


def main() -> None:
    """Print the table."""
    figures = {name: measure(protocol) for name, protocol in PROTOCOLS.items()}
    print(f"{'microseconds':34}" + "".join(f"{name:>14}" for name in figures))
    for what in next(iter(figures.values())):
        print(f"{what:34}" + "".join(f"{table[what]:14.2f}" for table in figures.values()))


if __name__ == "__main__":
    main()
