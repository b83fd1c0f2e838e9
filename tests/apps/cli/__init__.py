"""The command line: its commands, and what is common to all of them."""

from __future__ import annotations
