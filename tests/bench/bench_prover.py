"""The prover's speed: one host, the lab, and a site with many peers; process time and wall time."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "tests")]

from sekisho.compile.policy import compile_host  # noqa: E402
from sekisho.prover.findings import Outcome  # noqa: E402
from sekisho.prover.prove import prove  # noqa: E402
from sekisho.site.model import Site  # noqa: E402
from sekisho.site.parse import parse_site  # noqa: E402
from siteworld import ISSUED, SITE, lab_raw, lab_site  # noqa: E402


def with_peers(count: int) -> Site:
    """Return the lab with ``count`` providers behind the carrier's router, a flow each."""
    peers = "".join(
        f"    clinic-{n}:\n      side: provider\n      title: {{en: C{n}, ja: 医院{n}}}\n"
        f"      address: 10.99.{n // 250}.{n % 250 + 1}\n      router: 10.77.1.3\n"
        for n in range(count)
    )
    flows = "".join(
        f"    intake-{n}:\n      from: clinic-{n}\n      to: inbound-1\n      via: gate-in\n"
        f"      port: 7601\n      mode: one-way-tcp\n"
        for n in range(count)
    )
    names = ", ".join(f"clinic-{n}" for n in range(count))
    text = next(file.text for file in lab_raw().group_vars if file.path == SITE)
    members = f"between: [hospital-a, {names}, gate-in]"
    text = text.replace("between: [hospital-a, gate-in]", members)
    text = text.replace("  peers:\n", f"  peers:\n{peers}", 1)
    text = text.replace("  flows:\n", f"  flows:\n{flows}", 1)
    return parse_site(lab_raw({SITE: text}))


def measure(what: str, site: Site, hosts: list[str], goal: float) -> None:
    """Prove and print one line."""
    rules: dict[str, Any] = {
        host: compile_host(site, host, serial=1, issued=ISSUED).nftables.value() for host in hosts
    }
    wall, busy = time.perf_counter(), time.process_time()
    found = list(prove(rules, site))
    busy, wall = time.process_time() - busy, time.perf_counter() - wall
    bad = sum(one.outcome is not Outcome.PROVEN for one in found)
    sys.stdout.write(
        f"{what:22} {len(found):5} questions, {bad} not proven, {busy:6.2f} s of processor, "
        f"{wall:6.2f} s; goal {goal:.0f} s: {busy / goal:.2f} of it\n"
    )


def main() -> None:
    """Measure the three goals in one run."""
    lab = lab_site()
    list(prove({}, lab))  # the solver's own start is not the question
    measure("one host (inbound-1)", lab, ["inbound-1"], 2)
    measure("lab", lab, list(lab.machines), 10)
    many = with_peers(200)
    measure("lab with 200 peers", many, list(many.machines), 60)


if __name__ == "__main__":
    main()
