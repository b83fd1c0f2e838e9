"""The scripts, called as any client calls them. Runs on every kind of server."""

from __future__ import annotations
