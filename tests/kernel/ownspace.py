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
    import pytest  # noqa: PLC0415 - `enter` runs where there is none

    if code and "unshare" in said and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {said.strip()}")
    assert code == 0, said
    return json.loads(out)


def scene(world: Path, *words: str, root: Path | None = None, timeout: float = 180) -> Any:
    """Return the JSON a world prints, run in namespaces that end with it; see `outcome`.

    ``root``: another Debian's root, which it sees as its own; nothing in there is changed.
    """
    apart = () if root is None else (__file__, str(root))
    done = subprocess.run(
        (*ARGV, sys.executable, *apart, str(world), *words),
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


def enter(root: Path, world: Path, words: Sequence[str]) -> None:
    """Run ``world`` under another root's Python and libraries, in the namespaces that there are."""
    repository = Path(__file__).resolve().parents[2]
    seen = root / "sekisho"

    def mount(*argv: object) -> None:
        subprocess.run(["mount", *map(str, argv)], check=True)

    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    mount("--rbind", repository, seen)
    for name in ("proc", "sys", "dev"):
        mount("--rbind", f"/{name}", root / name)
    for name in ("tmp", "run"):
        mount("-t", "tmpfs", "tmpfs", root / name)
    os.chroot(root)
    os.chdir("/")
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", PYTHONDONTWRITEBYTECODE="1")
    os.environ.pop("VIRTUAL_ENV", None)
    python = "/usr/bin/python3"
    os.execv(python, (python, f"/sekisho/{world.relative_to(repository)}", *words))  # noqa: S606 - no shell


if __name__ == "__main__":
    enter(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
