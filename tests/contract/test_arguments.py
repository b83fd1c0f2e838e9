"""Names and arguments: what comes back as it was, and what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from pyregistry import (
    AlreadyExists,
    Claimed,
    InvalidArgument,
    InvalidModelName,
    ModelProvider,
    ModelRef,
    ModelStatus,
    Provider,
    Registry,
)
from pyregistry._redis.protocol.keys import Keyspace
from tests.support.clients import Connect
from tests.support.records import HF, claimed, record_of

# Identity


@pytest.mark.parametrize(
    "name",
    ["org/model", "with space", "a:b@c#d", "näme-模型-🦙", "%41", "x" * 1024, "{tag}", "..", "a|b\\c\"'"],
)
def test_names_come_back_as_they_were(any_registry: Registry, name: str) -> None:
    """Names, providers, revisions and subsets are returned exactly as they were given."""
    claim = claimed(
        any_registry.try_claim_for_download(
            name, Provider("custom-1.x"), revision="v1:@#%/ü", subset="tok#:@%", lease=60
        )
    )
    assert claim.ref == ModelRef(name, Provider("custom-1.x"), "v1:@#%/ü", "tok#:@%")
    (record,) = any_registry.get_models_by_last_used()
    assert (record.model_name, record.provider) == (name, "custom-1.x")
    assert (record.revision, record.subset) == ("v1:@#%/ü", "tok#:@%")
    assert any_registry.get_status(name, Provider("custom-1.x"), revision="v1:@#%/ü", subset="tok#:@%")


def test_revisions_subsets_and_providers_are_records_of_their_own(any_registry: Registry) -> None:
    """Each combination of provider, revision and subset has its own record."""
    variants: list[dict[str, Any]] = [
        {},
        {"revision": "main"},
        {"subset": "tokenizer"},
        {"revision": "main", "subset": "tokenizer"},
    ]
    for variant in variants:
        for provider in (HF, ModelProvider.S3):
            claimed(any_registry.try_claim_for_download("m", provider, lease=60, **variant))
    assert len(any_registry.get_models_by_last_used()) == 8
    assert any_registry.delete_model("m") == 2, "both providers, the unpinned whole model alone"
    assert any_registry.get_status("m") is None
    assert any_registry.get_status("m", revision="main") is ModelStatus.DOWNLOADING


def test_a_call_without_a_provider_looks_at_all(connect_any: Connect) -> None:
    """A call without a provider covers all providers known to the client."""
    registry = connect_any(providers=["MyHub"])
    registry.set_status("m", "S3", "ERROR")
    registry.set_status("m", Provider("MyHub"), "DOWNLOADING")
    assert registry.get_status("m") is ModelStatus.ERROR, "the first in the order of the providers"
    registry.set_status("m", Provider("MyHub"), "DOWNLOADED")
    assert registry.get_status("m") is ModelStatus.DOWNLOADED
    assert record_of(registry, "m").provider == "MyHub"
    assert connect_any().get_status("m") is ModelStatus.ERROR, "nobody told this client of MyHub"
    assert registry.delete_model("m") == 2


def test_namespaces_are_apart(connect_any: Connect, server_url: str, namespace: str) -> None:
    """Calls in one namespace do not affect another."""
    here, there = connect_any(), connect_any(namespace=f"{namespace}.2")
    claimed(here.try_claim_for_download("m", HF, lease=60))
    assert there.get_status("m") is None
    claimed(there.try_claim_for_download("m", HF, lease=60))
    assert there.delete_model("m") == 1
    assert here.get_status("m") is ModelStatus.DOWNLOADING
    with redis.Redis.from_url(server_url) as raw:
        raw.delete(Keyspace(f"{namespace}.2").meta)


# Bad input


def test_bad_input_is_refused_and_changes_nothing(any_registry: Registry) -> None:
    """An invalid argument raises InvalidArgument and changes no record."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60))
    before = any_registry.get_model_record("m")
    bad: list[Callable[[], object]] = [
        lambda: any_registry.try_claim_for_download("m", Provider("no words")),
        lambda: any_registry.try_claim_for_download("m", None),  # type: ignore[arg-type]  # on purpose
        lambda: any_registry.try_claim_for_download("m", HF, lease=0),
        lambda: any_registry.try_claim_for_download("m", HF, lease=-1),
        lambda: any_registry.try_claim_for_download("m", HF, lease=float("nan")),
        lambda: any_registry.try_claim_for_download("m", HF, lease=float("inf")),
        lambda: any_registry.try_claim_for_download("m", HF, lease=True),
        lambda: any_registry.try_claim_for_download("m", HF, claim_id=""),
        lambda: any_registry.try_claim_for_download("m", HF, claim_id="x" * 65),
        lambda: any_registry.try_claim_for_download("m", HF, owner=""),
        lambda: any_registry.try_claim_for_download("m", HF, max_attempts=0),
        lambda: any_registry.try_claim_for_download("m", HF, expected_bytes=-1),
        lambda: any_registry.try_claim_for_download("m", HF, expected_bytes=2**53),
        lambda: any_registry.try_claim_for_download("m", HF, revision=""),
        lambda: any_registry.try_claim_for_download("m", HF, subset="x" * 256),
        lambda: any_registry.try_claim_many(["m"]),
        lambda: any_registry.try_claim_many([3]),  # type: ignore[list-item]  # on purpose
        lambda: any_registry.refresh_download_claim(claim, bytes_done=-1),
        lambda: any_registry.refresh_download_claim(claim, message="x" * 4097),
        lambda: any_registry.refresh_download_claim("claim"),  # type: ignore[arg-type]  # on purpose
        lambda: any_registry.finish_download_claim(claim, "DOWNLOADING"),
        lambda: any_registry.finish_download_claim(claim, "DONE"),
        lambda: any_registry.finish_download_claim(claim, "DOWNLOADED", permanent=True),
        lambda: any_registry.finish_download_claim(claim, "DOWNLOADED", retry_in=1),
        lambda: any_registry.finish_download_claim(claim, "ERROR", size_bytes=1),
        lambda: any_registry.finish_download_claim(claim, "ERROR", retry_in=-1),
        lambda: any_registry.finish_download_claim(claim, "DOWNLOADED", "\udc00"),
        lambda: any_registry.set_status("m", HF, "EVICTING"),
        lambda: any_registry.set_status("m", HF, "GONE"),
        lambda: any_registry.delete_model("m", expected_token=-1),
        lambda: any_registry.get_models_by_last_used(status="GONE"),
        lambda: list(any_registry.iter_models_by_last_used(0)),
        lambda: list(any_registry.iter_models_by_last_used(501)),
    ]
    for call in bad:
        with pytest.raises(InvalidArgument):
            call()
    for name in ("", "x" * 1025, "a\nb", "a\x7f", "\udc00", 7, None, b"m"):
        with pytest.raises(InvalidModelName):
            any_registry.get_status(name)  # type: ignore[arg-type]  # on purpose
    assert any_registry.get_model_record("m") == before
    assert len(any_registry.get_models_by_last_used()) == 1


def test_owner_is_cut_between_characters(any_registry: Registry) -> None:
    """An owner longer than 64 bytes is truncated at a character boundary."""
    claim = claimed(any_registry.try_claim_for_download("m", HF, lease=60, owner="ü" * 40))
    assert claim.owner == record_of(any_registry, "m").owner == "ü" * 32


def test_default_owner_is_host_and_process(any_registry: Registry) -> None:
    """The default owner ends with the process id."""
    assert any_registry.owner.endswith(f":{os.getpid()}")


def test_many_threads_share_a_client(any_registry: Registry) -> None:
    """Concurrent claims through one client succeed once for each model."""
    results: list[Claimed | AlreadyExists] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.extend(any_registry.try_claim_for_download(f"m{n}", HF, lease=60) for n in range(20))
        except BaseException as error:  # told in the test's own thread
            errors.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(results) == 320
    assert sum(isinstance(result, Claimed) for result in results) == 20
