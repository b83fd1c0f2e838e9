"""What the methods promise, on a real server: the same scenarios through both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

import pytest
import redis

from pyregistry import (
    AccessDenied,
    AlreadyExists,
    BackendConfig,
    Claim,
    Claimed,
    DamagedRecord,
    EvictionInProgress,
    InvalidArgument,
    ModelHeld,
    ModelProvider,
    ModelRef,
    ModelStatus,
    OutOfMemory,
    Provider,
    Registry,
    RegistryClosed,
    RegistryUnavailable,
    StatusCounts,
    create_async_registry_backend,
    create_registry_backend,
)
from pyregistry._core.model_key import entry_of
from pyregistry._redis.protocol.keys import Keyspace
from tests.conftest import MakeServer
from tests.support.clients import Connect
from tests.support.records import HF, SHORT, claimed, eventually, record_of

# The seed contract


def test_the_life_of_a_download(any_registry: Registry) -> None:
    """A claim creates a DOWNLOADING record, and a finish makes it DOWNLOADED."""
    before = datetime.now(timezone.utc) - timedelta(seconds=5)
    assert any_registry.get_status("org/model") is None
    assert any_registry.get_model_record("org/model") is None

    claim = claimed(any_registry.try_claim_for_download("org/model", HF))
    assert any_registry.get_status("org/model") is ModelStatus.DOWNLOADING
    record = record_of(any_registry, "org/model")
    assert (record.model_name, record.provider) == ("org/model", HF)
    assert record.message == "Starting download..."
    assert record.owner == claim.owner == any_registry.owner
    assert record.token == claim.token
    assert record.created_at == record.last_used_at > before
    assert record.lease_expires_at == claim.lease_expires_at

    assert any_registry.finish_download_claim(claim, ModelStatus.DOWNLOADED, size_bytes=7, location="a/b")
    done = record_of(any_registry, "org/model")
    assert done.status is ModelStatus.DOWNLOADED
    assert (done.message, done.size_bytes, done.location) == (None, 7, "a/b")
    assert (done.created_at, done.token) == (record.created_at, claim.token)
    assert done.last_used_at > record.last_used_at
    assert done.lease_expires_at is None


def test_only_the_first_claim_wins(any_registry: Registry) -> None:
    """A second claim of a model fails, tells the time left of the lease, and changes nothing."""
    first = claimed(any_registry.try_claim_for_download("m", HF))
    before = any_registry.get_model_record("m")
    other = any_registry.try_claim_for_download("m", HF)
    assert isinstance(other, AlreadyExists)
    assert other.status is ModelStatus.DOWNLOADING
    assert other.lease_expires_at == first.lease_expires_at
    assert other.lease_left is not None
    assert 0 < other.lease_left <= 30
    assert any_registry.get_model_record("m") == before


@pytest.mark.parametrize("status", [ModelStatus.DOWNLOADED, ModelStatus.ERROR])
def test_a_claim_of_what_is_over_tells_how(any_registry: Registry, status: ModelStatus) -> None:
    """A claim of a finished model returns its status and changes nothing."""
    any_registry.set_status("m", HF, status, "by hand")
    before = any_registry.get_model_record("m")
    assert any_registry.try_claim_for_download("m", HF) == AlreadyExists(status)
    assert any_registry.get_model_record("m") == before


def test_set_status_keeps_created_at_and_clears_the_message(any_registry: Registry) -> None:
    """set_status keeps created_at, replaces the message, and makes a later token."""
    any_registry.set_status("m", HF, ModelStatus.DOWNLOADING, "by hand")
    first = record_of(any_registry, "m")
    assert (first.message, first.attempts, first.lease_expires_at) == ("by hand", 0, None)
    any_registry.set_status("m", HF, "DOWNLOADED")
    second = record_of(any_registry, "m")
    assert (second.created_at, second.message) == (first.created_at, None)
    assert second.last_used_at > first.last_used_at
    assert second.token > first.token


def test_touch_moves_to_the_end_of_the_order(any_registry: Registry) -> None:
    """A touch makes a model the last used one; an unknown model stays unknown."""
    for name in ("a", "b", "c"):
        any_registry.set_status(name, HF, ModelStatus.DOWNLOADED)
    assert any_registry.touch_model("a")
    assert not any_registry.touch_model("unknown")
    assert [record.model_name for record in any_registry.get_models_by_last_used()] == ["b", "c", "a"]
    assert any_registry.get_model_record("unknown") is None


def test_the_order_of_last_use(any_registry: Registry) -> None:
    """Records come in the order of their last use, limited and filtered by status."""
    statuses = [ModelStatus.DOWNLOADED, ModelStatus.ERROR, ModelStatus.DOWNLOADING]
    for number in range(9):
        any_registry.set_status(f"m{number}", HF, statuses[number % 3])
    names = [f"m{number}" for number in range(9)]
    assert [r.model_name for r in any_registry.get_models_by_last_used()] == names
    assert [r.model_name for r in any_registry.get_models_by_last_used(4)] == names[:4]
    assert [r.model_name for r in any_registry.get_models_by_last_used(limit=99)] == names
    assert any_registry.get_models_by_last_used(0) == []
    errors = any_registry.get_models_by_last_used(status=ModelStatus.ERROR)
    assert [r.model_name for r in errors] == names[1::3]
    with pytest.raises(InvalidArgument):
        any_registry.get_models_by_last_used(-1)


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_iteration_reads_every_record_once(any_registry: Registry, batch_size: int) -> None:
    """An iteration returns each record once, whatever the batch size."""
    refs = [(f"m{number}", "S3") for number in range(10)]
    any_registry.try_claim_many(refs, lease=60)
    listed = [r.model_name for r in any_registry.iter_models_by_last_used(batch_size)]
    assert listed == [name for name, _ in refs]
    assert not list(any_registry.iter_models_by_last_used(batch_size, status="ERROR"))


def test_iteration_misses_nothing_where_scores_are_equal(
    any_registry: Registry, server_url: str, namespace: str
) -> None:
    """An iteration returns every record of an index with equal scores."""
    any_registry.try_claim_many([(f"m{number}", "S3") for number in range(10)], lease=60)
    keys = Keyspace(namespace)
    with redis.Redis.from_url(server_url) as client:
        index = keys.indexes[ModelStatus.DOWNLOADING]
        client.zadd(index, dict.fromkeys(client.zrange(index, 0, 7), 5.0))
    assert len({r.model_name for r in any_registry.iter_models_by_last_used(3)}) == 10
    assert len(any_registry.get_models_by_last_used()) == 10


def test_iteration_under_use_misses_nothing(any_registry: Registry) -> None:
    """Touches during an iteration make it miss no record."""
    any_registry.try_claim_many([(f"m{number}", "S3") for number in range(30)], lease=60)
    seen: list[str] = []
    for record in any_registry.iter_models_by_last_used(5):
        if len(seen) < 40:
            any_registry.touch_model(f"m{(len(seen) * 7) % 30}", "S3")
        seen.append(record.model_name)
    assert set(seen) == {f"m{number}" for number in range(30)}


def test_counts(any_registry: Registry) -> None:
    """get_status_counts returns the number of records of each status."""
    assert any_registry.get_status_counts() == (0, 0, 0)
    for number, status in enumerate(["DOWNLOADED", "DOWNLOADED", "ERROR", "DOWNLOADING"]):
        any_registry.set_status(f"m{number}", HF, status)
    assert any_registry.get_status_counts() == StatusCounts(downloading=1, downloaded=2, error=1)


def test_delete(any_registry: Registry) -> None:
    """A deleted record is gone from reads and counts, and the number deleted is returned."""
    any_registry.set_status("m", HF, "DOWNLOADED")
    assert any_registry.delete_model("m") == 1
    assert any_registry.delete_model("m") == 0
    assert any_registry.get_status("m") is None
    assert any_registry.get_status_counts() == (0, 0, 0)


def test_delete_by_token_spares_a_later_record(any_registry: Registry) -> None:
    """delete_model with an old token deletes nothing."""
    any_registry.set_status("m", HF, "DOWNLOADED")
    old = record_of(any_registry, "m").token
    any_registry.set_status("m", HF, "ERROR")
    assert any_registry.delete_model("m", expected_token=old) == 0
    assert any_registry.delete_model("m", expected_token=record_of(any_registry, "m").token) == 1


def test_connect_again_changes_nothing(any_registry: Registry) -> None:
    """A second connect changes no record."""
    any_registry.set_status("m", HF, "DOWNLOADED")
    before = any_registry.get_model_record("m")
    any_registry.connect()
    assert any_registry.get_model_record("m") == before


def test_a_closed_client_says_so(connect_any: Connect) -> None:
    """A call on a closed client raises RegistryClosed, and close is idempotent."""
    registry = connect_any()
    registry.close()
    registry.close()
    with pytest.raises(RegistryClosed):
        registry.get_status("m")


# Claims


def test_the_same_claim_id_gets_the_same_claim(any_registry: Registry) -> None:
    """A claim with the same claim_id returns the same claim, with its lease extended."""
    first = claimed(any_registry.try_claim_for_download("m", HF, claim_id="mine", lease=20))
    again = claimed(any_registry.try_claim_for_download("m", HF, claim_id="mine", lease=20))
    assert again.token == first.token
    assert again.attempts == 1
    assert again.lease_expires_at is not None
    assert first.lease_expires_at is not None
    assert again.lease_expires_at >= first.lease_expires_at


def test_a_claim_that_ended_is_not_won_again(any_registry: Registry) -> None:
    """The claim_id of a finished claim wins neither a claim nor a retry."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, claim_id="mine", lease=20))
    any_registry.finish_download_claim(claim, "ERROR", "boom")
    assert any_registry.try_claim_for_download("m", HF, claim_id="mine") == AlreadyExists(ModelStatus.ERROR)
    assert any_registry.try_reset_error_for_retry("m", HF, claim_id="mine") is None


