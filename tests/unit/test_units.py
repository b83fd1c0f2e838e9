"""Without a server: names of keys, codecs, ids, configuration, and the form of the public interface."""

from __future__ import annotations

import copy
import inspect
import os
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pyregistry
from pyregistry import (
    AsyncRegistry,
    BackendConfig,
    Claim,
    ConfigurationError,
    InvalidArgument,
    ModelProvider,
    ModelRecord,
    ModelRef,
    ModelStatus,
    Provider,
    Registry,
    errors,
    models,
)
from pyregistry._core import validation as checks
from pyregistry._core.claim_ids import ClaimIds
from pyregistry._core.model_key import entry_of, parse_entry
from pyregistry._core.urls import redacted
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry._redis.protocol.records import StoredRecord, decode_record, record_of

WORDS = st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,31}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)


@given(TEXTS, WORDS, st.none() | TEXTS, st.none() | TEXTS)
def test_an_entry_names_one_model(name: str, provider: str, revision: str | None, subset: str | None) -> None:
    """An index entry is parsed back to its model."""
    entry = entry_of(name, provider, revision, subset)
    assert parse_entry(entry) == ModelRef(name, Provider(provider), revision, subset)


def test_entries_are_readable() -> None:
    """Index entries have their documented form."""
    assert entry_of("org/model", "HuggingFace", None, None) == "HuggingFace:org/model"
    assert entry_of("a:b@c#d", "S3", "refs/pr/1", "*.json") == "S3@refs/pr/1#*.json:a:b@c#d"


def test_all_keys_of_a_namespace_share_one_hash_tag() -> None:
    """All keys of a namespace have one hash tag."""
    keys = Keyspace("ns-1.x")
    every = [*keys.shared, keys.channel, keys.record("S3:m"), keys.holds("S3:m")]
    assert all(key.startswith("pyregistry:{ns-1.x}:") for key in every)
    assert len(set(every)) == len(every)
    assert keys.record("S3:m") == "pyregistry:{ns-1.x}:model:S3:m"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "{x}", "x" * 65, "ü", None, 3])
def test_bad_namespaces(name: object) -> None:
    """An invalid namespace raises InvalidArgument."""
    with pytest.raises(InvalidArgument):
        Registry.from_url("redis://127.0.0.1", name)  # type: ignore[arg-type]  # on purpose


def test_an_older_layout_gets_its_defaults_and_a_newer_one_is_read() -> None:
    """A shorter record gets defaults, and a longer one is read."""
    assert decode_record(msgspec.msgpack.encode(["ERROR", 1, 2])) == StoredRecord("ERROR", 1, 2)
    newer = [*msgspec.to_builtins(StoredRecord("ERROR", 1, 2)), "unheard of"]
    assert decode_record(msgspec.msgpack.encode(newer)) == StoredRecord("ERROR", 1, 2)


def test_records_compare_by_value_and_are_not_changed() -> None:
    """Records compare by value and are immutable."""
    ref = ModelRef("m", "S3")
    one, other = (record_of(ref, StoredRecord("DOWNLOADED", 5, 6), 7) for _ in range(2))
    assert one == other
    assert one is not other
    assert one.created_at.tzinfo is not None
    with pytest.raises(AttributeError):
        one.message = "x"  # type: ignore[misc]  # on purpose
    assert record_of(ref, StoredRecord("DOWNLOADED", 5, 6), 8) != one


def test_a_record_is_made_as_in_the_seed() -> None:
    """ModelRecord accepts the positional arguments of ModelExpress."""
    now = record_of(ModelRef("m", "S3"), StoredRecord("ERROR", 5), 5).created_at
    record = ModelRecord("m", ModelProvider.S3, ModelStatus.ERROR, now, now, "boom")
    assert record.message == "boom"


def test_words_are_their_own_text() -> None:
    """Statuses and providers are equal to their text."""
    assert ModelStatus.DOWNLOADED == "DOWNLOADED"
    assert f"{ModelProvider.HUGGING_FACE}" == "HuggingFace"


