"""Check the promises of the demo against its evidence."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from pyregistry.models import ModelStatus, StatusCounts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pyregistry.demo.ipc import File, Model, Verified, Won
    from pyregistry.models import ModelRecord


@dataclass(frozen=True)
class Killed:
    """The owner that was killed.

    Attributes:
        replica: Number of the replica.
        model: Number of the model that it was downloading.
        record: The model's record, read just after the kill.
    """

    replica: int
    model: int
    record: ModelRecord


@dataclass(frozen=True)
class Evidence:
    """Observations of one run. Models and replicas are numbers.

    Attributes:
        models: The models.
        files: File of each model, from the file server's manifest.
        lease: Length of the leases, in seconds.
        killed: The owner that was killed; None if no owner was.
        claims: Replica and claim of each won claim.
        verified: Replica and result of each verification.
        started: Number of downloads that the file server began, by model.
        completed: Number of downloads that it sent completely, by model.
        early: Files seen at a published path before they were complete.
        published: All files at published paths, by path relative to the cache.
        abandoned: Files of the killed owner in the staging folder, relative to the cache.
        staged: All files that are still in the staging folder at the end, relative to the cache.
        touched: Models in the order of their last touch.
        records: Records of the registry, in LRU order.
        counts: Counts of the registry.
        exit_codes: Exit code of each replica.
    """

    models: Sequence[Model]
    files: Sequence[File]
    lease: float
    killed: Killed | None
    claims: Sequence[tuple[int, Won]]
    verified: Sequence[tuple[int, Verified]]
    started: Mapping[int, int]
    completed: Mapping[int, int]
    early: Sequence[str]
    published: Mapping[str, File]
    abandoned: Sequence[str]
    staged: Sequence[str]
    touched: Sequence[int]
    records: Sequence[ModelRecord]
    counts: StatusCounts
    exit_codes: Mapping[int, int]

    def times(self, model: int) -> int:
        """Return the expected number of claims of a model: 1, or 2 if its owner was killed."""
        return 2 if self.killed is not None and self.killed.model == model else 1

    def claims_of(self, model: int) -> list[tuple[int, Won]]:
        """Return the replicas and claims of a model, ordered by token."""
        return sorted(
            (each for each in self.claims if each[1].model == model), key=lambda each: each[1].token
        )


@dataclass(frozen=True)
class Promise:
    """A promise and its verdict.

    Attributes:
        text: The promise.
        proof: Evidence that it was kept.
        broken: Violations; empty if it was kept.
    """

    text: str
    proof: str
    broken: Sequence[str]


def judge(seen: Evidence) -> list[Promise]:
    """Check every promise against the evidence."""
    return [
        Promise(
            "Each model was downloaded by one process",
            f"the file server counts {sum(seen.completed.values())} downloads completed and "
            f"{sum(seen.started.values())} begun, one of them by the owner that was killed",
            list(_fetched_once(seen)),
        ),
        Promise(
            "Of all that wanted a model one got the claim",
            f"{len(seen.exit_codes)} processes, {len(seen.models)} models, {len(seen.claims)} claims, one of "
            "them a takeover",
            list(_claimed_once(seen)),
        ),
        Promise(
            "The killed owner was replaced, and not before its lease had ended",
            " took over from ".join(f"replica {each}" for each, _ in reversed(_takeover(seen))),
            list(_taken_over(seen)),
        ),
        Promise(
            "Fencing tokens only grow",
            " < ".join(str(claim.token) for _, claim in _takeover(seen)),
            list(_tokens_grow(seen)),
        ),
        Promise(
            "All others found every model DOWNLOADED, and whole",
            f"{len(seen.verified)} files compared by size and SHA-256",
            list(_seen_whole(seen)),
        ),
        Promise(
            "No half-written file was ever in a published place",
            "the killed owner's was in the staging folder, under its token; its successor has removed it",
            list(_never_partial(seen)),
        ),
        Promise(
            "The least recently used model comes first",
            f"{len(seen.touched)} touches in a random order, by one process after the other, came back in it",
            list(_in_order(seen)),
        ),
        Promise(
            "Records, counts and files agree",
            _words(seen.counts),
            list(_agree(seen)),
        ),
        Promise(
            "No process is left",
            f"{len(seen.exit_codes)} have ended, one by SIGKILL, the others in good order",
            list(_ended(seen)),
        ),
    ]


def _words(counts: StatusCounts) -> str:
    return f"{counts.downloading} DOWNLOADING, {counts.downloaded} DOWNLOADED, {counts.error} ERROR"


def _fetched_once(seen: Evidence) -> Iterable[str]:
    for number, model in enumerate(seen.models):
        started, completed = seen.started.get(number, 0), seen.completed.get(number, 0)
        if (started, completed) != (seen.times(number), 1):
            yield f"{model.name}: {started} begun, {completed} completed"


def _claimed_once(seen: Evidence) -> Iterable[str]:
    for number, model in enumerate(seen.models):
        owners = [f"replica {replica}" for replica, _ in seen.claims_of(number)]
        if len(owners) != seen.times(number):
            yield f"{model.name}: {len(owners)} claims, not {seen.times(number)} ({', '.join(owners)})"


def _takeover(seen: Evidence) -> list[tuple[int, Won]]:
    """Return the claims of the killed owner and of its successor; empty if no owner was killed."""
    return [] if seen.killed is None else seen.claims_of(seen.killed.model)


def _taken_over(seen: Evidence) -> Iterable[str]:
    claims = _takeover(seen)
    if seen.killed is None or len(claims) != 2:
        yield "nobody was killed, or nobody took over"
        return
    (owner, claim), (successor, takeover) = claims
    record = seen.killed.record
    if owner != seen.killed.replica or claim.token != record.token:
        yield f"replica {seen.killed.replica} was killed, but replica {owner} had the claim"
    if successor == owner or not takeover.taken_over or takeover.attempts != 2:
        yield f"replica {successor}'s claim is no takeover of another's: {takeover}"
    if takeover.previous_owner != record.owner or takeover.previous_bytes_done != record.bytes_done:
        yield f"it was told that {takeover.previous_owner} had got to {takeover.previous_bytes_done} bytes"
    # Compare lease times alone. The time of the takeover is the start of its own lease.
    at = takeover.lease_expires_at - timedelta(seconds=seen.lease)
    if record.lease_expires_at is None or at < record.lease_expires_at:
        yield f"it took over at {at}, before the lease ended at {record.lease_expires_at}"


def _tokens_grow(seen: Evidence) -> Iterable[str]:
    for token, times in Counter(claim.token for _, claim in seen.claims).items():
        if times > 1:
            yield f"token {token} was given {times} times"
    for number, model in enumerate(seen.models):
        claims = seen.claims_of(number)
        if [claim.attempts for _, claim in claims] != list(range(1, len(claims) + 1)):
            yield f"{model.name}: a later claim has a smaller token"


def _seen_whole(seen: Evidence) -> Iterable[str]:
    for replica, verified in seen.verified:
        if verified.found != seen.files[verified.model]:
            yield f"replica {replica} found {seen.models[verified.model].name} as {verified.found}"
    times = Counter((replica, verified.model) for replica, verified in seen.verified)
    for replica in seen.exit_codes:
        if seen.killed is None or replica != seen.killed.replica:
            for number, model in enumerate(seen.models):
                if times[replica, number] != 1:
                    yield f"replica {replica} has seen {model.name} {times[replica, number]} times"


def _never_partial(seen: Evidence) -> Iterable[str]:
    yield from (f"{path} was there before it was whole" for path in seen.early)
    if seen.killed is not None:
        key, token = seen.models[seen.killed.model].key, seen.killed.record.token
        if [path.split("/")[-2:] for path in seen.abandoned] != [[str(token), key]]:
            yield f"the killed owner had {list(seen.abandoned)} in staging, not {key} under its token {token}"
    if seen.staged:
        yield f"in staging there is still {list(seen.staged)}"


def _in_order(seen: Evidence) -> Iterable[str]:
    touched = [seen.models[number].name for number in seen.touched]
    found = [record.model_name for record in seen.records]
    if found != touched:
        yield f"the registry says {found}, the touches were {touched}"
    times = [record.last_used_at for record in seen.records]
    if times != sorted(times):
        yield f"their times are {times}"


def _agree(seen: Evidence) -> Iterable[str]:
    if seen.counts != StatusCounts(0, len(seen.models), 0):
        yield f"the registry counts {_words(seen.counts)}"
    records = {(record.provider, record.model_name): record for record in seen.records}
    locations = set()
    for number, model in enumerate(seen.models):
        record = records.get((model.provider, model.name))
        if record is None:
            yield f"{model.name} has no record"
            continue
        path = f"{record.location}/{model.key}"
        locations.add(path)
        claims = seen.claims_of(number)
        if record.status is not ModelStatus.DOWNLOADED or not claims or record.token != claims[-1][1].token:
            yield f"{model.name} is {record.status} with token {record.token}"
        found = seen.published.get(path)
        if found != seen.files[number] or record.size_bytes != found.size:
            yield f"{model.name}: at {path} is {found}, the record says {record.size_bytes} bytes"
    yield from (f"{path} belongs to no record" for path in seen.published if path not in locations)


def _ended(seen: Evidence) -> Iterable[str]:
    for replica, code in seen.exit_codes.items():
        killed = seen.killed is not None and replica == seen.killed.replica
        if code != (-signal.SIGKILL if killed else 0):
            yield f"replica {replica} ended with {code}"
