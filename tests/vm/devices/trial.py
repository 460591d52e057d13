"""What is done to one machine: boots and moments, and what was observed at each."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from labkit import usb
from labkit.base import LabError
from labkit.models import STICK_TEXT
from tests.vm.devices import plan
from tests.vm.devices.judge import WAYS, Delays, Event, Seen, delays, judge, lost, strays
from tests.vm.devices.machine import HOME, RUN, Machine
from tests.vm.devices.plan import Device

BEGAN = time.monotonic()
#: The kernel's last word before the first program of the initramfs runs.
INITRAMFS = "Run /init as init process"
PRETEND = "/run/sekisho-pretend"
#: Made before udev, as long as modules can be loaded; the gadgets need them.
PRETEND_UNIT = f"""\
[Unit]
Description=The battery's gadget modules, loaded before the wall closes
DefaultDependencies=no
Before=systemd-udevd.service systemd-udev-trigger.service sysinit.target battery-watch.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 {HOME}/pretend.py load
[Install]
WantedBy=sysinit.target
"""


@dataclass
class Observation:
    """What was observed at one moment on one machine.

    Attributes:
        moment: the moment's name.
        seen: kind → what it did.
        strays: ways that opened where no device of ours sits.
        lost: whether announcements of the kernel were lost.
        seconds: how long the moment took.
        delays: plug to journal.
        error: why the moment failed, or "".

    """

    moment: str
    seen: dict[str, Seen] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    lost: bool = False
    seconds: float = 0.0
    delays: Delays = field(default_factory=lambda: Delays((), ()))
    error: str = ""


def say(text: str) -> None:
    """Print one line of progress."""
    sys.stdout.write(f"[{time.monotonic() - BEGAN:6.1f} s] {text}\n")
    sys.stdout.flush()


def _docks() -> list[str]:
    """Return QEMU's arguments for the battery's own USB controllers."""
    return [
        word
        for bus, pci, ports in plan.MORE
        for word in ("-device", f"qemu-xhci,id={bus[:-2]},addr=0x{pci[8:10]},p2={ports},p3={ports}")
    ]


@dataclass
class Trial:
    """All that is done to one machine."""

    machine: Machine
    walled: bool
    devices: tuple[Device, ...]
    kinds_only: bool = False  # only devices of QEMU's were asked for: nothing is pretended
    observed: dict[str, Observation] = field(default_factory=dict)

    def boot(self, moment: str, *, pretend: bool = False) -> None:
        """Cut the power and boot with everything plugged in, from the start or in the initramfs."""
        machine = self.machine
        if pretend:
            machine.equip(("battery-pretend.service", PRETEND_UNIT))
        machine.off()
        words = _docks()
        cold = [d for d in self.devices if d.cold]
        words += usb.cold_words(machine.name, [(d.kind, d.place) for d in cold])
        machine.asleep(words)
        with self._observing(moment) as note, usb.Monitor(machine.name) as monitor:
            if moment == "initramfs":
                self._pull(monitor, cold)
                with machine.console_at(INITRAMFS):
                    self._plug(monitor, self.devices)
            else:
                self._plug(monitor, [d for d in self.devices if not d.cold])
                machine.resume()
            machine.answer()
            self._settle(self.devices, turned=True)
            note(self.devices)
            self._pull(monitor, self.devices)
            machine.mark()

    def dock(self) -> None:
        """Plug the battery's USB controllers into the running machine."""
        with usb.Monitor(self.machine.name) as monitor:
            there = monitor.say("qom-list /machine/peripheral")
            for (bus, _, _), word in zip(plan.MORE, _docks()[1::2], strict=True):
                if bus.removesuffix(".0") not in there:
                    monitor.must(f"device_add {word}")

    def moment(self, moment: str, devices: Sequence[Device], *, after: str = "") -> None:
        """Plug devices in at one moment of the running machine, look, and pull them out."""
        cases = {c.device for c in plan.cases() if c.moment == moment and not c.skipped}
        chosen = [device for device in devices if device in cases]
        if not chosen:
            return
        machine = self.machine
        with self._observing(moment + after) as note, usb.Monitor(machine.name) as monitor:
            if self.walled and moment == "running":  # SSH answers before the boot is through
                machine.root("until systemctl -q is-active sekisho-agent; do sleep 0.5; done")
            machine.mark()
            with self._during(moment):
                if moment == "burst":
                    self._burst(monitor, chosen)
                times = self._plug(monitor, chosen)
                if moment == "resume":
                    machine.resume()
                self._settle(chosen, journal=self.walled and moment == "running")
                if meanwhile := _SWITCH.get(moment, ("", "", ""))[1]:
                    machine.root(meanwhile)
                note(chosen, times)
                self._pull(monitor, chosen)
                machine.mark()

    def pretended(self, moment: str) -> None:
        """Let the machine pretend devices at one moment, look, and let it stop."""
        machine, chosen = self.machine, plan.pretended()
        names = [d.kind.partition("-") for d in chosen]
        gadgets = ",".join(rest for first, _, rest in names if first == "gadget")
        models = ",".join(rest for first, _, rest in names if first == "usbip")
        with self._observing(f"{moment}/pretended") as note:
            machine.mark()
            with self._during(moment):
                machine.root(
                    f"setsid python3 {HOME}/pretend.py play {PRETEND} {gadgets} {models} "
                    f"</dev/null >/dev/null 2>{RUN}/pretended & echo $! > {RUN}/player; n=0; "
                    f"until [ -e {PRETEND}/ready ]; do sleep 0.5; n=$((n+1)); "
                    f"[ $n -lt 600 ] && kill -0 $! || {{ cat {RUN}/pretended >&2; exit 1; }}; done"
                )
                self._settle(chosen)
                note(chosen)
                machine.root(f"kill $(cat {RUN}/player)")
                time.sleep(1)
                machine.mark()

    @contextlib.contextmanager
    def _observing(self, moment: str) -> Iterator[Callable[..., None]]:
        """Keep an observation; a failure of the lab is kept too, so that the rest is still tried."""
        found = self.observed[moment] = Observation(moment)
        started = time.monotonic()
        where = f"{self.machine.name}{'' if self.walled else ' (no wall)'}: {moment}"
        say(where)

        def note(chosen: Sequence[Device], times: dict[str, float] | None = None) -> None:
            probe = self.machine.probe([
                {"id": d.kind, "place": d.path, "text": STICK_TEXT,
                 "deep": bool({"bulk", "mtp", "alternate"} & set(d.gives))}
                for d in chosen
            ])  # fmt: skip
            events: list[Event] = self.machine.mark()
            found.seen = {d.kind: judge(d, events, probe[d.kind]) for d in chosen}
            if moment not in plan.BOOTS:  # there the machine's own devices come, too
                found.strays = strays(chosen, [e for e in events if e["k"] != "first"])
            found.lost = lost(events)
            found.delays = delays(chosen, events, times or {})

        try:
            yield note
        except LabError as bad:
            found.error = " ".join(str(bad)[-400:].split())
            say(f"{where}: {found.error}")
        found.seconds = time.monotonic() - started
        leaks = sum(bool(s.leaks) for s in found.seen.values())
        say(f"{where}: {len(found.seen)} devices, {leaks} let in, {found.seconds:.1f} s")

    def _plug(self, monitor: usb.Monitor, devices: Sequence[Device]) -> dict[str, float]:
        """Plug devices in, all at once; return when each was, by this machine's clock."""
        name = self.machine.name

        def prepare(device: Device) -> list[str]:
            if device.cold:
                place = usb.MEDIA / f"{name}-{usb.name_of(device.kind, device.place)}.img"
                return [f"change drive-{usb.name_of(device.kind, device.place)} {place} raw"]
            ident = usb.name_of(device.kind, device.place)
            return usb.commands_of(
                name, device.kind, ident, place=device.place, serial=device.serial
            )

        with ThreadPoolExecutor(4) as pool:
            commands = list(pool.map(prepare, devices))
        times = {}
        for device, lines in zip(devices, commands, strict=True):
            times[device.kind] = time.monotonic()
            for line in lines:
                monitor.must(line)
        return times

    def _pull(self, monitor: usb.Monitor, devices: Sequence[Device]) -> None:
        """Pull devices out and wait until the machine has let go of them."""
        names = []
        for device in devices:
            name = usb.name_of(device.kind, device.place)
            if device.cold:
                monitor.say(f"eject -f drive-{name}")
                continue
            names.append(name)
            for part in usb.parts_of(device.kind, name):
                monitor.must(f"device_del {part}")
        deadline = time.monotonic() + 300
        while left := [n for n in names if n in monitor.say("qom-list /machine/peripheral")]:
            if time.monotonic() > deadline:
                raise LabError(f"{self.machine.name}: did not let go of {' '.join(left)}")
            time.sleep(0.2)
        usb.forget(self.machine.name, names, monitor.say)

    def _settle(
        self,
        devices: Sequence[Device],
        *,
        journal: bool = False,
        turned: bool = False,
        timeout: float = 400,
    ) -> None:
        """Wait until the kernel saw every device and has nothing to say for a while.

        ``turned``: what comes back as another device may have done so before the watcher began.
        """
        wanted = {d.kind: 2 if d.turns and not turned else 1 for d in devices if not d.cold}
        deadline, quiet, read = time.monotonic() + timeout, time.monotonic(), 0
        came: dict[str, int] = {}
        told: set[str] = set()
        while time.monotonic() < deadline:
            self.machine.take(0.3)
            for event in self.machine.events[read:]:
                if event["k"] in {"event", "there", "authorized", "journal"}:
                    quiet = time.monotonic()
                for device in devices:
                    if not device.owns(event.get("path", "")):
                        continue
                    if event["k"] == "journal":
                        told.add(device.kind)
                    elif event["k"] == "event" and event["action"] == "add":
                        came[device.kind] = came.get(device.kind, 0) + (
                            event["type"] == "usb_device" or event["sub"] == "pci"
                        )
            read = len(self.machine.events)
            waiting = [k for k, count in wanted.items() if came.get(k, 0) < count]
            if not self.walled:  # a driver may take its time
                made = {d.kind: judge(d, self.machine.events, None).got for d in devices}
                waiting += [
                    d.kind for d in devices if not d.cold and set(d.gives) & WAYS - made[d.kind]
                ]
            if journal:
                waiting += [k for k in wanted if k not in told]
            if not waiting and time.monotonic() - quiet > 1.5:
                return
        say(f"{self.machine.name}: waited {timeout:.0f} s for {' '.join(sorted(set(waiting)))}")

    def _burst(self, monitor: usb.Monitor, devices: Sequence[Device]) -> None:
        """Plug in and pull out as fast as QEMU can, one plug less than asked for is left."""
        rounds = math.ceil(plan.PLUGS / len(devices)) - 1
        for _ in range(rounds):
            self._plug(monitor, devices)
            time.sleep(0.5)
            self._pull(monitor, devices)

    @contextlib.contextmanager
    def _during(self, moment: str) -> Iterator[None]:
        machine = self.machine
        stop, _, start = _SWITCH.get(moment, ("", "", ""))
        if moment == "resume":
            machine.pause()
        if stop:
            machine.root(stop)
        try:
            yield
        finally:
            if start:
                machine.root(start)


