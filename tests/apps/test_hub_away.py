"""`pyregistry.huggingface` while the hub is away, and under other names: with the real huggingface_hub."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from pyregistry import FolderStore, ModelRecord, ModelStatus, Registry, RegistryUnavailable
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.huggingface import (
    SnapshotFailed,
    SnapshotRefused,
    ensure_snapshot,
    ensure_snapshot_async,
    snapshot_path,
)
from pyregistry.huggingface.errors import is_away, is_local
from tests.support.clients import AsyncFacade
from tests.support.snapshots import FILES, REPO, Replica, contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeServer
    from tests.support.clients import Connect
    from tests.support.hub import Hub

pytestmark = pytest.mark.server("embedded")  # not about the server
HOUR = 3_600_000_000  # microseconds


@pytest.fixture(params=["store", "cache"])
def place(request: pytest.FixtureRequest, store: FolderStore, tmp_path: Path) -> dict[str, Any]:
    """Where the files go."""
    return {"store": store} if request.param == "store" else {"cache_dir": tmp_path / "cache"}


def ensure(registry: Registry, repo_id: str = REPO, **options: Any) -> ModelRecord:
    """By whichever client."""
    facade: object = registry  # which only looks like a Registry where it is an AsyncRegistry
    if not isinstance(facade, AsyncFacade):
        return ensure_snapshot(registry, repo_id, **options)
    record: ModelRecord = facade._call(ensure_snapshot_async, facade._registry, repo_id, **options)
    return record


def pass_time(server_url: str, namespace: str, microseconds: int) -> None:
    """The server's clock goes on, as far as the registry can tell."""
    with redis.Redis.from_url(server_url) as client:
        client.hincrby(Keyspace(namespace).meta, "skew", microseconds)


def written(server_url: str, namespace: str) -> dict[bytes, bytes]:
    """What the registry holds of branches."""
    with redis.Redis.from_url(server_url) as client:
        found: dict[bytes, bytes] = client.hgetall(Keyspace(namespace).branches)
        return found


@contextmanager
def away(hub: Hub, how: int | str) -> Iterator[None]:
    """A hub that answers so, or not at all."""
    if how == "gone":
        hub.go_away()
    else:
        hub.status = int(how)
    yield
    hub.status = None


