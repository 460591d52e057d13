"""Each violation of the site's invariants is told with its place and its item."""

from __future__ import annotations

from datetime import date

import pytest

from sekisho.site.rules.invariants import check
from siteworld import NOW, SITE, lab_site, problems

_CONSOLE_AND_DEVICES = """serial              # how the owner gets in when the network is shut
  devices:                     # USB devices admitted, and nothing else
    - name: console-keyboard
      vendor: "0627"
      product: "0001"
      serial: SEKISHO-KBD-1
      port: "1"
      interfaces: ["03:01:01"]
  disks:"""
_OTHER_DEVICE = """listed-keyboard
  devices:
    - name: console-keyboard
      vendor: "0627"
      product: "0001"
      serial: SEKISHO-KBD-1
      port: "1"
      interfaces: ["03:01:02"]
  disks:"""
CORE, INBOUND, GATE = "host_vars/core-1.yml", "host_vars/inbound-1.yml", "host_vars/gate-in.yml"

RELEASE = (
    "    release:\n      from: core-1\n      to: outbound-1\n      port: 7601\n"
    "      mode: one-way-tcp\n"
)

#: name → (edits, key that is wrong, item)
VIOLATIONS: dict[str, tuple[dict[str, tuple[str, str] | str], str, str]] = {
    "two machines share a DMI UUID": (
        {CORE: ("4000-8000-000000000013", "4000-8000-000000000012")},
        "identity.dmi_uuid",
        "6-iii-a",
    ),
    "two machines share a serial number": (
        {CORE: ("LAB-0013", "LAB-0012")}, "identity.serial", "6-iii-a",
    ),
    "two machines share a card": (
        {CORE: ("52:54:00:77:03:02", "52:54:00:77:03:01")}, "interfaces.eth1.mac", "6-iii-a",
    ),
    "a disk hangs on a function the machine is not made of": (
        {CORE: ("00:03.0 1af4:1001", "00:13.0 1af4:1001")}, "disks.system.path", "6-iii-c",
    ),
    "a machine has two roles": (
        {"hosts.yml": ("core:\n  hosts:\n", "core:\n  hosts:\n    inbound-1:\n")},
        "core.hosts.inbound-1",
        "6-iii-a",
    ),
    "an address stands twice": (
        {CORE: ("address: 10.77.3.2}", "address: 10.77.3.1}")}, "interfaces.eth1.address", "",
    ),
    "an address is not of its link": (
        {CORE: ("address: 10.77.3.2}", "address: 10.77.9.2}")}, "interfaces.eth1.address", "",
    ),
    "networks overlap": (
        {SITE: ("network: 10.77.4.0/29", "network: 10.77.3.0/28")}, "links.hop-in", "",
    ),
    "a link overlaps management": (
        {SITE: ("network: 10.77.0.0/24", "network: 10.77.0.0/16")}, "links.hop-in", "6-iv-e",
    ),
    "a peer stands in the management network": (
        {SITE: ("address: 10.77.1.2", "address: 10.77.0.200")},
        "peers.hospital-a.address",
        "6-iv-e",
    ),
    "core has a third data neighbour": (
        {
            SITE: ("between: [gate-in, inbound-1]", "between: [gate-in, core-1]"),
            CORE: ("eth3: {link: desk", "eth3: {link: lan-in"),
        },
        "interfaces",
        "6-iv-e",
    ),
    "core touches the outside": (
        {
            SITE: ("between: [hospital-a, gate-in]", "between: [hospital-a, gate-in, core-1]"),
            CORE: ("eth3: {link: desk", "eth3: {link: wan-in"),
        },
        "interfaces.eth3.link",
        "6-iv-e",
    ),
    "the receiving server touches the outside": (
        {
            SITE: ("between: [hospital-a, gate-in]", "between: [hospital-a, gate-in, inbound-1]"),
            INBOUND: ("link: lan-in", "link: wan-in"),
        },
        "interfaces.eth1.link",
        "6-iv-d-2",
    ),
    "a peer stands on a dedicated line": (
        {SITE: ("between: [inbound-1, core-1]", "between: [inbound-1, hospital-a]")},
        "links.hop-in.between",
        "6-iv-d-1",
    ),
    "a flow runs from right to left": (
        {SITE: ("from: core-1\n      to: outbound-1", "from: outbound-1\n      to: core-1")},
        "flows.release",
        "6-iv-d-3",
    ),
    "a flow leaves the receiving server": (
        {SITE: ("from: inbound-1\n      to: core-1", "from: inbound-1\n      to: hospital-a")},
        "flows.store",
        "6-iv-d-2",
    ),
    "a flow skips core": (
        {SITE: ("from: inbound-1\n      to: core-1", "from: inbound-1\n      to: outbound-1")},
        "flows.store",
        "6-iv-d-2",
    ),
    "flows make a ring": (
        {SITE: ("from: core-1\n      to: outbound-1", "from: core-1\n      to: inbound-1")},
        "flows",
        "6-iv-d-2",
    ),
    "a flow passes no gateway": (
        {SITE: ("      via: gate-in\n", "")}, "flows.intake.via", "6-iv-d-1",
    ),
    "a flow passes the wrong gateway": (
        {SITE: ("via: gate-in", "via: gate-out")}, "flows.intake", "6-iv-d-2",
    ),
    "a link carries no flow": (
        {SITE: (RELEASE, "")},
        "links.hop-out",
        "6-iv-a",
    ),
    "an authority is over": (
        {SITE: ("authority_until: 2035-03-31", "authority_until: 2026-11-21")},
        "people.aoki.authority_until",
        "6-ii-d",
    ),
    "training is still to come": (
        {SITE: ("trained: 2026-10-01", "trained: 2027-10-01")}, "people.aoki.trained", "6-ii-c",
    ),
    "two people share a key": (
        {SITE: ("keys: [keys/baba.pub]", "keys: [keys/aoki.pub]")}, "people.baba.keys", "6-ii-d",
    ),
    "two people share a uid": ({SITE: ("uid: 2002", "uid: 2001")}, "people.baba.uid", "6-ii-d"),
    "nobody is the officer": ({SITE: ("role: officer", "role: operator")}, "people", "6-i-b"),
    "a person is named like a system account": (
        {SITE: ("    baba:\n", "    backup:\n")}, "people.backup", "6-ii-d",
    ),
    "no way in is left at the console": (
        {CORE: (_CONSOLE_AND_DEVICES, _OTHER_DEVICE)}, "console", "6-v-b",
    ),
    "nobody tried the way out-of-band": (
        {CORE: ("console: serial", "console: out-of-band")}, "console", "6-v-b",
    ),
    "the way in was tried long ago": (
        {CORE: ("console: serial", "console: {kind: serial, reference: K-12, tested: 2025-11-20}")},
        "console.tested",
        "6-v-b",
    ),
    "the way in will be tried": (
        {CORE: ("console: serial", "console: {kind: serial, reference: K-12, tested: 2026-11-23}")},
        "console.tested",
        "6-v-b",
    ),
    "two people share an approval key": (
        {SITE: ("keys/baba-approval.pub", "keys/aoki-approval.pub")}, "people.baba.keys", "6-ii-d",
    ),
    "a listed device may hold storage": (
        {CORE: ('interfaces: ["03:01:01"]', 'interfaces: ["03:01:01", "08:06:50"]')},
        "devices.console-keyboard.interfaces",
        "6-iii-c",
    ),
    "a machine is on no management": (
        {CORE: ("{link: management,", "{link: hop-in,")}, "interfaces", "6-iv-a",
    ),
    "Ansible would reach another address": (
        {CORE: ("ansible_host: 10.77.0.13", "ansible_host: 10.77.0.14")}, "ansible_host", "6-iv-a",
    ),
    "a controller is elsewhere": (
        {SITE: ("controllers: [10.77.0.1]", "controllers: [10.78.0.1]")},
        "management.controllers",
        "6-iv-a",
    ),
    "a terminal's link reaches another server": (
        {
            SITE: ("between: [terminal-1, core-1]", "between: [terminal-1, core-1, inbound-1]"),
            INBOUND: ("eth2: {link: hop-in", "eth2: {link: desk"),
        },
        "links.desk.between",
        "6-iv-e",
    ),
    "an interface names no link": (
        {CORE: ("link: hop-in", "link: hop-inn")}, "interfaces.eth1.link", "",
    ),
    "a gateway joins both outsides": (
        {
            SITE: ("between: [gate-out, university-b]", "between: [gate-in, university-b]"),
            GATE: ("eth2: {link: lan-in", "eth2: {link: wan-out"),
        },
        "interfaces",
        "6-iv-d-3",
    ),
}  # fmt: skip


def test_the_lab_is_sound() -> None:
    assert check(lab_site(), now=NOW) == []


@pytest.mark.parametrize("name", VIOLATIONS)
def test_a_violation_is_told_with_its_key_and_item(name: str) -> None:
    edits, key, item = VIOLATIONS[name]
    found = problems(edits)
    assert (key, item) in {(problem.key, problem.item) for problem in found}, [
        problem.line() for problem in found
    ]
    for problem in found:
        path, _, line = problem.where.rpartition(":")
        assert path.startswith("lab/"), problem
        assert line.isdecimal(), problem
        assert problem.got
        assert problem.expected


def test_authority_ends_with_its_last_day() -> None:
    assert check(lab_site(), now=date(2035, 3, 31)) == []
    assert len(check(lab_site(), now=date(2035, 4, 1))) == 4


def test_a_site_without_a_monitor_is_told() -> None:
    found = problems({"hosts.yml": ("monitors:\n  hosts:\n    monitor-1:\n", "")})
    assert any("monitor-1" in problem.got for problem in found)  # described, but no host
