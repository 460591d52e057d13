"""Every moment in which a wrong packet could slip through, tried: a table of what was seen.

``.venv/bin/python tests/kernel/timetable.py [SCENE…]``: progress on stderr, the table at the end;
exit status 1 when a wrong packet arrived, or a control saw none. About six minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCENES = {
    "boot": "timeworld.py",
    "reload": "timeworld.py",
    "card": "timeworld.py",
    "flap": "timeworld.py",
    "killed": "timescenes.py",
    "conntrack": "timescenes.py",
    "disk": "timescenes.py",
}
#: Phases in which the wall is open on purpose.
CONTROLS = ("control", "open", "two transactions")
LIMIT_S = 660  # a scene ends itself before that
ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork")


def run(scene: str, *, told: bool = False) -> tuple[int, str, str]:
    """Run a scene in namespaces of its own, which end with it: status, what was seen, stderr."""
    process = subprocess.Popen(
        (*ARGV, "--kill-child", "--mount-proc", sys.executable, str(HERE / SCENES[scene]), scene),
        stdout=subprocess.PIPE,
        stderr=None if told else subprocess.PIPE,
        text=True,
    )
    try:
        out, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()  # and with it the first process inside, and with that all others
        process.wait()
    return process.returncode, out, said or ""


def phases(seen: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Yield (name, phase, whether it is a control) of what a scene saw."""
    for name, one in seen.items():
        if isinstance(one, dict) and "probes" in one:
            yield name, one, name in CONTROLS


def row(scene: str, name: str, phase: dict[str, Any]) -> str:
    flow = phase.get("flow")
    ended = f"{flow['pause']:7.3f} s {flow['silence']:7.3f} s" if flow else f"{'-':>9} {'-':>9}"
    whole = {None: "", True: "whole", False: "BROKEN"}[flow and flow["whole"]]
    probes = phase["probes"]
    return (
        f"{scene:<10} {name:<22} {probes['sent']:>8} {phase['per_second']:>7} "
        f"{sum(phase['wrong'].values()):>8} {phase['lost']:>5} {ended} "
        f"{probes['longest_silence']:7.3f} s {whole}"
    )


def main(wanted: list[str]) -> int:
    rows, bad = [], 0
    for scene in wanted or SCENES:
        sys.stderr.write(f"{scene}\n")
        status, out, _ = run(scene, told=True)
        if status:
            rows.append(f"{scene:<10} did not end: status {status}")
            bad = 1
            continue
        for name, phase, control in phases(json.loads(out)):
            arrived = sum(phase["wrong"].values())
            bad |= (arrived == 0) if control else (arrived > 0 or phase["lost"] > 0)
            rows.append(row(scene, f"({name})" if control else name, phase))
    head = (
        f"{'moment':<10} {'(control)':<22} {'probes':>8} {'per s':>7} {'arrived':>8} {'lost':>5} "
    )
    head += f"{'pause':>9} {'unread':>9} {'unsent':>9} delivery"
    sys.stdout.write("\n".join([head, *rows]) + "\n")
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
