"""What the dead-man's guard keeps on disk, and the one rename that decides.

A change has one marker file, and where the marker is says what became of the change::

    pending.json       written last, by rename: from here on the change is rolled back by the timer,
                       by a person, or by the next boot, until ...
    confirmed.json     ... this rename makes it lasting, or
    rolled-back.json   ... this rename says that everything is as it was before

``TOKEN/`` holds what the change replaced (``file-N``, ``table.json``), whole and on the disk before
a marker names it; ``in-force`` while the change is in force as a whole, for only then it can be
confirmed; and, once it is confirmed, the read-back of the rules (``readback.json``). A folder that
no marker names is nobody's and is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sekisho.host.boot_clock import boot_id, boottime
from sekisho.host.guard.files import make_folder, sync_dir, write_atomically
from sekisho.host.guard.request import MAX_TIMEOUT_S, TOKEN, GuardError


class Store:
    """The guard's state directory."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.pending = state / "pending.json"
        self.confirmed = state / "confirmed.json"
        self.rolled_back = state / "rolled-back.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the guard's one lock; what an earlier version left is brought to today's form."""
        make_folder(self.state.parent)
        make_folder(self.state, 0o700)
        with (self.state / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            self._upgrade()
            yield

    def marker(self, path: Path) -> dict[str, Any] | None:
        """Return a marker; None without one, GuardError when it is malformed."""
        try:
            marker = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            marker = None
        if (
            not isinstance(marker, dict)
            or not TOKEN.fullmatch(str(marker.get("token")))
            or not isinstance(marker.get("files"), list)
        ):
            raise GuardError(
                f"{path} is malformed, so what it speaks of cannot be determined; nothing is "
                f"changed. Compare the guarded files with the copies below {self.state}, then "
                f"remove {path.name} and run the play again"
            )
        return marker

    def folder(self, token: str) -> Path:
        """Return where a change's kept copies are."""
        return self.state / token

    def in_force(self, token: str) -> Path:
        """Return the file that is there while a change is in force as a whole."""
        return self.folder(token) / "in-force"

    def readback(self) -> bytes | None:
        """Return the read-back of the rules at the last confirmation, None without one."""
        marker = self.marker(self.confirmed)
        places = [self.state / "readback.json"]  # as an earlier version kept it
        if marker is not None:
            places.insert(0, self.folder(marker["token"]) / "readback.json")
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                return place.read_bytes()
        return None

    # -- a change -------------------------------------------------------------------------------

    def begin(self, token: str, marker: dict[str, Any], timeout_s: int) -> None:
        """Commit to rolling back: everything kept is on the disk, then the marker gets its name."""
        folder = self.folder(token)
        sync_dir(folder)
        sync_dir(self.state)
        stamped = marker | {
            "token": token,
            "applied": int(time.time()),
            "timeout_s": timeout_s,
            "boot": boot_id(),
            "until": boottime() + timeout_s,
        }
        write_atomically(self.pending, json.dumps(stamped).encode(), 0o600)

    def commit(self, to: Path) -> None:
        """Decide what became of the pending change: one rename, then no longer undone by a cut."""
        os.utime(self.pending)  # when it was decided
        self.pending.replace(to)
        sync_dir(self.state)
        self.sweep()

    def sweep(self) -> None:
        """Remove what no marker names; a failure costs room, nothing else."""
        with contextlib.suppress(GuardError, OSError):
            found = (self.marker(path) for path in (self.pending, self.confirmed))
            named = {marker["token"] for marker in found if marker is not None}
            for path in self.state.iterdir():
                if TOKEN.fullmatch(path.name) and path.name not in named:
                    shutil.rmtree(path)
                elif path.name.startswith("."):  # a write that was killed
                    path.unlink()

    @staticmethod
    def left_s(marker: dict[str, Any]) -> float:
        """Return the seconds a pending change's timer still has; 0 or less: there is none."""
        if "until" not in marker:  # an earlier version's marker
            left = float(marker.get("deadline", 0)) - time.time()
            return left if left <= MAX_TIMEOUT_S else 0.0
        return float(marker["until"]) - boottime() if marker["boot"] == boot_id() else 0.0

    def decided(self, path: Path, token: str) -> dict[str, Any] | None:
        """Return when the change ``token`` was decided, by the marker that says so, else None."""
        try:
            marker = self.marker(path)
            at = int(path.stat().st_mtime)
        except (GuardError, OSError):
            return None
        if marker is None or marker["token"] != token:
            return None
        known = {key: marker[key] for key in ("applied", "timeout_s") if key in marker}
        return {"token": token, "at": at} | known

    # -- an earlier version's form ----------------------------------------------------------------

    def _upgrade(self) -> None:
        """Take over ``previous/`` and ``readback.json``; killed at any step it goes on next time.

        That version confirmed by two renames, the folder's and then the marker's: a marker without
        its folder beside a ``previous`` without a marker was confirmed, and is so from now on.
        """
        previous = self.state / "previous"
        if not previous.is_dir():
            return
        pending = self.marker(self.pending)
        if not self.confirmed.exists():
            if (previous / "marker.json").exists():
                held = (previous / "marker.json").read_bytes()
                write_atomically(self.confirmed, held, 0o600)
            elif pending is not None and not self.folder(pending["token"]).exists():
                self.pending.replace(self.confirmed)
                sync_dir(self.state)
        marker = self.marker(self.confirmed)
        if marker is None or self.folder(marker["token"]).exists():
            shutil.rmtree(previous)  # nobody's
            return
        with contextlib.suppress(FileNotFoundError):
            (self.state / "readback.json").replace(previous / "readback.json")
            sync_dir(previous)
            sync_dir(self.state)
        previous.rename(self.folder(marker["token"]))
        sync_dir(self.state)
