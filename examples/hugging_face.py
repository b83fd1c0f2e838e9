"""Has a model of the Hugging Face Hub in a store that a fleet shares, and prints where.

::

    export PYREGISTRY_URL=redis://... PYREGISTRY_NAMESPACE=shared-cache
    python examples/hugging_face.py acme/model --store /models --only '*.safetensors' --only '*.json'
"""

from __future__ import annotations

import argparse
import sys

from pyregistry import (
    BackendConfig,
    FolderStore,
    RegistryError,
    RetryPolicy,
    create_registry_backend,
    release_on_signal,
)
from pyregistry.huggingface import ensure_snapshot, snapshot_path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Has a model of the Hugging Face Hub in a shared store.")
    parser.add_argument("model", help="the repository, org/model")
    parser.add_argument("--revision", help="a commit, tag or branch")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="only such files")
    parser.add_argument("--store", type=FolderStore, required=True, help="the folder that the fleet shares")
    given = parser.parse_args()
    with create_registry_backend(BackendConfig.from_env()) as registry, release_on_signal(registry):
        try:
            record = ensure_snapshot(
                registry,
                given.model,
                revision=given.revision,
                allow_patterns=given.only,
                store=given.store,
                stall_timeout=300,
                retry=RetryPolicy(attempts=5, first_delay=10),
            )
        except RegistryError as error:
            sys.exit(f"{type(error).__name__}: {error}")
    print(snapshot_path(record, store=given.store))


if __name__ == "__main__":
    main()
