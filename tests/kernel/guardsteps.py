"""The guard killed at every system call that changes something, over the real nft; run by `scene`.

Words: the operation (apply, confirm, rollback), and whether the host is "fresh". strace kills the
process at its N-th call of each kind, for every N (strace(1), `inject=CALL:signal=KILL:when=N`);
then the timer runs out, and the kernel, the files and the next change are looked at. Prints JSON.
systemd and sshd are small programs that do nothing but note what they were asked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "agent"))

from sekisho.host.guard.guard import Guard  # noqa: E402 - behind the path
from sekisho.host.guard.request import Wanted  # noqa: E402

CALLS = ("rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
         "fsync", "fdatasync", "link", "linkat", "write", "fchmod", "flock", "utimensat",
         "vfork", "wait4")  # fmt: skip
#: `guard VERB FOLDER VERSION`, as the host's own program calls it, over folders of ours.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "agent")!r})
sys.path.insert(0, {str(REPOSITORY / "tests/kernel")!r})
import guardsteps
guardsteps.act(*sys.argv[1:])
"""
RULES = (
    '{"nftables": [{"add": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"delete": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"add": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"add": {"chain": {"family": "inet", "table": "sekisho", "name": "%s", "type": "filter", '
    '"hook": "input", "prio": 0, "policy": "drop"}}}]}'
)
NOTES = """#!/bin/sh
echo "$0 $*" >>{place}/asked
exit 0
"""


def guard(folder: Path) -> Guard:
    return Guard(state=folder / "state/guard", usb=folder / "usb")


def wanted(folder: Path, version: str) -> list[Wanted]:
    return [
        Wanted(folder / "etc/rules", (RULES % version).encode(), 0o600, "nftables"),
        Wanted(folder / "etc/sshd", version.encode(), 0o644, "sshd"),
    ]


def token(folder: Path) -> str:
    return str(json.loads((folder / "state/guard/pending.json").read_bytes())["token"])


def act(verb: str, place: str, version: str = "") -> None:
    folder = Path(place)
    if verb == "apply":
        guard(folder).apply(wanted(folder, version))
    elif verb == "confirm":
        guard(folder).confirm(token(folder))
    else:
        guard(folder).rollback(token(folder))


def loaded() -> str | None:
    done = subprocess.run(["nft", "-j", "list", "table", "inet", "sekisho"], capture_output=True,
                          check=False)  # fmt: skip
    if done.returncode:
        return None
    chains = [one["chain"]["name"] for one in json.loads(done.stdout)["nftables"] if "chain" in one]
    return chains[0] if chains else ""


def tables() -> list[str]:
    done = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=True)
    return sorted(
        one["table"]["name"] for one in json.loads(done.stdout)["nftables"] if "table" in one
    )


def orphans_end() -> None:
    """Wait for an nft whose guard was killed: it ends by itself, its input does."""
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        running = [
            path for path in Path("/proc").glob("[0-9]*/comm")
            if path.exists() and path.read_text() == "nft\n"
            and " Z " not in (path.parent / "stat").read_text()
        ]  # fmt: skip
        if not running:
            return
        time.sleep(0.02)


def versions(folder: Path) -> list[str | None]:
    sshd, rules = folder / "etc/sshd", folder / "etc/rules"
    file = json.loads(rules.read_bytes())["nftables"][-1]["add"]["chain"]["name"] \
        if rules.exists() else None  # fmt: skip
    found = {sshd.read_text() if sshd.exists() else None, file, loaded()}
    return sorted(found, key=str)


def once(folder: Path, verb: str, fresh: str, step: tuple[str, int]) -> dict[str, Any]:
    """Lead up to the operation, kill it at ``step``, let the timer run out; what was seen."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    for name in ("etc", "usb", "state"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    (folder / "asked").write_text("")
    if fresh != "fresh":
        act("apply", str(folder), "old")
        act("confirm", str(folder))
    if verb != "apply":
        act("apply", str(folder), "new")
    done = subprocess.run(
        ["strace", "-qq", "-o", "/dev/null", "-e", f"trace={step[0]}",
         "-e", f"inject={step[0]}:signal=KILL:when={step[1]}",
         sys.executable, "-c", PROGRAM, verb, folder, "new"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    orphans_end()
    seen: dict[str, Any] = {"step": step, "killed": done.returncode == -9, "between": loaded()}
    if done.returncode not in (0, -9):
        seen["failed"] = done.stderr[-500:]
    pending = folder / "state/guard/pending.json"
    armed = [line.split()[-1] for line in (folder / "asked").read_text().splitlines()
             if "systemd-run" in line]  # fmt: skip
    seen["unfreed"] = pending.exists() and token(folder) not in armed
    for one in armed:
        guard(folder).rollback(one)
    seen["after"], seen["tables"] = versions(folder), tables()
    act("apply", str(folder), "next")
    act("confirm", str(folder))
    seen["next"], seen["left"] = versions(folder), tables()
    return seen


def tools(folder: Path) -> Path:
    """Return a folder of programs that note what they were asked."""
    made = folder / "tools"
    made.mkdir()
    for tool in ("systemd-run", "systemctl", "sshd", "udevadm"):
        (made / tool).write_text(NOTES.format(place=folder))
        (made / tool).chmod(0o755)
    return made


def main(verb: str, fresh: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sekisho-guard-", dir="/dev/shm") as name:
        folder = Path(name)
        os.environ["PATH"] = f"{tools(folder)}:{os.environ['PATH']}"
        seen = []
        for call in CALLS:
            for count in range(1, 1000):
                seen.append(once(folder, verb, fresh, (call, count)))
                if not seen[-1]["killed"]:
                    break
        sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
