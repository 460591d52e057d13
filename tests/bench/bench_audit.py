"""`sekisho audit --local` against `lynis audit system --quick` on this machine, per check.

Both run as they are, one after the other, several times; the ratio is that of the medians of the
wall-clock time for one check. Run by hand (`make bench`); root, lynis from Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = int(os.environ.get("ROUNDS", "3"))
GOAL = 30.0
ROOT = Path(__file__).resolve().parents[2]


def timed(argv: list[str], folder: str) -> tuple[float, float, str]:
    """Return wall-clock seconds, CPU seconds of the children, and standard output."""
    before = os.times()
    started = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, cwd=folder, check=False)
    wall = time.monotonic() - started
    after = os.times()
    cpu = after.children_user + after.children_system
    return wall, cpu - before.children_user - before.children_system, done.stdout


def ours(folder: str) -> tuple[float, float, int]:
    command = Path(sys.executable).with_name("sekisho")
    wall, cpu, out = timed([str(command), "audit", "--local", "--json"], folder)
    return wall, cpu, len(json.loads(out)["findings"])


def lynis(folder: str) -> tuple[float, float, int]:
    # Report and log go into the bench's own folder, not into /var/log.
    wall, cpu, out = timed(
        [
            "lynis", "audit", "system", "--quick", "--no-colors",
            "--logfile", f"{folder}/lynis.log", "--report-file", f"{folder}/lynis.dat",
        ],
        folder,
    )  # fmt: skip
    found = re.search(r"Tests performed\s*:\s*(\d+)", out)
    if found is None:
        sys.exit(f"lynis said nothing of its tests:\n{out[-500:]}")
    return wall, cpu, int(found[1])


def main() -> int:
    if shutil.which("lynis") is None:
        sys.stderr.write("lynis is not installed: apt-get install lynis\n")
        return 3
    rows: dict[str, list[tuple[float, float, int]]] = {"sekisho": [], "lynis": []}
    with tempfile.TemporaryDirectory() as folder:
        ours(folder)  # both find the files of this machine in the cache
        for turn in range(ROUNDS):
            for name, tool in (("lynis", lynis), ("sekisho", ours)):
                rows[name].append(tool(folder))
                wall, cpu, checks = rows[name][-1]
                sys.stdout.write(
                    f"round {turn + 1}  {name:<8} {wall:7.2f} s wall {cpu:7.2f} s cpu  "
                    f"{checks} checks\n"
                )
                sys.stdout.flush()
    each = {
        name: tuple(
            statistics.median(row[index] / row[2] * 1000 for row in found) for index in (0, 1)
        )
        for name, found in rows.items()
    }
    for name, (wall, cpu) in each.items():
        sys.stdout.write(f"{name:<8} {wall:8.2f} ms a check (cpu {cpu:.2f} ms)\n")
    ratio = each["lynis"][0] / each["sekisho"][0]
    cpu_ratio = each["lynis"][1] / each["sekisho"][1]
    sys.stdout.write(
        f"ratio    {ratio:.1f} per check (goal {GOAL:.0f}); by CPU time {cpu_ratio:.1f}; "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
    )
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
