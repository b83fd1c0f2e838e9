"""Run one command and kill all of its descendants at its end. A standalone program on the standard library alone.

Usage: ``python -I -S supervisor.py SOCKET GRACE COMMAND...``, in a session of its own. The supervisor and the command
share one process group.

SOCKET is a descriptor; the starter (`Child`) holds its other end. The supervisor writes the exit code of the command
to it. End of file on SOCKET means that the starter has ended, or wants the command to end. The supervisor then sends
TERM, and KILL after GRACE seconds. At the end it kills the whole group, itself included, and with it every descendant
that is still in the group.

PR_SET_PDEATHSIG is no alternative: it exists on Linux only, and reaches the command but not its descendants.
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
"""Exit codes of a command that could not be started. A shell uses the same ones."""


def main() -> None:
    """Run the command of `sys.argv`. Ends by SIGKILL."""
    starter = socket.socket(fileno=int(sys.argv[1]))
    starter.set_inheritable(False)
    grace, command = float(sys.argv[2]), sys.argv[3:]
    # Blocked signals stay pending until the command can receive them.
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    pid = os.fork()
    if pid == 0:
        run(command)
    # Signals to the group are meant for the command. A handler, not SIG_IGN, so that no process inherits an ignored
    # signal.
    for number in PASSED_ON:
        signal.signal(number, lambda *_: None)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)

    kill_at: float | None = None
    while True:
        # As process 1 of a container the supervisor also gets orphans as children: wait for this child only.
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):  # the starter has ended
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
            os.killpg(0, signal.SIGCONT)  # a stopped process handles TERM only once it continues
    os.killpg(0, signal.SIGKILL)


def received(starter: socket.socket) -> bytes:
    """Read from the starter. Empty once the starter has ended or has shut down its end."""
    try:
        return starter.recv(1)
    except OSError:
        return b""


def run(command: list[str]) -> None:
    """Replace this process with the command."""
    # Python ignores PIPE and XFSZ at its start, so whether the caller ignored them is unknown. Restore the defaults.
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
