"""What is done to a line, and what is seen; each scene prints one JSON object.

unshare --net --mount --fork --kill-child python3 tests/kernel/linescenes.py SCENE
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from lineflow import Flow, Receiver, Stream  # noqa: E402
from lineunit import unit  # noqa: E402
from lineworld import (  # noqa: E402
    AUTHORITY,
    CERTIFICATE,
    INBOUND,
    MOVED,
    PEER_IN,
    SECOND,
    UNIVERSITY,
    Authority,
    Charon,
    Line,
    Wire,
    now,
    play,
    sh,
)

Seen = dict[str, Any]


def up(line: Line, *names: str) -> list[Charon]:
    made = [line.charon(name) for name in names]
    for one in made:
        one.start()
    return made


def lives(folder: Path) -> Seen:
    """Kill, stop and start the daemons at both ends; count what is on the line all the while."""
    line = Line(folder)
    flow, taken = Flow("hospital-a", INBOUND), Receiver("inbound-1", INBOUND)
    wire = Wire("line", "br0")
    gate, hospital = up(line, "gate-in", "hospital-a")
    seen: Seen = {"first after s": flow.back(), "delivery": flow.deliver(1_000_000, seconds=20)}
    gate.kill()
    seen["killed, its associations stand"] = flow.deliver()
    gate.forget()
    gate.start()
    seen["back after a kill -9 s"] = flow.back()
    gate.stop()
    seen["stopped"] = flow.deliver()
    seen["drops while stopped"] = line.clear_drops()
    gate.start()
    seen["back after a stop s"] = flow.back()
    hospital.kill()
    hospital.forget()
    seen["peer gone"] = flow.deliver()
    hospital.start()
    seen["back after the peer was away s"] = flow.back()
    for what in ("policy", "state"):
        sh("ip", "-n", "gate-in", "xfrm", what, "flush")
    seen["kernel flushed behind charon's back"] = flow.deliver(seconds=2)
    gate.stop()
    gate.forget()
    gate.start()
    seen["back after the flush s"] = flow.back()
    seen["line"] = wire.stop()
    before = taken.bytes
    seen |= naked(line, flow, [gate, hospital])
    seen["bytes received in clear"] = taken.bytes - before
    line.close()
    return seen


def naked(line: Line, flow: Flow, daemons: list[Charon]) -> Seen:
    """Take the hospital's own filter and both daemons away: it sends in clear (the control)."""
    for one in daemons:
        one.stop()
        one.forget()
    line.flush("hospital-a")
    wire = Wire("line", "br0")
    dropped = line.clear_drops()
    went = flow.deliver(seconds=2)
    return {
        "naked": went,
        "naked dropped": line.clear_drops() - dropped,
        "naked line": wire.stop(),
    }


def outward(folder: Path) -> Seen:
    """Let our own gateway be the end that must not send in clear."""
    line = Line(folder, way="out")
    flow, taken = Flow("outbound-1", UNIVERSITY), Receiver("university-b", UNIVERSITY)
    wire = Wire("line", "br0")
    gate, _ = up(line, "gate-out", "university-b")
    seen: Seen = {"first after s": flow.back(), "delivery": flow.deliver(1_000_000, seconds=20)}
    gate.stop()
    seen["stopped"] = flow.deliver(seconds=2)
    gate.forget()
    seen["no policy in the kernel"] = flow.deliver(seconds=2)
    seen["drops"] = line.clear_drops()
    gate.start()
    seen["back after a stop s"] = flow.back()
    seen["bytes"] = taken.bytes
    seen["line"] = wire.stop()
    # The control: with the filter's word on IPsec taken out the same packets do go in clear.
    gate.stop()
    gate.forget()
    line.nft("gate-out", "insert rule inet sekisho forward accept")
    line.flush("university-b")
    wire = Wire("line", "br0")
    seen["without the filter"] = flow.deliver(seconds=2)
    seen["without the filter line"] = wire.stop()
    line.close()
    return seen


