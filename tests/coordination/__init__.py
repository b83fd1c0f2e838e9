"""One download per fleet: claims, waiting, leases, processes. Runs on every kind of server."""

from __future__ import annotations
