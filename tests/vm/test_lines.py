"""The entry line encrypted on the lab's machines, by the playbooks: IPsec, then WireGuard. 6(iv)(d)4.

What every way of breaking such a line shows is in test_ipsec.py and test_wireguard.py, on one
machine. Here the roles are run, the flow crosses, the audit judges, and the power is cut.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from labkit.api import Lab as Driver
from tests.vm.attacks.attack_2_inbound import arrived, make
from tests.vm.attacks.capture import frames
from tests.vm.demo import settle_clock, state_name
from tests.vm.trial import BIN, INVENTORY, LAB, REPOSITORY, Lab, Seen, Trial, until

from sekisho.network.strongswan import CERTIFICATE, KEY
from sekisho.nft.ipsec import PEER_RULES

pytestmark = pytest.mark.vm
GATE, TAKER, PEER = "gate-in", "inbound-1", "hospital-a"
GATE_END, PEER_END, TAKER_AT = "10.77.1.1", "10.77.1.2", "10.77.2.2"
INNER, PORT = "192.0.2.2", 51820
CABLE = "fe:54:00:77:01:01"  # libvirt's end of the cable to the gateway's outer card
COPY = REPOSITORY / ".lab/lines/lab"
SITE = "group_vars/all/site.yml"
SIZE = 100_000_000
HOME = "/run/hospital"


@pytest.fixture
def site(lab: Driver, provisioned: Lab) -> Iterator[Lab]:
    """Both machines as they were provisioned, and an inventory of the trial's own."""
    lab.restore(state_name(), GATE, TAKER, "outside")
    for host in (GATE, TAKER):
        settle_clock(provisioned, host)
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(INVENTORY, COPY)
    yield provisioned
    shutil.rmtree(COPY)
    lab.restore(state_name(), GATE, TAKER, "outside")


def _say(name: str, old: str, new: str) -> None:
    path = COPY / name
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def _sekisho(site: Lab, *words: str) -> Seen:
    return site.inside(BIN / "sekisho", *words)


def _play(site: Lab, trial: Trial, *words: str, changes: bool = True) -> None:
    """Bring gateway and receiver to the trial's site."""
    played = site.inside(
        BIN / "ansible-playbook", "-i", COPY, REPOSITORY / "playbooks/site.yml",
        "--limit", f"localhost,{GATE},{TAKER}", *words, log=REPOSITORY / ".lab/lines.log",
    )  # fmt: skip
    trial.expect("the playbook brings them there", played.code == 0, played.out[-1500:])
    if not changes:
        rows = [row for row in played.out.splitlines() if " changed=" in row]
        told = [row for row in rows if " changed=0 " not in row]
        trial.expect("a second run changes nothing", rows and not told, told)


def _peer(site: Lab, command: str) -> str:
    """Run a command in the hospital's namespace; what it prints."""
    done = site.peer(PEER, command)
    assert done.code == 0, f"{command}: {done.err[-400:]}"
    return done.out.strip()


def _deliver(site: Lab, trial: Trial, what: str) -> None:
    """Push records through the line, and compare them."""
    salt = secrets.token_hex(8)
    made = make(site, salt, SIZE, f"/srv/{salt}/{salt}.bin")
    assert made.code == 0, made.err
    # The first packets make the association; what comes meanwhile may wait.
    send = (f"sekisho send /srv/{salt} --from {PEER} --to {TAKER} --address {TAKER_AT} "
            "--port 7601 --json")  # fmt: skip
    began = time.monotonic()

    def pushed() -> bool:
        nonlocal began
        began = time.monotonic()
        return site.peer(PEER, send, timeout=300).code == 0

    sent, _ = until(pushed, timeout=90, every=2)
    took = time.monotonic() - began
    whole = arrived(site, salt, SIZE, f"{salt}.bin") if sent else "not sent"
    trial.expect(what, sent and whole == "whole", f"{whole}, {SIZE / took / 1e6:.1f} MB/s with all")
    site.root("outside", f"rm -rf /srv/{salt}")
    site.root(TAKER, "rm -rf /var/lib/sekisho/incoming/complete/*")


class Line(NamedTuple):
    """What a capture on the line holds."""

    encrypted: int
    clear: int
    said: tuple[str, ...]


