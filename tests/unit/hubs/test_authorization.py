"""Facts about `@authorize`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConfigurationError
from hubplane.hubs.authorization import AuthorizationContext, authorize, is_allowed, policies_of
from hubplane.hubs.hub import Hub, hub_method
from hubplane.hubs.methods import HubMethods

Serve = Callable[..., AbstractAsyncContextManager[Any]]

ASKED: list[AuthorizationContext] = []


async def small_only(context: AuthorizationContext) -> bool:
    """Admits small numbers."""
    ASKED.append(context)
    return bool(context.arguments[0] < 10)  # type: ignore[operator]  # numbers, in these tests


def nobody(context: AuthorizationContext) -> bool:
    """Admits nobody."""
    return False


def broken(context: AuthorizationContext) -> bool:
    """Fails."""
    raise LookupError("no such role")


class GuardedHub(Hub):
    """Some of its methods are for some users."""

    async def free(self) -> str:
        return "free"

    @authorize
    async def members(self) -> str:
        return "members"

    @authorize(small_only)
    @hub_method("Take")
    async def take_number(self, number: int) -> int:
        return number

    @authorize(nobody)
    async def never(self) -> None: ...

    @authorize(broken)
    async def breaks(self) -> None: ...

    @authorize(small_only)
    async def count(self, number: int) -> AsyncIterator[int]:
        for each in range(number):
            yield each


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ASKED.clear()


@pytest.mark.row("B100")
async def test_policies_of_methods_are_asked_for_each_call(serve: Serve) -> None:
    """A refused call is told so by ASP.NET Core's text, and the connection lives on."""
    async with serve(GuardedHub) as server:
        client = await server.connect(user="ann")
        client.connection.request.authenticated_as({"sub": "ann"})
        assert (await client.invoke("Take", 3))["result"] == 3
        assert (await client.invoke("take", 30))["error"] == "Failed to invoke 'Take' because user is unauthorized"
        assert (await client.invoke("Never"))["error"] == "Failed to invoke 'Never' because user is unauthorized"
        assert (await client.invoke("Members"))["result"] == "members"
        assert (await client.invoke("Free"))["result"] == "free"
        context = ASKED[0]
        assert (context.user, context.hub_type, context.method_name) == ({"sub": "ann"}, GuardedHub, "Take")
        assert context.arguments == (3,)
        assert context.request is client.connection.request


@pytest.mark.row("B100")
async def test_nobody_may_call_what_is_for_users(serve: Serve) -> None:
    """Without a user no policy is asked; methods without a mark are everybody's."""
    async with serve(GuardedHub) as server:
        client = await server.connect()
        assert (await client.invoke("Members"))["error"] == "Failed to invoke 'Members' because user is unauthorized"
        assert (await client.invoke("Take", 3))["error"] == "Failed to invoke 'Take' because user is unauthorized"
        assert (await client.invoke("Free"))["result"] == "free"
        assert ASKED == []


async def test_streams_are_guarded_before_their_mode_is_told(serve: Serve) -> None:
    """A stream method is guarded too, and only who may call it learns that it streams."""
    async with serve(GuardedHub) as server:
        client = await server.connect()
        client.connection.request.authenticated_as("ann")
        client.stream("Count", 2)
        assert [message.get("item") for message in await client.receive_many(3)] == [0, 1, None]
        client.stream("Count", 20)
        assert (await client.receive())["error"] == "Failed to invoke 'Count' because user is unauthorized"
        assert "because user is unauthorized" in (await client.invoke("Count", 20))["error"]
        assert "non-streaming invocation" in (await client.invoke("Count", 2))["error"]


async def test_a_policy_that_fails_refuses(serve: Serve) -> None:
    """An exception in a policy counts as the method's own: the method does not run."""
    async with serve(GuardedHub) as server:
        client = await server.connect()
        client.connection.request.authenticated_as("ann")
        answer = await client.invoke("Breaks")
        assert answer["error"] == "An unexpected error occurred invoking 'Breaks' on the server."


async def test_marks_cost_other_methods_nothing(serve: Serve) -> None:
    """Only marked methods leave the shortest way."""
    async with serve(GuardedHub) as server:
        table = server.dispatcher._tables["json"]
        assert table["Free"].is_direct
        assert not table["Members"].is_direct
        assert not table["Take"].is_direct


def test_marks_add_up_and_are_inherited() -> None:
    """A subclass is guarded by its bases' marks and its own, for the class and for methods it overrides."""

    @authorize(nobody)
    class Base(Hub):
        @authorize(nobody)
        async def method(self) -> None: ...

    @authorize(broken)
    @authorize()
    class Derived(Base):
        async def method(self) -> None: ...

    assert policies_of(Base) == (nobody,)
    assert policies_of(Derived)[0] is nobody
    assert policies_of(Derived)[-1] is broken
    assert len(policies_of(Derived)) == 3
    (method,) = HubMethods(Derived, Hub)
    assert method.policies == (nobody,)


def test_a_policy_may_be_any_callable() -> None:
    """Lambdas, bound methods and static methods are policies, not what is decorated."""

    class Rules:
        def admits(self, context: AuthorizationContext) -> bool:
            return True

        @staticmethod
        def denies(context: AuthorizationContext) -> bool:
            return context is None

    class RuledHub(Hub):
        @authorize(Rules().admits)
        @authorize(Rules.denies)
        @authorize(lambda context: context.user == "ann")  # type: ignore[untyped-decorator]  # as mypy sees lambdas
        async def method(self) -> None: ...

    (method,) = HubMethods(RuledHub, Hub)
    assert len(method.policies) == 3


def test_a_forgotten_mark_is_seen() -> None:
    """A method taken for a policy, because it calls its instance by another name, cannot be left open by accident."""

    class OddHub(Hub):
        @authorize
        async def method(this) -> None: ...  # noqa: N805 - the mistake

    with pytest.raises(ConfigurationError, match="was taken for a policy"):
        HubMethods(OddHub, Hub)
    with pytest.raises(ConfigurationError, match="takes a policy"):
        authorize("admins")  # type: ignore[call-overload]  # the mistake


async def test_only_a_yes_is_a_yes() -> None:
    """A policy that answers nothing refuses."""

    def silent(context: AuthorizationContext) -> Any:
        return None

    context = AuthorizationContext(user="ann", request=ConnectionRequest({}), hub_type=Hub)
    assert await is_allowed([lambda _: True], context)
    assert not await is_allowed([silent], context)
