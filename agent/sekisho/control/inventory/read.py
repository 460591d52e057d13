"""Read an inventory directory: texts only, bounded, nothing interpreted."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.site.model import RawFile, RawInventory

#: Bounds in bytes; a site of 10,000 machines stays far below them.
MAX_FILE = 8 * 1024 * 1024
MAX_HOST_FILE = 64 * 1024
MAX_KEY_FILE = 16 * 1024
MAX_TOTAL = 128 * 1024 * 1024
MAX_FILES = 40_000
#: What may lie in an inventory; and the endings that Ansible passes over (INVENTORY_IGNORE_EXTS).
_ENTRIES = ("hosts.yml", "group_vars", "host_vars", "keys", "pki")
_UNREAD = (".md", ".txt", ".rst", ".orig", ".bak", ".swp", ".retry", "~")


class _Bounded:
    """Reads regular files below one root and keeps count."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.total = 0
        self.files = 0

    def refuse(self, path: str, got: str, expected: str) -> SekishoError:
        where = f"{printable(str(self.root))}/{printable(path)}"
        return SekishoError("cannot read the inventory", (Problem(where, "", got, expected),))

    def text(self, path: str, limit: int) -> str:
        self.files += 1
        if self.files > MAX_FILES:
            raise self.refuse(path, f"more than {MAX_FILES} files", "fewer")
        try:
            handle = os.open(self.root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as bad:
            link = (self.root / path).is_symlink()
            raise self.refuse(
                path, "a symbolic link" if link else str(bad.strerror), "a file that can be read"
            ) from None
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise self.refuse(path, "no regular file", "a file")
            data = stream.read(limit + 1)
        self.total += len(data)
        if len(data) > limit:
            raise self.refuse(path, f"more than {limit} bytes", "a smaller file")
        if self.total > MAX_TOTAL:
            raise self.refuse(path, f"an inventory of more than {MAX_TOTAL} bytes", "less")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as bad:
            raise self.refuse(path, f"byte {bad.start} that is not UTF-8", "UTF-8") from None

    def folder(self, path: str) -> list[os.DirEntry[str]]:
        """Return the entries of a folder that counts as part of the inventory, by name."""
        try:
            with os.scandir(self.root / path) as entries:
                return sorted(
                    (entry for entry in entries if not entry.name.startswith(".")),
                    key=lambda entry: entry.name,
                )
        except FileNotFoundError:
            return []
        except OSError as bad:
            raise self.refuse(path, str(bad.strerror), "a directory") from None

    def variables(self, path: str, limit: int, *, deeper: bool) -> list[RawFile]:
        found: list[RawFile] = []
        for entry in self.folder(path):
            here = f"{path}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if not deeper:
                    raise self.refuse(here, "a directory", "one file per host")
                found += self.variables(here, limit, deeper=False)
            elif entry.name.endswith(".yml"):
                found.append(RawFile(here, self.text(here, limit)))
            elif not entry.name.endswith((".md", "~", ".bak", ".orig")):
                # Ansible would read it (.yaml, .json, no extension): never two descriptions.
                raise self.refuse(here, "a file Ansible reads and we do not", "a name in .yml")
        return found

    def nothing_else(self) -> None:
        """Refuse what Ansible would read as a second inventory: every file of the folder."""
        for entry in self.folder("."):
            if entry.name in _ENTRIES or entry.name.endswith(_UNREAD):
                continue
            raise self.refuse(
                entry.name,
                "a second inventory: Ansible reads it and the site model does not",
                f"nothing beside {', '.join(_ENTRIES)}; notes may end in .md or .txt",
            )

    def keys(self, path: str, found: dict[str, str], depth: int = 0) -> None:
        for entry in self.folder(path):
            here = f"{path}/{entry.name}"
            if entry.is_dir(follow_symlinks=False) and depth < 3:
                self.keys(here, found, depth + 1)
            elif entry.name.endswith(".pub"):
                found[here] = self.text(here, MAX_KEY_FILE)


def read_inventory(path: Path) -> RawInventory:
    """Return every text of the inventory at ``path``; raise `SekishoError` naming what is off.

    Reads ``hosts.yml``, ``group_vars/``, ``host_vars/`` and ``keys/**/*.pub``; never private keys.
    """
    bounded = _Bounded(path)
    if not path.is_dir():
        raise bounded.refuse("", "no directory", "an inventory: a directory with hosts.yml")
    bounded.nothing_else()
    keys: dict[str, str] = {}
    bounded.keys("keys", keys)
    return RawInventory(
        where=str(path),
        hosts=RawFile("hosts.yml", bounded.text("hosts.yml", MAX_FILE)),
        group_vars=tuple(bounded.variables("group_vars", MAX_FILE, deeper=True)),
        host_vars=tuple(bounded.variables("host_vars", MAX_HOST_FILE, deeper=False)),
        keys=keys,
    )
