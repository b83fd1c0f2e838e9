"""What is logged, where, and how loudly; and what never is."""

from __future__ import annotations

import ast
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import redis

import pyregistry
from pyregistry import Claim, Claimed, ModelStatus, Registry
from pyregistry.doctor import Level, examine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeServer
    from tests.support.clients import Connect

pytestmark = pytest.mark.server("embedded", "debian")  # not about the server; two Pythons
ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-passw0rd"  # looked for in all that must not show it
DEBUG, INFO, WARNING = logging.DEBUG, logging.INFO, logging.WARNING


@pytest.fixture
def other(server_url: str, namespace: str) -> Iterator[Registry]:
    with Registry.from_url(server_url, namespace, owner="somebody else") as other:
        yield other


def claimed(registry: Registry, **options: Any) -> Claim:
    result = registry.try_claim_for_download("acme/model", "S3", **{"lease": 60.0, **options})
    assert isinstance(result, Claimed)
    return result.claim


class Told:
    """What a call logs."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def of(self, call: Callable[[], object]) -> list[tuple[int, str]]:
        """The levels and lines of pyregistry's own loggers."""
        self._caplog.clear()
        with self._caplog.at_level(DEBUG, "pyregistry"):
            call()
        records = [record for record in self._caplog.records if record.name.startswith("pyreg")]
        for record in records:
            assert record.name == "pyregistry" or record.name.startswith("pyregistry.")
        return [(record.levelno, record.getMessage()) for record in records]

    def level_of(self, call: Callable[[], object], *words: str) -> int:
        """The level of the one line, which holds these words."""
        ((level, line),) = self.of(call)
        for word in words:
            assert word in line
        return level


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    return Told(caplog)


def test_transitions_are_for_those_who_debug(any_registry: Registry, told: Told) -> None:
    """Each transition logs one DEBUG line with its model."""
    registry = any_registry
    model: Final = ("acme/model", "S3")
    claims: list[Claim] = []
    assert told.level_of(lambda: claims.append(claimed(registry)), "S3:acme/model", "claimed") == DEBUG
    (claim,) = claims
    token = str(claim.token)
    assert told.level_of(partial(registry.refresh_download_claim, claim), "renewed", token) == DEBUG
    assert told.level_of(partial(registry.release_download_claim, claim), "released", token) == DEBUG
    registry.delete_model(*model)
    claim = claimed(registry)
    finish = partial(registry.finish_download_claim, claim, ModelStatus.ERROR)
    assert told.level_of(finish, "S3:acme/model", "finished as ERROR", str(claim.token)) == DEBUG
    set_status = partial(registry.set_status, *model, ModelStatus.DOWNLOADED)
    assert told.level_of(set_status, "S3:acme/model", "DOWNLOADED") == DEBUG
    assert told.level_of(partial(registry.touch_model, *model), "touched") == DEBUG
    assert told.level_of(partial(registry.delete_model, *model), "deleted", "acme/model") == DEBUG


def test_a_model_is_told_with_its_revision_and_subset(any_registry: Registry, told: Told) -> None:
    """A log line names the model with its provider, revision and subset."""

    def claim() -> object:
        return any_registry.try_claim_for_download(
            "m", "HuggingFace", revision="main", subset="tokenizer", lease=5.0
        )

    assert told.level_of(claim, "HuggingFace@main#tokenizer:m") == DEBUG


def test_a_takeover_is_told(any_registry: Registry, other: Registry, told: Told) -> None:
    """A takeover logs one INFO line with the former owner and its progress."""
    theirs = claimed(other)
    other.refresh_download_claim(theirs, bytes_done=4711)
    other.release_download_claim(theirs)
    line = ("took over", "S3:acme/model", "somebody else", "4711")
    assert told.level_of(lambda: claimed(any_registry), *line) == INFO


