"""The names of all keys. No other module names keys. ``lua/README.md`` describes the layout."""

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
        #: The keys that every writing script takes before those of its items.
        self.shared = (self.meta, *self.indexes.values())
        self.channel = self._prefix + "events"
        #: Hash of the branches and names that hubs have reported.
        self.branches = self._prefix + "branches"
        #: Prefix of the key of a record; the entry follows.
        self.records = self._prefix + "model:"

    def record(self, entry: str) -> str:
        """Return the key of a record."""
        return self.records + entry

    def holds(self, entry: str) -> str:
        """Return the key of the holders of a record's files."""
        return f"{self._prefix}holds:{entry}"
