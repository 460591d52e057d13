"""Run a file of this directory in namespaces of its own, which end with whoever started them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork",
        "--kill-child", "--mount-proc")  # fmt: skip


def run_apart(
    file: str, words: Sequence[str], *, env: Mapping[str, str] | None = None, quiet: bool = True
) -> str:
    """Return what ``file`` prints, run with ``words`` in user, network and process namespaces.

    Its standard input is a pipe whose other end only this process holds: `end_with_parent` in there
    sees it close however this process ends, killed outright too, and everything inside ends.

    Raises:
        subprocess.CalledProcessError: it failed; with what it said, when ``quiet``.

    """
    inner, ours = os.pipe()
    try:
        done = subprocess.run(
            (*ARGV, sys.executable, file, *words), env=os.environ | (env or {}), stdin=inner,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, check=True,
            text=True,
        )  # fmt: skip
    finally:
        os.close(inner)
        os.close(ours)
    return done.stdout


def outcome(code: int, out: str, said: str) -> Any:
    """Return the JSON a scene printed; skip where there are no namespaces, which CI must have."""
    if code and "unshare" in said and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {said.strip()}")
    assert code == 0, said
    return json.loads(out)


def scene(world: Path, *words: str, timeout: float = 180) -> Any:
    """Return the JSON a world prints, run in namespaces that end with it; see `outcome`."""
    done = subprocess.run(
        (*ARGV, sys.executable, str(world), *words),
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return outcome(done.returncode, done.stdout, done.stderr)


def end_with_parent() -> None:
    """End this process, the first of its namespace, and so all in there, when the pipe closes."""

    def watch() -> None:
        while os.read(0, 1):
            continue
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