def test_a_retry_is_told(any_registry: Registry, told: Told) -> None:
    """A retry that wins logs one INFO line, and one that fails a DEBUG line."""
    any_registry.finish_download_claim(claimed(any_registry), ModelStatus.ERROR)

    def retry() -> object:
        return any_registry.try_reset_error_for_retry("acme/model", "S3", lease=60.0)

    assert told.level_of(retry, "retries", "S3:acme/model", "attempt 2") == INFO
    # This one is not won.
    assert told.level_of(retry, "not retried", "DOWNLOADING") == DEBUG


@pytest.mark.parametrize("lease", [60.0, None])
def test_ending_somebody_elses_claim_is_a_warning(
    any_registry: Registry, other: Registry, told: Told, lease: float | None
) -> None:
    """set_status on another client's claim logs a WARNING."""
    token = str(claimed(other, lease=lease).token)

    def end() -> None:
        any_registry.set_status("acme/model", "S3", ModelStatus.ERROR)

    assert told.level_of(end, "S3:acme/model", "somebody else", token) == WARNING
    # There is no claim any more.
    assert told.level_of(end) == DEBUG


@pytest.mark.parametrize("options", [{"lease": 60.0}, {"lease": None}, {}, {"claim_id": "job 7"}], ids=str)
def test_ending_a_claim_of_ones_own_is_no_warning(
    any_registry: Registry, told: Told, options: dict[str, Any]
) -> None:
    """set_status on a claim of the same client logs DEBUG."""
    result = any_registry.try_claim_for_download("acme/model", "S3", **options)
    assert isinstance(result, Claimed)
    assert told.level_of(partial(any_registry.set_status, "acme/model", "S3", ModelStatus.ERROR)) == DEBUG


def test_a_message_on_a_download_that_goes_on_is_no_warning(
    any_registry: Registry, other: Registry, told: Told
) -> None:
    """set_status with DOWNLOADING on another client's claim logs DEBUG."""
    claimed(other)
    tell = partial(any_registry.set_status, "acme/model", "S3", ModelStatus.DOWNLOADING, "slow")
    assert told.level_of(tell) == DEBUG