def test_a_lost_owner_is_replaced_when_its_lease_ends(any_registry: Registry) -> None:
    """A claim after the end of a lease takes over, and every call of the former owner fails."""
    lost = claimed(
        any_registry.try_claim_for_download("m", HF, lease=SHORT, owner="first", expected_bytes=100)
    )
    assert any_registry.refresh_download_claim(lost, bytes_done=60)
    taken: list[Claim] = []

    def take_over() -> bool:
        result = any_registry.try_claim_for_download("m", HF, lease=20, owner="second")
        taken.extend([result.claim] if isinstance(result, Claimed) else [])
        return bool(taken)

    eventually(take_over)
    (claim,) = taken
    assert claim.token > lost.token
    assert (claim.taken_over, claim.previous_owner, claim.previous_bytes_done) == (True, "first", 60)
    assert claim.attempts == 2
    assert record_of(any_registry, "m").bytes_total == 100
    # The stale owner can do nothing any more.
    assert any_registry.refresh_download_claim(lost) is None
    assert not any_registry.finish_download_claim(lost, "DOWNLOADED")
    assert not any_registry.release_download_claim(lost)
    assert any_registry.delete_model("m", expected_token=lost.token) == 0
    assert any_registry.finish_download_claim(claim, "DOWNLOADED")


