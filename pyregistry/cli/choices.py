"""Parse statuses and providers from command-line words."""

from __future__ import annotations

from collections.abc import Sequence

from pyregistry.errors import InvalidArgument
from pyregistry.models import ModelProvider, ModelStatus

__all__ = ["ENDINGS", "PROVIDERS", "SETTABLE", "STATUSES", "provider_of", "status_of"]

STATUSES = tuple(str(status) for status in ModelStatus)
SETTABLE = tuple(word for word in STATUSES if word != ModelStatus.EVICTING)  # only an eviction sets EVICTING
ENDINGS = (str(ModelStatus.DOWNLOADED), str(ModelStatus.ERROR))
PROVIDERS = tuple(str(provider) for provider in ModelProvider)

_SHORT = {"hf": ModelProvider.HUGGING_FACE}


def status_of(word: str, allowed: Sequence[str] = STATUSES) -> str:
    """Return a status in upper case.

    Args:
        word: The status, in any case.
        allowed: The accepted statuses, in upper case. Defaults to all.

    Raises:
        InvalidArgument: The word is not in `allowed`.
    """
    if word.upper() not in allowed:
        *most, last = allowed
        raise InvalidArgument("status", f"must be {', '.join(most)} or {last}, not {word!r}")
    return word.upper()


def provider_of(word: str | None, other: str | None) -> str | None:
    """Return the provider that the two options name, or None if neither is given.

    Args:
        word: Value of ``--provider``: one of the four providers. Case and punctuation are ignored.
        other: Value of ``--provider-word``: any other provider. Returned unchanged.

    Raises:
        InvalidArgument: `word` is none of the four, or both options are given. HuggingFace counts as not given,
            because it may be the default of ``--provider``.
    """
    if other is not None:
        if word not in (None, str(ModelProvider.HUGGING_FACE)):
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