def a_claim() -> Claim:
    return Claim("m", "S3", None, None, "secret-id", "me", 5, 30.0, None)


def test_a_claim_does_not_show_its_id() -> None:
    """The repr of a claim has no claim id, and a claim survives copy and pickle."""
    assert "secret-id" not in repr(a_claim())
    assert "secret-id" not in f"{a_claim()} {[a_claim()]}"
    assert copy.copy(a_claim()) == a_claim()
    assert pickle.loads(pickle.dumps(a_claim())) == a_claim()


def test_claim_ids_are_never_given_twice() -> None:
    """Claim ids are unique, also across a fork, and fit the limit of a word."""
    ids, others = ClaimIds(), ClaimIds()
    made = [ids.new() for _ in range(1000)]
    assert len({*made, *(others.new() for _ in range(1000))}) == 2000
    assert all(ids.made(each) and not others.made(each) for each in made)
    assert max(len(each) for each in made) <= checks.WORD_BYTES
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writer, ids.new().encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 100).decode()
    os.close(reader)
    os.close(writer)
    assert theirs
    assert not ids.made(theirs)


# The public interface


def signature_of(function: object) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]  # a method
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


def test_both_clients_have_the_same_methods() -> None:
    """Both clients have the same methods, signatures and docs."""

    def public(of: type) -> dict[str, object]:
        return {name: getattr(of, name) for name in dir(of) if not name.startswith("_")}

    blocking, asyncio = public(Registry), public(AsyncRegistry)
    assert blocking.keys() == asyncio.keys()
    for name, method in blocking.items():
        if isinstance(method, property):
            assert inspect.getdoc(method) == inspect.getdoc(asyncio[name])
        else:
            # How it sends is a choice that the asyncio client alone has.
            theirs = [each for each in signature_of(asyncio[name]) if each[0] != "transport"]
            assert signature_of(method) == theirs, name
            assert inspect.getdoc(method), name
            waits = inspect.iscoroutinefunction(asyncio[name])
            assert waits or name in ("from_url", "iter_models_by_last_used", "download", "watch"), name


def test_every_public_name_is_exported() -> None:
    """Every public name is exported once and documented."""
    assert len(set(pyregistry.__all__)) == len(pyregistry.__all__)
    assert set(errors.__all__) | set(models.__all__) <= set(pyregistry.__all__)
    aliases = {"ProviderLike"}  # has no docstring at run time
    for name in set(pyregistry.__all__) - aliases:
        assert inspect.getdoc(getattr(pyregistry, name)), name


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    """The drawn tree of errors is the inheritance of the classes."""
    assert errors.__doc__
    lines = [line for line in errors.__doc__.splitlines() if "──" in line]
    margin = min(line.index("──") for line in lines)
    parents: dict[int, type] = {0: errors.RegistryError}
    for line in lines:
        name = line.replace("│", " ").split("── ")[1].split()[0]
        depth = (line.index("──") - margin) // 4 + 1
        error = getattr(errors, name)
        assert parents[depth - 1] in error.__bases__, name
        parents[depth] = error
    assert {line.split("── ")[1].split()[0] for line in lines} == set(errors.__all__) - {"RegistryError"}


def test_a_client_does_not_pickle() -> None:
    """A client can not be pickled, and its repr shows no password."""
    client = Registry.from_url("redis://:secret@127.0.0.1:1")
    with pytest.raises(TypeError, match="from its URL"):
        pickle.dumps(client)
    assert "secret" not in repr(client)


