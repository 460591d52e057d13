"""Attack 3: core tries to get out, the outside tries to get in. Items 6(iv)(d) and (e)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.vm.trial import Lab, Trial

TITLE = "Core tries to reach the outside; the outside tries to reach everything"

#: Raw SYNs to every port, answers counted: 65,535 connections would take hours behind a drop.
SCAN = r"""
import select, socket, struct, sys
own, target = sys.argv[1], sys.argv[2]
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
answers = {}
pseudo = socket.inet_aton(own) + socket.inet_aton(target) + struct.pack(">BBH", 0, 6, 20)
def syns(sequence):
    fields = (sequence, 0, 0x50, 2, 1024)
    base = sum(struct.unpack(">16H", pseudo + struct.pack(">HHIIBBHHH", 40123, 0, *fields, 0, 0)))
    def syn(port):  # of the checksum the port alone is new
        total = base + port
        while total >> 16: total = (total & 0xFFFF) + (total >> 16)
        return struct.pack(">HHIIBBHHH", 40123, port, *fields, ~total & 0xFFFF, 0)
    return syn
def drain(wait):
    while select.select([raw], [], [], wait)[0]:
        data = raw.recv(128)
        if data[12:16] == socket.inet_aton(target):
            offset = (data[0] & 15) * 4
            source, dest = struct.unpack_from(">HH", data, offset)
            if dest == 40123: answers[source] = data[offset + 13]
syn = syns(1)
for port in range(1, 65536):
    try: raw.sendto(syn(port), (target, 0))
    except OSError: pass
    if port % 256 == 0: drain(0)
drain(2.0)
for sequence in range(2, 7):  # the declared port answers: asked again, as everybody does who is not heard
    if 7601 in answers: break
    raw.sendto(syns(sequence)(7601), (target, 0))
    drain(2.0)
print(sorted(answers))
"""

#: One try of each kind to each target; prints what got through.
REACH = r"""
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def tcp(target, port):
    try:
        socket.create_connection((target, port), timeout=2).close()
        return "tcp %s:%d" % (target, port)
    except ConnectionRefusedError: return "rst %s:%d" % (target, port)
    except OSError: return None
def udp(target, port):
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); probe.settimeout(2)
    try:
        probe.connect((target, port)); probe.send(b"x" * 30); probe.recv(10)
        return "udp %s:%d" % (target, port)
    except ConnectionRefusedError: return "icmp-unreachable %s:%d" % (target, port)
    except OSError: return None
with ThreadPoolExecutor(96) as pool:
    tries = [pool.submit(tcp, t, p) for t in sys.argv[1:] for p in (22, 53, 80, 443, 7601, 9090, 9723)]
    tries += [pool.submit(udp, t, p) for t in sys.argv[1:] for p in (53, 123)]
    print(sorted(filter(None, (one.result() for one in tries))))
"""


def run(lab: Lab, trial: Trial) -> None:
    """Try every direction that no flow declares, with the agents stopped on both sides."""
    trial.step("stop the agents on core and inbound: the kernels' walls must hold alone")
    for host in ("core-1", "inbound-1"):
        lab.root(host, "systemctl stop sekisho-agent")
    outside = ["10.77.1.2", "10.77.6.2", "10.77.1.1", "10.77.2.1", "10.77.5.2", "10.77.6.1"]
    trial.step("core tries the hospital, the recipient and both gateways")
    seen = lab.root("core-1", f"python3 - {' '.join(outside)}", stdin=REACH, timeout=180)
    trial.expect("core reaches none of them", seen.out.strip() == "[]", seen.out + seen.err)
    trial.step("core forges routes through inbound and outbound")
    forged = lab.root(
        "core-1",
        "ip route add 10.77.2.0/29 via 10.77.3.1; ip route add 10.77.1.0/29 via 10.77.3.1; "
        "ip route add 10.77.5.0/29 via 10.77.4.2; ip route add 10.77.6.0/29 via 10.77.4.2; ip route",
    )
    trial.expect("the forged routes are in place", "10.77.1.0/29 via" in forged.out, forged.err)
    seen = lab.root("core-1", f"python3 - {' '.join(outside)}", stdin=REACH, timeout=180)
    trial.expect("and lead nowhere", seen.out.strip() == "[]", seen.out + seen.err)
    trial.step("even with core's own rules flushed, its neighbours do not forward")
    lab.root("core-1", "nft flush ruleset")
    seen = lab.root("core-1", f"python3 - {' '.join(outside)}", stdin=REACH, timeout=180)
    trial.expect(
        "core without rules still reaches none of them", seen.out.strip() == "[]", seen.out
    )
    lab.root(
        "core-1",
        "systemctl restart sekisho-nftables; for n in 1 2 5 6; do ip route del 10.77.$n.0/29; done",
    )
    trial.step("the outside tries core, outbound, the gateways and the monitor")
    inner = ["10.77.3.2", "10.77.4.1", "10.77.4.2", "10.77.5.1", "10.77.1.1", "10.77.2.1",
             "10.77.3.1", "10.77.0.13", "10.77.0.16"]  # fmt: skip
    with ThreadPoolExecutor() as pool:
        hospital, recipient = pool.map(
            lambda peer: lab.peer(
                peer[0], f"python3 - {' '.join(peer[1])}", stdin=REACH, timeout=240
            ),
            (("hospital-a", inner), ("university-b", [*inner, "10.77.2.2"])),
        )
    for who, seen in (("hospital", hospital), ("recipient", recipient)):
        trial.expect(f"the {who} reaches none of them", seen.out.strip() == "[]",
                     seen.out + seen.err)  # fmt: skip
    trial.step("the hospital scans all 65,535 ports of inbound")
    seen = lab.peer("hospital-a", "python3 - 10.77.1.2 10.77.2.2", stdin=SCAN, timeout=300)
    trial.expect(
        "only the declared port answers", seen.out.strip() == "[7601]", seen.out + seen.err
    )
    for host in ("core-1", "inbound-1"):
        lab.root(host, "systemctl start sekisho-agent")
