"""When a multiplexed connection writes the requests that it has gathered; pure, no I/O.

Invariant: the server and the client work at the same time, and no request waits longer than the turn of the event
loop in which it was made.

Steps, of `MultiplexedTransport`:

1. At the end of each turn that wrote anything, the requests under way are counted. That is the number of requests
   that are *active* at once; where callers share requests, the callers that the last replies woke count instead.
2. `gather` gives the number of requests that make a batch. The batch that reaches it is written while the other
   callers of the same turn still ask.
3. The rest is written at the end of the turn, right after the last caller that the replies woke.

Why it holds: with one batch a turn, client and server take turns, and each waits while the other works. Two halves
keep both busy: the server runs one half while the client decodes the other half and asks again. The halves stay
apart by themselves, because each comes back in a reply of its own; where two replies arrive in one read, the callers
that they wake are split again. More parts overlap no better (measured with 16, 50 and 100 tasks), and each costs a
script call and a system call on both sides.
"""

from __future__ import annotations

from pyregistry._redis.protocol.scripts import BATCH

PARTS = 2
LEAST = 2
"""Requests in a batch that is written before its turn ends. A script call alone costs the server as much as two to
three items of a batch, so one request would never be worth it while others come."""


def gather(active: int, under_way: int) -> int:
    """Return how many requests to gather before they are written without waiting for the end of the turn.

    Args:
        active: requests or callers that are active at once. 0: not known yet.
        under_way: requests that the server has not answered.

    Returns:
        1 for a caller that is alone: no other request is expected in this turn, and the server is idle.
        A full batch where more requests come than were expected: how many follow is not known.
    """
    if under_way >= active:
        return BATCH
    return min(BATCH, max(LEAST, -(-active // PARTS))) if active > 1 else 1
