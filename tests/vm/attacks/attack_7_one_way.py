"""Attack 7: every way out of inbound, pulling from core, and a flood. Items 6(iv)(d)2, 3 and (e)."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.vm.attacks.capture import judge
from tests.vm.trial import Lab, Trial, until

TITLE = "Root on inbound tries every way out; root on gate-out pulls from core; the hospital floods"
HOST, ADDRESS = "inbound-1", "10.77.2.2"
PEER, PEER_ADDRESS = "hospital-a", "10.77.1.2"
PROGRAMS = Path(__file__).parent / "seized"
PLACE = "/run/seized"
WIRE = "/var/tmp/wire.pcap"
SECONDS = 2.5
#: Ways that need a module, of which the kernel may have none: tried when it does.
TUNNELS = {"ipip": "ipip", "gre": "ip_gre", "vxlan": "vxlan", "ipsec": "esp4 xfrm_user"}
#: Bytes behind a packet's end do not arrive even at the gateway by the lab's emulated wire (by a
#: veth they do, `tests/kernel/test_ways_kernel.py`): what is not heard there proves nothing here.
UNHEARD = {"trailers"}
#: Whom root on gate-out asks, and by which ports; by the wire to outbound and by the administrators'.
ASKED = ("10.77.5.1=1-65535", "10.77.4.2=1-1024", "10.77.4.1=1-1024", "10.77.3.2=1-1024")
ASKED_BY_MANAGEMENT = ("10.77.0.13=1-1024", "10.77.0.14=1-1024")
SSH_CONFIG = Path(os.environ.get("SEKISHO_LAB_STATE", "/var/lib/sekisho-lab")) / "ssh_config"
RULES = "nft -s list ruleset | sha256sum"


def equip(lab: Lab, *hosts: str) -> None:
    """Copy the hostile programs to the machines that play them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for program in sorted(PROGRAMS.glob("*.py")):
            archive.add(program, program.name)
    for host in hosts:
        lab.put(host, "/run/seized.tar", packed.getvalue())
        lab.root(
            host, f"mkdir -p {PLACE} && tar -xf /run/seized.tar -C {PLACE} && rm /run/seized.tar"
        )


def begin(lab: Lab, host: str, name: str, words: str, *, peer: str = "") -> None:
    """Start a program as a unit, in a peer's namespace if told; what it says is kept for `end`."""
    inside = f"ip netns exec {peer} " if peer else ""
    lab.root(
        host,
        f"systemd-run --quiet --collect --unit={name} --property=RuntimeMaxSec=400 "
        f"--property=StandardOutput=truncate:{PLACE}/{name}.out {inside}python3 {words}",
    )


def said(lab: Lab, host: str, name: str) -> str:
    """Return what a unit has said so far."""
    return lab.root(host, f"cat {PLACE}/{name}.out").out


def end(lab: Lab, host: str, name: str) -> str:
    """End a unit by the signal on which it tells what it saw, and return that."""
    lab.root(host, f"systemctl stop {name}")
    return said(lab, host, name)


def last_json(text: str) -> Any:
    """Return the JSON of the last line; empty when there is none."""
    rows = [row for row in text.splitlines() if row.startswith("{")]
    return json.loads(rows[-1]) if rows else {}


def card(lab: Lab, host: str, interface: str, *, peer: str = "") -> str:
    """Return an interface's MAC address as the machine has it."""
    ask = lab.peer if peer else lab.root
    return ask(peer or host, f"cat /sys/class/net/{interface}/address").out.strip()


