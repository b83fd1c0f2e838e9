"""`pyregistry.huggingface` with the real huggingface_hub, against a hub that the tests start."""

from __future__ import annotations

import asyncio
import errno
import inspect
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pyregistry import (
    AsyncRegistry,
    Claimed,
    ConfigurationError,
    DownloadFailed,
    FolderStore,
    InvalidArgument,
    LocalFault,
    ModelRecord,
    ModelStatus,
    Registry,
    RetryPolicy,
)
from pyregistry.huggingface import (
    _DEFAULTS,
    EnsureOptions,
    SnapshotRefused,
    ensure_snapshot,
    ensure_snapshot_async,
    snapshot_path,
    subset_of,
)
from pyregistry.huggingface.errors import is_permanent, without_secrets
from tests.support.faults import mounts
from tests.support.faults.proxy import until
from tests.support.hub import Hub
from tests.support.snapshots import FILES, REPO, SECONDS, Replica, contents, worker_of

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.server("embedded")  # not about the server
TOKEN = "hf_averysecrettokenofatest"


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def record_of(registry: Registry, commit: str, subset: str | None = None) -> ModelRecord | None:
    return registry.get_model_record(REPO, "HuggingFace", revision=commit, subset=subset)


# A fleet


def test_of_six_processes_one_downloads(
    hub: Hub, replicas: Callable[..., Replica], registry: Registry, store: FolderStore
) -> None:
    """Of six processes one downloads each file of a snapshot once."""
    commit = hub.push(REPO, FILES)
    started = [replicas(hub, kind) for kind in ("sync", "asyncio") * 3]
    answers = [replica.answer() for replica in started]
    assert len({answer["path"] for answer in answers}) == 1, answers
    assert hub.fetched == {(REPO, commit, name): 1 for name in FILES}
    assert hub.begun == hub.fetched
    folder = Path(answers[0]["path"])
    assert contents(folder) == FILES
    assert not (folder / ".cache").exists()
    record = record_of(registry, commit)
    assert record is not None
    assert record.status is ModelStatus.DOWNLOADED
    assert record.resolved_revision == commit
    assert record.size_bytes == sum(map(len, FILES.values()))
    assert store.path(record) == folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_a_hub_that_falls_silent_is_left_for_another(
    hub: Hub, replicas: Callable[..., Replica], registry: Registry, store: FolderStore, kind: str
) -> None:
    """A silent hub ends the attempt, and another replica downloads."""
    files = {"weights.bin": os.urandom(3_000_000)}
    commit = hub.push(REPO, files)
    with Hub() as healthy:
        assert healthy.push(REPO, files) == commit
        hub.sends_only = 1_000_000
        first = replicas(hub, kind, stall_timeout=8, retry=None)

        def first_megabyte() -> bool:
            record = record_of(registry, commit)
            assert record is None or record.status is ModelStatus.DOWNLOADING, first.log
            return record is not None and (record.bytes_done or 0) > 900_000

        until(first_megabyte, "the first megabyte is there", SECONDS)
        second = replicas(healthy, kind)
        gave_up = first.answer()  # if it does not see the error, it sees that the other one tries again
        assert gave_up.get("error", "DownloadFailed") == "DownloadFailed"
        assert "was ended: no progress for 8 s" in first.log
        assert is_gone(first.worker())
        answer = second.answer()
    assert hub.fetched == {}
    assert healthy.fetched == {(REPO, commit, "weights.bin"): 1}
    assert contents(Path(answer["path"])) == files
    assert answer["attempts"] == 2
    assert contents(store.root / ".pyregistry" / "staging") == {}


@pytest.mark.slow
def test_a_hub_that_is_slow_is_waited_for(hub: Hub, replicas: Callable[..., Replica]) -> None:
    """A slow hub with progress is waited for."""
    files = {"weights.bin": os.urandom(450_000)}
    hub.push(REPO, files)
    hub.pace = 25_000  # twice as long, and more, as nothing at all would be waited for
    answer = replicas(hub, stall_timeout=8, retry={"attempts": 1}).answer()
    assert contents(Path(answer["path"])) == files
    assert answer["attempts"] == 1


