"""Plugging devices into a running machine: those of ``kinds.py``, by QEMU or by a model's player."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

from labkit.base import STATE, VAGRANT, LabError, run
from labkit.holder import inside, virsh
from labkit.kinds import KINDS as ALL
from labkit.kinds import PCI
from labkit.models import STICK_TEXT

KINDS = tuple(name for name, kind in ALL.items() if not kind.words)
STICK_LABEL = "STICK"
MEDIA = STATE / "media"
#: QEMU's name of the controller every machine has; another one's is given with the port.
BUS = "usb.0"


def hmp(machine: str, command: str) -> str:
    """Run one command in a machine's QEMU monitor; what it says is an error unless asked for."""
    return virsh("qemu-monitor-command", "--hmp", machine, command).strip()


def _must(machine: str, command: str) -> None:
    said = hmp(machine, command)
    if said and said != "OK":
        raise LabError(f"{machine}: {command}: {said}")


def medium(machine: str, name: str) -> Path:
    """Make a disk: 16 MiB, ext2, one file ``HELLO.TXT`` with a known text, which sector 0 holds too.

    ext2 leaves its first 1024 bytes to a boot loader.
    """
    path = MEDIA / f"{machine}-{name}.img"
    shutil.copyfile(_template(), path)
    return path


def _template() -> Path:
    """Return the disk that all are copies of; made once, and whole before it has its name."""
    path = MEDIA / "template.img"
    if not path.exists():
        draft = MEDIA / f".template.{os.getpid()}.{threading.get_ident()}"
        run(["mke2fs", "-q", "-t", "ext2", "-L", STICK_LABEL, "-d", folder(), draft, "16M"])
        with draft.open("r+b") as stream:
            stream.write(STICK_TEXT.encode())
        draft.rename(path)
    return path


def folder() -> Path:
    """Return a folder with the file ``HELLO.TXT``, as a telephone shows it."""
    content = MEDIA / "content"
    if not (content / "HELLO.TXT").exists():
        content.mkdir(parents=True, exist_ok=True)
        (content / "HELLO.TXT").write_text(STICK_TEXT)
    return content


def plugged(machine: str) -> list[str]:
    """Return the ids of what the lab has plugged into ``machine``."""
    rows = hmp(machine, "qom-list /machine/peripheral").splitlines()
    return [name for row in rows if (name := row.partition(" ")[0]).startswith("lab-")]


def name_of(kind: str, place: str) -> str:
    """Return the id of the device of ``kind`` at ``place``."""
    return f"lab-{kind}-{place.replace(':', '_')}"


def commands_of(machine: str, kind: str, name: str, *, place: str, serial: str = "") -> list[str]:
    """Return the monitor commands that plug a device in, its disk made and its player started.

    ``place`` is a port ("3", "3.1", or "BUS:3" on another controller than the first), a PCI slot
    ("10"), or "" for the first free one.
    """
    what = ALL[kind]
    bus, _, port = place.rpartition(":")
    if "{port}" in "".join(what.commands) and not port:
        raise LabError(f"{kind} consists of several devices: say at which port")
    at = ""
    if port:
        at = f",addr=0x{port}" if what.bus == PCI else f",bus={bus or BUS},port={port}"
    words = {
        "id": name, "at": at, "port": port, "bus": bus or BUS,
        "drive": f"drive-{name}-{int(time.time() * 1000)}",
        "serial": f",serial={serial}" if serial else "", "folder": str(folder()),
        "file": str(medium(machine, name)) if what.has_disk else "",
    }  # fmt: skip
    if not what.model:
        return [command.format(**words) for command in what.commands]
    socket = _play(machine, name, what.model, words["file"], serial)
    return [
        f"chardev-add socket,id=chr-{name},path={socket},server=off",
        f"device_add usb-redir,chardev=chr-{name},id={name}{at}",
    ]


def plug(machine: str, kind: str, *, serial: str = "", port: str = "") -> str:
    """Plug a device in and return its id.

    Args:
        machine: the machine's name.
        kind: one of ``KINDS``.
        serial: the device's serial number; its own when empty.
        port: the root port, "1" to "8", or the PCI slot in hex; the first free one when empty.

    """
    if kind not in KINDS:
        raise LabError(f"no such device {kind!r}; there are: {' '.join(KINDS)}")
    there = plugged(machine)
    name = name_of(kind, port or str(len(there) + 1))
    if name in there:
        raise LabError(f"{machine}: {name} is plugged in already")
    for command in commands_of(machine, kind, name, place=port, serial=serial):
        _must(machine, command)
    return name


