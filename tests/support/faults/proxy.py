"""A TCP proxy in front of a real server, for what networks do: lost replies, late copies, silence.

It knows just enough of RESP to tell where a command and its reply end, and by its SHA1 which script a
command runs; everything else is the server's. Each connection is read ahead, and its commands are passed on
in lockstep: one command, one reply.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections import Counter, defaultdict, deque
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import hiredis

from pyregistry._redis.protocol.transitions import OPEN, SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

T = TypeVar("T")

SECONDS = 20.0  # how long to wait for what must come


def until(condition: Callable[[], T], what: str, seconds: float = SECONDS) -> T:
    """Wait until the condition is true; returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.01)
    return found


_NAMES = {script.sha.encode(): script.name for script in (OPEN, *SCRIPTS)}


class Held:
    """A request that the proxy took and has not handed on."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self._its_turn = threading.Event()
        self._goes = threading.Event()
        self.raw = b""

    def wait(self) -> None:
        """Wait until the request is the next to be handed on."""
        assert self._its_turn.wait(SECONDS), "no such request came"

    def wait_behind(self) -> None:
        """Wait until the request is there, be it behind others of its connection."""
        assert self._came.wait(SECONDS), "no such request came"

    def come(self) -> None:
        """The proxy has read it."""
        self._came.set()

    def let_go(self) -> None:
        """Hand it on."""
        self._goes.set()

    def take(self, raw: bytes) -> None:
        """The proxy has it."""
        self.raw = raw
        self._its_turn.set()

    def stay(self) -> None:
        """Wait until it may go."""
        assert self._goes.wait(SECONDS), "nobody let the request go"


class Proxy:
    """Stands between clients and the server at ``url``; a context manager.

    What is to happen to a command is ordered by its name: a script's (``claim``), or the command's own
    (``MGET``). Orders are carried out first come, first served; a command without one just passes.

    Attributes:
        url: what clients connect to.
        upstream: host and port of the server. New connections lead there: change it for a failover.
        sent: how often the server was sent what.
        log: which connection brought what, in order: its number (from 1), and the name.
        open: the numbers of the connections that are open.
        reply: what was cut last, as it came.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.upstream = (str(parts.hostname), parts.port or 6379)
        self._listener = socket.create_server(("127.0.0.1", 0))
        user, at, _ = parts.netloc.rpartition("@")
        netloc = f"{user}{at}127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = urlunsplit(parts._replace(netloc=netloc))
        self.sent: Counter[str] = Counter()
        self.log: list[tuple[int, str]] = []
        self.open: set[int] = set()
        self.reply = b""
        self._orders: dict[str, deque[tuple[_Act, Held | None]]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Wakes the thread that waits in accept; closing alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "a connection of the proxy does not end"

    # Orders

    def lose_replies(self, name: str, times: int = 1, then: Callable[[], object] = lambda: None) -> None:
        """The server runs it, ``then`` is called, and the client's connection ends without an answer."""

        def act(pass_on: _PassOn, raw: bytes) -> bytes | None:
            pass_on(raw)
            then()
            return None

        self._order(name, act, times)

    def lose_requests(self, name: str, times: int = 1) -> None:
        """The client's connection ends, and the server never hears of it."""
        self._order(name, lambda _pass_on, _raw: None, times)

    def hold(self, name: str) -> Held:
        """The client's connection ends; the request is kept, to be delivered late (see `deliver`)."""
        held = Held()

        def act(_pass_on: _PassOn, raw: bytes) -> bytes | None:
            held.take(raw)
            return None

        self._order(name, act, 1, held)
        return held

    def pause(self, name: str, times: int = 1, *, reply: bool = False) -> list[Held]:
        """Each such request waits, its connection open, until it is let go; or, it was run, and its reply."""
        paused = [Held() for _ in range(times)]

        def act_of(held: Held) -> _Act:
            def act(pass_on: _PassOn, raw: bytes) -> bytes | None:
                answer = pass_on(raw) if reply else b""
                held.take(raw)
                held.stay()
                return answer or pass_on(raw)

            return act

        for held in paused:
            self._order(name, act_of(held), 1, held)
        return paused

    def cut_reply(self, name: str, at: int) -> None:
        """The server runs it, and the connection ends after so many bytes of the reply."""

        def act(pass_on: _PassOn, raw: bytes) -> bytes | None:
            self.reply = pass_on(raw)
            return _Last(self.reply[:at])

        self._order(name, act, 1)

    def trickle(self, name: str, times: int = 1) -> None:
        """The reply comes byte by byte."""
        self._order(name, lambda pass_on, raw: _Trickle(pass_on(raw)), times)

    def forget_orders(self, name: str) -> None:
        """From now on they just pass."""
        with self._lock:
            self._orders[name].clear()

    def log_of(self, name: str) -> int:
        """How often clients have sent this, whether the server has heard of it or not."""
        return sum(brought == name for _, brought in self.log)

    def deliver(self, held: Held) -> Any:
        """Send a held request to the server now; returns the server's answer."""
        held.wait()
        with socket.create_connection(self.upstream, SECONDS) as server, server.makefile("rb") as replies:
            server.sendall(held.raw)
            return _parsed(_read(replies))

    def connections_of(self, *names: str) -> set[int]:
        """The numbers of the connections that brought these; of all connections, if none is named."""
        return {number for number, name in self.log if not names or name in names}

    def cut(self) -> None:
        """End all connections that there are."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    # The work

    def _order(self, name: str, act: _Act, times: int, held: Held | None = None) -> None:
        with self._lock:
            self._orders[name].extend([(act, held)] * times)

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            number += 1
            self._start(self._serve, client, number)

    def _serve(self, client: socket.socket, number: int) -> None:
        self.open.add(number)
        # Either side may go at any time: that ends this connection, and is what the tests are about.
        with client, suppress(OSError, EOFError), socket.create_connection(self.upstream, SECONDS) as server:
            server.settimeout(None)
            with self._lock:
                self._sockets += [client, server]
            came: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
            reading = threading.Thread(target=self._read_ahead, args=(client, number, came), daemon=True)
            reading.start()
            try:
                with server.makefile("rb") as replies:
                    while (request := came.get()) and self._exchange(request, client, server, replies):
                        pass
            finally:
                # What the client still sends is read: else TCP would reset the connection, and take from the client
                # the replies that it has not read yet.
                with suppress(OSError):
                    client.shutdown(socket.SHUT_WR)
                reading.join(SECONDS)
        self.open.discard(number)

    def _read_ahead(
        self, client: socket.socket, number: int, came: queue.SimpleQueue[_Request | None]
    ) -> None:
        with suppress(OSError, EOFError), client.makefile("rb") as requests:
            while True:
                raw = _read(requests)
                name = _name_of(raw)
                with self._lock:
                    self.log.append((number, name))
                    orders = self._orders[name]
                    act, held = orders.popleft() if orders else (None, None)
                if held is not None:
                    held.come()
                came.put((name, raw, act))
        came.put(None)

    def _exchange(
        self, request: _Request, client: socket.socket, server: socket.socket, replies: IO[bytes]
    ) -> bool:
        """One command; false if its connection is to end."""
        name, raw, act = request

        def pass_on(raw: bytes) -> bytes:
            with self._lock:
                self.sent[name] += 1
            server.sendall(raw)
            # What the server says of its own accord before the reply goes with it.
            answer = b""
            while True:
                value = _read(replies)
                answer += value
                if not value.startswith(b">") or _parsed(value)[0].decode().upper() == name:
                    return answer

        reply = act(pass_on, raw) if act else pass_on(raw)
        if reply is None:
            return False
        for at in range(len(reply) if isinstance(reply, _Trickle) else 0):
            client.sendall(reply[at : at + 1])
        if not isinstance(reply, _Trickle):
            client.sendall(reply)
        return not isinstance(reply, _Last)


class _Last(bytes):
    """After this the connection ends."""


class _Trickle(bytes):
    """This goes out byte by byte."""


if TYPE_CHECKING:
    _PassOn = Callable[[bytes], bytes]
    _Act = Callable[[_PassOn, bytes], bytes | None]
    _Request = tuple[str, bytes, _Act | None]


def _read(stream: IO[bytes]) -> bytes:
    """One RESP value, as it is."""
    line = stream.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    kind, rest = line[:1], line[1:-2]
    if kind in b"$=!" and rest != b"-1":
        return line + stream.read(int(rest) + 2)
    if kind in b"*~>%|":
        elements = int(rest) * (2 if kind in b"%|" else 1)
        return line + b"".join(_read(stream) for _ in range(elements))
    return line


def _parsed(raw: bytes) -> Any:
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


def _name_of(raw: bytes) -> str:
    words: list[bytes] = _parsed(raw)
    if words[0].upper() == b"EVALSHA":
        return _NAMES[words[1]]
    return words[0].decode().upper()
