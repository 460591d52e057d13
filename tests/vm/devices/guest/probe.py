"""Try to get something out of devices; runs as root on a machine of the lab.

Standard input: a JSON list of jobs, each ``id``, ``place`` (a regular expression for the device's
path under /sys) and ``text`` (what a disk or a telephone of the lab holds). Standard output: id →
what was got: ``nodes`` (sysfs class → names), ``text`` (block devices the text was read from),
``usb`` (each USB device there: authorized, and what usbfs gave). Standard library only; request
numbers: linux/usbdevice_fs.h; MTP: PIMA 15740 containers.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import struct
import sys

CONTROL, BULK = 0xC0185500, 0xC0185502
SET_INTERFACE, SET_CONFIGURATION = 0x80085504, 0x80045505
CLAIM, DRIVER = 0x8004550F, 0xC0105512
DISCONNECT = 0x5516
MILLISECONDS = 1500


def read(path):
    """Return a file's bytes."""
    with open(path, "rb") as stream:
        return stream.read()


class Usb:
    """One device through usbfs."""

    def __init__(self, folder):
        self.folder = folder
        number = [int(read(f"{folder}/{name}")) for name in ("busnum", "devnum")]
        self.node = "/dev/bus/usb/{:03d}/{:03d}".format(*number)
        self.descriptors = read(f"{folder}/descriptors")
        self.handle = os.open(self.node, os.O_RDWR)

    def interfaces(self):
        """Return (number, alternate, class, [endpoints]) of the first configuration."""
        found, at, configurations = [], 0, 0
        raw = self.descriptors
        while at + 2 <= len(raw) and 2 <= raw[at] <= len(raw) - at:
            kind = raw[at + 1]
            configurations += kind == 2
            if configurations > 1:
                break
            if kind == 4:
                found.append((raw[at + 2], raw[at + 3], raw[at + 5], []))
            elif kind == 5 and found and raw[at + 3] & 3 == 2:
                found[-1][3].append(raw[at + 2])
            at += raw[at]
        return found

    def number(self, request, value):
        fcntl.ioctl(self.handle, request, struct.pack("I", value))

    def bulk(self, address, data, size=0):
        room = ctypes.create_string_buffer(data, max(len(data), size, 1))
        words = struct.pack(
            "IIIxxxxQ", address, size or len(data), MILLISECONDS, ctypes.addressof(room)
        )
        count = fcntl.ioctl(self.handle, BULK, bytearray(words), True)
        return room.raw[:count]  # only now: the kernel has written into it

    def turn(self, words):
        """Choose another alternate setting: words are the interface's and its number."""
        fcntl.ioctl(self.handle, SET_INTERFACE, words)

    def read(self, address, size):
        return self.bulk(address, b"", size)

    def control(self, kind, request, size):
        room = ctypes.create_string_buffer(size)
        words = struct.pack(
            "BBHHHIxxxxQ", kind, request, 0, 0, size, MILLISECONDS, ctypes.addressof(room)
        )
        count = fcntl.ioctl(self.handle, CONTROL, bytearray(words), True)
        return room.raw[:count]

    def take(self, interface):
        """Take an interface from its driver, if it has one, and claim it."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.handle, DRIVER, struct.pack("iiQ", interface, DISCONNECT, 0))
        self.number(CLAIM, interface)


def mtp(usb, ends, text):
    """Return whether a file with ``text`` can be fetched over MTP."""
    into = next(e for e in ends if e & 0x80)
    out = next(e for e in ends if not e & 0x80)
    turn = 0

    def ask(code, *words):
        nonlocal turn
        turn += 1
        body = struct.pack("<HHI", 1, code, turn) + struct.pack(f"<{len(words)}I", *words)
        usb.bulk(out, struct.pack("<I", len(body) + 4) + body)
        data = b""
        for _ in range(4):  # the data, if any, then the answer
            part = usb.read(into, 4096)
            length, kind = struct.unpack("<IH", part[:6])
            if kind == 2:
                data = part[12:length]
            elif kind == 3:
                return data
        return data

    ask(0x1002, 1)
    raw = ask(0x1007, 0xFFFFFFFF, 0, 0xFFFFFFFF)
    (count,) = struct.unpack("<I", raw[:4])
    for handle in struct.unpack(f"<{count}I", raw[4 : 4 + 4 * count]):
        if text in ask(0x1009, handle):
            return True
    return False


def stick(usb, ends, text):
    """Return whether sector 0, read by bulk-only transport without a driver, holds ``text``."""
    into = next(e for e in ends if e & 0x80)
    out = next(e for e in ends if not e & 0x80)
    block = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0)
    usb.bulk(out, struct.pack("<IIIBBB", 0x43425355, 1, 512, 0x80, 0, 10) + block.ljust(16, b"\0"))
    return text in usb.read(into, 512)


def card_reader(usb, ends):
    """Return whether a smart-card reader tells its slot's state (CCID 1.1, 6.1.2)."""
    usb.bulk(next(e for e in ends if not e & 0x80), struct.pack("<BIBBBBB", 0x65, 0, 0, 1, 0, 0, 0))
    return usb.read(next(e for e in ends if e & 0x80), 10)[0] == 0x81