def cold_words(machine: str, places: Iterable[tuple[str, str]]) -> list[str]:
    """Return QEMU's arguments for (kind, PCI slot) of what can only be there from power-on."""
    words: list[str] = []
    for kind, place in places:
        name = name_of(kind, place)
        values = {
            "id": name, "at": f",addr=0x{place}", "drive": f"drive-{name}",
            "file": str(medium(machine, name)),
        }  # fmt: skip
        words += [word.format(**values) for word in ALL[kind].words]
    return words


def _play(machine: str, name: str, model: str, disk: str, serial: str) -> Path:
    socket = MEDIA / f"{machine}-{name}.sock"
    socket.unlink(missing_ok=True)
    player = VAGRANT / "labkit" / "usbredir.py"
    words = [sys.executable, "-I", str(player), model, str(socket), disk, serial]
    log = (MEDIA / f"{machine}-{name}.log").open("wb")
    subprocess.Popen(
        inside(words, orphan=True), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
    )
    deadline = time.monotonic() + 20
    while not socket.exists():
        if time.monotonic() > deadline:
            raise LabError(f"{machine}: {name}: the player did not start; see {MEDIA}")
        time.sleep(0.05)
    return socket


def parts_of(kind: str, name: str) -> list[str]:
    """Return the ids of what makes up the device ``name``, the one at the root last."""
    what = ALL[kind]
    if what.bus == PCI or what.model:
        return [name]
    found = [re.search(r"device_add usb-.*?\bid=([^,]*\{id\}[^,{]*)", c) for c in what.commands]
    return [told[1].format(id=name) for told in reversed(found) if told]


def unplug(machine: str, name: str) -> None:
    """Pull a device out."""
    if name not in plugged(machine):
        raise LabError(f"{machine}: {name} is not plugged in: {' '.join(plugged(machine))}")
    for part in parts_of(name.removeprefix("lab-").rpartition("-")[0], name):
        _must(machine, f"device_del {part}")
    deadline = time.monotonic() + 20
    while name in plugged(machine):
        if time.monotonic() > deadline:
            raise LabError(f"{machine}: {name} did not go away within 20 s")
        time.sleep(0.1)
    forget(machine, [name], lambda command: hmp(machine, command))


def forget(machine: str, names: Sequence[str], say: Callable[[str], str]) -> None:
    """Remove what is left of devices that were pulled out: lines, wires, files."""
    time.sleep(0.3)
    for name in names:
        say(f"chardev-remove chr-{name}")
        say(f"netdev_del net-{name}")
        for path in MEDIA.glob(f"{machine}-{name}.*"):
            path.unlink(missing_ok=True)


def unplug_all(machine: str) -> None:
    """Pull out whatever the lab plugged into ``machine``."""
    for name in plugged(machine):
        unplug(machine, name)


class Monitor:
    """One lasting connection to a machine's QEMU monitor: a command costs milliseconds."""

    def __init__(self, machine: str) -> None:
        self.machine = machine
        self._virsh = subprocess.Popen(
            inside(["virsh", "-q", "-c", "qemu:///system"]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        )  # fmt: skip
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._virsh.stdin:
            self._virsh.stdin.close()
        self._virsh.wait(timeout=20)

    def _line(self, command: str) -> str:
        """Return virsh's next line; what was read beyond it is kept here, where select sees it."""
        assert self._virsh.stdout is not None  # noqa: S101 - PIPE was asked for
        while b"\n" not in self._rest:
            if not select.select([self._virsh.stdout], [], [], 300)[0]:
                raise LabError(f"{self.machine}: no answer to {command} within 300 s")
            more = self._virsh.stdout.read(65536)
            if not more:
                raise LabError(f"{self.machine}: virsh ended at {command}")
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace").strip()

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one QMP command and return its answer; `LabError` when QEMU refuses."""
        data = json.dumps({"execute": command, "arguments": arguments})
        assert self._virsh.stdin is not None  # noqa: S101 - PIPE was asked for
        self._virsh.stdin.write(f"qemu-monitor-command {self.machine} '{data}'\n".encode())
        while True:
            text = self._line(command).removeprefix("virsh # ").strip()
            if text.startswith("error:"):
                raise LabError(f"{self.machine}: {command}: {text}")
            if text.startswith("{"):
                answer = json.loads(text)
                break
        if "return" not in answer:
            raise LabError(f"{self.machine}: {command}: {answer.get('error')}")
        return answer["return"]

    def say(self, command: str) -> str:
        """Run one monitor command as a person types it; return what it says."""
        answer = self.qmp("human-monitor-command", **{"command-line": command})
        return str(answer).strip()

    def must(self, command: str) -> None:
        """Run one monitor command that has nothing to say; `LabError` when it does."""
        said = self.say(command)
        if said and said != "OK":
            raise LabError(f"{self.machine}: {command}: {said}")
