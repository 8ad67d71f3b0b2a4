"""`ClusterDiscovery`: asks servers who is in their Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hubplane.backplane.redis.connection import RedisConnection, describe_error, not_reached, open_connection
from hubplane.backplane.redis.inquiry import ask_all
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import ReplyError, pack_command
from hubplane.backplane.redis.shard import Shard
from hubplane.backplane.redis.slots import ClusterView, read_view
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["ClusterDiscovery", "is_cluster"]

# A server that has a link and does not answer in this time is not waited for; seconds.
_ASK_SECONDS = 1.0
_NO_CLUSTER = "cluster support disabled"


class ClusterDiscovery:
    """Asks with ``CLUSTER NODES``, which .NET's client uses too.

    Args:
        options: How to log in.
        supervisor: Owns the questions.
    """

    def __init__(self, options: RedisOptions, supervisor: Supervisor) -> None:
        self._options = options
        self._supervisor = supervisor
        self._words = (options.command("CLUSTER") or "CLUSTER", "NODES")
        self._command = pack_command(self._words)

    async def ask_shards(self, shards: Sequence[Shard]) -> list[ClusterView]:
        """The views of servers that there are links to; those that do not answer in a second are left out."""
        answers = [(shard, shard.pipeline.submit(self._command, "CLUSTER NODES")) for shard in shards]
        if answers:
            await asyncio.wait([future for _, future in answers], timeout=_ASK_SECONDS)
        views: list[ClusterView] = []
        for shard, future in answers:
            if not future.done():
                future.cancel()
                continue
            error = None if future.cancelled() else future.exception()
            reply = (error.__cause__ or error) if error is not None else future.result()
            try:
                views.append(self._view(shard.endpoint, reply))
            except BackplaneUnavailableError:
                continue  # it is asked again soon
        return views

    async def ask(self, endpoints: Sequence[Endpoint]) -> list[ClusterView]:
        """The views of servers without a link: of the first that answers, and of who else does at that time.

        Raises:
            BackplaneUnavailableError: None did; the text says what each said.
        """
        found = await ask_all(endpoints, self._ask_one, self._supervisor)
        views = [answer for _, answer in found if isinstance(answer, ClusterView)]
        if not views:
            said = {endpoint: error for endpoint, error in found if isinstance(error, BackplaneUnavailableError)}
            texts = [str(said[endpoint]) for endpoint in endpoints if endpoint in said]
            text = f"No server of the Redis Cluster answers: {' '.join(texts)}"
            raise not_reached(text, next((said[endpoint] for endpoint in endpoints if endpoint in said), None))
        return views

    async def _ask_one(self, endpoint: Endpoint) -> ClusterView:
        return self._view(endpoint, await self.call(endpoint, *self._words))

    async def call(self, endpoint: Endpoint, *words: str) -> object:
        """One command over a connection of its own; an error reply is a `ReplyError` result.

        Raises:
            BackplaneUnavailableError: No connection, or no answer within `connect_timeout`.
        """
        connection = await open_connection(endpoint, self._options)
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                return await connection.call(*words)
        except TimeoutError as error:
            raise BackplaneUnavailableError(f"Redis at {endpoint} does not answer {words[0]}.") from error
        finally:
            connection.close()

    def _view(self, asked: Endpoint, reply: object) -> ClusterView:
        if isinstance(reply, ReplyError):
            if _NO_CLUSTER in str(reply):
                return ClusterView.single(asked)
            raise BackplaneUnavailableError(f"Redis at {asked} refuses CLUSTER NODES: {reply}") from reply
        if isinstance(reply, BackplaneUnavailableError):
            raise reply
        text = reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
        try:
            return read_view(text, asked, tls=self._options.tls)
        except ValueError as error:
            text = f"What Redis at {asked} answers to CLUSTER NODES {describe_error(error)}: {text[:80]!r}"
            raise BackplaneUnavailableError(text) from error


async def is_cluster(connection: RedisConnection, options: RedisOptions) -> bool:
    """Whether the server at the other end is part of a Cluster; it is not where it does not let us ask.

    Raises:
        BackplaneUnavailableError: The connection was lost, or the server does not answer within `connect_timeout`.
    """
    command = options.command("CLUSTER")
    if connection.mode or connection.resp == 3 or not command:
        return connection.mode == "cluster"
    try:
        async with asyncio.timeout(options.connect_timeout):
            return isinstance(await connection.call(command, "NODES"), bytes)
    except TimeoutError as error:
        raise BackplaneUnavailableError(f"Redis at {connection.endpoint} does not answer CLUSTER.") from error
