"""The listeners part: who waits for connections, compared with the policy."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any, Self

from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.parts.probe_socket import MISSING, ProbeSocket
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.listeners import Listener, listening, owners
from sekisho.policy.host_policy import HostPolicy

OPENED = "6-iv-b.listener-opened"


def place(proto: str, address: str, port: int) -> str:
    """Return the name under which a socket and a policy's line are compared."""
    return f"{proto} {ipaddress.ip_address(address)}:{port}"


def is_local(listener: Listener) -> bool:
    """Tell whether only this machine can reach it."""
    return ipaddress.ip_address(listener.address).is_loopback


class ListenersPart(Part):
    """Compares the waiting sockets with the policy's; tells of each new one once."""

    NAME = "listeners"
    CHECKS = (OPENED, MISSING)
    EVERY_S = 5.0

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book, self._proc = book, paths.proc
        self._probe_socket = ProbeSocket(book, paths)
        self._allowed: frozenset[str] = frozenset()
        self._known = False
        self._told: set[str] = set()
        self._maybe: set[str] = set()

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths)

    def policy(self, policy: HostPolicy) -> None:
        """Take the listeners of a new policy."""
        self._allowed = frozenset(
            place(entry.proto, entry.address, entry.port) for entry in policy.listeners
        )
        self._known = True
        self._told = set()

    def look(self) -> None:
        """Look once, at the auditors' socket whatever the rest says."""
        try:
            self._look()
        finally:
            self._probe_socket.look()

    def _look(self) -> None:
        if not self._known:
            self._book.up("listeners", works=False)
            return
        found: dict[str, Listener] = {
            place(one.proto, one.address, one.port): one for one in listening(Path(self._proc))
        }
        extra = {name for name in found if name not in self._allowed}
        # A client's UDP socket looks like a server's for a moment: it counts the second time.
        certain = {name for name in extra if found[name].proto == "tcp" or name in self._maybe}
        self._maybe = extra
        fresh = sorted(certain - self._told)
        held = owners((found[name].inode for name in fresh), Path(self._proc))
        for name in fresh:
            self._tell(name, found[name], held.get(found[name].inode))
        for name in sorted(self._told - set(found)):
            self._book.tell("listener.closed", {"listener": name})
        self._told = (self._told & set(found)) | certain
        reachable = sum(not is_local(found[name]) for name in certain)
        self._book.metrics.set("sekisho_listener_unexpected", reachable, "network")
        self._book.metrics.set("sekisho_listener_unexpected", len(certain) - reachable, "local")
        self._book.metrics.set("sekisho_listener_missing", len(self._allowed - set(found)))
        self._book.up("listeners", works=True)

    def _tell(self, name: str, listener: Listener, holder: tuple[int, str] | None) -> None:
        data: dict[str, Any] = {"listener": name, "uid": listener.uid, "inode": listener.inode}
        if holder is not None:
            data |= {"pid": holder[0], "program": holder[1]}
        who = f"{holder[1]} ({holder[0]})" if holder is not None else f"uid {listener.uid}"
        local = is_local(listener)
        where = ", for this machine only" if local else ""
        self._book.detect(
            OPENED, "notice" if local else "alert", f"{who} waits on {name}{where}", data
        )