def test_an_owner_whom_nobody_replaced_may_finish_late(any_registry: Registry) -> None:
    """An owner may renew and finish after the end of its lease if no claim took over."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=0.001))
    eventually(lambda: datetime.now(timezone.utc) > (claim.lease_expires_at or datetime.max))
    assert any_registry.refresh_download_claim(claim, lease=0.001) is not None
    assert any_registry.finish_download_claim(claim, "DOWNLOADED")
    assert any_registry.finish_download_claim(claim, "DOWNLOADED"), "the same again is done again"
    assert not any_registry.finish_download_claim(claim, "ERROR"), "the opposite is not"


def test_release_lets_another_go_on_at_once(any_registry: Registry) -> None:
    """After a release another claim wins at once, and learns the progress so far."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60, owner="first"))
    any_registry.refresh_download_claim(claim, bytes_done=5, bytes_total=10)
    assert any_registry.release_download_claim(claim)
    assert any_registry.release_download_claim(claim)
    assert record_of(any_registry, "m").bytes_done == 5
    assert any_registry.refresh_download_claim(claim) is None
    other = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    assert (other.attempts, other.previous_owner, other.previous_bytes_done) == (1, "first", 5)


def test_renewal_never_shortens_and_tells_progress(any_registry: Registry) -> None:
    """A renewal never shortens a lease; it stores progress, and keeps a message that is not given."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    shorter = any_registry.refresh_download_claim(claim, lease=1, message="half", bytes_done=1, bytes_total=2)
    assert shorter is not None
    assert shorter.lease_expires_at is not None
    assert claim.lease_expires_at is not None
    assert shorter.lease_expires_at >= claim.lease_expires_at
    record = record_of(any_registry, "m")
    assert (record.message, record.bytes_done, record.bytes_total) == ("half", 1, 2)
    any_registry.refresh_download_claim(claim)
    assert record_of(any_registry, "m").message == "half", "left out: as it is"
    any_registry.refresh_download_claim(claim, message=None)
    assert record_of(any_registry, "m").message is None


def test_a_claim_without_a_lease_never_ends(any_registry: Registry) -> None:
    """A claim without a lease does not expire, and a renewal gives it no lease."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=None))
    assert (claim.lease, claim.lease_expires_at) == (None, None)
    other = any_registry.try_claim_for_download("m", HF)
    assert other == AlreadyExists(ModelStatus.DOWNLOADING, None, None)
    assert any_registry.refresh_download_claim(claim, lease=60) is not None
    assert record_of(any_registry, "m").lease_expires_at is None, "never shortened"


