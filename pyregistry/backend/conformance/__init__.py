"""Scenarios that every backend must pass.

The tests of a backend run each of `SCENARIOS` on an empty registry. With pytest::

    from pyregistry.backend.conformance import SCENARIOS, Scenario, Subject, blocking


    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_blocking_backend(scenario: Scenario) -> None:
        registry = ...  # an empty one
        scenario(Subject(lambda owner: MyBackend(registry, owner)))


    @pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
    def test_asyncio_backend(scenario: Scenario) -> None:
        registry = ...  # an empty one
        with blocking(lambda owner: MyAsyncBackend(registry, owner)) as make:
            scenario(Subject(make))

A scenario is written once, for the blocking `Backend`; `blocking` shows an `AsyncBackend` as one. A failure is an
`AssertionError`. Some states are beyond the contract's verbs: a `Subject` may say how to reach them, and a scenario
that needs what it does not say raises `Unsupported`.

``pytest.register_assert_rewrite("pyregistry.backend.conformance")``, before the import, has pytest show the values of a
failure. A scenario waits for conditions, at most `LIMIT_S` seconds for each. Leases and back-offs last `SHORT_S`.
"""

from __future__ import annotations

from typing import Final

from pyregistry.backend.conformance import changes, claims, clients, events, reads, renewals
from pyregistry.backend.conformance.blocking import blocking
from pyregistry.backend.conformance.scenario import Context, Scenario, Subject, Unsupported, scenarios_of
from pyregistry.backend.conformance.steps import LIMIT_S, SHORT_S

__all__ = ["LIMIT_S", "SCENARIOS", "SHORT_S", "Scenario", "Context", "Subject", "Unsupported", "blocking"]

SCENARIOS: Final = scenarios_of(clients, claims, renewals, changes, reads, events)
"""All scenarios. They are independent of each other."""
