"""Account facts: who can log in until when, with which keys and rights; no hash is asked for."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link, ran, unreadable

from sekisho.compile.accounts import derived
from sekisho.compile.accounts import fingerprint as policy_fingerprint
from sekisho.core.names import PersonRole
from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Account, AccountLists, Session
from sekisho.probes.account_names import impersonal
from sekisho.probes.accounts import (
    PROBES,
    fingerprint,
    read_expiry,
    read_keys,
    read_passwd,
    read_status,
    rsa_bits,
)
from sekisho.probes.model import ProbeError, Read, Run
from sekisho.probes.sudo import PROBES as SUDO_PROBES
from siteworld import host_policy

BY_NAME = {probe.name: probe for probe in (*PROBES, *SUDO_PROBES)}
PEOPLE = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
aoki:x:2001:2001:Aoki:/home/aoki:/bin/bash
baba:x:2002:2002:Baba:/home/baba:/bin/bash
"""
GROUP = """root:x:0:
disk:x:6:
sekisho-admin:x:991:aoki
aoki:x:2001:
baba:x:2002:
"""
KEY_A = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"A" * 32).decode()
KEY_B = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"B" * 32).decode()


def shadow(**expiry: str) -> str:
    names = ("root", "daemon", "aoki", "baba", *(set(expiry) - {"root", "aoki", "baba"}))
    return "".join(f"{name}:20000:0:99999:7::{expiry.get(name, '')}\n" for name in names)


def accounts(**change: Any) -> Any:
    raw = {
        "files": held(
            {
                "/etc/passwd": change.pop("passwd", PEOPLE),
                "/etc/group": change.pop("group", GROUP),
                "/etc/login.defs": "# c\nUMASK\t027\nHOME_MODE 0700\n",
            }
        ),
        "shadow": ran(change.pop("shadow", shadow(aoki="20909", baba="20909"))),
        "status": ran(change.pop("status", "root L 2026-01-01\naoki P 2026-01-01\n")),
        "today": ran("2026-11-22\n"),
        "processes": ran("0\n0\n2001\n61999\n"),
        "keys": held(change.pop("keys", {}), **change.pop("kinds", {})),
        "homes": held({}),
    }
    return BY_NAME["accounts"].parse(raw | change)


def test_people_are_the_accounts_with_a_shell_in_the_persons_range() -> None:
    told = accounts()
    assert told["people"] == ["aoki", "baba"]
    assert told["people_uids"] == ["aoki 2001", "baba 2002"]
    assert told["superusers"] == ["root"]
    assert told["system_with_shell"] == []


def test_an_account_that_has_ended_can_no_longer_log_in_but_is_still_told() -> None:
    told = accounts(shadow=shadow(aoki="20909", baba="20000"))
    assert told["can_log_in"] == ["aoki"]
    assert told["expiry"] == ["aoki 2027-04-01", "baba 2024-10-04"]


def test_the_day_of_expiry_itself_is_shut() -> None:
    assert accounts(shadow=shadow(baba="20779"))["can_log_in"] == ["aoki"]
    assert accounts(shadow=shadow(baba="20780"))["can_log_in"] == ["aoki", "baba"]


def test_an_account_without_an_end_says_never() -> None:
    assert accounts(shadow=shadow())["expiry"] == ["aoki never", "baba never"]


def test_a_second_name_for_a_user_id_and_for_root_is_found() -> None:
    told = accounts(
        passwd=PEOPLE + "toor:x:0:0::/root:/bin/sh\ntwin:x:2001:2001::/home/twin:/bin/sh\n"
    )
    assert told["superusers"] == ["root", "toor"]
    assert told["shared_uids"] == ["0: root toor", "2001: aoki twin"]


def test_an_account_that_was_shut_shares_nothing_and_leads_nowhere() -> None:
    told = accounts(passwd=PEOPLE + "toor:x:0:0::/root:/usr/sbin/nologin\n")
    assert told["superusers"] == ["root"]
    assert told["shared_uids"] == []
    assert told["privileged"] == ["sekisho-admin aoki"]