_UDEV = "systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udevd.service"
#: What makes a moment, what must be so before one looks (two reloads are through), what ends it.
_SWITCH = {
    "agent-stopped": ("systemctl stop sekisho-agent", "", "systemctl start sekisho-agent"),
    "udev-stopped": (f"systemctl stop {_UDEV}", "", f"systemctl start {_UDEV}"),
    "policy-reload": (
        (
            f"rm -f {RUN}/reloads; setsid sh -c 'while :; do /usr/lib/sekisho/usb-enforce && "
            "udevadm control --reload && systemctl reload sekisho-agent && "
            f"echo . >> {RUN}/reloads; done' </dev/null >/dev/null 2>&1 & echo $! > {RUN}/reloader"
        ),
        (
            f"n=0; until [ -e {RUN}/reloads ] && [ $(wc -l < {RUN}/reloads) -ge 2 ]; "
            "do sleep 1; n=$((n+1)); [ $n -lt 150 ]; done"
        ),
        f"kill $(cat {RUN}/reloader)",
    ),
}


def everything(trial: Trial, moments: Sequence[str]) -> None:
    """Take one machine through its moments, its boots and what it pretends; it keeps what it saw.

    Where the lab itself fails the rest is not tried: its cases say so and prove nothing.

    Without the wall the moments of a running machine come first, as it was restored: a boot is what
    costs. What can only be there from power-on is tried at the same moments after the first boot.
    """
    try:
        _all(trial, moments)
    except LabError as bad:
        say(f"{trial.machine.name}: given up: {str(bad)[:600]}")
    finally:
        trial.machine.hush()


def _all(trial: Trial, moments: Sequence[str]) -> None:
    runs = [moment for moment in moments if moment in plan.RUNS]
    hot = [device for device in trial.devices if not device.cold]
    cold = [device for device in trial.devices if device.cold]
    trial.machine.equip()
    trial.machine.listen()
    if trial.walled:
        # Behind the wall a controller that comes later is nobody's: the docks are there at power-on.
        trial.boot("cold-boot")
        for moment in runs if hot else ():
            trial.moment(moment, hot)
    else:
        if runs and hot:
            trial.dock()
        for moment in runs if hot else ():
            trial.moment(moment, hot)
        if "running" in runs and not trial.kinds_only:
            trial.machine.root(f"python3 {HOME}/pretend.py load")
            trial.pretended("running")
        if "cold-boot" in moments:
            trial.boot("cold-boot")
    if "cold-boot" in trial.observed:
        for moment in runs if cold else ():
            trial.moment(moment, cold, after="/cold")
    if "initramfs" in moments:
        trial.boot("initramfs", pretend=True)
        for moment in plan.PRETENDED_MOMENTS if not trial.kinds_only else ():
            trial.pretended(moment)
