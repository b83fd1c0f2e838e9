"""Decides when a multiplexed connection writes the requests that it has gathered. No I/O.

Invariant: the server and the client work at the same time, and no request waits longer than the turn of the event
loop in which it was made.

Steps, of `MultiplexedTransport`:

1. At the end of each turn that wrote anything, the requests under way are counted. That is the number of requests
   that are *active* at once. If callers share requests, the number of callers that the last
   replies woke counts instead.
2. `gather` returns the number of requests that make a batch. A batch that reaches it is written at once, while the
   other callers of the same turn still make requests.
3. The rest is written at the end of the turn, right after the last caller that the replies woke.

Why it holds: with one batch a turn, client and server alternate, and each waits while the other works. With two
halves both work: the server runs one half while the client decodes the other half and sends its next requests. The
halves stay separate, because each has a reply of its own. If two replies arrive in one read, the callers that they
wake are split again. More parts overlap no better (measured with 16, 50 and 100 tasks), and each part costs a script
call and a system call on both sides.
"""

from __future__ import annotations

from pyregistry._redis.protocol.scripts import BATCH

PARTS = 2
LEAST = 2
"""Minimum number of requests in a batch that is written before its turn ends.

A script call costs the server as much as two to three items of a batch. So a batch of one request is slower than
waiting for the others of the turn.
"""


def gather(active: int, under_way: int) -> int:
    """Return how many requests to gather before they are written without waiting for the end of the turn.

    Args:
        active: Number of requests or callers that are active at once. 0: not known yet.
        under_way: Number of requests that the server has not answered.

    Returns:
        1 for a single caller: no other request is expected in this turn, and the server is idle.
        A full batch if more requests come than expected: the number of those that follow is not known.
    """
    if under_way >= active:
        return BATCH
    return min(BATCH, max(LEAST, -(-active // PARTS))) if active > 1 else 1
