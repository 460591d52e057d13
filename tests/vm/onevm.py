"""One machine of the lab's box on its own: no network, a shell behind a virtio port, two folders.

For what needs a Debian 13 kernel and root but not the seven machines. The checkout is at ``/repo``
(read only); when the block ends the machine, its disk and its folder are gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "vagrant"))

from labkit.base import STATE, load_site  # noqa: E402
from labkit.machines import ensure_box  # noqa: E402

# Numbers come in by the port, the command and what it said lie in the folder. The processor's own
# instructions for AES and SHA are what udev would load.
SHELL = """\
modprobe virtio_console
for module in aesni_intel ghash_clmulni_intel sha256_ssse3; do modprobe -q $module; done
until test -c /dev/vport*p1; do sleep 0.1; done
set -- /dev/vport*p1
exec <>"$1" >&0
echo ready
while read -r _; do
    sh /share/command </dev/null >/share/out 2>/share/err
    echo $?
done
"""
WORDS = (
    *("root=/dev/vda", "rw", "console=ttyS0", "net.ifnames=0", "systemd.hostname=line"),
    # What it does not need and costs most of its start under emulation.
    *(
        f"systemd.mask={unit}.service"
        for unit in (
            *("first-boot", "apparmor", "systemd-udevd", "systemd-udev-trigger"),
            *("systemd-random-seed", "systemd-binfmt", "systemd-networkd"),
        )
    ),
    *(
        f"systemd.mount-extra={tag}:/{tag}:9p:trans=virtio,version=9p2000.L"
        for tag in ("repo", "share")
    ),
    # Nothing but the base of the system, and then our shell.
    *('systemd.run="/bin/sh /share/shell"', "systemd.unit=kernel-command-line.target"),
)


class Guest:
    """The running machine."""

    def __init__(self, folder: Path, port: socket.socket) -> None:
        self.share, self.port = folder / "share", port
        self.answers = port.makefile("r")

    def run(
        self, *argv: str, timeout: float = 600, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program as root, one at a time; return its exit code and what it said."""
        (self.share / "command").write_text(shlex.join(argv) + "\n")
        self.port.settimeout(timeout)
        self.port.sendall(b"1\n")
        code = int(self.answers.readline())
        said = [(self.share / name).read_text(errors="replace") for name in ("out", "err")]
        done = subprocess.CompletedProcess(argv, code, *said)
        if check and code:
            msg = f"{argv}: {code}: {said[1][-6000:]}"
            raise RuntimeError(msg)
        return done

    def scene(self, scene: str, *, of: str = "linescenes", timeout: float = 1800) -> Any:
        """Play a scene of tests/kernel/linescenes.py, or of another; return what it saw."""
        done = self.run(
            *("unshare", "--net", "--mount", "--fork", "--kill-child"),
            *("env", "PYTHONPYCACHEPREFIX=/var/tmp/pyc"),
            *("python3", f"/repo/tests/kernel/{of}.py", scene),
            timeout=timeout,
        )
        return json.loads(done.stdout)


def _start(folder: Path, box: Path) -> subprocess.Popen[bytes]:
    disk = folder / "disk"
    with disk.open("wb") as stream:
        subprocess.run(["tar", "-xOzf", box / "lab.box", "box.img"], stdout=stream, check=True)
    cpu = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+aes,+pclmulqdq,+rdrand,+sha-ni,-svm"
    return subprocess.Popen(
        [
            # Whoever started it and is killed takes it along.
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults"),
            *("-machine", "q35", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", cpu),
            *("-m", "1024", "-display", "none", "-nic", "none"),
            *("-kernel", str(box / "vmlinuz"), "-initrd", str(box / "initrd.img")),
            *("-append", " ".join(WORDS), "-serial", f"file:{folder}/console"),
            *("-drive", f"file={disk},if=virtio,format=qcow2,cache=unsafe"),
            *("-device", "virtio-serial", "-device", "virtserialport,chardev=shell,name=shell"),
            *("-chardev", f"socket,id=shell,path={folder}/shell,server=on,wait=off"),
            *("-fsdev", f"local,id=repo,path={REPOSITORY},security_model=none,readonly=on"),
            *("-fsdev", f"local,id=share,path={folder}/share,security_model=none"),
            *("-device", "virtio-9p-pci,fsdev=repo,mount_tag=repo"),
            *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
        ]
    )


@contextlib.contextmanager
def guest(*, boot: float = 600) -> Iterator[Guest]:
    """Start a machine, wait until it answers, and end it."""
    # The box of a running lab is not built again under it.
    box = (STATE / "box/current").resolve()
    if not (box / "lab.box").exists():
        box = ensure_box(load_site())
    with tempfile.TemporaryDirectory(prefix="sekisho-vm-") as name:
        folder = Path(name)
        (folder / "share").mkdir()
        (folder / "share/shell").write_text(SHELL)
        running = _start(folder, box)
        try:
            port = socket.socket(socket.AF_UNIX)
            ends = time.monotonic() + 30
            while True:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    port.connect(os.fspath(folder / "shell"))
                    break
                if running.poll() is not None or time.monotonic() > ends:
                    raise RuntimeError("qemu did not start")
                time.sleep(0.1)
            port.settimeout(boot)
            it = Guest(folder, port)
            try:
                assert it.answers.readline() == "ready\n"
            except (TimeoutError, AssertionError):
                console = (folder / "console").read_text(errors="replace")
                raise RuntimeError(f"no answer: {console[-3000:]}") from None
            yield it
        finally:
            running.kill()
            running.wait()


def only_encrypted(line: dict[str, Any], *, by: str) -> None:
    """Assert that a line's capture missed nothing and saw ``by`` ("esp", "wg") and no clear byte."""
    assert line["clear"] == 0, line["said"]
    assert line["lost"] == 0, "the capture missed packets, so it proves nothing"
    assert line[by] > 0
