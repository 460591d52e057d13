"""The lab as tests and the demo use it: one object, one method per thing one can do."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from labkit import holder, machines, ssh, usb
from labkit.base import KEYS, REPOSITORY, LabError, Site, load_site, run


class Lab:
    """The running lab.

    Every method names its machine first. Failures of the lab itself raise ``LabError``; what a
    command inside a machine does is in the returned process (`returncode`, `stdout`, `stderr`).
    """

    def __init__(self) -> None:
        self.site: Site = load_site()

    @property
    def is_up(self) -> bool:
        """Return whether the lab's namespaces exist."""
        return holder.holder_pid() is not None

    def up(self, state: str = "") -> None:
        """Bring the lab up as saved in ``state``, or as it is by default."""
        choice = ["--restore", state] if state else []
        words = [str(REPOSITORY / "vagrant" / "lab"), "up", *choice]
        code = subprocess.run(words, check=False, start_new_session=True).returncode
        if code != 0:
            raise LabError(f"vagrant/lab up: exit {code}")

    def down(self) -> None:
        """End the lab; saved states stay."""
        holder.stop()

    def saved(self) -> list[str]:
        """Return the names of the saved states."""
        return list(machines.saved_states(self.site))

    def save(self, name: str) -> None:
        """Save all running machines as ``name``."""
        machines.save(self.site, name)

    def restore(self, name: str, *hosts: str) -> None:
        """Bring ``hosts`` (all when none is named) back as they were saved."""
        machines.restore(self.site, name, hosts)

    def exec(
        self, argv: Sequence[str], *, timeout: float = 600, data: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of this machine inside the lab's network (ansible, sekisho, tcpdump)."""
        return run(holder.inside(argv), timeout=timeout, check=False, data=data)

    def run(
        self, host: str, command: str, *, timeout: float = 60, data: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command on a machine as the administrator."""
        self.site.machine(host)
        return run(
            holder.inside(ssh.argv(host, [command])), timeout=timeout, check=False, data=data
        )

    def peer(
        self, peer: str, command: str, *, timeout: float = 60, data: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell command as root in a peer's network namespace on ``outside``."""
        words = f"sudo ip netns exec {peer} sh -c {quote(command)}"
        return self.run("outside", words, timeout=timeout, data=data)

    def console(self, host: str) -> ssh.Console:
        """Stand in front of a machine."""
        self.site.machine(host)
        return ssh.Console(host)

    def password(self) -> str:
        """Return the administrator's password at the console."""
        return (KEYS / f"{self.site.admin}.password").read_text().strip()

    def power_cut(self, host: str) -> None:
        """Cut the power of a machine."""
        machines.power_cut(self.site.machine(host).name)

    def power_on(self, host: str, *devices: str, wait: float = 300) -> float:
        """Start a machine that is off and return the seconds until it answered over SSH.

        ``devices`` are kinds of USB devices plugged in before it wakes; ``wait`` 0 does not wait.
        """
        machines.power_on(self.site, host, devices)
        return self.wait(host, timeout=wait) if wait else 0.0

    def boot_words(self, host: str, *words: str) -> None:
        """Set further words of a machine's kernel command line; none: as it was drawn."""
        machines.boot_words(self.site, host, words)

    def disk_digest(self, host: str) -> str:
        """Return the SHA-256 of the disk of a machine that is off."""
        return machines.disk_digest(self.site, host)

    def wait(self, host: str, *, timeout: float = 300) -> float:
        """Wait until a machine answers over SSH; return the seconds that took."""
        return ssh.answer(self.site.machine(host), timeout=timeout)

    def usb_plug(self, host: str, kind: str, *, serial: str = "", port: str = "") -> str:
        """Plug a USB device in (storage, uas, keyboard, composite) and return its id."""
        return usb.plug(self.site.machine(host).name, kind, serial=serial, port=port)

    def usb_unplug(self, host: str, name: str = "") -> None:
        """Pull one device out, or all the lab plugged in."""
        if name:
            usb.unplug(host, name)
        else:
            usb.unplug_all(host)

    def monitor(self, host: str, command: str) -> str:
        """Run one command in a machine's QEMU monitor."""
        return usb.hmp(self.site.machine(host).name, command)

    @property
    def inventory(self) -> Path:
        """Return the inventory the lab is drawn from."""
        return REPOSITORY / "inventory" / "lab"


def quote(text: str) -> str:
    """Quote ``text`` for a POSIX shell."""
    return "'" + text.replace("'", "'\\''") + "'"
