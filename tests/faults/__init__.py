"""A fleet and its clients while servers, networks and processes fail. Runs on every kind of server."""

from __future__ import annotations
