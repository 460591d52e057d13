"""Collect raw facts on this host: run the probes' commands, read their files, nothing else.

Standard library only, one process: commands run side by side, files are read meanwhile.
The result is plain JSON and is never interpreted here.
"""

from __future__ import annotations

import glob
import os
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sekisho.probes.model import MAX_BYTES, Probe, Read, Run

MAX_FILE_BYTES = 1024 * 1024
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


def _read_file(path: str, *, content: bool) -> dict[str, Any]:
    info = os.lstat(path)
    kind = "dir" if stat.S_ISDIR(info.st_mode) else "other"
    kind = "file" if stat.S_ISREG(info.st_mode) else kind
    entry: dict[str, Any] = {
        "mode": stat.S_IMODE(info.st_mode),
        "uid": info.st_uid,
        "gid": info.st_gid,
        "kind": kind,
    }
    if stat.S_ISLNK(info.st_mode):
        entry["kind"] = "link"
        entry["target"] = str(Path(path).readlink())
    if not content or kind == "dir":
        return entry
    try:
        # O_NONBLOCK: a FIFO in a configuration directory must not hold the audit up.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            opened = os.fstat(handle)
            if not stat.S_ISREG(opened.st_mode):
                return entry
            # No buffer larger than the file: for one of /proc/sys the kernel fills it with zeros.
            size = max(4096, opened.st_size + 1)
            data = b""
            while len(data) <= MAX_FILE_BYTES and (
                chunk := os.read(handle, min(size, MAX_FILE_BYTES + 1 - len(data)))
            ):
                data += chunk
        finally:
            os.close(handle)
    except OSError as bad:
        lent = _lent(path) if isinstance(bad, PermissionError) else None
        if lent is None:
            entry["error"] = bad.strerror
            return entry
        data = lent
    if len(data) > MAX_FILE_BYTES:
        entry["error"] = f"larger than {MAX_FILE_BYTES} bytes"
    else:
        entry["text"] = data.decode("utf-8", "backslashreplace")
    return entry


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


def read(operation: Read) -> dict[str, Any]:
    """Return the outcome of one read: files by path, each with metadata and text or error."""
    found: dict[str, Any] = {}
    for pattern in operation.globs:
        # glob, not pathlib: twice as fast over /proc/sys
        paths = glob.glob(pattern) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        for path in paths:
            if path in found:
                continue
            try:
                found[path] = _read_file(path, content=operation.content)
            except FileNotFoundError:
                continue
            except OSError as bad:
                found[path] = {"mode": 0, "uid": -1, "gid": -1, "kind": "other", "error": str(bad)}
    return {"files": found}


def collect(probes: Iterable[Probe]) -> dict[str, Any]:
    """Return the raw outcomes of ``probes``: probe → label → outcome; equal work is done once."""
    started = time.monotonic_ns()
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
                outcomes[operation] = read(operation)
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