def refused(folder: Path) -> Seen:
    """Try keys, certificates and addresses that are not the hospital's of today."""
    line = Line(folder)
    flow, taken = Flow("hospital-a", INBOUND), Receiver("inbound-1", INBOUND)
    wire = Wire("line", "br0")
    gate, hospital = up(line, "gate-in", "hospital-a")
    seen: Seen = {"good at first": flow.back() >= 0}
    good = hospital.place(CERTIFICATE).read_text()

    def again(what: str, change: Callable[[], object]) -> None:
        hospital.stop()
        hospital.forget()
        change()
        # A good certificate of the same key that the gateway still remembers would count.
        gate.swanctl("--flush-certs")
        hospital.start()
        before = taken.bytes
        seen[what] = [flow.deliver(seconds=6), hospital.children(), taken.bytes - before]

    again("expired", lambda: hospital.place(CERTIFICATE).write_text(
        line.authority.over("hospital-a")
    ))  # fmt: skip
    old = Authority(folder / "old", line.edited)
    again("old authority", lambda: (
        hospital.place(CERTIFICATE).write_text(old.certificate("hospital-a", hospital.key)),
        # It trusts ours, and sends what another site CA of the same name once signed.
        hospital.place(AUTHORITY).write_bytes(
            (line.authority.lines.folder / "ca.crt.pem").read_bytes()),
    ))  # fmt: skip
    other = folder / "other.key.pem"
    certified = good
    again("wrong key", lambda: (
        old.certificate("hospital-a", other, anew=True),
        hospital.place(CERTIFICATE).write_text(certified),
        hospital.key.rename(folder / "kept.key.pem"),
        hospital.key.write_bytes(other.read_bytes()),
    ))  # fmt: skip
    again("good again", lambda: hospital.key.write_bytes((folder / "kept.key.pem").read_bytes()))
    sh("ip", "-n", "hospital-a", "addr", "add", f"{MOVED}/29", "dev", "wan0")
    moved = [
        replace(one, local_address=MOVED, children=tuple(
            replace(child, local_ts=f"{MOVED}/32[tcp]") for child in one.children))
        for one in hospital.lines
    ]  # fmt: skip
    kept, hospital.lines = hospital.lines, moved
    again("another address", hospital.write)
    seen["another address"].append(flow.deliver(seconds=3, source=MOVED))
    hospital.lines = kept
    again("its own address", hospital.write)
    begun = time.monotonic()
    line.authority.lines.revoke("hospital-a", serial="", reason="key-compromise", now=now())
    line.give(gate)
    gate.apply()
    seen["revoked after s"] = time.monotonic() - begun
    before = taken.bytes
    seen["revoked"] = [flow.deliver(seconds=6), hospital.children(), taken.bytes - before]
    seen["line"] = wire.stop()
    seen["said"] = sorted({
        word
        for text in gate.log().splitlines()
        for word in ("certificate was revoked", "invalid (valid from",
                     "no issuer certificate found",
                     "signature validation failed", "certificate expired")
        if word in text
    })  # fmt: skip
    line.close()
    return seen


def second(folder: Path) -> Seen:
    """Let a second hospital with a valid certificate try the first one's flow, in three ways."""
    line = Line(folder)
    mine, theirs = Flow("hospital-z", INBOUND, 7602), Flow("hospital-z", INBOUND)
    taken, own = Receiver("inbound-1", INBOUND), Receiver("inbound-1", INBOUND, 7602)
    wire = Wire("line", "br0")
    _gate, other = up(line, "gate-in", "hospital-z")
    seen: Seen = {"its own flow": mine.back() >= 0, "own bytes": own.bytes > 0}
    seen["its line"] = wire.stop()
    # Without an association for it this goes in clear: the intruder's own word, seen and refused.
    wire = Wire("line", "br0")
    seen["first one's port, from its address"] = theirs.deliver(seconds=3)
    seen["first one's port line"] = wire.stop()
    wire = Wire("line", "br0")
    # Asks for the first one's selectors with its own certificate.
    sh("ip", "-n", "hospital-z", "addr", "add", f"{PEER_IN}/32", "dev", "lo")
    kept = other.lines
    line_z = kept[0]
    child = replace(line_z.children[0], local_ts=f"{PEER_IN}/32[tcp]",
                    remote_ts=f"{INBOUND}/32[tcp/7601]")  # fmt: skip
    other.lines = [replace(line_z, children=(child,))]
    other.stop(), other.forget(), other.write(), other.start()
    seen["first one's selectors"] = [theirs.deliver(seconds=4, source=PEER_IN), other.children()]
    # Calls itself the first one.
    name = "hospital-a.wan-in.lab.sekisho.internal"
    other.lines = [replace(line_z, local_id=name, children=(child,))]
    other.stop(), other.forget(), other.write(), other.start()
    seen["first one's name"] = [theirs.deliver(seconds=4, source=PEER_IN), other.children()]
    # As root it stuffs the first one's packets into its own, valid association.
    other.lines = kept
    other.stop(), other.forget(), other.write(), other.start()
    seen["back to its own"] = mine.back() >= 0
    line.flush("hospital-z")
    stuffed = line.clear_drops()
    number = str(kept[0]["children"][0]["reqid"])
    for what in (
        ("policy", "add", "dir", "out", "src", f"{PEER_IN}/32", "dst", f"{INBOUND}/32",
         "priority", "1", "tmpl", "src", SECOND, "dst", "10.77.1.1", "proto", "esp", "reqid",
         number, "mode", "tunnel"),
    ):  # fmt: skip
        sh("ip", "-n", "hospital-z", "xfrm", *what)
    seen["stuffed"] = theirs.deliver(seconds=3, source=PEER_IN)
    seen["stuffed dropped"] = line.clear_drops() - stuffed
    seen["refused by the kernel's policy"] = _statistic(
        "gate-in", "XfrmInTmplMismatch"
    ) + _statistic("gate-in", "XfrmInNoPols")
    seen["bytes of the first one's flow"] = taken.bytes
    seen["line"] = wire.stop()
    line.close()
    return seen


