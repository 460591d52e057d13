"""Sockets that wait for somebody, as the kernel lists them, and who holds them.

`parse` is pure; `listening` reads /proc/net. Owners are looked up only for sockets asked about:
walking every process's descriptors costs more than everything else the agent does.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.text import is_number, lines_of

_TCP_LISTEN, _UDP_UNCONNECTED = 0x0A, 0x07
#: File in /proc/net → protocol, and the state in which a socket waits for anybody.
TABLES = {
    "tcp": ("tcp", _TCP_LISTEN),
    "tcp6": ("tcp", _TCP_LISTEN),
    "udp": ("udp", _UDP_UNCONNECTED),
    "udp6": ("udp", _UDP_UNCONNECTED),
    "udplite": ("udplite", _UDP_UNCONNECTED),
    "udplite6": ("udplite", _UDP_UNCONNECTED),
    "raw": ("raw", _UDP_UNCONNECTED),
    "raw6": ("raw", _UDP_UNCONNECTED),
}
MAX_TABLE = 16 * 1024 * 1024  # bytes of one /proc/net file


@dataclass(frozen=True, slots=True, order=True)
class Listener:
    """One waiting socket. For raw sockets ``port`` is the IP protocol number."""

    proto: str
    address: str
    port: int
    uid: int = 0
    inode: int = 0

    @property
    def name(self) -> str:
        """Return ``tcp 10.0.0.1:22``, the same for every socket of that place."""
        return f"{self.proto} {self.address}:{self.port}"


def _address(text: str) -> str:
    raw = bytes.fromhex(text)
    if len(raw) not in (4, 16):
        raise ValueError(text)
    # The kernel prints 32-bit words in the machine's own byte order; Debian's are little-endian.
    packed = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def parse(table: str, text: str) -> list[Listener]:
    """Return the waiting sockets of one /proc/net table.

    Raises:
        SekishoError: a line that is not as the kernel writes it; nothing is skipped in silence.

    """
    proto, state = TABLES[table]
    found: list[Listener] = []
    for number, line in enumerate(lines_of(text)):
        if number == 0 and line.lstrip().startswith("sl"):
            continue
        fields = line.split()
        try:
            host, _, port = fields[1].rpartition(":")
            if int(fields[3], 16) != state:
                continue
            found.append(
                Listener(proto, _address(host), int(port, 16), int(fields[7]), int(fields[9]))
            )
        except (IndexError, ValueError):
            raise SekishoError(
                "the listening sockets cannot be told",
                (Problem(f"/proc/net/{table}", f"line {number + 1}", printable(line), "a socket"),),
            ) from None
    return found


def listening(proc: Path = Path("/proc")) -> list[Listener]:
    """Return every waiting socket of this network namespace; a protocol the kernel lacks has none.

    Raises:
        SekishoError: a table cannot be read or is garbled.

    """
    found: list[Listener] = []
    for table in TABLES:
        path = proc / "net" / table
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_TABLE + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SekishoError(f"{path} cannot be read: {error.strerror}") from None
        if len(data) > MAX_TABLE:
            raise SekishoError(f"{path} is larger than {MAX_TABLE} bytes")
        found += parse(table, data.decode("ascii", "replace"))
    return found


def owners(inodes: Iterable[int], proc: Path = Path("/proc")) -> dict[int, tuple[int, str]]:
    """Return (pid, program) by socket inode for those that could be told; best effort."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
    found: dict[int, tuple[int, str]] = {}
    if not wanted:
        return found
    for entry in os.scandir(proc):
        if not is_number(entry.name):
            continue
        try:
            for link in Path(entry.path, "fd").iterdir():
                inode = wanted.get(str(link.readlink()))
                if inode is not None and inode not in found:
                    program = Path(entry.path, "comm").read_text(errors="replace").strip()
                    found[inode] = (int(entry.name), program)
        except OSError:  # the process went away, or is not ours to look into
            continue
        if len(found) == len(wanted):
            break
    return found