def test_a_primary_group_that_leads_to_root_counts_as_membership() -> None:
    told = accounts(passwd=PEOPLE.replace("baba:x:2002:2002", "baba:x:2002:6"))
    assert told["privileged"] == ["disk baba", "sekisho-admin aoki"]


def test_an_account_missing_from_shadow_is_named() -> None:
    assert accounts(passwd=PEOPLE + "x:x:998:998::/:/bin/false\n")["not_in_shadow"] == ["x"]


def test_keys_are_told_by_account_and_fingerprint_wherever_they_stand() -> None:
    told = accounts(
        keys={
            "/etc/ssh/authorized_keys.d/aoki": f"# c\n\nrestrict,pty ssh-ed25519 {KEY_A} aoki\n",
            "/home/baba/.ssh/authorized_keys": f"ssh-ed25519 {KEY_B}\n",
            "/root/.ssh/authorized_keys": "",
        }
    )
    blob_a, blob_b = base64.b64decode(KEY_A), base64.b64decode(KEY_B)
    assert told["keys"] == [f"aoki {fingerprint(blob_a)}", f"baba {fingerprint(blob_b)}"]
    assert told["unrestricted"] == []


def test_one_key_in_two_accounts_is_found() -> None:
    told = accounts(
        keys={
            "/etc/ssh/authorized_keys.d/aoki": f"ssh-ed25519 {KEY_A}\n",
            "/etc/ssh/authorized_keys.d/baba": f"ssh-ed25519 {KEY_A}\n",
        }
    )
    assert told["shared_keys"] == [f"{fingerprint(base64.b64decode(KEY_A))}: aoki baba"]
    assert told["unrestricted"] == ["aoki", "baba"]


def test_a_line_that_is_no_key_does_not_disappear() -> None:
    told = accounts(keys={"/etc/ssh/authorized_keys.d/aoki": "ssh-ed25519 AAAA!!\n"})
    assert len(told["keys"]) == 1
    assert told["keys"][0].startswith("aoki unreadable:")
    assert told["weak_keys"] == told["keys"]


def test_a_key_file_that_cannot_be_read_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="Permission denied"):
        accounts(
            keys={"/etc/ssh/authorized_keys.d/aoki": None},
            kinds={"/etc/ssh/authorized_keys.d/aoki": unreadable()},
        )
    with pytest.raises(ProbeError, match="not a regular file"):
        accounts(
            keys={"/etc/ssh/authorized_keys.d/aoki": None},
            kinds={"/etc/ssh/authorized_keys.d/aoki": link("/tmp/x")},
        )


def test_a_key_file_that_its_user_can_change_is_loose() -> None:
    path = "/etc/ssh/authorized_keys.d/aoki"
    told = accounts(keys={path: ""}, kinds={path: {"uid": 2001}})
    assert told["loose_key_files"] == [path]


