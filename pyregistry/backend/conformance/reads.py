"""Scenarios of reads, scans and counts."""

from __future__ import annotations

from pyregistry._core.model_key import ModelKey
from pyregistry.backend.conformance.scenario import Context, scenario
from pyregistry.backend.conformance.steps import (
    DOWNLOADED,
    DOWNLOADING,
    ERROR,
    HF,
    LONG_S,
    delete_records,
    finish,
    model_key,
    model_keys,
    record_of,
    report,
    scanned,
    wait_until,
    won_claim,
)
from pyregistry.backend.values import StatusChange
from pyregistry.models import (
    Claimed,
    ModelProvider,
    ModelRecord,
    ModelStatus,
)


@scenario
def reads_keep_the_order(context: Context) -> None:
    """`read` and `read_many` give what is there of each model, in order; None stands for an absent one."""
    backend = context.client()
    keys = model_keys(backend.max_batch + 3)
    backend.claim_many(keys[::2], lease=LONG_S)
    found = backend.read_many(keys)
    names = [record.model_name if isinstance(record, ModelRecord) else record for record in found]
    assert names == [key.name if place % 2 == 0 else None for place, key in enumerate(keys)]
    batch = keys[: backend.max_batch]
    assert backend.read(batch) == found[: backend.max_batch]
    assert backend.read([keys[1], keys[0], keys[0]]) == [None, found[0], found[0]]
    assert backend.read_many([]) == []


@scenario
def a_downloaded_copy_is_preferred(context: Context) -> None:
    """Without a provider, status and record are those of a DOWNLOADED copy, or else of the first that there is."""
    backend = context.client()
    first, second, third = (model_key("m", provider) for provider in list(ModelProvider)[:3])
    asked = ("m", None, None, None)
    assert backend.get_status(*asked) is None
    assert backend.get_record(*asked) is None
    won_claim(backend, second)
    finish(backend, won_claim(backend, third), ERROR)

    def told(status: ModelStatus | None, key: ModelKey) -> None:
        def is_so() -> bool:
            record = backend.get_record(*asked)
            is_that = record is not None and (record.provider, record.status) == (key.provider, status)
            return is_that and backend.get_status(*asked) is status

        wait_until(is_so, f"{key.ref} in {status} is told")

    told(DOWNLOADING, second)
    backend.set_status(third, StatusChange(DOWNLOADED))
    told(DOWNLOADED, third)
    backend.set_status(first, StatusChange(ERROR))
    told(DOWNLOADED, third)
    assert backend.get_status(*first.ref) is ERROR
    assert backend.get_status("m", "Elsewhere", None, None) is None
    assert backend.get_record("m", HF, "main", None) is None


@scenario
def changes_come_to_be_seen(context: Context) -> None:
    """`get_status` and `get_record` come to tell what another client has changed; the contents are those of `read`."""
    one, two = context.client(), context.client("two")
    key = model_key()
    assert one.get_status(*key.ref) is None
    for status in (DOWNLOADED, ERROR, DOWNLOADED, DOWNLOADING):
        two.set_status(key, StatusChange(status))
        wait_until(lambda status=status: one.get_status(*key.ref) is status, f"{status} is seen")  # type: ignore[misc]  # mypy infers no lambda with a default
        wait_until(lambda: one.get_record(*key.ref) == record_of(two, key), "the record is seen")
    delete_records(two, key)
    wait_until(lambda: one.get_status(*key.ref) is None, "the end of the record is seen")


@scenario
def a_scan_is_in_the_order_of_use(context: Context) -> None:
    """`scan` gives every record once, in the order of last use, of one status or of all, in pages of any size."""
    backend = context.client()
    keys = model_keys(9)
    for place, key in enumerate(keys):
        backend.set_status(key, StatusChange((DOWNLOADED, ERROR, DOWNLOADING)[place % 3]))
    assert backend.touch(keys[:1]) == [True]
    order = [key.name for key in (*keys[1:], keys[0])]
    for batch_size in (1, 2, 3, 9, 10, 500):
        records = scanned(backend, batch_size)
        assert [record.model_name for record in records] == order, batch_size
        assert records == [record_of(backend, model_key(record.model_name)) for record in records]
        errors = scanned(backend, batch_size, ERROR)
        assert [record.model_name for record in errors] == ["m1", "m4", "m7"]
    assert scanned(backend, 10, ModelStatus.EVICTING) == []


@scenario
def a_scan_is_as_long_as_it_takes(context: Context) -> None:
    """A scan of more than a thousand records is whole."""
    backend = context.client()
    keys = model_keys(1100)
    assert all(isinstance(result, Claimed) for result in backend.claim_many(keys, lease=LONG_S))
    names = [key.name for key in keys]
    for batch_size in (500, 99):
        assert [record.model_name for record in scanned(backend, batch_size)] == names
    assert tuple(backend.counts()) == (1100, 0, 0)


@scenario
def a_scan_misses_nothing(context: Context) -> None:
    """A record that is there throughout is in a scan, however others are used and deleted meanwhile."""
    backend, other = context.client(), context.client("two")
    keys = model_keys(30)
    backend.claim_many(keys, lease=LONG_S)
    seen = set()
    for place, record in enumerate(backend.scan(4, None)):
        assert not isinstance(record, Exception)
        if place < 40:
            other.touch([keys[place * 7 % 25]])
        if place == 2:
            delete_records(other, *keys[25:])
        if record is not None:
            seen.add(record.model_name)
    assert seen >= {key.name for key in keys[:25]}


@scenario
def counts_follow_the_records(context: Context) -> None:
    """`counts` and `totals` are the records and their bytes by status: the size, or what is expected."""
    backend = context.client()
    assert tuple(backend.counts()) == (0, 0, 0)
    assert (backend.totals().records, backend.totals().bytes) == ((0, 0, 0, 0), (0, 0, 0, 0))
    done, failed, running = model_keys(3)
    finish(backend, won_claim(backend, done, expected_bytes=5), size_bytes=7)
    finish(backend, won_claim(backend, failed, expected_bytes=50), ERROR)
    claim = won_claim(backend, running, expected_bytes=100)
    counts = backend.counts()
    assert (counts.downloading, counts.downloaded, counts.error) == (1, 1, 1)
    assert backend.totals().records == (1, 1, 1, 0)
    assert backend.totals().bytes == (100, 7, 0, 0)
    report(backend, claim, bytes_total=200)
    assert backend.totals().bytes == (200, 7, 0, 0)
    delete_records(backend, done)
    assert (backend.totals().records, backend.totals().bytes) == ((1, 0, 1, 0), (200, 0, 0, 0))
