"""Pretend USB devices inside a machine: configfs gadgets on dummy_hcd, models over usbip.

Run as root: ``pretend.py load`` loads the modules (at boot, before the wall closes);
``pretend.py play FOLDER GADGETS MODELS`` plugs in every gadget and model named (comma-separated,
"-" for none) and keeps them until it is ended. Gadget N sits on dummy_hcd.N, model N on port N of
vhci_hcd. Standard library only. Sources: Documentation/usb/gadget_configfs.rst, usbip_protocol.rst.
"""

import contextlib
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from labkit.models import MODELS, REPORT, STICK_TEXT, Player

#: Each after what it needs: what a blocklist names is not loaded for another's sake.
MODULES = (
    "usbcore", "udc_core", "libcomposite", "usb_f_mass_storage", "usb_f_hid", "u_ether",
    "usb_f_rndis", "u_serial", "usb_f_acm", "usb_f_ss_lb", "usbip_core", "vhci_hcd", "dummy_hcd",
)  # fmt: skip
ROOT = Path("/sys/kernel/config/usb_gadget")
VHCI = Path("/sys/devices/platform/vhci_hcd.0/attach")
#: Gadget → functions of its one configuration, and their settings.
GADGETS = {
    "keyboard-storage": ("hid.keys", "mass_storage.stick"),
    "rndis-storage": ("rndis.card", "mass_storage.stick"),
    "serial": ("acm.line",),
    "own-protocol": ("SourceSink.own",),
}
HIGH_SPEED, STALL, UNLINKED = 3, -32, -104


def load():
    """Load the modules past the list that forbids them, as root can as long as it is allowed to."""
    for name in MODULES:
        more = ["num=4"] if name == "dummy_hcd" else []
        subprocess.run(["modprobe", "--ignore-install", name, *more], check=True)


def disk(folder, name):
    """Return a disk image of 1 MiB with the known text in its first sector."""
    path = Path(folder) / f"{name}.img"
    path.write_bytes(STICK_TEXT.encode().ljust(1024 * 1024, b"\0"))
    return path


def gadget(folder, number, name):
    """Make one gadget and plug it into its own dummy controller."""
    here = ROOT / f"battery-{name}"
    here.mkdir()
    texts = here / "strings/0x409"
    texts.mkdir()
    for key, value in (
        ("serialnumber", f"LAB-{name}"),
        ("manufacturer", "Sekisho"),
        ("product", name),
    ):
        (texts / key).write_text(value)
    (here / "idVendor").write_text("0x1209")
    (here / "idProduct").write_text(f"0x5e7{number}")
    (here / "configs/c.1").mkdir()
    for function in GADGETS[name]:
        what = here / "functions" / function
        what.mkdir()
        if function.startswith("hid."):
            (what / "protocol").write_text("1")
            (what / "subclass").write_text("1")
            (what / "report_length").write_text("8")
            (what / "report_desc").write_bytes(REPORT)
        elif function.startswith("mass_storage."):
            (what / "lun.0/file").write_text(str(disk(folder, name)))
        (here / "configs/c.1" / function).symlink_to(what)
    (here / "UDC").write_text(f"dummy_udc.{number}")
    return here


def take_apart(here):
    """Pull a gadget out and remove it."""
    with contextlib.suppress(OSError):
        (here / "UDC").write_text("\n")
    for link in (here / "configs/c.1").iterdir():
        if link.is_symlink():
            link.unlink()
    for folder in (
        *(here / "functions").iterdir(),
        here / "configs/c.1",
        here / "strings/0x409",
        here,
    ):
        folder.rmdir()


def receive(wire, size):
    """Return exactly ``size`` bytes; EOFError when the kernel hung up."""
    data = b""
    while len(data) < size:
        more = wire.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def serve(wire, player):
    """Answer the kernel's requests; one on an interrupt endpoint waits for ever."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            head = receive(wire, 48)
            command, number, _device, into, end = struct.unpack(">5I", head[:20])
            if command == 2:
                wire.sendall(struct.pack(">5Ii24x", 4, number, 0, 0, 0, UNLINKED))
                continue
            (length,) = struct.unpack(">I", head[24:28])
            data = b"" if into else receive(wire, length)
            address = end | (0x80 if into else 0)
            if end == 0:
                kind, request, value, index, _size = struct.unpack("<BBHHH", head[40:48])
                reply = player.control(kind, request, value, index, data)
            elif player.endpoints().get(address, (0,))[0] == 3:
                continue
            else:
                reply = player.bulk(address, data, length)
            body = (reply or b"")[:length] if into else b""
            done = len(body) if into else length
            status = STALL if reply is None else 0
            wire.sendall(
                struct.pack(">5IiIiiI8x", 3, number, 0, 0, 0, status, done, 0, 0, 0) + body
            )


def attach(folder, number, name):
    """Plug a model into port ``number`` of the kernel's usbip controller."""
    ours, theirs = socket.socketpair()
    player = Player(MODELS[name], disk(folder, f"usbip-{name}"))
    threading.Thread(target=serve, args=(ours, player), daemon=True).start()
    VHCI.write_text(f"{number} {theirs.fileno()} {number + 1} {HIGH_SPEED}")
    return ours, theirs


def play(folder, gadgets, models):
    """Plug everything in and keep it until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    shutil.rmtree(folder, ignore_errors=True)
    Path(folder).mkdir(mode=0o700)
    if not ROOT.is_dir():
        subprocess.run(["mount", "-t", "configfs", "none", "/sys/kernel/config"], check=False)
    for left in ROOT.glob("battery-*"):
        take_apart(left)
    made, wires = [], []
    try:
        for number, name in enumerate(gadgets):
            made.append(gadget(folder, number, name))
        for number, name in enumerate(models):
            wires.append(attach(folder, number, name))
        (Path(folder) / "ready").write_text("")
        while True:
            time.sleep(60)
    finally:
        for here in made:
            take_apart(here)


if sys.argv[1] == "load":
    load()
else:
    play(sys.argv[2], *([w for w in words.split(",") if w != "-"] for words in sys.argv[3:5]))