class Wire:
    """A capture on the cable at the gateway's outer card, of all of IP.

    Not in a machine: an end of IPsec shows itself what it has decrypted. And not of what the cable's
    own ends in this machine say (libvirt's, fe:54:…), which ask for IPv6 routers now and then.
    """

    def __init__(self, site: Lab) -> None:
        links = json.loads(site.inside("ip", "-json", "link").out)
        cable = next(one["ifname"] for one in links if one.get("address") == CABLE)
        self.file = REPOSITORY / ".lab/lines/line.pcap"
        self.file.unlink(missing_ok=True)
        self.running = subprocess.Popen(
            [LAB, "exec", "tcpdump", "-i", cable, "-U", "-w", self.file, "-s", "64", "-Z", "root",
             "(ip or ip6) and not ether[6:2] = 0xfe54"], stderr=subprocess.DEVNULL)  # fmt: skip
        until(self.file.exists, timeout=30, every=0.2)

    def stop(self) -> Line:
        """End it and count: ESP, IKE and WireGuard are encrypted; an error about them is not data."""
        time.sleep(1)
        self.running.terminate()
        self.running.wait(timeout=30)
        encrypted = clear = 0
        said: list[str] = []
        known = {number.to_bytes(2, "big") * 2 for number in (500, 4500, PORT)}
        for frame, _ in frames(self.file.read_bytes()):
            head = 14 + (frame[14] & 15) * 4
            protocol, ports = frame[23], frame[head : head + 4]
            if frame[12:14] == b"\x08\x00" and (
                protocol == 50 or (protocol == 17 and ports in known)
            ):
                encrypted += 1
            elif not (protocol == 1 and frame[head] == 3):
                clear += 1
                said.append(frame[12:62].hex())
        return Line(encrypted, clear, tuple(said[:3]))


def _dropped(site: Lab) -> int:
    counters = json.loads(site.root(GATE, "nft -j list counters table inet sekisho").out)[
        "nftables"
    ]
    return sum(one["counter"]["packets"] for one in counters
               if one.get("counter", {}).get("name", "").startswith("drop"))  # fmt: skip


def _naked(site: Lab, trial: Trial, source: str) -> None:
    """Let the hospital send the flow in clear: on the line it is seen, and it ends at the gateway."""
    trial.step("the hospital's end is gone, and it sends in clear")
    wire, before = Wire(site), _dropped(site)
    site.root(TAKER, "systemd-run --quiet --collect --unit=heard "
              "tcpdump -i any -U -w /run/heard.pcap -Z root tcp port 7601; sleep 2")  # fmt: skip
    tried = site.peer(PEER, f"nc -n -z -w 3 -s {source} {TAKER_AT} 7601; nc -n -z -w 3 -s {source} {TAKER_AT} 7601")  # fmt: skip
    seen = wire.stop()
    trial.expect("nothing answers it", tried.code != 0, tried.err)
    trial.expect("the capture can see clear packets", seen.clear > 0, seen)
    trial.expect("the gateway counts them as dropped", _dropped(site) > before)
    heard = site.root(
        TAKER, "sleep 1; systemctl stop heard; tcpdump -r /run/heard.pcap 2>/dev/null"
    ).out
    trial.expect("and the receiving server heard nothing of it", not heard, heard[:200])


def _audit(site: Lab, trial: Trial, *checks: str) -> None:
    """Audit both by the trial's site: all of it, and the line's own checks by name."""
    seen = _sekisho(site, "audit", "-i", str(COPY), "--json", "--host", GATE, "--host", TAKER)
    found = json.loads(seen.out)["findings"]
    bad = {f"{one['host']} {one['check']}" for one in found if one["verdict"] in ("fail", "error")}
    trial.expect("the audit of both is green", found and not bad, sorted(bad))
    green = {one["check"] for one in found if one["host"] == GATE and one["verdict"] == "pass"}
    trial.expect("with the line's own checks among it", set(checks) <= green, set(checks) - green)


def _power_cut(lab: Driver, trial: Trial) -> None:
    trial.step("the gateway's power is cut, and it is started again")
    lab.power_cut(GATE)
    lab.power_on(GATE)


def _judge(lab: Driver, site: Lab, trial: Trial, check: str) -> None:
    """Deliver over the line, watch the cable, audit, play again; once more after a power cut."""
    _crosses(site, trial, "records cross, whole")
    _audit(site, trial, check, "6-iv-d-4.line-key-private")
    _play(site, trial, changes=False)
    _power_cut(lab, trial)
    _crosses(site, trial, "the line is back by itself, records cross")


def _crosses(site: Lab, trial: Trial, what: str) -> None:
    wire = Wire(site)
    _deliver(site, trial, what)
    seen = wire.stop()
    trial.expect("on the cable there is nothing in clear", seen.encrypted > 1000 and not seen.clear, seen)  # fmt: skip


