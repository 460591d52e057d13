"""Attack 5: the power is cut during a delivery and during journal writes. Items 6(iv)(b), 6(v)(b)."""

from __future__ import annotations

import secrets
import time

from tests.vm.attacks.attack_2_inbound import ADDRESS, HOST, PEER, arrived, make
from tests.vm.trial import Lab, Trial, failed_checks, until

TITLE = "The power is cut during a delivery and during journal writes"
SIZE = 80_000_000


def run(lab: Lab, trial: Trial) -> None:
    """Cut, boot, judge before the network, verify the journal, resume the delivery."""
    trial.step("a delivery of 80 MB begins, and the journal is written to without pause")
    salt = secrets.token_hex(8)
    made = make(lab, salt, SIZE, "/srv/cut/scan.bin")
    trial.expect("the records are made", made.code == 0, made.err[-200:])
    send = (f"sekisho send /srv/cut --from {PEER} --to {HOST} --address {ADDRESS} --port 7601 "
            "--part-mib 8 --state /var/tmp/cut.state --json")  # fmt: skip
    lab.root("outside", f"systemd-run --quiet --collect --unit=cut ip netns exec {PEER} {send}")
    noise = (
        "import json,socket,time\n"
        "while True:\n"
        "  s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET); s.connect('/run/sekisho/journal.sock')\n"
        "  for i in range(200):\n"
        "    s.send(json.dumps({'kind':'trial.noise','data':{'i':i}}).encode()); s.recv(4096); time.sleep(0.01)\n"
    )
    lab.put(HOST, "/run/noise.py", noise)
    lab.root(HOST, "systemd-run --quiet --collect --unit=noise python3 /run/noise.py")
    arriving, _ = until(
        lambda: int(lab.root(HOST, "du -sb /var/lib/sekisho/incoming | cut -f1").out or 0) > 12_000_000,
        timeout=120, every=1,
    )  # fmt: skip
    trial.expect("the delivery was under way when the power went", arriving)
    records = len(lab.journal(HOST, "trial.noise"))
    trial.expect("the journal was being written", records > 0, f"{records} records")
    trial.step("power cut")
    lab.driver("power-cut", HOST)
    time.sleep(1)
    lab.driver("power-on", HOST, timeout=400)
    back, took = until(lambda: lab.user(HOST, "true", timeout=30).code == 0, timeout=400, every=1)
    trial.expect("the machine is back", back, f"{took:.0f} s")
    stamps = lab.root(
        HOST,
        "for u in sekisho-nftables systemd-networkd; do systemctl show -P ActiveEnterTimestampMonotonic $u; done",
    ).out.split()
    trial.expect("the rules were loaded before the network came up",
                 len(stamps) == 2 and 0 < int(stamps[0]) < int(stamps[1]), stamps)  # fmt: skip
    trial.step("verify the journal on a copy, with the host's public key")
    until(
        lambda: lab.root(HOST, "systemctl is-active sekisho-agent").out.strip() == "active",
        timeout=60,
    )
    verified = lab.root(HOST, "openssl pkey -in /etc/sekisho/host.key.pem -pubout -out /run/host.pub 2>/dev/null; "
                        "sekisho verify /var/lib/sekisho/journal --key /run/host.pub "
                        "--head /var/lib/sekisho/journal/head.json", timeout=120)  # fmt: skip
    trial.expect(
        "the journal verifies", verified.code == 0, verified.out[-300:] + verified.err[-200:]
    )
    torn = list(lab.journal(HOST, "journal."))
    trial.expect("and says what happened to it", torn, [r["kind"] for r in torn][-3:])
    trial.step("every control after the boot")
    report = lab.audit("--host", HOST)
    trial.expect(
        "no check fails", not failed_checks(report, HOST), sorted(failed_checks(report, HOST))
    )
    trial.step("the sender tries again: the delivery resumes")
    lab.root("outside", "systemctl stop cut; systemctl reset-failed cut", timeout=60)
    again = lab.peer(PEER, send, timeout=300)
    trial.expect(
        "the sender sees it accepted", again.code == 0, again.out[-300:] + again.err[-300:]
    )
    whole = arrived(lab, salt, SIZE, "scan.bin")
    trial.expect("and every byte of it is the same", whole == "whole", whole)
    partial = lab.root(HOST, "ls /var/lib/sekisho/incoming | grep -v complete | head").out
    trial.step(f"left beside it: {partial.split()}")
    lab.root("outside", "rm -rf /srv/cut /var/tmp/cut.state")
    lab.root(HOST, "rm -rf /var/lib/sekisho/incoming/complete/*")
