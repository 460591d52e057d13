"""Two machines on one cable, as network namespaces of their own; gone when the block ends.

The left one (10.9.0.1) pushes; the right one (10.9.0.2) has the exact-length reply rule loaded, so
that nothing with a payload may leave it. Also used by tests/bench/bench_hop.py.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LEFT, RIGHT, PORT = "10.9.0.1", "10.9.0.2", 7601
PAIRS = ", ".join(f"{words} . {words * 4 + 20}" for words in range(5, 16))

WALL = f"""
table inet sekisho {{
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ip saddr {LEFT} ip daddr {RIGHT} tcp dport {{ {PORT}, 22 }} accept
  }}
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname "lo" accept
    ip saddr {RIGHT} ip daddr {LEFT} tcp sport {PORT} ip hdrlength 5 \\
      ip frag-off & 0x3fff == 0 tcp doff . ip length {{ {PAIRS} }} accept
  }}
}}
# What was tried, before the wall. A table of its own: nft 1.0.6 dies listing the pairs above.
table inet tally {{
  counter tried {{ }}
  chain output {{
    type filter hook output priority -150; policy accept;
    oifname "cable" counter name tried
  }}
}}
"""


def run(words: Sequence[str], *, text: str | None = None) -> str:
    """Run a program to its end and return its output; its failure is an exception."""
    done = subprocess.run(words, input=text, text=True, check=False, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


@dataclass(frozen=True)
class Nets:
    """The two namespaces, by the process that keeps each alive."""

    left: int
    right: int

    def command(self, side: str, words: Sequence[str]) -> list[str]:
        """Return the words that run a program in one of the namespaces."""
        pid = self.left if side == "left" else self.right
        return ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n", *words]

    def start(self, side: str, words: Sequence[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a program in one of the namespaces; the caller stops it."""
        return subprocess.Popen(self.command(side, words), **options)  # type: ignore[call-overload, no-any-return]

    def run(self, side: str, words: Sequence[str], *, text: str | None = None) -> str:
        """Run a program in one of the namespaces to its end."""
        return run(self.command(side, words), text=text)


@contextlib.contextmanager
def nets(*, wall: str = WALL) -> Iterator[Nets]:
    """Give the two namespaces, in a user namespace of their own: root is not needed."""
    # The first process makes the user namespace; the second shares it, with its own network.
    left = subprocess.Popen(["unshare", "-rn", "sleep", "3600"])
    right = None
    try:
        _await_namespace(left.pid)
        inside = ["nsenter", "-t", str(left.pid), "-U", "--preserve-credentials"]
        right = subprocess.Popen([*inside, "unshare", "-n", "sleep", "3600"])
        _await_namespace(right.pid, other_than=left.pid)
        both = Nets(left.pid, right.pid)
        pair = f"ip link add cable type veth peer name cable netns {right.pid}"
        both.run("left", pair.split())
        for side, address in (("left", LEFT), ("right", RIGHT)):
            both.run(side, ["ip", "address", "add", f"{address}/24", "dev", "cable"])
            both.run(side, ["ip", "link", "set", "cable", "up"])
            inner = f"fe80::{address[-1]}/64"  # usable at once: nobody else is on this cable
            both.run(side, ["ip", "address", "add", inner, "dev", "cable", "nodad"])
            both.run(side, ["ip", "link", "set", "lo", "up"])
        if wall:
            both.run("right", ["nft", "-f", "-"], text=wall)
        yield both
    finally:
        for process in (right, left):
            if process is not None:
                process.kill()
                process.wait()


def _await_namespace(pid: int, other_than: int | None = None) -> None:
    """Wait until the process lives in a network namespace of its own."""
    known = {os.readlink("/proc/self/ns/net")}
    if other_than is not None:
        known.add(os.readlink(f"/proc/{other_than}/ns/net"))
    for _ in range(200):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/ns/net") not in known:
                comm = Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip()
                if comm == "sleep":
                    return
        time.sleep(0.02)
    raise RuntimeError("no namespace of its own within 4 s")