def _statistic(name: str, key: str) -> int:
    text = sh("ip", "netns", "exec", name, "cat", "/proc/net/xfrm_stat")
    return next((int(row.split()[1]) for row in text.splitlines() if row.startswith(key)), 0)


def rekeys(folder: Path) -> Seen:
    """Let one long connection live through many rekeyings of child and IKE by their own clocks."""
    line = Line(folder, behind=True)
    flow, taken = Flow("hospital-a", INBOUND), Receiver("inbound-1", INBOUND)
    gate, hospital = line.charon("gate-in"), line.charon("hospital-a")
    for one in (gate, hospital):
        # The control first: the same stream under the lives the files really have.
        one.start()
    flow.back()
    stream = Stream(flow)
    time.sleep(3)
    begun = time.monotonic()
    time.sleep(15)
    seen: Seen = {"longest gap without rekeying s": taken.gap(begun)}
    stream.stop()
    for one in (hospital, gate):
        one.stop()
        one.forget()
        one.shorter = {"rekey_time = 4h": "rekey_time = 15s", "rekey_time = 60m": "rekey_time = 5s"}
        one.write()
        one.start()
    flow.back()
    made = _made(gate)
    wire, stream = Wire("line", "br0"), Stream(flow)
    time.sleep(3)
    begun, before, connections = time.monotonic(), taken.bytes, stream.connections
    time.sleep(30)
    seen |= {
        "longest gap s": taken.gap(begun),
        "bytes": taken.bytes - before,
        "connected again": stream.connections - connections,
    }
    stream.stop()
    seen |= {
        "children made": _made(gate) - made,
        "IKE made": gate.log().count("rekeyed to") + gate.log().count("rekeyed between"),
        "line": wire.stop(),
    }
    line.close()
    return seen


def _made(one: Charon) -> int:
    return one.log().count("established with SPIs")


def hop(folder: Path, *, ipsec: bool = True) -> Seen:
    """Push 16 MB three times through both gateways; return the receiver's MB/s (the benchmark)."""
    line = Line(folder, behind=True, ipsec=ipsec)
    flow, taken = Flow("hospital-a", INBOUND), Receiver("inbound-1", INBOUND)
    if ipsec:
        up(line, "gate-in", "hospital-a")
    if flow.back() < 0:
        raise RuntimeError("nothing passes")
    rates = []
    for _ in range(3):
        before, first = taken.bytes, len(taken.came)
        if not flow.deliver(16_000_000, seconds=300):
            raise RuntimeError(f"only {taken.bytes - before} bytes came")
        rates.append((taken.bytes - before) / (taken.came[-1] - taken.came[first]) / 1e6)
    line.close()
    return {"MB/s": rates, "esp": line.counters("gate-in").get("pass-line-esp-input", 0)}


SCENES: dict[str, Callable[[Path], Seen]] = {
    "lives": lives,
    "outward": outward,
    "refused": refused,
    "second": second,
    "rekeys": rekeys,
    "unit": unit,
    "hop": hop,
    "hop in clear": functools.partial(hop, ipsec=False),
}


if __name__ == "__main__":
    play(SCENES, "*/log")
