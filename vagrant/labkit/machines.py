"""The machines: first boot, saving and restoring, power, USB."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import shutil
import signal
import time
import xml.sax.saxutils
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from labkit import holder, ssh, usb
from labkit.base import (
    INVENTORY,
    KEYS,
    STATE,
    VAGRANT,
    LabError,
    Machine,
    Site,
    box_digest,
    lab_digest,
    run,
    say,
    write_atomic,
)
from labkit.holder import inside, virsh

WORKERS = 2
#: Stands before what `boot_words` adds; the kernel takes it for a module's parameter, and no notice.
BOOT_MARK = "sekisho_lab.more=1"


def root_of(site: Site) -> Path:
    """Return the directory of the lab: the running one, else the one drawn in the inventory now."""
    running = holder.running_root()
    return running if running is not None else STATE / f"lab-{lab_digest(site)}"


def ensure_box(site: Site) -> Path:
    """Build the box if its recipe has no box yet; return its directory."""
    where = STATE / "box" / box_digest(site)
    if not (where / "lab.box").exists():
        say("building the box (Debian 13, about 90 s on 2 cores)")
        words = [
            str(VAGRANT / "build-box"),
            str(where),
            site.admin,
            str(site.admin_uid),
            site.admin_name,
        ]
        keys = [str(KEYS / f"{site.admin}.{kind}") for kind in ("pub", "password")]
        code = ssh.stream([*words, *keys], dict(os.environ), STATE / "box.log")
        if code != 0:
            log = STATE / "box.log"
            raise LabError(f"build-box: exit {code}: {ssh.last_words(log)}; log: {log}")
    current = STATE / "box" / "current"
    if not current.is_symlink() or current.readlink() != Path(where.name):
        temporary = STATE / "box" / f".current.{os.getpid()}"
        temporary.symlink_to(where.name)
        temporary.rename(current)
    return where


def prune(site: Site) -> None:
    """Remove boxes and labs that no longer match the inputs; a stale one is never used."""
    keep = {root_of(site).name, box_digest(site), "current"}
    for stale in [*STATE.glob("lab-*"), *(STATE / "box").glob("*")]:
        if stale.name not in keep:
            say(f"removing the stale {stale.name}")
            shutil.rmtree(stale)


def saved_states(site: Site) -> dict[str, list[str]]:
    """Return the saved states by name, each with the machines that ran in it."""
    found = {}
    for path in sorted((root_of(site) / "saved").glob("*.json")):
        found[path.stem] = list(json.loads(path.read_text())["machines"])
    return found


def states(site: Site) -> dict[str, str]:
    """Return libvirt's word (running, shut off, …) for every defined machine."""
    found = {}
    for line in virsh("list", "--all").splitlines():
        _number, name, state = line.split(maxsplit=2)
        found[name] = state
    return {m.name: found.get(m.name, "absent") for m in site.machines}


