"""The kernel's announcements of devices, as the agent hears them: a real socket, a full buffer.

Run by `ownspace.scene` in namespaces of its own. There root may have the kernel announce anything
on its own socket (lib/kobject_uevent.c, since Linux 4.18): what arrives is the kernel's, sender,
groups and sequence number too, and what does not fit is thrown away as it is on a server. umockdev
would stand in for that socket with a unix socket, which waits for its reader and loses nothing.
The devices are folders on a file system in memory, whose inode numbers count up as those of sysfs.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "tests")]

from agentworld import Host, parsed  # noqa: E402 - the path comes first
from sekisho.devices.uevent import Uevent  # noqa: E402
from sekisho.host.agent.loop import Loop  # noqa: E402
from sekisho.host.agent.parts.devices import DevicesPart  # noqa: E402
from sekisho.host.agent.reporter import RATE  # noqa: E402
from sekisho.host.kernel import udev as udev_watch  # noqa: E402

MANY, SOME = 5000, 600  # devices; the buffer holds some 150 announcements
HOSTILE = (
    b"\x1b]0;owned\x07\x1b[2J", b"\xff\xfe\x00\x80", "\u202e\u2066evil".encode(),
    b"=@\n\nACTION=remove", b"a" * 5000, b"../../../../etc/shadow", b"%s%n${jndi}",
    b"\"'<script>", b"",
)  # fmt: skip


class Monitor(udev_watch.DeviceMonitor):
    """The agent's monitor, which a scene may break."""

    broken = False

    def added(self, limit: int = 64) -> Iterator[Uevent]:
        """Yield what waits."""
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        return super().added(limit)


class Hasty(Monitor):
    """Tells of a loss as soon as the kernel does, while some of what came before it waits."""

    def _tell_loss(self) -> None:
        pass

    def added(self, limit: int = 64) -> Iterator[Uevent]:
        """Yield what waits."""
        kind = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if kind == errno.ENOBUFS:
            raise udev_watch.AnnouncementsLostError(1)
        return super().added(limit)