def test_short_rsa_keys_are_weak_and_long_ones_are_not() -> None:
    def rsa(bits: int) -> str:
        modulus = (1 << (bits - 1) | 1).to_bytes(bits // 8 + 1, "big")
        parts = (b"ssh-rsa", b"\1\0\1", modulus)
        blob = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        assert rsa_bits(blob) == bits
        return base64.b64encode(blob).decode()

    assert read_keys("/x", "a", f"ssh-rsa {rsa(2048)}")[0].weak
    assert not read_keys("/x", "a", f"ssh-rsa {rsa(3072)}")[0].weak


def test_processes_of_nobody_are_found_and_passing_users_are_not() -> None:
    told = accounts(processes=ran("0\n2001\n2777\n61999\n"))
    assert told["unknown_users_running"] == ["2777"]


def test_no_operation_reads_a_password_hash() -> None:
    for probe in PROBES:
        for operation in probe.operations.values():
            if isinstance(operation, Read):
                assert not any("shadow" in glob for glob in operation.globs)
            elif "/etc/shadow" in operation.argv:
                # Field 2 is the hash; -s keeps a line without fields from being printed whole.
                assert operation == Run(("cut", "-s", "-d:", "-f1,3-8", "/etc/shadow"))


@pytest.mark.parametrize(
    ("part", "bad"),
    [
        ("passwd", "aoki:x:2001\n"),
        ("passwd", "aoki:x:two:2:::/bin/sh\n"),
        ("passwd", ""),
        ("group", "disk\n"),
        ("shadow", "aoki:1:2\n"),
        ("shadow", "aoki:20000:0:99999:7::soon\n"),
        ("status", "aoki Q\n"),
        ("status", ""),
    ],
)
def test_a_garbled_file_is_no_fact(part: str, bad: str) -> None:
    with pytest.raises(ProbeError):
        accounts(**{part: bad})


@pytest.mark.parametrize("label", ["shadow", "status", "today", "processes"])
def test_a_command_that_failed_is_no_fact(label: str) -> None:
    with pytest.raises(ProbeError):
        accounts(**{label: ran("", rc=1)})


@given(st.text())
def test_readers_take_any_text_or_refuse_it(text: str) -> None:
    for reader in (read_passwd, read_expiry, read_status):
        with contextlib.suppress(ProbeError):
            reader(text)
    for key in read_keys("/x", "aoki", text):
        assert key.fingerprint.startswith(("SHA256:", "unreadable:"))


@given(st.binary(max_size=600))
def test_rsa_length_never_reads_past_the_end(blob: bytes) -> None:
    assert 0 <= rsa_bits(blob) <= 8 * len(blob)


@pytest.mark.parametrize(
    ("shell", "may"),
    [
        ("/usr/sbin/nologin", False),
        ("/sbin/nologin", False),
        ("/bin/false", False),
        ("/usr/bin/sync", False),
        ("/tmp/nologin", True),  # a program of one's own by that name
        ("/home/x/false", True),
        ("/usr/local/sbin/nologin", True),
        ("", True),
    ],
)
def test_only_debians_own_programs_refuse_a_login(shell: str, may: bool) -> None:
    told = accounts(passwd=PEOPLE + f"svc:x:900:900::/:{shell}\n")
    assert told["system_with_shell"] == ["svc"] * may


@pytest.mark.parametrize(
    ("field", "outside", "empty"),
    [("x", False, False), ("", True, True), ("$y$j9T$abc", True, False), ("*", False, False)],
)
def test_a_password_outside_shadow_is_told_and_never_shown(
    field: str, outside: bool, empty: bool
) -> None:
    told = accounts(
        passwd=PEOPLE + f"cole:{field}:2003:2003::/home/cole:/bin/bash\n",
        shadow=shadow(aoki="20909", baba="20909", cole="20909"),
    )
    assert told["not_in_shadow"] == ["cole"] * outside
    assert told["needs_no_password"] == ["cole"] * empty
    assert ("cole" in told["with_password"]) == (outside and not empty)
    assert "$y$" not in json.dumps(told)


@pytest.mark.parametrize(("field", "state"), [("x", "L"), ("", "NP"), ("$y$j9T$abc", "P")])
def test_roots_field_in_passwd_counts_before_shadow(field: str, state: str) -> None:
    assert accounts(passwd=PEOPLE.replace("root:x", f"root:{field}"))["root_password"] == state


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o710, 0o755, 0o2770])
def test_a_home_that_others_can_enter_is_loose(mode: int) -> None:
    homes = held({"/home/aoki": None}, **{"/home/aoki": {"mode": mode, "uid": 2001, "kind": "dir"}})
    assert accounts(homes=homes)["loose_homes"] == [f"/home/aoki {mode:04o} owner 2001"]


def test_a_closed_home_and_a_home_nobody_looked_at() -> None:
    shut = held({"/home/aoki": None}, **{"/home/aoki": {"mode": 0o700, "uid": 2001, "kind": "dir"}})
    assert accounts(homes=shut)["loose_homes"] == []
    away = PEOPLE.replace("/home/aoki", "/srv/aoki")
    assert accounts(homes=shut, passwd=away)["loose_homes"] == ["/srv/aoki of aoki: not in /home"]
    aside = held({"/home/aoki": None}, **{"/home/aoki": link("/srv/aoki")})
    assert accounts(homes=aside)["loose_homes"] == ["/home/aoki is a link"]


