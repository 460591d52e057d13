"""How much of the store each peer may have: slots, bytes, files, new deliveries a second.

A limit that all peers share is one that the worst of them uses up. Here each peer meets its own
limits, and of the disk a part is kept for each of the others whatever it does. Pure but for the
question how full the disk is, which the caller asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sekisho.core.errors import Problem, SekishoError
from sekisho.transfer.manifest import Manifest

BLOCK = 4096  # bytes: what a file or folder takes at least
#: Manifest, index, notes and their copies beside the finished delivery.
OWN_FILES = 12


@dataclass(frozen=True, slots=True)
class Limits:
    """What the store takes.

    Attributes:
        delivery_bytes: largest delivery.
        partial: deliveries on their way at once, of one peer.
        spare_bytes: what stays free on the disk whatever comes.
        spare_files: files (inodes) that stay free.
        rate: new deliveries a second and peer, in the long run.
        burst: new deliveries a peer may announce at once.
        idle_seconds: a delivery without news for so long is given up.
        grace_seconds: without news for so long, it makes room for a new one of the same peer.

    """

    delivery_bytes: int = 4 * 1024**4
    partial: int = 8
    spare_bytes: int = 256 * 1024**2
    spare_files: int = 10_000
    rate: float = 1.0
    burst: int = 60
    idle_seconds: float = 7 * 24 * 3600.0
    grace_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Size:
    """What a delivery takes on the disk: bytes and files (inodes)."""

    bytes: int = 0
    files: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.bytes + other.bytes, self.files + other.files)

    def __sub__(self, other: Size) -> Size:
        return Size(self.bytes - other.bytes, self.files - other.files)


def size_of(manifest: Manifest, raw_bytes: int) -> Size:
    """Return what a delivery takes until it is complete, never less."""
    folders: set[int] = set()
    blocks = files = 0
    for entry in manifest.files:
        blocks += -(-entry.size // BLOCK)
        files += 1 + (len(entry.parts) if len(entry.parts) > 1 else 0)
        above = entry.path
        while "/" in above:
            above = above.rpartition("/")[0]
            if hash(above) in folders:
                break
            folders.add(hash(above))
    files += len(folders)
    own = 3 * -(-raw_bytes // BLOCK)
    return Size((blocks + own + len(folders) + OWN_FILES) * BLOCK, files + OWN_FILES)


@dataclass(slots=True)
class _Pace:
    tokens: float
    at: float


@dataclass(slots=True)
class Room:
    """What each peer has, and what it may have more. Not thread-safe: the store's lock is held."""

    limits: Limits
    peers: frozenset[str]
    _paces: dict[str, _Pace] = field(default_factory=dict)

    def pace(self, peer: str, now: float) -> None:
        """Count one more new delivery of ``peer``; SekishoError when it announces too fast."""
        held = self._paces.setdefault(peer, _Pace(float(self.limits.burst), now))
        passed = max(0.0, now - held.at)
        held.tokens = min(float(self.limits.burst), held.tokens + passed * self.limits.rate)
        held.at = now
        if held.tokens < 1:
            expected = f"{self.limits.burst} at once, then {self.limits.rate:g} a second"
            raise _refuse(peer, "new deliveries too fast", expected, "send it again later")
        held.tokens -= 1

    def check(self, peer: str, wanted: Size, free: Size, used: dict[str, Size]) -> None:
        """Refuse what would take what is kept for other peers; SekishoError says how much is left.

        Half of what the store has in all is kept, an equal share for each declared peer; the other
        half is for whoever comes first. ``free``: not promised to anybody yet; ``used``: by peer.
        """
        peers = self.peers | {peer}
        for what, need, left, taken in (
            ("bytes", wanted.bytes, free.bytes, {key: one.bytes for key, one in used.items()}),
            ("files", wanted.files, free.files, {key: one.files for key, one in used.items()}),
        ):
            share = max(0, left + sum(taken.values())) // (2 * len(peers))
            kept = sum(max(0, share - taken.get(other, 0)) for other in peers if other != peer)
            if need > left - kept:
                got = f"{need} {what} on the disk"
                expected = f"at most {max(0, left - kept)} {what}: the rest is used, or kept"
                raise _refuse(peer, got, expected, "finished deliveries have to be taken away")


def _refuse(peer: str, got: str, expected: str, hint: str) -> SekishoError:
    problem = Problem("peer", peer, got, expected, hint=hint)
    return SekishoError("the object is refused", (problem,))
