"""The second run of `site.yml` on the provisioned lab: with Mitogen against plain Ansible.

    vagrant/lab up … (provisioned; see tests/vm/demo.py --keep), then
    .venv/bin/python tests/bench/bench_playbook.py [--runs 1] [--hosts core-1,gate-in]

Both runs must change nothing; the ratio is that of the medians of the wall-clock time. Plain
Ansible has pipelining and kept SSH connections as in ansible.cfg: only its strategy differs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.vm.trial import MANAGED, Lab

GOAL = 1 / 3
#: Name → Ansible's strategy.
STRATEGIES = {"mitogen": "mitogen_linear", "plain": "linear"}


def quiet_run(lab: Lab, strategy: str, hosts: str) -> float:
    """Return the seconds of one run of site.yml; SystemExit when it failed or changed something."""
    os.environ["ANSIBLE_STRATEGY"] = strategy
    started = time.monotonic()
    seen = lab.playbook("site", "--limit", f"localhost:{hosts.replace(',', ':')}", timeout=3600)
    taken = time.monotonic() - started
    recap = [line for line in seen.out.splitlines() if "changed=" in line]
    if seen.code != 0 or not recap or any("changed=0 " not in line for line in recap):
        raise SystemExit(f"not a quiet second run ({strategy}, exit {seen.code}): {recap}")
    return taken


def main() -> int:
    """Print each run and the ratio; 0 when the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--hosts", default=",".join(MANAGED))
    words = parser.parse_args()
    lab = Lab()
    if "running" not in lab.driver("status", check=False):
        sys.stderr.write("the lab is down: tests/vm/demo.py --keep brings it up provisioned\n")
        return 3
    quiet_run(lab, STRATEGIES["mitogen"], words.hosts)  # both find a machine that needs nothing
    taken: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    for turn in range(words.runs):
        for name, strategy in STRATEGIES.items():
            taken[name].append(quiet_run(lab, strategy, words.hosts))
            sys.stdout.write(f"round {turn + 1}  {name:<8} {taken[name][-1]:7.1f} s\n")
            sys.stdout.flush()
    ratio = statistics.median(taken["mitogen"]) / statistics.median(taken["plain"])
    sys.stdout.write(f"ratio    {ratio:.2f} of plain Ansible's time (goal {GOAL:.2f})\n")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
