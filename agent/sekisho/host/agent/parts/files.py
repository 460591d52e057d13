"""The files part: settings that guard the machine stay as they were agreed.

Agreed means: as they stood when the playbooks said so (``sekisho agent agree``, a journal entry
with every digest). A change before the next agreement is told at once and shown until it is undone.
The part never writes these files: what puts them right is the playbook that wrote them.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Self

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths

MAX_FILE = 4 * 1024 * 1024
MAX_FILES = 2000
#: Group (a metric's label) → what belongs to it, below the root.
GROUPS: dict[str, tuple[str, ...]] = {
    "nftables": ("etc/sekisho/nftables.json",),
    "udev": ("etc/udev/rules.d/*", "etc/sekisho/disks", "etc/sekisho/cards"),
    "modprobe": ("etc/modprobe.d/*", "etc/modules-load.d/*"),
    "sshd": ("etc/ssh/sshd_config", "etc/ssh/sshd_config.d/*", "etc/ssh/authorized_keys.d/*"),
    "sudo": ("etc/sudoers", "etc/sudoers.d/*"),
    "audit": ("etc/audit/auditd.conf", "etc/audit/rules.d/*", "etc/audit/audit.rules"),
    "sysctl": ("etc/sysctl.conf", "etc/sysctl.d/*"),
    "units": (
        "etc/systemd/system/*.service",
        "etc/systemd/system/*.timer",
        "etc/systemd/system/*.socket",
        "etc/systemd/system/*.d/*.conf",
    ),
}
CHECK = "6-iv-a.guarded-file-changed"


class FilesPart(Part):
    """Watches guarded files by their stamps, reads those that changed."""

    NAME = "files"
    CHECKS = (CHECK,)
    EVERY_S = 15.0

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book, self._root = book, paths.root
        self._held = paths.state / "files.json"
        self._agreed: dict[str, str] | None = None
        self._stamps: dict[str, tuple[tuple[int, ...], str]] = {}
        self._told: dict[str, str] = {}

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths)

    def start(self) -> None:
        """Read what was agreed before; the first start agrees on what stands there."""
        if not self._held.exists():
            self.agree("the first start")
            return
        try:
            value = json.loads(read_bounded(self._held, MAX_FILE))
            if not isinstance(value, dict) or not all(map(_is_text, value.values())):
                raise ValueError("not a mapping of digests")  # noqa: TRY301 - one error type for the reader
            self._agreed = {str(path): str(digest) for path, digest in value.items()}
        except ValueError as error:
            raise SekishoError(f"{self._held} is garbled: {printable(str(error))}") from None
        self.look()

    def agree(self, why: str) -> int:
        """Take what stands there now as agreed; return how many files differ from before."""
        now = self._digests()
        before = self._agreed or {}
        changed = sorted(path for path in {*now, *before} if now.get(path) != before.get(path))
        if self._agreed is None or changed:
            write_atomic(self._held, canonical(now))
            self._book.write(
                "files.agreed",
                {
                    "why": why,
                    "files": len(now),
                    "sha256": hashlib.sha256(canonical(now)).hexdigest(),
                    "changed": {path: now.get(path, "absent") for path in changed[:200]},
                    "changed_count": len(changed),
                },
            )
        self._agreed, self._told = now, {}
        self.look()
        return len(changed)

    def look(self) -> None:
        """Compare, tell of every new difference once, show which groups differ."""
        if self._agreed is None:
            return
        now = self._digests()
        off = {
            path: now.get(path, "absent")
            for path in {*now, *self._agreed}
            if now.get(path) != self._agreed.get(path)
        }
        for path in sorted(off):
            if self._told.get(path) != off[path]:
                verb = (
                    "removed"
                    if off[path] == "absent"
                    else ("changed" if path in self._agreed else "added")
                )
                self._book.detect(
                    CHECK,
                    "alert",
                    f"{path} {verb}",
                    {"file": path, "sha256": off[path], "was": self._agreed.get(path, "absent")},
                )
        for path in sorted(set(self._told) - set(off)):
            self._book.tell("files.restored", {"file": path})
        self._told = off
        for group, patterns in GROUPS.items():
            count = sum(any(_matches(path, pattern) for pattern in patterns) for path in off)
            self._book.metrics.set("sekisho_file_drift", count, group)
        self._book.up("files", works=True)

    def _digests(self) -> dict[str, str]:
        found: dict[str, str] = {}
        stamps: dict[str, tuple[tuple[int, ...], str]] = {}
        root = str(self._root)
        for pattern in (pattern for patterns in GROUPS.values() for pattern in patterns):
            # Plain text: hundreds of Path objects a look would cost more than all the rest.
            for text in glob.glob(pattern, root_dir=root, include_hidden=True):  # noqa: PTH207
                path = f"{root}/{text}"
                try:
                    info = os.lstat(path)
                except FileNotFoundError:
                    continue
                stamp = (info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size)
                held = self._stamps.get(text)
                value = held[1] if held is not None and held[0] == stamp else _digest(Path(path))
                stamps[text] = (stamp, value)
                found[f"/{text}"] = value
        if len(found) > MAX_FILES:
            raise SekishoError(f"{len(found)} guarded files; expected at most {MAX_FILES}")
        self._stamps = stamps
        return found


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _matches(path: str, pattern: str) -> bool:
    return Path(path).match(f"/{pattern}")


def _digest(path: Path) -> str:
    """Return what stands at a path: digest and mode of a file, target of a link, or its kind."""
    info = os.lstat(path)
    if path.is_symlink():
        return f"link {path.readlink()}"
    if not path.is_file():
        return "no file"
    data = read_bounded(path, MAX_FILE)
    mode = f"{info.st_mode & 0o7777:04o} {info.st_uid}:{info.st_gid}"
    return f"{hashlib.sha256(data).hexdigest()} {mode}"
