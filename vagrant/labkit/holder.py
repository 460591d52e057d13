"""The lab's own namespaces and the one process that holds them.

`unshare` makes a network, a mount and a process namespace; the holder is process 1 in there, runs
libvirtd on private directories, and when it ends, for whatever reason, the kernel ends every
process inside and with them every bridge and every mount. Nothing else needs cleaning up.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from labkit.base import STATE, VAGRANT, LabError, run, say

PID_FILE = STATE / "holder.pid"
ROOT_FILE = STATE / "holder.root"
_PRIVATE = {
    "/etc/libvirt": "etc",
    "/var/lib/libvirt": "lib",
    "/var/log/libvirt": "log",
    "/var/cache/libvirt": "cache",
}
_QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """\
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_holder(pid: int) -> bool:
    try:
        return b"_hold" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def holder_pid() -> int | None:
    """Return the id, as this machine sees it, of the lab's process 1, or None when it is down."""
    try:
        outer = int(PID_FILE.read_text())
    except (FileNotFoundError, ValueError):
        return None
    if not _is_holder(outer):
        return None
    inner = _children(outer)
    return inner[0] if inner else None


def running_root() -> Path | None:
    """Return the directory the running holder works on, or None when the lab is down."""
    return None if holder_pid() is None else Path(ROOT_FILE.read_text().strip())


def inside(
    argv: Sequence[str | os.PathLike[str]], *, orphan: bool = False
) -> list[str | os.PathLike[str]]:
    """Return ``argv`` prefixed so that it runs inside the lab and dies with its caller."""
    pid = holder_pid()
    if pid is None:
        raise LabError("the lab is down; start it with `vagrant/lab up`")
    enter = ["nsenter", "--target", str(pid), "--net", "--mount", "--pid", f"--wdns={Path.cwd()}"]
    tether = [] if orphan else ["setpriv", "--pdeathsig", "KILL", "--"]
    return [*enter, "--", *tether, *argv]


def virsh(*words: str, timeout: float = 120, check: bool = True, data: str | None = None) -> str:
    """Run virsh inside the lab and return what it printed."""
    argv = inside(["virsh", "-q", "-c", "qemu:///system", *words])
    return run(argv, timeout=timeout, check=check, data=data).stdout.strip()


def start(root: Path) -> None:
    """Start the holder over the libvirt state in ``root`` and wait until libvirtd answers."""
    for name in (*_PRIVATE.values(), "home", "dot"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc" / "qemu.conf").write_text(_QEMU_CONF)
    (root / "etc" / "libvirtd.conf").write_text(_LIBVIRTD_CONF)
    log = (root / "holder.log").open("ab")
    flags = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    holder = subprocess.Popen(
        ["unshare", *flags, "--", sys.executable, str(VAGRANT / "lab"), "_hold", str(root)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        start_new_session=True,
    )
    ROOT_FILE.write_text(f"{root}\n")
    PID_FILE.write_text(f"{holder.pid}\n")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if holder.poll() is not None:
            break
        if holder_pid() is not None and _answers():
            for network in virsh("net-list", "--inactive", "--name").split():
                virsh("net-start", network)
            return
        time.sleep(0.2)
    stop()
    tail = (root / "holder.log").read_text(errors="replace")[-1500:]
    raise LabError(f"the lab's libvirtd did not answer within 30 s: {tail}")


def _answers() -> bool:
    try:
        virsh("version", timeout=10)
    except LabError:
        return False
    return True


def stop() -> bool:
    """End the holder and with it everything inside; return whether there was one."""
    try:
        outer = int(PID_FILE.read_text())
    except (FileNotFoundError, ValueError):
        return False
    inner = _children(outer) if _is_holder(outer) else []
    if not inner:
        PID_FILE.unlink(missing_ok=True)
        return False
    os.kill(inner[0], signal.SIGTERM)
    deadline = time.monotonic() + 20
    while _is_holder(outer) and time.monotonic() < deadline:
        time.sleep(0.1)
    if _is_holder(outer):
        say("the holder did not end by itself; killing it")
        for pid in inner:
            os.kill(pid, signal.SIGKILL)
        while _is_holder(outer):
            time.sleep(0.1)
    PID_FILE.unlink(missing_ok=True)
    return True


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    encoded = kind.encode() if kind else None
    if libc.mount(source.encode(), target.encode(), encoded, flags, None) != 0:
        raise OSError(ctypes.get_errno(), f"mount {source} on {target}")


def hold(root: Path) -> int:
    """Be process 1 of the lab: private directories, libvirtd, and reaping. Never returns early."""
    if os.getpid() != 1:
        raise LabError("_hold is for the driver itself")
    bind = 4096
    _mount("sysfs", "/sys", "sysfs", 0)
    for target, name in _PRIVATE.items():
        Path(target).mkdir(parents=True, exist_ok=True)
        _mount(str(root / name), target, None, bind)
    _mount("tmpfs", "/run", "tmpfs", 0)
    Path("/run/libvirt").mkdir()
    Path("/run/lock").mkdir(mode=0o1777)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    _take_long_turns()
    signal.signal(signal.SIGTERM, lambda *_: _finish())
    libvirtd = shutil.which("libvirtd") or "/usr/sbin/libvirtd"
    daemon = subprocess.Popen([libvirtd, "--pid-file", "/run/libvirt/libvirtd.pid"])
    while True:
        pid, status = os.wait()
        if pid == daemon.pid:
            sys.stderr.write(f"libvirtd ended with status {status}\n")
            return 1


def _take_long_turns() -> None:
    """Ask the scheduler for turns of 100 ms for all that starts from here on (sched_setattr(2)).

    Emulated machines that outnumber the processors throw each other's translated code out of the
    caches at every change of turns; with the usual 3 ms six busy ones need half as much again.
    Kernels before 6.12 take the wish and do nothing.
    """
    number = {"x86_64": 314, "aarch64": 274}.get(os.uname().machine)
    if number is not None:
        attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, 0, 0, 100_000_000, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def _finish() -> None:
    """Let every QEMU write back what it holds, then end; the kernel ends the rest."""
    guests = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and entry.name != "1":
            try:
                name = (entry / "comm").read_text()
            except OSError:
                continue
            if name.startswith("qemu-system"):
                guests.append(int(entry.name))
                os.kill(int(entry.name), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{g}/fd/0").exists() for g in guests):
        time.sleep(0.1)
    os._exit(0)
