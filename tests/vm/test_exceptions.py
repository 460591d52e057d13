"""One stick is let in by an order that three people signed, and by nothing less. Item 6(iii)(c)."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest
from tests.vm.attacks.attack_1_usb import _blocks, _usb
from tests.vm.trial import BIN, INVENTORY, Lab, Seen, Trial, until

pytestmark = pytest.mark.vm
HOST, SERIAL, PORT = "core-1", "CALIBRATION-7", "3"
STICK = {
    "name": "scanner-stick", "vendor": "46f4", "product": "0001", "serial": SERIAL, "port": PORT,
    "interfaces": ["08:06:50"],
}  # fmt: skip
WINDOW_S = 240
STATE = "/var/lib/sekisho/orders"


def _exception(site: Lab, *words: str | Path) -> Seen:
    return site.inside(BIN / "sekisho", "exception", *words)


def _order(site: Lab, folder: Path, approvers: tuple[str, ...]) -> Path:
    """Return an order for the stick, asked for by the operator, signed by ``approvers``."""
    device, order = folder / "stick.json", folder / f"order-{len(approvers)}.json"
    device.write_text(json.dumps(STICK), encoding="utf-8")
    order.unlink(missing_ok=True)
    keys = INVENTORY / "keys"
    asked = _exception(
        site, "request", "-i", INVENTORY, "--machine", HOST, "--device", device, "--direction", "in",
        "--hours", str(WINDOW_S / 3600), "--reason", "scanner calibration", "--by", "baba",
        "--key", keys / "baba-approval.key", "--out", order,
    )  # fmt: skip
    assert asked.code == 0, asked
    for who in approvers:
        signed = _exception(
            site, "approve", order, "-i", INVENTORY, "--by", who,
            "--key", keys / f"{who}-approval.key",
        )  # fmt: skip
        assert signed.code == 0, signed
    return order


def _apply(site: Lab, order: str) -> Seen:
    site.put(HOST, "/run/order.json", order)
    return site.root(HOST, "sekisho exception apply /run/order.json --json")


def _plug(site: Lab, serial: str, port: str) -> None:
    site.driver("usb-plug", HOST, "storage", "--serial", serial, "--port", port)
    until(lambda: any(serial in row for row in _usb(site, HOST)), timeout=20)


def test_an_exception_opens_one_device_and_closes_by_itself(machine: Lab, tmp_path: Path) -> None:
    trial = Trial("exception")
    _whole(machine, trial, tmp_path)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []


def _whole(site: Lab, trial: Trial, folder: Path) -> None:
    before = _blocks(site, HOST)
    trial.step("what lacks a signature, or was altered, opens nothing")
    short = _apply(site, _order(site, folder, ("chiba",)).read_text())
    trial.expect("one approver is not enough", short.code == 3, short.err)
    order = _order(site, folder, ("chiba", "aoki")).read_text()
    altered = order.replace(SERIAL, "ANOTHER-STICK")
    trial.expect("the alteration is one", altered != order)
    forged = _apply(site, altered)
    trial.expect("an altered order is refused", forged.code == 3, forged.err)
    _plug(site, SERIAL, PORT)
    trial.expect("the stick is refused so far", _blocks(site, HOST) == before)

    trial.step("the order with three people's signatures")
    opened = _apply(site, order)
    trial.expect("it opens", opened.code == 0, opened.out + opened.err)
    end = dt.datetime.fromisoformat(json.loads(opened.out)["end"]) if opened.code == 0 else None
    disks, took = until(lambda: _blocks(site, HOST) - before, timeout=30)
    trial.expect("the stick is a disk", len(disks) == 1, f"{sorted(disks)} after {took:.1f} s")
    copied = site.root(
        HOST, "mkdir -p /srv/intake && sekisho exception copy in . /srv/intake --json"
    )
    trial.expect("its file comes in", "HELLO.TXT" in copied.out, copied.out + copied.err)
    got = site.root(HOST, "cat /srv/intake/HELLO.TXT")
    trial.expect("with what it holds", got.out == "this came in on a stick\n", got.out)
    for disk in disks:
        wrote = site.root(HOST, f"dd if=/dev/zero of=/dev/{disk} bs=512 count=1 conv=fsync")
        trial.expect("the kernel holds it read-only", wrote.code != 0, wrote.err[-120:])
    _plug(site, "ANOTHER-STICK", "4")
    rows = [row for row in _usb(site, HOST) if "ANOTHER-STICK" in row]
    trial.expect("another stick is refused meanwhile",
                 bool(rows) and all(row.endswith("authorized=0") for row in rows)
                 and _blocks(site, HOST) - before == disks, rows)  # fmt: skip
    records = site.journal(HOST, "exception.")
    kinds = [record["kind"] for record in records]
    trial.expect("the journal has the opening and the file",
                 {"exception.opening", "exception.opened", "exception.file"} <= set(kinds), kinds)  # fmt: skip

    trial.step("the agent is stopped; nobody ends it")
    site.root(HOST, "systemctl stop sekisho-agent")
    gone, _ = until(lambda: _blocks(site, HOST) == before, timeout=WINDOW_S + 120, every=3)
    now = dt.datetime.fromtimestamp(float(site.root(HOST, "date +%s").out), dt.UTC)
    late = (now - end).total_seconds() if end else float("inf")
    trial.expect("it closes by itself", gone)
    trial.expect("at its end, half a minute later at most", -5 <= late <= 30, f"{late:.0f} s after")
    rows = [row for row in _usb(site, HOST) if SERIAL in row]
    trial.expect("the stick in its port is refused again",
                 bool(rows) and all(row.endswith("authorized=0") for row in rows), rows)  # fmt: skip
    again = _apply(site, order)
    trial.expect("a used order opens nothing", again.code == 3, again.err)

    trial.step("the agent comes back and brings in what it missed")
    site.root(HOST, "systemctl start sekisho-agent")
    told, took = until(
        lambda: "exception.closed" in [r["kind"] for r in site.journal(HOST, "exception.")],
        timeout=60, every=3,
    )  # fmt: skip
    trial.expect("the journal has the closing", told, f"after {took:.0f} s")
    listed = site.root(HOST, "sekisho exception list")
    trial.expect("the register says who, what and when",
                 all(word in listed.out for word in ("baba", "chiba", "aoki", "HELLO.TXT")),
                 listed.out + listed.err)  # fmt: skip