def test_retry_has_one_winner_and_counts(any_registry: Registry) -> None:
    """One retry of an error wins, with a later token and one attempt more."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    assert any_registry.try_reset_error_for_retry("m", HF) is None, "it is no error yet"
    any_registry.finish_download_claim(claim, "ERROR", "boom")
    retry = any_registry.try_reset_error_for_retry("m", HF, lease=60)
    assert retry is not None
    assert (retry.attempts, retry.taken_over) == (2, False)
    assert retry.token > claim.token
    assert record_of(any_registry, "m").message == "Retrying download..."
    assert any_registry.try_reset_error_for_retry("m", HF) is None
    assert any_registry.finish_download_claim(claim, "ERROR"), "done again, though a later claim runs"
    assert any_registry.get_status("m") is ModelStatus.DOWNLOADING


def test_back_off_permanence_and_attempts_stop_a_retry(any_registry: Registry) -> None:
    """A retry fails during its back-off, beyond max_attempts, and after a permanent error."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    any_registry.finish_download_claim(claim, "ERROR", "wait", retry_in=3600)
    assert any_registry.try_reset_error_for_retry("m", HF) is None
    record = record_of(any_registry, "m")
    assert record.retry_at is not None
    assert record.retry_at > datetime.now(timezone.utc) + timedelta(minutes=50)

    any_registry.set_status("m", HF, "ERROR")  # clears the back-off and the attempts
    first = any_registry.try_reset_error_for_retry("m", HF, lease=60, max_attempts=1)
    assert first is not None
    any_registry.finish_download_claim(first, "ERROR", "again")
    assert any_registry.try_reset_error_for_retry("m", HF, lease=60, max_attempts=1) is None
    second = any_registry.try_reset_error_for_retry("m", HF, lease=60, max_attempts=2)
    assert second is not None
    any_registry.finish_download_claim(second, "ERROR", "never", permanent=True)
    assert any_registry.try_reset_error_for_retry("m", HF) is None
    assert record_of(any_registry, "m").permanent


