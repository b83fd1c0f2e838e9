"""Find the records that share a name after a miss: with another revision, subset, provider or case.

There is no index by name, so the search reads the whole index in pages. It runs only after a miss. It stops after
`MOST` records or 5 s.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from pyregistry.cli.choices import PROVIDERS
from pyregistry.cli.context import Cli
from pyregistry.cli.exit_codes import Exit
from pyregistry.cli.formatting import printable
from pyregistry.cli.namespaces import elsewhere
from pyregistry.cli.output import Answer, Said
from pyregistry.models import ModelRecord
from pyregistry.registry import Registry

__all__ = ["Namesakes", "namesakes", "unknown"]

MOST = 50_000
"""Maximum number of records to read."""

_SECONDS = 5.0  # maximum duration of a search
_SHOWN = 10


@dataclass(frozen=True)
class Namesakes:
    """The records that share a name.

    Attributes:
        records: The records of that name; case is ignored. Defaults to none.
        looked_at: Number of records read. Defaults to 0.
        complete: Whether the search read all records. Defaults to True.
    """

    records: Sequence[ModelRecord] = field(default_factory=list)
    looked_at: int = 0
    complete: bool = True


def namesakes(registry: Registry, name: str) -> Namesakes:
    """Find the records of a name, in any case."""
    wanted, deadline = name.casefold(), time.monotonic() + _SECONDS
    found = dict[tuple[object, ...], ModelRecord]()
    looked_at = 0
    for record in islice(registry.iter_models_by_last_used(), MOST + 1):
        if looked_at == MOST or time.monotonic() > deadline:
            return Namesakes(list(found.values()), looked_at, complete=False)
        looked_at += 1
        if record.model_name.casefold() == wanted:
            # A record that is used during the search can be read twice.
            found[record.provider, record.model_name, record.revision, record.subset] = record
    return Namesakes(list(found.values()), looked_at)


def unknown(cli: Cli, model: str, document: dict[str, object], *, why: str = "is unknown") -> Answer:
    """Return the answer for an unknown record: exit code `Exit.NO`, and the records that share its name.

    Args:
        cli: The command line.
        model: The name.
        document: The JSON document; ``others`` and ``complete`` are added to it.
        why: Text after the model's name. Defaults to "is unknown".
    """
    found = namesakes(cli.registry, model)
    others = [
        {
            "model_name": record.model_name,
            "provider": record.provider,
            "revision": record.revision,
            "subset": record.subset,
            "status": record.status,
        }
        for record in found.records
    ]
    note = f"{printable(model)} {why}"
    if found.records:
        note += "; under that name there is:"
        for record in found.records[:_SHOWN]:
            note += f"\n  {record.status:<11}  {_as_given(record)}"
        if len(found.records) > _SHOWN:
            note += (
                f"\n  and {len(found.records) - _SHOWN:,} more: pyregistry ls {shlex.quote(printable(model))}"
            )
    elif not found.looked_at and not cli.wants_json:
        note += f"; {elsewhere(cli.config)}"
    if not found.complete:
        note += f"\n(of the models, only the {found.looked_at:,} that were unused longest were looked at)"
    return Answer(Said({**document, "others": others, "complete": found.complete}), note, Exit.NO)


def _as_given(record: ModelRecord) -> str:
    """Format a model as arguments of a command."""
    option = "--provider" if record.provider in PROVIDERS else "--provider-word"
    words = [record.model_name, option, str(record.provider)]
    if record.revision is not None:
        words += ["--revision", record.revision]
    if record.subset is not None:
        words += ["--subset", record.subset]
    return printable(shlex.join(words))
