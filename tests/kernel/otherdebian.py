"""Roots of Debian 12 and 13 with what the packet filter stands on, made once and kept.

Kept in pytest's cache folder under a digest of what goes in and of how it is made; a minute the
first time. Only the machine's own mirror is asked. SEKISHO_NO_MIRROR=1 says that there is none
here: the tests that need one are skipped then, and only then.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MAKER = REPOSITORY / "tests/debian-root"
#: Suite → nft's version in it.
SUITES = {"bookworm": "1.0.6", "trixie": "1.1.3"}
PACKAGES = ("base-files", "coreutils", "dash", "iproute2", "mount", "nftables",
            "python3-cryptography", "python3-nftables", "python3-yaml", "util-linux")  # fmt: skip
TIME_LIMIT_S = 600


def own_suite() -> str:
    """Return the suite of this machine; "" when it is no Debian."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").split("\n")
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    return told.get("VERSION_CODENAME", "") if told.get("ID") == "debian" else ""


@cache
def root_of(suite: str) -> Path | None:
    """Return the root of a suite; None where this machine is one itself."""
    if suite == own_suite():
        return None
    what = f"{suite} {','.join(PACKAGES)} ".encode() + MAKER.read_bytes()
    folder = REPOSITORY / ".pytest_cache/debian-roots"
    root = folder / f"{suite}-{hashlib.sha256(what).hexdigest()[:16]}"
    if root.is_dir():
        return root
    if os.environ.get("SEKISHO_NO_MIRROR") == "1":
        pytest.skip("SEKISHO_NO_MIRROR=1: no Debian mirror here")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # programs with setuid are among it
    fresh = folder / f".{root.name}.{os.getpid()}"
    done = subprocess.run(
        [MAKER, suite, fresh, "extract", ",".join(PACKAGES)],
        capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"no root of {suite} (SEKISHO_NO_MIRROR=1 skips): {done.stderr}"
    for name in ("proc", "sys", "dev", "tmp", "run", "sekisho"):  # what `ownspace.enter` mounts
        (fresh / name).mkdir(exist_ok=True)
    fresh.rename(root)
    return root
