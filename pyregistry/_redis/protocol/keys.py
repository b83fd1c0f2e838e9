"""The only place that names keys. The layout is described in ``lua/README.md``."""

from __future__ import annotations

from pyregistry._core.values import STATUSES


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
