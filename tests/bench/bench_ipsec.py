"""A hop through two gateways, with IPsec between them and without, on one machine of the lab's box.

    .venv/bin/python tests/bench/bench_ipsec.py [--rounds 2]

The same sender, receiver and compiler of rules, alternately. Goal: 0.6 of the clear hop. Under
emulation the processor's instructions for AES are emulated too, both gateways share a processor,
and only the clear hop passes 64 KB at once: the ratio is the emulation's (0.04 on 2026-11-26).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "vagrant")]

from tests.vm.onevm import guest  # noqa: E402

GOAL = 0.6


def main() -> None:
    """Run both alternately; print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    rates: dict[str, list[float]] = {"hop in clear": [], "hop": []}
    with guest() as machine:
        for _ in range(rounds):
            for scene, found in rates.items():
                seen = machine.scene(scene)
                if (seen["esp"] > 0) != (scene == "hop"):
                    sys.exit(f"{scene}: {seen['esp']} packets of ESP at the gateway")
                found.extend(seen["MB/s"])
    clear, ipsec = (statistics.median(found) for found in rates.values())
    for name, found in zip(("in clear", "IPsec"), rates.values(), strict=True):
        each = " ".join(f"{one:.2f}" for one in found)
        sys.stdout.write(f"{name:<10} {statistics.median(found):8.2f} MB/s  ({each})\n")
    sys.stdout.write(f"ratio      {ipsec / clear:8.2f}  (goal >= {GOAL})\n")
    sys.exit(ipsec / clear < GOAL)


if __name__ == "__main__":
    main()