# Configuration


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://user:secret@h:1/2", "redis://***@h:1/2"),
        ("rediss://:secret@h", "rediss://***@h"),
        ("unix://user@/run/x.sock?db=1&password=secret", "unix://***@/run/x.sock"),
        ("redis://h:secret@x@y:z", "redis://..."),
        ("embedded://", "embedded://"),
        (
            "redis+sentinel://u:secret@a:1,b/models/0?sentinel_password=secret",
            "redis+sentinel://***@a:1,b/models/0",
        ),
        ("redis+sentinel://a:1,b:secret/models", "redis+sentinel://..."),
    ],
)
def test_urls_show_no_secret(url: str, shown: str) -> None:
    """A redacted URL shows no password."""
    assert redacted(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "http://secret@x",
        "redis://h:secret",
        "redis://:se/cret@h:1",
        "embedded://secret/x",
        "redis+sentinel://:secret@h",
        "redis+sentinel://:secret@h/models/x",
        "redis+sentinel://:secret@h,,i/models",
        "redis+sentinel://:secret@h:x/models",
        "redis+sentinel://:secret@/models",
        "rediss+sentinel://:secret@h/models?socket_keepalive_options=secret&nonsense=secret",
    ],
)
def test_bad_urls_are_told_without_their_secret(url: str) -> None:
    """A malformed URL raises ConfigurationError without the password."""
    with pytest.raises(ConfigurationError) as error:
        Registry.from_url(url)
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


def test_options_are_checked_before_anything_is_sent() -> None:
    """Invalid options raise when the client is made."""
    with pytest.raises(ConfigurationError, match="nonsense"):
        Registry.from_url("redis://h", nonsense=1)
    for ours in ("decode_responses", "retry", "socket_timeout"):
        with pytest.raises(InvalidArgument):
            Registry.from_url("redis://h", **{ours: None})  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigurationError):
        Registry.from_url("redis://h?decode_responses=True")
    with pytest.raises(ConfigurationError, match="sentinel_kwargs"):
        Registry.from_url("redis+sentinel://h/models", sentinel_kwargs={"nonsense": 1})
    with pytest.raises(InvalidArgument, match="retry"):
        Registry.from_url("redis+sentinel://h/models", sentinel_kwargs={"retry": None})
    with pytest.raises(InvalidArgument):
        Registry.from_url("redis://h", timeout=0)
    with pytest.raises(InvalidArgument):
        Registry.from_url("redis://h", providers="S3")
    Registry.from_url("redis://h", providers=[f"Hub{at}" for at in range(60)])
    with pytest.raises(InvalidArgument, match="at most 60"):
        Registry.from_url("redis://h", providers=[f"Hub{at}" for at in range(61)])


@pytest.mark.parametrize(
    ("environ", "url", "told"),
    [
        ({"PYREGISTRY_URL": "redis://a", "REDIS_URL": "redis://b"}, "redis://a", "PYREGISTRY_URL"),
        ({"REDIS_URL": "redis://b", "MX_METADATA_BACKEND": "Redis"}, "redis://b", "REDIS_URL"),
        ({"REDIS_URL": "redis://b", "MX_REDIS_URL": "redis://c"}, "redis://c", "MX_REDIS_URL"),
        ({"MX_REDIS_HOST": "h"}, "redis://h:6379/0", "MX_REDIS_HOST"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "7"}, "redis://h:7/0", "REDIS_HOST and REDIS_PORT"),
        ({"REDIS_PORT": "tcp://10.0.0.1:6379", "REDIS_URL": "redis://b"}, "redis://b", "REDIS_URL"),
        (
            {"MX_REDIS_HOST": "::1", "MX_REDIS_PORT": "7"},
            "redis://[::1]:7/0",
            "MX_REDIS_HOST and MX_REDIS_PORT",
        ),
    ],
)
def test_the_environment_names_a_backend(environ: dict[str, str], url: str, told: str) -> None:
    """from_env takes the URL from the first variable that is set, and says which."""
    config = BackendConfig.from_env(environ)
    assert (config.url, config.namespace) == (url, "default")
    assert config.told_by == {"url": told}
    Registry.from_url(config.url)


