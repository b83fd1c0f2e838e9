"""Calls that are refused whole: malformed arguments, missing rights, a server that is full.

That nothing is changed and nothing published then is for the harness to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import NoPermissionError, OutOfMemoryError

from pyregistry._redis.protocol import records as wire
from pyregistry._redis.protocol.scripts import load
from tests.lua.harness import Item, Lab, contract_of, item

WRITING = ("claim", "retry", "renew", "finish", "release", "set_status", "touch", "delete")
PUBLISHING = [name for name in WRITING if name != "touch"]
ALL = ("open", *WRITING, "read", "page", "counts", "branch", "set_branch")

NO_INT = [
    "",
    " ",
    "x",
    "-1",
    "1.5",
    "nan",
    "-nan",
    "inf",
    "-inf",
    str(2**53),
    "1e99",
    "0x20000000000000",
    "1 2",
]
MALFORMED = {
    "int": NO_INT,
    "int?": NO_INT[1:],
    "flag": ["", "2", "-1", "x", "true", "01"],
    "word": [""],
    "str": [],
}
NO_STATUS = ["", "downloaded", "REMOVED", "DOWNLOADED ", "\0"]


def arguments(shared: bool) -> list[tuple[str, str, list[str]]]:
    found = []
    for name in ALL:
        contract = contract_of(load(name, 1))
        for arg in contract.args if shared else contract.item_args:
            values = list(MALFORMED[arg.type])
            if arg.name == "status":
                values += NO_STATUS + (["DOWNLOADING", "EVICTING"] if name == "finish" else [])
            if arg.name == "limit":
                values += ["0", "1001"]
            if values:
                found.append((name, arg.name, values))
    return found


@pytest.mark.parametrize(("name", "arg", "values"), arguments(shared=False))
def test_malformed_arguments_of_an_item(lab: Lab, name: str, arg: str, values: list[str]) -> None:
    """In the middle of a batch: the one before it, which was judged, is not carried out either."""
    first, middle, last = lab.busy(name, 3)
    for value in values:
        wrong = Item(middle.model, {**middle.args, arg: value})
        with pytest.raises(redis.ResponseError, match=f"^pyregistry: {arg} is "):
            lab.call(name, first, wrong, last)
    lab.call(name, first, middle, last)


@pytest.mark.parametrize(("name", "arg", "values"), arguments(shared=True))
def test_malformed_arguments_of_a_call(lab: Lab, name: str, arg: str, values: list[str]) -> None:
    """A malformed argument of a call is refused by its name."""
    items = lab.busy(name, 3) if contract_of(load(name, 1)).item_keys else []
    for value in values:
        shared: Any = {arg: value}
        with pytest.raises(redis.ResponseError, match=f"^pyregistry: {arg} is "):
            lab.call(name, *items, **shared)


def test_the_largest_numbers(lab: Lab) -> None:
    """The scripts accept the largest number in every argument."""
    most = 2**53 - 1
    token = lab.downloading("m", "a", lease=most, expected_bytes=most, max_attempts=most)
    assert (
        lab.one("renew", "m", claim_id="a", token=token, lease=most, bytes_done=most).lease_left > most // 2
    )
    assert lab.one("renew", "m", claim_id="a", token=most) == wire.Lost("DOWNLOADING")
    end = {"status": "ERROR", "retry_in": most, "size_bytes": most}
    assert lab.one("finish", "m", claim_id="a", token=token, **end) == wire.Done()
    assert lab.one("retry", "m", claim_id="b").retry_left > most // 2
    assert lab.one("delete", "m", token=most) == wire.OtherToken(token)


# What the server refuses


@pytest.fixture
def user(own_lab: Lab) -> Iterator[Callable[..., None]]:
    """Lets a user with these rights run the scripts from now on."""
    clients = []

    def user(*rights: str) -> None:
        own_lab.redis.execute_command("ACL", "SETUSER", "limited", "reset", "on", ">secret", *rights)
        pool: Any = own_lab.redis.connection_pool
        options = {**pool.connection_kwargs, "username": "limited", "password": "secret"}
        own_lab.caller = redis.Redis.from_pool(redis.ConnectionPool(pool.connection_class, **options))
        clients.append(own_lab.caller)

    yield user
    for client in clients:
        client.close()


@pytest.mark.parametrize("name", [*ALL, "now", "cache"])
def test_a_script_touches_no_key_but_those_it_is_given(
    own_lab: Lab, user: Callable[..., None], name: str
) -> None:
    """A script runs with rights to its declared keys alone."""
    lab = own_lab
    of_no_model = name in ("open", "counts", "now", "cache")
    items = [] if of_no_model else lab.busy(name, 1 if name == "page" else 2)
    script = load(name, 1)
    keys, args = lab.command(script, tuple(items), {})
    user("resetkeys", *(f"~{key}" for key in keys), "allchannels", "+@all")
    lab.send(script, keys, args)
    lab.caller = lab.redis
    lab.check(lab.state())


def refused(error: type[redis.ResponseError], lab: Lab, name: str, *items: Item) -> None:
    with pytest.raises(error):
        lab.call(name, *items)


@pytest.mark.parametrize("rights", [("resetchannels", "+@all"), ("allchannels", "+@all", "-spublish")])
def test_a_user_who_may_not_publish(own_lab: Lab, user: Callable[..., None], rights: tuple[str, ...]) -> None:
    """A user without the right to publish changes nothing, and open names the right."""
    lab = own_lab
    user("~*", *rights)
    for name in PUBLISHING:
        lab.caller, caller = lab.redis, lab.caller
        items = lab.busy(name, 2)
        lab.caller = caller
        with pytest.raises(redis.ResponseError, match=r"publish|access a channel|run this command"):
            lab.call(name, *items)
        lab.redis.flushall()
    with pytest.raises(NoPermissionError, match=r"needs .* SPUBLISH"):
        lab.open()


def test_a_user_who_may_not_write_some_key(own_lab: Lab, user: Callable[..., None]) -> None:
    """The server sees that before the script runs: all its keys are declared."""
    keys = {"meta", "downloading", "evicting", "model:*"}
    prefix = f"pyregistry:{{{own_lab.keys.namespace}}}:"
    for name in WRITING:
        own_lab.caller = own_lab.redis
        items = own_lab.busy(name, 2)
        for key in keys:
            writable = {*keys, "downloaded", "error", "holds:*"} - {key}
            user("allchannels", "+@all", *(f"~{prefix}{each}" for each in writable), f"%R~{prefix}{key}")
            refused(NoPermissionError, own_lab, name, *items)
            refused(NoPermissionError, own_lab, "open")
        own_lab.redis.flushall()


NEEDED = [
    "info", "time", "type", "hmget", "spublish", "hset", "get", "mget", "mset", "del",
    "zcount", "zadd", "zrem", "zscore", "zcard", "zrange",
]  # fmt: skip


def test_open_tells_which_command_a_user_may_not_use(own_lab: Lab, user: Callable[..., None]) -> None:
    """open names the command that a user may not use."""
    for command in NEEDED:
        user("~*", "allchannels", "+@all", f"-{command}")
        with pytest.raises(NoPermissionError, match=f"needs a right that this user lacks: {command.upper()}"):
            own_lab.open()


def test_a_user_who_may_do_what_is_needed(own_lab: Lab, user: Callable[..., None]) -> None:
    """And nothing else: so the list above is whole."""
    prefix = f"pyregistry:{{{own_lab.keys.namespace}}}:"
    user(f"~{prefix}*", f"&{prefix}events", "+evalsha", *(f"+{command}" for command in NEEDED))
    own_lab.open()
    for name in WRITING:
        items = own_lab.busy(name, 2)
        own_lab.call(name, *items)
        own_lab.call("delete", *(item(each.model, force=1) for each in items))
    own_lab.finished("m", "a")
    own_lab.call("read", item("m"))
    own_lab.call("page", Item("DOWNLOADED", {}))
    own_lab.call("counts")


def test_a_server_that_is_full(own_lab: Lab) -> None:
    """What could fill it more is refused before it starts; what puts things right is not."""
    lab = own_lab
    lab.open()
    token = {name: lab.downloading(name, "a") for name in ("finished", "released", "renewed")}
    lab.finished("failed", "a", status="ERROR")
    lab.finished("there", "a")
    lab.redis.config_set("maxmemory", "1")
    refused(OutOfMemoryError, lab, "claim", item("new"))
    refused(OutOfMemoryError, lab, "claim", item("there"))
    refused(OutOfMemoryError, lab, "retry", item("failed"))
    refused(OutOfMemoryError, lab, "set_status", item("there", status="ERROR"))
    lab.open()
    assert isinstance(lab.one("renew", "renewed", claim_id="a", token=token["renewed"]), wire.Renewed)
    assert lab.one("finish", "finished", claim_id="a", token=token["finished"]) == wire.Done()
    assert lab.one("release", "released", claim_id="a", token=token["released"]) == wire.Done()
    assert lab.one("touch", "there") == wire.Known()
    assert isinstance(lab.one("read", "there"), wire.Found)
    assert len(lab.call("page", Item("DOWNLOADED", {}))) == 4
    assert lab.one("delete", "there") == wire.Deleted()
    lab.redis.config_set("maxmemory", "0")
    assert isinstance(lab.claim("new"), wire.ClaimGiven)
