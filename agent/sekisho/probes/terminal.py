"""A terminal's own disk: read-only for the kernel, and nothing that is kept anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.probes.kernel import BOOT_FILES, next_words
from sekisho.probes.model import Probe, ProbeError, Read, files, text_of
from sekisho.probes.mounts import parse_mountinfo

STATE = "/run/sekisho-terminal"
HELPER = "/usr/lib/sekisho/terminal-init"
#: Without these among the kernel's parameters the next boot is no terminal's.
WORDS = (f"init={HELPER}", "bdev_allow_write_mounted=0", "fsck.mode=skip")
_BLOCK = "/sys/class/block"


def _words(text: str) -> list[str]:
    """Return those of `WORDS` that a command line, or the boot loader's file, does not hold."""
    held = set(re.split(r"[\s\"']+", text))
    return [word for word in WORDS if word not in held]


def _terminal(raw: Mapping[str, Any]) -> dict[str, Any]:
    held = files(raw, "files")
    links = {path.rpartition("/")[2]: e.target or "" for path, e in files(raw, "links").items()}
    disks = sorted(name for name, target in links.items() if "/virtual/" not in target)
    if not disks:
        raise ProbeError("this machine shows no disk at all, not even its own")
    switches = files(raw, "switches")
    writable = []
    for name in disks:
        switch = switches.get(f"{_BLOCK}/{name}/ro")
        if switch is None or switch.text is None:
            raise ProbeError(f"{_BLOCK}/{name}/ro: not there")
        if switch.text.strip() != "1":
            writable.append(name)
    whole = held.get("/proc/1/mountinfo")
    table = "/proc/1/mountinfo" if whole and whole.text else "/proc/self/mountinfo"
    mounts = parse_mountinfo(text_of(held, table))
    # Of what lies on a device; an overlay says itself where it lies, and the root's is judged.
    kept = sorted(
        point
        for point, one in mounts.items()
        if one["source"].startswith("/dev/")
        and "rw" in one["options"]
        and one["type"] != "devtmpfs"
    )
    root = mounts["/"]
    state = held.get(STATE)
    helper = held.get(HELPER)
    return {
        "state": (state.text or "").strip() if state else "as any machine",
        "root": root["type"],
        "writable": writable,
        "kept": kept,
        "cmdline_lacks": _words(text_of(held, "/proc/cmdline")),
        "boot_lacks": _words(" ".join(next_words(files(raw, "boot")))),
        "helper": "missing"
        if helper is None or helper.kind != "file"
        else "writable"
        if helper.uid != 0 or helper.mode & 0o022
        else "in place",
    }


PROBES = (
    Probe(
        name="terminal",
        operations={
            "files": Read(
                (
                    "/proc/1/mountinfo", "/proc/self/mountinfo", "/proc/cmdline", STATE, HELPER,
                )
            ),
            "boot": Read(BOOT_FILES),
            "links": Read((f"{_BLOCK}/*",), content=False),
            "switches": Read((f"{_BLOCK}/*/ro",)),
        },
        parse=_terminal,
    ),
)  # fmt: skip
