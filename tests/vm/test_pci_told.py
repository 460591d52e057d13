"""A card put in while the machine was off, or while it starts, is told by the agent and the audit. 6(iii)(c)."""

from __future__ import annotations

import time

import pytest
from labkit.api import Lab as Driver
from tests.vm.trial import Lab, Trial, failed_checks, until

pytestmark = pytest.mark.vm
HOST, CHECK = "core-1", "6-iii-c.pci-as-declared"
#: Put in while the power is off; put in seconds after it came on, before the wall takes newcomers.
OFF = ("nvme", "pci-network")
STARTING = ("pci-serial", "scsi-disk", "virtio-disk")


def _functions(site: Lab) -> set[str]:
    return set(site.root(HOST, "ls /sys/bus/pci/devices").out.split())


def _told(site: Lab, since: int) -> dict[str, str]:
    """Return what the journal says of functions on PCI: place → decision and reason."""
    return {
        one["data"]["name"]: f"{one['data']['decision']}: {one['data']['reason']}"
        for one in site.journal(HOST, "device.attempt")
        if one["n"] > since
        and one["data"]["subsystem"] == "pci"
        and one["data"]["decision"] != "admitted"
    }


def _alerts(site: Lab) -> set[str]:
    told = site.query(f'ALERTS{{alertstate="firing",host="{HOST}"}}')
    return {one["metric"]["alertname"] for one in told}


def test_a_card_that_came_before_the_agent_is_told(lab: Driver, machine: Lab) -> None:
    site, trial = machine, Trial("cards on PCI")
    own, known = _functions(site), site.journal(HOST)[-1]["n"]
    trial.expect("the machine's own functions are no attempt, the idle disk controller among them",
                 not _told(site, 0), _told(site, 0))  # fmt: skip
    trial.expect("and no alert of devices fires", not {one for one in _alerts(site) if "6-iii-c" in one},
                 _alerts(site))  # fmt: skip
    trial.step("the power is cut, cards are put in; others while the machine starts")
    lab.power_cut(HOST)
    lab.power_on(HOST, *OFF, wait=0)
    for kind in STARTING:
        time.sleep(3)
        lab.usb_plug(HOST, kind)
    until(lambda: site.user(HOST, "true", timeout=30).code == 0, timeout=300, every=2)
    came = _functions(site) - own
    trial.expect("the cards are there", len(came) >= len(OFF) + len(STARTING), sorted(came))
    told, took = until(lambda: set(_told(site, known)) >= came, timeout=90, every=3)
    trial.expect("the agent tells of each of them", told, _told(site, known))
    trial.expect(
        "and of none of the machine's own", set(_told(site, known)) <= came, f"{took:.0f} s"
    )
    disks = site.root(HOST, "ls /sys/block").out.split()
    trial.expect("no disk but the machine's own", [one for one in disks if one[:2] in {"nv", "sd", "vd"}] == ["vda"], disks)  # fmt: skip
    found = failed_checks(site.audit("--host", HOST, "--check", CHECK), HOST)
    trial.expect("the audit is red", found == {CHECK}, found)
    fired, _ = until(lambda: {"6-iii-c.device-refused"} & _alerts(site), timeout=120, every=5)
    trial.expect("the alert fires", fired, _alerts(site))
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []
