"""The kernel takes no module any more, and one order opens one boot. Item 6(iii)(c)."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pytest
import yaml
from labkit.api import Lab as Driver
from tests.vm.attacks.attack_1_usb import _blocks, _usb
from tests.vm.trial import BIN, INVENTORY, REPOSITORY, Lab, Trial, failed_checks, until

pytestmark = pytest.mark.vm
HOST = "core-1"
#: A module that nothing here needs and that does nothing by itself.
IDLE = "crc_itu_t"
HOURS = 0.15
DISABLED = "/proc/sys/kernel/modules_disabled"


def _site(site: Lab, folder: Path) -> Path:
    """Return a copy of the lab's site whose managing server shuts the wall on its proposed list."""
    there = folder / "site"
    shutil.copytree(INVENTORY, there)
    proposed = site.root(HOST, "sekisho devices modules propose --lock enforce")
    assert proposed.code == 0, proposed.err
    path = there / f"host_vars/{HOST}.yml"
    machine = yaml.safe_load(path.read_text(encoding="utf-8"))
    machine["sekisho_machine"] |= yaml.safe_load(proposed.out)
    assert machine["sekisho_machine"]["modules"]["lock"] == "enforce"
    path.write_text(yaml.safe_dump(machine, allow_unicode=True), encoding="utf-8")
    return there


def _shut(site: Lab) -> bool:
    return site.root(HOST, f"cat {DISABLED}").out.strip() == "1"


def _restart(lab: Driver) -> None:
    lab.power_cut(HOST)
    lab.power_on(HOST, wait=900)


def test_the_module_wall_closes_and_one_order_opens_one_boot(
    lab: Driver, machine: Lab, tmp_path: Path
) -> None:
    trial = Trial("modules")
    _closes(lab, machine, trial, tmp_path)
    _maintenance(lab, machine, trial, tmp_path)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []


def _closes(lab: Driver, site: Lab, trial: Trial, folder: Path) -> None:
    trial.step("before the wall: root can load a module (the positive control)")
    loaded = site.root(HOST, f"modprobe {IDLE} && rmmod {IDLE}")
    trial.expect("a module is loaded and taken out again", loaded.code == 0, loaded.err)

    trial.step("the proposed list, tried by a boot")
    there = _site(site, folder)
    done = site.inside(
        BIN / "ansible-playbook", "-i", there, REPOSITORY / "playbooks/site.yml",
        "--limit", f"localhost:{HOST}", "-e", "modules_restart=true", timeout=2400,
        log=REPOSITORY / ".lab/modules.log",
    )  # fmt: skip
    trial.expect("the playbook ends without failure", done.code == 0, done.out[-500:])
    trial.expect("the kernel takes no module any more", _shut(site))
    _holds(site, trial)
    red = failed_checks(site.audit("--host", HOST, "-i", str(there)))
    trial.expect("its checks are green", not [one for one in red if "modules" in one], sorted(red))

    trial.step("a power cut: it closes by itself, before there is a network")
    _restart(lab)
    trial.expect("closed after the boot", _shut(site))
    times = site.root(
        HOST,
        "systemctl show --value -p ExecMainExitTimestampMonotonic sekisho-modules; "
        "systemctl show --value -p ActiveEnterTimestampMonotonic network-pre.target",
    ).out.split()
    trial.expect(
        "the wall was shut first",
        len(times) == 2 and 0 < int(times[0]) <= int(times[1]),
        times,
    )
    _holds(site, trial)


