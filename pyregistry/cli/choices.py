"""Words of which there are few: statuses and providers, as people write them."""

from __future__ import annotations

from collections.abc import Sequence

from pyregistry.errors import InvalidArgument
from pyregistry.models import ModelProvider, ModelStatus

__all__ = ["ENDINGS", "PROVIDERS", "SETTABLE", "STATUSES", "provider_of", "status_of"]

STATUSES = tuple(str(status) for status in ModelStatus)
SETTABLE = tuple(word for word in STATUSES if word != ModelStatus.EVICTING)  # that one comes from an eviction
ENDINGS = (str(ModelStatus.DOWNLOADED), str(ModelStatus.ERROR))
PROVIDERS = tuple(str(provider) for provider in ModelProvider)

_SHORT = {"hf": ModelProvider.HUGGING_FACE}


def status_of(word: str, allowed: Sequence[str] = STATUSES) -> str:
    """A status, in any case.

    Raises:
        InvalidArgument: it is none of those that are allowed.
    """
    if word.upper() not in allowed:
        *most, last = allowed
        raise InvalidArgument("status", f"must be {', '.join(most)} or {last}, not {word!r}")
    return word.upper()


def provider_of(word: str | None, other: str | None) -> str | None:
    """One of the four providers, in any case and spelling, or another one that is named as such.

    Args:
        word: what ``--provider`` says; ``None``: nothing.
        other: what ``--provider-word`` says; ``None``: nothing.

    Raises:
        InvalidArgument: the word is none of the four.
    """
    if other is not None:
        if word not in (None, str(ModelProvider.HUGGING_FACE)):  # the latter may be a default
            raise InvalidArgument("provider", "--provider and --provider-word exclude each other")
        return other
    if word is None:
        return None
    plain = "".join(filter(str.isalnum, word)).lower()
    known = {**_SHORT, **{provider.lower(): provider for provider in ModelProvider}}
    if plain not in known:
        *most, last = PROVIDERS
        raise InvalidArgument(
            "provider",
            f"is {', '.join(most)} or {last}, not {word!r}; another one is given with --provider-word",
        )
    return str(known[plain])
