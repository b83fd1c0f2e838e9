"""Shell completion of statuses, providers and model names."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import typer

from pyregistry.cli.choices import ENDINGS, PROVIDERS, SETTABLE, STATUSES

__all__ = ["complete_ending", "complete_model", "complete_provider", "complete_settable", "complete_status"]

_SECONDS = 2.0  # maximum duration, because the caller waits at the prompt
_READ = 5000
_SHOWN = 100


def _words(known: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        # The shell keeps the typed letters. If their case differs, the rest is in lower case; commands accept any.
        return [
            word if word.startswith(incomplete) else incomplete + word.lower()[len(incomplete) :]
            for word in known
            if word.lower().startswith(incomplete.lower())
        ]

    return complete


complete_status = _words(STATUSES)
complete_settable = _words(SETTABLE)
complete_ending = _words(ENDINGS)
complete_provider = _words(PROVIDERS)


def complete_model(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the model names that start with `incomplete`; none if the registry does not answer within 2 s.

    An embedded server is asked only if it runs already.
    """
    from pyregistry.cli.context import Cli, Given
    from pyregistry.errors import RegistryError
    from pyregistry.registry import Registry

    said = {
        **ctx.find_root().params,
        **{name: value for name, value in ctx.params.items() if value is not None},
    }
    logging.getLogger("pyregistry").setLevel(logging.CRITICAL)  # a log line would disturb the prompt
    try:
        config = Cli(Given(url=said.get("url"), namespace=said.get("namespace"))).config
        if config.url.startswith("embedded:"):
            from pyregistry.embedded.shared import SharedServer

            path = urlsplit(config.url).path
            if SharedServer.at(Path(path) if path else None).url() is None:
                return []
        deadline = time.monotonic() + _SECONDS
        found = dict[str, None]()
        with Registry.from_url(config.url, config.namespace, timeout=_SECONDS / 4) as registry:
            for record in islice(registry.iter_models_by_last_used(), _READ):
                if record.model_name.startswith(incomplete):
                    found[record.model_name] = None
                if len(found) == _SHOWN or time.monotonic() > deadline:
                    break
        return list(found)
    except (RegistryError, OSError):
        return []