def _holds(site: Lab, trial: Trial) -> None:
    """Root, with agent and udev stopped, tries modules and a stick it authorises itself."""
    path = site.root(HOST, f"find /lib/modules -name '{IDLE.replace('_', '-')}.ko*'").out.strip()
    trial.expect("the module lies there", path.endswith((".ko", ".ko.xz")), path)
    idle = "rmmod $(awk '$3 == 0 {print $1; exit}' /proc/modules)"
    past = "modprobe --ignore-install usb_storage"  # past the blocklist: only the wall is left
    for words in (f"modprobe {IDLE}", f"insmod {path}", idle, past):
        refused = site.root(HOST, words)
        trial.expect(f"refused to root: {words.split('/')[0]}", refused.code != 0, refused.err)
    before = _blocks(site, HOST)
    site.root(
        HOST,
        "systemctl stop sekisho-agent systemd-udevd-kernel.socket systemd-udevd-control.socket "
        "systemd-udevd",
    )
    site.driver("usb-plug", HOST, "storage", "--serial", "BY-HAND", "--port", "5")
    until(lambda: any("BY-HAND" in row for row in _usb(site, HOST)), timeout=30)
    site.root(
        HOST,
        'for d in /sys/bus/usb/devices/*; do [ "$(cat "$d/serial" 2>/dev/null)" = BY-HAND ] || '
        'continue; echo 1 >"$d/authorized"; done; modprobe usb-storage; sleep 5',
    )
    rows = [row for row in _usb(site, HOST) if "BY-HAND" in row]
    trial.expect("root did authorise the stick", any("authorized=1" in r for r in rows), rows)
    trial.expect("and it gives no disk", _blocks(site, HOST) == before)
    site.driver("usb-unplug", HOST)
    site.root(
        HOST,
        "systemctl start systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd "
        "sekisho-agent",
    )


def _maintenance(lab: Driver, site: Lab, trial: Trial, folder: Path) -> None:
    trial.step("an order for maintenance, signed by three people")
    order, keys = folder / "maintenance.json", INVENTORY / "keys"
    asked = site.inside(
        BIN / "sekisho", "devices", "modules", "request", "--site", "lab", "--machine", HOST,
        "--hours", str(HOURS), "--reason", "a new file system", "--by", "baba",
        "--key", keys / "baba-approval.key", "--out", order,
    )  # fmt: skip
    trial.expect("it is asked for", asked.code == 0, asked.err)
    for who in ("chiba", "aoki"):
        if who == "aoki":
            site.put(HOST, "/run/order.json", order.read_text())
            short = site.root(HOST, "sekisho devices modules maintain /run/order.json")
            trial.expect("one approver is not enough", short.code == 3, short.err)
        signed = site.inside(
            BIN / "sekisho", "exception", "approve", order, "-i", INVENTORY, "--by", who,
            "--key", keys / f"{who}-approval.key",
        )  # fmt: skip
        trial.expect(f"{who} approves", signed.code == 0, signed.err)
    text = order.read_text()
    number = json.loads(text)["order"]["id"]
    end = dt.datetime.fromisoformat(json.loads(text)["order"]["end"])
    site.put(HOST, "/run/order.json", text)
    placed = site.root(HOST, "sekisho devices modules maintain /run/order.json")
    trial.expect("it is in place", placed.code == 0, placed.err)
    trial.expect("the wall stays shut until the boot", _shut(site))

    _restart(lab)
    trial.expect("that boot is open", not _shut(site))
    loaded = site.root(HOST, f"modprobe {IDLE}")
    trial.expect("a module can be loaded", loaded.code == 0, loaded.err)
    said = site.root(HOST, "cat /run/issue.d/* /run/motd.d/* 2>/dev/null").out
    trial.expect("console and login say why and until when", "a new file system" in said, said)
    told, _ = until(
        lambda: [r for r in site.journal(HOST, "modules.wall") if number in str(r)],
        timeout=60, every=3,
    )  # fmt: skip
    trial.expect("the journal has it", told)
    shown, _ = until(
        lambda: site.metric(f'sekisho_maintenance{{host="{HOST}"}}'), timeout=90, every=5
    )
    trial.expect("the monitor sees it", shown)

    trial.step("nobody ends it, and the agent is stopped")
    site.root(HOST, "systemctl stop sekisho-agent")
    again, _ = until(lambda: _shut(site), timeout=HOURS * 3600 + 120, every=3)
    now = dt.datetime.fromtimestamp(float(site.root(HOST, "date +%s").out), dt.UTC)
    late = (now - end).total_seconds()
    trial.expect("it closes by itself", again)
    trial.expect("at its end, half a minute later at most", -5 <= late <= 30, f"{late:.0f} s")
    left = site.root(HOST, f"grep -c '^{IDLE} ' /proc/modules").out.strip()
    trial.expect("what was loaded meanwhile is gone", left == "0", left)
    site.put(HOST, "/run/order.json", text)  # the boot emptied /run
    spent = site.root(HOST, "sekisho devices modules maintain /run/order.json")
    trial.expect("the order opens nothing again",
                 spent.code == 3 and "cannot be read" not in spent.err, spent.err)  # fmt: skip
    site.root(HOST, "systemctl start sekisho-agent")
