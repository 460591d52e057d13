"""Attack 2: the receiving server is seized by root and tries to send. Item 6(iv)(d)2."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

from tests.vm.attacks.capture import tally
from tests.vm.trial import Lab, Seen, Trial, until

TITLE = "1 GB comes in; a hostile root on inbound tries to get one byte out"
HOST, ADDRESS = "inbound-1", "10.77.2.2"
PEER, PEER_ADDRESS = "hospital-a", "10.77.1.2"
SIZE = 1_000_000_000
BLOCK = 1_000_000


def records(salt: str, size: int) -> str:
    """Return a program that gives ``size`` bytes as blocks which all differ: cheap, twice the same."""
    return (
        "import hashlib,pathlib\n"
        f"page=hashlib.shake_256({salt!r}.encode()).digest({BLOCK - 8})\n"
        f"def blocks(): return (i.to_bytes(8,'big')+page for i in range({size // BLOCK}))\n"
    )


def make(lab: Lab, salt: str, size: int, path: str) -> Seen:
    """Write the records to ``path`` on the outside machine."""
    write = f"with open({path!r},'wb') as f:\n  for b in blocks(): f.write(b)\n"
    folder = path.rpartition("/")[0]
    return lab.root("outside", f"mkdir -p {folder} && python3 -", stdin=records(salt, size) + write)


def arrived(lab: Lab, salt: str, size: int, name: str) -> str:
    """Return "whole" when what is complete on inbound holds exactly the records, else what is there.

    Made once more there and compared byte by byte: an emulated processor hashes 1 GB in 20 to 30 s.
    """
    compare = (
        "def held(file):\n"
        "  with file.open('rb') as f:\n"
        "    return all(f.read(len(b))==b for b in blocks()) and not f.read(1)\n"
        f"found=list(pathlib.Path('/var/lib/sekisho/incoming/complete').rglob({name!r}))\n"
        "print('whole' if found and all(map(held,found)) else list(map(str,found)))\n"
    )
    seen = lab.root(HOST, "python3 -", stdin=records(salt, size) + compare, timeout=300)
    return seen.out.strip() or seen.err[-200:]


def push(lab: Lab, trial: Trial) -> None:
    """Let the hospital push 1 GB through its gateway and compare it."""
    trial.step("the hospital makes 1 GB of records")
    salt = secrets.token_hex(8)
    made = make(lab, salt, SIZE, "/srv/out/records.bin")
    trial.expect("the records are made", made.code == 0, made.err[-200:])
    lab.root(HOST, "rm -rf /var/lib/sekisho/incoming/complete/*")
    trial.step("and pushes it to inbound through its gateway, one way")
    sent = lab.peer(
        PEER, f"sekisho send /srv/out --from {PEER} --to {HOST} --address {ADDRESS} --port 7601 --json",
        timeout=600,
    )  # fmt: skip
    trial.expect(
        "the sender saw the delivery accepted (its digests are equal)",
        sent.code == 0,
        sent.out[-300:] + sent.err[-300:],
    )
    whole = arrived(lab, salt, SIZE, "records.bin")
    trial.expect("it is complete and every byte is the same", whole == "whole", whole)


def run(lab: Lab, trial: Trial) -> None:
    """Push, then seize inbound with its own rules flushed and watch the hospital's wire."""
    push(lab, trial)
    script = (Path(__file__).parent / "hostile_receiver.py").read_text(encoding="utf-8")
    lab.put(HOST, "/run/hostile.py", script)
    trial.step("root on inbound: agent and receiver stopped, own rules flushed")
    lab.root(HOST, "systemctl stop sekisho-agent sekisho-receive; nft flush ruleset")
    lab.root("outside", "rm -f /run/wire.pcap")
    lab.root(
        "outside",
        f"systemd-run --quiet --collect --unit=wire ip netns exec {PEER} "
        "tcpdump -i wan0 -U -w /run/wire.pcap -s 256 -Z root not arp",
    )
    lab.root(
        HOST,
        f"systemd-run --quiet --collect --unit=hostile --property=StandardOutput=file:/run/hostile.out "
        f"python3 /run/hostile.py {ADDRESS} {PEER_ADDRESS} fd77:1::2 15",
    )
    trial.step("the hospital keeps connecting and reads what comes back")
    reader = (
        "import socket,time\n"
        "got=b''\nends=time.monotonic()+10\nopened=0\n"
        "while time.monotonic()<ends:\n"
        "  try:\n"
        f"    c=socket.create_connection(('{ADDRESS}',7601),timeout=3); opened+=1\n"
        "    c.sendall(b'x'*2000); c.settimeout(3)\n"
        "    while (d:=c.recv(65536)): got+=d\n"
        "  except OSError: pass\n"
        "print(opened,len(got))\n"
    )
    read = lab.peer(PEER, "python3 -", stdin=reader, timeout=120)
    opened, received = ([*read.out.split(), "0", "-1"])[:2]
    trial.expect("connections to inbound did open (the way in stands)", int(opened) > 0, opened)
    trial.expect("the hospital's programs read nothing", received == "0", f"{received} bytes")
    until(lambda: "tries" in lab.root(HOST, "cat /run/hostile.out").out, timeout=60, every=2)
    tried = lab.root(HOST, "cat /run/hostile.out").out
    trial.expect("the attacker wrote replies and tried to connect",
                 "'accepted': 0" not in tried and "'replies_written': 0" not in tried
                 and "'tries'" in tried, tried)  # fmt: skip
    trial.expect("none of its connections was made", "'reached': 0" in tried, tried)
    lab.root("outside", "systemctl stop wire")
    wire = base64.b64decode(lab.root("outside", "base64 -w0 /run/wire.pcap").out)
    seen = tally(wire, ADDRESS)
    trial.expect("the capture is alive: it holds inbound's bare segments", seen.bare > 0, seen.bare)
    trial.expect("the capture holds zero payload bytes from inbound",
                 seen.payload_bytes == 0 and not seen.other,
                 f"{seen.payload_bytes} bytes; {seen.other[:3]}")  # fmt: skip
    drops = lab.root(
        "gate-in", "nft list counters table inet sekisho | grep -A1 -i drop | grep packets"
    )
    trial.expect("the gateway counted what it dropped",
                 any(int(row.split()[1]) > 0 for row in drops.out.splitlines() if row.split()[1].isdigit()),
                 drops.out.replace("\n", " ")[:200])  # fmt: skip
    trial.step("bring inbound back")
    lab.root(HOST, "systemctl stop hostile; systemctl start sekisho-nftables sekisho-agent sekisho-receive; "
             "systemctl restart sekisho-nftables; rm -f /run/hostile.*")  # fmt: skip
    lab.root("outside", "rm -rf /srv/out /run/wire.pcap")
    lab.root(HOST, "rm -rf /var/lib/sekisho/incoming/complete/*")
