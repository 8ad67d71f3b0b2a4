"""JSON Web Tokens as logins, by PyJWT: the extra ``hubplane[auth]``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # keys are of the types of PyJWT and cryptography; claims hold any JSON

from hubplane.auth.users import bearer_token, expiry, subject
from hubplane.connection.request import ConnectionRequest
from hubplane.errors import ConfigurationError

__all__ = ["JwtAuthenticator", "JwtUser"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class JwtUser:
    """The user that a verified token names.

    Attributes:
        claims: The token's claims.
    """

    claims: Mapping[str, Any]

    @property
    def is_authenticated(self) -> bool:
        """True: a token was verified."""
        return True

    @property
    def identity(self) -> str:
        """Whom the token is about: ``sub``, or .NET's names for it; empty without one."""
        return subject(self.claims) or ""

    @property
    def expires_at(self) -> float | None:
        """When the token expires, in seconds since 1970; None for never."""
        return expiry(self.claims)


class JwtAuthenticator:
    """Makes users of bearer tokens that are signed JWTs; a token that does not verify is nobody's.

    It takes ``Authorization: Bearer``, else the query's ``access_token``. Signature, expiry and "not before" are always
    checked. Tokens are never logged.

    Args:
        key: The shared secret for HS256 and its kin, or the public key (PEM text, or a key object of cryptography).
        algorithms: What a token may be signed with. Name only those you use, and never mix HS with others.
        audience: What ``aud`` must be or contain; None refuses tokens that name an audience.
        issuer: What ``iss`` must be; None for any.
        leeway: Seconds by which clocks may differ.

    Raises:
        ConfigurationError: PyJWT is missing, an algorithm is unknown (or needs cryptography), or the key does not fit.
    """

    def __init__(
        self,
        key: Any,
        *,
        algorithms: Sequence[str] = ("HS256",),
        audience: str | Sequence[str] | None = None,
        issuer: str | Sequence[str] | None = None,
        leeway: float = 0.0,
    ) -> None:
        try:
            import jwt  # noqa: PLC0415 - only with the extra `auth`
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "JwtAuthenticator needs PyJWT, which is not installed: pip install 'hubplane[auth]'"
            ) from error
        if not key:
            raise ConfigurationError("JwtAuthenticator needs a key.")
        if isinstance(algorithms, str) or not algorithms or "none" in {each.lower() for each in algorithms}:
            raise ConfigurationError('JwtAuthenticator.algorithms is a sequence such as ["HS256"], without "none".')
        for algorithm in algorithms:
            try:
                jwt.get_algorithm_by_name(algorithm).prepare_key(key)
            except NotImplementedError as error:
                raise ConfigurationError(f"JwtAuthenticator.algorithms: {error}") from error
            except (jwt.InvalidKeyError, TypeError, ValueError) as error:
                raise ConfigurationError(f"The key of JwtAuthenticator is none for {algorithm}: {error}") from error
        self._key = key
        self._algorithms = list(algorithms)
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._decode = jwt.decode
        self._invalid: type[Exception] = jwt.InvalidTokenError

    def __call__(self, request: ConnectionRequest) -> JwtUser | None:
        """The user whom the request's token names, None without a valid one."""
        token = bearer_token(request)
        if token is None:
            return None
        try:
            claims: dict[str, Any] = self._decode(
                token,
                self._key,
                algorithms=self._algorithms,
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
            )
        except self._invalid as error:
            # The texts of PyJWT may quote claims, and its tracebacks the token: the kind of error is enough.
            logger.info("A bearer token was refused: %s", type(error).__name__)
            return None
        return JwtUser(claims)
