"""Faults of networks, file systems and processes, made on purpose."""

from __future__ import annotations
