"""Context of a command: its common options, its connection, and the output of answers and errors."""

from __future__ import annotations

import copy
import logging
import os
import re
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rich.console import Console

from pyregistry.cli.advice import Told, check_scheme, told
from pyregistry.cli.claim_token import shell_failure
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import name_of, printable
from pyregistry.cli.output import Answer, to_json
from pyregistry.config import BackendConfig
from pyregistry.errors import ConfigurationError, RegistryError
from pyregistry.models import ModelRef
from pyregistry.registry import Registry

__all__ = ["NAMED_BY", "Cli", "Given", "complain", "fail_shell"]

NAMED_BY = (
    "PYREGISTRY_URL", "MX_METADATA_BACKEND", "MX_REDIS_URL", "REDIS_URL", "MX_REDIS_HOST", "MX_REDIS_PORT",
    "REDIS_HOST",
)  # fmt: skip
# Beginning of a log message that is hidden: a command that waits reports this refusal itself.
_OF_WAITING = "waiting will be refused: "
_NAMESPACE = "PYREGISTRY_NAMESPACE"


@dataclass(frozen=True)
class Given:
    """The common options. None: not given."""

    url: str | None = None
    namespace: str | None = None
    timeout: float | None = None
    as_json: bool | None = None
    verbose: int = 0

    def over(self, general: Given) -> Given:
        """Merge these options, given after the command, with those before it. These take precedence."""
        return Given(
            url=general.url if self.url is None else self.url,
            namespace=general.namespace if self.namespace is None else self.namespace,
            timeout=general.timeout if self.timeout is None else self.timeout,
            as_json=general.as_json if self.as_json is None else self.as_json,
            verbose=max(general.verbose, self.verbose),
        )


class Cli:
    """Context of one command. A context manager, which closes the connection at its end.

    Attributes:
        given: The common options.

    Args:
        given: The common options.
        warns: Whether to show warnings of the log. Defaults to True.
        said: Pattern of log messages to hide, because the command reports the same itself. Defaults to none.
    """

    def __init__(self, given: Given, *, warns: bool = True, said: str = "") -> None:
        self.given = given
        self._warns = warns
        self._said = said
        self._stack = ExitStack()

    def __enter__(self) -> Cli:
        self._stack.enter_context(
            _logging(self.given.verbose, self._warns and not self.wants_json, self._said)
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def wants_json(self) -> bool:
        """Whether ``--json`` was given."""
        return bool(self.given.as_json)

    @property
    def on_screen(self) -> bool:
        """Whether the answer goes to a terminal in its human-readable form."""
        return not self.wants_json and sys.stdout.isatty()

    @cached_property
    def config(self) -> BackendConfig:
        """The server and namespace: from the options, else from the environment, else the user's embedded server.

        Raises:
            ConfigurationError: The configuration is incomplete or contradictory.
        """
        given, url = self.given, self.given.url
        if url is None and not any(name in os.environ for name in NAMED_BY):
            if _NAMESPACE in os.environ:
                # Other programs read this variable too, so it is unlikely to mean the user's embedded server.
                raise ConfigurationError(
                    f"{_NAMESPACE} is set, but no server is named: set PYREGISTRY_URL too "
                    "(embedded:// is your own server), or give --url"
                )
            url = "embedded://"
        if url is None:
            config = BackendConfig.from_env()
        else:
            config = BackendConfig.redis(url, os.environ.get(_NAMESPACE, "default").strip())
        check_scheme(config.url, config.told_by.get("url", "--url"))
        options = {} if given.timeout is None else {"timeout": given.timeout}
        return BackendConfig(
            config.url,
            config.namespace if given.namespace is None else given.namespace,
            options,
            config.told_by,
        )

    @cached_property
    def registry(self) -> Registry:
        """The connected client. Closed at the end of the command."""
        self.client.connect()
        return self.client

    @cached_property
    def client(self) -> Registry:
        """The client, which may not be connected yet."""
        config = self.config
        logging.getLogger("pyregistry.cli").info("%r", config)
        # The parent process, because this process has ended by the time its name is read.
        owner = f"{socket.gethostname()}:{os.getppid()}"
        client = Registry.from_url(config.url, config.namespace, owner=owner, **config.options)
        self._stack.callback(client.close)
        return client

    def told(self, error: RegistryError) -> Told:
        """Return the human-readable form of an error."""
        # Without a cached `config` the error comes from the configuration itself, so there is no server.
        message, advice = told(error, self.__dict__.get("config"))
        return Told("\n".join(map(printable, message.splitlines())), advice)

    def give(self, answer: Answer) -> Exit:
        """Write an answer; return its exit code."""
        if self.wants_json:
            _write(answer.view.json())
        elif self.on_screen and (screen := answer.view.screen()) is not None:
            Console(highlight=False, markup=False, emoji=False).print(screen)
        else:
            for line in answer.view.lines():
                print(line)
        sys.stdout.flush()
        words = answer.note if isinstance(answer.note, str) else answer.note()
        if words:
            self.note(words)
        return answer.code

    def note(self, words: str) -> None:
        """Write a note to standard error; nothing with ``--json``."""
        if not self.wants_json:
            print(f"pyregistry: {words}", file=sys.stderr)


def _write(pieces: Iterable[bytes]) -> None:
    # Bytes, because JSON is UTF-8 and the terminal's encoding may differ.
    for piece in pieces:
        sys.stdout.buffer.write(piece)
    sys.stdout.buffer.write(b"\n")


if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[Any]
else:
    _StreamHandler = logging.StreamHandler  # not generic in Python 3.10


class _ToStandardError(_StreamHandler):
    """Writes to the current `sys.stderr`. A live display replaces it, and redraws itself below the log."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        """Ignore the assignment: the stream is always the current `sys.stderr`."""


class _Readable(logging.Formatter):
    """Formats models in log messages like the rest of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple) and any(isinstance(arg, ModelRef) for arg in record.args):
            record = copy.copy(record)
            record.args = tuple(
                f"{name_of(arg)} ({arg.provider})" if isinstance(arg, ModelRef) else arg
                for arg in record.args or ()
            )
        return super().format(record)