def every_way(lab: Lab, trial: Trial) -> None:
    """Seize inbound and listen on both sides of the gateway, which is left to its kernel alone."""
    token = secrets.token_bytes(16)
    own, gate = card(lab, HOST, "eth1"), card(lab, "gate-in", "eth1")
    hospital = card(lab, "outside", "wan0", peer=PEER)
    trial.step("root on inbound: agent and receiver stopped, own rules flushed, modules loaded")
    lab.root("gate-in", "systemctl stop sekisho-agent")
    lab.root(HOST, "systemctl stop sekisho-agent sekisho-receive; nft flush ruleset; "
             f"for m in {' '.join(TUNNELS.values())}; do modprobe -i $m; done")  # fmt: skip
    flushed = lab.root(HOST, "nft list ruleset")
    trial.expect(
        "inbound has no rules left", flushed.code == 0 and not flushed.out.strip(), flushed.out
    )
    begin(lab, "outside", "ear-wire", f"{PLACE}/ear.py wan0 {token.hex()} {WIRE}", peer=PEER)
    begin(lab, "gate-in", "ear-inner", f"{PLACE}/ear.py eth2 {token.hex()}")
    for host, name in (("outside", "ear-wire"), ("gate-in", "ear-inner")):
        ready, _ = until(lambda h=host, n=name: "ready" in said(lab, h, n), timeout=30)
        trial.expect(f"an ear is open on {host}", ready)
    begin(lab, "outside", "knock", f"{PLACE}/knock.py {ADDRESS} 7601", peer=PEER)
    trial.step("23 ways, up to 1 MB each, while the hospital keeps connecting")
    attack = lab.root(
        HOST,
        f"timeout -k 5 200 python3 {PLACE}/ways.py {token.hex()} --own {ADDRESS} --interface eth1 "
        f"--peer {PEER_ADDRESS} --peer6 fd77:1::2 --peer-mac {hospital} --gateway 10.77.2.1 "
        f"--outer 10.77.1.1 --core 10.77.3.2 --monitor 10.77.0.16 --by eth0=10.77.0.11 "
        f"--by eth0=10.77.0.16 --by eth0=10.77.0.1 --by eth2=10.77.3.2 --seconds {SECONDS}",
        timeout=240,
    )
    tried = last_json(attack.out)
    opened, read = ([*end(lab, "outside", "knock").split(), "0", "-1"])[:2]
    outer = last_json(end(lab, "outside", "ear-wire"))
    inner = last_json(end(lab, "gate-in", "ear-inner"))
    absent = {name for name in TUNNELS if name in tried
              and any(error.startswith("not here") for error in tried[name]["errors"])}  # fmt: skip
    if absent:
        trial.step(
            f"this kernel has no {', '.join(sorted(absent))}: {[tried[n]['errors'] for n in absent]}"
        )
    handed = {name: way["packets"] for name, way in tried.items()}
    trial.expect("every way handed packets to the kernel",
                 handed and all(count for name, count in handed.items() if name not in absent),
                 f"{handed} {attack.err[-200:]}")  # fmt: skip
    heard = inner.get("heard", {})
    deaf = [name for name, way in tried.items()
            if way["gateway's wire"] and way["packets"] and not heard.get(str(way["number"]))]  # fmt: skip
    trial.step(f"not heard even there, so nothing is shown of: {', '.join(deaf) or 'none'}")
    trial.expect("each other was heard on the gateway's inner wire",
                 tried and set(deaf) <= UNHEARD, deaf or heard)  # fmt: skip
    trial.expect("connections to inbound did open (the way in stands)", int(opened) > 0, opened)
    trial.expect("the hospital's programs read nothing", read == "0", f"{read} bytes")
    wire = judge(
        base64.b64decode(lab.root("outside", f"base64 -w0 {WIRE}", timeout=240).out),
        token=token, hospital=hospital, gateway=gate, inbound=ADDRESS,
    )  # fmt: skip
    trial.expect("the capture is alive: the hospital's own and inbound's bare segments, none missed",
                 wire.own > 3 and wire.bare > 3 and outer.get("dropped") == 0,
                 f"{wire.own} own, {wire.bare} bare, {outer.get('dropped')} missed")  # fmt: skip
    trial.expect("the token is in no frame of the hospital's wire",
                 wire.marked == 0 and outer.get("heard") == {}, f"{wire.marked} {outer.get('heard')}")  # fmt: skip
    trial.expect("zero bytes came from inbound, under whatever name",
                 wire.payload_bytes == 0 and not wire.strange, wire.strange[:4])  # fmt: skip
    trial.expect("no frame of inbound's card is on it", own and own not in wire.others, wire.others)
    trial.step("bring inbound and its gateway back")
    lab.root(HOST, f"for m in {' '.join(TUNNELS.values())}; do modprobe -r $m; done; systemctl restart sekisho-nftables; "
             "systemctl start sekisho-agent sekisho-receive")  # fmt: skip
    lab.root("gate-in", "systemctl start sekisho-agent")


