"""The command line: reading and changing records."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
import redis

from pyregistry import Claimed, ModelRecord, ModelRef, ModelStatus, Registry
from pyregistry._core.model_key import entry_of
from pyregistry._redis.protocol.keys import Keyspace
from pyregistry.cli.exit_codes import Exit
from tests.support.cli import Ended, Run, fill, namesakes

if TYPE_CHECKING:
    from tests.conftest import MakeServer


def test_ls_in_a_pipe(run: Run, registry: Registry) -> None:
    """`ls` in a pipe prints one row of escaped columns for each record."""
    fill(registry)
    listed = run("ls")
    assert (listed.code, listed.err) == (0, "")
    head, *rows = [line.split("\t") for line in listed.out.splitlines()]
    assert {len(row) for row in rows} == {len(head)}
    downloading, done, failed = [dict(zip(head, row, strict=True)) for row in rows]
    assert (downloading["MODEL_NAME"], downloading["BYTES_DONE"]) == ("org/downloading", "512")
    assert done["MODEL_NAME"] == "org/模型 [bold]x[/bold]"
    assert (done["REVISION"], done["SUBSET"], done["SIZE_BYTES"]) == ("v1", "t", str(5 * 2**30))
    assert failed["MODEL_NAME"] == "org/failed" + "-long" * 20
    assert failed["MESSAGE"] == r"\x1b[31mred\nand\ttab"
    used = datetime.fromisoformat(failed["LAST_USED_AT"].replace("Z", "+00:00"))
    record = registry.get_model_record(failed["MODEL_NAME"])
    assert record is not None
    assert used == record.last_used_at


def test_ls_as_json(run: Run, registry: Registry) -> None:
    """`ls --json` prints every field of each record, one record a line."""
    assert run("ls", "--json").json == []
    fill(registry)
    listed = run("ls", "--json")
    assert len(listed.out.splitlines()) == 3, "one record on each line"
    assert [each["model_name"] for each in listed.json] == [
        each.model_name for each in registry.get_models_by_last_used()
    ]
    assert set(listed.json[0]) == set(ModelRecord.__struct_fields__)


def test_ls_of_some(run: Run, registry: Registry) -> None:
    """`ls` limits and filters by status."""
    fill(registry)

    def names(*options: object) -> list[str]:
        return [each["model_name"][:10] for each in run("ls", "--json", *options).json]

    assert names("--limit", 2) == ["org/downlo", "org/模型 [bo"]
    assert names("-n", 0) == []
    assert names("--status", "error") == ["org/failed"]
    assert names("-s", "DOWNLOADED", "-n", 5) == ["org/模型 [bo"]
    assert run("ls", "--limit", -1).code == Exit.WRONG_CALL
    assert run("ls", "--status", "GONE").code == Exit.WRONG_CALL


def test_ls_of_more_than_a_page(run: Run, registry: Registry) -> None:
    """`ls` lists more records than one page holds."""
    registry.try_claim_many([ModelRef(f"m{i}", "S3") for i in range(1100)], lease=60)
    assert [each["model_name"] for each in run("ls", "--json").json] == [f"m{i}" for i in range(1100)]
    assert len(run("ls").out.splitlines()) == 1101
    assert len(run("ls", "--limit", 700).out.splitlines()) == 701


def test_show(run: Run, registry: Registry) -> None:
    """`show` prints every field of one record, and never its claim id."""
    fill(registry)
    shown = run("show", "org/downloading", "--json").json
    assert shown["owner"] == "host:1"
    assert "claim_id" not in json.dumps(shown)
    lines = dict(line.split("\t") for line in run("show", "org/downloading").out.splitlines())
    assert set(lines) == set(shown) == {*ModelRecord.__struct_fields__, "listeners"}
    assert (lines["bytes_total"], lines["permanent"], lines["size_bytes"]) == ("2048", "false", "")
    assert run("show", "org/模型 [bold]x[/bold]").code == Exit.NO, "another revision"
    assert run("show", "org/模型 [bold]x[/bold]", "--revision", "v1", "--subset", "t").code == 0
    unknown = run("show", "nobody")
    assert unknown == Ended(Exit.NO, "", "pyregistry: nobody is unknown\n")
    unknown = run("show", "nobody", "--json")
    assert (unknown.code, unknown.err) == (Exit.NO, "")
    assert unknown.json == {"status": None, "others": [], "complete": True}


def test_status_and_counts(run: Run, registry: Registry) -> None:
    """`status` prints the status of a model, and `counts` the number of each status."""
    fill(registry)
    assert run("status", "org/downloading") == Ended(0, "DOWNLOADING\n", "")
    assert run("status", "org/downloading", "--json").json == {"status": "DOWNLOADING"}
    assert run("status", "org/downloading", "-p", "S3").code == Exit.NO
    assert run("status", "nobody", "--json").json == {"status": None, "others": [], "complete": True}
    assert run("counts").out == "DOWNLOADING\t1\nDOWNLOADED\t1\nERROR\t1\n"
    assert run("counts", "--json").json == {"downloading": 1, "downloaded": 1, "error": 1}


def test_what_anybody_may_do(run: Run, registry: Registry) -> None:
    """`set-status`, `touch` and `rm` change records, and say what they did."""
    assert run("set-status", "m", "downloaded", "--message", "by hand") == Ended(0, "", "")
    assert run("set-status", "n", "ERROR", "--provider-word", "Own", "--json").json == {"set": True}
    record = registry.get_model_record("m", "HuggingFace")
    assert record is not None
    assert (record.status, record.message) == (ModelStatus.DOWNLOADED, "by hand")
    assert run("touch", "m") == Ended(0, "", "")
    assert [each.model_name for each in registry.get_models_by_last_used()] == ["n", "m"]
    assert run("touch", "nobody", "--json").json == {"touched": False, "others": [], "complete": True}
    assert run("rm", "m", "--token", 1).code == Exit.NO
    assert run("rm", "m", "--token", record.token, "--json").json == {"deleted": 1}
    assert run("rm", "m") == Ended(Exit.NO, "", "pyregistry: m is unknown\n")
    assert run("rm", "n", "--provider-word", "Own") == Ended(0, "", "")


def test_a_live_claim_that_is_ended_is_told(run: Run, registry: Registry) -> None:
    """`set-status` on a live claim logs a warning with its owner."""
    registry.try_claim_for_download("m", "HuggingFace", lease=60, owner="somebody")
    ended = run("set-status", "m", "ERROR")
    assert ended.code == 0
    assert "WARNING" in ended.err
    assert "somebody" in ended.err


def test_doctor(run: Run, make_server: MakeServer) -> None:
    """`doctor` prints its findings and exits with NO if something is wrong."""
    healthy = make_server(persistent=True)
    found = run("doctor", "--url", healthy.url)
    assert found.code == Exit.DONE
    head, *rows = [line.split("\t") for line in found.out.splitlines()]
    assert head == ["LEVEL", "CHECK", "MESSAGE", "ADVICE", "MODELS"]
    assert {row[0] for row in rows} == {"ok"}
    found = run("doctor", "--json", "--url", make_server().url)
    assert found.code == Exit.NO
    assert found.json["wrong"] is True
    assert ("warning", "persistence") in {(each["level"], each["check"]) for each in found.json["findings"]}


def test_doctor_names_the_models(run: Run, registry: Registry, server_url: str, namespace: str) -> None:
    """`doctor` names damaged records unless --no-records is given."""
    with redis.Redis.from_url(server_url) as client:
        client.set(Keyspace(namespace).record(entry_of("[x] y", "S3", "v1", None)), b"x")
    assert "\tS3:[x] y @v1" in run("doctor").out
    findings = run("doctor", "--json").json["findings"]
    assert [each["models"] for each in findings if each["models"]] == [
        [{"name": "[x] y", "provider": "S3", "revision": "v1", "subset": None}]
    ]
    assert "[x] y" not in run("doctor", "--no-records").out


# What there is where the exact record is unknown


@pytest.mark.parametrize("command", ["show", "status", "touch", "rm"])
def test_an_unknown_record_names_what_there_is(run: Run, registry: Registry, command: str) -> None:
    """A command on an unknown record names the records of the same name, ready to paste."""
    namesakes(registry)
    unknown = run(command, "ACME/model", "--provider", "gcs")
    assert (unknown.code, unknown.out) == (Exit.NO, "")
    assert unknown.err.splitlines() == [
        "pyregistry: ACME/model is unknown; under that name there is:",
        "  DOWNLOADED   acme/model --provider HuggingFace --revision v1 --subset tok",
        "  DOWNLOADED   acme/model --provider HuggingFace --revision main",
        "  DOWNLOADED   acme/model --provider Ngc",
        "  DOWNLOADED   acme/model --provider-word Own --subset 'a b'",
    ]
    # What is named can be given as it stands.
    for line in unknown.err.splitlines()[1:]:
        assert run("status", *shlex.split(line)[1:]).code == Exit.DONE
    told = run(command, "acme/model", "-p", "hf", "--json")
    assert (told.code, told.err, told.json["complete"]) == (Exit.NO, "", True)
    assert [(each["revision"], each["status"]) for each in told.json["others"]] == [
        ("v1", "DOWNLOADED"), ("main", "DOWNLOADED"), (None, "DOWNLOADED"), (None, "DOWNLOADED"),
    ]  # fmt: skip
    assert len(registry.get_models_by_last_used()) == 5, "nothing was changed"


def test_many_of_one_name_are_counted(run: Run, registry: Registry) -> None:
    """Many records of one name are counted beyond the first ten."""
    registry.try_claim_many([ModelRef("m", "S3", f"r{i}") for i in range(64)], lease=60)
    told = run("status", "m")
    assert len(told.err.splitlines()) == 12
    assert "and 54 more: pyregistry ls m" in told.err


def test_the_search_for_a_name_is_bounded(
    run: Run, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for records of one name is bounded and says so."""
    namesakes(registry)
    monkeypatch.setattr("pyregistry.cli.namesakes.MOST", 2)
    told = run("status", "acme/model", "--revision", "none")
    assert len(told.err.splitlines()) == 4
    assert "only the 2 that were unused longest" in told.err
    assert run("status", "acme/model", "--revision", "none", "--json").json["complete"] is False