def test_a_short_back_off_ends(any_registry: Registry) -> None:
    """A retry wins once the back-off is over."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    any_registry.finish_download_claim(claim, "ERROR", retry_in=SHORT)
    eventually(lambda: any_registry.try_reset_error_for_retry("m", HF))


def test_a_model_that_loses_its_owners_ends_as_error(any_registry: Registry) -> None:
    """A model whose owners are lost max_attempts times is a permanent error."""
    claimed(any_registry.try_claim_for_download("m", HF, lease=0.001, owner="doomed"))
    eventually(
        lambda: (
            any_registry.try_claim_for_download("m", HF, max_attempts=1) == AlreadyExists(ModelStatus.ERROR)
        )
    )
    record = record_of(any_registry, "m")
    assert record.permanent
    assert record.message is not None
    assert record.message.startswith("Owner lost")
    assert "doomed" in record.message
    assert any_registry.try_reset_error_for_retry("m", HF) is None


def test_bytes_and_revision_of_a_finished_model_last_until_the_next_claim(any_registry: Registry) -> None:
    """size_bytes and resolved_revision outlast set_status, and the next claim clears them."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60, expected_bytes=9))
    any_registry.finish_download_claim(claim, "DOWNLOADED", "ok", size_bytes=8, resolved_revision="abc")
    any_registry.set_status("m", HF, "ERROR", "files are gone")
    record = record_of(any_registry, "m")
    assert (record.size_bytes, record.resolved_revision) == (8, "abc")
    assert any_registry.try_reset_error_for_retry("m", HF, lease=60)
    record = record_of(any_registry, "m")
    assert (record.size_bytes, record.resolved_revision) == (None, None)


