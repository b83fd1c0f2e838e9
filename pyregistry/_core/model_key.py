"""Identity of a model: its validated name and its entry in an index."""

from __future__ import annotations

from urllib.parse import quote, unquote

import msgspec

from pyregistry.models import ModelProvider, ModelRef, Provider

_PROVIDERS = {provider.value: provider for provider in ModelProvider}

# `quote` leaves these characters unencoded: all printable ASCII except `:`, `@`, `#` and `%`.
# `quote` encodes non-ASCII text in any case; that costs a few bytes.
_PLAIN = "!\"$&'()*+,/;<=>?[\\]^`{|} -._~"


def entry_of(name: str, provider: str, revision: str | None, subset: str | None) -> str:
    """Build the entry of a model: ``<provider>[@<revision>][#<subset>]:<model name>``.

    Revision and subset are percent-encoded. The name is not: any character may follow the first colon.
    """
    entry = provider
    if revision is not None:
        entry += "@" + quote(revision, safe=_PLAIN)
    if subset is not None:
        entry += "#" + quote(subset, safe=_PLAIN)
    return f"{entry}:{name}"


def parse_entry(entry: str) -> ModelRef:
    """Parse an entry into a `ModelRef`."""
    head, _, name = entry.partition(":")
    head, hash_mark, subset = head.partition("#")
    provider, at_mark, revision = head.partition("@")
    return ModelRef(
        name,
        Provider(provider),
        unquote(revision) if at_mark else None,
        unquote(subset) if hash_mark else None,
    )


def provider_of(word: str) -> ModelProvider | Provider:
    """Return the `ModelProvider` with this value, or a `Provider` for any other word."""
    return _PROVIDERS.get(word) or Provider(word)


class ModelKey(msgspec.Struct, frozen=True, gc=False):
    """A model with a validated name, and its entry in the index."""

    name: str
    provider: ModelProvider | Provider
    revision: str | None
    subset: str | None
    entry: str

    @property
    def ref(self) -> ModelRef:
        """The model in its public form."""
        return ModelRef(self.name, self.provider, self.revision, self.subset)
