"""The receiving end of the one-way hop, as a service: listens, bounds, and tells the journal.

Each declared peer may push objects; everybody else's connection is reset at once. What was refused
is said on standard error and, at a bounded rate, in the journal; nothing is said to the sender.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import queue
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded
from sekisho.core.names import Mode
from sekisho.host.journal.client import submit
from sekisho.host.sdnotify import Notifier
from sekisho.host.transfer.receive import Pace, refuse_by_default, serve
from sekisho.host.transfer.store import Journal, Peer, Store
from sekisho.policy.host_policy import MAX_BYTES, HostPolicy
from sekisho.policy.parts import Hop

PORT = 7601
#: Connections at once of one peer: of few peers each has more. `sekisho send` opens two.
WORKERS, WORKERS_MOST, WORKERS_LEAST = 8, 4, 2
TOLD_PER_MINUTE = 30  # refusals in the journal, of one peer; all undeclared addresses are one
TOLD_WAITING = 64
EXPIRE_EVERY = 60.0  # seconds between two looks for deliveries without news
UNDECLARED = "undeclared"
ALIVE_EVERY = 5.0  # seconds between two signs of life for the service manager
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}


@dataclass(frozen=True, slots=True)
class Listen:
    """One address to listen on, and who may push there: peer's address → its name (None: any)."""

    address: str
    port: int
    peers: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Where to listen, and this host's name (None when it has none that manifests must bear)."""

    listen: tuple[Listen, ...]
    host: str | None


def _wrong(where: str, got: str, expected: str) -> SekishoError:
    problem = Problem(where, "", got, expected)
    return SekishoError("the receiver is not configured", (problem,))


def plan_of_file(path: Path) -> Plan:
    """Return the plan of the host's policy file; SekishoError as for `plan_of_policy`."""
    try:
        raw = read_bounded(path, MAX_BYTES)
    except SekishoError as bad:
        raise SekishoError("the receiver is not configured", bad.problems) from None
    return plan_of_policy(raw, str(path))


def plan_of_policy(raw: bytes, where: str) -> Plan:
    """Return what the host's compiled policy says: its one-way flows with direction "in".

    Raises:
        SekishoError: no policy, or no such flow: then this host has nothing to listen for.

    """
    try:
        policy = HostPolicy.parse(raw, where)
    except SekishoError as bad:
        raise SekishoError("the receiver is not configured", bad.problems) from None
    peers: dict[tuple[str, int], dict[str, str | None]] = {}
    for flow in policy.flows:
        if isinstance(flow, Hop) and flow.direction == "in" and flow.mode is Mode.ONE_WAY_TCP:
            peers.setdefault((flow.local_address, flow.port), {})[flow.peer_address] = flow.peer
    if not peers:
        raise _wrong(where, 'no one-way-tcp flow with direction "in"', "one at least")
    return Plan(tuple(Listen(*place, found) for place, found in peers.items()), policy.host)


def plan_of_words(address: str, port: int, peers: list[str], host: str | None) -> Plan:
    """Return the plan of the command line; a peer is ``ADDRESS`` or ``NAME=ADDRESS``."""
    found: dict[str, str | None] = {}
    for word in peers:
        name, mark, text = word.rpartition("=")
        try:
            found[str(ipaddress.ip_address(text))] = name if mark else None
        except ValueError as error:
            raise _wrong("--peer", printable(word), "ADDRESS or NAME=ADDRESS") from error
    if not found:
        raise _wrong("--peer", "none", "at least one: nobody else may connect")
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise _wrong("--listen", printable(address), "an IP address") from error
    if not 0 <= port <= 65535:
        raise _wrong("--port", str(port), "1 to 65535")
    return Plan((Listen(address, port, found),), host)


def no_journal(kind: str, data: dict[str, Any]) -> None:
    """Stand for the journal on a peer that Sekisho does not manage: the event is only printed."""
    sys.stderr.write(f"{kind} {json.dumps(data, sort_keys=True)}\n")


