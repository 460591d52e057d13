"""The kernel's network over netlink: hear of changes, read what is, change one thing.

Raw AF_NETLINK sockets of the standard library. Listening needs no right for routes, and
CAP_NET_ADMIN for IPsec. A socket for a family the kernel does not speak yet would make it load the
module for that; so IPsec is watched where `spoken` says that it is there, and nothing is loaded.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from pathlib import Path

from sekisho.core.errors import SekishoError
from sekisho.core.text import lines_of
from sekisho.network.netlink import (
    AF_INET,
    AF_INET6,
    DONE,
    ERROR,
    GETADDR,
    GETLINK,
    GETNETCONF,
    GETPOLICY,
    GETROUTE,
    GETRULE,
    GETSA,
    NEWLINK,
    NEWPOLICY,
    NEWSA,
    Change,
    Fact,
    Message,
    link_name,
    messages,
    request,
    route_change,
    xfrm_change,
)

ROUTE, XFRM = 0, 6
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
#: RTNLGRP_*: link, IPv4 address, route and rule; IPv6 address, route and rule; netconf of both.
ROUTE_GROUPS = (1, 5, 7, 8, 9, 11, 19, 24, 25)
#: XFRMNLGRP_*: associations and policies.
XFRM_GROUPS = (3, 4)
_REQUEST, _ACK, _DUMP, _CREATE = 0x1, 0x4, 0x300, 0x400
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: it changed while it was read
TIMEOUT_S = 5.0
_TRIES = 5
#: More is no network of ours, and would make the loop late.
MAX_FACTS = 20_000


def _socket(protocol: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    return socket.socket(socket.AF_NETLINK, kind, protocol)


def spoken(protocol: int, where: Path = Path("/proc/net/netlink")) -> bool:
    """Return whether the kernel itself has a socket of a netlink family in this namespace."""
    for line in lines_of(where.read_text(encoding="ascii"))[1:]:
        words = line.split()  # sk, Eth (the family), Pid (the kernel's is 0), …
        if words[1:3] == [str(protocol), "0"]:
            return True
    return False


class NetworkChanges:
    """Hears the kernel announce changes of links, addresses, routes, rules, forwarding, IPsec."""

    def __init__(self, protocol: int) -> None:
        self._protocol = protocol
        self._socket = _socket(protocol)
        self._socket.setblocking(False)
        # A burst of thousands of routes still fits; what does not is read anew.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        for group in ROUTE_GROUPS if protocol == ROUTE else XFRM_GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """Return the descriptor to wait on."""
        return self._socket.fileno()

    def take(self, names: dict[int, str]) -> list[Change]:
        """Return what was announced; an overflow or garbled bytes say only that something changed.

        ``names`` (interface index → name) learns of new links on the way.
        """
        found: list[Change] = []
        for _ in range(1000):
            try:
                data, sender = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue
                raise
            if sender[0] != 0:  # only the kernel speaks to a group; root could speak to us
                continue
            for message in messages(data):
                if self._protocol == XFRM:
                    found += xfrm_change(message)
                    continue
                if message.kind == NEWLINK:
                    index, name = link_name(message.body)
                    names[index] = name or names.get(index, "")
                found += route_change(message, names)
        return found

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class KernelNetwork:
    """Reads the network of this namespace, and changes it."""

    def __init__(self) -> None:
        #: Interface index → name, as of the last reading.
        self.names: dict[int, str] = {}
        self._sequence = 0

    def read(self) -> set[Fact]:
        """Return everything that is so; `SekishoError` when it cannot be told."""
        for _ in range(_TRIES):
            found = self._read()
            if found is not None:
                return found
        raise SekishoError("the network changes faster than it can be read")

    def _read(self) -> set[Fact] | None:
        links = self._dump(ROUTE, GETLINK, struct.pack("=BBHiII", 0, 0, 0, 0, 0, 0))
        if links is None:
            return None
        self.names = dict(link_name(one.body) for one in links if one.kind == NEWLINK)
        told = list(links)
        for kind, body in (
            (GETADDR, b"\0" * 8),
            (GETROUTE, b"\0" * 12),
            (GETRULE, b"\0" * 12),
            (GETNETCONF, struct.pack("=Bxxx", AF_INET)),
            (GETNETCONF, struct.pack("=Bxxx", AF_INET6)),
        ):
            more = self._dump(ROUTE, kind, body)
            if more is None:
                return None
            told += more
        found = {change.fact for one in told for change in route_change(one, self.names)}
        for kind, answer in () if not spoken(XFRM) else ((GETSA, NEWSA), (GETPOLICY, NEWPOLICY)):
            more = self._dump(XFRM, kind, b"")
            if more is None:
                return None
            found |= {c.fact for one in more if one.kind == answer for c in xfrm_change(one)}
        if len(found) > MAX_FACTS:
            raise SekishoError(f"the network holds {len(found)} things; at most {MAX_FACTS}")
        return found

    def _dump(self, protocol: int, kind: int, body: bytes) -> list[Message] | None:
        """Return the answers; None when they were interrupted by a change."""
        found: list[Message] = []
        with _socket(protocol) as link:
            self._send(link, kind, _REQUEST | _DUMP, body)
            while True:
                for message in messages(link.recv(1 << 17)):
                    if message.flags & _INTERRUPTED:
                        return None
                    if message.kind == DONE:
                        return found
                    if message.kind == ERROR:
                        _refused(message, f"reading (type {kind})")
                    found.append(message)
                    if len(found) > MAX_FACTS:
                        raise SekishoError(f"more than {MAX_FACTS} answers (type {kind})")

    def _send(self, link: socket.socket, kind: int, flags: int, body: bytes) -> None:
        link.settimeout(TIMEOUT_S)
        link.bind((0, 0))
        self._sequence += 1
        link.sendto(request(kind, flags, self._sequence, body), (0, 0))

    def change(self, kind: int, body: bytes) -> None:
        """Have the kernel take one thing away or put it up; `SekishoError` when it refuses."""
        with _socket(ROUTE) as link:
            self._send(link, kind, _REQUEST | _ACK | _CREATE, body)
            for message in messages(link.recv(1 << 17)):
                if message.kind == ERROR:
                    _refused(message, f"changing (type {kind})")

    def indexes(self) -> dict[str, int]:
        """Return interface → index, as of the last reading."""
        return {name: index for index, name in self.names.items()}


def _refused(message: Message, what: str) -> None:
    (code,) = struct.unpack_from("=i", message.body)
    if code:
        raise SekishoError(f"the kernel refused: {what}: {os.strerror(-code)}")
