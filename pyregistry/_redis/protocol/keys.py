"""The only place that names keys. The layout is described in ``lua/README.md``."""

from __future__ import annotations

from urllib.parse import quote, unquote

from pyregistry.models import ModelRef, ModelStatus, Provider

#: The order in which scripts take the sorted sets.
STATUSES = (
    ModelStatus.DOWNLOADING,
    ModelStatus.DOWNLOADED,
    ModelStatus.ERROR,
    ModelStatus.EVICTING,
)

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


class Keyspace:
    """The keys of one namespace. All share one hash tag, so a registry lives in one slot."""

    __slots__ = ("_prefix", "branches", "channel", "indexes", "meta", "namespace", "records", "shared")

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._prefix = f"pyregistry:{{{namespace}}}:"
        self.meta = self._prefix + "meta"
        self.indexes = {status: self._prefix + status.lower() for status in STATUSES}
        #: What every writing script takes before its items.
        self.shared = (self.meta, *self.indexes.values())
        self.channel = self._prefix + "events"
        #: What hubs said of branches and of names.
        self.branches = self._prefix + "branches"
        #: What the key of a record begins with; its entry follows.
        self.records = self._prefix + "model:"

    def record(self, entry: str) -> str:
        """The key of a record."""
        return self.records + entry

    def holds(self, entry: str) -> str:
        """The key of the holders of a record's files."""
        return f"{self._prefix}holds:{entry}"
