"""The checks of 6(iv)(a): green as they should be, and red by what once passed unseen.

For each check a green set of facts is made out of its own assertions; then one fact is changed to
what an attacker, a mistake or a vendor would leave there. The probes' tests show that the machine's
text becomes that fact.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sekisho.catalogue.judge import Fact, HostFacts, judge, walk
from sekisho.catalogue.model import Assertion, Catalogue, Check, Op, PolicyValue, Verdict
from sekisho.control.catalogue_files import load_catalogue

ITEM = "6-iv-a"
POLICY = {
    "addresses": ["eth0 10.0.0.1/24"],
    "routes": [],
    "networks": ["10.0.0.0/24"],
    "nftables_digest": "d",
    "ssh_from": ["10.0.0.9"],
    "declared": {"input": []},
    "derived": {
        "accounts": {
            "apt_uris": ["http://mirror"],
            "administrators": ["aoki"],
            "allow_users": ["aoki@10.0.0.9"],
            "auditors": ["kaji"],
            "listen": ["10.0.0.1:22"],
        }
    },
}


@pytest.fixture(scope="module")
def catalogue(repository: Path) -> Catalogue:
    return load_catalogue(repository / "hardening")


def check_of(catalogue: Catalogue, slug: str) -> Check:
    return next(one for one in catalogue.checks if one.id == f"{ITEM}.{slug}")


def satisfying(entry: Assertion) -> Any:
    value = entry.value
    if isinstance(value, PolicyValue):
        value = walk(POLICY, value.path)
    if entry.op is Op.EMPTY or (entry.op is Op.LACKS):
        return []
    if entry.op is Op.PRESENT:
        return "yes"
    if entry.op is Op.NOT_EQUALS:
        return "other"
    return value[0] if entry.op is Op.ONE_OF else value


def put(facts: dict[str, Any], probe: str, key: tuple[str, ...], value: Any) -> None:
    here = facts.setdefault(probe, {})
    for at, step in enumerate(key[:-1]):
        here = here.setdefault(step, {}) if isinstance(here, dict) else here[int(step)]
        assert isinstance(here, (dict, list)), key[: at + 1]
    if isinstance(here, dict):
        here[key[-1]] = value


def green_facts(check: Check) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for entry in check.asserts:
        if entry.op is Op.ABSENT:
            put(facts, entry.probe, (*entry.key[:-1], "other"), "x")
            continue
        try:
            held = walk(facts.get(entry.probe, {}), entry.key)
        except Exception:  # noqa: BLE001 - nothing there yet
            held = None
        wanted = satisfying(entry)
        if isinstance(held, list) and isinstance(wanted, list):
            wanted = [*held, *(one for one in wanted if one not in held)]
        if entry.op is Op.AT_LEAST and held is not None:
            wanted = held if int(held) >= int(wanted) else wanted
        put(facts, entry.probe, entry.key, wanted)
    return facts


def verdict(check: Check, facts: dict[str, Any], policy: Any = POLICY) -> Verdict:
    role = "gateway" if "all" not in check.applies else "core"
    held = {name: Fact(value) for name, value in facts.items()}
    return judge(check, HostFacts("h", role, held, policy), lambda _r, _d: (True, "")).verdict


def ours(catalogue: Catalogue) -> Iterator[Check]:
    return (check for check in catalogue.checks if check.item == ITEM)


def test_every_check_can_be_green_and_is_not_green_by_itself(catalogue: Catalogue) -> None:
    seen = 0
    for check in ours(catalogue):
        facts = green_facts(check)
        assert verdict(check, facts) is Verdict.PASS, check.id
        for probe in facts:
            left = {name: fact for name, fact in facts.items() if name != probe}
            assert verdict(check, left) is Verdict.ERROR, f"{check.id} without {probe}"
        seen += 1
    assert seen == 103


#: check, probe, key, what once was there unseen.
ONCE_GREEN: list[tuple[str, str, tuple[str, ...], Any]] = [
    ("arp-answers-on-own-link", "sysctl", ("interfaces", "runtime", "ipv4", "arp_ignore"), ["3"]),
    ("console-guesses-limited", "pam", ("faillock", "deny"), "0"),  # 0 switches it off
    ("console-guesses-limited", "pam", ("faillock", "fail_interval"), "1"),
    ("console-guesses-limited", "pam", ("faillock", "admin_group"), "sekisho-admin"),
    ("console-guesses-limited", "pam", ("uncounted",), ["login: auth sufficient pam_permit.so"]),
    ("console-passwords-long", "pam", ("quality", "dcredit"), "5"),
    ("console-passwords-long", "pam", ("quality", "enforcing"), "0"),
    ("console-passwords-long", "pam", ("stacks", "common-password"),
     ["password sufficient pam_unix.so", "password requisite pam_pwquality.so retry=3"]),
    ("ctrl-alt-del-masked", "manager", ("CtrlAltDelBurstAction",), "reboot-force"),
    ("kexec-off", "lockdown", ("kexec_loaded",), "1"),
    ("loopback-stays-inside", "networkd", ("route_localnet",), ["eth0 IPv4RouteLocalnet=yes"]),
    ("new-files-are-closed", "pam", ("password_hash",), ["md5"]),
    ("new-files-are-closed", "pam", ("without_umask",), ["common-session"]),
    ("no-proxy-arp", "networkd", ("proxy_arp",), ["eth0 IPv4ProxyARP=yes"]),
    ("nothing-learnt-from-the-wire", "units", ("active",), ["networking.service"]),
    ("nothing-learnt-from-the-wire", "unit-files", ("enabled",), []),
    ("only-own-table", "legacy-tables", ("tables",), ["ip nat"]),
    ("packets-from-where-they-belong", "networkd", ("rp_filter",),
     ["eth0 IPv4ReversePathFilter=loose"]),
    ("policy-in-force", "agent", ("unit", "ActiveState"), "failed"),
    ("rare-file-systems-blocked", "builtin-modules", ("file-systems",), ["minix"]),
    ("rare-protocols-blocked", "builtin-modules", ("protocols",), ["sctp"]),
    ("wireless-blocked", "builtin-modules", ("wireless",), ["cfg80211"]),
    ("routes-as-declared", "routes", ("connected",), ["10.0.0.0/24", "198.51.100.0/24"]),
    ("rules-before-network", "network-start", ("requires",), ["system.slice"]),
    ("rules-before-network", "units", ("active",),
     ["sekisho-nftables.service", "networking.service"]),
    ("ssh-accounts-count", "pam", ("stacks", "sshd"), ["account required pam_permit.so"]),
    ("ssh-auditor-confined", "sshd", ("blocks",), ["group others: permittty no"]),
    ("ssh-auditor-confined", "sshd", ("matched", "forcecommand"),
     ["/usr/lib/sekisho/auditor-shell", "none"]),
    ("ssh-host-keys-private", "sshd", ("effective", "hostkey"), ["/srv/key"]),
    ("ssh-impatient", "sshd", ("effective", "clientalivecountmax"), "0"),
    ("ssh-impatient", "sshd", ("matched", "maxauthtries"), ["99"]),
    ("ssh-keys-in-roots-hands", "sshd", ("matched", "authorizedkeysfile"),
     [".ssh/authorized_keys"]),
    ("ssh-keys-only", "sshd", ("matched", "passwordauthentication"), ["yes"]),
    ("ssh-keys-only", "sshd", ("matched", "authenticationmethods"), ["any"]),
    ("ssh-named-people", "sshd", ("matched", "allowusers"), ["*"]),
    ("ssh-no-own-environment", "sshd", ("matched", "permituserrc"), ["yes"]),
    ("ssh-no-own-environment", "sshd", ("effective", "acceptenv"), ["LANG", "LD_PRELOAD"]),
    ("ssh-no-root", "sshd", ("matched", "permitrootlogin"), ["without-password"]),
    ("ssh-no-tunnels", "sshd", ("matched", "allowtcpforwarding"), ["local"]),
    ("ssh-one-configuration", "sshd_running", ("start",), ["/usr/sbin/sshd -D -f /tmp/x"]),
    ("ssh-one-configuration", "sshd_running", ("reload_wanted",), "yes"),
    ("ssh-records-keys", "sshd", ("matched", "loglevel"), ["QUIET"]),
    ("ssh-strong-keys", "sshd", ("matched", "pubkeyacceptedalgorithms"), ["+ssh-rsa"]),
    ("sudo-on-own-terminal", "sudo", ("defaults", "syslog"), False),
    ("sudo-on-own-terminal", "sudo", ("environment",), ["env_keep LD_PRELOAD"]),
    ("sudo-on-own-terminal", "sudo", ("bound_defaults",), 1),
    ("sysrq-off", "kernel-command-line", ("runtime",), ["sysrq_always_enabled"]),
    ("updates-by-themselves", "packages", ("settings", "apt::periodic::enable"), "0"),
    ("updates-by-themselves", "packages", ("installed",), []),
    ("updates-by-themselves", "packages", ("unattended", "package-blacklist"), [".*"]),
    ("updates-by-themselves", "packages", ("unattended", "allowed-origins"), ["o:a"]),
    ("updates-by-themselves", "unit-files", ("masked",), ["apt-daily-upgrade.timer"]),
]  # fmt: skip


@pytest.mark.parametrize(("slug", "probe", "key", "value"), ONCE_GREEN)
def test_what_once_passed_unseen_is_a_breach(
    catalogue: Catalogue, slug: str, probe: str, key: tuple[str, ...], value: Any
) -> None:
    check = check_of(catalogue, slug)
    facts = copy.deepcopy(green_facts(check))
    put(facts, probe, key, value)
    assert verdict(check, facts) is Verdict.FAIL


@pytest.mark.parametrize(
    "slug", ["ssh-keys-only", "ssh-no-root", "ssh-no-tunnels", "ssh-auditor-confined"]
)
def test_match_blocks_that_are_not_known_are_no_pass(catalogue: Catalogue, slug: str) -> None:
    check = check_of(catalogue, slug)
    facts = copy.deepcopy(green_facts(check))
    del facts["sshd"]["matched"]
    assert verdict(check, facts) is Verdict.ERROR
