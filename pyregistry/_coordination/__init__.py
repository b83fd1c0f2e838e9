"""Waiting, leases, and one download per fleet, on any backend."""
