"""What the playbooks' modules do to mounts and processes of people who are not idle meanwhile.

Run by `ownspace.scene` in namespaces of its own. Prints JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "tests")]

from playbookmodules import module  # noqa: E402 - the path comes first

#: Its comm, as ss would print it, ends the name and gives another process's number.
FORGED = b'a",pid=1,("b'


def mount(kind: str, point: Path) -> Path:
    """Mount an empty file system."""
    point.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", kind, "none", point], check=True)
    return point


def live() -> Any:
    """Return the module's worker and what it says was done."""
    library = module("sekisho_live")
    return library, library.Live(check=False, warn=lambda _: None)


def left(kind: str) -> list[str]:
    """Return where that kind is mounted, as the kernel tells."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    marked = f" - {kind} ".encode()
    return sorted(os.fsdecode(line.split(b" ")[4]) for line in lines if marked in line)


def unmounted(base: Path) -> dict[str, Any]:
    """Everything of a kind, wherever it hangs, however it is called, and whoever uses it."""
    mount("ramfs", base / "plain")
    mount("ramfs", base / "twice")
    mount("ramfs", base / "twice")
    outer = mount("ramfs", base / "outer")
    mount("ramfs", outer / "inner")
    mount("ramfs", base / os.fsdecode(b"\xff \n\\x"))
    busy = mount("ramfs", base / "busy")
    (busy / "file").write_text("x")
    kept = mount("tmpfs", base / "kept")
    with (busy / "file").open():
        library, run = live()
        run.unmount(["ramfs"])
        after = left("ramfs")
        again = library.Live(check=False, warn=lambda _: None)
        again.unmount(["ramfs"])
    return {"left": after, "said": run.after, "again": again.after, "kept": os.path.ismount(kept)}


def checked(base: Path) -> dict[str, Any]:
    """In check mode all is told and nothing touched."""
    mount("ramfs", base / "plain")
    library, _ = live()
    run = library.Live(check=True, warn=lambda _: None)
    run.unmount(["ramfs"])
    return {"left": len(left("ramfs")), "said": run.after}


def swapped(base: Path) -> dict[str, Any]:
    """The folder above is another's: a link to a mount of the machine's own takes its place."""
    own = mount("ramfs", base / "own/m")
    mount("ramfs", base / "person/a/m")
    library, _ = live()
    found = [one for one in library.handles.mounts() if one.point == str(base / "person/a/m")]
    (base / "person/a").rename(base / "person/b")
    (base / "person/a").symlink_to(base / "own")
    said = _refused(library, found[0])
    (base / "person/a").unlink()
    (base / "person/a").mkdir()
    subprocess.run(["mount", "--bind", base / "own", base / "person/a"], check=True)
    mount("ramfs", base / "person/a/m")  # a folder in its place, and another mount there
    other = _refused(library, found[0])
    by_path = subprocess.run(["umount", found[0].point], check=False).returncode
    return {"said": said, "another": other, "own": os.path.ismount(own), "by path": by_path}


def covered(base: Path) -> dict[str, Any]:
    """What is hidden below another mount is not reached: an error, and the other stays."""
    mount("ramfs", base / "point")
    mount("tmpfs", base / "point")
    library, run = live()
    try:
        run.unmount(["ramfs"])
    except OSError as bad:
        return {"said": bad.strerror, "left": [len(left("ramfs")), os.path.ismount(base / "point")]}
    return {"library": library.__name__}


def _refused(library: Any, one: Any) -> str:
    try:
        library.handles.unmount(one)
    except OSError as bad:
        return str(bad.strerror)
    return ""


def renewed(_: Path) -> dict[str, Any]:
    """A process ends, and another is given its number: that one is not signalled."""
    library, _run = live()
    first = subprocess.Popen(["sleep", "60"])
    held = library.handles.Process(first.pid)
    first.kill()
    first.wait()
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
    second = subprocess.Popen(["sleep", "60"])
    gone = False
    try:
        held.signal(signal.SIGKILL)
    except ProcessLookupError:
        gone = True
    time.sleep(0.1)
    seen = {"same number": second.pid == first.pid, "gone": gone, "lives": second.poll() is None}
    second.kill()
    return seen


def listeners(_: Path) -> dict[str, Any]:
    """Processes that listen under a name that is another's, or holds another's number."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    children = {name: _listens(name, 8000 + n) for n, name in enumerate((FORGED, b"sshd", b"idle"))}
    plan = _plan()
    listeners = module("sekisho_network").listeners
    listeners(plan, {"sockets": ["tcp 0.0.0.0:8002"]})
    seen = {
        "ended": sorted(process.number for process in plan.ended),
        "commands": plan.commands,
        "meant": sorted((children[FORGED], children[b"sshd"])),
        "forged as ss tells it": subprocess.run(
            ["ss", "-Hlntp"], capture_output=True, text=True, check=True
        ).stdout.count('",pid=1,('),
    }
    for child in children.values():
        os.kill(child, signal.SIGKILL)
    return seen


def _plan() -> Any:
    class Asked:
        """Stand for AnsibleModule."""

        check_mode = True

        def run_command(self, argv: list[str]) -> tuple[int, str, str]:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            return done.returncode, done.stdout, done.stderr

        def fail_json(self, **said: Any) -> None:
            raise AssertionError(said)

    return module("sekisho_network").Plan(Asked())


def _listens(name: bytes, port: int) -> int:
    """Start a process of that name that listens."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.read(read, 1)
        return child
    ctypes.CDLL(None).prctl(15, name, 0, 0, 0)  # PR_SET_NAME
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", port))
        listening.listen()
        os.write(write, b"!")
        time.sleep(60)
    os._exit(0)


def main(name: str) -> None:
    """Play a scene in a folder of its own."""
    base = Path("/tmp/handles")
    subprocess.run(["mount", "-t", "tmpfs", "none", "/tmp"], check=True)
    base.mkdir()
    scenes = (unmounted, checked, swapped, covered, renewed, listeners)
    sys.stdout.write(json.dumps({one.__name__: one for one in scenes}[name](base)))


if __name__ == "__main__":
    main(sys.argv[1])
