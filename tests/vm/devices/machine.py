"""One machine under test: its watcher, its QEMU monitor, and what both tell, in order."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import queue
import shlex
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit import machines, ssh, usb
from labkit.base import LabError, Site, run
from labkit.holder import inside, virsh

GUEST = Path(__file__).parent / "guest"
LABKIT = Path(usb.__file__).parent
HOME = "/var/lib/sekisho-battery"  # on the machine's disk: it must be there at its next boot
RUN = "/run/sekisho-battery"
UNIT = f"""\
[Unit]
Description=The battery's watcher: writes down what the kernel announces
DefaultDependencies=no
Before=systemd-udevd.service systemd-udev-trigger.service sysinit.target
[Service]
ExecStart=/usr/bin/python3 {HOME}/watch.py {RUN}
[Install]
WantedBy=sysinit.target
"""
Event = dict[str, Any]


@dataclass
class Machine:
    """A machine of the lab with the battery's watcher on it."""

    name: str
    site: Site
    events: list[Event] = field(default_factory=list)
    _channel: subprocess.Popen[str] | None = None
    _lines: queue.Queue[Event | None] = field(default_factory=queue.Queue)
    _marks: int = 0

    def root(self, command: str, *, timeout: float = 1200, data: str | None = None) -> str:
        """Run a shell command as root and return what it printed; `LabError` when it fails."""
        words = ssh.argv(self.name, [f"sudo -n sh -c {shlex.quote(command)}"])
        done = run(inside(words), timeout=timeout, check=False, data=data)
        if done.returncode != 0:
            raise LabError(f"{self.name}: {command[:80]}: {done.returncode}: {done.stderr[-600:]}")
        return done.stdout

    def equip(self, *units: tuple[str, str]) -> None:
        """Put the tools on the machine's disk, start the watcher, and have ``units`` at the next boot.

        Everything goes in one stream and past systemd, which would read all its files again: each
        command costs an emulated machine a second or more.
        """
        held = {f"{HOME}/{path.name}": path.read_text() for path in sorted(GUEST.glob("*.py"))}
        held[f"{HOME}/labkit/models.py"] = (LABKIT / "models.py").read_text()
        wanted = (("battery-watch.service", UNIT), *units)
        held |= {f"/etc/systemd/system/{name}": text for name, text in wanted}
        memory = io.BytesIO()
        with tarfile.open(fileobj=memory, mode="w") as tar:
            for name, text in held.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                entry.size, entry.mode = len(text.encode()), 0o644
                tar.addfile(entry, io.BytesIO(text.encode()))
            for name, _text in wanted:
                entry = tarfile.TarInfo(f"etc/systemd/system/sysinit.target.wants/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, f"/etc/systemd/system/{name}"
                tar.addfile(entry)
        self.root(
            f"base64 -d | tar -C / -x --no-same-owner && sync && mkdir -p -m 0700 {RUN} && "
            f"{{ setsid python3 {HOME}/watch.py {RUN} </dev/null >/dev/null 2>{RUN}/said & }}",
            data=base64.b64encode(memory.getvalue()).decode(),
        )

    def listen(self) -> None:
        """Open the lasting connection to the watcher; what it wrote so far comes first."""
        self.hush()
        self._lines = queue.Queue()
        command = (
            f"until [ -p {RUN}/marks ]; do sleep 0.2; done; "
            f"tail -n +1 -f {RUN}/record & cat > {RUN}/marks; kill $!"
        )
        self._channel = subprocess.Popen(
            inside(ssh.argv(self.name, [f"sudo -n sh -c {shlex.quote(command)}"])),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        threading.Thread(
            target=_pump, args=(self._channel, self._lines), daemon=True, name=f"{self.name}-watch"
        ).start()

    def hush(self) -> None:
        """Close the connection to the watcher."""
        if self._channel is not None:
            self._channel.kill()
            self._channel.wait()
        self._channel = None

    def take(self, seconds: float) -> list[Event]:
        """Return what the watcher tells within ``seconds``; at once when something is there."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            entry = self._lines.get(timeout=max(seconds, 0.001))
            while True:
                if entry is None:
                    raise LabError(f"{self.name}: the watcher's connection ended")
                found.append(entry)
                entry = self._lines.get_nowait()
        self.events += found
        return found

    def mark(self, *, timeout: float = 900) -> list[Event]:
        """Return everything told since the last mark, sure that nothing is on its way."""
        self._marks += 1
        name = f"{self.name}-{self._marks}"
        if self._channel is None or self._channel.stdin is None:
            raise LabError(f"{self.name}: nobody listens to its watcher")
        self._channel.stdin.write(name + "\n")
        self._channel.stdin.flush()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for entry in self.take(1.0):
                if entry["k"] == "mark" and entry["name"] == name:
                    at = self.events.index(entry)
                    told, self.events = self.events[:at], self.events[at + 1 :]
                    return told
        raise LabError(f"{self.name}: the watcher did not answer within {timeout:.0f} s")

    def probe(self, jobs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Try to get something out of the devices; see ``guest/probe.py``."""
        told = self.root(f"python3 {HOME}/probe.py", data=json.dumps(list(jobs)))
        return dict(json.loads(told))

    def off(self) -> None:
        """Cut the power."""
        self.hush()
        machines.power_cut(self.name)

    def asleep(self, words: Sequence[str]) -> None:
        """Start the machine and stop it before its first instruction."""
        machines.asleep(self.name, words)

    def pause(self) -> None:
        """Stop the machine's processor."""
        virsh("suspend", self.name)

    def resume(self) -> None:
        """Let the machine's processor go on."""
        virsh("resume", self.name)

    def answer(self, *, timeout: float = 1800) -> None:
        """Wait until it answers over SSH, and listen to its watcher."""
        with contextlib.suppress(LabError):  # the kept connection is to the machine as it was
            run(inside(["ssh", "-F", str(ssh.CONFIG), "-O", "exit", self.name]), timeout=10)
        ssh.answer(self.site.machine(self.name), timeout=timeout)
        self.listen()

    @contextlib.contextmanager
    def console_at(self, text: str, *, timeout: float = 900) -> Iterator[None]:
        """Let the machine go on until its console shows ``text``, and hold it there."""
        console = ssh.Console(self.name)
        try:
            self.resume()
            console.expect(text, timeout=timeout)
            self.pause()
            yield
            self.resume()
        finally:
            console.close()


def _pump(channel: subprocess.Popen[str], lines: queue.Queue[Event | None]) -> None:
    for line in channel.stdout or ():
        with contextlib.suppress(ValueError):
            lines.put(json.loads(line) | {"host": time.monotonic()})
    lines.put(None)
