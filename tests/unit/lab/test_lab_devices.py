"""The lab's devices and the battery's judgement, without a machine."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labkit.kinds import GIVES, KINDS
from labkit.models import MODELS, STICK_TEXT, Disk, Player, endpoints_of
from labkit.usbredir import BULK, CONTROL, HELLO, Device
from tests.vm.devices import plan
from tests.vm.devices.battery import judge_case
from tests.vm.devices.judge import delays, judge, quantile, strays
from tests.vm.devices.plan import Case
from tests.vm.devices.trial import Observation

STICK = next(d for d in plan.devices() if d.kind == "storage")
CHANGING = next(d for d in plan.devices() if d.kind == "changing")


def path(device: plan.Device, rest: str = "") -> str:
    bus = device.path.replace("\\", "").removesuffix("(/|$)").replace("usbd+", "usb3")
    return "/devices/pci0000:00" + bus.replace("/d+-", "/3-") + rest


def added(where: str, sub: str, kind: str = "") -> dict[str, Any]:
    return {"k": "event", "action": "add", "path": where, "sub": sub, "type": kind, "t": 1.0,
            "host": 11.0}  # fmt: skip


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "disk.img"
    file.write_bytes(STICK_TEXT.encode().ljust(1024 * 64, b"\0"))
    return file


# -- the plan --------------------------------------------------------------------------------------


def test_every_kind_is_tried_at_every_moment_or_says_why_not() -> None:
    cases = plan.cases()
    assert len({case.name for case in cases}) == len(cases)
    for kind in KINDS:
        assert {c.moment for c in cases if c.device.kind == kind} == set(plan.MOMENTS)
    assert {d.kind for d in plan.pretended()} == set(plan.PRETENDED)


def test_no_place_is_anothers() -> None:
    devices = [*plan.devices(), *plan.pretended()]
    for one in plan.devices():
        assert [d.kind for d in devices if d.owns(path(one))] == [one.kind]
        assert one.owns(path(one, "/3-1:1.0/host2/block/sda"))
    for bus, _, count in (plan.OWN, *plan.MORE):
        ports = [d.place for d in plan.devices() if d.place.startswith(bus + ":")]
        assert len(ports) <= count
    assert all(set(d.gives) <= set(GIVES) for d in devices)


# -- the devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_models_descriptors_add_up(name: str, image: Path) -> None:
    model = MODELS[name]
    player = Player(model, image)
    assert player.control(0x80, 6, 0x100, 0, b"") == model.device()
    for index, body in enumerate(model.configurations):
        whole = player.control(0x80, 6, 0x200 | index, 0, b"")
        assert whole is not None
        assert struct.unpack("<H", whole[2:4])[0] == len(whole) == 9 + len(body)
        assert endpoints_of(body)
    assert player.control(0x80, 6, 0x200 | len(model.configurations), 0, b"") is None


def test_the_stick_hands_out_its_first_sector(image: Path) -> None:
    disk = Disk(image)
    read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 1, 0).ljust(16, b"\0")
    disk.out(struct.pack("<IIIBBB", 0x43425355, 7, 512, 0x80, 0, 10) + read)
    assert STICK_TEXT.encode() in disk.take(512)
    assert disk.take(13) == struct.pack("<IIIB", 0x53425355, 7, 0, 0)
    disk.out(b"short")  # a host may send anything


def test_the_network_card_answers_remote_ndis(image: Path) -> None:
    player = Player(MODELS["rndis-storage"], image)
    ask = struct.pack("<6I", 2, 24, 9, 1, 0, 1600)
    assert player.control(0x21, 0, 0, 0, ask) == b""
    answer = player.control(0xA1, 1, 0, 0, b"")
    assert answer is not None
    assert struct.unpack("<4I", answer[:16]) == (0x80000002, 52, 9, 0)
    assert player.control(0xA1, 1, 0, 0, b"") == b"\0"


@pytest.fixture
def wire(image: Path) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    server = threading.Thread(
        target=lambda: _quiet(Device(theirs, Player(MODELS["vendor"], image))), daemon=True
    )
    server.start()
    yield ours
    ours.close()
    server.join(10)
    assert not server.is_alive()


def _quiet(device: Device) -> None:
    try:
        device.serve()
    except (ConnectionResetError, BrokenPipeError):
        return


def _take(wire: socket.socket, shape: str) -> tuple[Any, ...]:
    data = b""
    while len(data) < struct.calcsize(shape):
        data += wire.recv(struct.calcsize(shape) - len(data))
    return struct.unpack(shape, data)


def test_the_player_speaks_usbredir(wire: socket.socket) -> None:
    kind, length, _ = _take(wire, "<III")
    assert (kind, length) == (HELLO, 68)
    wire.sendall(struct.pack("<III", HELLO, 0, 0))
    _take(wire, "68s")
    kinds = []
    for _ in range(3):
        kind, length, _ = _take(wire, "<IIQ")
        kinds.append(kind)
        _take(wire, f"{length}s")
    assert kinds == [4, 5, 1]
    wire.sendall(
        struct.pack("<IIQ", CONTROL, 10, 1) + struct.pack("<BBBBHHH", 0x80, 0x51, 0xC0, 0, 0, 0, 64)
    )
    kind, length, number = _take(wire, "<IIQ")
    assert (kind, number) == (CONTROL, 1)
    assert STICK_TEXT.encode() in _take(wire, f"{length}s")[0]
    wire.sendall(struct.pack("<IIQ", BULK, 10, 2) + struct.pack("<BBHIH", 0x85, 0, 64, 0, 0))
    kind, length, number = _take(wire, "<IIQ")
    assert (kind, number) == (BULK, 2)
    assert STICK_TEXT.encode() in _take(wire, f"{length}s")[0]


# -- the judgement ---------------------------------------------------------------------------------

NOTHING: dict[str, Any] = {"nodes": {}, "text": [], "usb": [], "pci": False}


def test_a_refused_device_leaks_nothing() -> None:
    seen = judge(STICK, [added(path(STICK), "usb", "usb_device")], NOTHING)
    assert (seen.came, seen.leaks) == (1, [])


@pytest.mark.parametrize(
    "event",
    [
        added(path(STICK, "/3-2:1.0"), "usb", "usb_interface"),
        added(path(STICK, "/3-2:1.0/host0/target0/0:0:0:0/block/sda"), "block", "disk"),
        added(path(STICK, "/3-2:1.0/net/eth9"), "net"),
        {"k": "there", "path": path(STICK, "/3-2:1.0/tty/ttyUSB0"), "sub": "tty"},
        {"k": "authorized", "path": path(STICK), "value": "1"},
    ],
)
def test_each_way_is_a_leak_at_its_place_and_a_stray_elsewhere(event: dict[str, Any]) -> None:
    assert judge(STICK, [event], NOTHING).leaks
    assert judge(CHANGING, [event], NOTHING).leaks == []
    if event["k"] != "authorized" and event["sub"] != "usb":
        assert strays([STICK], [event]) == []
        assert len(strays([CHANGING], [event])) == 1


def test_a_gadgets_own_end_is_no_stray_and_what_its_host_makes_of_it_is() -> None:
    own = [
        added("/devices/platform/dummy_udc.1/gadget.1/net/usb0", "net"),
        added("/devices/virtual/tty/ttyGS0", "tty"),
    ]
    assert strays([STICK], own) == []
    other = added("/devices/platform/dummy_hcd.1/usb9/9-1/9-1:1.0/net/usb1", "net")
    assert len(strays([STICK], [*own, other])) == 1


def test_the_listed_keyboard_is_let_in_and_what_it_becomes_is_not() -> None:
    first = [
        added(path(CHANGING), "usb", "usb_device"),
        {"k": "authorized", "path": path(CHANGING), "value": "1"},
        added(path(CHANGING, "/3-1:1.0"), "usb", "usb_interface"),
        added(path(CHANGING, "/3-1:1.0/input/input7"), "input"),
    ]
    assert judge(CHANGING, first, None).leaks == []
    again = [*first, *first]
    assert len(judge(CHANGING, again, None).leaks) == 3
    disk = added(path(CHANGING, "/3-1:1.1/block/sda"), "block")
    assert judge(CHANGING, [*first, disk], None).leaks == ["block sda"]


def usb(**more: Any) -> dict[str, Any]:
    return NOTHING | {"usb": [{"name": "3-2", "authorized": "0", "got": []} | more]}


def test_what_a_probe_gets_of_a_refused_device_is_a_leak() -> None:
    for got in ("claim-0", "bulk", "user", "mtp", "configure"):
        assert judge(STICK, [], usb(got=[got])).leaks == [f"usbfs {got} on 3-2"]
    told = judge(STICK, [], usb(got=["ep0"]))
    assert (told.leaks, told.open) == ([], ["ep0 of 3-2"])
    assert judge(STICK, [], usb(authorized="1")).leaks == ["authorized 3-2"]
    assert judge(STICK, [], NOTHING | {"text": ["sda"]}).leaks == ["read from sda"]
    assert judge(STICK, [], NOTHING | {"nodes": {"sound": ["card0"]}}).leaks == ["sound card0"]
    assert judge(STICK, [], NOTHING | {"nodes": {"usb": ["x"]}}).leaks == []


def _observation(moment: str, events: list[dict[str, Any]], probe: dict[str, Any]) -> Observation:
    return Observation(moment, seen={"storage": judge(STICK, events, probe)})


CAME = [added(path(STICK), "usb", "usb_device")]
GAVE = NOTHING | {"nodes": {"block": ["sda"]}, "text": ["sda"]}
CASE = Case(STICK, "burst", "running")


def test_a_case_passes_only_when_it_was_seen_and_its_control_gave_everything() -> None:
    walled = {"burst": _observation("burst", CAME, NOTHING)}
    free = {"running": _observation("running", CAME, GAVE)}
    assert judge_case(CASE, walled, free).verdict == "pass"
    assert judge_case(CASE, walled, {}).verdict == "error"
    half = {"running": _observation("running", CAME, GAVE | {"text": []})}
    assert judge_case(CASE, walled, half).why.endswith("text")
    assert judge_case(CASE, {}, free).verdict == "error"
    unseen = {"burst": _observation("burst", [], NOTHING)}
    assert judge_case(CASE, unseen, free).why == "the kernel did not see the device"
    walled["burst"].lost = True
    assert judge_case(CASE, walled, free).verdict == "error"
    leaky = {"burst": _observation("burst", CAME, GAVE)}
    assert judge_case(CASE, leaky, {}).verdict == "leak"
    assert judge_case(Case(STICK, "burst", "running", "why"), leaky, free).verdict == "skipped"


def test_delays_end_where_the_journals_line_arrives() -> None:
    told = {"k": "journal", "kind": "device.attempt", "path": path(STICK), "t": 1.5, "host": 12.0}
    found = delays([STICK], [*CAME, told], {"storage": 10.0})
    assert (found.plug, found.kernel) == ((2.0,), (0.5,))
    assert delays([STICK], [told], {"storage": 10.0}).plug == ()
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([3.0, 1.0, 2.0], 0.99) == 3.0