@contextmanager
def _logging(verbose: int, warns: bool, said: str) -> Iterator[None]:
    """Send the log to standard error within this context.

    Args:
        verbose: 0: warnings; 1: also INFO; 2 or more: also DEBUG.
        warns: Whether to show warnings at `verbose` 0.
        said: Pattern of messages to hide at `verbose` 0.
    """
    quiet = logging.WARNING if warns else logging.CRITICAL
    handler = _ToStandardError()
    handler.setFormatter(_Readable("pyregistry: %(levelname)s: %(message)s"))
    if not verbose:
        unsaid = re.compile("|".join(filter(None, (said, _OF_WAITING))))
        handler.addFilter(lambda record: not unsaid.match(record.getMessage()))
    logger = logging.getLogger("pyregistry")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel({0: quiet, 1: logging.INFO}.get(verbose, logging.DEBUG))
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


def complain(kind: str, message: str | Told, code: int, *, json: bool) -> int:
    """Write an error to standard error; return its exit code.

    Args:
        kind: Name of the error class.
        message: The error, with advice if it is a `Told`.
        code: The exit code.
        json: Whether to write JSON.
    """
    said = Told(message) if isinstance(message, str) else message
    if json:
        document = {"type": kind, "message": said.message, "advice": said.advice, "exit_code": int(code)}
        text = to_json(document).decode()
    else:
        text = "\n-> ".join(filter(None, (f"pyregistry: {said.message}", said.advice)))
    print(text, file=sys.stderr)
    return code


def fail_shell(code: int, *, json: bool) -> None:
    """Print a command that makes the evaluating shell fail; nothing for JSON or a terminal."""
    if not json and not sys.stdout.isatty():
        print(shell_failure(code))
