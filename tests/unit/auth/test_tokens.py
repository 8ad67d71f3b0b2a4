"""Facts about JSON Web Tokens as logins."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import jwt
import pytest

from hubplane.auth.tokens import JwtAuthenticator
from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConfigurationError

KEY = "a secret that is long enough for each of the algorithms " + "x" * 20


def token(key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:
    """A signed token."""
    return jwt.encode({"sub": "ann", **claims}, key, algorithm=algorithm)


def asked(value: str) -> ConnectionRequest:
    """A request that brings a token in its header."""
    return ConnectionRequest(
        {"type": "http", "headers": [(b"authorization", f"Bearer {value}".encode())], "query_string": b""}
    )


def test_a_valid_token_names_a_user() -> None:
    """The user has the token's subject, claims and expiry."""
    moment = int(time.time()) + 60
    user = JwtAuthenticator(KEY)(asked(token(exp=moment, role="admin")))
    assert user is not None
    assert (user.identity, user.is_authenticated, user.expires_at) == ("ann", True, moment)
    assert user.claims["role"] == "admin"


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        token("another secret" + "y" * 30),
        token(exp=1),
        token(nbf=2**40),
        token(aud="elsewhere"),
        token(algorithm="HS512"),
        jwt.encode({"sub": "ann"}, None, algorithm="none"),  # type: ignore[arg-type]  # the algorithm "none" takes no key
        token()[:-2],
    ],
)
def test_a_token_that_does_not_verify_is_nobodys(value: str, caplog: pytest.LogCaptureFixture) -> None:
    """Forged, expired, early, foreign and unsigned tokens name nobody, and none of them is logged."""
    with caplog.at_level(logging.DEBUG):
        assert JwtAuthenticator(KEY)(asked(value)) is None
    assert "A bearer token was refused" in caplog.text
    assert value not in caplog.text


def test_without_a_token_there_is_nobody() -> None:
    """A request without a token is not logged either: it may be of a login that others know."""
    assert JwtAuthenticator(KEY)(ConnectionRequest({"headers": [], "query_string": b""})) is None


def test_audience_issuer_and_leeway() -> None:
    """What is asked of a token must be there; the clocks may differ by the leeway."""
    strict = JwtAuthenticator(KEY, audience="hubs", issuer="login", leeway=30)
    assert strict(asked(token(aud=["hubs", "web"], iss="login", exp=time.time() - 10))) is not None
    assert strict(asked(token(aud="hubs", iss="other"))) is None
    assert strict(asked(token(iss="login"))) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"algorithms": "HS256"},
        {"algorithms": ["HS257"]},
        {"key": ""},
        {"key": 7},
        {"key": "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----"},
    ],
)
def test_a_careless_choice_is_refused(wrong: dict[str, Any]) -> None:
    """No key or one of another kind; no algorithm, an unknown one, or the one that verifies nothing."""
    with pytest.raises(ConfigurationError):
        JwtAuthenticator(**{"key": KEY, **wrong})


def test_without_pyjwt_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks PyJWT is told what to install."""
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigurationError, match=r"hubplane\[auth\]"):
        JwtAuthenticator(KEY)
