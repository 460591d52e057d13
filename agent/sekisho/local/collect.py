"""Collect raw facts on this host: run the probes' commands, read their files, nothing else.

Standard library only, one process: commands run side by side, files are read meanwhile.
The result is plain JSON and is never interpreted here.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import glob
import os
import re
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sekisho.core.safe_files import Folder, Pinned, read_up_to
from sekisho.local.secret_files import secret_ids, withheld
from sekisho.probes.model import MAX_BYTES, Probe, Read, Run

MAX_FILE_BYTES = 1024 * 1024
_MAX_FOLDERS = 256  # open at a time
_OF_OTHERS = "a symbolic link in a folder of others, not followed"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "LANG": "C"}


def run(operation: Run) -> dict[str, Any]:
    """Return the outcome of one command: rc, stdout, stderr, truncated, or error."""
    try:
        done = subprocess.run(
            operation.argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=operation.timeout_s,
            env=_ENVIRONMENT,
            cwd="/",
            check=False,
        )
    except FileNotFoundError:
        return {"error": f"{operation.argv[0]} is not installed"}
    except subprocess.TimeoutExpired:
        return {"error": f"{operation.argv[0]} gave no answer within {operation.timeout_s} s"}
    except OSError as bad:
        return {"error": f"{operation.argv[0]}: {bad.strerror}"}
    return {
        "rc": done.returncode,
        "stdout": done.stdout[:MAX_BYTES].decode("utf-8", "backslashreplace"),
        "stderr": done.stderr[:4096].decode("utf-8", "backslashreplace"),
        "truncated": len(done.stdout) > MAX_BYTES,
    }


#: Values of keys that are secret wherever they stand, and a boot menu's password hash.
_SECRET_VALUES = re.compile(
    rb"(?im)^([ \t]*(?:(?:private_?key|preshared_?key|secret|password|psk)[ \t]*="
    rb"|password_pbkdf2[ \t]+[^ \t\n]+))[ \t]*[^ \t\n][^\n]*"
)
_PRIVATE_KEY = b"PRIVATE KEY-----"
_GONE = {errno.ENOENT, errno.ENOTDIR}


def _entry(found: Pinned) -> dict[str, Any]:
    info = found.info
    kind = "dir" if stat.S_ISDIR(info.st_mode) else "other"
    kind = "file" if stat.S_ISREG(info.st_mode) else kind
    entry: dict[str, Any] = {
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "kind": kind,
    }
    if stat.S_ISLNK(info.st_mode):
        entry |= {"kind": "link", "target": found.target()}
    return entry


class _Reader:
    """Reads the files of one operation, by handles; folders that patterns share are opened once."""

    def __init__(self, operation: Read, secrets: set[tuple[int, int]]) -> None:
        self._content, self._secrets = operation.content, secrets
        self._folders: dict[str, Folder] = {}
        self.found: dict[str, Any] = {}
        try:
            for pattern in operation.globs:
                self._pattern(pattern)
        finally:
            self._close()

    def _close(self) -> None:
        for folder in self._folders.values():
            folder.close()
        self._folders.clear()

    def _pattern(self, pattern: str) -> None:
        parts = pattern.strip("/").split("/")
        fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        fixed = min(fixed, len(parts) - 1)
        base = "".join(f"/{part}" for part in parts[:fixed])
        try:
            if base not in self._folders:
                if len(self._folders) > _MAX_FOLDERS:
                    self._close()
                self._folders[base] = Folder.open(base or "/")
        except OSError as bad:
            self._trouble(pattern, bad, None)
            return
        if parts == [""]:
            self._take_open(self._folders[base])
        else:
            self._visit(self._folders[base], base, parts[fixed:])

    def _take_open(self, folder: Folder) -> None:
        with Pinned(os.dup(folder.handle), "/") as found:
            self.found["/"] = _entry(found)

    def _visit(self, folder: Folder, shown: str, parts: list[str]) -> None:
        """Take what ``parts`` names in ``folder``; ``shown`` is the folder's path as asked for."""
        part, rest = parts[0], parts[1:]
        try:
            names = _matching(folder.names(), part) if glob.has_magic(part) else [part]
        except OSError as bad:
            self._trouble(f"{shown}/{part}", bad, folder)
            return
        for name in names:
            path = f"{shown}/{name}"
            try:
                if rest:
                    with folder.enter(name) as inner:
                        self._visit(inner, path, rest)
                elif path not in self.found:
                    self.found[path] = self._file(folder, name, path)
            except OSError as bad:
                if rest and bad.errno == errno.ELOOP:
                    self._link_of_others(folder, name, path, rest)
                else:
                    self._trouble(path, bad, folder)

    def _link_of_others(self, folder: Folder, name: str, path: str, rest: list[str]) -> None:
        """Show a link on the way, in the place of what is asked for behind it."""
        plain = not any(glob.has_magic(part) for part in rest)
        shown = "/".join([path, *rest]) if plain else path
        with contextlib.suppress(FileNotFoundError), folder.pin(name) as found:
            self.found.setdefault(shown, _entry(found) | {"error": f"{path}: {_OF_OTHERS}"})

    def _trouble(self, path: str, bad: OSError, folder: Folder | None) -> None:
        """Show what could not be looked at; in a folder of others it is theirs to answer for."""
        if bad.errno in _GONE:
            return
        uid = -1 if folder is None or folder.alone else folder.info.st_uid
        entry = {"mode": 0, "uid": uid, "gid": uid, "kind": "other", "error": str(bad)}
        self.found.setdefault(path, entry)

    def _file(self, folder: Folder, name: str, path: str) -> dict[str, Any]:
        with folder.pin(name) as found:
            entry = _entry(found)
            if not self._content or entry["kind"] == "dir":
                return entry
            if entry["kind"] == "link":
                if not folder.alone:
                    return entry | {"error": _OF_OTHERS}
                try:
                    there, last = folder.follow(name)
                except OSError as bad:
                    return entry | {"error": bad.strerror}
                with there, last:
                    return entry | self._text(there, last, path)
            return entry | self._text(folder, found, path)

    def _text(self, folder: Folder, found: Pinned, path: str) -> dict[str, str]:
        """Return the text of a regular file, or why it is not given; nothing else is opened."""
        if not stat.S_ISREG(found.info.st_mode):
            return {"error": _OF_OTHERS} if stat.S_ISLNK(found.info.st_mode) else {}
        why = withheld(folder, found, self._secrets)
        if why is not None:
            return {"error": why}
        try:
            handle = found.open()
            try:
                data = read_up_to(handle, MAX_FILE_BYTES + 1)
            finally:
                os.close(handle)
        except OSError as bad:
            lent = _lent(path) if isinstance(bad, PermissionError) else None
            if lent is None:
                return {"error": bad.strerror or str(bad)}
            data = lent
        return _given(data)


