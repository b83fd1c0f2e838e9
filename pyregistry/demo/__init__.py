"""``pyregistry demo``: demonstrate the library with one command, on this machine.

Several processes want the same models at the same time. Exactly one of them downloads each model over HTTP, into the
folder that all share. The demo kills one owner half-way, and another process takes over. At the end it checks every
promise.
"""

from __future__ import annotations

from importlib.util import find_spec

from pyregistry._core import validation
from pyregistry.errors import ConfigurationError

__all__ = ["run"]

_DOWNLOAD_SECONDS = 2.5
_ALL_DOWNLOADS_SECONDS = 6.0


def run(
    *,
    processes: int = 8,
    models: int = 6,
    url: str | None = None,
    namespace: str | None = None,
    lease: float = 3.0,
    timeout: float = 27.0,
    faulty: bool = False,
) -> int:
    """Run the demo and show it on standard output: a live table on a terminal, plain lines in a pipe.

    Needs the extra ``cli``, and without `url` the extra ``embedded`` too. Removes all of its processes, folders and
    keys, also after SIGINT, SIGTERM and SIGHUP.

    Args:
        processes: Number of processes that want the models, 2 to 64; one of them is killed. Defaults to 8.
        models: Number of models, 1 to 16. Defaults to 6.
        url: The server. Defaults to a private embedded one, for this run.
        namespace: A namespace without models on that server. Defaults to a new one.
        lease: Length of a claim's lease, in seconds; the takeover waits for its end. Defaults to 3 s.
        timeout: Seconds after which the demo gives up; the clean-up comes on top. Defaults to 27 s.
        faulty: Make two processes ignore the replies to their claims, which breaks promises. For tests. Defaults to
            False.

    Returns:
        The exit code: 0 if every promise was kept; 1 if one was broken or the time was up; 128 plus the number of the
        signal that ended it.

    Raises:
        ConfigurationError: The extra ``cli`` is missing, or the namespace is in use.
        InvalidArgument: An argument is out of range.
        RegistryError: The server can't be reached or used.
    """
    if find_spec("rich") is None:
        raise ConfigurationError("the demo needs an extra: pip install 'pyregistry-redis[cli,embedded]'")
    # Not at the top: each replica imports this package too, and needs none of these modules.
    from pyregistry.demo.scenario import Settings, known_models, play

    validation.whole("processes", processes, least=2, most=64)
    validation.whole("models", models, least=1, most=len(known_models()))
    validation.microseconds("lease", lease)
    validation.microseconds("timeout", timeout)
    # 2.5 s a download, so that it can be watched; less if few processes download many models, to keep the total short.
    seconds = min(_DOWNLOAD_SECONDS, _ALL_DOWNLOADS_SECONDS * (processes - 1) / models)
    return play(Settings(processes, models, url, namespace, seconds, lease, timeout, faulty))
