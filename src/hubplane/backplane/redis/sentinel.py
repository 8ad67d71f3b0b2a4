"""`Sentinels`: asks Sentinels which server is the primary, connects to it, and hears when another one is.

Every attempt to connect asks anew, and all Sentinels: the answer of the newest configuration counts, then that of the
most. A server is used only if it says itself that it is a primary, because a replica takes a PUBLISH and tells nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from hubplane.backplane.redis.connection import RedisConnection, describe_error, not_reached, open_connection
from hubplane.backplane.redis.events import RedisConnectionError, RedisFailure
from hubplane.backplane.redis.inquiry import ask_all
from hubplane.backplane.redis.options import Endpoint, RedisOptions
from hubplane.backplane.redis.resp import NOTHING, ReplyError, pack_command
from hubplane.clock import Clock
from hubplane.errors import BackplaneUnavailableError
from hubplane.supervisor import Supervisor

__all__ = ["Sentinels", "sentinel_login"]

logger = logging.getLogger(__name__)

_SWITCH = b"+switch-master"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one Sentinel says: the primary, and how new its configuration is."""

    primary: Endpoint
    epoch: int


def sentinel_login(options: RedisOptions) -> RedisOptions:
    """The options with which Sentinels are reached: their own login, or that of the servers."""
    own = options.sentinel_user is not None or options.sentinel_password is not None
    password = options.sentinel_password if own else options.password
    # Named, so that a Sentinel without any password takes the one that was meant for the servers.
    user = (options.sentinel_user if own else options.user) or ("default" if password is not None else None)
    provider = None if own else options.credential_provider
    return replace(options, user=user, password=password, credential_provider=provider, default_database=None)


