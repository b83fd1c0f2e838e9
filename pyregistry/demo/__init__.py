"""``pyregistry demo``: what this library is for, in one command, on this machine.

Some processes want the same models at the same time. Each model is downloaded over HTTP by exactly one of
them into the folder that all share; one is killed half-way, and another takes over. At the end every
promise is checked.
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
    """Run the demo, and show it on standard output: live on a terminal, in plain lines in a pipe.

    It needs the extras ``cli`` and ``embedded`` (the latter without a URL only). It leaves nothing behind:
    no process, no folder, no key; SIGINT, SIGTERM and SIGHUP end it in good order.

    Args:
        processes: how many want the models, 2 to 64; one of them is killed.
        models: how many they want, 1 to 16.
        url: a server; left out: a private embedded one, for this run.
        namespace: a registry there that has no models; left out: a new one.
        lease: how long a claim holds without renewal, in seconds; the takeover waits for its end.
        timeout: seconds after which it gives up. What is to be ended then takes a moment.
        faulty: have two processes ignore how their claims are answered, which breaks promises: for tests.

    Returns:
        The exit code: 0 if every promise was kept, 1 if one was broken or the time was up, 128 and the
        number of the signal that ended it.

    Raises:
        ConfigurationError: the extra ``cli`` is missing, or the namespace is in use.
        InvalidArgument: an argument is out of its range.
        RegistryError: the server can't be reached or used.
    """
    if find_spec("rich") is None:
        raise ConfigurationError("the demo needs an extra: pip install 'pyregistry-redis[cli,embedded]'")
    # Here and not above: the replicas come by this file too, and need none of it.
    from pyregistry.demo.scenario import Settings, known_models, play

    validation.whole("processes", processes, least=2, most=64)
    validation.whole("models", models, least=1, most=len(known_models()))
    validation.microseconds("lease", lease)
    validation.microseconds("timeout", timeout)
    # Long enough to be watched, and short enough where few have much to do.
    seconds = min(_DOWNLOAD_SECONDS, _ALL_DOWNLOADS_SECONDS * (processes - 1) / models)
    return play(Settings(processes, models, url, namespace, seconds, lease, timeout, faulty))
