"""Examines a server and a namespace, and reports faults. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pyregistry._core.values import DEFAULT_TIMEOUT
from pyregistry._redis.diagnosis.records import Census
from pyregistry._redis.diagnosis.server import Server, facts_of, judge
from pyregistry._redis.protocol.request_factory import RequestFactory
from pyregistry._redis.transport.endpoint import endpoint_of
from pyregistry._redis.transport.pooled_sync import Transport
from pyregistry.backend.findings import Finding, Level
from pyregistry.errors import AccessDenied, NotNow, SchemaTooNew, ServerRefused, ServerTooOld

__all__ = ["examine"]


def examine(
    url: str, namespace: str = "default", *, timeout: float = DEFAULT_TIMEOUT, records: bool = True
) -> list[Finding]:
    """Examine a server and a namespace, on a connection of its own.

    Args:
        url: As for ``Registry.from_url``.
        namespace: Name of the registry. Defaults to ``default``.
        timeout: Seconds that a connection attempt or a reply may take. Defaults to `DEFAULT_TIMEOUT`.
        records: Whether to read all records too. That scans all keys of the server's database, in pages. Defaults to
            True.

    Returns:
        The findings, in the order of the checks. If the server refuses, that refusal is the only finding.

    Raises:
        RegistryUnavailable: The server does not answer.
        ConfigurationError: The URL is invalid.
        InvalidArgument: The namespace or the timeout is out of range.
    """
    ops = RequestFactory(namespace, None, ())
    source = endpoint_of(url, timeout, {})
    transport = Transport(source, ops)
    try:
        opened = transport.connect()
        server = Server(transport)
        where = f"{opened.version} at {source.shown}, namespace {namespace}, schema {opened.schema}"
        findings = [Finding(Level.OK, "server", where), *_waiting(opened.lacking)]
        if opened.due:
            findings.append(Finding(Level.ERROR, "writes", f"refused: {transport.refusal}", _NOT_NOW))
        findings += judge(facts_of(server, ops.keys))
        if records:
            findings += Census(server, ops.keys).findings()
    except (ServerRefused, NotNow) as error:
        return [_refused(error)]
    finally:
        transport.close()
    return findings


_NOT_NOW = "it passes by itself, or its word says what to mend; docs/reference/errors.md has them"


def _waiting(lacking: str) -> Iterator[Finding]:
    if lacking:
        yield Finding(
            Level.WARNING,
            "rights",
            f"this user may not {lacking}: ensure, download and watch are refused",
            "give the user +ssubscribe and +sunsubscribe, and the channel",
        )


def _refused(error: ServerRefused | NotNow) -> Finding:
    if isinstance(error, NotNow):
        return Finding(Level.ERROR, "server", str(error), _NOT_NOW)
    if isinstance(error, AccessDenied):
        advice = "give the user that right, or the right password"
        return Finding(Level.ERROR, "rights", str(error), advice)
    if isinstance(error, ServerTooOld):
        return Finding(Level.ERROR, "server", str(error), "upgrade the server")
    if isinstance(error, SchemaTooNew):
        return Finding(Level.ERROR, "schema", str(error), "upgrade pyregistry here")
    return Finding(Level.ERROR, "server", str(error), "see what the server says")
