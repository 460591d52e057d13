"""The dead-man's guard: what can cut off the administrator applies, and frees itself again.

Rules, sshd configuration and device rules are put in force in one transaction. Before anything is
written the files that stand there, the loaded table and the authorised devices are kept; a systemd
timer puts them back unless the controller comes in over a *fresh* connection, through the new
rules, and confirms. A marker on disk does the same after a power cut (``boot``).

Runs as root on the host: ``/usr/lib/sekisho/guard VERB``, JSON on stdin and
stdout.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import secrets
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.canonical import canonical
from sekisho.edge.guard_files import put_back, regular, sync_dir, write_atomically
from sekisho.edge.guard_request import GuardError, Wanted
from sekisho.edge.nft import UNTRACKED
from sekisho.edge.quarantine import with_switch
from sekisho.errors import SekishoError
from sekisho.flows.readback import normalise

STATE = Path("/var/lib/sekisho/guard")
USB = Path("/sys/bus/usb/devices")
TOKEN = re.compile(r"[0-9a-f]{16}")
TIMEOUT_S = 50

Run = Callable[[Sequence[str], bytes], "Done"]


@dataclass(frozen=True, slots=True)
class Done:
    """Outcome of a command."""

    code: int
    out: bytes
    err: bytes


def run_command(argv: Sequence[str], stdin: bytes = b"") -> Done:
    """Run a command without a shell; 30 s at most."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as bad:
        return Done(127, b"", str(bad).encode())
    return Done(done.returncode, done.stdout, done.stderr)


