"""Encode a claim as one word, for the next command of a shell script.

The word is a MessagePack array in URL-safe Base64, so it needs no quoting. It holds the claim id, which is the claim's
secret. It also holds the namespace, so that a command for another namespace rejects it.
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
    """The fields that renew and end a claim. Add new fields at the end, with a default: the encoding is an array."""

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
        """Create the ticket of a claim of this namespace."""
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
        """Decode the ticket of a word.

        Raises:
            InvalidArgument: The word is not a ticket.
        """
        try:
            packed = base64.b64decode(word + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
            return msgspec.msgpack.decode(packed, type=cls)
        except ValueError:
            # `from None`, because the cause could quote the word, which is a secret.
            why = f"is not what `pyregistry claim` has printed as {CLAIM_VARIABLE}"
            raise InvalidArgument("claim", f'{why}: eval "$(pyregistry claim MODEL)" sets it') from None

    @property
    def word(self) -> str:
        """The encoded ticket."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).decode().rstrip("=")

    @property
    def shell_line(self) -> str:
        """The command for a POSIX shell to evaluate. One line, so that ``eval`` works without quotes too."""
        values = (self.word, self.token, self.attempts)
        return "export " + " ".join(f"{name}={value}" for name, value in zip(_VARIABLES, values, strict=True))

    @property
    def claim(self) -> Claim:
        """The claim, with the fields that a renewal or an end needs."""
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
    """Return the command for a shell to evaluate after a failed claim.

    It unsets the variables of an older claim. It also makes ``eval`` fail with `code`, because ``eval`` hides the exit
    code of the command substitution.
    """
    return f"unset {' '.join(_VARIABLES)}; (exit {code})"
