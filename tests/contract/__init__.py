"""What the methods of both clients promise. Runs on every kind of server."""

from __future__ import annotations