def try_usb(folder, text, deep):
    """Return what usbfs gives of one device: every refusal with its reason."""
    told = {"name": os.path.basename(folder), "got": [], "refused": []}
    told["authorized"] = read(folder + "/authorized").decode().strip()
    told["node_mode"], told["classes"] = "", []

    def attempt(name, work):
        try:
            held = work()
        except (OSError, StopIteration, struct.error, IndexError) as bad:
            told["refused"].append(f"{name}: {getattr(bad, 'strerror', None) or bad!r}")
            return
        if held:
            told["got"].append(name)

    try:
        usb = Usb(folder)
    except OSError as bad:
        told["refused"].append(f"open: {bad.strerror}")
        return told
    told["node_mode"] = oct(os.stat(usb.node).st_mode & 0o777)
    seen = usb.interfaces()
    told["classes"] = sorted({code for _, _, code, _ in seen})
    attempt("user", lambda: as_nobody(usb.node))
    attempt("ep0", lambda: text in usb.control(0xC0, 0x51, 64))
    if told["authorized"] != "1":
        attempt("configure", lambda: usb.number(SET_CONFIGURATION, 1))
    for number, alternate, code, ends in seen:
        if told["authorized"] == "1" and not deep:
            break
        if alternate == 0:
            attempt(f"claim-{number}", lambda number=number: usb.take(number) or True)
        if len(ends) < 2:
            continue
        if code == 6:
            attempt("mtp", lambda ends=ends: mtp(usb, ends, text))
        elif code == 0x0B:
            attempt("bulk", lambda ends=ends: card_reader(usb, ends))
        elif code == 8 and alternate:
            words = struct.pack("II", number, alternate)
            attempt(
                "alternate",
                lambda ends=ends, words=words: usb.turn(words) or stick(usb, ends, text),
            )
        elif code == 8:
            attempt("bulk", lambda ends=ends: stick(usb, ends, text))
        else:  # room for a whole transfer of a gadget's: to less it would be an overflow
            attempt(
                "bulk",
                lambda ends=ends: len(usb.read(next(e for e in ends if e & 0x80), 4096)) > 0,
            )
    os.close(usb.handle)
    return told


def as_nobody(node):
    """Return whether somebody without rights can open the device to talk to it."""
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        try:
            os.open(node, os.O_RDWR)
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def every():
    """Return (class, name, place) of everything in sysfs that has a class, and block devices."""
    found = []
    for kind in os.listdir("/sys/class"):
        for name in os.listdir("/sys/class/" + kind):
            place = os.path.realpath(f"/sys/class/{kind}/{name}").removeprefix("/sys")
            found.append((kind, name, place))
    return found


def readable(name, text):
    """Return whether a block device's first sector holds ``text``."""
    # One path to an NVMe namespace has no node of its own (nvme0c0n1): the namespace has (nvme0n1).
    name = re.sub(r"^(nvme\d+)c\d+(n\d+)$", r"\1\2", name)
    try:
        with open("/dev/" + name, "rb") as stream:
            return text in stream.read(512)
    except OSError:
        return False


def main():
    jobs = json.loads(sys.stdin.read())
    nodes = every()
    usb = {}
    for name in os.listdir("/sys/bus/usb/devices") if os.path.isdir("/sys/bus/usb/devices") else ():
        if ":" not in name and not name.startswith("usb"):
            usb[os.path.realpath("/sys/bus/usb/devices/" + name)] = name
    answer = {}
    for job in jobs:
        place, text = re.compile(job["place"]), job["text"].encode()
        mine = {}
        for kind, name, path in nodes:
            if place.search(path):
                mine.setdefault(kind, []).append(name)
        answer[job["id"]] = {
            "nodes": {kind: sorted(names) for kind, names in mine.items()},
            "text": [name for name in mine.get("block", ()) if readable(name, text)],
            "usb": [
                try_usb(folder, text, job["deep"])
                for folder in sorted(usb)
                if place.search(folder.removeprefix("/sys"))
            ],
            "pci": any(
                place.search(os.path.realpath("/sys/bus/pci/devices/" + name).removeprefix("/sys"))
                for name in os.listdir("/sys/bus/pci/devices")
            ),
        }
    json.dump(answer, sys.stdout)


main()