class World:
    """A machine's devices, the kernel that announces them, and the agent's part."""

    def __init__(self, folder: Path, mutant: str = "") -> None:
        self.host = Host(folder)
        self.sys = self.host.paths.sys
        for name in ("bus/usb/devices", "block", "class/net", "bus/thunderbolt/devices"):
            (self.sys / name).mkdir(parents=True, exist_ok=True)
        self._kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
        self._kernel.bind((0, 0))
        self.failures: list[str] = []
        self.loop = Loop(lambda part, error: self.failures.append(f"{part}: {error}"))
        self.later: list[Callable[[], None]] = []
        self.part = DevicesPart(
            self.host.book, self.host.paths, lambda _, call: self.later.append(call)
        )
        self.part.policy(parsed())
        self.attached: Counter[str] = Counter()
        self.judged: Counter[str] = Counter()
        self.refuse = 0  # how often no monitor can be opened
        self.monitor: Monitor | None = None
        self._kind: type[Monitor] = Hasty if mutant == "told at once" else Monitor
        record, take = self.part._record, self.part._announced

        def recorded(judged: Any, folder: Path, when: str) -> None:
            self.judged[folder.name] += 1
            record(judged, folder, when)

        def forgetful(event: Uevent) -> None:
            self.part._told.clear()
            take(event)

        self.part._record = recorded  # type: ignore[method-assign]
        if mutant == "no resync":
            self.part._find = lambda: 0  # type: ignore[method-assign]
        if mutant == "no counter":
            self.host.metrics.add = lambda *_, **__: None  # type: ignore[method-assign]
        if mutant == "no memory":
            self.part._announced = forgetful  # type: ignore[method-assign]

    def opened(self) -> Monitor:
        """Open a monitor with a small buffer."""
        if self.refuse:
            self.refuse -= 1
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        self.monitor = self._kind(64 * 1024)
        return self.monitor

    def start(self) -> None:
        """Start as the agent does."""
        self.part.hear(self.loop, self.opened)
        self.part.record()

    def announce(self, path: str, subsystem: str, devtype: str = "", **more: object) -> None:
        """Have the kernel announce an added device."""
        values = {"ACTION": "add", "DEVPATH": path, "SUBSYSTEM": subsystem, "DEVTYPE": devtype}
        told = {key: value for key, value in {**values, **more}.items() if value != ""}
        self.say(b"add@" + os.fsencode(path), *(f"{k}={v}" for k, v in told.items()))

    def say(self, head: bytes, *fields: str) -> None:
        """Have the kernel announce these bytes; it adds the sequence number."""
        body = b"".join(part + b"\0" for part in (head, *map(os.fsencode, fields)))
        self._kernel.sendto(struct.pack("=IHHII", 16 + len(body), 16, 1, 0, 0) + body, (0, 0))

    def plug(self, number: int, *, told: bool = True, strange: bytes | None = None) -> Path:
        """Attach a USB device: its folder, then its announcement."""
        name = f"{1 + number // 100}-{1 + number % 100}.{number}"
        folder = self.sys / f"devices/pci0000:00/usb{1 + number // 100}/{name}"
        folder.mkdir(parents=True)
        (folder / "devnum").write_bytes(b"%d\n" % (number + 2))
        for key in ("serial", "product", "descriptors", "idVendor", "devpath"):
            if strange is not None:
                (folder / key).write_bytes(strange)
        (self.sys / "bus/usb/devices" / name).symlink_to(folder)
        self.attached[name] += 1
        if told:
            self.tell(folder, number)
        return folder

    def tell(self, folder: Path, number: int) -> None:
        """Announce a USB device that was plugged in, as usb_uevent does."""
        self.announce(
            udev_watch.place(folder, self.sys), "usb", "usb_device", MAJOR=189, MINOR=number,
            DEVNAME=f"bus/usb/{number:03}", PRODUCT="46f4/1/100", TYPE="0/0/0",
            BUSNUM=f"{1 + number // 100:03}", DEVNUM=f"{number + 2:03}",
        )  # fmt: skip

    def unplug(self, folder: Path) -> None:
        """Take a USB device away; that it was there stays true."""
        (self.sys / "bus/usb/devices" / folder.name).unlink()
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()

    def turn(self) -> None:
        """Turn the agent's loop until no announcement waits."""
        for _ in range(MANY):
            self.loop.after("test", 0.0, lambda: None)
            self.loop.turn()
            if self.monitor is None or self.monitor.fileno() < 0:
                return
            (waiting,) = struct.unpack("=I", self.monitor._socket.getsockopt(1, 55, 4))
            if not waiting:
                return

    def settle(self) -> None:
        """Do what the agent does some seconds later."""
        later, self.later = self.later, []
        for call in later:
            call()

    def result(self) -> dict[str, Any]:
        """Return what was judged against what was attached, and what was counted and told."""
        told, metrics = self.host.journal.events, self.host.metrics
        attempts = [data for kind, data in told if kind == "device.attempt"]
        return {
            "missed": sorted((self.attached - self.judged).elements()),
            "twice": sorted((self.judged - self.attached).elements()),
            "attached": self.attached.total(),
            "dropped": metrics.get("sekisho_agent_dropped_total", "devices"),
            "counted": sum(
                value for (name, _), value in metrics._now.items()
                if name == "sekisho_device_attempts_total"
            ),
            "losses": [data for kind, data in told if kind == "devices.announcements-lost"],
            "attempts": attempts[:50],
            "up": int(self.host.book.parts()["devices"]),
            "failures": self.failures,
        }  # fmt: skip


def burst(world: World) -> None:
    """Five thousand devices, one after the other; the agent reads meanwhile."""
    world.start()
    for number in range(MANY):
        world.plug(number)
        if number % 16 == 15:
            world.turn()
            world.host.now += 16 / RATE  # the journal takes so many a second
    world.turn()
    world.settle()


def overflow(world: World) -> None:
    """Five thousand devices while the agent is busy with something else."""
    world.start()
    for number in range(MANY):
        world.plug(number)
    world.turn()
    folder = world.plug(MANY)  # it hears again
    world.turn()
    world.tell(folder, MANY)  # announced again (udevadm trigger): nothing new
    world.turn()


def drained(world: World) -> None:
    """Devices come while the agent reads what waited: the kernel says nothing of those."""
    world.start()
    for number in range(SOME):
        world.plug(number)
    take, late = world.part._announced, iter(range(SOME, SOME + 3))

    def slow(event: Uevent) -> None:
        take(event)
        for number in late:
            world.plug(number)

    world.part._announced = slow  # type: ignore[method-assign]
    world.turn()


def reopened(world: World) -> None:
    """The monitor breaks; devices come while there is none, and the first try opens none."""
    world.start()
    world.plug(0)
    world.turn()
    assert world.monitor is not None
    world.monitor.broken = True
    world.refuse = 1
    world.plug(1)
    world.turn()
    world.plug(2)
    world.part.look()
    world.failures.append(f"up: {world.result()['up']:.0f}")
    world.plug(3)
    world.part.look()
    world.plug(4)
    world.turn()


