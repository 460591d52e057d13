"""Attack 1: sticks and a second keyboard plugged into the managing server. Item 6(iii)(c)."""

from __future__ import annotations

from tests.vm.trial import Lab, Trial, until

TITLE = "A USB stick and a UAS stick are plugged into core"
HOST = "core-1"


def _blocks(lab: Lab, host: str) -> set[str]:
    seen = lab.root(host, "ls /sys/block")
    if seen.code != 0 or not seen.out.strip():  # silence is not "no block device"
        msg = f"{host} does not say which block devices it has: {seen.err[-200:]}"
        raise RuntimeError(msg)
    return set(seen.out.split())


def _usb(lab: Lab, host: str) -> list[str]:
    """Return vendor:product:serial:authorized of every device that is not a root hub."""
    seen = lab.root(
        host,
        "cd /sys/bus/usb/devices; for d in [0-9]*-*; do case $d in *:*) continue;; esac; "
        'echo "$d $(cat $d/idVendor):$(cat $d/idProduct) $(cat $d/serial 2>/dev/null) '
        'authorized=$(cat $d/authorized)"; done',
    )
    return [line for line in seen.out.splitlines() if "authorized=" in line]


def _unplug(lab: Lab) -> None:
    lab.driver("usb-unplug", HOST)
    until(lambda: not _usb(lab, HOST), timeout=15, every=0.5)


def _attempts(lab: Lab) -> int:
    return len(lab.journal(HOST, "device."))


def _plug(lab: Lab, trial: Trial, kind: str, before: set[str], *, agent: bool) -> None:
    known = _attempts(lab) if agent else 0
    trial.step(f"plug in: {kind}{'' if agent else ' (agent stopped)'}")
    lab.driver("usb-plug", HOST, kind, "--serial", f"EVIL-{kind.upper()}", "--port", "3")
    seen, _ = until(lambda: [row for row in _usb(lab, HOST) if "EVIL" in row], timeout=15)
    trial.expect(f"{kind}: the kernel sees the device and does not authorise it",
                 bool(seen) and all(row.endswith("authorized=0") for row in seen), seen)  # fmt: skip
    new = _blocks(lab, HOST) - before
    trial.expect(f"{kind}: no block device appears", not new, sorted(new))
    if agent:
        told, took = until(lambda: _attempts(lab) > known, timeout=20)
        trial.expect(f"{kind}: the journal holds the attempt", told, f"within {took:.1f} s")
    _unplug(lab)


def run(lab: Lab, trial: Trial) -> None:
    """Plug, look, stop the agent, plug again, boot with the stick in, and show the positive control."""
    before = _blocks(lab, HOST)
    for kind in ("storage", "uas"):
        _plug(lab, trial, kind, before, agent=True)

    trial.step("plug in the listed keyboard at the console's port")
    lab.driver("usb-plug", HOST, "keyboard", "--serial", "SEKISHO-KBD-1", "--port", "1")
    rows, _ = until(
        lambda: [r for r in _usb(lab, HOST) if "SEKISHO-KBD-1" in r and "authorized=1" in r],
        timeout=15,
    )
    trial.expect("the listed keyboard is admitted", rows, rows)
    typed, _ = until(
        lambda: "keyboard" in lab.root(HOST, "cat /sys/class/input/input*/name").out.lower(),
        timeout=20,
    )
    trial.expect("and the kernel takes its keys", typed)
    _unplug(lab)

    trial.step("the same keyboard's copy at another port")
    lab.driver("usb-plug", HOST, "keyboard", "--serial", "SEKISHO-KBD-1", "--port", "3")
    rows, _ = until(lambda: [r for r in _usb(lab, HOST) if "SEKISHO-KBD-1" in r], timeout=15)
    trial.expect("a copy at another port is refused",
                 bool(rows) and all(r.endswith("authorized=0") for r in rows), rows)  # fmt: skip
    _unplug(lab)

    trial.step("stop the agent: the kernel's wall must hold alone")
    lab.root(HOST, "systemctl stop sekisho-agent")
    for kind in ("storage", "uas"):
        _plug(lab, trial, kind, before, agent=False)

    trial.step("boot with a stick in the port, agent masked")
    known = _attempts(lab)
    lab.root(HOST, "systemctl mask sekisho-agent; sync")
    lab.driver("power-cut", HOST)
    lab.driver("power-on", HOST, "--usb", "storage", timeout=400)
    back, took = until(lambda: lab.user(HOST, "true", timeout=40).code == 0, timeout=400, every=1)
    trial.expect("the machine is back", back, f"{took:.0f} s")
    rows, _ = until(lambda: _usb(lab, HOST), timeout=30)
    trial.expect("booted with it: seen and not authorised",
                 bool(rows) and all(r.endswith("authorized=0") for r in rows), rows)  # fmt: skip
    new = _blocks(lab, HOST) - before
    trial.expect("booted with it: no block device", not new, sorted(new))
    lab.root(HOST, "systemctl unmask sekisho-agent; systemctl start sekisho-agent")
    told, took = until(lambda: _attempts(lab) > known, timeout=30)
    trial.expect("the agent, started later, journals what it found in the port", told,
                 f"within {took:.1f} s")  # fmt: skip
    _unplug(lab)

    now, _ = until(
        lambda: lab.metric(f'sekisho_device_attempts_total{{host="{HOST}"}}'), timeout=90, every=5
    )
    trial.expect("the monitor's metric counts attempts", now > 0, now)

    trial.step("positive control: the same stick on a machine without the wall")
    free = _blocks(lab, "outside")
    lab.driver("usb-plug", "outside", "storage", "--serial", "EVIL-CONTROL", "--port", "3")
    new, _ = until(lambda: _blocks(lab, "outside") - free, timeout=30)
    disk = min(new) if new else ""
    read = lab.root("outside", f"head -c 512 /dev/{disk} | wc -c") if disk else None
    trial.expect("with the wall down it is a readable disk",
                 read is not None and read.out.strip() == "512", f"/dev/{disk}")  # fmt: skip
    lab.driver("usb-unplug", "outside")