@pytest.mark.parametrize(
    "line",
    [
        # a stranger's machine: shells that no person of a site has
        "cloudsdk:x:998:998::/home/cloudsdk:/bin/bash",
        "postgres:x:110:110::/var/lib/postgresql:/bin/bash",
        "operator1:x:2003:2003::/home/operator1:/bin/bash",
        "shared-ops:x:2004:2004::/home/shared-ops:/bin/sh",
        "guest:x:2005:2005::/home/guest:",
        "Test_User:x:70000:70000::/:/bin/bash",
    ],
)
def test_a_shared_account_is_told_wherever_its_uid_lies(line: str) -> None:
    name = line.partition(":")[0]
    told = accounts(passwd=f"{PEOPLE}{line}\n", shadow=shadow(**{name: ""}))
    assert told["impersonal"] == [name]
    assert told["usable"] == sorted([name, "aoki", "baba"])
    shut = line.rpartition(":")[0] + ":/usr/sbin/nologin"
    assert accounts(passwd=f"{PEOPLE}{shut}\n", shadow=shadow(**{name: ""}))["impersonal"] == []


def test_a_password_or_a_key_makes_an_account_usable_without_a_shell() -> None:
    assert accounts(status="root P 2026-01-01\ndaemon NP 2026-01-01\n")["usable"] == [
        "aoki", "baba", "daemon",
    ]  # fmt: skip
    told = accounts(keys={"/etc/ssh/authorized_keys.d/daemon": f"ssh-ed25519 {KEY_A}\n"})
    assert told["usable"] == ["aoki", "baba", "daemon"]
    assert accounts()["usable"] == ["aoki", "baba"]


def test_two_groups_of_one_number_are_one_group() -> None:
    told = accounts(group=f"{GROUP}helpers:x:6:baba\n")
    assert "disk baba" in told["privileged"]


def test_two_names_of_one_uid_share_an_account_when_both_can_be_used() -> None:
    twin = f"{PEOPLE}baba2:x:2002:2002::/home/b:/usr/sbin/nologin\n"
    status = "root L 2026-01-01\nbaba2 P 2026-01-01\n"
    told = accounts(passwd=twin, shadow=shadow(baba2=""), status=status)
    assert told["shared_uids"] == ["2002: baba baba2"]
    assert accounts(passwd=twin, shadow=shadow(baba2=""))["shared_uids"] == []


@pytest.mark.parametrize("name", ["aoki", "baba2", "sato.k", "testa", "adminoto", "w-aoki"])
def test_a_persons_name_is_not_taken_for_a_functions(name: str) -> None:
    assert not impersonal(name)


@pytest.mark.parametrize("name", ["root-a", "www", "WWW-1", "shared_ops", "guest2", "team.b"])
def test_a_functions_name_is_no_persons(name: str) -> None:
    assert impersonal(name)


def test_a_hash_in_passwd_makes_an_account_usable() -> None:
    for field in ("", "$y$j9T$abc"):
        line = f"svc:{field}:900:900::/:/usr/sbin/nologin\n"
        assert "svc" in accounts(passwd=PEOPLE + line, shadow=shadow(svc=""))["usable"]


# -- sudo -----------------------------------------------------------------------------------------


def sudo(policy: Any, **kinds: Any) -> Any:
    return BY_NAME["sudo"].parse(
        {
            "effective": ran(policy if isinstance(policy, str) else json.dumps(policy)),
            "files": held({"/etc/sudoers": None}, **{"/etc/sudoers": {"mode": 0o440}} | kinds),
        }
    )


RULE = {
    "User_List": [{"usergroup": "sekisho-admin"}],
    "Host_List": [{"hostname": "ALL"}],
    "Cmnd_Specs": [
        {
            "runasusers": [{"username": "ALL"}],
            "Options": [{"authenticate": False}, {"setenv": True}],
            "Commands": [{"command": "ALL"}],
        }
    ],
}


def test_a_rule_of_sudo_is_one_line() -> None:
    told = sudo({"Defaults": [{"Options": [{"use_pty": True}]}], "User_Specs": [RULE]})
    assert told["rules"] == ["%sekisho-admin ALL=(ALL) authenticate=False setenv=True ALL"]
    assert told["defaults"] == {"use_pty": True}
    assert told["loose"] == []


