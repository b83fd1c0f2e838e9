"""Validation of arguments before a request is sent. A failure raises an `InvalidArgument` that names the argument."""

from __future__ import annotations

import functools
import inspect
import math
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from pyregistry._core import values
from pyregistry._core.model_key import ModelKey, entry_of
from pyregistry.errors import InvalidArgument, InvalidModelName
from pyregistry.models import Claim, ModelProvider, ModelRef, Provider

MAX_INT = 2**53 - 1
"""The largest integer that Lua's doubles hold exactly."""

NAME_BYTES = 1024
QUALIFIER_BYTES = 255
MESSAGE_BYTES = 4096
WORD_BYTES = 64

_PROVIDER = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,31}")
_KNOWN = {provider.value: provider for provider in ModelProvider}
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_SECONDS = 100 * 365 * 86400.0


def _problem(value: object, most: int, least: int = 1) -> str | None:
    """Describe what is wrong with a name; ``None`` if it is valid."""
    if not isinstance(value, str):
        return f"must be a str, not {type(value).__name__}"
    if value.isascii() and value.isprintable() and least <= len(value) <= most:
        return None  # fast path: skips the encoding and the check of each character
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        return "must be valid UTF-8 (it holds a lone surrogate)"
    if length < least:
        return "must not be empty"
    if length > most:
        return f"must be at most {most} bytes of UTF-8, not {length}"
    if any(unicodedata.category(character) == "Cc" for character in value):
        return "must not hold control characters"
    return None


def text(argument: str, value: str | None, most: int = MESSAGE_BYTES) -> str:
    """Validate a message: any valid UTF-8 text of at most `most` bytes, with or without line breaks.

    Args:
        argument: Name of the argument, for the error.
        value: The text; ``None`` becomes the empty string.
        most: Maximum length in bytes. Defaults to 4,096.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(argument, f"must be a str, not {type(value).__name__}")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(argument, "must be valid UTF-8 (it holds a lone surrogate)") from None
    if length > most:
        raise InvalidArgument(argument, f"must be at most {most} bytes of UTF-8, not {length}")
    return value


def name_like(argument: str, value: str, most: int) -> str:
    """Validate a non-empty text without control characters, of at most `most` bytes."""
    if problem := _problem(value, most):
        raise InvalidArgument(argument, problem)
    return str(value)


def owner(value: str) -> str:
    """Validate an owner, a human-readable text. Truncate it to 64 bytes, at the boundary of a character."""
    if problem := _problem(value, MESSAGE_BYTES):
        raise InvalidArgument("owner", problem)
    return value.encode()[:WORD_BYTES].decode(errors="ignore")


def namespace(value: str) -> str:
    """Validate the name of a registry: 1 to 64 of A-Z a-z 0-9 . _ -."""
    if not isinstance(value, str) or not _NAMESPACE.fullmatch(value):
        raise InvalidArgument("namespace", f"must be 1 to 64 of A-Z a-z 0-9 . _ -, not {value!r}")
    return value


def provider(value: ModelProvider | str) -> ModelProvider | Provider:
    """Validate a provider: one of `ModelProvider`, or another word of up to 32 characters."""
    if isinstance(value, str) and (known := _KNOWN.get(value)) is not None:
        return known
    if not isinstance(value, str) or not _PROVIDER.fullmatch(value):
        raise InvalidArgument(
            "provider",
            f"must be a word of A-Z a-z 0-9 . _ - that begins with a letter, not {value!r}",
        )
    return Provider(str(value))


def model_name(name: str) -> str:
    """Validate the name of a model. Provider, revision and subset are not part of it.

    Raises:
        InvalidModelName: The name is not a valid text of 1 to 1,024 bytes without control characters.
    """
    if type(name) is str and name and len(name) <= NAME_BYTES and name.isascii() and name.isprintable():
        return name  # fast path: the full check takes longer than the rest of a claim's client-side work
    if problem := _problem(name, NAME_BYTES):
        raise InvalidModelName("name", problem)
    return name


@lru_cache(maxsize=16384)
def _target(name: str, of: str, revision: str | None, subset: str | None) -> ModelKey:
    model_name(name)
    if revision is not None:
        name_like("revision", revision, QUALIFIER_BYTES)
    if subset is not None:
        name_like("subset", subset, QUALIFIER_BYTES)
    of = _KNOWN.get(of) or provider(of)
    return ModelKey(name, of, revision, subset, entry_of(name, str(of), revision, subset))


def target(name: str, of: ModelProvider | str, revision: str | None, subset: str | None) -> ModelKey:
    """Validate a model and return its key."""
    try:
        return _target(name, of, revision, subset)
    except TypeError:  # an unhashable argument is not a str: name it in the error
        for argument, value in (("provider", of), ("revision", revision), ("subset", subset)):
            if not isinstance(value, (str, type(None))):
                raise InvalidArgument(argument, f"must be a str, not {type(value).__name__}") from None
        raise InvalidModelName("name", f"must be a str, not {type(name).__name__}") from None


def claimable(models: Iterable[ModelRef]) -> list[ModelKey]:
    """Validate models for a claim and return their keys. Each model needs a provider.

    Raises:
        InvalidArgument: A provider is missing, or a name is invalid.
    """
    found = []
    for ref in models:
        if ref.provider is None:
            raise InvalidArgument("models", f"a claim needs a provider: {ref.name!r}")
        found.append(target(ref.name, ref.provider, ref.revision, ref.subset))
    return found


def whole(argument: str, value: int, least: int = 0, most: int = MAX_INT) -> int:
    """Validate an integer. Its range defaults to 0 to `MAX_INT`, both included."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(argument, f"must be an int, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidArgument(argument, f"must be {least} to {most}, not {value}")
    return value


