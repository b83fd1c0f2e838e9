"""Looks at a server and a namespace, and says what is wrong with them. Writes nothing.

The server: is it fit, does it keep what it is told, is its clock right? The namespace: is every record whole,
in the one set of its status, and counted?
"""

from __future__ import annotations

from pyregistry._redis.diagnosis.examine import examine
from pyregistry.backend.findings import Finding, Level

__all__ = ["Finding", "Level", "examine"]
