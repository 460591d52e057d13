"""SSH into the lab: one configuration file, pinned host keys, one live connection per machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from labkit.base import INVENTORY, KEYS, STATE, LabError, Machine, Site, run, write_atomic
from labkit.holder import holder_pid, inside, virsh

CONFIG = STATE / "ssh_config"
KNOWN_HOSTS = KEYS / "known_hosts"
_KEY_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384")


def write_config(site: Site) -> None:
    """Write the ssh configuration the driver uses; the cheap algorithms spare an emulated CPU."""
    lines = [
        "Host *",
        f"  User {site.admin}",
        f"  IdentityFile {INVENTORY / 'keys' / site.admin}",
        f"  UserKnownHostsFile {INVENTORY / 'keys' / 'known_hosts'}",
        "  GlobalKnownHostsFile /dev/null",
        "  IdentitiesOnly yes",
        "  StrictHostKeyChecking yes",
        "  BatchMode yes",
        "  ConnectTimeout 20",
        "  ServerAliveInterval 15",
        "  HostKeyAlgorithms ssh-ed25519",
        "  KexAlgorithms curve25519-sha256,ecdh-sha2-nistp256",
        "  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com",
        "  ControlMaster auto",
        "  ControlPersist 600",
        f"  ControlPath {STATE}/cm-%C",
    ]
    for machine in site.machines:
        lines += [f"Host {machine.name}", f"  HostName {machine.address}"]
        lines += [f"  HostKeyAlias {machine.address}"]
    write_atomic(CONFIG, "\n".join(lines) + "\n")


def argv(machine: str, words: Sequence[str], *, tty: bool = False) -> list[str]:
    """Return the ssh command line for ``words`` on ``machine``, to be run inside the lab."""
    return ["ssh", "-F", str(CONFIG), *(["-t"] if tty else []), machine, "--", *words]


def forget_connection(name: str) -> None:
    """End the kept ssh connection to a machine that lost its power.

    It would take 45 s to find out by itself, and whatever asks the machine waits behind it.
    """
    run(inside(["ssh", "-F", str(CONFIG), "-O", "exit", name]), check=False)


def forget_connections() -> None:
    """End every kept ssh connection inside the lab: a restored machine does not know them."""
    holder = holder_pid()
    if holder is None:
        return
    ours = Path(f"/proc/{holder}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (entry / "ns" / "pid").readlink() != ours:
                continue
            if b"[mux]" in (entry / "cmdline").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)
    for socket in STATE.glob("cm-*"):
        socket.unlink(missing_ok=True)


def answer(machine: Machine, *, timeout: float, command: Sequence[str] = ("true",)) -> float:
    """Wait until ``machine`` runs ``command`` over SSH and return the seconds that took."""
    started = time.monotonic()
    said = ""
    while (left := timeout - (time.monotonic() - started)) > 0:
        try:
            done = run(inside(argv(machine.name, command)), timeout=max(left, 1), check=False)
        except LabError as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return time.monotonic() - started
        said = done.stderr.strip()[-300:]
        time.sleep(1)
    raise LabError(f"{machine.name}: no answer over SSH within {timeout:.0f} s: {said}")


def set_clock(machine: Machine, *, timeout: float = 300) -> None:
    """Step a restored machine's clock to this machine's; it must answer for that."""
    # The time is read on this side when ssh has connected, not when the command line was built.
    words = inside(argv(machine.name, ["sudo", "-n", "sh", "-c", "'read t; date -s @$t'"]))
    started = time.monotonic()
    said = ""
    while time.monotonic() - started < timeout:
        answer(machine, timeout=timeout)
        done = run(words, data=f"{time.time():.1f}\n", timeout=60, check=False)
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-300:]
    raise LabError(f"{machine.name}: the clock could not be set: {said}")


class Console:
    """The serial console of a machine, as someone standing in front of it has it."""

    def __init__(self, name: str) -> None:
        path = virsh("ttyconsole", name)
        if not path.startswith("/dev/pts/"):
            raise LabError(f"{name}: no serial console ({path or 'machine off?'})")
        self.name = name
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self.seen = ""

    def close(self) -> None:
        """Let go of the console."""
        os.close(self._fd)

    def send(self, text: str) -> None:
        """Type ``text``."""
        os.write(self._fd, text.encode())

    def read(self, seconds: float) -> str:
        """Return what appears within ``seconds``, or earlier when something did."""
        ready, _, _ = select.select([self._fd], [], [], seconds)
        if not ready:
            return ""
        with contextlib.suppress(BlockingIOError):
            new = os.read(self._fd, 65536).decode(errors="replace")
            self.seen += new
            return new
        return ""

    def expect(self, wanted: str, *, timeout: float = 60) -> str:
        """Wait for ``wanted`` and return what came up to and with it."""
        deadline = time.monotonic() + timeout
        while (place := self.seen.find(wanted)) < 0:
            left = deadline - time.monotonic()
            if left <= 0:
                tail = self.seen[-300:]
                raise LabError(f"{self.name}: no {wanted!r} on the console; last: {tail!r}")
            self.read(min(left, 1))
        cut = place + len(wanted)
        text, self.seen = self.seen[:cut], self.seen[cut:]
        return text


def console_host_keys(machine: Machine, *, timeout: float = 300) -> list[str]:
    """Return the known_hosts lines of a machine as its own console shows them above the login."""
    console = Console(machine.name)
    try:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            console.send("\x04")  # agetty ends, is started anew and shows its issue again
            with contextlib.suppress(LabError):
                # Long enough for a busy machine: a key sent too early would end the new one, too.
                screen = console.expect("login:", timeout=60)
                words = [line.split() for line in screen.replace("\r", "").split("\n")]
                found = {w[0]: w[1] for w in words if len(w) >= 2 and w[0] in _KEY_KINDS}
                if found:
                    return [f"{machine.address} {kind} {key}" for kind, key in found.items()]
    finally:
        console.close()
    raise LabError(f"{machine.name}: the console shows no host keys; is it at its login prompt?")


def pin(machines: Sequence[Machine]) -> None:
    """Read the machines' host keys from their consoles and pin them, replacing older ones."""
    kept: dict[str, list[str]] = {}
    if KNOWN_HOSTS.exists():
        for line in KNOWN_HOSTS.read_text().splitlines():
            kept.setdefault(line.split()[0], []).append(line)
    for machine in machines:
        kept[machine.address] = console_host_keys(machine)
    text = "".join(f"{line}\n" for lines in kept.values() for line in lines)
    write_atomic(KNOWN_HOSTS, text)
    write_atomic(INVENTORY / "keys" / "known_hosts", text)


def replace_process(words: Sequence[str | os.PathLike[str]]) -> None:
    """Become ``words`` (an interactive command keeps its terminal)."""
    os.execvp(words[0], [os.fspath(w) for w in words])  # noqa: S606 - no shell is the point


def stream(
    words: Sequence[str | os.PathLike[str]],
    env: dict[str, str],
    log: Path,
    *,
    shown: Callable[[str], bool] = lambda _line: True,
) -> int:
    """Run ``words``; all they print goes to ``log``, each line that ``shown`` picks on the screen."""
    from labkit.base import say  # noqa: PLC0415 - only this function talks

    with log.open("a") as book:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
        )
        assert process.stdout is not None  # noqa: S101 - PIPE was asked for
        for line in process.stdout:
            if "Progress:" in line:
                continue
            book.write(line)
            book.flush()
            text = line.replace("\x1b[K", "").strip()
            if text and shown(text):
                say(text[:140])
        return process.wait()


def last_words(log: Path, lines: int = 4) -> str:
    """Return the end of a log, one line, for a message."""
    text = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return " | ".join([line.strip() for line in text if line.strip()][-lines:])[-600:]
