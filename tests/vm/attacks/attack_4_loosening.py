"""Attack 4: five controls are loosened; the audit, the alert and the repair. Items 6(ii)(d)-6(iv)(e)."""

from __future__ import annotations

import json
import tempfile
import time
from typing import NamedTuple

from tests.vm.trial import BIN, INVENTORY, Lab, Trial, failed_checks, until

TITLE = "Five controls are loosened: the audit turns red, the alert fires, the repair holds"


class Loosening(NamedTuple):
    """One loosened control, the check that must find it, the ``check`` label of its alert."""

    what: str
    host: str
    command: str
    check: str
    alert: str


#: None on inbound, core or gate-in: other attacks are tried on those at the same time.
CASES = (
    Loosening("the rules flushed (agent stopped)", "outbound-1",
              "systemctl stop sekisho-agent; nft flush ruleset", "6-iv-a.rules-as-declared", "6-v-b.host-silent"),
    Loosening("the udev rule deleted", "gate-out",
              "rm -f /etc/udev/rules.d/*sekisho*", "6-iii-c.usb-rules-as-listed", "6-iv-a.guarded-file-changed"),
    Loosening("sshd loosened", "monitor-1",
              "sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' "
              "/etc/ssh/sshd_config.d/10-sekisho.conf; systemctl reload ssh",
              "6-iv-a.ssh-keys-only", "6-iv-a.guarded-file-changed"),
    Loosening("auditd stopped", "monitor-1", "systemctl kill -s KILL auditd; systemctl mask --runtime auditd",
              "6-iv-b.audit-daemon-running", "6-iv-b.audit-off"),
    Loosening("an account with a key added", "gate-out",
              "useradd -m -s /bin/bash mallory; mkdir -p /home/mallory/.ssh; "
              "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEvilEvilEvilEvilEvilEvilEvilEvilEvilEvilEv1l evil' "
              "> /home/mallory/.ssh/authorized_keys", "6-ii-d.accounts-are-the-people", "6-iv-b.new-account"),
)  # fmt: skip


AWAITED = {(case.host, case.alert) for case in CASES}
HOSTS = tuple(dict.fromkeys(case.host for case in CASES))
#: The audit of those hosts by the five checks: what is red on one has to be green on the others.
WORDS = (*(word for host in HOSTS for word in ("--host", host)),
         *(word for case in CASES for word in ("--check", case.check)))  # fmt: skip


def firing(lab: Lab) -> set[tuple[str, str]]:
    """Return the alerts that fire now, as host and check."""
    told = (sample["metric"] for sample in lab.query('ALERTS{alertstate="firing"}'))
    return {(one.get("host", ""), one.get("check", "")) for one in told}


def detected(lab: Lab) -> dict[tuple[str, str], float]:
    """Return when each host's agent last detected what, by host and check; Unix time."""
    return {
        (one["metric"].get("host", ""), one["metric"].get("check", "")): float(one["value"][1])
        for one in lab.query("sekisho_detection_last_timestamp_seconds")
    }