def pull(lab: Lab, trial: Trial) -> None:
    """Seize the exit gateway and ask core and outbound; the recipient is asked as the control."""
    trial.step("root on gate-out: agent stopped, own rules flushed, routes to core forged")
    forged = lab.root(
        "gate-out",
        "systemctl stop sekisho-agent; nft flush ruleset; ip route add 10.77.4.0/29 via 10.77.5.1; "
        "ip route add 10.77.3.0/29 via 10.77.5.1; ip route; nft list ruleset",
    )
    trial.expect("the forged routes are in place, the rules are not",
                 "10.77.3.0/29 via" in forged.out and "table" not in forged.out, forged.err)  # fmt: skip
    begin(lab, "outside", "control", f"-m http.server 7609 --bind 10.77.6.2 --directory {PLACE}",
          peer="university-b")  # fmt: skip
    answers: dict[str, Any] = {}
    for own, targets in (
        ("10.77.6.1", ("10.77.6.2=7500-7700",)),
        ("10.77.5.2", ASKED),
        ("10.77.0.15", ASKED_BY_MANAGEMENT),
    ):
        asked = lab.root(
            "gate-out", f"timeout -k 5 150 python3 {PLACE}/pull.py {own} 2 {' '.join(targets)}",
            timeout=180,
        )  # fmt: skip
        answers |= last_json(asked.out)
    control = answers.pop("10.77.6.2", {})
    trial.expect("the same program hears and reads the recipient (the control)",
                 control.get("open") == [7609] and control.get("read", 0) > 0, control)  # fmt: skip
    whole = answers.get("10.77.5.1", {}).get("asked")
    trial.expect("all 65,535 ports of outbound were asked", whole == 65535, whole)
    trial.expect(
        "core and outbound were asked at every address", len(answers) == 6, sorted(answers)
    )
    silent = {name: one for name, one in answers.items()
              if one["open"] or one["refused"] or one["other"] or one["payload"] or one["read"]}  # fmt: skip
    trial.expect("nothing answers: no port, no refusal, 0 bytes", answers and not silent, silent)
    lab.root("outside", "systemctl stop control")
    lab.root("gate-out", "ip route del 10.77.4.0/29; ip route del 10.77.3.0/29; "
             "systemctl restart sekisho-nftables; systemctl start sekisho-agent")  # fmt: skip


def flood(lab: Lab, trial: Trial) -> None:
    """Let the hospital flood; administrators must come in, and its delivery pass afterwards."""
    hosts = (HOST, "gate-in")
    before = [lab.root(host, RULES).out for host in hosts]
    trial.step("the hospital floods the declared port with SYNs and all ports with UDP")
    sent: list[str] = []
    words = f"timeout -k 5 90 python3 {PLACE}/flood.py {PEER_ADDRESS} {ADDRESS} 7601 40"
    flooding = threading.Thread(target=lambda: sent.append(lab.peer(PEER, words).out))
    flooding.start()
    time.sleep(2)
    # A connection of its own: the driver's would ride on one that was open before.
    with ThreadPoolExecutor(len(hosts)) as pool:
        logins = list(pool.map(lambda host: lab.inside(
            "ssh", "-F", SSH_CONFIG, "-o", "ControlPath=none", host, "true", timeout=60), hosts))  # fmt: skip
    under = flooding.is_alive()
    for host, login in zip(hosts, logins, strict=True):
        trial.expect(f"a new SSH login to {host} works under the flood",
                     login.code == 0 and under, login.err[-200:])  # fmt: skip
    flooding.join()
    syns, datagrams = ([int(word) for one in sent for word in one.split()] + [0, 0])[:2]
    trial.expect("it was a flood", syns > 1000 and datagrams > 500, f"{syns} SYNs, {datagrams} UDP")
    salt = secrets.token_hex(16)
    lab.root(
        "outside", f"rm -rf /srv/after && mkdir -p /srv/after && echo {salt} > /srv/after/small.txt"
    )
    delivery = lab.peer(
        PEER, f"sekisho send /srv/after --from {PEER} --to {HOST} --address {ADDRESS} --port 7601 --json",
        timeout=180,
    )  # fmt: skip
    trial.expect(
        "a delivery after it is accepted",
        delivery.code == 0,
        delivery.out[-200:] + delivery.err[-200:],
    )
    there = lab.root(HOST, f"grep -rlx {salt} /var/lib/sekisho/incoming/complete").out
    trial.expect("and is there, whole", there.count("small.txt") == 1, there)
    after = [lab.root(host, RULES).out for host in hosts]
    trial.expect("the rules of inbound and its gateway are as before",
                 after == before and all(before), [one[:16] for one in (*before, *after)])  # fmt: skip


def run(lab: Lab, trial: Trial) -> None:
    """Try every way out, pull, flood; and leave the machines as they were."""
    equip(lab, HOST, "gate-in", "gate-out", "outside")
    try:
        every_way(lab, trial)
        pull(lab, trial)
        flood(lab, trial)
    finally:  # whatever went wrong, nothing stays loose
        lab.root(
            "outside", f"systemctl stop knock ear-wire control; rm -rf {PLACE} {WIRE} /srv/after"
        )
        lab.root("gate-out", "ip route del 10.77.4.0/29; ip route del 10.77.3.0/29")
        for host in (HOST, "gate-in", "gate-out"):
            lab.root(host, f"systemctl stop ear-inner; rm -rf {PLACE}; nft list table inet sekisho >/dev/null || "
                     "systemctl restart sekisho-nftables; systemctl start sekisho-agent")  # fmt: skip
        lab.root(
            HOST, "systemctl start sekisho-receive; rm -rf /var/lib/sekisho/incoming/complete/*"
        )