ENDS: dict[str, Callable[[Registry, Claim], object]] = {
    "renew": lambda registry, claim: registry.refresh_download_claim(claim),
    "finish": lambda registry, claim: registry.finish_download_claim(claim, ModelStatus.ERROR),
    "release": lambda registry, claim: registry.release_download_claim(claim),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_claim_that_is_lost_is_a_warning(
    any_registry: Registry, other: Registry, told: Told, end: str
) -> None:
    """A call for a lost claim logs a WARNING."""
    claim = claimed(any_registry)
    other.delete_model("acme/model")
    call = partial(ENDS[end], any_registry, claim)
    assert told.level_of(call, "S3:acme/model", "lost", str(claim.token)) == WARNING


def test_renewing_what_one_has_ended_oneself_is_no_warning(any_registry: Registry, told: Told) -> None:
    """A renewal of a claim that the same client ended logs DEBUG."""
    claim = claimed(any_registry)
    any_registry.finish_download_claim(claim, ModelStatus.ERROR)
    assert told.level_of(partial(any_registry.refresh_download_claim, claim), "ended") == DEBUG


def test_no_claim_id_is_logged(any_registry: Registry, other: Registry, told: Told) -> None:
    """No log line and no repr contains a claim id."""
    # It is the claim's secret.
    lines: list[tuple[int, str]] = []
    claims: list[Claim] = []
    lines += told.of(lambda: claims.append(claimed(any_registry, claim_id="a secret name")))
    lines += told.of(lambda: any_registry.refresh_download_claim(claims[0]))
    lines += told.of(lambda: other.set_status("acme/model", "S3", ModelStatus.ERROR))
    lines += told.of(lambda: any_registry.finish_download_claim(claims[0], ModelStatus.ERROR))
    assert len(lines) == 4
    assert "a secret name" not in repr((lines, claims))


def test_no_password_is_logged(
    connect_any: Connect, make_server: MakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No log record contains the password of the server."""
    server = make_server(password=SECRET)
    with caplog.at_level(DEBUG):
        registry = connect_any(url=server.url)
        claim = claimed(registry)
        with redis.Redis.from_url(server.url) as raw:
            raw.script_flush()
            raw.client_kill_filter(_type="normal", skipme=True)
        registry.finish_download_claim(claim, ModelStatus.DOWNLOADED)
        logging.getLogger("user").warning("%r %s", registry, registry)
        registry.close()
    assert caplog.records
    for record in caplog.records:
        assert SECRET not in record.getMessage()
        assert SECRET not in repr(record.args)
    assert f"127.0.0.1:{urlsplit(server.url).port}" in caplog.text


def test_the_library_installs_no_handlers() -> None:
    """An import and a client install no log handler and set no level."""
    script = """
import logging
before = [*logging.root.handlers]
import pyregistry
from pyregistry import AsyncRegistry, Registry
Registry.from_url("redis://127.0.0.1:1").close()
AsyncRegistry.from_url("redis://127.0.0.1:1")
loggers = [logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)]
print([logger.name for logger in loggers if logger.name.startswith("pyregistry") and (
    logger.level or logger.disabled or not logger.propagate
    or [each for each in logger.handlers if not isinstance(each, logging.NullHandler)])])
print(logging.root.handlers == before, logging.root.level == logging.WARNING)
"""
    command = [sys.executable, "-c", script]
    where = Path(pyregistry.__file__).parent.parent
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == ["[]", "True True"]
    assert done.stderr == ""


# What is put together elsewhere, or logged as a WARNING at times: where it stands in the source, and what it says.
SPELLED = {
    "log": "the download of %s (token %d) was ended: %s",
    "%s": "the claim of %s (%s, token %d) is lost: %s",
    "%s: %s": "...: ...",  # what huggingface_hub says
}
AT_TIMES = {"the claim of %s (token %d): %s", "%d models could not be touched%s: %s"}


def warnings_of(path: Path) -> Iterator[str]:
    """The formats of what a module logs as a WARNING."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_log.warning", "_log.error"):
            first = node.args[0]
            text = str(first.value) if isinstance(first, ast.Constant) else ast.unparse(first)
            yield SPELLED.get(text, text)


def test_each_warning_is_in_the_table_of_the_docs() -> None:
    """Each WARNING of the source is in the table of docs/how-to/read-the-log.md."""
    rows = (ROOT / "docs" / "how-to" / "read-the-log.md").read_text("utf-8").splitlines()
    formats = {text for path in (ROOT / "pyregistry").rglob("*.py") for text in warnings_of(path)}
    assert len(formats) > 15, "the calls are found"
    for text in formats | AT_TIMES:
        parts = [part.strip() for part in re.split("%[sdg]", text) if part.strip(" :()")]
        assert any(row.startswith("|") and all(part in row for part in parts) for row in rows), text


@pytest.mark.parametrize("lacking", [False, True])
def test_a_user_who_may_not_wait_is_warned_of(
    make_server: MakeServer, connect_any: Connect, told: Told, lacking: bool
) -> None:
    """A client whose user lacks SSUBSCRIBE logs a WARNING, and doctor finds it."""
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        right = "-ssubscribe" if lacking else "+ssubscribe"
        client.execute_command("ACL", "SETUSER", "a", "on", ">pw", "~*", "&*", "+@all", right)
    url = server.url.replace("redis://", "redis://a:pw@")
    said = [line for level, line in told.of(lambda: connect_any(url=url, namespace="n")) if level == WARNING]
    missing = "waiting will be refused: this user lacks the right to SSUBSCRIBE pyregistry:{n}:events"
    assert said == ([missing] if lacking else [])
    wrong = [finding.level for finding in examine(url, "n") if finding.check == "rights"]
    assert wrong == ([Level.WARNING] if lacking else [])
