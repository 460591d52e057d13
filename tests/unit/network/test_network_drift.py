"""Drift of the network: what is declared, what is off, what is put right and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentworld import Host
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts.network import CHECK, PLAY_S, START_S, TRIES, NetworkPart
from sekisho.host.kernel.netlink import spoken
from sekisho.network.drift import addition, declared, forwarding, off, removal
from sekisho.network.netlink import DELROUTE, NEWADDR, NEWROUTE, SETLINK, Change, Fact, route_change
from sekisho.network.netlink import Message as Netlink
from siteworld import SITE as SITE_FILE
from siteworld import host_policy, lab_site

HOSTS = sorted(lab_site().machines)
IN: dict[str, tuple[str, str] | str] = {
    SITE_FILE: ("network: 10.77.1.0/29", "encryption: ipsec\n      network: 10.77.1.0/29")
}
STRANGE = Fact("route", "10.8.0.0/16 via 10.77.3.1 dev eth1", "eth1", b"as dumped")


def sound(value: Any) -> set[Fact]:
    """Return the network of a host that is as its policy says, as a kernel tells it."""
    found = set(declared(value).must)
    found |= {Fact("address", "lo 127.0.0.1/8", "lo"), Fact("link", "lo up", "lo")}
    found |= {Fact("rule", "ipv4 0: lookup 255"), Fact("rule", "ipv4 32766: lookup 254")}
    for name, one in value.interfaces.items():
        address, _, length = one.address.partition("/")
        found.add(Fact("route", f"local {address}/32 dev {name} table 255 proto kernel", name))
        if length == "24":
            network = address.rpartition(".")[0] + ".0"
            found.add(Fact("route", f"{network}/24 dev {name} proto kernel", name))
    if value.role == "gateway":
        found |= {Fact("forwarding", "ipv4 default"), Fact("forwarding", "ipv4 lo")}
    return found


@pytest.mark.parametrize("host", HOSTS)
def test_a_network_as_declared_is_in_order_and_each_change_of_it_is_not(host: str) -> None:
    value = host_policy(host)
    wanted, facts = declared(value), sound(value)
    assert off(wanted, facts) == ([], [])
    for one in wanted.must:
        assert off(wanted, facts - {one}) == ([], [one])
    for strange in (
        Fact("route", "0.0.0.0/0 via 10.77.0.1 dev eth0", "eth0"),
        Fact("route", "10.8.0.0/16 dev eth1 proto kernel", "eth1"),  # says it is the kernel's
        Fact("route", "local 10.0.0.0/8 dev lo table 255", "lo"),
        Fact("address", "eth0 10.77.0.99/24", "eth0"),
        Fact("address", "eth0 2001:db8::1/64", "eth0"),
        Fact("rule", "ipv4 5: from 10.1.1.1/32 lookup 7"),
        Fact("forwarding", "ipv6 all", "all"),
        Fact("link", "br0 of kind bridge", "br0"),
        Fact("link", "eth0 listens in", "eth0"),
        Fact("xfrm", "out 0.0.0.0/0 0.0.0.0/0 0 0 0 esp tunnel 9"),
    ):
        assert off(wanted, facts | {strange}) == ([strange], [])


def test_forwarding_is_a_gateways_and_nobody_elses() -> None:
    one = Fact("forwarding", "ipv4 eth1", "eth1")
    assert off(declared(host_policy("core-1")), sound(host_policy("core-1")) | {one})[0] == [one]
    assert off(declared(host_policy("gate-in")), sound(host_policy("gate-in")) - {one})[1] == [one]
    assert forwarding(one, {"eth1": 3}, on=True) != forwarding(one, {"eth1": 3}, on=False)
    kind, _ = forwarding(one, {"eth1": 3}, on=True) or (0, b"")
    assert kind == SETLINK
    for other in ("ipv4 all", "ipv4 default", "ipv6 eth1"):
        assert forwarding(Fact("forwarding", other), {"eth1": 3}, on=False) is None


def test_an_encrypted_line_declares_its_policies_and_associations_and_no_others() -> None:
    value = host_policy("gate-in", IN)
    wanted = declared(value)
    assert value.line_policies
    reqid = value.lines[0].children[0].reqid
    ends = f"{value.lines[0].local_address} {value.lines[0].peer_address}"
    good = {Fact("xfrm", text) for text in value.line_policies}
    for one in good:  # whoever flushes them stops the line
        assert off(wanted, sound(value) - {one}) == ([], [one])
    good.add(Fact("xfrm", f"association {ends} esp tunnel {reqid}"))
    assert off(wanted, sound(value) | good) == ([], [])
    for text in (f"association {ends} esp tunnel {reqid + 1}",
                 f"association 10.9.9.9 10.9.9.8 esp tunnel {reqid}",
                 value.line_policies[0] + " block"):  # fmt: skip
        assert off(wanted, sound(value) | {Fact("xfrm", text)})[0] == [Fact("xfrm", text)]


def test_nothing_goes_from_the_administrators_interface_and_only_what_is_safe_elsewhere() -> None:
    wanted = declared(host_policy("core-1"))
    assert wanted.management == "eth0"
    for fact in (Fact("route", "10.8.0.0/16 via 10.77.0.1 dev eth0", "eth0", b"x"),
                 Fact("address", "eth0 10.77.0.99/24", "eth0", b"x"),
                 Fact("link", "br0 of kind bridge", "br0", b"x"),
                 Fact("xfrm", "out …", "", b"x")):  # fmt: skip
        assert removal(wanted, fact) is None
    assert removal(wanted, STRANGE) == (DELROUTE, b"as dumped")


def test_what_is_missing_is_put_up_as_the_site_says_it() -> None:
    address = Fact("address", "eth1 10.77.3.2/24", "eth1")
    route = Fact("route", "10.9.0.0/16 via 10.77.3.1 dev eth1", "eth1")
    up = {Fact("link", "eth1 up", "eth1")}
    for fact, kind in ((address, NEWADDR), (route, NEWROUTE)):
        made = addition(fact, {"eth1": 3}, up)
        assert made is not None
        assert made[0] == kind
        (change,) = route_change(Netlink(*made[:1], 0, made[1]), {3: "eth1"})
        assert change == Change(fact, there=True)
        assert addition(fact, {}, up) is None
    assert addition(route, {"eth1": 3}, ()) is None  # over an interface that is down
    assert addition(Fact("link", "eth1 up", "eth1"), {"eth1": 3}, up) is None


# -- the part ------------------------------------------------------------------------------------


class Kernel:
    """A network in memory; ``stubborn``: what comes back whenever it is taken away."""

    def __init__(self, facts: set[Fact]) -> None:
        self.facts, self.names, self.asked = facts, {2: "eth0", 3: "eth1"}, 0
        self.stubborn, self.deaf = False, False

    def read(self) -> set[Fact]:
        return set(self.facts)

    def indexes(self) -> dict[str, int]:
        return {name: index for index, name in self.names.items()}

    def change(self, kind: int, body: bytes) -> None:
        self.asked += 1
        if self.deaf:
            raise SekishoError("the kernel refused")
        if kind == DELROUTE and not self.stubborn:
            self.facts -= {one for one in self.facts if one.body == body and body}
        elif kind in (NEWADDR, NEWROUTE):
            (change,) = route_change(Netlink(kind, 0, body), self.names)
            self.facts.add(change.fact)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def part_of(host: Host, *, settled: bool = True) -> tuple[NetworkPart, Kernel]:
    value = host_policy("core-1")
    kernel = Kernel(sound(value))
    part = NetworkPart(host.book, host.paths, lambda: settled, kernel)
    part.policy(value)
    part.check()
    assert host.journal.events == []
    # It judges, and says that it hears nothing: `watch` opens its sockets.
    assert host.book.parts()["network"] is False
    host.now += START_S
    return part, kernel


def drifts(host: Host) -> list[dict[str, Any]]:
    return [data for kind, data in host.journal.events if kind == "agent.detection"]


def test_a_change_is_told_once_with_what_was_and_what_is_and_put_right(host: Host) -> None:
    part, kernel = part_of(host)
    own = next(one for one in kernel.facts if one.text.startswith("eth1 ") and one.kind[0] == "a")
    kernel.facts = (kernel.facts - {own}) | {STRANGE}
    part.check()
    part.check()
    (said,) = drifts(host)
    assert said["id"] == CHECK
    assert said["off"] == [f"missing: address {own.text}", f"not declared: route {STRANGE.text}"]
    assert (said["was"], said["is"]) == ([f"address {own.text}"], [f"route {STRANGE.text}"])
    (repaired,) = (data for kind, data in host.journal.events if kind == "network.repaired")
    assert (len(repaired["done"]), repaired["left"]) == (2, [])
    assert STRANGE not in kernel.facts
    assert own in kernel.facts
    assert host.metrics.get("sekisho_network_off", "route") == 0
    assert host.metrics.get("sekisho_network_drift_total", "route") == 1
    assert host.metrics.get("sekisho_network_repairs_total") == 2


def test_what_is_only_told_stays_shown_and_is_not_told_again(host: Host) -> None:
    part, kernel = part_of(host)
    kernel.facts |= {Fact("address", "eth0 10.77.0.99/24", "eth0", b"x")}
    for _ in range(3):
        part.check()
    assert len(drifts(host)) == 1
    assert kernel.asked == 0
    assert host.metrics.get("sekisho_network_off", "address") == 1


def test_what_came_and_went_between_two_looks_is_told(host: Host) -> None:
    part, kernel = part_of(host)
    part.announced([Change(STRANGE, there=True), Change(STRANGE, there=False)])
    part.check()
    (said,) = drifts(host)
    assert said["in_passing"] == [f"route {STRANGE.text} appeared"]
    part.check()
    part.announced([Change(one, there=True) for one in kernel.facts])  # as declared
    part.check()
    assert len(drifts(host)) == 1


def test_while_a_change_waits_or_a_policy_is_being_written_nothing_is_touched(host: Host) -> None:
    part, kernel = part_of(host, settled=False)
    kernel.facts.add(STRANGE)
    part.check()
    assert (len(drifts(host)), kernel.asked) == (1, 0)
    (host.paths.state / "guard").mkdir()
    (host.paths.state / "guard/pending.json").write_text("{}")
    kernel.facts.add(Fact("rule", "ipv4 5: lookup 7"))
    part.check()
    assert (len(drifts(host)), kernel.asked) == (1, 0)


def test_a_boot_and_a_new_policy_are_waited_for_but_not_for_ever(host: Host) -> None:
    value = host_policy("core-1")
    kernel = Kernel(set())
    part = NetworkPart(host.book, host.paths, lambda: True, kernel)
    part.policy(value)
    part.check()
    assert drifts(host) == []  # the network comes up after the agent
    kernel.facts = sound(value)
    part.check()
    kernel.facts = {one for one in kernel.facts if one.text != "eth1 up"}
    part.check()
    assert len(drifts(host)) == 1  # it was there already
    kernel.facts = sound(value)
    part.check()
    moved = value.as_json()["interfaces"]
    moved["eth1"]["address"] = "10.99.0.1/24"
    changed = host_policy("core-1", interfaces=moved)
    part.policy(changed)
    part.check()
    assert (len(drifts(host)), kernel.asked) == (1, 0)  # old address stays, new one is awaited
    host.now += PLAY_S
    part.check()
    (_, late) = drifts(host)
    assert any("10.99.0.1/24" in line for line in late["off"])


def test_what_somebody_puts_back_all_the_time_is_not_fought_without_end(host: Host) -> None:
    part, kernel = part_of(host)
    kernel.stubborn = True
    kernel.facts.add(STRANGE)
    for _ in range(TRIES + 5):
        part.check()
    assert kernel.asked == TRIES
    assert len(drifts(host)) == 1


def test_a_kernel_that_refuses_is_told(host: Host) -> None:
    part, kernel = part_of(host)
    kernel.deaf = True
    kernel.facts.add(STRANGE)
    part.check()
    (said,) = (data for kind, data in host.journal.events if kind == "network.repaired")
    assert said["done"] == []
    assert "refused" in said["refused"][0]
    assert host.metrics.get("sekisho_network_off", "route") == 1


def test_ipsec_is_watched_only_where_the_kernel_speaks_it(tmp_path: Path) -> None:
    held = tmp_path / "netlink"
    head = "sk               Eth Pid        Groups   Rmem\n"
    held.write_text(head + "0000000000000000 0   0          00000000 0\n"
                    "0000000000000000 6   4711       00000000 0\n")  # fmt: skip
    assert [spoken(one, held) for one in (0, 6)] == [True, False]
    held.write_text(head + "0000000000000000 6   0          00000000 0\n")
    assert spoken(6, held)