def test_an_empty_namespace_says_so(
    run: Run, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command on an empty namespace names those that have records."""
    server = make_server()
    monkeypatch.setenv("PYREGISTRY_URL", server.url)
    monkeypatch.setenv("PYREGISTRY_NAMESPACE", "mine")
    assert (
        run("ls").err == "pyregistry: the namespace mine has no records, nor has any other of this server\n"
    )
    for name in ("full-b", "full-a"):
        with Registry.from_url(server.url, name) as other:
            other.set_status("m", "S3", "DOWNLOADED")
    said = "the namespace mine has no records; others have: full-a (1), full-b (1) (--namespace NAME)\n"
    for command in (["ls"], ["counts"], ["status", "m"], ["ls", "--sort", "name"]):
        assert run(*command).err.endswith(said)
        assert run(*command, "--json").err == ""
    with Registry.from_url(server.url, "mine") as mine:
        mine.set_status("m", "S3", "DOWNLOADED")
    for command in (["ls"], ["ls", "no-such-name"], ["counts"], ["status", "m"], ["status", "n"]):
        assert "no records" not in run(*command).err
    assert run("namespaces").out == "NAMESPACE\tMODELS\nfull-a\t1\nfull-b\t1\nmine\t1\n"
    assert {"namespace": "mine", "models": 1} in run("namespaces", "--json").json


def test_namespaces_write_nothing_and_say_where_scan_is_forbidden(run: Run, make_server: MakeServer) -> None:
    """`namespaces` writes nothing, and says where SCAN is not allowed."""
    server = make_server()
    assert run("namespaces", "--url", server.url) == Ended(0, "NAMESPACE\tMODELS\n", "")
    with redis.Redis.from_url(server.url) as client:
        assert client.dbsize() == 0
        client.execute_command(
            "ACL", "SETUSER", "a", "on", ">pw", "~pyregistry:{a}:*", "&pyregistry:{a}:*", "+@all", "-scan"
        )
    port = server.url.rpartition(":")[2]
    denied = run("--url", f"redis://a:pw@127.0.0.1:{port}", "namespaces")
    assert denied.code == Exit.SERVER_REFUSED
    assert "namespaces are found with SCAN, which is not allowed here" in denied.err
    # The hint of another command is left out then, and nothing else.
    told = run("--url", f"redis://a:pw@127.0.0.1:{port}", "--namespace", "a", "ls")
    assert (told.code, told.err) == (0, "pyregistry: the namespace a has no records\n")


def test_namespaces_of_others_are_not_counted(run: Run, make_server: MakeServer) -> None:
    """`namespaces` lists namespaces without rights with no count."""
    server = make_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "a", "on", ">pw", "~pyregistry:{a}:*", "&pyregistry:{a}:*", "+@all"
        )
        client.set("pyregistry:{c}:downloaded", "of another type")
        client.zadd("pyregistry:{d}:model:S3:}:downloaded", {"x": 1})
    for namespace in ("a", "b"):
        with Registry.from_url(server.url, namespace) as registry:
            registry.set_status("m", "S3", "DOWNLOADED")
    port = server.url.rpartition(":")[2]
    assert run("--url", f"redis://a:pw@127.0.0.1:{port}", "namespaces", "--json").json == [
        {"namespace": "a", "models": 1}, {"namespace": "b", "models": None},
    ]  # fmt: skip


def test_ls_by_name_and_provider(run: Run, registry: Registry) -> None:
    """`ls` filters by pattern, part of a name, provider and status."""
    fill(registry)
    namesakes(registry)

    def names(*options: object) -> list[str]:
        return [each["model_name"] for each in run("ls", "--json", *options).json]

    assert names("ACME/*") == ["acme/model"] * 4 + ["acme/model-2"]
    assert names("model", "--limit", 2) == ["acme/model", "acme/model"]
    assert names("acme/mode?") == ["acme/model"] * 4
    assert names("[bold]x") == ["org/模型 [bold]x[/bold]"], (
        "what has signs of a pattern in it is found as it stands"
    )
    assert names("-p", "s3", "org") == ["org/模型 [bold]x[/bold]"]
    assert names("--provider-word", "Own") == ["acme/model"]
    assert names("-s", "error", "acme") == ["acme/model-2"]
    assert names("acme", "-s", "error", "-p", "ngc") == []


def test_ls_sorts(run: Run, registry: Registry) -> None:
    """`ls` sorts by last use, size, age and name, in both directions."""
    for name, size_bytes in (("b", 5), ("c", None), ("a", 7)):
        claimed = registry.try_claim_for_download(name, "S3", lease=60)
        assert isinstance(claimed, Claimed)
        registry.finish_download_claim(claimed.claim, "DOWNLOADED", size_bytes=size_bytes)
    registry.touch_model("b")

    def names(*options: object) -> str:
        return "".join(each["model_name"] for each in run("ls", "--json", *options).json)

    assert names() == "cab"
    assert names("--reverse") == "bac"
    assert names("--sort", "size") == "abc"
    assert names("--sort", "age") == "bca"
    assert names("--sort", "age", "-r", "-n", 2) == "ac"
    assert names("--sort", "name", "-n", 2) == "ab"
    assert [line.split("\t")[2] for line in run("ls", "--sort", "name").out.splitlines()[1:]] == [
        "a",
        "b",
        "c",
    ]
    assert run("ls", "--sort", "colour").code == Exit.WRONG_CALL


@pytest.mark.parametrize("word", ["hf", "HF", "huggingface", "hugging-face", "HuggingFace", "HUGGING_FACE"])
def test_providers_are_understood(run: Run, registry: Registry, word: str) -> None:
    """A provider is understood in every common spelling."""
    assert run("set-status", "m", "downloading", "-p", word).code == Exit.DONE
    assert [each.provider for each in registry.get_models_by_last_used()] == ["HuggingFace"]


def test_other_providers_must_be_meant(run: Run, registry: Registry) -> None:
    """An unknown provider needs --provider-word."""
    for command in (["claim", "m"], ["set-status", "m", "ERROR"], ["show", "m"], ["ls"], ["watch", "m"]):
        wrong = run(*command, "-p", "Hugging")
        assert wrong.code == Exit.WRONG_CALL
        assert (
            "HuggingFace, Ngc, Gcs or S3, not 'Hugging'; another one is given with --provider-word"
            in wrong.err
        )
        for line in ("HuggingFace, Ngc, Gcs", "--provider-word NAME"):
            assert line in re.sub(r"\s+", " ", run(command[0], "--help").out)
    assert registry.get_models_by_last_used() == []
    assert run("set-status", "m", "ERROR", "--provider-word", "Hugging").code == Exit.DONE
    assert run("status", "m", "--provider-word", "Hugging").out == "ERROR\n"
    assert run("status", "m", "-p", "S3", "--provider-word", "Hugging").code == Exit.WRONG_CALL
