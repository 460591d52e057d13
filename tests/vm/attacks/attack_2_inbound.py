"""Attack 2: the receiving server is seized by root and tries to send. Item 6(iv)(d)2."""

from __future__ import annotations

import base64
import secrets
import subprocess
import sys
from pathlib import Path

from tests.vm.attacks.capture import tally
from tests.vm.trial import Lab, Trial, until

TITLE = "1 GB comes in; a hostile root on inbound tries to get one byte out"
HOST, ADDRESS = "inbound-1", "10.77.2.2"
PEER, PEER_ADDRESS = "hospital-a", "10.77.1.2"
SIZE = 1_000_000_000
BLOCK = 1_000_000


def records(salt: str) -> str:
    """Return a program that gives 1 GB as blocks which all differ: cheap to make, twice the same."""
    return (
        "import hashlib\n"
        f"page=hashlib.shake_256({salt!r}.encode()).digest({BLOCK - 8})\n"
        f"blocks=(i.to_bytes(8,'big')+page for i in range({SIZE // BLOCK}))\n"
    )


def push(lab: Lab, trial: Trial) -> None:
    """Let the hospital push 1 GB through its gateway and compare the digests."""
    trial.step("the hospital makes 1 GB of records")
    salt = secrets.token_hex(8)
    write = "f=open('/srv/out/records.bin','wb')\nfor b in blocks: f.write(b)\nf.close()\n"
    made = lab.root("outside", "mkdir -p /srv/out && python3 -", stdin=records(salt) + write)
    trial.expect("the records are made", made.code == 0, made.err[-200:])
    # The same bytes are made and hashed once more here: an emulated processor needs 30 s for it.
    digest = "h=hashlib.sha256()\nfor b in blocks: h.update(b)\nprint(h.hexdigest())\n"
    whole = subprocess.run(
        [sys.executable, "-c", records(salt) + digest], capture_output=True, text=True, check=True
    ).stdout.strip()
    trial.step("and pushes it to inbound through its gateway, one way")
    sent = lab.peer(
        PEER, f"sekisho send /srv/out --from {PEER} --to {HOST} --address {ADDRESS} --port 7601 --json",
        timeout=600,
    )  # fmt: skip
    trial.expect(
        "the sender saw the delivery accepted", sent.code == 0, sent.out[-300:] + sent.err[-300:]
    )
    got = lab.root(
        HOST,
        "find /var/lib/sekisho/incoming/complete -name records.bin -newermt '-20 min' "
        "-exec sha256sum {} + | cut -c1-64",
        timeout=300,
    ).out.split()
    trial.expect("it is complete and the digests are equal",
                 whole in got, f"{whole[:16]} there: {[one[:16] for one in got]}")  # fmt: skip


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
        f"python3 /run/hostile.py {ADDRESS} {PEER_ADDRESS} fd77:1::2 45",
    )
    trial.step("the hospital keeps connecting and reads what comes back")
    reader = (
        "import socket,time\n"
        "got=b''\nends=time.monotonic()+30\nopened=0\n"
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
    until(lambda: "tries" in lab.root(HOST, "cat /run/hostile.out").out, timeout=60, every=3)
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