def test_set_status_ends_a_claim(any_registry: Registry) -> None:
    """set_status ends a claim, except with DOWNLOADING."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    any_registry.set_status("m", HF, "DOWNLOADING", "seen")
    assert any_registry.refresh_download_claim(claim) is not None, "DOWNLOADING stays the owner's"
    any_registry.set_status("m", HF, "DOWNLOADED")
    assert any_registry.refresh_download_claim(claim) is None
    assert not any_registry.finish_download_claim(claim, "ERROR")
    assert any_registry.get_status("m") is ModelStatus.DOWNLOADED


# Many at once


def test_claims_of_many(any_registry: Registry) -> None:
    """Results of many claims and renewals come in the order of the arguments, with increasing tokens."""
    any_registry.set_status("m7", "S3", "DOWNLOADED")
    refs = [ModelRef(f"m{number}", "S3") for number in range(150)]
    results = any_registry.try_claim_many([*refs, refs[3]], lease=60)
    assert len(results) == 151
    assert results[7] == AlreadyExists(ModelStatus.DOWNLOADED)
    assert isinstance(results[150], AlreadyExists), "the same model again in one call"
    claims = [result.claim for result in results if isinstance(result, Claimed)]
    assert len(claims) == 149
    tokens = [claim.token for claim in claims]
    assert tokens == sorted(set(tokens))
    any_registry.finish_download_claim(claims[0], "DOWNLOADED")
    renewed = any_registry.refresh_many(claims, lease=90)
    assert renewed[0] is None
    assert all(isinstance(each, Claim) and each.lease == 90 for each in renewed[1:])


def test_touches_and_reads_of_many(any_registry: Registry) -> None:
    """Results of many touches and reads come in the order of the arguments, also of unknown models."""
    for name, provider in [("a", "S3"), ("a", "Gcs"), ("b", "Ngc")]:
        any_registry.set_status(name, Provider(provider), "DOWNLOADED")
    models: list[ModelRef | tuple[str, ModelProvider | str] | str]
    models = ["a", ("a", "HuggingFace"), ModelRef("b", "Ngc"), "c", *[f"x{number}" for number in range(70)]]
    assert any_registry.touch_models(models) == [True, False, True, False, *[False] * 70]
    records = any_registry.get_model_records(models)
    assert [record.provider if record else None for record in records[:4]] == ["Gcs", None, "Ngc", None]
    assert any_registry.touch_models([]) == []
    assert any_registry.get_model_records([]) == []
    assert any_registry.try_claim_many([]) == []
    assert any_registry.refresh_many([]) == []


def test_one_damaged_record_does_not_take_the_others_with_it(
    any_registry: Registry, server_url: str, namespace: str
) -> None:
    """A damaged record fails its own calls alone, and a forced delete removes it."""
    keys = Keyspace(namespace)
    with redis.Redis.from_url(server_url) as client:
        client.set(keys.record("S3:bad"), b"x")
        client.zadd(keys.indexes[ModelStatus.ERROR], {"S3:bad": 1})
    with pytest.raises(DamagedRecord) as one:
        any_registry.try_claim_for_download("bad", "S3")
    assert (one.value.model_name, one.value.provider, one.value.results) == ("bad", "S3", ())
    with pytest.raises(DamagedRecord) as many:
        any_registry.try_claim_many([("a", "S3"), ("bad", "S3"), ("b", "S3")], lease=60)
    first, nothing, last = many.value.results
    assert isinstance(first, Claimed)
    assert isinstance(last, Claimed)
    assert nothing is None
    for call in (
        lambda: any_registry.get_status("bad", "S3"),
        lambda: any_registry.get_model_record("bad", "S3"),
        lambda: any_registry.touch_model("bad", "S3"),
        lambda: any_registry.set_status("bad", "S3", "ERROR"),
        lambda: any_registry.delete_model("bad", "S3"),
        lambda: any_registry.try_reset_error_for_retry("bad", "S3"),
    ):
        with pytest.raises(DamagedRecord):
            call()
    assert [record.model_name for record in any_registry.get_models_by_last_used()] == ["a", "b"]
    assert any_registry.delete_model("bad", "S3", force=True) == 1
    assert claimed(any_registry.try_claim_for_download("bad", "S3", lease=60)).attempts == 1


# The backend, as servers make it


def test_a_backend_is_connected(server_url: str, namespace: str) -> None:
    """create_registry_backend returns a connected client with the settings of its configuration."""
    config = BackendConfig.redis(server_url, namespace, owner="this server", timeout=3.0, near_cache=True)
    with create_registry_backend(config) as registry:
        assert registry.server_version is not None
        assert (registry.namespace, registry.owner) == (namespace, "this server")
        assert registry.get_status_counts() == (0, 0, 0)
        assert not registry.is_downloaded("m")


async def test_a_backend_is_connected_on_a_loop(server_url: str, namespace: str) -> None:
    """create_async_registry_backend returns a connected client with the settings of its configuration."""
    config = BackendConfig.from_env(
        {"PYREGISTRY_URL": server_url, "PYREGISTRY_NAMESPACE": namespace},
        owner="this server",
        near_cache=True,
    )
    async with await create_async_registry_backend(config) as registry:
        assert registry.server_version is not None
        assert (registry.namespace, registry.owner) == (namespace, "this server")
        assert not await registry.is_downloaded("m")


async def test_a_backend_that_is_not_there_leaves_nothing_open(server_url: str) -> None:
    """A backend that can not connect raises, shows no password, and leaves no connection open."""
    for url in ("redis://127.0.0.1:1", server_url.replace("://", "://nobody:secret@")):
        config = BackendConfig.redis(url, timeout=0.5)
        for make in (
            create_registry_backend,
            lambda config: asyncio.run(create_async_registry_backend(config)),
        ):
            with pytest.raises((RegistryUnavailable, AccessDenied)) as caught:
                await asyncio.to_thread(make, config)
            assert "secret" not in str(caught.value)


def test_a_server_that_is_full(connect_any: Connect, make_server: MakeServer) -> None:
    """A full server refuses new claims and accepts what ends claims or frees memory."""
    server = make_server()
    registry = connect_any(url=server.url)
    mine = {name: claimed(registry.try_claim_for_download(name, HF, lease=60)) for name in ("a", "b", "c")}
    failed = claimed(registry.try_claim_for_download("failed", HF, lease=60))
    assert registry.finish_download_claim(failed, ModelStatus.ERROR)
    with redis.Redis.from_url(server.url) as raw:
        raw.config_set("maxmemory", "1")
        before = registry.get_model_record("failed")
        refused: list[Callable[[], object]] = [
            lambda: registry.try_claim_for_download("new", HF, lease=60),
            lambda: registry.try_claim_many([("new", HF)], lease=60),
            lambda: registry.try_reset_error_for_retry("failed", HF, lease=60),
            lambda: registry.set_status("failed", HF, ModelStatus.DOWNLOADED),
        ]
        for call in refused:
            with pytest.raises(OutOfMemory):
                call()
        assert registry.get_status("new") is None
        assert registry.get_model_record("failed") == before
        # What puts things right is not refused.
        assert registry.refresh_download_claim(mine["a"], bytes_done=5) is not None
        assert registry.finish_download_claim(mine["a"], ModelStatus.DOWNLOADED)
        assert registry.release_download_claim(mine["b"])
        assert registry.touch_model("a")
        assert registry.delete_model("c") == 1
        raw.config_set("maxmemory", "0")
        claimed(registry.try_claim_for_download("new", HF, lease=60))


# Evictions and holds, as they will be: made by hand here


@pytest.fixture
def plant(server_url: str, namespace: str) -> Callable[..., None]:
    """Stores an EVICTING record, or a hold, as a later version would."""
    import msgspec

    from pyregistry._redis.protocol.records import StoredRecord

    keys = Keyspace(namespace)

    def plant(name: str, *, lease_left: float | None = None, hold_left: float | None = None) -> None:
        entry = entry_of(name, HF.value, None, None)
        with redis.Redis.from_url(server_url) as client:
            seconds, micros = client.time()
            now = seconds * 1_000_000 + micros
            if lease_left is not None:
                record = StoredRecord(
                    "EVICTING", now, 3, "janitor", "evictor", now + int(lease_left * 1e6), token=now
                )
                client.set(keys.record(entry), msgspec.msgpack.encode(record))
                client.zadd(keys.indexes[ModelStatus.EVICTING], {entry: now})
            if hold_left is not None:
                client.zadd(keys.holds(entry), {"holder": now + int(hold_left * 1e6)})

    return plant


def test_an_eviction_is_respected(any_registry: Registry, plant: Callable[..., None]) -> None:
    """An EVICTING record refuses claims, set_status and delete, unless the delete is forced."""
    plant("m", lease_left=60)
    result = any_registry.try_claim_for_download("m", HF)
    assert isinstance(result, AlreadyExists)
    assert result.status is ModelStatus.EVICTING
    assert any_registry.touch_model("m")
    with pytest.raises(EvictionInProgress) as refused:
        any_registry.set_status("m", HF, "DOWNLOADED")
    assert refused.value.model_name == "m"
    with pytest.raises(EvictionInProgress):
        any_registry.delete_model("m")
    assert any_registry.get_status("m") is ModelStatus.EVICTING
    assert any_registry.get_status_counts() == (0, 0, 0)
    assert any_registry.delete_model("m", force=True) == 1


def test_a_lost_eviction_is_taken_over(any_registry: Registry, plant: Callable[..., None]) -> None:
    """A claim takes over an eviction whose lease is over."""
    plant("m", lease_left=-1)
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    assert (claim.attempts, claim.taken_over, claim.previous_owner) == (1, True, "janitor")


def test_a_held_model_is_not_deleted(any_registry: Registry, plant: Callable[..., None]) -> None:
    """A hold refuses a delete until it expires, unless the delete is forced."""
    any_registry.set_status("m", HF, "DOWNLOADED")
    plant("m", hold_left=60)
    with pytest.raises(ModelHeld):
        any_registry.delete_model("m", HF)
    assert any_registry.delete_model("m", HF, force=True) == 1
    any_registry.set_status("m", HF, "DOWNLOADED")
    plant("m", hold_left=-1)
    assert any_registry.delete_model("m", HF) == 1, "that hold is over"
