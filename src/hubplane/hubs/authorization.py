"""Which users may use a hub, and which of its methods.

Source: signalr-server sections 1.7, 4.5 and 5.10.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from inspect import isawaitable, unwrap
from types import FunctionType
from typing import Any, TypeAlias, TypeVar, overload  # whatever is decorated comes back as it is

from hubplane.auth.users import is_authenticated
from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConfigurationError

__all__ = ["AuthorizationContext", "Policy", "PolicyMark", "authorize", "is_allowed", "policies_of"]

T = TypeVar("T", bound=Callable[..., Any])

_ATTRIBUTE = "__hubplane_policies__"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationContext:
    """What a policy decides about.

    Attributes:
        user: Who asks; never nobody.
        request: The HTTP request; of a method, the one that opened the connection.
        hub_type: The hub class.
        method_name: The declared name of the method, None when it is about the hub.
        arguments: What the method will be called with; empty when it is about the hub.
    """

    user: object
    request: ConnectionRequest
    hub_type: type
    method_name: str | None = None
    arguments: Sequence[object] = ()


Policy: TypeAlias = Callable[[AuthorizationContext], bool | Awaitable[bool]]
"""True lets the user in. Plain functions run on the event loop: they must not wait."""


class PolicyMark:
    """What `authorize(policy)` returns: a decorator, of a type of its own, so that a forgotten one is seen."""

    __slots__ = ("_policy",)

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __call__(self, target: T) -> T:
        """Mark a hub class or a method."""
        # A class must not add to what it inherited, which is its base's.
        own: tuple[Policy, ...] = vars(target).get(_ATTRIBUTE, ())
        setattr(target, _ATTRIBUTE, (*own, self._policy))
        return target


@overload
def authorize(policy: Policy, /) -> PolicyMark: ...
@overload
def authorize(target: T, /) -> T: ...
@overload
def authorize() -> PolicyMark: ...
def authorize(target: Any = None, /) -> Any:
    """Let only authenticated users in, and of these only whom a policy admits.

    On a hub class it holds for every HTTP request of the hub: 401 where nobody is authenticated, 403 where a policy
    says no. On a method, the call is answered with an error, and the connection stays. Marks add up, and classes and
    overriding methods inherit them. Write it above other decorators: one that hides the function hides the mark.

    Args:
        target: Nothing, for any authenticated user; or a policy: a callable, async or not, that is asked with an
            `AuthorizationContext` and answers True or False. Or, without parentheses, what is decorated.

    Raises:
        ConfigurationError: `target` is neither.
    """
    if target is None:
        return PolicyMark(_anybody)
    if not callable(target):
        raise ConfigurationError(f"authorize takes a policy, which is a callable, not {target!r}.")
    # A policy's first parameter is its context; only methods call theirs `self`.
    if isinstance(target, type) or (isinstance(target, FunctionType) and _first_parameter(target) == "self"):
        return PolicyMark(_anybody)(target)
    return PolicyMark(target)


def policies_of(hub_type: type, python_name: str | None = None) -> tuple[Policy, ...]:
    """The policies of a hub class, or of one of its methods: those of the bases first, each once."""
    found: dict[Policy, None] = {}
    for owner in reversed(hub_type.__mro__):
        if python_name is None:
            own = vars(owner).get(_ATTRIBUTE, ())
        else:
            own = getattr(vars(owner).get(python_name), _ATTRIBUTE, ())
        found.update(dict.fromkeys(own))
    return tuple(found)


async def is_allowed(policies: Sequence[Policy], context: AuthorizationContext) -> bool:
    """Whether the user is authenticated and every policy says yes. Exceptions of policies come out."""
    if not is_authenticated(context.user):
        return False
    for policy in policies:
        answer = policy(context)
        if isawaitable(answer):
            answer = await answer
        if not answer:
            return False
    return True


def _anybody(context: AuthorizationContext) -> bool:
    return is_authenticated(context.user)


def _first_parameter(function: FunctionType) -> str:
    code = unwrap(function).__code__
    return code.co_varnames[0] if code.co_argcount else ""
