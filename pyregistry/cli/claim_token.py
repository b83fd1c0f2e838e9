"""A claim as one word, for the next command of a shell script.

The word is Base64 (the kind for URLs) of a MessagePack array: nothing in it needs quoting. It holds the
claim's id, which is its secret, and the namespace, so that a claim of one registry is not taken to another.
"""

from __future__ import annotations

import base64

import msgspec

from pyregistry._core.model_key import provider_of
from pyregistry.errors import InvalidArgument
from pyregistry.models import Claim

__all__ = ["CLAIM_VARIABLE", "Ticket", "shell_failure"]

CLAIM_VARIABLE = "PYREGISTRY_CLAIM"
_VARIABLES = (CLAIM_VARIABLE, "PYREGISTRY_TOKEN", "PYREGISTRY_ATTEMPT")


class Ticket(msgspec.Struct, array_like=True, frozen=True):
    """What renews and ends a claim. New elements come at the end, with a default."""

    namespace: str
    model_name: str
    provider: str
    revision: str | None
    subset: str | None
    claim_id: str
    owner: str
    token: int
    lease: float | None
    attempts: int

    @classmethod
    def of(cls, claim: Claim, namespace: str) -> Ticket:
        """The ticket of a claim that the registry of this namespace gave."""
        return cls(
            namespace=namespace,
            model_name=claim.model_name,
            provider=str(claim.provider),
            revision=claim.revision,
            subset=claim.subset,
            claim_id=claim.claim_id,
            owner=claim.owner,
            token=claim.token,
            lease=claim.lease,
            attempts=claim.attempts,
        )

    @classmethod
    def read(cls, word: str) -> Ticket:
        """The ticket that a word holds.

        Raises:
            InvalidArgument: it holds none.
        """
        try:
            packed = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
            return msgspec.msgpack.decode(packed, type=cls)
        except ValueError:
            # The cause is not told: it could quote the word.
            why = f"is not what `pyregistry claim` has printed as {CLAIM_VARIABLE}"
            raise InvalidArgument("claim", f'{why}: eval "$(pyregistry claim MODEL)" sets it') from None

    @property
    def word(self) -> str:
        """The ticket as a word."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @property
    def shell_line(self) -> str:
        """What a POSIX shell is to evaluate. One line: so it works without quotes around it too."""
        values = (self.word, self.token, self.attempts)
        return "export " + " ".join(f"{name}={value}" for name, value in zip(_VARIABLES, values, strict=True))

    @property
    def claim(self) -> Claim:
        """The claim, as far as a renewal or an end needs it."""
        return Claim(
            model_name=self.model_name,
            provider=provider_of(self.provider),
            revision=self.revision,
            subset=self.subset,
            claim_id=self.claim_id,
            owner=self.owner,
            token=self.token,
            lease=self.lease,
            lease_expires_at=None,
            attempts=self.attempts,
        )

    def __repr__(self) -> str:
        return f"Ticket({self.claim!r}, namespace={self.namespace!r})"


def shell_failure(code: int) -> str:
    """What a shell is to evaluate where nothing was claimed.

    It forgets an older claim, and makes ``eval`` fail as the command did, whose own code ``eval`` hides.
    """
    return f"unset {' '.join(_VARIABLES)}; (exit {code})"
