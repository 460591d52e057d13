"""The dead-man's guard: what can cut off the administrator applies, and frees itself again.

Rules, sshd configuration and device rules are put in force in one transaction. Before anything is
written the files that stand there, the loaded table and the authorised devices are kept; a systemd
timer puts them back unless the controller comes in over a *fresh* connection, through the new
rules, and confirms. A marker on disk does the same after a power cut (``boot``). One rename of that
marker decides (`sekisho.host.guard.store`): killed at any step, the change is either in force and
will be rolled back, or lasting, or as if it had never been.

Runs as root on the host: ``/usr/lib/sekisho/guard VERB``, JSON on stdin and
stdout.
"""

from __future__ import annotations

import secrets
import stat
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sekisho.host.guard.files import (
    MissingCopyError,
    keep,
    make_folder,
    put_back,
    regular,
    remove,
    write_atomically,
)
from sekisho.host.guard.live import GUARD, Done, Live, Run, run_command
from sekisho.host.guard.request import TIMEOUT_S, GuardError, Wanted
from sekisho.host.guard.store import Store

STATE = Path("/var/lib/sekisho/guard")
USB = Path("/sys/bus/usb/devices")
__all__ = ["Done", "Guard", "run_command"]


class Guard:
    """The guard's verbs over one state directory; commands and paths are injected for tests."""

    def __init__(self, *, state: Path = STATE, run: Run = run_command, usb: Path = USB) -> None:
        self.state, self.usb = state, usb
        self.store = Store(state)
        self.live = Live(run, usb, state.parent / "quarantined")
        self.pending = self.store.pending

    # -- what differs ---------------------------------------------------------------------------

    def plan(self, wanted: list[Wanted]) -> list[dict[str, str]]:
        """Return what would change: files that differ, and a table that is not loaded as it was."""
        diff = []
        for entry in wanted:
            before = regular(entry.path)
            mode = stat.S_IMODE(entry.path.lstat().st_mode) if before is not None else None
            if before != entry.content or (entry.content is not None and mode != entry.mode):
                diff.append(
                    {
                        "path": str(entry.path),
                        "before": (before or b"").decode("utf-8", "replace"),
                        "after": (entry.content or b"").decode("utf-8", "replace"),
                    }
                )
        rules = next((entry for entry in wanted if entry.kind == "nftables"), None)
        if rules is not None and not diff:
            held, live = self.store.readback(), self.live.table()
            if live is None or held != live:
                diff.append(
                    {
                        "path": "table inet sekisho (loaded)",
                        "before": "not as it was confirmed" if live else "not loaded",
                        "after": "as confirmed",
                    }
                )
        return diff

    # -- apply, confirm, roll back ----------------------------------------------------------------

    def apply(
        self, wanted: list[Wanted], timeout_s: int = TIMEOUT_S, *, token: str = ""
    ) -> dict[str, Any]:
        """Dry-run, keep, arm the timer, put in force. Returns token and diff, or changed false.

        1. Compare; nothing differs: nothing happens.
        2. Arm the timer; without a timer nothing is applied.
        3. Dry-run the rules (``nft -c``); a refusal changes nothing.
        4. Keep files, table and authorised devices on disk, then the marker, by one rename: from
           here on a kill ends in the timer's roll-back and a power cut in the boot's.
        5. Write, test sshd, load. Any failure rolls back at once.

        The caller must still confirm through a fresh connection before the timer ends; it may name
        the token itself, so that it knows it when the answer is lost.
        """
        with self.store.locked():
            self._settle()
            diff = self.plan(wanted)
            if not diff:
                return {"changed": False, "diff": []}
            token = token or secrets.token_hex(8)
            began = time.monotonic()
            self.live.arm(token, timeout_s)
            try:
                with self.live.answers_untracked(wanted):
                    self._apply(token, wanted, timeout_s)
            except (GuardError, OSError) as bad:
                self._give_up(token, bad)
        took = time.monotonic() - began
        return {
            "changed": True,
            "token": token,
            "diff": diff,
            "timeout_s": timeout_s,
            "took_s": round(took, 1),
            "left_s": round(max(0.0, timeout_s - took), 1),
        }

    def _settle(self) -> None:
        """Refuse while another change waits; roll back one whose timer is over, or was lost."""
        marker = self.store.marker(self.pending)
        if marker is None:
            self.store.sweep()
            return
        left = self.store.left_s(marker)
        if left > 0:
            raise GuardError(
                f"an earlier change is neither confirmed nor rolled back; it rolls itself back in "
                f"{left:.0f} s. Wait for that, or run `{GUARD} rollback`"
            )
        self._undo(live=True)

    def _apply(self, token: str, wanted: list[Wanted], timeout_s: int) -> None:
        self.live.dry_run(wanted)
        folder = self.store.folder(token)
        try:
            make_folder(folder, 0o700)
            files = [
                keep(entry.path, folder, f"file-{index}", entry.mode, entry.kind)
                for index, entry in enumerate(wanted)
            ]
            kept = {"files": files} | self.live.keep(folder)
            self.store.begin(token, kept, timeout_s)
        except OSError as bad:  # a full disk: what cannot be kept is not changed
            raise GuardError(f"the current state cannot be kept: {bad}") from None
        for entry in wanted:
            if entry.content is None:
                remove(entry.path)
            else:
                write_atomically(entry.path, entry.content, entry.mode)
        self.live.put_in_force(wanted)
        self.store.in_force(token).touch(0o600)

    def _give_up(self, token: str, why: Exception) -> None:
        """Undo what an apply began, at once; always raises."""
        if self.store.marker(self.pending) is None:
            self.store.sweep()
            self.live.disarm(token)
        else:
            try:
                self._undo(live=True)
            except GuardError as bad:
                raise GuardError(f"{why}; and undoing it at once failed: {bad}") from None
        raise GuardError(f"nothing is left changed: {why}") from None

    def confirm(self, token: str) -> dict[str, Any]:
        """Make the pending change lasting; refuse another token, and say what became of it."""
        with self.store.locked():
            marker = self.store.marker(self.pending)
            if marker is None or not secrets.compare_digest(marker["token"], token):
                if self.store.decided(self.store.confirmed, token) is not None:
                    return {"confirmed": token}  # asked again: the answer was lost
                raise self._nothing_to_confirm(token, marker)
            if "boot" in marker and not self.store.in_force(token).exists():
                raise GuardError(
                    "nothing to confirm under that token: the change is not in force as a whole, "
                    "its apply or its roll-back was interrupted; it rolls itself back in "
                    f"{max(0.0, self.store.left_s(marker)):.0f} s"
                )
            live = self.live.table()
            if live is not None:
                write_atomically(self.store.folder(token) / "readback.json", live, 0o600)
            self.store.commit(self.store.confirmed)
            self.live.disarm(token)
        return {"confirmed": token}

    def _nothing_to_confirm(self, token: str, marker: dict[str, Any] | None) -> GuardError:
        undone = self.store.decided(self.store.rolled_back, token)
        if undone is not None:
            told = f"it was rolled back already, at {_utc(undone['at'])}"
            if "applied" in undone:
                told += (
                    f", {undone['at'] - undone['applied']} s after it was applied "
                    f"(window {undone['timeout_s']} s)"
                )
            return GuardError(f"nothing to confirm under that token: {told}", rolled_back=undone)
        if marker is not None:
            return GuardError("nothing to confirm under that token: another change is pending")
        return GuardError(
            "nothing to confirm under that token: no such change is known here; it was never "
            "applied, or it was rolled back before a later one"
        )

    def rollback(self, token: str | None = None, *, live: bool = True) -> dict[str, Any]:
        """Put everything back as it was before the pending change. ``live`` False: files only.

        May be asked any number of times, and after a kill at any step.
        """
        with self.store.locked():
            marker = self.store.marker(self.pending)
            if marker is None or (token is not None and marker["token"] != token):
                if marker is None and live:
                    # An apply that was killed before it had a marker left its table alone behind.
                    self.live.track_all()
                    self.store.sweep()
                return {"rolled_back": None}
            self._undo(live=live)
        return {"rolled_back": marker["token"], "at": int(time.time())}

    def status(self) -> dict[str, Any]:
        """Return whether a change is pending, for how long, and what was rolled back last."""
        marker = self.store.marker(self.pending)
        answer: dict[str, Any] = {"pending": marker is not None}
        if marker is not None:
            answer |= {"token": marker["token"], "left_s": round(self.store.left_s(marker), 1)}
        last = self.store.marker(self.store.rolled_back)
        if last is not None:
            answer["rolled_back"] = self.store.decided(self.store.rolled_back, last["token"])
        return answer

    def previous(self) -> list[Wanted]:
        """Return the files as they stood before the last confirmed change (for rollback.yml)."""
        with self.store.locked():
            marker = self.store.marker(self.store.confirmed)
            if marker is None:
                raise GuardError("no earlier state is held on this host")
            folder = self.store.folder(marker["token"])
            found = []
            for kept in marker["files"]:
                try:
                    held = (folder / kept["held"]).read_bytes() if kept["held"] else None
                except FileNotFoundError as bad:
                    raise GuardError(f"the earlier state is not whole: {bad}") from None
                found.append(Wanted(Path(kept["path"]), held, kept["mode"], kept["kind"]))
            return found

    def _undo(self, *, live: bool) -> None:
        """Restore files and what is loaded, then say so by the one rename.

        Raises:
            GuardError: something is to be tried again, and the marker stays; or a kept copy is
                gone, then what it was for stays as it is, and the change counts as rolled back.

        """
        marker = self.store.marker(self.pending)
        if marker is None:
            return
        folder = self.store.folder(marker["token"])
        remove(self.store.in_force(marker["token"]))  # from here on there is nothing to confirm
        stuck: list[str] = []
        missing: list[str] = []
        for kept in marker["files"]:
            try:
                put_back(kept, folder)
            except MissingCopyError as bad:
                missing.append(f"{kept['path']}: {bad}")
            except OSError as bad:
                stuck.append(f"not put back on disk: {kept['path']}: {bad}; make room")
        # What is loaded goes back even when the disk is full: it is what shuts people out.
        if live:
            try:
                stuck.extend(self.live.take_back(marker, folder))
            except MissingCopyError as bad:
                missing.append(f"the loaded rules: {bad}")
        if stuck:  # the marker stays, so that the timer, the next start or a person tries again
            raise GuardError(f"{'; '.join(stuck)}. It is tried again; by hand: `{GUARD} rollback`")
        self.store.commit(self.store.rolled_back)
        if live:
            self.live.disarm(marker["token"])
        sys.stderr.write("sekisho-guard: rolled back an unconfirmed change\n")
        if missing:
            raise GuardError(
                f"not restored, and left as it is: {'; '.join(missing)}. Run the play again"
            )


def _utc(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
