"""The agent put together: every part is started, given the policy, called again, and ended.

The real agent, below a folder, in simulated time (`assemblyworld`). What a part does is tested with
the part; here it is whether the assembly has it do so. `test_agent_wiring_mutants` takes the
assembly's statements out one by one and runs these tests again.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_pem_x509_certificate
from test_activity import event
from test_devices_attempts import plug

import sekisho.host.agent
from agentworld import STRANGER, policy, rules
from assemblyworld import (
    AUTHORITY,
    EPOCH,
    NEW_CRT,
    OTHER,
    SSHD,
    STRANGE,
    Table,
    World,
    expect,
    free_port,
)
from sekisho.activity.watched import KINDS
from sekisho.devices.uevent import Uevent
from sekisho.host.kernel.udev import place
from sekisho.network.netlink import Change, Fact
from siteworld import SITE
from siteworld import policy as host_document

#: The site with IPsec on its entry line.
ENCRYPTED = {SITE: ("network: 10.77.1.0/29", "encryption: ipsec\n      network: 10.77.1.0/29")}

pytestmark = pytest.mark.process  # the metrics are served, on this machine's loopback

PARTS = {
    "activity", "devices", "exceptions", "files", "intake", "journal", "lines", "listeners", "loop",
    "metrics", "modules", "network", "nft", "policy",
}  # fmt: skip
TAKERS = ["activity", "devices", "exceptions", "lines", "listeners", "network"]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_before_ready_every_part_has_looked(world: World) -> None:
    world.write_policy(modules={"allow": [], "disabled": "1", "lock": "enforce"})
    (world.root / "sekisho-exception").mkdir()
    (world.root / "sekisho-exception/open.json").write_text("{}")
    world.listen("tcp", SSHD, ("00000000", 8080))
    world.facts.add(STRANGE)
    world.paths.audit_log.write_text(event(1, "hello"))
    plug(world.paths.sys, "1-2", "08:06:50")
    seen: list[tuple[set[str], list[str], dict[str, Any], list[Any]]] = []

    def ready(fields: dict[str, str]) -> None:
        if "READY" in fields:
            found = {one["data"].get("id") for one in world.events()}
            seen.append((found, world.kinds(), world.state(), world.notifier.said[:-1]))
            expect(fields["READY"] == "1", "systemd is told so")

    world.on_notice.append(ready)
    world.run(1.0)
    ((found, kinds, state, said),) = seen
    assert found >= {
        "6-iii-c.exception-unproven", "6-iv-b.listener-opened", "6-iii-c.modules-open",
        "6-iv-a.network-drift", "6-iv-a.rules-drift",
    }  # fmt: skip
    assert {"agent.started", "files.agreed", "policy.in-force", "activity.command"} <= set(kinds)
    assert "modules.wall" in kinds
    assert world.metric("audit_backlog") == 3
    assert {part for part, works in state["parts"].items() if works} == PARTS
    assert {"STATUS": state_line(state)} in said
    # What is attached is told right after, when it can be judged by the policy.
    assert world.metric("device_attempts_total", "refused", "storage") == 1
    assert world.metric("agent_start_timestamp_seconds") == EPOCH
    assert down(world) == []


def down(world: World) -> list[str]:
    return sorted(part for part in PARTS if not world.up(part))


def state_line(state: dict[str, Any]) -> str:
    return f"policy {state['policy_serial']}, journal at {state['journal']['last']}"


def test_every_part_looks_again_and_again(world: World) -> None:
    world.write_policy(lines=host_document("gate-in", ENCRYPTED)["lines"])
    world.paths.audit_log.write_text(event(1, "hello"))
    line = world.root / "etc/swanctl/x509"
    held: dict[str, Any] = {}

    def certificate() -> None:
        line.mkdir(parents=True, exist_ok=True)
        (line / "line.crt.pem").write_bytes(NEW_CRT)

    for round_, t in enumerate((100.5, 400.5)):
        n = round_ + 1
        for what, within, disturb, seen in (
            ("nft", 30, lambda: setattr(world, "table", None), lambda n=n: world.loads > n),
            (
                "network",
                30,
                lambda n=n: world.facts.add(Fact("link", f"new{n}", f"new{n}")),
                lambda n=n: bool(world.detected("6-iv-a.network-drift", f"new{n}")),
            ),
            (
                "devices",
                30,
                lambda n=n: plug(world.paths.sys, f"1-{n}", "08:06:50"),
                lambda n=n: world.metric("devices_present", "refused", "storage") == n,
            ),
            (
                "files",
                15,
                lambda n=n: (world.root / f"etc/sudoers.d/{n}").write_text("x"),
                lambda n=n: bool(world.detected("6-iv-a.guarded-file-changed", f"sudoers.d/{n}")),
            ),
            (
                "exceptions",
                10,
                lambda n=n: (world.paths.state / f"orders/{n}.json").write_text("{}"),
                lambda n=n: bool(world.detected("6-iii-c.exception-unproven", f"exception {n}")),
            ),
            (
                "listeners",
                5,
                lambda n=n: world.listen("tcp", SSHD, ("00000000", 8080 + n)),
                lambda n=n: bool(world.detected("6-iv-b.listener-opened", f":{8080 + n}")),
            ),
            (
                "modules",
                30,
                lambda n=n: (world.paths.proc / "sys/kernel/modules_disabled").write_text(
                    str(n % 2)
                ),
                lambda n=n: world.kinds().count("modules.wall") == n + 1,
            ),
            (
                "activity",
                5,
                lambda n=n: append(world.paths.audit_log, event(n + 1, f"again-{n}")),
                lambda n=n: any(f"again-{n}" in json.dumps(one["data"]) for one in world.events()),
            ),
            (
                "activity, the kernel",
                10,
                lambda n=n: setattr(world.audit, "lost", n),
                lambda n=n: world.metric("audit_lost_total") == n,
            ),
            (
                "intake",
                36,
                lambda n=n: held.__setitem__(f"client {n}", world.client()),
                lambda n=n: gone(held.get(f"client {n}")),
            ),
            (
                "loop",
                5,
                lambda n=n: held.__setitem__(f"beat {n}", EPOCH + world.t),
                lambda n=n: (
                    world.metric("agent_heartbeat_timestamp_seconds") > held.get(f"beat {n}", 1e12)
                ),
            ),
            (
                "watchdog",
                15,
                lambda n=n: held.__setitem__(f"dog {n}", world.notifier.count("WATCHDOG")),
                lambda n=n: world.notifier.count("WATCHDOG") > held.get(f"dog {n}", 1e9),
            ),
            (
                "metrics",
                5,
                lambda: refused_scrape(world),
                lambda n=n: world.metric("agent_errors_total", "metrics") >= n,
            ),
        ):
            again(world, what, t, within, disturb, seen)
    again(
        world, "lines", 100.5, 60, certificate,
        lambda: world.metric("line_certificate_until_timestamp_seconds") > 1,
    )  # fmt: skip
    (world.paths.state / "orders").mkdir()
    # Somebody puts a route back all the time: with each look there are new tries.
    world.facts.add(Fact("route", "10.8.0.0/16 via 10.77.3.1 dev eth1", "eth1", b"as dumped"))
    world.run(500.0)
    assert world.changes >= 500 / 30


def again(  # noqa: PLR0917 - a row of a table
    world: World,
    what: str,
    t: float,
    within: float,
    disturb: Callable[[], Any],
    seen: Callable[[], bool],
) -> None:
    world.at(t, lambda: expect(not seen(), f"{what}: before anything is changed"))
    world.at(t, disturb)
    world.at(t + within + 0.01, lambda: expect(seen(), f"{what}: not seen within {within} s"))


def append(path: Path, text: str) -> None:
    with path.open("a") as stream:
        stream.write(text)


def gone(link: Any) -> bool:
    if link is None:
        return False
    try:
        return link.recv(10) == b""
    except BlockingIOError:
        return False


def refused_scrape(world: World) -> None:
    with pytest.raises((OSError, Exception)):
        world.scrape(AUTHORITY.certificate("inbound-1", OTHER, "10.77.0.12"))


def test_a_flood_of_audit_records_is_read_in_turns_one_after_the_other(world: World) -> None:
    flood = "".join(event(number, f"flood-{number}") for number in range(1, 501))
    world.at(100.5, lambda: append(world.paths.audit_log, flood))
    world.at(101.5, lambda: expect("flood-499" in json.dumps(world.events()), "all is read"))
    world.run(102.0)


def test_what_the_kernel_announces_is_looked_at_at_once(world: World) -> None:
    world.at(50.5, lambda: setattr(world, "table", None))
    world.at(50.5, lambda: world.ring("nft"))
    world.at(50.6, lambda: world.ring("nft"))
    world.at(50.9, lambda: expect(world.loads == 2, "the filter is repaired once"))
    world.at(51.5, lambda: setattr(world, "table", None))
    world.at(51.5, lambda: world.ring("nft"))
    world.at(51.9, lambda: expect(world.loads == 3, "the filter is repaired again"))
    world.at(52.0, lambda: world.broken.add("table"))
    world.at(52.0, lambda: world.ring("nft"))
    world.at(52.3, lambda: expect(not world.up("nft"), "what fails is shown at once"))
    world.at(52.4, world.broken.clear)

    def plugged(number: int) -> None:
        at = place(plug(world.paths.sys, f"1-{number}", "08:06:50"), world.paths.sys)
        world.bells["udev"].ring_with(Uevent("add", at, "usb", "usb_device", {}))

    for number in (1, 2):
        world.at(52.5 + number, lambda n=number: plugged(n))
        world.at(
            52.6 + number,
            lambda n=number: expect(
                world.metric("device_attempts_total", "refused", "storage") == n, "a stick"
            ),
        )
    # Two seconds later udev has acted, and it is looked at what became of it.
    world.at(54.9, lambda: plug(world.paths.sys, "1-7", "08:06:50"))
    world.at(
        55.6,
        lambda: expect(world.metric("devices_present", "refused", "storage") == 3, "it settled"),
    )

    def announce(kind: str, *facts: Fact) -> None:
        world.readings = 0
        world.bells[kind].ring_with(*(Change(fact, there=True) for fact in facts))

    for number in (1, 2):
        world.at(57.5 + number, lambda: announce("route", STRANGE))
        world.at(57.6 + number, lambda: announce("route"))  # before it is read: no second reading
        world.at(57.9 + number, lambda: expect(world.readings == 1, "the network is read"))
    world.at(
        61.0,
        lambda: expect(
            world.detected("6-iv-a.network-drift", "in passing: link eth7 appeared") == 2,
            "what came and went is told",
        ),
    )
    world.at(61.1, lambda: expect("xfrm" not in world.bells, "no IPsec here yet"))
    world.at(61.2, lambda: setattr(world, "xfrm", True))
    world.at(95.0, lambda: announce("xfrm", Fact("xfrm", "policy out", "")))
    world.at(95.4, lambda: expect(world.readings >= 1, "IPsec began after us, and is heard"))
    world.run(200.0)
    assert world.notifier.count("READY") == 1
    assert world.metric("agent_errors_total", "network") == 0


def test_other_services_events_are_kept_and_root_may_agree(world: World) -> None:
    links: list[Any] = []
    world.at(10.0, lambda: links.append(world.client("transfer.received", delivery="a-1")))
    world.at(11.0, lambda: expect("transfer.received" in world.kinds(), "an event is kept"))
    world.at(20.5, lambda: (world.root / "etc/sudoers.d/new").write_text("x"))
    world.at(20.5, lambda: world.write_policy(serial=6))
    world.at(20.6, lambda: links.append(world.client("agent.agree", why="a play")))
    world.at(20.7, lambda: links.append(world.client("agent.agree", why="a play")))

    def agreed() -> None:
        found = [one["data"] for one in world.events() if one["kind"] == "agent.agreed"]
        assert [one["changed"] for one in found] == [1, 0]
        # The playbooks agree when they have written the policy: it is not waited for.
        assert world.metric("policy_serial") == 6
        assert world.metric("file_drift", "sudo") == 0

    world.at(20.8, agreed)
    world.run(50.0)
    for link in links:
        link.close()


def test_what_another_part_is_needed_for_is_refused_while_that_has_not_started(
    world: World,
) -> None:
    (world.paths.state / "files.json").write_text("garbled")
    links: list[Any] = []
    world.at(10.5, lambda: links.append(world.client("agent.agree", why="a play")))
    world.at(11.0, lambda: expect(b"files has not started" in links[0].recv(4096), "refused"))
    world.run(12.0)
    links[0].close()


def test_without_a_watchdog_no_sign_of_life_is_sent(world: World) -> None:
    world.notifier.interval_s = None
    world.at(60.0, lambda: expect(down(world) == [], f"down: {down(world)}"))
    world.run(61.0)
    assert world.notifier.count("WATCHDOG") == 0
    assert "agent.error" not in world.kinds()


@pytest.mark.parametrize("how", ["look", "hangup"])
def test_a_changed_policy_goes_to_every_part(world: World, how: str) -> None:
    taken: list[str] = []
    former = world.port

    def change() -> None:
        world.port = free_port()
        world.write_policy(
            serial=6,
            listeners=[],
            accounts={"sato": policy()["accounts"]["aoki"] | {"uid": 2001}},
            nftables=rules(2222),
            devices_mode="dry-run",
        )
        world.host.write_rules(rules(2222))
        if how == "hangup":
            os.kill(os.getpid(), signal.SIGHUP)

    def seen() -> None:
        assert world.metric("policy_serial") == 6
        assert sorted(part for part, serial in world.given if serial == 6) == TAKERS
        assert "2222" in json.dumps(world.table), "the rules are loaded at once"
        assert world.metric("devices_dry_run") == 1
        assert down(world) == []

    def listened() -> None:
        assert world.detected("6-iv-b.listener-opened", ":22") == 1
        assert "sekisho_policy_serial 6.0" in world.scrape()
        with pytest.raises(OSError, match="refused"):
            world.scrape(port=former)
        assert world.state()["policy_serial"] == 6
        taken.append(world.state()["rules_digest"])

    world.at(5.0, lambda: taken.append(world.state()["rules_digest"]))
    world.at(100.5, change)
    world.at(101.0 if how == "hangup" else 120.1, seen)
    world.at(126.0, listened)
    world.run(130.0)
    assert sorted(part for part, serial in world.given if serial == 5) == TAKERS
    assert len(set(taken)) == 2


@pytest.mark.parametrize("bad", [*TAKERS, "metrics"])
def test_a_part_that_refuses_a_policy_is_told_and_the_others_take_it(
    world: World, bad: str
) -> None:
    def change() -> None:
        world.refusing.add(bad)
        if bad == "metrics":
            (world.paths.etc / "host.crt.pem").write_text("no certificate\n")
        world.write_policy(serial=6, nftables=rules(2222))
        world.host.write_rules(rules(2222))
        os.kill(os.getpid(), signal.SIGHUP)

    def seen() -> None:
        assert world.metric("agent_errors_total", bad) >= 1
        told = [one["data"] for one in world.events() if one["kind"] == "agent.error"]
        assert bad in {one["part"] for one in told}
        assert sorted(part for part, serial in world.given if serial == 6) == TAKERS
        assert "2222" in json.dumps(world.table)
        others = [part for part in sorted(PARTS) if part != bad]
        assert [part for part in others if not world.up(part)] == []
        if bad != "metrics":
            assert "sekisho_policy_serial 6.0" in world.scrape()

    world.at(100.5, change)
    world.at(100.6, seen)
    world.run(101.0)


def test_without_a_policy_the_parts_wait_and_say_so(world: World) -> None:
    world.host.write_policy(key=STRANGER)
    world.at(5.1, lambda: expect(not world.up("policy"), "there is none"))
    world.at(5.1, lambda: expect(not world.up("listeners"), "nothing to compare with"))
    world.at(5.1, lambda: expect(not world.up("metrics"), "nobody to serve"))
    world.at(5.2, lambda: expect(world.state()["policy_serial"] == 0, "it says so"))
    world.at(5.3, lambda: expect("NO POLICY" in world.notifier.said[-1]["STATUS"], "and so"))
    world.at(5.4, lambda: expect(world.state()["policy_refused"], "one was refused"))
    world.at(50.5, lambda: world.write_policy(serial=7))
    world.at(96.0, lambda: expect(down(world) == [], f"down: {down(world)}"))
    world.run(100.0)
    assert sorted(part for part, _ in world.given) == TAKERS
    assert not world.state()["policy_refused"]
    assert "agent.error" not in world.kinds(), "to have no policy is no defect of a part"


def test_after_a_restart_beside_a_refused_policy_the_last_good_one_is_in_force(
    world: World,
) -> None:
    world.run(2.0)
    assert world.kinds().count("policy.in-force") == 1
    world.host.write_policy(key=STRANGER, serial=6)
    world.now = 1000.0
    world.given.clear()
    world.run(2.0)
    assert world.state()["policy_serial"] == 5
    assert world.state()["policy_refused"]
    assert sorted(part for part, serial in world.given if serial == 5) == TAKERS


def test_it_ends_in_peace_where_there_never_was_a_policy_nor_a_folder_below_run(
    world: World,
) -> None:
    world.host.write_policy(key=STRANGER)
    world.paths.run.rmdir()
    world.run(5.0)
    kinds = world.kinds()
    assert "agent.error" not in kinds
    assert kinds[-2:] == ["agent.stopping", "seal"]
    assert world.paths.run.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("end", ["nft", "udev", "route", "intake", "files"])
def test_a_part_that_cannot_start_is_told_and_tried_again(world: World, end: str) -> None:
    part = {"udev": "devices", "route": "network"}.get(end, end)
    world.broken.add(end)
    if end == "intake":
        (world.paths.run / "journal.sock").mkdir()
    if end == "files":
        (world.paths.state / "files.json").write_text("garbled")

    def mend() -> None:
        assert not world.up(part)
        assert world.metric("agent_errors_total", part) >= 1
        others = PARTS - {part}
        assert {other for other in others if not world.up(other)} == set()
        world.broken.clear()
        if end == "intake":
            (world.paths.run / "journal.sock").rmdir()
        if end == "files":
            (world.paths.state / "files.json").write_text("{}")

    world.at(35.0, mend)  # one retry has failed as well by then
    world.at(95.0, lambda: expect(world.up(part), "it works now"))
    # … and is called again, and by what it hears.
    world.at(130.5, lambda: disturb(world, part))
    world.at(161.0, lambda: expect(disturbed(world, part), "it is called again"))
    world.run(170.0)
    if part in TAKERS:
        assert (part, 5) in world.given


def disturb(world: World, part: str) -> None:
    world.table = None
    world.facts.add(STRANGE)
    plug(world.paths.sys, "1-2", "08:06:50")
    (world.root / "etc/sudoers.d/new").write_text("x")
    if part == "intake":
        world.client("transfer.received", delivery="a-1").close()


def disturbed(world: World, part: str) -> bool:
    return {
        "nft": world.table is not None,
        "network": world.detected("6-iv-a.network-drift", "eth7") == 1,
        "devices": world.metric("devices_present", "refused", "storage") == 1,
        "files": world.detected("6-iv-a.guarded-file-changed", "sudoers.d/new") == 1,
        "intake": "transfer.received" in world.kinds(),
    }[part]


def test_a_look_that_fails_is_counted_shown_told_and_repeated(world: World) -> None:
    switch = world.paths.proc / "sys/kernel/modules_disabled"
    world.at(40.5, lambda: switch.write_text("garbled"))
    world.at(40.5, lambda: world.listen("tcp", ("garbled", 1)))
    world.at(61.0, lambda: expect(not world.up("modules"), "modules is down"))
    world.at(61.0, lambda: expect(not world.up("listeners"), "listeners is down"))
    world.at(61.0, lambda: expect(world.state()["parts"]["modules"] is False, "it says so"))
    world.at(62.0, lambda: switch.write_text("0"))
    world.at(62.0, lambda: world.listen("tcp", SSHD))
    world.at(91.0, lambda: expect(down(world) == [], f"down: {down(world)}"))
    world.run(100.0)
    assert world.metric("agent_errors_total", "modules") == 1
    assert world.metric("agent_errors_total", "listeners") == 4
    told = [one["data"]["part"] for one in world.events() if one["kind"] == "agent.error"]
    assert sorted(told) == ["listeners", "modules"]


def looks(world: World) -> list[tuple[str, float]]:
    return [
        (part.NAME, seconds)
        for part in world.agent._common.parts.values()
        for seconds, _ in part.looks()
    ]


@pytest.mark.parametrize("which", ["first", "second"])
def test_a_part_whose_look_is_not_called_any_more_is_shown_as_down(
    world: World, which: str
) -> None:
    """Three of its periods later; a period shorter than the health's counts as the health's."""

    def silence() -> None:
        found = dict(looks(world) if which == "second" else reversed(looks(world)))
        assert set(found) == PARTS
        if which == "second":  # only those that have two
            found = dict(sorted(set(looks(world)) & set(found.items()) - set(first(world).items())))
            assert set(found) == {"activity", "loop"}
        for part, seconds in found.items():
            if (part, which) != ("loop", "first"):
                world.silence(part, seconds)
                looked = world.t - world.t % seconds
                late = looked + 3 * max(seconds, 5.0)
                world.at(late - 0.1, lambda p=part: expect(world.up(p), f"{p}: too early"))
                world.at(late + 5.1, lambda p=part: expect(down_at(world, p), f"{p}: still up"))

    world.at(303.0, silence)
    world.run(600.0)


def first(world: World) -> dict[str, float]:
    return dict(reversed(looks(world)))


def down_at(world: World, part: str) -> bool:
    return not world.up(part) and world.state()["parts"][part] is False


def test_without_its_own_looks_the_monitor_still_learns_that_the_loop_is_dead(
    world: World,
) -> None:
    world.at(302.0, lambda: world.silence("loop", 5.0))
    up = 'sekisho_agent_part_up{part="loop"} '
    world.at(314.9, lambda: expect(f"{up}1.0" in world.scrape(), "too early"))
    world.at(315.1, lambda: expect(f"{up}0.0" in world.scrape(), "it looks alive"))
    world.run(320.0)


def test_everything_that_can_be_detected_has_its_series_from_the_start(world: World) -> None:
    world.table = Table(world).expected(rules())  # nothing is detected at the start
    folder = Path(sekisho.host.agent.__file__).parent
    known = {f"6-iv-b.{slug}" for slug in KINDS}
    for path in folder.rglob("*.py"):
        known |= set(re.findall(r'"(6-[a-z-]+\.[a-z-]+)"', path.read_text()))

    def seen() -> None:
        found = re.findall(r'sekisho_detections_total\{check="([^"]+)",', world.scrape())
        assert set(found) == known
        parts = re.findall(r'sekisho_agent_errors_total\{part="([^"]+)"', world.scrape())
        assert set(parts) == PARTS
        assert f'sekisho_agent_info{{version="{sekisho.__version__}"}}' in world.scrape()

    world.at(1.0, seen)
    world.run(2.0)


def test_metrics_that_could_not_be_served_are_shown_told_and_tried_again(world: World) -> None:
    certificate = world.paths.etc / "host.crt.pem"
    certificate.write_text("ruined")
    world.at(10.1, lambda: expect(not world.up("metrics"), "they are not served"))
    world.at(10.2, lambda: certificate.write_bytes(NEW_CRT))
    world.at(15.1, lambda: expect("part_up" in world.scrape(), "they are served"))

    def ruin() -> None:
        certificate.write_text("ruined")
        os.kill(os.getpid(), signal.SIGHUP)

    world.at(20.5, ruin)
    world.at(25.6, lambda: expect(down(world) == ["metrics"], "they are served no more"))
    world.at(26.0, lambda: certificate.write_bytes(NEW_CRT))
    world.at(30.1, lambda: expect("part_up" in world.scrape(), "they are served once more"))
    world.run(31.0)


def test_hangup_reads_the_certificates_again_and_says_so(world: World) -> None:
    said: list[list[dict[str, str]]] = []

    def certificate() -> bytes:
        assert 'sekisho_agent_part_up{part="metrics"} 1.0' in world.scrape()
        return world.certificate or b""

    served: list[bytes] = []
    world.at(10.0, lambda: served.append(certificate()))

    def change() -> None:
        (world.paths.etc / "host.crt.pem").write_bytes(NEW_CRT)
        world.notifier.said.clear()
        os.kill(os.getpid(), signal.SIGHUP)

    world.at(20.5, change)
    world.at(20.6, lambda: said.append(list(world.notifier.said)))
    world.at(20.7, lambda: served.append(certificate()))
    world.run(30.0)
    assert served[1] == load_pem_x509_certificate(NEW_CRT).public_bytes(Encoding.DER) != served[0]
    first, *_, last = said[0]
    assert (first["RELOADING"], first["STATUS"]) == ("1", "reloading")
    assert first["MONOTONIC_USEC"] == "1020500000"
    assert last["READY"] == "1"
    assert "policy 5" in [one for one in said[0] if "STATUS" in one][-1]["STATUS"]


def test_only_the_policys_monitor_is_served_and_who_else_came_is_counted(world: World) -> None:
    world.at(10.0, lambda: refused_scrape(world))
    world.at(15.1, lambda: expect(world.metric("agent_errors_total", "metrics") == 1, "counted"))
    world.run(20.0)
    told = [one["data"] for one in world.events() if one["kind"] == "agent.error"]
    assert [one["part"] for one in told] == ["metrics"]
    assert "monitor" in told[0]["error"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_sealed_and_lets_everything_go(world: World, number: int) -> None:
    ended: list[tuple[list[str], bytes]] = []
    cursor = world.paths.state / "cursor.json"

    def ending(told: dict[str, str]) -> None:
        if "STOPPING" in told:
            ended.append((world.kinds(), cursor.read_bytes() if cursor.exists() else b""))

    world.on_notice.append(ending)
    # Written in the last moment, and open: the event's end is not there yet.
    tail = "".join(event(9, "last").splitlines(keepends=True)[:-1])
    world.at(50.2, lambda: append(world.paths.audit_log, tail))
    world.run(50.3, number)
    assert "agent.stopping" not in ended[0][0]
    assert world.notifier.said[-1]["STATUS"] == "sealing the journal"
    kinds = world.kinds()
    assert kinds[-3:] == ["activity.command", "agent.stopping", "seal"]
    assert world.events()[-2]["data"] == {"pid": os.getpid()}
    assert cursor.read_bytes() != ended[0][1], "what was read last is not read again"
    assert not (world.paths.run / "journal.sock").exists()
    with pytest.raises(OSError, match="refused"):
        world.scrape()
    assert world.selector_closed
    held = {os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()}
    assert str(world.paths.audit_log) not in held


def test_it_shows_how_it_is_itself(world: World) -> None:
    def seen() -> None:
        events, state = world.events(), world.state()
        assert world.metric("journal_records_total") == events[-1]["n"]
        assert world.metric("journal_last_number") == events[-1]["n"]
        assert world.metric("journal_unsealed_records") == events[-1]["n"]
        assert world.metric("agent_resident_bytes") == 2500 * os.sysconf("SC_PAGE_SIZE")
        assert 0 < world.metric("agent_cpu_seconds_total") < 1e6
        assert world.metric("agent_lag_seconds") == 7.5
        assert world.metric("agent_heartbeat_timestamp_seconds") == EPOCH + 57
        assert state | {"rules_digest": "", "version": ""} == {
            "schema": 1,
            "version": "",
            "host": "core-1",
            "pid": os.getpid(),
            "at": int(EPOCH + 57.5),
            "policy_serial": 5,
            "rules_digest": "",
            "policy_refused": False,
            "parts": dict.fromkeys(PARTS, True),
            "journal": {"last": events[-1]["n"], "sealed": 0, "lost": 0},
            "resident_bytes": 2500 * os.sysconf("SC_PAGE_SIZE"),
        }
        assert (world.paths.run / "agent.json").stat().st_mode & 0o777 == 0o644
        assert world.notifier.said[-1] == {"STATUS": state_line(state)}

    def damage() -> None:
        stats = world.journal._stats
        stats.lost, stats.write_errors, stats.sync_errors = 2, 3, 4
        stats.repaired, stats.broken = 5, 6

    def damaged() -> None:
        names = ("lost", "write_errors", "repaired", "broken")
        assert [world.metric(f"journal_{name}_total") for name in names] == [2, 7, 5, 6]
        assert world.state()["journal"]["lost"] == 2
        world.journal._stats.synced_n -= 10_001

    world.at(60.0, damage)
    world.at(62.6, damaged)
    world.at(67.6, lambda: expect(not world.up("journal"), "the disk confirms nothing"))

    def pause() -> None:
        world.now += 7.5  # the machine stood still

    def seal() -> None:
        world.journal.seal()

    before = os.umask(0o077)  # everybody may read it all the same
    world.at(50.0, pause)
    world.at(57.6, seen)
    world.at(70.0, seal)
    world.at(
        75.1,
        lambda: expect(
            world.metric("journal_last_seal_timestamp_seconds") == EPOCH + 72
            and world.metric("journal_unsealed_records") == 0,
            "a seal is shown",
        ),
    )
    try:
        world.run(80.0)
    finally:
        os.umask(before)