def vanished(world: World) -> None:
    """Devices that are gone, or that another has replaced, before they are read."""
    world.start()
    world.unplug(world.plug(0))
    world.turn()
    first = world.plug(1)
    world.unplug(first)
    world.plug(1, told=False)
    (first / "devnum").write_text("99\n")
    world.announce(
        udev_watch.place(first, world.sys), "usb", "usb_device", DEVNUM="099", BUSNUM="001"
    )
    world.turn()
    for name, subsystem in (("sdz", "block"), ("eth9", "net"), ("0-1", "thunderbolt")):
        path = f"/devices/pci0000:00/0000:00:1d.0/{name}"
        world.announce(path, subsystem, "disk" if subsystem == "block" else "")
        world.attached[name] += 1
    world.turn()


def hostile(world: World) -> None:
    """Strings of a device's maker, and announcements that no kernel writes."""
    world.start()
    for number, text in enumerate(HOSTILE):
        world.plug(number, strange=text)
    world.turn()
    good = ("ACTION=add", "SUBSYSTEM=usb", "DEVTYPE=usb_device")
    for path in ("/devices/../../etc", "devices/x", "/devices//x", "", "/devices/./x"):
        world.say(b"add@" + path.encode(), *good, f"DEVPATH={path}")
    world.say(b"add@/devices/a", *good, "DEVPATH=/devices/b")
    world.say(b"add@/devices/c", "DEVPATH=/devices/c")
    world.say(b"")
    world.say(b"add@/devices/" + b"d" * 9000, *good, f"DEVPATH=/devices/{'d' * 9000}")
    # A name that no encoding holds, and a field that says the first ones again.
    name = os.fsdecode(b"\xff\xfe-evil\x1b[2J")
    world.announce(
        f"/devices/pci0000:00/{name}", "thunderbolt", ACTION2="x", NAME="x\nACTION=remove"
    )
    world.attached[name] += 1
    world.say(
        b"add@/devices/usb9/9-9", "ACTION=add", "DEVPATH=/devices/usb9/9-9", "SUBSYSTEM=usb",
        "DEVTYPE=usb_device", "SUBSYSTEM=none", "DEVPATH=/devices/usb9/other", "PRODUCT=%s/-1/..",
    )  # fmt: skip
    world.attached["9-9"] += 1
    world.turn()


def elsewhere(world: World) -> None:
    """What came another way than USB is found after a loss, the machine's own is not told."""
    bus = world.sys / "bus/thunderbolt/devices"
    for name in ("0-0", "domain0"):
        (bus / name).mkdir()
    (world.sys / "class/net/eth0").mkdir()
    (world.sys / "block/sda").mkdir()
    world.start()
    for path, name in (
        (bus, "0-1"),
        (world.sys / "class/net", "eth1"),
        (world.sys / "block", "sdb"),
    ):
        (path / name).mkdir()
        world.attached[name] += 1
    (world.sys / "block/sda").rename(world.sys / "block/gone")
    (world.sys / "block/sda").mkdir()  # another disk of that name
    (world.sys / "block/gone").rmdir()
    world.attached["sda"] += 1
    for number in range(SOME):
        world.announce(f"/devices/virtual/{number}", "input")  # not ours, and yet it takes room
    world.turn()


def own(world: World) -> None:
    """The kernel's own words: a network card of its making, in this namespace."""
    world.start()
    assert world.monitor is not None
    udev_watch.worth_telling = lambda *_: True  # type: ignore[assignment]
    subprocess.run(["ip", "link", "add", "sekisho0", "type", "veth"], check=True)
    path = "/devices/virtual/net/sekisho0"
    (event,) = [one for one in world.monitor.added() if one.path == path]
    index = str(socket.if_nametoindex("sekisho0"))
    assert (event.subsystem, event.values["IFINDEX"], event.number) == (
        "net", index, ("ifindex", int(index)),
    )  # fmt: skip


SCENES: dict[str, Callable[[World], None]] = {
    one.__name__: one
    for one in (burst, overflow, drained, reopened, vanished, hostile, elsewhere, own)
}


def main() -> None:
    """Play the scene that is named, with the mutant that may be."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
        try:
            os.chdir(folder)
            world = World(Path(folder), *sys.argv[2:3])
            SCENES[sys.argv[1]](world)
            sys.stdout.write(json.dumps(world.result()))
        finally:
            os.chdir("/")
            subprocess.run(["umount", "-l", folder], check=True)


if __name__ == "__main__":
    main()
