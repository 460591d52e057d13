"""Every check on a real machine: varied and still green, broken and red, remedied and green again.

The scenarios of all checks run together, spread over the machines they apply to: one audit judges
a hundred of them. Each audit is the auditor's own, from outside.
"""

from __future__ import annotations

import io
import re
import shlex
import sys
import tarfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from tests.vm.demo import FOLLOWERS, settle_clock
from tests.vm.trial import INVENTORY, REPOSITORY, Lab

CHECKS = REPOSITORY / "hardening/checks"
AWAKE = "gate-out"
#: What only a restart mends.
RESTARTED = ("6-iv-c.kernel-untainted", "6-iv-c.kernel-from-debian")
ROLES = {
    "gate-in": "gateway", "inbound-1": "inbound", "core-1": "core", "outbound-1": "outbound",
    "gate-out": "gateway", "monitor-1": "monitor",
}  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What the audits said of one check on its machine."""

    check: str
    host: str
    varied: str = ""  # after the legitimate variation, where the check has one
    broken: str = ""
    remedied: str = ""
    script: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


def locked() -> set[str]:
    """Return the machines whose site shuts the module wall: nothing can be loaded there."""
    shut = set()
    for host in ROLES:
        text = (INVENTORY / f"host_vars/{host}.yml").read_text(encoding="utf-8")
        machine = yaml.safe_load(text)["sekisho_machine"]
        if machine.get("modules", {}).get("lock") == "enforce":
            shut.add(host)
    return shut


def loads_modules(check: str) -> bool:
    """Tell whether a check is broken by loading a module, which a shut machine refuses."""
    return re.search(r"^\s*(modprobe|insmod)\b", _script(check), re.MULTILINE) is not None


def _script(check: str) -> str:
    return (CHECKS / check / "fail.sh").read_text(encoding="utf-8")


def wakes_agent(check: str) -> bool:
    """Tell whether a check is broken with the agent started anew, which mends loosened rules."""
    return (
        re.search(r"systemctl (reload-or-)?(re)?start .*sekisho-agent", _script(check)) is not None
    )


def loosens_rules(check: str) -> bool:
    """Tell whether a check is broken in the rules as loaded."""
    return re.search(r"^\s*nft\b", _script(check), re.MULTILINE) is not None


def assign(checks: list[str]) -> dict[str, str]:
    """Return check → machine: spread evenly over the machines the check applies to.

    A scenario that loads modules goes to a machine whose site leaves that open; at least one of
    the lab's does. Scenarios that start the agent go to one machine, those of loaded rules to others.
    """
    shut = locked()
    load: dict[str, int] = defaultdict(int)
    chosen: dict[str, str] = {}
    for check in checks:
        applies = yaml.safe_load((CHECKS / check / "check.yml").read_text(encoding="utf-8"))[
            "applies"
        ]
        fitting = [host for host, role in ROLES.items() if "all" in applies or role in applies]
        if loads_modules(check):
            fitting = [host for host in fitting if host not in shut]
        if wakes_agent(check):
            fitting = [host for host in fitting if host == AWAKE] or fitting
        elif loosens_rules(check):
            fitting = [host for host in fitting if host != AWAKE] or fitting
        if not fitting:
            continue  # the terminal is not started by default: said by the test that asserts this
        chosen[check] = min(fitting, key=lambda host: load[host])
        load[chosen[check]] += 1
    return chosen


def _run_scripts(lab: Lab, host: str, scripts: list[tuple[str, Path]]) -> dict[str, str]:
    """Run scripts on ``host`` as root, one after the other; return check → "" or what it said."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as tar:
        for check, path in scripts:
            tar.add(path, arcname=f"{check}.sh")
    lab.root(host, "rm -rf /run/scenarios; mkdir -p /run/scenarios")
    lab.put(host, "/run/scenarios/all.tar", memory.getvalue())
    names = " ".join(shlex.quote(check) for check, _ in scripts)
    seen = lab.root(
        host,
        "cd /run/scenarios && tar xf all.tar && for c in " + names + "; do "
        'timeout 60 sh ./$c.sh >$c.out 2>&1 </dev/null; echo "$c $? $(tail -n1 $c.out)"; done; '
        "cd / && rm -rf /run/scenarios",
        timeout=600,
    )
    result = {}
    for line in seen.out.splitlines():
        check, _, rest = line.partition(" ")
        code, _, said = rest.partition(" ")
        result[check] = "" if code == "0" else f"exit {code}: {said}"
    return result


def _verdicts(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(finding["host"], finding["check"]): finding for finding in report["findings"]}


def _all_hosts(lab: Lab, chosen: dict[str, str], name: str) -> dict[str, str]:
    def one(host: str) -> dict[str, str]:
        scripts = [
            (check, CHECKS / check / name)
            for check, where in chosen.items()
            if where == host and (CHECKS / check / name).exists()
        ]
        if not scripts:
            return {}
        sys.stdout.write(f"{name} on {host}: {len(scripts)} scenarios\n")
        return _run_scripts(lab, host, scripts)

    said: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=3) as pool:
        for found in pool.map(one, ROLES):
            said.update(found)
    return said


def battery(lab: Lab) -> dict[str, Outcome]:
    """Run all scenarios; return the outcome of every check that applies to a running machine."""
    chosen = assign(sorted(path.name for path in CHECKS.iterdir() if path.is_dir()))
    outcomes = {check: Outcome(check, host) for check, host in chosen.items()}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: settle_clock(lab, host), FOLLOWERS))
    said = _all_hosts(lab, chosen, "pass.sh")
    found = _verdicts(lab.audit())
    for check, outcome in outcomes.items():
        outcome.varied = found.get((outcome.host, check), {}).get("verdict", "none")
        outcome.script = said.get(check, "")
    for host in ROLES:
        lab.root(host, "systemctl stop sekisho-agent")
    said = _all_hosts(lab, chosen, "fail.sh")
    found = _verdicts(lab.audit())
    for check, outcome in outcomes.items():
        outcome.detail = found.get((outcome.host, check), {})
        outcome.broken = outcome.detail.get("verdict", "none")
        outcome.script = outcome.script or said.get(check, "no answer")
    repaired = lab.playbook("site")
    if repaired.code != 0:
        sys.stdout.write(repaired.out[-4000:])
    # What a foreign module left in a kernel goes only with a boot, and only when that is asked for.
    anew_hosts = sorted({chosen[check] for check in RESTARTED})
    anew = lab.playbook("site", "--tags", "kernel", "-e", "kernel_restart=true",
                        "--limit", ":".join(("localhost", *anew_hosts)))  # fmt: skip
    if anew.code != 0:
        sys.stdout.write(anew.out[-2000:])
    found = _verdicts(lab.audit())
    for check, outcome in outcomes.items():
        outcome.remedied = found.get((outcome.host, check), {}).get("verdict", "none")
    return outcomes