def run(lab: Lab, trial: Trial) -> None:
    """Loosen, audit, look for the alert, repair; verify.yml audits again."""
    # Right after the playbooks some fire, since they made accounts and wrote guarded files: those
    # count when the monitor knows of a later cause.
    before, since = firing(lab), float(lab.root("monitor-1", "date +%s").out or "inf")
    trial.expect("the monitor tells its alerts", ("", "6-v-b.watchdog") in before, len(before))
    trial.step(f"before, of the five alerts fire: {sorted(before & AWAITED) or 'none'}")
    for case in CASES:
        trial.step(f"{case.host}: {case.what}")
        done = lab.root(case.host, case.command)
        trial.expect(f"{case.host}: done", done.code == 0, done.err[-200:])
    trial.step("the audit after")
    after = lab.audit(*WORDS)
    trial.expect("the audit's exit code says breach", after["exit"] == 1, after["exit"])
    for case in CASES:
        found = failed_checks(after, case.host)
        trial.expect(
            f"{case.what}: {case.check} is red on {case.host}", case.check in found, sorted(found)
        )
        named = [finding for finding in after["findings"]
                 if finding["check"] == case.check and finding["host"] == case.host]  # fmt: skip
        others = {finding["host"]: finding["verdict"] for finding in after["findings"]
                  if finding["check"] == case.check and finding["host"] != case.host}  # fmt: skip
        trial.expect(
            "  and green where nobody touched it", set(others.values()) == {"pass"}, others
        )
        trial.expect(
            "  and names its remedy", named and named[0]["remedy"], named and named[0]["remedy"]
        )
    trial.step("the monitor's alerts")
    fired: dict[tuple[str, str], float] = {}
    began = time.monotonic()

    def all_fire() -> bool:
        causes = detected(lab)
        for one in firing(lab):
            if one not in before or causes.get(one, 0) >= since:
                fired.setdefault(one, time.monotonic() - began)
        return all((case.host, case.alert) in fired for case in CASES)

    until(all_fire, timeout=240, every=5)
    for case in CASES:
        took = fired.get((case.host, case.alert))
        trial.expect(f"{case.what}: the alert {case.alert} fires for {case.host}", took is not None,
                     took is not None and f"{took:.0f} s after the audit")  # fmt: skip
    trial.step("the agent on outbound comes back and repairs the rules by itself")
    lab.root("outbound-1", "systemctl start sekisho-agent")
    fixed, took = until(
        lambda: lab.root("outbound-1", "nft list table inet sekisho").code == 0, timeout=60, every=2
    )
    trial.expect("the rules are loaded again", fixed, f"after {took:.0f} s")
    trial.step("verify.yml repairs the rest by the role each check names")
    lab.root("monitor-1", "systemctl unmask --runtime auditd")
    left = [finding for finding in after["findings"] if finding["host"] != "outbound-1"]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as report:
        json.dump({"findings": left}, report)
        report.flush()
        words = json.dumps({
            "sekisho_repair": True, "sekisho_report": report.name,
            "sekisho_checks": [case.check for case in CASES],
        })  # fmt: skip
        repaired = lab.playbook("verify", "-e", words, "--limit", ",".join(("localhost", *HOSTS)))
    # It judges them once more at its end, and fails where one is still red.
    trial.expect("verify.yml repairs, and its own audit finds every one of them green",
                 repaired.code == 0 and "Audit every machine once more" in repaired.out,
                 repaired.out[-600:])  # fmt: skip
    lab.root("gate-out", "userdel -r mallory")


def lockout(lab: Lab, trial: Trial) -> None:
    """Apply a rule set that blocks SSH: the host must free itself within 60 s and the play fail."""
    host = "gate-out"
    trial.step(f"apply rules to {host} that shut SSH out")
    since = lab.root(host, "date +@%s").out.strip()
    blocked = lab.inside(
        BIN / "ansible-playbook", "-i", INVENTORY, "tests/vm/lockout.yml", "--limit", host,
        "-e", "guard_timeout_s=50",
        timeout=300,
    )  # fmt: skip
    trial.expect("the play fails", blocked.code != 0, blocked.code)
    trial.expect("with a clear message", "did not let the controller back in" in blocked.out,
                 blocked.out[-400:])  # fmt: skip
    free, took = until(lambda: lab.user(host, "true", timeout=20).code == 0, timeout=60, every=2)
    trial.expect("the host answers again", free, f"{took:.0f} s after the play ended")
    state = lab.root(host, "/usr/lib/sekisho/guard status; "
                     f"journalctl -q -o short-unix --no-pager --since {since} -t systemd -t guard "
                     "| grep -E 'Started sekisho-guard-.*[.]timer|rolled back'")  # fmt: skip
    stamps = [float(row.split()[0]) for row in state.out.splitlines() if row[:1].isdigit()]
    trial.expect("by its own roll-back, and nothing is left pending",
                 "rolled back an unconfirmed change" in state.out
                 and '"pending": false' in state.out, state.out[-300:])  # fmt: skip
    trial.expect("within 60 s of the change", len(stamps) >= 2 and stamps[-1] - stamps[0] < 60,
                 f"{stamps[-1] - stamps[0]:.1f} s" if stamps else "no stamps")  # fmt: skip
