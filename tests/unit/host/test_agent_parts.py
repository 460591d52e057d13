"""The agent's parts, each alone, with a journal in memory and a false host."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from test_devices_attempts import plug, stub

from agentworld import STRANGER, Host, parsed, rules
from sekisho.core.errors import SekishoError
from sekisho.devices.uevent import Uevent
from sekisho.host.agent.parts.devices import APPEARED, LET_IN, REFUSED, UNLISTED, DevicesPart
from sekisho.host.agent.parts.files import CHECK as FILE_CHANGED
from sekisho.host.agent.parts.files import FilesPart
from sekisho.host.agent.parts.listeners import OPENED, ListenersPart
from sekisho.host.agent.parts.policy import CHECK as POLICY_REFUSED
from sekisho.host.agent.parts.policy import PolicyPart
from sekisho.host.agent.parts.rules import DRIFT, FILE, KEPT, RulesPart
from sekisho.host.agent.reporter import BURST
from sekisho.host.kernel.nft import own_objects
from sekisho.host.kernel.udev import AnnouncementsLostError, place
from sekisho.host.policy_store import PolicyStore


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def store(host: Host) -> PolicyStore:
    return PolicyStore(host.paths.etc / "policy.json", host.paths.state, host="core-1")


# -- the book ------------------------------------------------------------------------------------


def test_a_flood_of_one_kind_is_cut_counted_and_told_in_the_next_entry(host: Host) -> None:
    for _ in range(int(BURST) + 7):
        host.book.tell("device.attempt", {})
    assert len(host.journal.events) == BURST
    assert host.metrics.get("sekisho_agent_dropped_total", "events") == 7
    host.book.tell("agent.error", {})
    host.now += 1
    host.book.tell("device.attempt", {})
    assert host.journal.events[-1][1] == {"dropped_before": 7}


def test_a_flood_of_one_check_hides_no_other(host: Host) -> None:
    for _ in range(int(BURST) + 7):
        host.book.detect(APPEARED, "warning", "plugged in again")
    host.book.detect(OPENED, "alert", "another thing")
    assert host.journal.detections()[-1] == OPENED
    assert len(host.journal.events) == BURST + 1


def test_a_journal_that_takes_nothing_is_counted_and_stops_nobody(host: Host) -> None:
    host.journal.full = True
    assert host.book.tell("agent.error", {}) is None
    assert host.metrics.get("sekisho_agent_errors_total", "journal") == 1


def test_a_part_that_fails_all_the_time_is_counted_always_and_told_once_a_minute(
    host: Host,
) -> None:
    for _ in range(5):
        host.book.failed("nft", ValueError("\x1b[2J"))
    assert host.metrics.get("sekisho_agent_errors_total", "nft") == 5
    assert host.journal.kinds() == ["agent.error"]
    assert "\x1b" not in host.journal.events[0][1]["error"]
    host.now += 61
    host.book.failed("nft", ValueError("again"))
    assert host.journal.kinds() == ["agent.error"] * 2


# -- policy --------------------------------------------------------------------------------------


def test_the_policy_is_put_in_force_once(host: Host) -> None:
    host.write_policy()
    given: list[Any] = []
    part = PolicyPart(host.book, store(host), given.append)
    part.start()
    part.look()
    part.reload()
    assert [one.serial for one in given] == [5]
    assert host.metrics.get("sekisho_policy_serial") == 5
    assert host.journal.kinds() == ["policy.in-force"]


def test_a_bad_policy_changes_nothing_and_is_told(host: Host) -> None:
    host.write_policy()
    given: list[Any] = []
    part = PolicyPart(host.book, store(host), given.append)
    part.start()
    host.write_policy(serial=6, key=STRANGER)
    part.reload()
    assert (len(given), part.current is not None) == (1, True)
    assert host.journal.detections() == [POLICY_REFUSED]
    assert host.metrics.get("sekisho_policy_fallback") == 1
    host.write_policy(serial=6)
    part.reload()
    assert host.metrics.get("sekisho_policy_fallback") == 0
    assert host.metrics.get("sekisho_policy_serial") == 6


def test_the_last_good_policy_is_in_force_after_a_restart_beside_a_bad_one(host: Host) -> None:
    host.write_policy()
    PolicyPart(host.book, store(host), lambda _: None).start()
    host.write_policy(serial=4)
    given: list[Any] = []
    again = PolicyPart(host.book, store(host), given.append)
    again.start()
    assert given[0].serial == 5
    assert host.metrics.get("sekisho_policy_fallback") == 1


def test_without_any_policy_the_agent_says_so_and_lives(host: Host) -> None:
    part = PolicyPart(host.book, store(host), lambda _: pytest.fail("nothing to put in force"))
    part.start()
    assert part.current is None
    assert host.book.parts()["policy"] is False


def test_policy_and_signature_written_one_after_the_other_raise_no_alarm(host: Host) -> None:
    host.write_policy()
    part = PolicyPart(host.book, store(host), lambda _: None)
    part.start()
    old = (host.paths.etc / "policy.json").read_bytes()
    host.write_policy(serial=6)
    new = (host.paths.etc / "policy.json").read_bytes()
    (host.paths.etc / "policy.json").write_bytes(old)  # the signature came first
    part.look()
    (host.paths.etc / "policy.json").write_bytes(new)
    part.look()
    part.look()
    assert host.journal.detections() == []
    assert part.current is not None
    assert part.current.serial == 6


# -- packet filter -------------------------------------------------------------------------------


class Kernel:
    """A table in memory that reads back what it was given."""

    def __init__(self) -> None:
        self.table: list[dict[str, Any]] | None = None
        self.loads = 0
        self.deaf = False
        self.others: list[tuple[str, str]] = []

    def read(self) -> list[dict[str, Any]] | None:
        return copy.deepcopy(self.table)

    def ruleset(self) -> list[dict[str, Any]]:
        return [
            *(self.read() or []),
            *({"table": {"family": f, "name": n}} for f, n in self.others),
        ]

    def foreign(self) -> list[tuple[str, str]]:
        return list(self.others)

    def remove(self, family: str, name: str) -> None:
        self.others.remove((family, name))

    def expected(self, wanted: Any) -> list[dict[str, Any]]:
        return [{kind: named} for kind, named in own_objects(wanted)][1:]

    def load(self, wanted: Any) -> None:
        self.loads += 1
        if not self.deaf:
            self.table = self.expected(wanted)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def rules_part(host: Host, kernel: Kernel, **changes: Any) -> RulesPart:
    host.write_policy(**changes)
    part = RulesPart(host.book, host.paths, kernel, store(host))
    part.start()
    part.take(store(host).load())
    return part


def test_flushed_rules_are_told_loaded_again_and_counted(host: Host, kernel: Kernel) -> None:
    host.write_rules()
    part = rules_part(host, kernel)
    kernel.load(rules())
    part.look()
    assert (host.journal.detections(), kernel.loads) == ([], 1)
    for broken in (None, (kernel.table or [])[:-1]):
        kernel.table = broken
        part.look()
        assert host.metrics.get("sekisho_nft_in_order") == 1
    assert host.journal.detections() == [DRIFT, DRIFT]
    assert host.journal.kinds().count("rules.repaired") == 2
    assert host.metrics.get("sekisho_nft_repairs_total") == 2
    assert kernel.table == kernel.expected(rules())


def test_a_table_that_is_not_ours_is_told_kept_for_the_prover_and_taken_away(
    host: Host, kernel: Kernel
) -> None:
    host.write_rules()
    part = rules_part(host, kernel)
    kernel.load(rules())
    kernel.others = [("ip", "nat")]
    part.look()
    part.look()
    (said,) = (data for kind, data in host.journal.events if kind == "agent.detection")
    assert said["differences"] == ["table ip nat is not ours"]
    kept = Path(said["loaded"]).read_bytes()
    assert {"table": {"family": "ip", "name": "nat"}} in json.loads(kept)["nftables"]
    assert hashlib.sha256(kept).hexdigest() == said["loaded_sha256"]
    assert kernel.others == []


def test_of_rules_that_were_not_the_policys_the_newest_few_are_kept(
    host: Host, kernel: Kernel
) -> None:
    host.write_rules()
    part = rules_part(host, kernel)
    for number in range(KEPT + 4):
        kernel.load(rules(port=1000 + number))
        part.look()
    assert len(list((host.paths.state / "drift").iterdir())) == KEPT


def test_rules_that_wait_for_confirmation_are_left_alone(host: Host, kernel: Kernel) -> None:
    host.write_rules()
    part = rules_part(host, kernel)
    (host.paths.state / "guard").mkdir()
    (host.paths.state / "guard/pending.json").write_text("{}")
    part.look()
    assert (kernel.loads, host.journal.events) == (0, [])


def test_rolled_back_rules_are_kept_although_the_policy_is_newer(
    host: Host, kernel: Kernel
) -> None:
    host.write_rules()
    kernel.load(rules())
    rules_part(host, kernel).look()
    # A newer policy comes, its rules shut the administrator out, the guard puts the file back.
    part = rules_part(host, kernel, serial=6, nftables=rules(port=2222))
    part.look()
    kernel.table = None
    part.look()
    assert kernel.table == kernel.expected(rules(port=22))
    assert host.journal.detections() == [DRIFT]
    # Confirmed at last: the file says so.
    host.write_rules(rules(port=2222))
    part.look()
    assert kernel.table == kernel.expected(rules(port=2222))


def test_an_edited_file_is_told_and_gains_the_intruder_nothing(host: Host, kernel: Kernel) -> None:
    host.write_rules()
    kernel.load(rules())
    part = rules_part(host, kernel)
    part.look()
    host.write_rules(rules(port=4444))
    kernel.load(rules(port=4444))
    part.look()
    assert kernel.table == kernel.expected(rules(port=22))
    part.look()
    assert host.journal.detections() == [FILE, DRIFT]


def test_rules_that_were_never_confirmed_are_not_enforced(host: Host, kernel: Kernel) -> None:
    rules_part(host, kernel).look()
    assert kernel.loads == 0
    assert host.book.parts()["nft"] is False


def test_a_kernel_that_does_not_obey_is_an_error_and_stays_shown(
    host: Host, kernel: Kernel
) -> None:
    host.write_rules()
    part = rules_part(host, kernel)
    kernel.deaf = True
    with pytest.raises(SekishoError, match="still differ"):
        part.look()
    assert host.metrics.get("sekisho_nft_in_order") == 0
    assert host.metrics.get("sekisho_nft_repairs_total") == 0


# -- devices -------------------------------------------------------------------------------------


class Announcements:
    """What the kernel announces, given by the test."""

    def __init__(self, sys: Path) -> None:
        self.waiting: list[Uevent] = []
        self.lost = 0
        self._sys = sys

    def announce(self, subsystem: str, folder: Path, **values: str) -> None:
        kind = {"usb": "usb_device", "block": "disk"}.get(subsystem, "")
        self.waiting.append(Uevent("add", place(folder, self._sys), subsystem, kind, values))

    def added(self) -> Any:
        while self.waiting:
            yield self.waiting.pop(0)
        if self.lost:
            lost, self.lost = self.lost, 0
            raise AnnouncementsLostError(lost)


def devices_part(host: Host) -> tuple[DevicesPart, Announcements, list[Any]]:
    monitor, later = Announcements(host.paths.sys), []
    part = DevicesPart(host.book, host.paths, lambda _, call: later.append(call))
    part.policy(parsed())
    return part, monitor, later


def test_a_stick_plugged_in_is_refused_recorded_and_counted(host: Host) -> None:
    part, monitor, later = devices_part(host)
    folder = plug(host.paths.sys, "1-2", "08:06:50")
    monitor.announce("usb", folder)
    part.announced(monitor)
    assert host.journal.detections() == [REFUSED]
    assert host.metrics.get("sekisho_device_attempts_total", "refused", "storage") == 1
    later.pop()()
    assert host.metrics.get("sekisho_devices_present", "refused", "storage") == 1
    assert host.metrics.get("sekisho_device_let_in") == 0


def test_a_stick_that_was_there_before_the_start_is_told_too(host: Host) -> None:
    plug(host.paths.sys, "1-2", "08:06:62")
    part, _, _ = devices_part(host)
    part.record()
    attempt = next(data for kind, data in host.journal.events if kind == "device.attempt")
    assert (attempt["when"], attempt["decision"]) == ("start", "refused")


def test_a_card_on_pci_that_the_stub_holds_is_refused_whenever_it_came(host: Host) -> None:
    part, monitor, _ = devices_part(host)
    part.policy(parsed(pci=[]))  # a site that does not say
    folder = stub(host.paths.sys, "0000:00:15.0")
    part.record()
    monitor.announce("pci", folder)  # it is told already
    part.announced(monitor)
    assert host.journal.detections() == [REFUSED]
    assert host.metrics.get("sekisho_device_attempts_total", "refused", "pci") == 1
    (stub(host.paths.sys, "0000:00:16.0") / "driver").unlink()
    monitor.announce("pci", host.paths.sys / "devices/pci0000:00/0000:00:16.0")
    part.announced(monitor)
    assert host.journal.detections() == [REFUSED, APPEARED]


def test_what_the_machine_is_made_of_is_no_attempt_and_whatever_else_hangs_there_is(
    host: Host,
) -> None:
    own = "0000:00:01.1 8086:7010"
    part, monitor, _ = devices_part(host)
    part.policy(parsed(pci=[own]))
    idle = stub(host.paths.sys, "0000:00:01.1", "8086", "7010")
    part.record()
    monitor.announce("pci", idle)
    part.announced(monitor)
    assert host.journal.detections() == []
    assert not host.metrics.get("sekisho_devices_present", "refused", "pci")
    # A card put in while the machine was off: no driver has it, and yet it is told, once a start.
    bare = stub(host.paths.sys, "0000:00:15.0", "8086", "7010")
    (bare / "driver").unlink()
    part.record()
    part.look()
    assert host.journal.detections() == [REFUSED]
    assert host.metrics.get("sekisho_devices_present", "refused", "pci") == 1
    # Another card in the place of an own one; and one that a driver of the machine's took.
    (idle / "device").write_text("0x7011\n")
    (bare / "driver").symlink_to(host.paths.sys / "bus/pci/drivers/e1000e")
    part.record()
    assert host.journal.detections() == [REFUSED, REFUSED, APPEARED]
    part.policy(parsed(pci=[]))  # a site that does not say: as it was without a list
    part.look()
    assert host.metrics.get("sekisho_devices_present", "refused", "pci") == 1


def test_a_refused_device_that_works_all_the_same_is_told_once(host: Host) -> None:
    folder = plug(host.paths.sys, "1-2", "08:06:50", authorized="1")
    child = folder / "1-2:1.0"
    child.mkdir()
    (child / "bInterfaceClass").write_text("08")
    part, _, _ = devices_part(host)
    part.look()
    part.look()
    assert host.journal.detections() == [LET_IN]
    assert host.metrics.get("sekisho_device_let_in") == 1
    (folder / "authorized").write_text("0")
    part.look()
    assert host.metrics.get("sekisho_device_let_in") == 0


def test_the_listed_keyboard_is_admitted_without_an_alert(host: Host) -> None:
    folder = plug(host.paths.sys, "1-1", "03:01:01")
    raw = bytearray((folder / "descriptors").read_bytes())
    raw[8:12] = bytes.fromhex("27060100")
    (folder / "descriptors").write_bytes(raw)
    (folder / "serial").write_text("SEKISHO-KBD-1\n")
    part, _, later = devices_part(host)
    part.record()
    for call in later:
        call()
    assert host.journal.detections() == []
    assert host.metrics.get("sekisho_device_attempts_total", "admitted", "keyboard") == 1
    assert "device.outcome" in host.journal.kinds()


def test_a_disk_that_appears_is_told_wherever_it_hangs(host: Host) -> None:
    part, monitor, _ = devices_part(host)
    folder = host.paths.sys / "block/sdb"
    folder.mkdir(parents=True)
    (folder / "removable").write_text("1")
    monitor.announce("block", folder)
    part.announced(monitor)
    assert host.journal.detections() == [APPEARED]
    part.look()
    assert host.metrics.get("sekisho_devices_present", "appeared", "block") == 1


def test_a_disk_that_is_not_the_machines_own_is_told_once_and_counted(host: Host) -> None:
    part, _, _ = devices_part(host)
    for at, name, serial in (
        ("0000:00:03.0", "vda", "SEKISHO-DISK-0013"),
        ("0000:00:09.0", "vdb", "SEKISHO-DISK-0013"),
    ):
        folder = host.paths.sys / f"devices/pci0000:00/{at}/virtio0/block/{name}"
        folder.mkdir(parents=True)
        (folder / "serial").write_text(serial)
        (host.paths.sys / "block").mkdir(exist_ok=True)
        (host.paths.sys / "block" / name).symlink_to(folder)
    part.record()
    part.look()
    assert host.journal.detections() == [UNLISTED]
    assert host.metrics.get("sekisho_disks_unlisted") == 1
    (host.paths.sys / "block/vdb").unlink()
    part.look()
    assert host.metrics.get("sekisho_disks_unlisted") == 0


def test_lost_announcements_are_counted_and_what_came_is_found_and_told_once(host: Host) -> None:
    part, monitor, _ = devices_part(host)
    part.record()
    folder = plug(host.paths.sys, "1-2", "08:06:50")
    monitor.lost = 7
    part.announced(monitor)
    assert host.metrics.get("sekisho_agent_dropped_total", "devices") == 7
    assert ("devices.announcements-lost", {"lost": 7, "found": 1}) in host.journal.events
    monitor.announce("usb", folder)
    part.announced(monitor)
    part.look()
    assert host.journal.detections() == [REFUSED]


def test_a_device_that_cannot_be_judged_is_told_and_hides_no_other(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, monitor, _ = devices_part(host)
    part.record()
    for name in ("1-2", "1-3"):
        monitor.announce("usb", plug(host.paths.sys, name, "08:06:50"))
    decide = part._decide

    def fails(attempt: Any, folder: Path) -> Any:
        return 1 // 0 if folder.name == "1-2" else decide(attempt, folder)

    monkeypatch.setattr(DevicesPart, "_decide", lambda _, *given: fails(*given))
    part.announced(monitor)
    decisions = [data["decision"] for kind, data in host.journal.events if kind == "device.attempt"]
    assert decisions == ["unknown", "refused"]
    assert host.journal.detections() == [REFUSED, REFUSED]


def test_before_the_first_policy_nothing_is_listed(host: Host) -> None:
    part = DevicesPart(host.book, host.paths, lambda _seconds, _call: None)
    assert (part._rules, part._disks, part._own) == ((), (), frozenset())


# -- listeners -----------------------------------------------------------------------------------

LINE = (
    "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 0"
    " {uid} 0 {inode} 1"
)


def listen(host: Host, table: str, *sockets: tuple[str, int]) -> None:
    (host.paths.proc / "net").mkdir(parents=True, exist_ok=True)
    state = "0A" if table == "tcp" else "07"
    lines = [
        LINE.format(address=address, port=port, state=state, uid=33, inode=port)
        for address, port in sockets
    ]
    (host.paths.proc / "net" / table).write_text("  sl  head\n" + "\n".join(lines) + "\n")


SSHD = ("0D004D0A", 22)


def test_a_new_listener_is_told_once_and_its_end_too(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    part.policy(parsed())
    listen(host, "tcp", SSHD)
    part.look()
    assert host.journal.events == []
    listen(host, "tcp", SSHD, ("00000000", 8080))
    part.look()
    part.look()
    assert host.journal.detections() == [OPENED]
    assert host.metrics.get("sekisho_listener_unexpected", "network") == 1
    listen(host, "tcp", SSHD)
    part.look()
    assert host.journal.kinds()[-1] == "listener.closed"
    assert host.metrics.get("sekisho_listener_unexpected", "network") == 0


def test_the_same_port_on_every_address_is_not_the_listed_one(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    part.policy(parsed())
    listen(host, "tcp", ("00000000", 22))
    part.look()
    assert host.journal.detections() == [OPENED]
    assert host.metrics.get("sekisho_listener_missing") == 1


def test_a_listener_for_this_machine_only_is_noted_without_an_alert(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    part.policy(parsed())
    listen(host, "tcp", SSHD, ("0100007F", 9090))
    part.look()
    assert host.journal.events[0][1]["severity"] == "notice"
    assert host.metrics.get("sekisho_listener_unexpected", "local") == 1
    assert host.metrics.get("sekisho_listener_unexpected", "network") == 0


def test_a_clients_udp_socket_counts_only_when_it_stays(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    part.policy(parsed())
    listen(host, "tcp", SSHD)
    listen(host, "udp", ("00000000", 40000))
    part.look()
    assert host.journal.events == []
    part.look()
    assert host.journal.detections() == [OPENED]


def test_without_a_policy_nothing_is_judged(host: Host) -> None:
    part = ListenersPart(host.book, host.paths)
    listen(host, "tcp", ("00000000", 8080))
    part.look()
    assert host.journal.events == []
    assert host.book.parts()["listeners"] is False


# -- guarded files -------------------------------------------------------------------------------


def files_part(host: Host) -> FilesPart:
    (host.root / "etc/ssh/sshd_config.d").mkdir(parents=True, exist_ok=True)
    (host.root / "etc/ssh/sshd_config").write_text("PermitRootLogin no\n")
    part = FilesPart(host.book, host.paths)
    part.start()
    return part


def test_a_changed_an_added_and_a_removed_file_are_told_until_they_are_put_right(
    host: Host,
) -> None:
    part = files_part(host)
    assert host.journal.kinds() == ["files.agreed"]
    config = host.root / "etc/ssh/sshd_config"
    config.write_text("PermitRootLogin yes\n")
    (host.root / "etc/ssh/sshd_config.d/evil.conf").write_text("x")
    part.look()
    part.look()
    assert host.journal.detections() == [FILE_CHANGED] * 2
    assert host.metrics.get("sekisho_file_drift", "sshd") == 2
    config.unlink()
    part.look()
    assert host.journal.events[-1][1]["sha256"] == "absent"
    config.write_text("PermitRootLogin no\n")
    (host.root / "etc/ssh/sshd_config.d/evil.conf").unlink()
    part.look()
    assert host.metrics.get("sekisho_file_drift", "sshd") == 0
    assert host.journal.kinds()[-1] == "files.restored"


def test_a_change_of_mode_alone_is_a_change(host: Host) -> None:
    part = files_part(host)
    (host.root / "etc/ssh/sshd_config").chmod(0o666)
    part.look()
    assert host.journal.detections() == [FILE_CHANGED]


def test_a_change_while_the_agent_was_stopped_is_told_at_the_start(host: Host) -> None:
    files_part(host)
    (host.root / "etc/ssh/sshd_config").write_text("PermitRootLogin yes\n")
    FilesPart(host.book, host.paths).start()
    assert host.journal.detections() == [FILE_CHANGED]


def test_agreement_ends_the_alarm_and_is_in_the_journal_with_digests(host: Host) -> None:
    part = files_part(host)
    (host.root / "etc/ssh/sshd_config").write_text("Port 22\n")
    part.look()
    assert part.agree("site.yml") == 1
    kind, data = host.journal.events[-1]
    assert kind == "files.agreed"
    assert list(data["changed"]) == ["/etc/ssh/sshd_config"]
    assert part.agree("site.yml") == 0
    assert host.metrics.get("sekisho_file_drift", "sshd") == 0


def test_a_garbled_memory_of_what_was_agreed_is_an_error_not_a_new_agreement(host: Host) -> None:
    files_part(host)
    held = host.paths.state / "files.json"
    for text in ("", "[]", '{"a": 1}', json.dumps({"a": {}})):
        held.write_text(text)
        with pytest.raises(SekishoError, match="garbled"):
            FilesPart(host.book, host.paths).start()
