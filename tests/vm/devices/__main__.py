"""The device battery alone, on a lab of two machines: `python -m tests.vm.devices`.

`vagrant/lab up core-1 outside`, core-1 provisioned and saved, then: --restore NAME. Exit 0 without
a leak or an error, 1 with one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "vagrant")]

from labkit.api import Lab  # noqa: E402 - its folder comes first
from tests.vm.devices import plan  # noqa: E402
from tests.vm.devices.battery import FREE, WALLED, battery, write  # noqa: E402


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--restore", metavar="STATE", help="bring both machines back to it first")
    parser.add_argument("--kind", action="append", default=[], help="only these devices")
    parser.add_argument("--moment", action="append", choices=plan.MOMENTS, default=[])
    parser.add_argument("--out", type=Path, default=REPOSITORY / ".lab/devices.json")
    words = parser.parse_args()
    if words.restore:
        Lab().restore(words.restore, WALLED, FREE)
    report = battery(moments=words.moment or plan.MOMENTS, kinds=words.kind)
    write(report, words.out)
    return 1 if report.of("leak") or report.of("error") else 0


sys.exit(main())
