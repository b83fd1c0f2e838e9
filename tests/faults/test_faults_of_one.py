"""What fails on one machine, or by a mistake in a program, is not the fleet's; and an ERROR is not for ever."""

from __future__ import annotations

import errno
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pyregistry import (
    ConfigurationError,
    DownloadFailed,
    FolderStore,
    InvalidArgument,
    LocalFault,
    ModelStatus,
    OwnedClaim,
    Registry,
    RetryPolicy,
)
from pyregistry._coordination import local_faults
from pyregistry._core import backoff
from tests.support.faults.proxy import SECONDS, until
from tests.support.internals import lease_time_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.clients import Connect

MODEL: Final = ("org/model", "HuggingFace")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults are waited for in hundredths of a second."""
    monkeypatch.setattr(local_faults, "_FIRST_DELAY", 0.01)
    monkeypatch.setattr(backoff, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    root = tmp_path / "cache"
    root.mkdir()
    return FolderStore(root)


def write(_claim: OwnedClaim, folder: Path) -> None:
    (folder / "weights").write_bytes(b"x")


def nothing() -> bool:
    return True


def attempts_of(registry: Registry) -> int | None:
    record = registry.get_model_record(*MODEL)
    return None if record is None else record.attempts


# A store whose disk refuses


class Broken(FolderStore):
    """A store on a disk that refuses one of its steps, as long as it is told to."""

    __slots__ = ("calls", "error", "step")

    def __init__(self, root: Path, step: str, number: int = errno.EROFS) -> None:
        super().__init__(root)
        self.step, self.calls = step, 0
        self.error: OSError | None = OSError(number, os.strerror(number), str(root))

    def _refuse(self, step: str) -> None:
        if step == self.step and self.error is not None:
            self.calls += 1
            raise self.error

    def staging(self, claim: Any) -> Path:
        self._refuse("staging")
        return super().staging(claim)

    def publish(self, claim: Any, prove: Any) -> Any:
        self._refuse("publish")
        return super().publish(claim, prove)

    def check(self) -> None:
        try:
            self._refuse("check")
        except OSError as error:
            raise LocalFault("can't be written to") from error
        super().check()


@pytest.mark.parametrize("step", ["check", "staging", "publish"])
def test_it_is_told_here_and_the_healthy_download(
    connect_any: Connect, other: Registry, store: FolderStore, step: str
) -> None:
    """A fault of the store raises LocalFault here, costs no attempt, and others download."""
    broken = Broken(store.root, step)
    with pytest.raises(LocalFault) as caught:
        connect_any().ensure(*MODEL, write, store=broken, timeout=SECONDS)
    assert isinstance(caught.value.__cause__, OSError)
    record = other.get_model_record(*MODEL)
    if step == "check":
        assert record is None  # it was not even claimed
    else:
        assert record is not None
        assert (record.status, record.attempts, record.released) == (ModelStatus.DOWNLOADING, 0, True)
    record = other.ensure(*MODEL, write, store=store, timeout=SECONDS)
    assert (record.status, record.attempts) == (ModelStatus.DOWNLOADED, 1)
    # What the others have downloaded it can use, as long as it can read.
    assert connect_any().ensure(*MODEL, write, store=broken, touch=False) == record


def test_it_goes_on_when_the_fault_is_gone(
    connect_any: Connect, store: FolderStore, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ensure goes on when a fault of the store is over."""
    monkeypatch.setattr(local_faults, "_FIRST_DELAY", 0.3)
    broken = Broken(store.root, "staging")
    wanted = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], write, store=broken)
    until(lambda: broken.calls > 0, "it has failed once")
    broken.error = None
    assert wanted.result(SECONDS).attempts == 1


def test_what_was_downloaded_waits_for_the_disk(
    connect_any: Connect, store: FolderStore, pool: ThreadPoolExecutor
) -> None:
    """A finished download is published when the disk works again, without another download."""
    broken = Broken(store.root, "publish", errno.ESTALE)
    begun: list[OwnedClaim] = []

    def download(claim: OwnedClaim, folder: Path) -> None:
        begun.append(claim)
        write(claim, folder)

    wanted = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], download, store=broken)
    until(lambda: broken.calls > 0, "the disk has refused it")
    broken.error = None
    assert wanted.result(SECONDS).status is ModelStatus.DOWNLOADED
    assert len(begun) == 1