def _given(data: bytes) -> dict[str, str]:
    """Return content as text, without values that are secret wherever they stand."""
    if len(data) > MAX_FILE_BYTES:
        return {"error": f"larger than {MAX_FILE_BYTES} bytes"}
    if _PRIVATE_KEY in data:
        return {"error": "it holds a private key"}
    return {"text": _SECRET_VALUES.sub(rb"\1 (withheld)", data).decode("utf-8", "backslashreplace")}


def _matching(names: list[str], pattern: str) -> list[str]:
    """Return the names that fit; one that begins with a dot counts like any other."""
    return [name for name in names if fnmatch.fnmatchcase(name, pattern)]


def _lent(path: str) -> bytes | None:
    """Return what systemd read for us with rights this sandbox does not have, or None.

    The probe's unit names such files (``LoadCredential=``), the path written with dashes; so one
    kernel setting that only CAP_SYS_ADMIN may read does not cost the service that capability.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    try:
        with open(f"{folder}/{path.strip('/').replace('/', '-')}", "rb") as stream:  # noqa: PTH123 - as above
            return stream.read(MAX_FILE_BYTES + 1)
    except OSError:
        return None


def read(operation: Read, secrets: set[tuple[int, int]] | None = None) -> dict[str, Any]:
    """Return the outcome of one read: files by path, each with metadata and text or error.

    A link is followed only where root alone can have made it; elsewhere its target is told and no
    more. No content of `sekisho.local.secret_files.SECRETS` is returned, whatever name it has.
    ``secrets`` are their `secret_ids`, when the caller has them.
    """
    return {"files": _Reader(operation, secret_ids() if secrets is None else secrets).found}


def collect(probes: Iterable[Probe]) -> dict[str, Any]:
    """Return the raw outcomes of ``probes``: probe → label → outcome; equal work is done once."""
    started = time.monotonic_ns()
    secrets = secret_ids()
    work: dict[Run | Read, None] = {}
    chosen = list(probes)
    for probe in chosen:
        for operation in probe.operations.values():
            work[operation] = None
    # What may take longest begins first (one walk over all files), the rest fits beside it.
    runs = sorted(
        (operation for operation in work if isinstance(operation, Run)),
        key=lambda operation: -operation.timeout_s,
    )
    outcomes: dict[Run | Read, Mapping[str, Any]] = {}
    with ThreadPoolExecutor(max_workers=max(4, os.cpu_count() or 1)) as pool:
        pending = {operation: pool.submit(run, operation) for operation in runs}
        for operation in work:
            if isinstance(operation, Read):
                outcomes[operation] = read(operation, secrets)
        for operation, future in pending.items():
            outcomes[operation] = future.result()
    return {
        "schema": 1,
        "milliseconds": (time.monotonic_ns() - started) // 1_000_000,
        "probes": {
            probe.name: {label: outcomes[op] for label, op in probe.operations.items()}
            for probe in chosen
        },
    }