class Sentinels:
    """The Sentinels of one primary.

    Args:
        options: With a `service_name`; its endpoints are the Sentinels.
        clock: Sleeps between attempts to watch a Sentinel.
        supervisor: Owns the questions, and what watches.
        on_switch: Called with the new primary when a Sentinel tells of one.
    """

    def __init__(
        self, options: RedisOptions, clock: Clock, supervisor: Supervisor, on_switch: Callable[[Endpoint], None]
    ) -> None:
        self._options = options
        self._name = options.service_name or ""
        self._clock = clock
        self._supervisor = supervisor
        self._on_switch = on_switch
        self._login = sentinel_login(options)

    def watch(self) -> None:
        """Begin to listen to all Sentinels."""
        for sentinel in self._options.addresses:
            self._supervisor.start(self._watch(sentinel), f"watch {sentinel}", vital=True)

    async def open_primary(self) -> RedisConnection:
        """Connect to the primary.

        Raises:
            BackplaneUnavailableError: There is none; the text says what each Sentinel, and what each server, said.
        """
        answers, said, cause = await self._ask_all()
        votes: dict[Endpoint, tuple[int, int]] = {}
        for answer in answers:
            epoch, count = votes.get(answer.primary, (0, 0))
            votes[answer.primary] = max(epoch, answer.epoch), count + 1
        for number, primary in enumerate(sorted(votes, key=lambda endpoint: votes[endpoint], reverse=True)):
            try:
                return await self._open(primary)
            except BackplaneUnavailableError as error:
                cause = cause if number else error
                said.append(str(error))
        text = f"Sentinel: Failed connecting to configured primary for service: {self._name}. {' '.join(said)}"
        raise not_reached(text, cause)

    async def _open(self, primary: Endpoint) -> RedisConnection:
        connection = await open_connection(primary, self._options)
        role = ""
        try:
            role = connection.role or await self._role(connection)
        finally:
            if role != "master":
                connection.close()
        if role != "master":
            text = f"Redis at {primary} is a replica, whatever its Sentinels say."
            raise RedisConnectionError(text, endpoint=primary, failure=RedisFailure.UNABLE_TO_CONNECT)
        return connection

    async def _role(self, connection: RedisConnection) -> str:
        """RESP2 does not tell it unasked; where the user may not ask, the Sentinels' word has to do."""
        command = self._options.command("ROLE")
        reply = await self._call(connection, command) if command else None
        word = reply[0] if isinstance(reply, list) and reply else b"master"
        return word.decode() if isinstance(word, bytes) else "master"

    async def _ask_all(self) -> tuple[list[_Answer], list[str], BackplaneUnavailableError | None]:
        """The answers that came in time, a sentence of each Sentinel, and an error, if there was one."""
        sentinels = self._options.addresses
        answers: list[_Answer] = []
        failure: BackplaneUnavailableError | None = None
        said: dict[Endpoint, str] = {}
        for sentinel, answer in await ask_all(sentinels, self._ask, self._supervisor):
            if isinstance(answer, _Answer):
                answers.append(answer)
                said[sentinel] = f"Sentinel {sentinel} says {answer.primary}."
            else:
                failure = failure or answer
                said[sentinel] = f"Sentinel {sentinel}: {answer}"
        return answers, [said.get(s, f"Sentinel {s} does not answer.") for s in sentinels], failure

    async def _ask(self, sentinel: Endpoint) -> _Answer:
        connection = await self._reach(sentinel)
        try:
            return await self._question(connection)
        finally:
            connection.close()

    async def _reach(self, sentinel: Endpoint) -> RedisConnection:
        return await open_connection(sentinel, self._login)

    async def _question(self, connection: RedisConnection) -> _Answer:
        reply = await self._call(connection, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
        if isinstance(reply, ReplyError):
            raise BackplaneUnavailableError(f"It refuses the question: {reply}") from reply
        if reply is None:
            raise BackplaneUnavailableError(f"It knows no primary of the name {self._name}.")
        if not isinstance(reply, list) or len(reply) != 2 or not reply[1].isdigit():
            raise BackplaneUnavailableError(f"It answers with {str(reply)[:80]!r}.")
        facts = await self._call(connection, "SENTINEL", "MASTER", self._name)
        if isinstance(facts, list):
            facts = dict(zip(facts[::2], facts[1::2], strict=False))
        # Without it, by a rule of access for example, all are equally new.
        epoch = facts.get(b"config-epoch", b"0") if isinstance(facts, dict) else b"0"
        return _Answer(Endpoint(reply[0].decode(), int(reply[1])), int(epoch))

    async def _call(self, connection: RedisConnection, *words: str) -> object:
        try:
            async with asyncio.timeout(self._options.connect_timeout):
                return await connection.call(*words)
        except TimeoutError as error:
            raise BackplaneUnavailableError(f"{connection.endpoint} does not answer {words[0]}.") from error

    async def _watch(self, sentinel: Endpoint) -> None:
        """Listen to one Sentinel for ever."""
        failures = 0
        before: Endpoint | None = None
        while True:
            if failures:
                pause = self._options.retry_base * 2.0 ** min(failures, 20)
                await self._clock.sleep(min(self._options.retry_max, pause))
            connection: RedisConnection | None = None
            try:
                connection = await self._reach(sentinel)
                answer = await self._question(connection)
                if before is not None and answer.primary != before:
                    self._on_switch(answer.primary)
                before = answer.primary
                failures = 0
                connection.drain = self._listener(connection)
                connection.write(pack_command(("SUBSCRIBE", _SWITCH)))
                while connection.error is None:
                    await self._clock.sleep(max(self._options.liveness_interval, 1.0))
                    if not connection.heard:
                        connection.write(pack_command(("PING",)))
                    connection.heard = False
            except BackplaneUnavailableError as error:
                logger.debug("Sentinel %s cannot be watched: %s", sentinel, describe_error(error))
            finally:
                failures += 1
                if connection is not None:
                    connection.close()

    def _listener(self, connection: RedisConnection) -> Callable[[Callable[[], object]], None]:
        def drain(gets: Callable[[], object]) -> None:
            while (reply := gets()) is not NOTHING:
                if isinstance(reply, list) and len(reply) == 3 and reply[:2] == [b"message", _SWITCH]:
                    words = reply[2].decode(errors="replace").split()
                    if len(words) == 5 and words[0] == self._name and words[4].isdigit():
                        logger.info("Sentinel %s: the primary is now %s:%s.", connection.endpoint, *words[3:])
                        self._on_switch(Endpoint(words[3], int(words[4])))

        return drain