def _everywhere(work: Callable[[Machine], None], machines: Sequence[Machine], what: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        jobs = {pool.submit(work, machine): machine for machine in machines}
        for count, job in enumerate(concurrent.futures.as_completed(jobs), 1):
            job.result()
            say(f"{what} {count}/{len(machines)}: {jobs[job].name}")


def first_boot(site: Site, machines: Sequence[Machine]) -> None:
    """Boot machines through the Vagrantfile, two at a time, and pin their host keys."""
    root = root_of(site)
    env = os.environ | {
        "VAGRANT_HOME": str(root / "home"),
        "VAGRANT_DOTFILE_PATH": str(root / "dot"),
        "VAGRANT_CWD": str(VAGRANT),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        "VAGRANT_NO_COLOR": "1",
        "SEKISHO_LAB_STATE": str(STATE),
    }

    def meet(booted: Sequence[Machine]) -> None:
        if booted:
            say(f"reading host keys from the consoles: {' '.join(m.name for m in booted)}")
            ssh.pin(booted)
            _everywhere(lambda m: void(ssh.answer(m, timeout=120)), booted, "answers")

    met: Sequence[Machine] = ()
    with concurrent.futures.ThreadPoolExecutor(1) as aside:
        for start in range(0, len(machines), WORKERS):
            batch = machines[start : start + WORKERS]
            names = [m.name for m in batch]
            say(f"first boot {start + 1}-{start + len(batch)}/{len(machines)}: {' '.join(names)}")
            words = inside(["vagrant", "up", "--provider", "libvirt", *names])
            if len(batch) < WORKERS:  # a processor has nothing to do
                met = machines[:start]
            meeting = aside.submit(meet, met)
            log = root / "vagrant.log"
            # Vagrant's sixty lines a machine are for its log; that a machine is there is for a person.
            code = ssh.stream(words, env, log, shown=lambda _line: False)
            if code != 0:
                failed = f"vagrant up {' '.join(names)}: exit {code}"
                raise LabError(f"{failed}: {ssh.last_words(log)}; log: {log}")
            say(f"booted {' '.join(names)} (log: {log})")
            meeting.result()
    meet([m for m in machines if m not in met])


def save(site: Site, name: str) -> None:
    """Save all running machines, memory and disk, at one instant; an older ``name`` is replaced."""
    if not name.replace("-", "").replace("_", "").isalnum():
        raise LabError(f"a state's name is letters, digits, - and _; got {name!r}")
    running = [m for m in site.machines if states(site)[m.name] == "running"]
    if not running:
        raise LabError("no machine runs; nothing to save")
    for machine in running:
        plugged = usb.plugged(machine.name)
        if plugged:
            raise LabError(f"{machine.name}: unplug its devices first: {' '.join(plugged)}")
    (root_of(site) / "saved" / f"{name}.json").unlink(missing_ok=True)
    for machine in site.machines:
        if states(site)[machine.name] != "absent":
            virsh("snapshot-delete", machine.name, name, check=False)
    for machine in running:
        virsh("suspend", machine.name)
    try:
        _everywhere(
            lambda m: void(virsh("snapshot-create-as", m.name, name, timeout=300)), running, "saved"
        )
    finally:
        for machine in running:
            virsh("resume", machine.name, check=False)
    record = {"machines": [m.name for m in running], "time": int(time.time())}
    known = ssh.KNOWN_HOSTS.read_text()
    write_atomic(root_of(site) / "saved" / f"{name}.known_hosts", known)
    write_atomic(root_of(site) / "saved" / f"{name}.json", json.dumps(record))


def void(_value: object) -> None:
    """Forget a value."""


def restore(site: Site, name: str, only: Sequence[str] = ()) -> None:
    """Bring machines back as they were saved, step their clocks and see that each answers."""
    saved = saved_states(site)
    if name not in saved:
        raise LabError(f"no saved state {name!r}; there are: {' '.join(saved) or 'none'}")
    machines = [m for m in site.machines if not only or m.name in only]
    now = states(site)
    ssh.forget_connections()
    for machine in machines:
        if now[machine.name] in {"running", "paused"}:
            virsh("destroy", machine.name)
    known = (root_of(site) / "saved" / f"{name}.known_hosts").read_text()
    # A machine that was first started after the state was saved keeps its disk, so its keys, too.
    there = {line.split()[0] for line in known.splitlines()}
    if ssh.KNOWN_HOSTS.exists():
        for line in ssh.KNOWN_HOSTS.read_text().splitlines():
            known += "" if line.split()[0] in there else f"{line}\n"
    for place in (ssh.KNOWN_HOSTS, INVENTORY / "keys" / "known_hosts"):
        write_atomic(place, known)
    # Last first: the others take the time from the monitors, which stand at the end.
    back = [m for m in reversed(machines) if m.name in saved[name]]

    def work(machine: Machine) -> None:
        virsh("snapshot-revert", machine.name, name, "--running", timeout=300)
        ssh.set_clock(machine)

    _everywhere(work, back, "restored")


def power_cut(name: str) -> None:
    """Cut the power: QEMU is killed; neither the guest nor QEMU writes anything back."""
    holder_id = holder.holder_pid()
    if holder_id is None:
        raise LabError("the lab is down")
    pid = int(run(inside(["cat", f"/run/libvirt/qemu/{name}.pid"])).stdout)
    run(inside(["kill", "-9", str(pid)]))
    deadline = time.monotonic() + 20
    while virsh("domstate", name) != "shut off":
        if time.monotonic() > deadline:
            raise LabError(f"{name}: still not off 20 s after the cut")
        time.sleep(0.2)
    ssh.forget_connection(name)


def power_on(
    site: Site, name: str, devices: Sequence[str] = (), *, words: Sequence[str] = ()
) -> None:
    """Press the power button of a machine that is off; see `wait` for its answer.

    ``devices`` are kinds of devices that are plugged in before the machine wakes. A machine
    that never ran (the terminal) is made through the Vagrantfile first.
    """
    machine = site.machine(name)
    if states(site)[name] == "absent":
        first_boot(site, [machine])
    else:
        asleep(name, words)
        for kind in devices:
            usb.plug(name, kind)
        virsh("resume", name)


def boot_words(site: Site, name: str, words: Sequence[str]) -> None:
    """Set what a machine's kernel is told besides what it was drawn with; from its next start on.

    The lab hands each machine its kernel: this is its boot menu.
    """
    machine = site.machine(name)
    text = virsh("dumpxml", "--inactive", machine.name)
    found = re.search(r"<cmdline>(.*?)</cmdline>", text, re.DOTALL)
    if found is None:
        raise LabError(f"{name}: it has no kernel command line")
    drawn = found[1].partition(BOOT_MARK)[0].rstrip()
    told = " ".join((drawn, BOOT_MARK, *map(xml.sax.saxutils.escape, words))) if words else drawn
    virsh("define", "/dev/stdin", data=text[: found.start(1)] + told + text[found.end(1) :])


def disk_of(site: Site, name: str) -> Path:
    """Return the image a machine's disk lies in, as QEMU has it."""
    text = virsh("dumpxml", "--inactive", site.machine(name).name)
    found = re.search(r"<source file='([^']+)'", text)
    if found is None:
        raise LabError(f"{name}: it has no disk")
    return Path(found[1])


def disk_digest(site: Site, name: str) -> str:
    """Return the SHA-256 of every byte a machine that is off would read from its disk."""
    state = virsh("domstate", site.machine(name).name)
    if state != "shut off":
        raise LabError(f"{name}: it is {state}; its disk holds still only when it is off")
    image = disk_of(site, name)
    raw = root_of(site) / f"{name}.raw"
    try:
        run(inside(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, raw]), timeout=1200)
        return run(["sha256sum", "--", raw], timeout=1200).stdout.split()[0]
    finally:
        raw.unlink(missing_ok=True)


def asleep(name: str, words: Sequence[str] = ()) -> None:
    """Start a machine that is off and stop it before its first instruction.

    ``words`` are arguments that its QEMU gets more than usual, this once: its definition stays.
    """
    if not words:
        virsh("start", name, "--paused")
        return
    space = "http://libvirt.org/schemas/domain/qemu/1.0"
    ET.register_namespace("qemu", space)
    domain = ET.fromstring(virsh("dumpxml", "--inactive", "--security-info", name))  # noqa: S314 - libvirt's own
    line = ET.SubElement(domain, f"{{{space}}}commandline")
    for word in words:
        ET.SubElement(line, f"{{{space}}}arg", value=word)
    path = STATE / f"{name}.once.xml"
    write_atomic(path, ET.tostring(domain, encoding="unicode"), 0o600)
    try:
        virsh("create", str(path), "--paused")
    finally:
        path.unlink(missing_ok=True)


def terminate_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into an exception, so that failure paths run."""

    def stop(number: int, _frame: object) -> None:
        raise LabError(f"stopped by {signal.Signals(number).name}")

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