class Receiver:
    """The listening service. `run` returns when `stop` was called, or after one delivery."""

    def __init__(
        self, plan: Plan, store: Store, journal: Journal, *, pace: Pace | None = None
    ) -> None:
        self._plan, self._store, self._journal = plan, store, journal
        self._pace = pace or Pace()
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._lock = threading.Lock()
        self._active: dict[str, int] = {}
        peers = {address for one in plan.listen for address in one.peers}
        self._share = max(WORKERS_LEAST, min(WORKERS_MOST, WORKERS // max(1, len(peers))))
        self._told: dict[str, list[float]] = {}
        self._telling: queue.Queue[dict[str, Any]] = queue.Queue(TOLD_WAITING)
        self._stopping = threading.Event()
        self.completed = threading.Event()
        self.refused = 0
        self.ports: list[int] = []

    def open(self) -> None:
        """Listen; SekishoError when an address cannot be had."""
        for one in self._plan.listen:
            version = ipaddress.ip_address(one.address).version
            family = socket.AF_INET6 if version == 6 else socket.AF_INET
            listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.setsockopt(*_FREEBIND[family], 1)  # the address may come up later
                refuse_by_default(listener)  # inherited by every connection it accepts
                listener.bind((one.address, one.port))
                listener.listen(64)
            except OSError as error:
                listener.close()
                where = f"{one.address} port {one.port}"
                raise _wrong(where, printable(str(error)), "an address to listen on") from error
            listener.setblocking(False)
            self.ports.append(listener.getsockname()[1])
            self._selector.register(listener, selectors.EVENT_READ, one)
        self._selector.register(self._wake, selectors.EVENT_READ, None)

    def stop(self, *_: object) -> None:
        """End `run` soon; callable from a signal handler or another thread."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._waker.send(b"x")

    def run(self, *, once: bool = False, alive: Callable[[], object] = lambda: None) -> None:
        """Serve until `stop`; with ``once`` until one delivery is complete."""
        told = float("-inf")
        for work in (self._journal_refusals, self._keep_house):
            threading.Thread(target=work, daemon=True).start()
        while not self._stopping.is_set():
            for key, _ in self._selector.select(timeout=ALIVE_EVERY):
                if not isinstance(key.fileobj, socket.socket):
                    continue
                if key.data is None:
                    key.fileobj.recv(4096)  # woken: what is not taken would wake us for ever
                else:
                    self._accept(key.fileobj, key.data)
            now = time.monotonic()
            if now - told >= ALIVE_EVERY:  # a peer's connections must not flood the service manager
                told = now
                alive()
            if once and self.completed.is_set():
                break
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()

    def _accept(self, listener: socket.socket, listen: Listen) -> None:
        try:
            link, source = listener.accept()
        except OSError:
            return
        address = str(ipaddress.ip_address(source[0].partition("%")[0]))
        if address not in listen.peers:
            link.close()  # a reset
            self._tell(UNDECLARED, SekishoError(f"a connection from {address}, no declared peer"))
            return
        peer = Peer(address, listen.peers[address])
        with self._lock:
            mine = self._active.get(address, 0)
            room = mine < self._share
            if room:
                self._active[address] = mine + 1
        if not room:
            link.close()  # a reset: the sender tries again
            return
        try:
            threading.Thread(target=self._serve, args=(link, peer), daemon=True).start()
        except RuntimeError as error:  # the system has no thread for it: neither for others, soon
            link.close()
            with self._lock:
                self._active[address] -= 1
            self._tell(address, SekishoError(str(error)))

    def _serve(self, link: socket.socket, peer: Peer) -> None:
        try:
            done = serve(link, peer, self._store, self._pace)
            sys.stderr.write(f"{peer.address}: {done}\n")
        except (SekishoError, OSError) as error:
            self._tell(peer.address, error)
        finally:
            with self._lock:
                self._active[peer.address] -= 1
            if self._store.completed:
                self.completed.set()
                with contextlib.suppress(OSError):
                    self._waker.send(b"x")

    def _tell(self, address: str, error: Exception) -> None:
        """Say what was refused; the journal is told at most so many times a minute and peer."""
        text = error.diagnostics() if isinstance(error, SekishoError) else str(error)
        text = printable(" / ".join(line.strip() for line in text.split("\n")), 400)
        now = time.monotonic()
        with self._lock:
            self.refused += 1
            recent = [then for then in self._told.get(address, ()) if then > now - 60.0]
            self._told[address] = recent
            if len(recent) >= TOLD_PER_MINUTE:
                return
            recent.append(now)
            data = {"peer": address, "why": text, "count": self.refused}
        sys.stderr.write(f"{address}: refused: {text}\n")
        with contextlib.suppress(queue.Full):  # the journal stands still; `count` shows the rest
            self._telling.put_nowait(data)

    def _journal_refusals(self) -> None:
        """Hand refusals to the journal: who accepts connections must not wait for it."""
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                data = self._telling.get(timeout=1.0)
                try:
                    self._journal("transfer.refused", data)
                except SekishoError as failure:
                    sys.stderr.write(f"not journalled: {printable(failure.message)}\n")

    def _keep_house(self) -> None:
        """Finish what a stop interrupted, then give up what nobody goes on with."""
        for trouble in self._store.resume():
            sys.stderr.write(f"not finished: {printable(trouble, 1000)}\n")
        while not self._stopping.wait(EXPIRE_EVERY):
            try:
                for name in self._store.expire(time.time()):
                    sys.stderr.write(f"given up: {name}\n")
            except (SekishoError, OSError) as error:
                sys.stderr.write(f"not given up: {printable(str(error))}\n")


def run_receiver(plan: Plan, root: Path, journal: Journal, *, once: bool) -> None:
    """Run the service in the foreground until SIGTERM or SIGINT.

    Raises:
        SekishoError: an address cannot be had, or the store cannot be made.

    """
    try:
        _run(plan, root, journal, once=once)
    except OSError as error:
        raise _wrong(str(root), printable(str(error)), "a writable directory") from error


def _run(plan: Plan, root: Path, journal: Journal, *, once: bool) -> None:
    peers = frozenset(address for one in plan.listen for address in one.peers)
    store = Store(root, journal, name=plan.host, peers=peers)
    receiver = Receiver(plan, store, journal)
    receiver.open()
    notifier = Notifier(os.environ)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receiver.stop)
    for one, port in zip(plan.listen, receiver.ports, strict=True):
        sys.stderr.write(f"listening on {one.address} port {port} for {', '.join(one.peers)}\n")
    notifier.send(READY="1")
    receiver.run(once=once, alive=lambda: notifier.send(WATCHDOG="1"))
    notifier.send(STOPPING="1")


def main(argv: list[str]) -> int:
    """Receive by the host's policy into its store and journal; 3 when that is not configured.

    What sekisho-receive.service starts: `sekisho receive` without the command line's libraries.
    """
    parser = argparse.ArgumentParser(prog="sekisho-receive", description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    asked = parser.parse_args(argv)
    try:
        run_receiver(plan_of_file(asked.policy), asked.store, submit, once=False)
    except SekishoError as bad:
        sys.stderr.write(f"sekisho-receive: {bad.diagnostics()}\n")
        return 3
    return 0
