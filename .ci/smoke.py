"""Whether the installed package is whole: run by the Python of its environment, with `-I`.

The argument is the checkout's `lua` folder: the package must hold a copy of what Redis runs.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyregistry
from pyregistry.embedded import EmbeddedServer

package = Path(pyregistry.__file__).parent
print(f"{package}, {version('pyregistry-redis')}")


def texts(folder: Path) -> dict[str, bytes]:
    """What Redis runs, and what says so."""
    paths = [*(folder / "dist").iterdir(), folder / "scripts.lock", folder / "README.md"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# The scripts come from the package, and not from a folder beside it, as in a checkout.
assert package.is_relative_to(sys.prefix)
assert not (package.parent / "lua").exists()
assert texts(package / "lua") == texts(Path(sys.argv[1]))
assert not (package / "lua" / "src").exists()
assert (package / "py.typed").exists()
assert version("pyregistry-redis") == pyregistry.__version__

with EmbeddedServer() as server, pyregistry.Registry.from_url(server.url) as registry:
    claimed = registry.try_claim_for_download("acme/model", "HuggingFace")
    assert isinstance(claimed, pyregistry.Claimed)
    assert registry.finish_download_claim(claimed.claim, pyregistry.ModelStatus.DOWNLOADED)
    assert registry.get_status("acme/model") is pyregistry.ModelStatus.DOWNLOADED
    print(registry.get_model_record("acme/model"))

command = [str(Path(sys.executable).with_name("pyregistry")), "--version"]
said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
assert pyregistry.__version__ in said, said
print(said.strip())