def microseconds(argument: str, seconds: float, *, zero: bool = False) -> int:
    """Convert a duration in seconds to whole microseconds.

    Args:
        argument: Name of the argument, for the error.
        seconds: The duration: from a microsecond to a hundred years.
        zero: Whether 0 is valid too. Defaults to False.
    """
    if type(seconds) is float and 1e-6 <= seconds <= _MAX_SECONDS:
        return round(seconds * 1_000_000)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise InvalidArgument(argument, f"must be a number of seconds, not {type(seconds).__name__}")
    if not math.isfinite(seconds) or seconds > _MAX_SECONDS or seconds < 0:
        raise InvalidArgument(argument, f"must be a number of seconds up to a hundred years, not {seconds}")
    rounded = round(seconds * 1_000_000)
    if rounded == 0 and not (zero and seconds == 0):
        raise InvalidArgument(argument, f"must be at least a microsecond, not {seconds} seconds")
    return rounded


@lru_cache(maxsize=64)
def _lease(seconds: float) -> int:
    return microseconds("lease", seconds)


def lease(value: values.Lease) -> tuple[int, float | None]:
    """Convert a lease to microseconds and to seconds. `KEPT` stands for `KEPT_LEASE`.

    Returns:
        Microseconds and seconds; ``(0, None)`` for a lease that never ends.

    Raises:
        InvalidArgument: The value is out of range, or is `Default.ITS_OWN`, which the caller resolves.
    """
    if value is None:
        return 0, None
    seconds = values.KEPT_LEASE if value is values.KEPT else value
    if isinstance(seconds, values.Default):
        raise InvalidArgument("lease", f"{seconds!r} is not for this call")
    if type(seconds) is float:
        return _lease(seconds), seconds
    return microseconds("lease", seconds), float(seconds)


def claim_id(value: str) -> str:
    """Validate a claim id that the caller chose: at most 64 bytes."""
    return name_like("claim_id", value, WORD_BYTES)


def claimed_model(claim: Claim) -> ModelKey:
    """Validate a claim, including its claim id and token, and return the key of its model."""
    if not isinstance(claim, Claim):
        raise InvalidArgument("claim", f"must be a Claim, not {type(claim).__name__}")
    claim_id(claim.claim_id)
    whole("token", claim.token)
    return target(claim.model_name, claim.provider, claim.revision, claim.subset)


def providers(words: Iterable[str], most: int) -> tuple[ModelProvider | Provider, ...]:
    """Return the providers that a call without a provider searches.

    These are the four of `ModelProvider`, then the given ones, without duplicates.

    Args:
        words: Providers beyond the four.
        most: Maximum number of all providers, because one batch covers them.
    """
    if isinstance(words, str):
        raise InvalidArgument("providers", "must be a collection of words, not one word")
    known = tuple(dict.fromkeys([*ModelProvider, *map(provider, words)]))
    if len(known) > most:
        raise InvalidArgument("providers", f"must be at most {most - len(ModelProvider)} words")
    return known


def function(argument: str, value: object, arguments: int) -> None:
    """Check that a value can be called with this many positional arguments."""
    if not callable(value):
        raise InvalidArgument(argument, f"must be a function, not {type(value).__name__}")
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return  # some builtins have no signature
    try:
        signature.bind(*[None] * arguments)
    except TypeError as error:
        raise InvalidArgument(argument, f"must take {arguments} positional arguments: {error}") from None


def is_async(function: object) -> bool:
    """Return whether the result of calling this function must be awaited."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - inspects how the object is called, not whether it is callable
    )