@pytest.mark.parametrize("how", [429, 500, 503, "gone"])
def test_a_branch_is_what_the_fleet_had_last(
    hub: Hub,
    asked: dict[str, Any],
    place: dict[str, Any],
    any_registry: Registry,
    how: int | str,
    server_url: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the hub is away a branch is the commit last downloaded for it, with one warning."""
    commit = hub.push(REPO, FILES)
    first = ensure(any_registry, **place, **asked)
    pass_time(server_url, namespace, 3 * HOUR)
    with away(hub, how):
        caplog.clear()
        assert ensure(any_registry, revision="main", **place, **asked).token == first.token
        (line,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert line.name == "pyregistry.huggingface"
        for word in ("the hub is away", commit, "3 h ago", "ConnectError" if how == "gone" else str(how)):
            assert word in line.getMessage()
        # Another branch, and other files, were not downloaded.
        for other in ({"revision": "next"}, {"allow_patterns": "*.json"}):
            with pytest.raises(SnapshotFailed, match=r"downloaded nothing|is not downloaded here") as caught:
                ensure(any_registry, retry=None, **other, **place, **asked)
            assert caught.value.hub_away
        # The time since the hub was asked last may be too long.
        assert ensure(any_registry, max_branch_age=4 * 3600, **place, **asked).token == first.token
        with pytest.raises(SnapshotFailed, match=f"{commit}.*older than max_branch_age"):
            ensure(any_registry, max_branch_age=2 * 3600, retry=None, **place, **asked)
    assert any_registry.get_status_counts() == (0, 1, 0)
    if how != "gone":  # it is asked anew as soon as it is there
        new = hub.push(REPO, {**FILES, "config.json": b"{}"})
        assert ensure(any_registry, **place, **asked).revision == new


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_hub_that_says_no_is_not_away(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    any_registry: Registry,
    status: int,
) -> None:
    """A refusal by the hub raises SnapshotRefused."""
    hub.push(REPO, FILES)
    ensure(any_registry, store=store, **asked)
    hub.status = status
    with pytest.raises(SnapshotRefused) as caught:
        ensure(any_registry, store=store, **asked)
    assert not caught.value.hub_away


def test_what_is_not_downloaded_any_more_is_not_taken(
    hub: Hub,
    asked: dict[str, Any],
    place: dict[str, Any],
    any_registry: Registry,
) -> None:
    """While the hub is away a snapshot without files raises and its record stays."""
    commit = hub.push(REPO, FILES)
    record = ensure(any_registry, **place, **asked)
    of: dict[str, Any] = {"revision": commit}
    hub.status = 503
    asked |= {"retry": None, **place}
    # Its files have gone: the record is not judged by a replica that can do nothing about it.
    path = snapshot_path(record, **place)
    aside = path.with_name("aside")
    path.rename(aside)
    with pytest.raises(SnapshotFailed, match=f"{commit}.*is not downloaded here"):
        ensure(any_registry, **asked)
    with pytest.raises(SnapshotFailed, match="no download"):
        ensure(any_registry, **of, **asked)
    assert any_registry.get_model_record(REPO, "HuggingFace", **of) == record
    aside.rename(path)
    assert ensure(any_registry, **asked).token == record.token
    # Or it has been forgotten, or has failed: nothing is claimed, and nothing recorded.
    any_registry.set_status(REPO, "HuggingFace", ModelStatus.ERROR, **of)
    with pytest.raises(SnapshotFailed, match="is not downloaded here"):
        ensure(any_registry, **asked)
    any_registry.delete_model(REPO, "HuggingFace", **of)
    with pytest.raises(SnapshotFailed, match="is not downloaded here"):
        ensure(any_registry, **asked)
    with pytest.raises(SnapshotFailed, match="no download"):
        ensure(any_registry, **of, **asked)
    assert any_registry.get_status_counts() == (0, 0, 0)


def test_a_restart_writes_nothing(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    any_registry: Registry,
    server_url: str,
    namespace: str,
) -> None:
    """A repeated ensure_snapshot writes the branch again only after a while."""
    hub.push(REPO, FILES)
    ensure(any_registry, store=store, **asked)
    first = written(server_url, namespace)
    assert first.keys() == {b"HuggingFace@main:acme/model", b"HuggingFace:acme/model"}
    ensure(any_registry, store=store, **asked)
    assert written(server_url, namespace) == first
    pass_time(server_url, namespace, HOUR)
    ensure(any_registry, store=store, **asked)
    again = written(server_url, namespace)
    assert again.keys() == first.keys()
    assert again[b"HuggingFace@main:acme/model"] != first[b"HuggingFace@main:acme/model"]


def test_offline_is_the_registry_and_the_disk_alone(
    hub: Hub,
    replicas: Callable[..., Replica],
    registry: Registry,
    environment: dict[str, str],
) -> None:
    """HF_HUB_OFFLINE uses the registry and the disk, and sends the hub nothing."""
    commit = hub.push(REPO, FILES)
    first = replicas(hub).answer()
    requests = hub.requests
    environment["HF_HUB_OFFLINE"] = "1"
    for kind in ("sync", "asyncio"):
        for revision in (None, commit):
            assert replicas(hub, kind, revision=revision).answer()["path"] == first["path"]
        for repo_id, revision in ((REPO, "next"), (REPO, "0" * 40), ("acme/other", None)):
            refused = replicas(hub, kind, repo_id, revision=revision).answer()
            assert refused["error"] == "SnapshotFailed"
            assert "HF_HUB_OFFLINE is set" in refused["message"]
    assert hub.requests == requests
    assert registry.get_status_counts() == (0, 1, 0)


# The cache that is left

OFFLINE = """
import sys
from huggingface_hub import snapshot_download
print(snapshot_download(sys.argv[1], revision=sys.argv[2], cache_dir=sys.argv[3]))
"""


def offline(environment: dict[str, str], cache: Path, revision: str, repo_id: str = REPO) -> Path:
    """Where huggingface_hub itself finds a snapshot by its branch, without a network."""
    command = [sys.executable, "-c", OFFLINE, repo_id, revision, str(cache)]
    done = subprocess.run(
        command,
        env={**environment, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return Path(done.stdout.strip())


def test_the_cache_can_be_used_offline_by_name(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """A branch in huggingface_hub's cache is found by name offline."""
    cache = tmp_path / "cache"
    old = hub.push(REPO, FILES, branch="refs/pr/1")
    first = ensure(any_registry, revision="refs/pr/1", cache_dir=cache, **asked)
    path = offline(environment, cache, "refs/pr/1")
    assert path == snapshot_path(first, cache_dir=cache)
    assert contents(path) == FILES
    # A replica that did not download shares the cache: it sees to it too.
    refs = cache / "models--acme--model" / "refs"
    (refs / "refs" / "pr" / "1").unlink()
    ensure(any_registry, revision="refs/pr/1", cache_dir=cache, **asked)
    assert (refs / "refs" / "pr" / "1").read_text() == old
    # The branch moves on.
    hub.push(REPO, FILES)
    ensure(any_registry, cache_dir=cache, **asked)
    new = hub.push(REPO, {**FILES, "config.json": b"{}"})
    ensure(any_registry, cache_dir=cache, **asked)
    assert (offline(environment, cache, "main") / "config.json").read_bytes() == b"{}"
    assert (refs / "main").read_text() == new
    assert sorted(each.name for each in refs.iterdir()) == ["main", "refs"]
    # A commit is no branch.
    ensure(any_registry, revision=old, cache_dir=cache, **asked)
    assert sorted(each.name for each in refs.iterdir()) == ["main", "refs"]


def test_while_the_hub_is_away_a_newer_ref_stays(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    tmp_path: Path,
) -> None:
    """While the hub is away an existing ref of the cache is kept, and a missing one is written."""
    cache = tmp_path / "cache"
    commit = hub.push(REPO, FILES)
    ensure(any_registry, cache_dir=cache, **asked)
    ref = cache / "models--acme--model" / "refs" / "main"
    hub.status = 503
    ref.write_text("1" * 40)
    ensure(any_registry, cache_dir=cache, **asked)
    assert ref.read_text() == "1" * 40
    ref.unlink()
    ensure(any_registry, cache_dir=cache, **asked)
    assert ref.read_text() == commit


def test_the_ref_serves_where_the_registry_knows_no_branch(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    server_url: str,
    namespace: str,
    tmp_path: Path,
) -> None:
    """A ref of the cache names the commit if the registry does not."""
    hub.push(REPO, FILES)
    record = ensure(any_registry, cache_dir=tmp_path / "cache", **asked)
    with redis.Redis.from_url(server_url) as client:
        client.delete(Keyspace(namespace).branches)
    hub.status = 503
    assert ensure(any_registry, cache_dir=tmp_path / "cache", **asked).token == record.token


def test_a_cache_that_can_not_be_written_to_is_used(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A cache whose refs can not be written is used, with a warning."""
    cache = tmp_path / "cache"
    hub.push(REPO, FILES)
    record = ensure(any_registry, cache_dir=cache, **asked)
    refs = cache / "models--acme--model" / "refs"
    (refs / "main").unlink()
    refs.rmdir()
    refs.touch()  # nobody can make a folder of it, root neither
    assert ensure(any_registry, cache_dir=cache, **asked).token == record.token
    assert "can't be found by its branch offline" in caplog.text


def test_the_registry_and_the_hub_are_away(
    hub: Hub,
    asked: dict[str, Any],
    connect_any: Connect,
    place: dict[str, Any],
    make_server: MakeServer,
) -> None:
    """While registry and hub are away a verified snapshot on disk is returned."""
    commit = hub.push(REPO, FILES)
    server = make_server()
    registry = connect_any(url=server.url, timeout=1.0)
    asked |= {"on_unavailable": "verify", "retry": None, **place}
    first = ensure(registry, **asked)
    server.stop()
    hub.status = 503
    found = ensure(registry, revision=commit, **asked)
    assert snapshot_path(found, **place) == snapshot_path(first, **place)
    if "cache_dir" in place:
        assert ensure(registry, **asked).revision == commit
    else:  # what a branch was only the registry knows
        with pytest.raises(SnapshotFailed, match="the registry is away"):
            ensure(registry, **asked)
    with pytest.raises(RegistryUnavailable):
        ensure(registry, **{**asked, "on_unavailable": "raise"})


# Names


@pytest.mark.parametrize("revision", ["main", "commit"])
def test_another_spelling_is_the_same_model(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    place: dict[str, Any],
    revision: str,
) -> None:
    """Every spelling and former name of a repository is one model."""
    commit = hub.push(REPO, FILES)
    hub.renamed["old/name"] = REPO
    of = commit if revision == "commit" else "main"
    for spelling in ("Acme/Model", REPO, "old/name", "Old/Name", "ACME/model"):
        record = ensure(any_registry, spelling, revision=of, **place, **asked)
        assert (record.model_name, record.revision) == (REPO, commit)
    assert hub.fetched == {(REPO, commit, name): 1 for name in FILES}
    assert any_registry.get_status_counts() == (0, 1, 0)
    if "cache_dir" in place:
        assert [each.name for each in place["cache_dir"].glob("models--*")] == ["models--acme--model"]
    # What was asked for once is known without the hub, and so is what differs in case.
    hub.status = 503
    for spelling in ("Acme/Model", "old/name", "OLD/name", "aCME/mODEL"):
        again = ensure(any_registry, spelling, revision=of, retry=None, **place, **asked)
        assert again.token == record.token
    with pytest.raises(SnapshotFailed):
        ensure(any_registry, "another/name", revision=of, retry=None, **place, **asked)


def test_a_record_of_before_is_found_by_its_name(
    hub: Hub,
    asked: dict[str, Any],
    any_registry: Registry,
    store: FolderStore,
    server_url: str,
    namespace: str,
) -> None:
    """A registry that was filled before names were kept."""
    commit = hub.push(REPO, FILES)
    record = ensure(any_registry, store=store, **asked)
    with redis.Redis.from_url(server_url) as client:
        client.delete(Keyspace(namespace).branches)
    hub.status = 503
    assert ensure(any_registry, revision=commit, store=store, **asked).token == record.token


# Whose fault it is


def test_what_is_away_and_what_is_local() -> None:
    """Errors are classified as hub away, local, or neither."""

    class Answer:
        url = "https://hub.example.com/file"

        def __init__(self, status_code: int) -> None:
            self.status_code = status_code

    class Said(Exception):
        def __init__(self, status: int) -> None:
            self.response = Answer(status)

    assert [status for status in (400, 401, 404, 408, 429, 500, 502, 599) if is_away(Said(status))] == [
        408, 429, 500, 502, 599,
    ]  # fmt: skip
    wrapped = ValueError("wrapped")
    wrapped.__cause__ = TimeoutError()
    assert is_away(wrapped)
    assert not is_away(ValueError("something else"))
    assert [number for number in (2, 12, 13, 24, 28, 30) if is_local(OSError(number, ""))] == [12, 13, 24, 30]
    wrapped.__cause__ = OSError(24, "Too many open files")
    assert is_local(wrapped)
    assert is_local(RuntimeError("can't start new thread"))
    assert not is_local(wrapped.__cause__.__class__("no number"))


def test_wrong_ages(registry: Registry) -> None:
    """An invalid max_branch_age raises ValueError."""
    for wrong in (-1, float("nan"), "1"):
        with pytest.raises(ValueError, match="max_branch_age"):
            ensure_snapshot(registry, REPO, max_branch_age=wrong)  # type: ignore[arg-type]  # on purpose
