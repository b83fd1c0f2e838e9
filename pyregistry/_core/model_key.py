"""Which model: its checked name, and its entry in an index."""

from __future__ import annotations

from urllib.parse import quote, unquote

import msgspec

from pyregistry.models import ModelProvider, ModelRef, Provider

_PROVIDERS = {provider.value: provider for provider in ModelProvider}

# Everything but `:`, `@`, `#` and `%` may stand as it is; non-ASCII text is always encoded by `quote`,
# which costs a few bytes and harms nobody.
_PLAIN = "!\"$&'()*+,/;<=>?[\\]^`{|} -._~"


def entry_of(name: str, provider: str, revision: str | None, subset: str | None) -> str:
    """``<provider>[@<revision>][#<subset>]:<model name>``: the name alone may hold any character."""
    entry = provider
    if revision is not None:
        entry += "@" + quote(revision, safe=_PLAIN)
    if subset is not None:
        entry += "#" + quote(subset, safe=_PLAIN)
    return f"{entry}:{name}"


def parse_entry(entry: str) -> ModelRef:
    """The model that an entry names."""
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
    """The provider that a word names."""
    return _PROVIDERS.get(word) or Provider(word)


class ModelKey(msgspec.Struct, frozen=True, gc=False):
    """A model whose name has been checked, and its entry in the index."""

    name: str
    provider: ModelProvider | Provider
    revision: str | None
    subset: str | None
    entry: str

    @property
    def ref(self) -> ModelRef:
        """The model, as it is told."""
        return ModelRef(self.name, self.provider, self.revision, self.subset)
