"""What the dead-man's guard puts in force and takes back: nftables, sshd, USB devices."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.host.guard.files import MissingCopyError, digest, kept_bytes, write_atomically
from sekisho.host.guard.request import GuardError, Wanted
from sekisho.host.kernel.nft import UNTRACKED
from sekisho.host.kernel.quarantine import with_switch
from sekisho.nft.readback import normalise

GUARD = "/usr/lib/sekisho/guard"
LIST = ["nft", "-j", "-s", "list", "table", "inet", "sekisho"]
#: Tries of a roll-back that failed or was killed are this far apart.
RETRY_S = 2

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
        done = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},  # what nft says is read
        )
    except (OSError, subprocess.TimeoutExpired) as bad:
        return Done(127, b"", str(bad).encode())
    return Done(done.returncode, done.stdout, done.stderr)


class Live:
    """The running system's side of a guarded change; commands and paths are injected for tests."""

    def __init__(self, run: Run, usb: Path, quarantined: Path) -> None:
        self.run, self.usb, self._quarantined = run, usb, quarantined

    def must(self, argv: Sequence[str], what: str, stdin: bytes = b"") -> bytes:
        """Run a command and return its output; GuardError says what failed and why."""
        done = self.run(argv, stdin)
        if done.code != 0:
            said = (done.err or done.out).decode("utf-8", "replace").strip()[:600]
            raise GuardError(f"{what} failed ({argv[0]}, status {done.code}): {said}")
        return done.out

    # -- the timer ------------------------------------------------------------------------------

    def arm(self, token: str, timeout_s: int) -> None:
        """Have systemd roll the change back, again and again until that has worked."""
        self.must(
            [
                "systemd-run",
                f"--unit=sekisho-guard-{token}",
                f"--on-active={timeout_s}",
                "--timer-property=AccuracySec=1s",
                "--property=Restart=on-failure",
                f"--property=RestartSec={RETRY_S}",
                "--property=StartLimitIntervalSec=0",
                GUARD,
                "rollback",
                token,
            ],
            "arming the roll-back timer",
        )

    def disarm(self, token: str) -> None:
        """Stop the timer; one that is not stopped finds nothing to roll back."""
        self.run(["systemctl", "stop", f"sekisho-guard-{token}.timer"], b"")

    # -- rules ----------------------------------------------------------------------------------

    def table(self) -> bytes | None:
        """Return the loaded table, comparable (no handles, no counts), or None without one."""
        done = self.run(LIST, b"")
        if done.code != 0:
            return None
        try:
            return _comparable(json.loads(done.out)["nftables"]) or None
        except (ValueError, KeyError, TypeError):
            return None

    def _listing(self) -> bytes | None:
        """Return nft's listing of our table, None when it says that there is none.

        Raises:
            GuardError: nft failed in another way. That says nothing about the table: a roll-back
                that took it for "no table" would leave the machine without rules.

        """
        done = self.run(LIST, b"")
        if done.code == 0:
            return done.out
        if done.code == 1 and (not done.err.strip() or b"No such" in done.err):
            return None
        said = done.err.decode("utf-8", "replace").strip()[:300]
        raise GuardError(f"listing the loaded rules failed (nft, status {done.code}): {said}")

    def keep(self, folder: Path) -> dict[str, Any]:
        """Keep the loaded table and the authorised devices; returns the marker's part."""
        listed = self._listing()
        if listed is not None:
            write_atomically(folder / "table.json", listed, 0o600)
        authorised = {
            path.parent.name: value for path, value in self._values("*/authorized") if value == "1"
        }
        defaults = self._values("usb*/authorized_default")
        return {
            "table": "" if listed is None else digest(listed),
            "usb": list(authorised),
            "usb_default": {path.parent.name: value for path, value in defaults},
        }

    def _values(self, pattern: str) -> Iterator[tuple[Path, str]]:
        for path in sorted(self.usb.glob(pattern)):
            with contextlib.suppress(OSError):  # unplugged meanwhile
                yield path, path.read_text().strip()

    def dry_run(self, wanted: list[Wanted]) -> None:
        """Have nft look at the rules; GuardError when it refuses them."""
        for entry in wanted:
            if entry.kind == "nftables" and entry.content is not None:
                self.must(["nft", "-c", "-j", "-f", "-"], "dry run of the rules", entry.content)

    @contextlib.contextmanager
    def answers_untracked(self, wanted: list[Wanted]) -> Iterator[None]:
        """Keep running SSH sessions through the first load of rules on this host.

        Answers of sshd stay out of connection tracking until the rules are in force. The first rule
        that asks for a connection's state turns tracking on *before* that, in a dry run too; a
        session whose next packet is an answer would then count as begun by this host, and the rules
        cut it. `notrack` itself turns no tracking on.
        """
        first = any(e.kind == "nftables" and e.content for e in wanted) and self.table() is None
        if first:
            self.must(
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
                self.track_all()

    def track_all(self) -> None:
        """Track every session again."""
        gone = f"add table inet {UNTRACKED}; delete table inet {UNTRACKED}"
        self.must(["nft", "-f", "-"], "tracking all sessions again", gone.encode())

    # -- in force, and back -----------------------------------------------------------------------

    def put_in_force(self, wanted: list[Wanted]) -> None:
        """Test, load and reload what was written; GuardError at the first step that fails."""
        kinds = {entry.kind for entry in wanted}
        if "sshd" in kinds:
            self.must(["sshd", "-t"], "sshd's own test of its configuration")
        for entry in wanted:
            if entry.kind == "nftables" and entry.content is None:
                self.run(["nft", "delete", "table", "inet", "sekisho"], b"")
            elif entry.kind == "nftables" and entry.content is not None:
                content = with_switch(entry.content, self._quarantined)
                self.must(["nft", "-j", "-f", "-"], "loading the rules", content)
        if "sshd" in kinds:
            self.must(["systemctl", "reload-or-restart", "ssh.service"], "reloading sshd")
        if "usb" in kinds:
            self.must(["udevadm", "control", "--reload"], "reloading udev's rules")
            enforce = Path("/usr/lib/sekisho/usb-enforce")
            if enforce.exists():
                self.must([str(enforce)], "enforcing the device rules")

    def take_back(self, marker: dict[str, Any], folder: Path) -> Iterator[str]:
        """Restore what is loaded; yields what could not be done now and is to be tried again.

        Raises:
            MissingCopyError: the kept rules are gone or damaged. What is loaded stays: the machine
                is never left without rules because a copy is missing.

        """
        kinds = {kept["kind"] for kept in marker["files"]}
        if "sshd" in kinds:
            done = self.run(["systemctl", "reload-or-restart", "ssh.service"], b"")
            if done.code != 0:
                yield f"sshd was not reloaded: {done.err.decode('utf-8', 'replace').strip()[:200]}"
        if "usb" in kinds:
            self.run(["udevadm", "control", "--reload"], b"")
            for bus, value in marker["usb_default"].items():
                with contextlib.suppress(OSError):
                    (self.usb / bus / "authorized_default").write_text(value)
            for name in marker["usb"]:
                with contextlib.suppress(OSError):
                    (self.usb / name / "authorized").write_text("1")
        if "nftables" in kinds:
            yield from self._rules_back(marker, folder)

    def _rules_back(self, marker: dict[str, Any], folder: Path) -> Iterator[str]:
        kept = folder / "table.json"
        # An earlier version's marker does not say whether there was a table; its folder does.
        if "table" not in marker and not folder.is_dir():
            raise MissingCopyError(f"{folder} is missing")
        was_there = marker["table"] != "" if "table" in marker else kept.exists()
        entries: list[Any] = []
        if was_there:
            try:
                listed = json.loads(kept_bytes(kept, marker.get("table")))["nftables"]
                entries = [one for one in listed if "metainfo" not in one]
            except (ValueError, KeyError, TypeError, RecursionError):
                raise MissingCopyError(f"{kept} is damaged") from None
        own, left = ({"table": {"family": "inet", "name": n}} for n in ("sekisho", UNTRACKED))
        commands = [{"add": own}, {"delete": own}, {"add": left}, {"delete": left}]
        commands += [{"add": _without_handles(one)} for one in entries]
        tries = [json.dumps({"nftables": commands}).encode()]
        if was_there:  # nft does not take every listing of its own: then the file it came from
            tries += [
                (folder / one["held"]).read_bytes()
                for one in marker["files"]
                if one["kind"] == "nftables" and one["held"] and (folder / one["held"]).exists()
            ]
        said = b""
        for rules in tries:
            done = self.run(["nft", "-j", "-f", "-"], with_switch(rules, self._quarantined))
            if done.code == 0:
                return
            said = said or done.err
        # A load that was refused has changed nothing: then everything is as it was.
        if self.table() != (_comparable(entries) if was_there else None):
            told = said.decode("utf-8", "replace").strip()[:300]
            yield f"the earlier rules were not loaded: {told}"


def _comparable(entries: list[Any]) -> bytes:
    """Return the form of a listing that `Live.table` gives; empty bytes when it has none."""
    try:
        return canonical(normalise({"nftables": entries}))
    except (ValueError, KeyError, TypeError, SekishoError):
        return b""


def _without_handles(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_handles(inner) for key, inner in value.items() if key != "handle"}
    if isinstance(value, list):
        return [_without_handles(inner) for inner in value]
    return value
