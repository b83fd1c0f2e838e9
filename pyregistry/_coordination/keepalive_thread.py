"""The thread that renews the claims of all clients of a process."""

from __future__ import annotations

import threading
from typing import Protocol

from pyregistry._core.clock import now

__all__ = ["KeepaliveThread", "Renewer"]


class Renewer(Protocol):
    """The claims of one client, as the thread sees them."""

    def wakes_at(self, at: float) -> float:
        """When the first of its claims needs the thread (`now`), or when it counts as idle."""

    def is_idle(self, at: float) -> bool:
        """Whether it had nothing to renew for some time."""

    def see_to_them(self) -> None:
        """Renew what is due. Raises nothing."""

    def hang_up(self) -> None:
        """Close the connection."""


class KeepaliveThread:
    """The thread, and what it keeps. Everything is changed under `lock` alone."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self.clients: set[Renewer] = set()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    def wake_by(self, due: float) -> None:
        """See to it that the thread runs and wakes in time; the caller holds `lock`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="pyregistry-keeper", daemon=True)
            self._wakes_at = due
            self._thread.start()
        elif due < self._wakes_at:
            # Most claims are due after those that are there: they need not wake anybody.
            self._wakes_at = due
            self.lock.notify()

    def _run(self) -> None:
        while True:
            with self.lock:
                at = now()
                if self.clients:
                    self._wakes_at = min(client.wakes_at(at) for client in self.clients)
                    self.lock.wait(max(self._wakes_at - at, 0.0))
                at = now()
                idle = {client for client in self.clients if client.is_idle(at)}
                self.clients -= idle
                clients = list(self.clients)
                if not clients:
                    self._thread = None
            for client in idle:
                client.hang_up()
            if not clients:
                return
            for client in clients:
                client.see_to_them()