def test_a_broken_one_leaves_the_claim_to_others(
    connect_any: Connect,
    other: Registry,
    store: FolderStore,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it keeps from claiming it waits as others do, and gets what they download."""
    monkeypatch.setattr(local_faults, "_FIRST_DELAY", 600.0)
    broken = Broken(store.root, "staging")
    wanted = pool.submit(connect_any().ensure, MODEL[0], MODEL[1], write, store=broken)
    until(lambda: broken.calls > 0, "it has failed")
    record = other.ensure(*MODEL, write, store=store, timeout=SECONDS)
    assert wanted.result(SECONDS).token == record.token
    assert broken.calls == 1


def test_each_delay_is_longer() -> None:
    """The delays after local faults double up to a minute, with jitter."""
    backoff = local_faults.LocalBackoff()
    delays = [backoff.failed() for _ in range(30)]
    for number, delay in enumerate(delays):
        longest = min(0.01 * 2.0**number, 60.0)
        assert longest / 2 <= delay <= longest
    backoff.succeeded()
    assert backoff.failed() <= 0.01


# Exceptions of a download


class Unplugged(Exception):
    pass


@pytest.mark.parametrize(
    "error", [LocalFault("no GPU"), Unplugged("the cable"), OSError(errno.EMFILE, "too many open files")]
)
def test_errors_that_are_local(connect_any: Connect, other: Registry, error: Exception) -> None:
    """Errors that the policy calls local raise LocalFault and cost no attempt."""

    def download(_claim: OwnedClaim) -> None:
        raise error

    with pytest.raises(LocalFault) as caught:
        connect_any().ensure(*MODEL, download, retry=RetryPolicy(local=(Unplugged,)))
    assert caught.value is error or caught.value.__cause__ is error
    assert attempts_of(other) == 0
    assert other.ensure(*MODEL, print).status is ModelStatus.DOWNLOADED


def test_a_block_gives_back_what_is_local(any_registry: Registry, other: Registry) -> None:
    """A local error in a block releases the claim and costs no attempt."""
    if isinstance(any_registry, Registry):
        with (
            pytest.raises(Unplugged),
            any_registry.download(*MODEL, retry=RetryPolicy(local=(Unplugged,))),
        ):
            raise Unplugged("the cable")
        assert attempts_of(other) == 0


@pytest.mark.parametrize("error", [TypeError("wrong"), NameError("x"), ImportError("no torch")])
def test_mistakes_of_a_program_are_raised_to_it(
    any_registry: Registry, other: Registry, error: Exception
) -> None:
    """A programming error in the download is raised as it is and costs no attempt."""

    def download(_claim: OwnedClaim) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        any_registry.ensure(*MODEL, download)
    assert caught.value is error
    assert attempts_of(other) == 0


def test_a_function_that_can_not_be_called_so(any_registry: Registry, store: FolderStore) -> None:
    """A function with the wrong number of parameters raises InvalidArgument before any claim."""
    with pytest.raises(InvalidArgument, match="must take 2 positional arguments"):
        any_registry.ensure(*MODEL, lambda claim: None, store=store)  # type: ignore[call-overload]  # the point
    with pytest.raises(InvalidArgument, match="must take 1 positional arguments"):
        any_registry.ensure(*MODEL, lambda claim, folder: None)  # type: ignore[call-overload]  # the point
    with pytest.raises(InvalidArgument, match="verify: must take 1"):
        any_registry.ensure(*MODEL, print, verify=nothing)  # type: ignore[call-overload]  # the point
    assert any_registry.get_status(*MODEL) is None


def test_a_download_that_writes_nothing_is_one_error(
    any_registry: Registry, other: Registry, store: FolderStore
) -> None:
    """A download that writes no file raises InvalidArgument and costs no attempt."""
    begun: list[OwnedClaim] = []
    with pytest.raises(InvalidArgument, match="no file"):
        any_registry.ensure(*MODEL, lambda claim, folder: begun.append(claim), store=store)
    assert len(begun) == 1
    assert attempts_of(other) == 0


@pytest.mark.parametrize("location", [None, "../elsewhere"])
def test_a_record_without_a_place_is_downloaded_again(
    any_registry: Registry, other: Registry, store: FolderStore, location: str | None
) -> None:
    """A DOWNLOADED record without a usable location is downloaded again."""
    other.set_status(*MODEL, "DOWNLOADED", location=location)
    record = any_registry.ensure(*MODEL, write, store=store, visibility_timeout=0.1, timeout=SECONDS)
    assert store.contains(record)


# Errors that end


def test_an_error_whose_attempts_are_used_up_is_tried_anew(
    connect_any: Connect, other: Registry, pool: ThreadPoolExecutor
) -> None:
    """Used-up attempts start again after the cool-down, with one new download."""
    policy = RetryPolicy(attempts=2, first_delay=0.01, cooldown=0.5)
    away = threading.Event()
    away.set()
    attempts: list[int] = []

    def download(claim: OwnedClaim) -> None:
        attempts.append(claim.attempts)
        if away.is_set():
            raise ConnectionError("the hub is away")

    with pytest.raises(DownloadFailed, match="the hub is away") as caught:
        connect_any().ensure(*MODEL, download, retry=policy)
    record = caught.value.record
    assert (record.attempts, record.max_attempts, record.permanent) == (2, 2, False)
    assert record.used_up
    assert record.retry_at is not None
    assert record.finished_at is not None
    assert (record.retry_at - record.finished_at).total_seconds() == 0.5
    text = str(caught.value)
    assert f"{record.finished_at:%H:%M:%S}" in text
    assert f"{record.retry_at:%H:%M:%S}" in text
    assert f"on {record.owner} (attempt 2 of 2)" in text
    assert "pyregistry rm" in text
    # The fleet comes back, and one of it downloads.
    away.clear()
    until(lambda: _cooled_down(other), "the cool-down is over")
    clients = [connect_any() for _ in range(4)]
    records = [
        pool.submit(each.ensure, MODEL[0], MODEL[1], download, retry=policy, timeout=SECONDS)
        for each in clients
    ]
    assert {each.result(SECONDS).status for each in records} == {ModelStatus.DOWNLOADED}
    assert attempts == [1, 2, 1]


def _cooled_down(registry: Registry) -> bool:
    record = registry.get_model_record(*MODEL)
    assert record is not None
    assert record.retry_at is not None
    return lease_time_of(registry) >= record.retry_at


def test_lost_owners_cool_down_too(any_registry: Registry, other: Registry) -> None:
    """A model that lost its owners has a cool-down and no permanent error."""
    claim = other.try_claim_for_download(*MODEL, lease=0.001).claim  # type: ignore[union-attr]  # it is free
    assert claim.lease_expires_at is not None
    until(
        lambda: claim.lease_expires_at is not None and lease_time_of(other) >= claim.lease_expires_at,
        "the lease is over",
    )
    policy = RetryPolicy(attempts=1, cooldown=3600.0)
    with pytest.raises(DownloadFailed, match="Owner lost") as caught:
        any_registry.ensure(*MODEL, print, retry=policy)
    assert not caught.value.record.permanent
    assert caught.value.record.retry_at is not None


def test_without_a_cool_down_it_stays(any_registry: Registry, other: Registry) -> None:
    """Without a cool-down used-up attempts are final."""

    def download(_claim: OwnedClaim) -> None:
        raise ConnectionError("away")

    policy = RetryPolicy(attempts=1, cooldown=None)
    for client in (any_registry, other):
        with pytest.raises(DownloadFailed, match="its attempts are used up"):
            client.ensure(*MODEL, download, retry=policy)
    assert attempts_of(other) == 1


def test_the_default_policy_outlives_an_ordinary_outage() -> None:
    """The default policy retries for at least 102.5 s and cools down for 300 s."""
    policy = RetryPolicy()
    least = sum(
        min(policy.first_delay * policy.factor**number, policy.max_delay) * (1 - policy.jitter)
        for number in range(policy.attempts - 1)
    )
    assert least == 102.5
    assert policy.cooldown == 300.0


@pytest.mark.parametrize(
    "wrong", [{"cooldown": 0.0}, {"cooldown": -1.0}, {"cooldown": "5"}, {"local": OSError}]
)
def test_policies_that_make_no_sense(wrong: dict[str, Any]) -> None:
    """An invalid RetryPolicy raises InvalidArgument."""
    with pytest.raises(InvalidArgument):
        RetryPolicy(**wrong)


# What is told while others download


def test_what_is_waited_for_is_logged(
    any_registry: Registry, other: Registry, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiter logs the owner it waits for and the owner's progress."""
    caplog.set_level(logging.INFO, "pyregistry.flight")
    claim = other.try_claim_for_download(*MODEL, owner="host-7:1").claim  # type: ignore[union-attr]  # it is free
    other.refresh_download_claim(claim, bytes_done=5, bytes_total=10, message="weights")
    wanted = pool.submit(any_registry.ensure, MODEL[0], MODEL[1], print)
    until(lambda: "waiting for" in caplog.text, "it says what it waits for")
    assert "host-7:1 has downloaded 5 of 10 bytes since" in caplog.text
    assert "(weights)" in caplog.text
    other.finish_download_claim(claim, ModelStatus.DOWNLOADED)
    assert wanted.result(SECONDS).status is ModelStatus.DOWNLOADED


def test_a_released_download_is_told_apart_from_a_lost_one(any_registry: Registry, other: Registry) -> None:
    """A record says whether its claim was released."""
    claim = other.try_claim_for_download(*MODEL, lease=0.001).claim  # type: ignore[union-attr]  # it is free
    record = any_registry.get_model_record(*MODEL)
    assert record is not None
    assert not record.released
    other.release_download_claim(claim)
    record = any_registry.get_model_record(*MODEL)
    assert record is not None
    assert record.released
    other.delete_model(*MODEL)
    other.set_status(*MODEL, "DOWNLOADING")
    record = any_registry.get_model_record(*MODEL)
    assert record is not None
    assert not record.released


def test_a_store_that_is_not_there_is_no_fault_of_the_fleet(tmp_path: Path) -> None:
    """A store without its folder raises ConfigurationError."""
    with pytest.raises(ConfigurationError):
        FolderStore(tmp_path / "nowhere")
