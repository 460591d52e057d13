"""SSH facts: what sshd makes of its files, what stands beside them, what runs."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran

from sekisho.probes.model import ProbeError
from sekisho.probes.sshd import PROBES, read_effective, read_includes

BY_NAME = {probe.name: probe for probe in PROBES}
EFFECTIVE = """port 22
listenaddress 10.77.0.13:22
listenaddress 10.77.7.2:22
permitrootlogin no
ciphers aes256-gcm@openssh.com,aes256-ctr
allowusers aoki@10.77.0.1
allowusers auditor@10.77.0.1
authorizedkeysfile /etc/ssh/authorized_keys.d/%u
banner none
"""
MAIN = "# c\nInclude /etc/ssh/sshd_config.d/10-sekisho.conf\n"
UNITS = """Id=ssh.service
ActiveState={active}
UnitFileState=enabled
StateChangeTimestamp={changed}
ExecStart={{ path=/usr/sbin/sshd ; argv[]=/usr/sbin/sshd -D $SSHD_OPTS{start} ; ignore_errors=no }}
EnvironmentFiles=/etc/default/ssh (ignore_errors=yes)
NeedDaemonReload=no

Id=ssh.socket
ActiveState={socket}
UnitFileState=disabled
StateChangeTimestamp=
"""


def sshd(main: str | None = MAIN, **change: Any) -> Any:
    texts = {"/etc/ssh/sshd_config": main} | change.pop("texts", {})
    raw = {
        "effective": ran(EFFECTIVE),
        "files": held(texts, **change.pop("kinds", {})),
        "host_keys": held(
            {"/etc/ssh/ssh_host_ecdsa_key": None},
            **{"/etc/ssh/ssh_host_ecdsa_key": {"mode": change.pop("key_mode", 0o600)}},
        ),
        "banner": held(change.pop("banner", {"/etc/issue.net": "Restricted.\n"})),
    }
    return BY_NAME["sshd"].parse(raw | change)


def running(  # one word per part of the picture
    *, start: str = "", active: str = "active", changed: str = "@1000", socket: str = "inactive",
    times: str = "900.5 /etc/ssh/sshd_config\n",
    processes: str = "sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\nsshd: aoki [priv]\n",
) -> Any:  # fmt: skip
    return BY_NAME["sshd_running"].parse(
        {
            "units": ran(UNITS.format(start=start, active=active, changed=changed, socket=socket)),
            "times": ran(times),
            "processes": ran(processes),
            "generated": held({}),
        }
    )


def test_words_that_repeat_are_lists_and_the_rest_is_text() -> None:
    told = sshd()["effective"]
    assert told["listenaddress"] == ["10.77.0.13:22", "10.77.7.2:22"]
    assert told["allowusers"] == ["aoki@10.77.0.1", "auditor@10.77.0.1"]
    assert told["ciphers"] == ["aes256-gcm@openssh.com", "aes256-ctr"]
    assert told["permitrootlogin"] == "no"


def test_nobody_named_is_an_empty_list_not_a_missing_one() -> None:
    assert sshd()["effective"]["denyusers"] == []


def test_a_setting_in_the_main_file_is_told() -> None:
    assert sshd("PermitRootLogin yes\n" + MAIN)["settings_in_main"] == ["permitrootlogin"]
    assert sshd()["settings_in_main"] == []


@pytest.mark.parametrize(
    "line",
    ["Include /a /b", "include=/a /b", "\tINCLUDE\t/a\t/b", 'Include "/a" /b # both'],
)
def test_includes_are_read_however_they_are_written(line: str) -> None:
    assert read_includes(f"# Include /never\n{line}\n") == ["/a", "/b"]


def test_options_for_the_next_start_are_told() -> None:
    told = sshd(texts={"/etc/default/ssh": '# c\nSSHD_OPTS="-o PermitRootLogin=yes"\n'})
    assert told["start_options"] == "-o PermitRootLogin=yes"
    assert sshd(texts={"/etc/default/ssh": "SSHD_OPTS=\n"})["start_options"] == ""


def test_a_host_key_that_others_can_read_is_loose() -> None:
    assert sshd()["loose_host_keys"] == []
    assert sshd(key_mode=0o640)["loose_host_keys"] == ["/etc/ssh/ssh_host_ecdsa_key 0640 owner 0"]


def test_the_banners_own_text_is_read_not_only_its_name() -> None:
    assert sshd()["banner"] == "Restricted."
    assert sshd(banner={"/etc/issue.net": ""})["banner"] == ""
    assert sshd(banner={})["banner"] == ""


def test_the_check_of_the_banner_holds_the_text_we_write(repository: Any) -> None:
    text = (repository / "hardening/ssh/banner").read_text(encoding="utf-8").strip()
    raw = (repository / "hardening/checks/6-ii-b.ssh-warns/check.yml").read_text(encoding="utf-8")
    (wanted,) = [one["value"] for one in yaml.safe_load(raw)["asserts"] if one["key"] == ["banner"]]
    assert wanted.strip() == text


def test_no_main_file_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="no such file"):
        BY_NAME["sshd"].parse(
            {"effective": ran(EFFECTIVE), "files": held({}), "host_keys": held({}),
             "banner": held({})}
        )  # fmt: skip


OWN = "/etc/ssh/sshd_config.d/10-sekisho.conf"


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("PermitRootLogin no\n", {}),
        ("Match User aoki\n  PermitRootLogin Yes\n", {"permitrootlogin": ["yes"]}),
        ("match=user=aoki\nPermitRootLogin=without-password\n",
         {"permitrootlogin": ["without-password"]}),
        ("Match Address 0.0.0.0/0\nPubkeyAcceptedKeyTypes +ssh-rsa,ssh-dss\n",
         {"pubkeyacceptedalgorithms": ["+ssh-rsa", "ssh-dss"]}),
        ("Match User a\nAllowUsers a b\nMatch all\nMaxAuthTries 9\n", {"allowusers": ["a", "b"]}),
        ('Match Group x\n\tPasswordAuthentication "yes" # c\n',
         {"passwordauthentication": ["yes"]}),
        ("Match Group x\n# PasswordAuthentication yes\n", {}),
        ("Match User a\nChallengeResponseAuthentication yes\nMatch User b\nX11Forwarding no\n",
         {"kbdinteractiveauthentication": ["yes"], "x11forwarding": ["no"]}),
    ],
)  # fmt: skip
def test_what_a_match_block_sets_is_told(text: str, matched: dict[str, list[str]]) -> None:
    told = sshd(texts={OWN: text})["matched"]
    assert {key: values for key, values in told.items() if values} == matched
    assert told["permitrootlogin"] == matched.get("permitrootlogin", [])


def test_a_word_that_sshd_does_not_show_is_set_by_no_block() -> None:
    told = sshd()["matched"]
    assert (told["setenv"], told["acceptenv"], told["allowusers"]) == ([], [], [])


def test_a_blocks_criteria_are_kept_with_what_it_sets() -> None:
    text = "Match  Group sekisho-auditor\n    ForceCommand /x -a\n    PermitTTY no\n"
    told = sshd(texts={OWN: text})
    assert told["blocks"] == [
        "group sekisho-auditor: forcecommand /x -a", "group sekisho-auditor: permittty no",
    ]  # fmt: skip
    assert told["matched"]["forcecommand"] == ["/x -a"]


def test_a_file_that_a_match_block_includes_is_all_conditional() -> None:
    main = "Match User aoki\nInclude sshd_config.d/*.conf\n"
    told = sshd(main, texts={OWN: "PermitRootLogin yes\n", "/etc/ssh/sshd_config.d/x": "Port 2\n"})
    assert told["matched"]["permitrootlogin"] == ["yes"]
    assert told["matched"]["port"] == []


def test_an_include_in_an_included_file_is_told() -> None:
    told = sshd(texts={OWN: "Include /etc/ssh/sshd_config.d/x\n"})
    assert told["includes"] == [OWN, "/etc/ssh/sshd_config.d/x"]


def test_a_file_from_elsewhere_makes_match_blocks_unknown() -> None:
    told = sshd(texts={OWN: "Include /opt/x.conf\n"})
    assert "matched" not in told
    assert told["effective"]["permitrootlogin"] == "no"


@pytest.mark.parametrize("bad", ["", "port 22\n", "Match all\n", "\0"])
def test_a_cut_or_garbled_dump_is_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        sshd(effective=ran(bad))


def test_an_sshd_older_than_its_files_is_stale() -> None:
    assert running()["stale_file"] == []
    assert running(times="1005.0 /etc/ssh/x\n900.0 /etc/ssh/y\n")["stale_file"] == ["/etc/ssh/x"]


def test_a_file_of_the_second_of_the_reload_counts_as_read() -> None:
    assert running(times="1000.9 /etc/ssh/x\n")["stale_file"] == []


def test_an_sshd_that_does_not_run_is_not_up_to_date() -> None:
    assert running(active="failed")["stale_file"] == ["sshd does not run"]
    assert running(changed="")["stale_file"] == ["sshd does not run"]


def test_the_listener_is_told_with_its_options() -> None:
    told = running(processes="sshd: /usr/sbin/sshd -D -o PermitRootLogin=yes [listener] 0 of 1-2\n")
    assert told["listeners"] == ["/usr/sbin/sshd -D -o PermitRootLogin=yes"]


def test_what_a_drop_in_adds_to_the_start_is_told() -> None:
    usual = "/usr/sbin/sshd -D $SSHD_OPTS"
    environment = "EnvironmentFiles=/etc/default/ssh (ignore_errors=yes)"
    assert running()["start"] == [usual, environment]
    assert running()["reload_wanted"] == "no"
    assert running(start=" -f /tmp/x")["start"] == [f"{usual} -f /tmp/x", environment]


def test_a_socket_beside_the_service_is_told() -> None:
    assert running(socket="active")["other_units"] == ["ssh.socket"]
    assert running()["other_units"] == []


def test_no_unit_at_all_is_no_fact() -> None:
    with pytest.raises(ProbeError, match=r"no ssh\.service"):
        BY_NAME["sshd_running"].parse(
            {"units": ran(""), "times": ran(""), "processes": ran(""), "generated": held({})}
        )


@given(st.text())
def test_any_dump_is_read_or_refused(text: str) -> None:
    try:
        told = read_effective(text)
    except ProbeError:
        return
    assert "port" in told
    assert isinstance(read_includes(text), list)
