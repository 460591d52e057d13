"""A terminal's day: what is done there is gone with the power, and its disk is byte for byte the same.

Everything is shown from outside: the SHA-256 of the disk's content with the machine off. The
positive control comes last: a boot for maintenance does change the disk, so the digest can tell.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from labkit.api import Lab as Driver
from labkit.base import LabError
from tests.vm.scenarios import CHECKS
from tests.vm.trial import BIN, INVENTORY, REPOSITORY, Lab, failed_checks

pytestmark = pytest.mark.vm
HOST = "terminal-1"
WORDS = ("init=/usr/lib/sekisho/terminal-init", "bdev_allow_write_mounted=0", "fsck.mode=skip")
CHECKED = sorted(path.name for path in CHECKS.glob("6-iii-c.terminal-*"))
MARK = "patients-of-tuesday"


@pytest.fixture(scope="module")
def terminal(lab: Driver, provisioned: Lab) -> Iterator[tuple[Driver, Lab]]:
    """The terminal, provisioned as any machine, off, and told to start as a terminal from now on."""
    lab.power_on(HOST, wait=900)
    done = provisioned.inside(
        BIN / "ansible-playbook", "-i", INVENTORY, REPOSITORY / "playbooks/site.yml",
        # The lab may have made it anew since it was last enrolled.
        "--limit", f"localhost:{HOST}", "-e", f"enrol_replace={HOST}", timeout=3000, log=REPOSITORY / ".lab/terminal.log",
    )  # fmt: skip
    assert done.code == 0, done.out[-3000:]
    _off(lab, provisioned)
    lab.boot_words(HOST, *WORDS)
    yield lab, provisioned
    with contextlib.suppress(LabError):  # off already
        lab.power_cut(HOST)
    lab.boot_words(HOST)  # whatever broke, it starts as any machine again


def _off(lab: Driver, site: Lab) -> None:
    site.root(HOST, "systemctl poweroff")
    for _ in range(120):
        if "shut off" in site.driver("exec", "virsh", "-q", "domstate", HOST):
            return
        site.driver("exec", "sleep", "1")
    lab.power_cut(HOST)
    pytest.fail("the terminal did not go off by itself")


def _work(site: Lab, what: str) -> None:
    """Do what a person does: edit, keep, bring something over from core; and write past files."""
    seen = site.root(
        HOST,
        f"echo {MARK}-{what} >/root/{MARK}; cp /root/{MARK} /var/lib/{MARK}; "
        f"cp /root/{MARK} /home/{MARK}; head -c 8000000 /dev/urandom >/var/tmp/{MARK}; sync; "
        f"cat /root/{MARK}",
    )
    assert seen.out.strip() == f"{MARK}-{what}", seen.err
    fetched = site.root(
        HOST, "timeout 20 scp -o BatchMode=yes 10.77.7.2:/etc/hostname /var/tmp/ 2>&1"
    )
    assert fetched.code != 0, "a file came over from core without a person's key"
    past = site.root(
        HOST, "dd if=/dev/zero of=/dev/vda bs=4096 count=1 seek=100000 oflag=direct conv=notrunc"
    )
    assert past.code != 0, past.err
    for refused in ("mount -o remount,rw /dev/vda", "mkfs.ext4 -F -q /dev/vda", "swapon /dev/vda"):
        assert site.root(HOST, refused).code != 0, refused


def test_a_day_at_the_terminal_leaves_its_disk_as_it_was(terminal: tuple[Driver, Lab]) -> None:
    lab, site = terminal
    before = lab.disk_digest(HOST)
    for what, end in (
        ("day", lambda: _off(lab, site)),
        ("crash", lambda: _crash(lab, site)),
        ("power-cut", lambda: lab.power_cut(HOST)),
    ):
        lab.power_on(HOST, wait=900)
        left = site.root(HOST, f"ls -d /root/{MARK} /var/lib/{MARK} /home/{MARK} /var/tmp/{MARK}")
        assert left.out == "", f"after the last {what} something stayed: {left.out}"
        assert site.root(HOST, "cat /run/sekisho-terminal").out.strip() == "read-only"
        _work(site, what)
        end()
        assert lab.disk_digest(HOST) == before, f"the disk changed by a {what}"


def _crash(lab: Driver, site: Lab) -> None:
    """A panic of the kernel; where the key for it is locked, QEMU is killed in the middle of work."""
    site.root(HOST, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", timeout=15)
    lab.power_cut(HOST)


def test_the_checks_of_the_terminal_are_green_then_red_then_green(
    terminal: tuple[Driver, Lab],
) -> None:
    """The remedy is a boot: what a scenario breaks lies in memory."""
    lab, site = terminal
    assert len(CHECKED) == 2
    for check in CHECKED:
        lab.power_on(HOST, wait=900)
        assert check not in failed_checks(site.audit("--host", HOST)), f"{check} before"
        script = (CHECKS / check / "fail.sh").read_text(encoding="utf-8")
        ran = site.root(HOST, script)
        assert ran.code == 0, ran.err
        assert check in failed_checks(site.audit("--host", HOST)), f"{check} broken"
        lab.power_cut(HOST)
        lab.power_on(HOST, wait=900)
        assert check not in failed_checks(site.audit("--host", HOST)), f"{check} after the boot"
        lab.power_cut(HOST)


def test_a_boot_for_maintenance_changes_the_disk_so_the_digest_can_tell(
    terminal: tuple[Driver, Lab],
) -> None:
    lab, site = terminal
    before = lab.disk_digest(HOST)
    lab.boot_words(HOST, *WORDS, "sekisho.maintenance")
    lab.power_on(HOST, wait=900)
    assert site.root(HOST, "cat /run/sekisho-terminal").out.strip() == "maintenance"
    assert site.root(HOST, "echo kept >/root/kept; sync").code == 0
    _off(lab, site)
    assert lab.disk_digest(HOST) != before
    lab.boot_words(HOST, *WORDS)