class Guard:
    """The guard's verbs over one state directory; commands and paths are injected for tests."""

    def __init__(self, *, state: Path = STATE, run: Run = run_command, usb: Path = USB) -> None:
        self.state, self.run, self.usb = state, run, usb
        self.pending = state / "pending.json"

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

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
            held, live = regular(self.state / "readback.json"), self._table()
            if live is None or held != live:
                diff.append(
                    {
                        "path": "table inet sekisho (loaded)",
                        "before": "not as it was confirmed" if live else "not loaded",
                        "after": "as confirmed",
                    }
                )
        return diff

    def _table(self) -> bytes | None:
        """Return the loaded table, comparable (no handles, no counts), or None without one."""
        done = self.run(["nft", "-j", "-s", "list", "table", "inet", "sekisho"], b"")
        if done.code != 0:
            return None
        try:
            return canonical(normalise(json.loads(done.out)))
        except (ValueError, KeyError, TypeError, SekishoError):
            return None

    # -- apply, confirm, roll back ----------------------------------------------------------------

    def apply(self, wanted: list[Wanted], timeout_s: int = TIMEOUT_S) -> dict[str, Any]:
        """Dry-run, keep, arm the timer, put in force. Returns token and diff, or changed false.

        1. Compare; nothing differs: nothing happens.
        2. Dry-run the rules (``nft -c``); a refusal changes nothing.
        3. Keep files, table and authorised devices on disk, then the marker: from here a power
           cut rolls back at boot.
        4. Arm the timer; without a timer nothing is applied.
        5. Write, test sshd, load. Any failure rolls back at once.

        The caller must still confirm through a fresh connection before the timer ends.
        """
        with self._locked():
            if self.pending.exists():
                raise GuardError(
                    "an earlier change is neither confirmed nor rolled back; wait a minute, "
                    "or run `/usr/lib/sekisho/guard rollback`"
                )
            diff = self.plan(wanted)
            if not diff:
                return {"changed": False, "diff": []}
            with self._answers_untracked(wanted):
                token = self._apply(wanted, timeout_s)
        return {"changed": True, "token": token, "diff": diff, "timeout_s": timeout_s}

    def _apply(self, wanted: list[Wanted], timeout_s: int) -> str:
        for entry in wanted:
            if entry.kind == "nftables" and entry.content is not None:
                self._must(["nft", "-c", "-j", "-f", "-"], "dry run of the rules", entry.content)
        token = secrets.token_hex(8)
        try:
            self._keep(token, wanted, timeout_s)
        except OSError as bad:  # a full disk: what cannot be kept is not changed
            self.pending.unlink(missing_ok=True)
            # What is left without its marker is nobody's, and in nobody's way.
            shutil.rmtree(self.state / token, ignore_errors=True)
            raise GuardError(f"nothing is changed, what stands cannot be kept: {bad}") from None
        try:
            self._arm(token, timeout_s)
            for entry in wanted:
                if entry.content is None:
                    entry.path.unlink(missing_ok=True)
                else:
                    write_atomically(entry.path, entry.content, entry.mode)
            self._put_in_force({entry.kind for entry in wanted}, wanted)
        except (GuardError, OSError) as bad:
            self._undo(live=True)
            raise GuardError(f"nothing is left changed: {bad}") from None
        return token

    @contextlib.contextmanager
    def _answers_untracked(self, wanted: list[Wanted]) -> Iterator[None]:
        """Keep running SSH sessions through the first load of rules on this host.

        Answers of sshd stay out of connection tracking until the rules are in force. The first rule
        that asks for a connection's state turns tracking on *before* that, in a dry run too; a
        session whose next packet is an answer would then count as begun by this host, and the rules
        cut it. `notrack` itself turns no tracking on.
        """
        first = any(e.kind == "nftables" and e.content for e in wanted) and self._table() is None
        if first:
            self._must(
                ["nft", "-f", "-"],
                "keeping running sessions",
                f"add table inet {UNTRACKED}\ndelete table inet {UNTRACKED}\n"
                f"add table inet {UNTRACKED}\nadd chain inet {UNTRACKED} answers "
                "{ type filter hook output priority raw; }\n"
                f"add rule inet {UNTRACKED} answers tcp sport 22 notrack\n".encode(),
            )
        try:
            yield
        finally:
            if first:
                self._track_all()

    def _track_all(self) -> None:
        gone = f"add table inet {UNTRACKED}; delete table inet {UNTRACKED}"
        self._must(["nft", "-f", "-"], "tracking all sessions again", gone.encode())

    def confirm(self, token: str) -> dict[str, Any]:
        """Make the pending change lasting; refuse another token."""
        with self._locked():
            marker = self._marker()
            if marker is None or not secrets.compare_digest(marker["token"], token):
                raise GuardError("nothing to confirm under that token: it was rolled back already")
            live = self._table()
            if live is not None:
                write_atomically(self.state / "readback.json", live, 0o600)
            previous = self.state / "previous"
            shutil.rmtree(previous, ignore_errors=True)
            (self.state / token).rename(previous)
            self.pending.rename(previous / "marker.json")
            sync_dir(self.state)
            self.run(["systemctl", "stop", f"sekisho-guard-{token}.timer"], b"")
        return {"confirmed": token}

    def rollback(self, token: str | None = None, *, live: bool = True) -> dict[str, Any]:
        """Put everything back as it was before the pending change. ``live`` False: files only."""
        with self._locked():
            marker = self._marker()
            if marker is None or (token is not None and marker["token"] != token):
                return {"rolled_back": None}
            self._undo(live=live)
        return {"rolled_back": marker["token"], "at": int(time.time())}

    def previous(self) -> list[Wanted]:
        """Return the files as they stood before the last confirmed change (for rollback.yml)."""
        marker_file = self.state / "previous" / "marker.json"
        if not marker_file.exists():
            raise GuardError("no earlier state is held on this host")
        marker = json.loads(marker_file.read_bytes())
        return [
            Wanted(
                Path(kept["path"]),
                (self.state / "previous" / kept["held"]).read_bytes() if kept["held"] else None,
                kept["mode"],
                kept["kind"],
            )
            for kept in marker["files"]
        ]

    def _marker(self) -> dict[str, Any] | None:
        try:
            marker = json.loads(self.pending.read_bytes())
        except FileNotFoundError:
            return None
        if not isinstance(marker, dict) or not TOKEN.fullmatch(str(marker.get("token"))):
            raise GuardError(f"{self.pending} is garbled; restore by hand from {self.state}")
        return marker

    def _keep(self, token: str, wanted: list[Wanted], timeout_s: int) -> None:
        folder = self.state / token
        folder.mkdir(mode=0o700)
        kept = []
        for index, entry in enumerate(wanted):
            before = regular(entry.path)
            held = f"file-{index}" if before is not None else ""
            mode = stat.S_IMODE(entry.path.lstat().st_mode) if before is not None else entry.mode
            if before is not None:
                write_atomically(folder / held, before, 0o600)
            kept.append({"path": str(entry.path), "held": held, "mode": mode, "kind": entry.kind})
        table = self.run(["nft", "-j", "-s", "list", "table", "inet", "sekisho"], b"")
        if table.code == 0:
            write_atomically(folder / "table.json", table.out, 0o600)
        authorised = [
            path.parent.name
            for path in sorted(self.usb.glob("*/authorized"))
            if path.read_text().strip() == "1"
        ]
        marker = {
            "token": token,
            "files": kept,
            "usb": authorised,
            "usb_default": {
                path.parent.name: path.read_text().strip()
                for path in sorted(self.usb.glob("usb*/authorized_default"))
            },
            "deadline": int(time.time()) + timeout_s,
        }
        write_atomically(self.pending, json.dumps(marker).encode(), 0o600)

    def _arm(self, token: str, timeout_s: int) -> None:
        self._must(
            [
                "systemd-run",
                f"--unit=sekisho-guard-{token}",
                f"--on-active={timeout_s}",
                "--timer-property=AccuracySec=1s",
                "/usr/lib/sekisho/guard",
                "rollback",
                token,
            ],
            "arming the roll-back timer",
        )

    def _put_in_force(self, kinds: set[str], wanted: list[Wanted]) -> None:
        if "sshd" in kinds:
            self._must(["sshd", "-t"], "sshd's own test of its configuration")
        if "nftables" in kinds:
            rules = next(entry for entry in wanted if entry.kind == "nftables")
            if rules.content is None:
                self.run(["nft", "delete", "table", "inet", "sekisho"], b"")
            else:
                content = with_switch(rules.content, self.state.parent / "quarantined")
                self._must(["nft", "-j", "-f", "-"], "loading the rules", content)
        if "sshd" in kinds:
            self._must(["systemctl", "reload-or-restart", "ssh.service"], "reloading sshd")
        if "usb" in kinds:
            self._must(["udevadm", "control", "--reload"], "reloading udev's rules")
            enforce = Path("/usr/lib/sekisho/usb-enforce")
            if enforce.exists():
                self._must([str(enforce)], "enforcing the device rules")

    def _undo(self, *, live: bool) -> None:
        marker = self._marker()
        if marker is None:
            return
        folder = self.state / marker["token"]
        stuck = []
        for kept in marker["files"]:
            try:
                put_back(kept, folder)
            except OSError as bad:
                stuck.append(f"{kept['path']}: {bad}")
        # What is loaded goes back even when the disk is full: it is what shuts people out.
        if live:
            self._undo_live(marker, folder)
        if stuck:  # the marker stays, so that the next start, or another roll-back, tries again
            raise GuardError(
                f"not put back on disk ({'; '.join(stuck)}); make room, then run "
                "`/usr/lib/sekisho/guard rollback`"
            )
        self.pending.unlink()
        shutil.rmtree(folder, ignore_errors=True)
        sync_dir(self.state)
        if live:
            self.run(["systemctl", "stop", f"sekisho-guard-{marker['token']}.timer"], b"")
        sys.stderr.write("sekisho-guard: rolled back an unconfirmed change\n")

    def _undo_live(self, marker: dict[str, Any], folder: Path) -> None:
        kinds = {kept["kind"] for kept in marker["files"]}
        table = folder / "table.json"
        if "nftables" in kinds:
            own, left = (
                {"table": {"family": "inet", "name": name}} for name in ("sekisho", UNTRACKED)
            )
            commands = [{"add": own}, {"delete": own}, {"add": left}, {"delete": left}]
            if table.exists():
                commands += [
                    {"add": _without_handles(entry)}
                    for entry in json.loads(table.read_bytes())["nftables"]
                    if "metainfo" not in entry
                ]
            back = json.dumps({"nftables": commands}).encode()
            back = with_switch(back, self.state.parent / "quarantined")
            self.run(["nft", "-j", "-f", "-"], back)
        if "sshd" in kinds:
            self.run(["systemctl", "reload-or-restart", "ssh.service"], b"")
        if "usb" in kinds:
            self.run(["udevadm", "control", "--reload"], b"")
            for bus, value in marker["usb_default"].items():
                with contextlib.suppress(OSError):
                    (self.usb / bus / "authorized_default").write_text(value)
            for name in marker["usb"]:
                with contextlib.suppress(OSError):
                    (self.usb / name / "authorized").write_text("1")

    def _must(self, argv: Sequence[str], what: str, stdin: bytes = b"") -> None:
        done = self.run(argv, stdin)
        if done.code != 0:
            said = (done.err or done.out).decode("utf-8", "replace").strip()[:600]
            raise GuardError(f"{what} failed ({argv[0]}, status {done.code}): {said}")


def _without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_handles(inner) for key, inner in value.items() if key != "handle"}
    if isinstance(value, list):
        return [_without_handles(inner) for inner in value]
    return value