def test_a_default_for_somebody_only_does_not_pass_for_everybodys() -> None:
    told = sudo({"Defaults": [{"Binding": [{"username": "a"}], "Options": [{"use_pty": True}]}]})
    assert told["defaults"] == {}
    assert told["bound_defaults"] == 1


def test_a_negated_member_keeps_its_mark() -> None:
    rule = RULE | {"User_List": [{"username": "aoki", "negated": True}]}
    assert sudo({"User_Specs": [rule]})["rules"][0].startswith("!aoki ")


def test_rules_that_others_can_read_are_loose() -> None:
    told = sudo({}, **{"/etc/sudoers": {"mode": 0o444}})
    assert told["loose"] == ["/etc/sudoers 0444"]


def test_what_sudo_lets_in_from_the_environment_is_told() -> None:
    # cvtsudoers 1.9.16's own form of `env_keep +=`, `env_keep -=`, `env_file=`.
    told = sudo(
        {
            "Defaults": [
                {"Options": [{"operation": "list_add", "env_keep": ["LD_PRELOAD", "FOO"]}]},
                {"Options": [{"operation": "list_remove", "env_keep": ["LANG"]}]},
                {"Options": [{"env_file": "/tmp/x"}]},
            ]
        }
    )
    assert told["environment"] == ["env_file /tmp/x", "env_keep FOO", "env_keep LD_PRELOAD"]
    assert sudo({})["environment"] == []


def test_rules_that_another_group_can_read_are_loose() -> None:
    assert sudo({}, **{"/etc/sudoers": {"mode": 0o440, "gid": 1000}})["loose"]
    assert sudo({}, **{"/etc/sudoers": {"mode": 0o400, "gid": 1000}})["loose"] == []


@pytest.mark.parametrize("bad", ["", "{", "[]", '"x"'])
def test_garbled_sudo_rules_are_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        sudo(bad)


# -- the policy's flat lists -----------------------------------------------------------------------


def policy() -> HostPolicy:
    whole = host_policy("core-1")
    people = {
        "aoki": Account(
            role=PersonRole.ADMINISTRATOR,
            uid=2001,
            keys=(f"ssh-ed25519 {KEY_A}",),
            authority_until=date(2027, 3, 31),
            trained=date(2026, 10, 1),
        ),
        "auditor": Account(
            role=PersonRole.AUDITOR,
            uid=2004,
            keys=(f"ssh-ed25519 {KEY_B}",),
            authority_until=date(2028, 3, 31),
            trained=date(2026, 10, 1),
        ),
    }
    return replace(
        whole,
        accounts=people,
        management=replace(whole.management, auditors=("10.77.0.2",)),
        sessions=(
            Session("in", "terminal-1", "10.77.7.1", "10.77.7.2", "eth3", 22),
            Session("out", "core-2", "10.77.8.1", "10.77.8.2", "eth4", 22),
        ),
    )


def lists(told: HostPolicy) -> AccountLists:
    return derived(told.accounts, told.sessions, told.management, today=told.issued[:10])


def test_both_sides_write_a_key_the_same_way() -> None:
    assert policy_fingerprint(f"ssh-ed25519 {KEY_A}") == fingerprint(base64.b64decode(KEY_A))


def test_access_ends_with_authority_or_training_whichever_is_first() -> None:
    assert lists(policy()).expiry == ("aoki 2027-04-01", "auditor 2027-10-03")


def test_sessions_come_from_controllers_and_from_the_desk_only() -> None:
    told = lists(policy())
    assert told.allow_users == ("aoki@10.77.0.1", "aoki@10.77.7.1", "auditor@10.77.0.2")
    assert told.listen == ("10.77.0.13:22", "10.77.7.2:22")


def test_who_will_be_trained_later_is_not_trained_yet() -> None:
    told = policy()
    later = replace(told.accounts["auditor"], trained=date(2026, 12, 1))
    held_back = replace(told, accounts={**told.accounts, "auditor": later})
    assert lists(held_back).trained == ("aoki",)


def test_only_administrators_are_in_the_privileged_group() -> None:
    assert lists(policy()).privileged == ("sekisho-admin aoki",)
