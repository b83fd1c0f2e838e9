"""Exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum

from pyregistry.errors import (
    ClaimLost,
    ConfigurationError,
    DownloadFailed,
    InvalidArgument,
    LocalFault,
    OutcomeUnknown,
    RecordRefused,
    RegistryClosed,
    RegistryError,
    RegistryUnavailable,
    ServerRefused,
    WaitTimedOut,
)

__all__ = ["MEANINGS", "Exit", "exit_of"]


class Exit(IntEnum):
    """Exit code of a command. `MEANINGS` describes each one."""

    DONE = 0
    NO = 1
    WRONG_CALL = 2
    UNAVAILABLE = 3
    SERVER_REFUSED = 4
    RECORD_REFUSED = 5
    OUTCOME_UNKNOWN = 6
    DOWNLOAD_FAILED = 7
    TIMED_OUT = 8
    CLAIM_LOST = 9
    FAILED = 70
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS = {
    Exit.DONE: "done; yes",
    Exit.NO: "the answer is no: not claimed, lost, unknown, something is wrong",
    Exit.WRONG_CALL: "wrong usage, arguments, URL or environment; an extra is missing",
    Exit.UNAVAILABLE: "nobody answered, or this machine can't do what a download needs; nothing was changed",
    Exit.SERVER_REFUSED: "the server refused: credentials, rights, version, memory",
    Exit.RECORD_REFUSED: "the record forbids it: being evicted, held, damaged",
    Exit.OUTCOME_UNKNOWN: "sent, but no answer came: it may have been carried out",
    Exit.DOWNLOAD_FAILED: "the download failed, and not in the command that was run here",
    Exit.TIMED_OUT: "nobody finished the download in time",
    Exit.CLAIM_LOST: "the claim is somebody else's by now, or can't be proved",
    Exit.FAILED: "failed otherwise: the answer can't be written, or a bug",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.BROKEN_PIPE: "whoever read the output has gone",
}

_BY_ERROR = {
    InvalidArgument: Exit.WRONG_CALL,
    ConfigurationError: Exit.WRONG_CALL,
    RegistryClosed: Exit.UNAVAILABLE,
    RegistryUnavailable: Exit.UNAVAILABLE,
    ServerRefused: Exit.SERVER_REFUSED,
    RecordRefused: Exit.RECORD_REFUSED,
    OutcomeUnknown: Exit.OUTCOME_UNKNOWN,
    DownloadFailed: Exit.DOWNLOAD_FAILED,
    WaitTimedOut: Exit.TIMED_OUT,
    ClaimLost: Exit.CLAIM_LOST,
    LocalFault: Exit.UNAVAILABLE,
}


def exit_of(error: RegistryError) -> Exit:
    """Return the exit code of an error's branch of the error tree; `Exit.FAILED` for any other error."""
    return next((code for kind, code in _BY_ERROR.items() if isinstance(error, kind)), Exit.FAILED)
