"""Files that a fleet shares: each download in a folder of its own, named by its fencing token.

::

    <root>/<model>/<token>/                         published, whole, never written to again
    <root>/.pyregistry/staging/<model>/<token>/     being downloaded
    <root>/.pyregistry/trash/<model>/<token>-<..>/  being removed
    <root>/.pyregistry/cache_id                     which cache this is, and whose

    <root>/<model>/<token>.files/                   with publish="manifest": being downloaded, and published once
    <root>/<model>/<token>.json                     this is written, which lists the files
    <root>/by-name/<model>                          with by_name=True: a link to the newest files

A lease stops nobody from writing to a disk. What keeps files whole is that no two claims share a path: a
process that was stopped beyond its lease, and goes on, publishes to a path of its own that no record names.
"""

from __future__ import annotations

from pyregistry.stores.folder import FolderStore, Publish, Published
from pyregistry.stores.mark import CacheMark

__all__ = ["CacheMark", "FolderStore", "Publish", "Published"]