def test_the_playbooks_put_ipsec_on_the_entry_line(lab: Driver, site: Lab) -> None:
    trial = Trial("ipsec on the entry line")
    _deliver(site, trial, "as provisioned, in clear, records cross (for the speed)")
    _say(SITE, "network: 10.77.1.0/29", "encryption: ipsec\n      network: 10.77.1.0/29")
    checked = _sekisho(site, "site", "check", str(COPY))
    trial.expect("the site is sound, and proven", checked.code == 0, checked.out[-400:])

    trial.step("the hospital makes its key and is certified; it gets its files")
    asked = site.root("outside", f"sekisho pki request {PEER} --key {KEY} --json")  # fmt: skip
    assert asked.code == 0, asked.err
    request = REPOSITORY / ".lab/lines/hospital.csr"
    request.write_text(json.loads(asked.out)["csr"], encoding="utf-8")
    issued = _sekisho(site, "pki", "issue", str(COPY), PEER, "--request", str(request))
    trial.expect("certified", issued.code == 0, issued.err)
    given = REPOSITORY / ".lab/lines/given"
    shutil.rmtree(given, ignore_errors=True)
    written = _sekisho(site, "pki", "peer", str(COPY), PEER, "--out", str(given))
    trial.expect("its files are written", written.code == 0, written.err)
    _install_strongswan(site, given, issued.out)

    trial.step("gateway and receiver by the playbook (roles ipsec, flows, …)")
    _play(site, trial)
    _peer(site, "systemctl start hospital-charon")
    loaded, _ = until(
        lambda: site.peer(PEER, "swanctl --load-all --noprompt").code == 0, timeout=30
    )
    trial.expect("the hospital's daemon takes its files", loaded)
    _judge(lab, site, trial, "6-iv-d-1.lines-as-declared")

    trial.step("root on the gateway flushes IPsec; the agent tells")
    known = len(site.journal(GATE, "agent.detection"))
    site.root(GATE, "ip xfrm policy flush; ip xfrm state flush")
    told = until(lambda: [one["data"]["what"] for one in site.journal(GATE, "agent.detection")[known:]
                          if one["data"]["id"] == "6-iv-a.network-drift"], timeout=30)[0]  # fmt: skip
    trial.expect("as missing", told and "missing: xfrm" in told[0], told)
    site.root(GATE, "systemctl restart strongswan")
    _deliver(site, trial, "after the unit's restart records cross")

    _peer(site, "systemctl stop hospital-charon; ip xfrm policy flush; ip xfrm state flush; "
                "nft delete table inet sekisho_line")  # fmt: skip
    _naked(site, trial, PEER_END)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []


def _install_strongswan(site: Lab, given: Path, certificate: str) -> None:
    """Lay the hospital's files where strongSwan looks, and have a unit run its daemon in its namespace."""
    for path in given.rglob("*"):
        if path.is_file():
            place = f"/{path.relative_to(given)}"
            site.root("outside", f"mkdir -p {shlex.quote(str(Path(place).parent))}")
            site.put("outside", place, path.read_bytes())
    site.put("outside", CERTIFICATE, certificate)
    laid = site.root(
        "outside",
        f"""
        cat >/run/systemd/system/hospital-charon.service <<'END'
[Service]
ExecStart=/usr/sbin/ip netns exec {PEER} /usr/sbin/charon-systemd
END
        systemctl daemon-reload""",
    )
    assert laid.code == 0, laid.err
    _peer(site, f"nft -j -f {PEER_RULES}")


def test_the_playbooks_put_wireguard_on_the_entry_line(lab: Driver, site: Lab) -> None:
    trial = Trial("wireguard on the entry line")
    key = _peer(site, f"umask 077; mkdir -p {HOME}; wg genkey | tee {HOME}/wg.key | wg pubkey")
    _say(SITE, "network: 10.77.1.0/29", "encryption: wireguard\n      network: 10.77.1.0/29")
    _say(SITE, f"address: {PEER_END}\n", f"address: {INNER}\n      vpn: {PEER_END}\n"
         f"      wireguard: {{key: {key}, port: {PORT}}}\n")  # fmt: skip
    checked = _sekisho(site, "site", "check", str(COPY))
    trial.expect("the site is sound, and proven", checked.code == 0, checked.out[-400:])
    trial.expect("WireGuard is named as outside the default ciphers",
                 "wireguard" in (checked.out + checked.err).lower(), checked.out[-400:])  # fmt: skip

    trial.step("gateway and receiver by the playbook (roles wireguard, flows, …)")
    _play(site, trial)
    public = (COPY / f"pki/wireguard/{GATE}.pub").read_text(encoding="utf-8").strip()
    _peer(
        site,
        f"""ip addr add {INNER}/32 dev lo
        ip link add wg0 type wireguard
        wg set wg0 listen-port {PORT} private-key {HOME}/wg.key peer {public} \
            allowed-ips {TAKER_AT}/32 endpoint {GATE_END}:{PORT}
        ip link set wg0 mtu 1420 up
        ip route add {TAKER_AT}/32 dev wg0 src {INNER}""",
    )
    _judge(lab, site, trial, "6-iv-d-1.tunnels-as-declared")

    _peer(site, f"ip link del wg0; ip route add {TAKER_AT}/32 via {GATE_END} src {INNER}")
    _naked(site, trial, INNER)
    assert [f"{entry.what}: {entry.seen}" for entry in trial.broken] == []
