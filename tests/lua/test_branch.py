"""branch and set_branch: what a hub said of a branch, and of a name."""

from __future__ import annotations

import msgspec
import pytest

from pyregistry._redis.protocol import records as wire
from pyregistry.backend.values import HubAnswer
from tests.lua.harness import HOUR, SECOND, Lab

BRANCH, SPELLING = "HuggingFace@main:m", "HuggingFace:m"


def test_nothing_is_known(lab: Lab) -> None:
    """An unknown branch has neither commit nor name."""
    found = lab.call("branch")
    assert (found.commit, found.name) == (None, None)
    assert abs(found.time - lab.utc()) < 60 * SECOND


def test_a_branch_and_a_name(lab: Lab) -> None:
    """set_branch stores the commit of a branch and the name of a repository, and branch returns both."""
    asked = lab.call("branch").time
    assert lab.call("set_branch", commit="c1", canonical="M", asked=asked) == wire.BranchSet(2)
    found = lab.call("branch")
    assert (found.commit, found.name) == (HubAnswer("c1", asked), HubAnswer("M", asked))
    assert found.time >= asked
    assert asked <= lab.number("time") <= found.time
    # Other branches and other names are others.
    other = lab.call("branch", branch="HuggingFace@next:m", spelling="HuggingFace:other")
    assert (other.commit, other.name) == (None, None)


def test_the_name_alone(lab: Lab) -> None:
    """set_branch without a branch stores the name alone."""
    assert lab.call("set_branch", branch="", commit="", canonical="M", asked=5) == wire.BranchSet(1)
    found = lab.call("branch")
    assert (found.commit, found.name) == (None, HubAnswer("M", 5))
    assert lab.call("branch", branch="").name == HubAnswer("M", 5)


def test_the_later_answer_stays(lab: Lab) -> None:
    """A download of hours does not undo what a later one found; and a late copy changes nothing."""
    first = lab.call("branch").time
    lab.pass_time(HOUR)
    second = lab.call("branch").time
    assert lab.call("set_branch", commit="c2", asked=second).written == 2
    before = lab.state()
    assert lab.call("set_branch", commit="c1", asked=first).written == 0
    assert lab.call("set_branch", commit="c2", asked=second).written == 0
    assert lab.state() == before
    lab.pass_time(HOUR)
    third = lab.call("branch").time
    assert lab.call("set_branch", commit="c2", asked=third).written == 2
    assert lab.call("branch").commit == HubAnswer("c2", third)


def test_an_answer_from_the_future_is_one_of_now(lab: Lab) -> None:
    """Else a wrong clock would make it the last one for good."""
    lab.call("set_branch", commit="c1", asked=lab.utc() + 1000 * HOUR)
    told = lab.call("branch").commit
    assert told.at <= lab.utc()


def test_a_step_back(lab: Lab) -> None:
    """Lease time does not go back with the server's clock."""
    lab.pass_time(HOUR)
    last = lab.call("branch").time
    lab.call("set_branch", commit="c1", asked=last)
    time = lab.number("time")
    lab.pass_time(-HOUR)
    assert lab.call("branch").time == time
    lab.call("set_branch", commit="c2", asked=time)
    assert lab.call("branch").commit == HubAnswer("c2", time)
    assert lab.number("time") == time


@pytest.mark.parametrize(
    "value",
    [b"", b"x", b"\x93", b"\x92\xa1x", msgspec.msgpack.encode(["c", "x"]), msgspec.msgpack.encode([1, 2])],
)
def test_a_value_that_can_not_be_read_is_none_and_replaced(lab: Lab, value: bytes) -> None:
    """A damaged commit reads as none, and the next set_branch replaces it."""
    lab.call("set_branch", commit="c1", canonical="M", asked=7)
    lab.redis.hset(lab.keys.branches, BRANCH, value)
    found = lab.call("branch")
    assert (found.commit, found.name) == (None, HubAnswer("M", 7))
    assert lab.call("set_branch", commit="c2", asked=8).written == 2
    assert lab.call("branch").commit == HubAnswer("c2", 8)
