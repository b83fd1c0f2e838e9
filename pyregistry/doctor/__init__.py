"""Examine a server and a namespace, and report their problems. Writes nothing.

The server checks cover its fitness for the registry, the persistence of its data, and its clock. The namespace checks
cover each record: it must be complete, be in exactly the index of its status, and be counted.
"""

from __future__ import annotations

from pyregistry._redis.diagnosis.examine import examine
from pyregistry.backend.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