def test_the_environment_names_a_namespace() -> None:
    """from_env takes the namespace from PYREGISTRY_NAMESPACE."""
    environ = {"PYREGISTRY_URL": "redis://a", "PYREGISTRY_NAMESPACE": "n"}
    assert BackendConfig.from_env(environ, touch_interval=1.0).options == {"touch_interval": 1.0}
    config = BackendConfig.from_env(environ)
    assert (config.namespace, config.told_by["namespace"]) == ("n", "PYREGISTRY_NAMESPACE")


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"PYREGISTRY_URL": ""},
        {"PYREGISTRY_URL": "redis://a", "PYREGISTRY_NAMESPACE": ""},
        {"MX_METADATA_BACKEND": "redis"},
        {"MX_METADATA_BACKEND": "kubernetes", "REDIS_URL": "redis://b"},
        {"MX_METADATA_BACKEND": "", "REDIS_URL": "redis://b"},
        {"MX_REDIS_URL": "", "REDIS_URL": "redis://b"},
        {"REDIS_HOST": "h"},
        {"REDIS_HOST": "", "REDIS_PORT": "7"},
        {"REDIS_HOST": "h", "REDIS_PORT": "tcp://10.0.0.1:6379"},
        {"REDIS_PORT": "6379"},
        {"REDIS_URL": ""},
        {"REDIS_URL": "redis://b", "MX_REDIS_HOST": "h"},
        {"MX_REDIS_HOST": ""},
        {"MX_REDIS_PORT": "6379"},
        {"MX_REDIS_HOST": "h", "MX_REDIS_PORT": ""},
        {"MX_REDIS_HOST": "h", "MX_REDIS_PORT": "0"},
        {"MX_REDIS_HOST": "h", "MX_REDIS_PORT": "x"},
    ],
)
def test_half_an_environment_is_an_error(environ: dict[str, str]) -> None:
    """An incomplete environment raises ConfigurationError."""
    with pytest.raises(ConfigurationError):
        BackendConfig.from_env(environ)


@pytest.mark.parametrize("word", ["kubernetes", "k8s", "CRD"])
def test_a_backend_that_is_not_there_yet(word: str) -> None:
    """The Kubernetes backend raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="no Kubernetes backend yet"):
        BackendConfig.from_env({"MX_METADATA_BACKEND": word})


@pytest.mark.parametrize(
    "rest",
    ["pi/ece@h:1/0", "12/34@h", "p@pi/ece@h", "pi?ece@h", "12?ece@h", "p?x=ece@h", "p@h#ece", "pi#ece@h"],
)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "redis+sentinel"])
def test_a_password_that_is_not_escaped_is_in_no_error(scheme: str, rest: str) -> None:
    """An unescaped password appears in no error."""
    url = f"{scheme}://user:{rest}"
    with pytest.raises(ConfigurationError, match="write %40 for @") as caught:
        Registry.from_url(url)
    assert redacted(url) == f"{scheme}://..."
    for piece in ("pi", "ece", "12", "34", "user"):
        assert piece not in str(caught.value).partition("; ")[0]
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["redis://h/models", "valkey://h:1/0x", "rediss://h/0/1"])
def test_a_word_is_no_database(url: str) -> None:
    """A database that is not a number raises ConfigurationError."""
    with pytest.raises(ConfigurationError, match="number of a database"):
        Registry.from_url(url)


def test_urls_of_valkey_are_those_of_redis() -> None:
    """URLs of Valkey are accepted."""
    assert "valkey://[::1]:7/2" in repr(Registry.from_url("valkey://[::1]:7/2"))
    Registry.from_url("valkeys://h")
    Registry.from_url("valkey+sentinel://h/service/0")
    Registry.from_url("redis://h?username=u&password=p@ss")


def test_a_configuration_shows_no_secret() -> None:
    """The repr of a configuration shows no password."""
    assert "secret" not in repr(BackendConfig.redis("redis://:secret@h", password="secret"))
