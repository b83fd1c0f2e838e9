"""Runs one command and sees to it that nothing is left of it. A program of its own, of the standard library alone.

``python -I -S warden.py SOCKET GRACE COMMAND...``, in a session of its own, whose process group is that of the
command too. SOCKET is a descriptor, whose other end has whoever started it (`Child`). The exit code of the command is
written to it; once nothing can be read from it any more, the starter has gone or wants the command to end: TERM,
and after GRACE seconds KILL. In the end the whole group is killed, the warden with it: what the command has
started dies with it.

Why not PR_SET_PDEATHSIG: it is Linux's alone, and reaches the command, but nothing that the command has started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
NOT_FOUND, NOT_RUNNABLE = 127, 126
"""Exit codes of a command that could not be started, as a shell gives them."""


def main() -> None:
    """Do it. Ends by SIGKILL."""
    starter = socket.socket(fileno=int(sys.argv[1]))
    starter.set_inheritable(False)
    grace, command = float(sys.argv[2]), sys.argv[3:]
    # What comes before the command can take it is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    pid = os.fork()
    if pid == 0:
        run(command)
    # What the group is told is for the command. A handler, and not SIG_IGN: there is nothing to inherit.
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    kill_at: float | None = None
    while True:
        # As init of a container's own PID namespace it would have other children too: only this one counts.
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):  # the starter has gone
                starter.send(str(128 - code if code < 0 else code).encode())
            break
        if kill_at is not None and time.monotonic() >= kill_at:
            break
        watched = [wakes] if kill_at is not None else [wakes, starter.fileno()]
        left = None if kill_at is None else max(kill_at - time.monotonic(), 0.0)
        ready, _, _ = select.select(watched, [], [], left)
        if wakes in ready:
            os.read(wakes, 4096)
        if starter.fileno() in ready and not received(starter):
            kill_at = time.monotonic() + grace
            os.killpg(0, signal.SIGTERM)
            os.killpg(0, signal.SIGCONT)  # what is stopped takes no other signal
    os.killpg(0, signal.SIGKILL)


def received(starter: socket.socket) -> bytes:
    """What the starter says; nothing: it has gone, or says no more."""
    try:
        return starter.recv(1)
    except OSError:
        return b""


def run(command: list[str]) -> None:
    """Become the command."""
    # Python ignores these two; whether it was started so can't be told, and is unusual.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"pyregistry: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE)


if __name__ == "__main__":
    main()