def test_the_download_does_not_outlive_its_owner(
    hub: Hub, replicas: Callable[..., Replica], registry: Registry
) -> None:
    """The downloading process ends with its killed owner."""
    commit = hub.push(REPO, FILES)
    hub.sends_only = 100_000
    first = replicas(hub, lease=3)
    worker = first.worker()
    until(lambda: hub.begun[REPO, commit, "weights/one.bin"], "the download goes on", SECONDS)
    first.process.kill()
    # By itself it would go on for a minute: huggingface_hub asks a hub that is silent six times.
    until(lambda: is_gone(worker), "the process that downloads is gone", 30)
    hub.sends_only = None
    answer = replicas(hub).answer()
    assert contents(Path(answer["path"])) == FILES
    assert answer["attempts"] == 2


# Whoever is to stop


async def test_to_cancel_it_ends_the_download(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    server_url: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cancelling ends the downloading process and releases the claim."""
    caplog.set_level(logging.INFO, "pyregistry")
    commit = hub.push(REPO, FILES)
    hub.sends_only = 100_000
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        task = asyncio.create_task(ensure_snapshot_async(registry, REPO, store=store, **asked))
        worker = await asyncio.to_thread(worker_of, lambda: caplog.text)
        await asyncio.to_thread(
            until, lambda: hub.begun[REPO, commit, "weights/one.bin"], "it downloads", SECONDS
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone(worker)
        assert contents(store.root / ".pyregistry" / "staging") == {}
        # It was given back: nobody has to wait for the lease.
        result = await registry.try_claim_for_download(REPO, "HuggingFace", revision=commit)
        assert isinstance(result, Claimed)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pyregistry-run")]


async def test_to_cancel_it_ends_the_trial(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    server_url: str,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that is tried before there is a claim is not left behind either."""
    hub.push(REPO, FILES)
    pid = tmp_path / "pid"
    program = (
        f"import os, time, pathlib; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    )
    monkeypatch.setattr("pyregistry.huggingface.worker_process._PROGRAM", program)
    asked |= {"max_workers": 5}  # no test has tried this one
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        task = asyncio.create_task(ensure_snapshot_async(registry, REPO, store=store, **asked))
        worker = int(
            await asyncio.to_thread(until, lambda: pid.exists() and pid.read_text(), "it starts", SECONDS)
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_gone(worker)
        assert await registry.get_status_counts() == (0, 0, 0)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # it is whole by now, and has another name


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux tells a process what it has open")
async def test_half_a_file_is_not_left_in_a_cache(
    hub: Hub, asked: dict[str, Any], server_url: str, namespace: str, tmp_path: Path
) -> None:
    """Cancelling leaves no incomplete file in the cache."""
    hub.push(REPO, FILES)
    hub.sends_only = 100_000
    cache = tmp_path / "cache"
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        task = asyncio.create_task(ensure_snapshot_async(registry, REPO, cache_dir=cache, **asked))

        def half() -> list[Path]:
            return [path for path in cache.rglob("*.incomplete") if size_of(path) > 0]

        await asyncio.to_thread(until, half, "there is half a file", SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert list(cache.rglob("*.incomplete")) == []


def test_a_claim_that_is_lost_ends_the_download(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    registry: Registry,
    server_url: str,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A lost claim ends the downloading process."""
    caplog.set_level(logging.INFO, "pyregistry")
    commit = hub.push(REPO, FILES)
    hub.sends_only = 100_000
    seen: list[bool] = []

    def interfere() -> None:
        worker = worker_of(lambda: caplog.text)
        until(lambda: hub.begun[REPO, commit, "weights/one.bin"], "it downloads", SECONDS)
        with Registry.from_url(server_url, namespace) as other:
            other.set_status(REPO, "HuggingFace", "ERROR", "not this one", revision=commit)
        until(lambda: is_gone(worker), "the process that downloads is gone", SECONDS)
        seen.append(True)

    thread = threading.Thread(target=interfere)
    thread.start()
    try:
        with pytest.raises(DownloadFailed, match="not this one"):
            ensure_snapshot(registry, REPO, store=store, retry=None, **{**asked, "lease": 3})
    finally:
        thread.join()
    assert seen == [True]


# Revisions and files


def test_a_branch_that_moves_is_another_record(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry
) -> None:
    """Each commit of a branch is a record of its own."""
    old = hub.push(REPO, FILES)
    first = ensure_snapshot(registry, REPO, revision="main", store=store, **asked)
    new = hub.push(REPO, {**FILES, "config.json": b"{}"})
    second = ensure_snapshot(registry, REPO, revision="main", store=store, **asked)
    assert [first.revision, second.revision] == [first.resolved_revision, second.resolved_revision]
    assert [first.revision, second.revision] == [old, new]
    assert contents(snapshot_path(first, store=store)) == FILES
    assert (snapshot_path(second, store=store) / "config.json").read_bytes() == b"{}"
    assert registry.get_status_counts() == (0, 2, 0)


def test_what_is_there_needs_no_hub(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry
) -> None:
    """A downloaded commit sends the hub nothing."""
    commit = hub.push(REPO, FILES)
    record = ensure_snapshot(registry, REPO, store=store, **asked)
    requests = hub.requests
    assert ensure_snapshot(registry, REPO, revision=commit, store=store, **asked) == record
    assert hub.requests == requests


def test_only_some_of_the_files(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry
) -> None:
    """Patterns select files and make a subset of its own."""
    commit = hub.push(REPO, FILES)
    some = ensure_snapshot(
        registry, REPO, allow_patterns=["*.bin", "*.json"], ignore_patterns="*/two.*", store=store, **asked
    )
    assert some.subset == "only=*.bin,*.json;but=*/two.*"
    assert some.size_bytes == len(FILES["config.json"]) + len(FILES["weights/one.bin"])
    assert contents(snapshot_path(some, store=store)).keys() == {"config.json", "weights/one.bin"}
    assert record_of(registry, commit) is None
    with pytest.raises(DownloadFailed, match="none of its 3 files") as caught:
        ensure_snapshot(registry, REPO, allow_patterns="*.gguf", store=store, **asked)
    assert caught.value.record.permanent


def test_in_the_cache_of_huggingface_hub(
    hub: Hub, asked: dict[str, Any], registry: Registry, tmp_path: Path
) -> None:
    """Snapshots in huggingface_hub's cache share their files and are verified."""
    commit = hub.push(REPO, FILES)
    cache = tmp_path / "cache"

    def ensure(**options: Any) -> ModelRecord:
        return ensure_snapshot(registry, REPO, revision=commit, cache_dir=cache, **options, **asked)

    part = ensure(allow_patterns="*.json")
    whole = ensure()
    assert part.location == whole.location == f"models--acme--model/snapshots/{commit}"
    assert (part.size_bytes, whole.size_bytes) == (len(FILES["config.json"]), sum(map(len, FILES.values())))
    assert contents(snapshot_path(whole, cache_dir=cache)) == FILES
    assert hub.fetched == {(REPO, commit, name): 1 for name in FILES}
    assert ensure().token == whole.token
    # Somebody cleans up: the whole is not there any more, the part is.
    (snapshot_path(whole, cache_dir=cache) / "weights" / "one.bin").unlink()
    again = ensure(visibility_timeout=0)
    assert again.token > whole.token
    assert contents(snapshot_path(again, cache_dir=cache)) == FILES
    assert ensure(allow_patterns="*.json").token == part.token


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_where_the_file_system_has_no_locks(
    hub: Hub, replicas: Callable[..., Replica], environment: dict[str, str], tmp_path: Path, number: int
) -> None:
    """A snapshot is downloaded on a file system without locks."""
    environment.update(mounts.environment(tmp_path, FLOCK=number))
    commit = hub.push(REPO, FILES)
    answer = replicas(hub, retry={"attempts": 1}).answer()
    assert "path" in answer, answer
    assert contents(Path(answer["path"])) == FILES
    assert hub.fetched == {(REPO, commit, name): 1 for name in FILES}


async def test_a_verify_of_ones_own_counts_too(
    hub: Hub, asked: dict[str, Any], server_url: str, namespace: str, tmp_path: Path
) -> None:
    """A verify of the caller that fails causes a new download."""
    hub.push(REPO, FILES)
    doubted: list[int] = []

    async def verify(record: ModelRecord) -> bool:
        return record.token not in doubted

    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "visibility_timeout": 0, **asked}
    async with AsyncRegistry.from_url(server_url, namespace) as registry:
        first = await ensure_snapshot_async(registry, REPO, **options)
        doubted.append(first.token)
        second = await ensure_snapshot_async(registry, REPO, verify=verify, **options)
        assert second.token > first.token


# Errors


def test_a_hub_that_fails_is_asked_again(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry
) -> None:
    """A hub that fails is retried by the policy."""
    commit = hub.push(REPO, FILES)
    policy = RetryPolicy(attempts=100, first_delay=0.5, factor=1.0)
    hub.breaks_after = 1  # what is asked before there is a claim is answered

    def mend() -> None:
        record = until(
            lambda: (found := record_of(registry, commit)) and found.status is ModelStatus.ERROR and found,
            "the download has failed",
            SECONDS,
        )
        assert isinstance(record, ModelRecord)
        assert not record.permanent
        hub.breaks_after = None

    thread = threading.Thread(target=mend)
    thread.start()
    try:
        record = ensure_snapshot(registry, REPO, revision=commit, store=store, retry=policy, **asked)
    finally:
        thread.join()
    assert record.attempts > 1
    assert contents(snapshot_path(record, store=store)) == FILES


@pytest.mark.parametrize("why", ["missing", "token", "revision"])
def test_what_the_hub_refuses_is_not_tried_again(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry, why: str
) -> None:
    """A refused repository or revision raises SnapshotRefused before any claim."""
    commit = hub.push("acme/other" if why == "missing" else REPO, FILES, token="hf_another")
    if why == "revision":
        hub.repositories[REPO].token, commit = None, "0" * 40
    asked = {**asked, "store": store, "token": TOKEN}
    for revision in (commit, "no-branch" if why == "revision" else None):
        requests = hub.requests
        with pytest.raises(SnapshotRefused) as caught:
            ensure_snapshot(registry, REPO, revision=revision, **asked)
        assert not caught.value.hub_away
        assert hub.requests == requests + 1
    # It was asked before there was a claim: what one replica may not see is not the fleet's error.
    assert hub.begun == {}
    assert registry.get_status_counts() == (0, 0, 0)


def test_a_file_that_the_hub_refuses_is_not_tried_again(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry
) -> None:
    """A refused file is a permanent error."""
    hub.push(REPO, FILES)
    hub.gated.add("weights/one.bin")
    with pytest.raises(DownloadFailed, match="SnapshotRefused") as caught:
        ensure_snapshot(registry, REPO, store=store, **asked)
    assert caught.value.record.permanent
    assert caught.value.record.attempts == 1
    assert isinstance(caught.value.__cause__, SnapshotRefused)


def test_a_token_is_shown_nowhere(
    hub: Hub,
    asked: dict[str, Any],
    store: FolderStore,
    registry: Registry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The token appears in no command line, log, error or record."""
    caplog.set_level(logging.DEBUG)
    commit = hub.push(REPO, FILES, token=TOKEN)
    hub.pace = 100_000
    lines: list[str] = []

    def look() -> None:
        worker = worker_of(lambda: caplog.text)
        command = ["ps", "-ww", "-o", "args=", "-p", str(worker)]
        lines.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        ensure_snapshot(registry, REPO, store=store, **{**asked, "token": TOKEN})
    finally:
        thread.join()
    assert "pyregistry.huggingface.snapshot" in lines[0]
    assert TOKEN not in lines[0]
    hub.repositories[REPO].token = "hf_another"
    registry.delete_model(REPO, revision=commit)
    with pytest.raises(SnapshotRefused) as refused:
        ensure_snapshot(registry, REPO, revision=commit, store=store, **{**asked, "token": TOKEN})
    hub.repositories[REPO].token = TOKEN
    hub.gated.add("config.json")
    with pytest.raises(DownloadFailed) as caught:
        ensure_snapshot(registry, REPO, revision=commit, store=store, **{**asked, "token": TOKEN})
    failed = caught.value
    assert TOKEN not in f"{refused.value}{failed}{failed.__cause__}{failed.record}{caplog.text}"


def test_secrets_in_a_text() -> None:
    """Tokens are replaced in texts."""
    assert without_secrets(f"a {TOKEN} b swordfish", "swordfish") == "a *** b ***"
    assert without_secrets("hf_hub_download", None) == "hf_hub_download"


def test_a_link_that_is_over_is_no_refusal() -> None:
    """A refusal by another host than the hub is not permanent."""

    class Answer:
        status_code = 403
        url = "https://cdn.example.com/file?signature=1"

    class Wrapped(Exception):
        response = Answer()

    error = OSError("wrapped")
    error.__cause__ = Wrapped()
    assert not is_permanent(error, "https://hub.example.com")
    assert is_permanent(error, "https://cdn.example.com")


def test_a_process_that_dies_says_what_it_can(
    hub: Hub, asked: dict[str, Any], store: FolderStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloading process that dies raises LocalFault with its last words."""
    commit = hub.push(REPO, FILES)
    monkeypatch.setattr(
        "pyregistry.huggingface.worker_process._PROGRAM", f"raise SystemExit('out of luck, {TOKEN}')"
    )
    with pytest.raises(LocalFault, match=r"ended by itself \(1\): out of luck, \*\*\*"):
        ensure_snapshot(registry, REPO, revision=commit, store=store, retry=None, max_workers=6, **asked)
    assert registry.get_status_counts() == (0, 0, 0)


# Without a hub


@pytest.mark.parametrize(
    ("allow", "ignore", "subset"),
    [
        (None, None, None),
        ("*", [], None),
        (["*.bin", "a/", "*.bin"], None, "only=*.bin,a/*"),
        (None, ["*.md", "*.h5"], "but=*.h5,*.md"),
        (iter(["b", "a"]), "c", "only=a,b;but=c"),
        ("a,b", None, "sha256=4e2a5f1a0ef2eb0a5a9b8b6ba7a3b5b0"),
        ([f"file-{number}" for number in range(99)], None, "sha256="),
    ],
)
def test_patterns_have_a_name(allow: Any, ignore: Any, subset: str | None) -> None:
    """Patterns have a readable subset name, or a hash if it is too long."""
    found = subset_of(allow, ignore)
    if subset is None or not subset.startswith("sha256="):
        assert found == subset
    else:
        assert re.fullmatch(r"sha256=[0-9a-f]{32}", str(found))


def test_patterns_that_differ_have_other_names() -> None:
    """Different patterns have different subset names."""
    names = [
        subset_of("a,b"),
        subset_of(["a", "b"]),
        subset_of("é"),
        subset_of(None, "a,b"),
        subset_of("a;but=b"),
    ]
    assert len(set(names)) == len(names)


def test_wrong_arguments(registry: Registry, store: FolderStore) -> None:
    """Invalid arguments raise InvalidArgument."""
    with pytest.raises(InvalidArgument, match="allow_patterns"):
        ensure_snapshot(registry, REPO, allow_patterns=[])
    with pytest.raises(InvalidArgument, match="ignore_patterns"):
        ensure_snapshot(registry, REPO, ignore_patterns=[""])
    with pytest.raises(InvalidArgument, match="cache_dir"):
        ensure_snapshot(registry, REPO, store=store, cache_dir="cache")


def test_without_huggingface_hub_it_says_what_to_install(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without huggingface_hub the error says what to install."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pyregistry-redis\[huggingface\]'"):
        ensure_snapshot(registry, REPO)


def test_options_that_are_left_out_are_those_of_ensure() -> None:
    """The default options are those of ensure."""
    for client in (Registry, AsyncRegistry):
        parameters = inspect.signature(client.ensure).parameters
        assert {name: parameters[name].default for name in _DEFAULTS} == _DEFAULTS
    assert _DEFAULTS.keys() == EnsureOptions.__annotations__.keys()


def test_the_twins_take_the_same() -> None:
    """Both forms of ensure_snapshot have the same parameters."""
    plain, on_a_loop = (inspect.signature(each) for each in (ensure_snapshot, ensure_snapshot_async))
    assert list(plain.parameters.values())[1:] == list(on_a_loop.parameters.values())[1:]
