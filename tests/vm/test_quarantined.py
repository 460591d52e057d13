"""A quarantined machine keeps its monitor and its console, over a restart; drift is put right. 6(iv)(a)."""

from __future__ import annotations

import pytest
from labkit.api import Lab as Driver
from labkit.base import LabError
from tests.vm.trial import INVENTORY, Lab, Trial, until

pytestmark = pytest.mark.vm
HOST, PERSON = "core-1", "aoki"
#: What is changed by hand → how to see whether it is still so.
CHANGES = {
    "ip route add 198.51.100.0/24 dev eth1": "ip route show 198.51.100.0/24",
    "ip addr add 198.51.100.9/24 dev eth1": "ip -o addr show to 198.51.100.9",
    "ip rule add pref 100 lookup main": "ip rule show pref 100",
    "sysctl -qw net.ipv4.conf.eth1.forwarding=1": "grep 1 /proc/sys/net/ipv4/conf/eth1/forwarding",
    "nft add table inet visitor": "nft list tables | grep visitor",
    # A name of ours is no pass: this is what the guard calls its own before a first load.
    "nft add table inet sekisho_untracked": "nft list tables | grep untracked",
}


def _console(site: Lab, command: str, mark: str, *, timeout: float = 60) -> str:
    """Run a command as root at the console, once its login is there; return what the screen said."""
    secret = (INVENTORY / f"keys/{PERSON}.password").read_text(encoding="utf-8").strip()

    def say() -> str:
        try:
            said = site.console_login(HOST, PERSON, secret, f"sudo -n {command}")
        except LabError:  # no login yet
            return ""
        return said if mark in said else ""

    return str(until(say, timeout=timeout, every=2)[0])


def _reached(site: Lab) -> bool:
    return site.user(HOST, "true", timeout=15).code == 0


def _scraped(site: Lab) -> bool:
    """Whether the monitor has had an answer of the host's agent in the last quarter of a minute."""
    return site.metric(f'time() - timestamp(up{{host="{HOST}"}} == 1) < bool 16') > 0


def test_a_quarantined_machine_keeps_its_monitor_and_its_console(lab: Driver, machine: Lab) -> None:
    site, trial = machine, Trial("quarantine")
    trial.step("before: administration, the flow's neighbour, the monitor")
    trial.expect("the controller comes in", _reached(site))
    trial.expect("the monitor reads its metrics", until(lambda: _scraped(site), timeout=60)[0])
    refused = site.root(HOST, "sekisho quarantine on --now --why trial")
    trial.expect("refused while the console is not proven", refused.code == 3, refused.err)
    shown = site.root(HOST, "sekisho quarantine on --why trial --without-console")
    trial.expect("without --now it only says what would be cut",
                 shown.code == 0 and "nothing was changed" in shown.out and _reached(site), shown.out)  # fmt: skip

    trial.step("the switch is thrown at the console")
    said = _console(
        site, "sekisho quarantine on --now --without-console --why trial", "quarantined in"
    )
    trial.expect("it says so", said, said[-300:])
    trial.expect("the controller does not come in any more", not _reached(site))
    trial.expect("the monitor still does", until(lambda: _scraped(site), timeout=60)[0])
    fired = until(
        lambda: site.query(f'ALERTS{{check="6-iv-a.quarantined",host="{HOST}"}}'), timeout=120, every=5
    )[0]  # fmt: skip
    trial.expect("and tells of the quarantine", fired)

    trial.step("the agent stopped, the rules' unit told to reload")
    said = _console(
        site, "sh -c 'systemctl stop sekisho-agent; systemctl reload sekisho-nftables'", "not applicable"
    )  # fmt: skip
    trial.expect("a reload is refused", said, said[-300:])
    trial.expect("the controller does not come in", not _reached(site))

    trial.step("a power cut: it stays quarantined")
    lab.power_cut(HOST)
    lab.power_on(HOST, wait=0)
    said = _console(site, "sekisho quarantine status", "after a restart quarantined", timeout=400)
    trial.expect("both now and after the next restart", "now quarantined" in said, said[-200:])
    trial.expect("the controller does not come in", not _reached(site))
    trial.expect("the monitor does", until(lambda: _scraped(site), timeout=180, every=5)[0])

    trial.step("set free at the console")
    said = _console(site, "sekisho quarantine off --now --why trial", "free again in")
    trial.expect("it says so", said, said[-300:])
    trial.expect("the controller comes in again", until(lambda: _reached(site), timeout=60)[0])
    stamps = site.root(
        HOST,
        "systemctl show --value -p ExecMainExitTimestampMonotonic sekisho-quarantine; "
        "systemctl show --value -p ActiveEnterTimestampMonotonic systemd-networkd",
    ).out.split()
    trial.expect("at that boot the switch was thrown before the network came up",
                 len(stamps) == 2 and 0 < int(stamps[0]) < int(stamps[1]), stamps)  # fmt: skip
    kinds = [record["kind"] for record in site.journal(HOST, "quarantine.")]
    trial.expect("the journal holds both", kinds[-2:] == ["quarantine.on", "quarantine.off"], kinds)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []


def test_drift_of_the_network_is_told_and_put_right(machine: Lab) -> None:
    trial = Trial("drift")
    quiet = [r for r in machine.journal(HOST, "agent.detection") if "drift" in r["data"]["id"]]
    trial.expect("nothing drifted by itself since it was provisioned", not quiet, quiet[:2])
    machine.root(HOST, "systemctl stop sekisho-agent")
    machine.root(HOST, next(iter(CHANGES)))
    machine.root(HOST, "sleep 5")
    left = machine.root(HOST, next(iter(CHANGES.values())))
    trial.expect("without the agent the route stays (the positive control)", left.out.strip())
    machine.root(HOST, "systemctl start sekisho-agent")
    for change, look in CHANGES.items():
        trial.step(change)
        known = len(machine.journal(HOST, "agent.detection"))
        done = machine.root(HOST, f"date +%s%N; {change}")
        trial.expect("done", done.code == 0 or "File exists" in done.err, done.err)
        gone, took = until(lambda look=look: not machine.root(HOST, look).out.strip(), timeout=30)
        trial.expect("it is gone again", gone, f"{took:.1f} s, as seen from outside")
        told = [
            r
            for r in machine.journal(HOST, "agent.detection")[known:]
            if "drift" in r["data"]["id"]
        ]
        began = int(done.out.split()[0])
        at = told[0]["t"] * 10 ** (19 - len(str(told[0]["t"]))) if told else 0
        trial.expect("the journal tells what", told, told and told[0]["data"]["what"])
        trial.expect("within a second", told and at - began < 1.2e9, f"{(at - began) / 1e9:.2f} s")
    trial.expect("the administrator was never cut off", machine.user(HOST, "true").code == 0)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []
