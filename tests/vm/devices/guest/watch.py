"""Write down what the kernel announces and what is there; runs on a machine of the lab.

Run as root: ``watch.py FOLDER``. Every line of FOLDER/record is a JSON object with the time ``t``
and its kind ``k``. The kernel's own announcements are taken (netlink group 1, not udev's), so that
what was there for a moment is seen; and what is there is looked at ten times a second, so that
nothing hangs on the announcements alone. A line written to FOLDER/marks comes back as a mark: all
that was announced before it stands before it. Standard library only.
"""

import errno
import fcntl
import glob
import json
import os
import select
import socket
import sys
import time

CLASSES = (
    "block", "net", "tty", "sound", "input", "hidraw", "usbmisc", "scsi_generic", "bsg",
    "video4linux", "bluetooth", "mtd", "nvme", "ieee80211",
)  # fmt: skip
JOURNAL = "/var/lib/sekisho/journal/*.jsonl"
EVERY_S = 0.1


class Record:
    """The growing file of lines."""

    def __init__(self, path):
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - as long as we run

    def tell(self, k, /, **more):
        self._file.write(json.dumps({"t": time.time(), "k": k} | more) + "\n")


def listen():
    """Return the socket of the kernel's announcements, with room for a burst."""
    wire = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 15)
    wire.setsockopt(socket.SOL_SOCKET, 33, 32 * 1024 * 1024)  # SO_RCVBUFFORCE
    wire.bind((0, 1))
    wire.setblocking(False)
    return wire


def drain(wire, record):
    """Take every waiting announcement; a loss is told."""
    while True:
        try:
            data = wire.recv(65536)
        except BlockingIOError:
            return
        except OSError as bad:
            if bad.errno != errno.ENOBUFS:
                raise
            record.tell("lost")
            continue
        head, *pairs = data.decode("utf-8", "replace").rstrip("\0").split("\0")
        action, _, path = head.partition("@")
        told = dict(pair.partition("=")[::2] for pair in pairs)
        if action in ("add", "bind", "remove", "move"):
            kind = told.get("SUBSYSTEM", "")
            if kind in ("module", "queues", "bdi", "drivers", "cpu", "memory") or not kind:
                continue
            record.tell(
                "event", action=action, path=path, sub=kind, type=told.get("DEVTYPE", ""),
                name=told.get("DEVNAME", ""), driver=told.get("DRIVER", ""),
            )  # fmt: skip


class Look:
    """What is there, compared with what was there."""

    def __init__(self, record):
        self._record = record
        self._known = {}
        self._authorized = {}
        self._mounts = set()

    def look(self):
        for kind in CLASSES:
            try:
                names = set(os.listdir("/sys/class/" + kind))
            except FileNotFoundError:
                names = set()
            old = self._known.get(kind)
            if old is not None:
                for name in names - old:
                    place = os.path.realpath(f"/sys/class/{kind}/{name}")
                    self._record.tell("there", sub=kind, path=place.removeprefix("/sys"), name=name)
            elif names:
                self._record.tell("first", sub=kind, paths=[
                    os.path.realpath(f"/sys/class/{kind}/{name}").removeprefix("/sys")
                    for name in sorted(names)
                ])  # fmt: skip
            self._known[kind] = names
        self._look_usb()
        with open("/proc/mounts") as stream:
            mounts = {line.split()[0] for line in stream if line.startswith("/dev/")}
        for device in mounts - self._mounts if self._mounts else ():
            self._record.tell("mount", name=device)
        self._mounts |= mounts

    def _look_usb(self):
        seen = {}
        for folder in glob.glob("/sys/bus/usb/devices/[0-9]*"):
            try:
                with open(folder + "/authorized") as stream:
                    seen[folder] = stream.read().strip()
            except OSError:
                continue
        for folder, value in seen.items():
            if self._authorized.get(folder) != value:
                place = os.path.realpath(folder).removeprefix("/sys")
                self._record.tell("authorized", path=place, value=value)
        self._authorized = seen


class Journal:
    """The host journal's device records, as they are written."""

    def __init__(self, record):
        self._record = record
        self._at = {path: os.path.getsize(path) for path in glob.glob(JOURNAL)}

    def look(self):
        for path in glob.glob(JOURNAL):
            at = self._at.get(path, 0)
            if os.path.getsize(path) <= at:
                continue
            with open(path, "rb") as stream:
                stream.seek(at)
                data = stream.read()
            whole = data.rfind(b"\n") + 1
            self._at[path] = at + whole
            for line in data[:whole].splitlines():
                if b'"device.' in line:
                    told = json.loads(line)
                    body = told.get("data", {})
                    self._record.tell(
                        "journal", kind=told["kind"], path=body.get("path", ""),
                        when=body.get("when", ""), decision=body.get("decision", ""),
                    )  # fmt: skip


def main():
    folder = sys.argv[1]
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(folder + "/lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return  # one watcher is enough
    wire = listen()
    record = Record(folder + "/record")
    marks = folder + "/marks"
    if not os.path.exists(marks):
        os.mkfifo(marks, 0o600)
    fifo = os.open(marks, os.O_RDWR | os.O_NONBLOCK)
    look, journal = Look(record), Journal(record)
    record.tell("up")
    pending, due = b"", 0.0
    while True:
        ready, _, _ = select.select([wire, fifo], [], [], max(due - time.monotonic(), 0))
        if wire in ready:
            drain(wire, record)
        if time.monotonic() >= due:
            look.look()
            journal.look()
            due = time.monotonic() + EVERY_S
        if fifo in ready:
            pending += os.read(fifo, 4096)
            *lines, pending = pending.split(b"\n")
            drain(wire, record)
            look.look()
            journal.look()
            for line in lines:
                record.tell("mark", name=line.decode())


main()
