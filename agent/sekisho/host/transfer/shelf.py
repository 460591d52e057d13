"""What the store keeps on the disk about deliveries, beside their bytes.

DIR/partial/<delivery>/about.json, index    of one on its way; before its manifest.json
DIR/manifests/<delivery>.{json,about.json,index}   of a complete one
DIR/given-up/<peer's address>               deliveries given up, one a line, the newest last
DIR/sequence/<from>--<to>.json              numbers seen
"""

from __future__ import annotations

import contextlib
import json
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.host.transfer.assembly import FILE_MODE, FOLDER_MODE
from sekisho.host.transfer.files import sync_dir, write_whole
from sekisho.host.transfer.room import BLOCK, Size
from sekisho.transfer.manifest import Manifest
from sekisho.transfer.sequence import Sequence, parse_sequence

#: Deliveries given up that are remembered of each peer. Only that peer can push them out.
GIVEN_UP = 1000
FOLDERS = ("partial", "complete", "manifests", "sequence", "given-up")


@dataclass(frozen=True, slots=True)
class About:
    """A delivery: its entry for the journal (peer and digest are in it), its size on the disk."""

    entry: dict[str, Any]
    size: Size

    @property
    def peer(self) -> str:
        """Return the address it came from."""
        return str(self.entry["peer"])

    @property
    def sha256(self) -> str:
        """Return the digest of its manifest."""
        return str(self.entry["manifest_sha256"])

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return canonical({"entry": self.entry, "bytes": self.size.bytes, "files": self.size.files})


def about(manifest: Manifest, sha256: str, peer: str, size: Size) -> About:
    """Return what is noted of a delivery that ``peer`` announces."""
    entry = {
        "delivery": manifest.delivery,
        "sequence": manifest.sequence,
        "from": manifest.sender,
        "to": manifest.recipient,
        "peer": peer,
        "created": manifest.created,
        "files": len(manifest.files),
        "bytes": manifest.total,
        "manifest_sha256": sha256,
    }
    return About(entry, size)


def read_about(path: Path) -> About:
    """Return what a note says; SekishoError when it is none, OSError when it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
        entry, size = value["entry"], Size(int(value["bytes"]), int(value["files"]))
        if not all(isinstance(entry[key], str) for key in ("peer", "manifest_sha256", "delivery")):
            raise ValueError("no entry")  # noqa: TRY301 - one refusal for all of it
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = Problem(str(path), "", printable(str(error)), "entry, bytes and files")
        raise SekishoError("the note on a delivery cannot be read", (problem,)) from error
    return About(entry, size)


class Shelf:
    """Notes below ``root``. Not thread-safe: the store's lock is held, but for `sequence`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in FOLDERS:
            (root / name).mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        sync_dir(root)
        self.troubles: list[str] = []
        self._given_up: dict[str, deque[str]] = {}
        self._lying: dict[str, tuple[str, Size]] = {}
        self._archive: dict[str, Size] = {}
        for path in (root / "given-up").iterdir():
            words = path.read_text("ascii", "replace").split("\n")
            self._given_up[path.name] = deque((one for one in words if one), GIVEN_UP)
        for path in (root / "manifests").glob("*.about.json"):
            try:
                self.completed(path.name.partition(".")[0], read_about(path))
            except (SekishoError, OSError) as error:
                self.troubles.append(f"{path}: {printable(str(error))}")

    def partial(self, delivery: str) -> Path:
        """Return the folder of a delivery on its way."""
        return self.root / "partial" / delivery

    def done(self, delivery: str) -> Path:
        """Return where the manifest of a complete delivery is."""
        return self.root / "manifests" / f"{delivery}.json"

    def done_index(self, delivery: str) -> Path:
        """Return where the index of a complete delivery is."""
        return self.root / "manifests" / f"{delivery}.index"

    def done_about(self, delivery: str) -> About | None:
        """Return the note on a complete delivery; None when there is no such delivery."""
        if not self.done(delivery).exists():
            return None
        try:
            return read_about(self.done(delivery).with_suffix(".about.json"))
        except FileNotFoundError:
            return None  # of a version without notes

    # -- numbers -----------------------------------------------------------------------------

    def sequence(self, pair: str, number: int) -> tuple[Sequence, bool]:
        """Return the numbers seen with this one, and whether it had been seen.

        Raises:
            SekishoError: a leap ahead, or a file that cannot be read; says which and what to do.

        """
        path = self.root / "sequence" / f"{pair}.json"
        try:
            before = parse_sequence(path.read_bytes()) if path.exists() else Sequence()
            return before.take(number)
        except SekishoError as error:
            hint = f'if it is right, write {{"highest":{number - 1},"missing":[]}} there'
            problem = Problem(str(path), "", f"number {number}", "a number that follows", hint=hint)
            raise SekishoError(error.message, (*error.problems, problem)) from error

    def keep_sequence(self, pair: str, state: Sequence) -> None:
        """Remember the numbers seen, durably."""
        write_whole(self.root / "sequence" / f"{pair}.json", state.to_bytes(), FILE_MODE)

    # -- given up ----------------------------------------------------------------------------

    def is_given_up(self, delivery: str, peer: str) -> bool:
        """Tell whether this delivery of ``peer`` was given up."""
        return delivery in self._given_up.get(peer, ())

    def give_up(self, delivery: str, peer: str) -> None:
        """Remember, durably, that a delivery was given up."""
        known = self._given_up.setdefault(peer, deque(maxlen=GIVEN_UP))
        if delivery not in known:
            known.append(delivery)
            text = "".join(f"{one}\n" for one in known)
            write_whole(self.root / "given-up" / peer, text.encode("ascii", "replace"), FILE_MODE)

    # -- complete ----------------------------------------------------------------------------

    def completed(self, delivery: str, found: About) -> None:
        """Count a complete delivery for its peer: its folder while it is there, its notes."""
        if (self.root / "complete" / delivery).exists():
            self._lying[delivery] = (found.peer, found.size)
        blocks = 3
        for path in (self.done(delivery), self.done_index(delivery)):
            with contextlib.suppress(FileNotFoundError):
                blocks += path.stat().st_size // BLOCK
        held = self._archive.get(found.peer, Size())
        self._archive[found.peer] = held + Size(blocks * BLOCK, 3)

    def taken(self) -> dict[str, Size]:
        """Return what the complete deliveries that nobody took away yet take, by peer."""
        there = {path.name for path in (self.root / "complete").iterdir()}
        self._lying = {key: one for key, one in self._lying.items() if key in there}
        found = dict(self._archive)
        for peer, size in self._lying.values():
            found[peer] = found.get(peer, Size()) + size
        return found
