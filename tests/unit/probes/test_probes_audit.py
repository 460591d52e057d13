"""The audit probes: the kernel's wording and ours compare, and what cannot be read is an error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sekisho.probes.audit import PROBES, RULES, parse_rule
from sekisho.probes.model import ProbeError

PARSE = {probe.name: probe.parse for probe in PROBES}

# What auditctl 4.0 spells out for perm=wa (read on a Debian 13 machine).
SPELT_OUT = (
    "open,bind,truncate,ftruncate,rename,mkdir,rmdir,creat,link,unlink,symlink,chmod,fchmod,chown,"
    "fchown,lchown,mknod,acct,swapon,quotactl,setxattr,lsetxattr,fsetxattr,removexattr,"
    "lremovexattr,fremovexattr,openat,mkdirat,mknodat,fchownat,unlinkat,renameat,linkat,symlinkat,"
    "fchmodat,fallocate,renameat2,openat2"
)


def entry(text: str | None, mode: int = 0o640, kind: str = "file", **ids: int) -> dict[str, Any]:
    return {"mode": mode, "uid": 0, "gid": 0, "kind": kind, "text": text, **ids}


def rules(disk: str, loaded: str, parts: str | None = None) -> dict[str, Any]:
    files = {RULES: entry(disk), "/etc/audit/rules.d/10.rules": entry(parts or disk)}
    result: dict[str, Any] = PARSE["audit-rules"](
        {"loaded": {"rc": 0, "stdout": loaded}, "disk": {"files": files}}
    )
    return result


def as_loaded(line: str) -> str:
    """Return a line of our files as the kernel lists it."""
    line = line.replace("auid!=unset", "auid!=-1").replace("&06000", "&0xC00")
    if "perm=wa" in line:
        line = re.sub(r"(arch=b..)", rf"\1 -S {SPELT_OUT}", line)
    return line


def ours(repository: Path) -> list[str]:
    lines = []
    for path in sorted((repository / "hardening/audit").glob("*.rules")):
        if "immutable" not in path.name:
            lines += path.read_text().splitlines()
    return lines


def test_our_own_rules_as_the_kernel_lists_them_compare_equal(repository: Path) -> None:
    lines = ours(repository)
    listed = "\n".join(as_loaded(line) for line in lines if line.startswith("-a"))
    fact = rules("\n".join(lines), listed)
    assert (fact["missing"], fact["foreign"], fact["unmerged"]) == ([], [], [])
    assert fact["runtime"]["commands"] == ["b32", "b64"]
    assert fact["disk"]["options"]["b"] == "8192"
    assert "loginuid-immutable" in fact["disk"]["options"]
    assert fact["runtime"]["hiding"] == [
        "always,exclude msgtype=TIME_ADJNTPVAL exe=/usr/sbin/chronyd"
    ]
    assert "/etc" in fact["runtime"]["folders"]["b64"]
    assert "/etc" in fact["runtime"]["folders"]["b32"]


def test_each_of_our_rules_taken_out_of_the_kernel_is_missing(repository: Path) -> None:
    lines = [line for line in ours(repository) if line.startswith("-a")]
    for gone in lines:
        rest = "\n".join(as_loaded(line) for line in lines if line != gone)
        assert len(rules("\n".join(lines), rest)["missing"]) == 1, gone


def test_a_rule_narrowed_in_the_kernel_is_another_rule() -> None:
    disk = "-a always,exit -F arch=b64 -F dir=/etc -F perm=wa -F key=k"
    narrow = "-a always,exit -F arch=b64 -S openat -F dir=/etc -F perm=wa -F key=k"
    fact = rules(disk, narrow)
    assert len(fact["missing"]) == 1
    assert len(fact["foreign"]) == 1


@pytest.mark.parametrize(
    "line",
    [
        "-a always,exit -F arch=b64 -S execve -F auid!=unset -F key=k",  # execveat escapes
        "-a always,exit -F arch=b64 -S execve,execveat -F auid!=unset -F uid=0 -F key=k",
        "-a always,exit -F arch=b64 -S execve,execveat -F auid>=5000 -F key=k",
        "-a always,exit -F arch=b64 -S execve,execveat -F auid!=2001 -F key=k",
        "-a never,exit -F arch=b64 -S execve,execveat -F key=k",
        "-a always,exit -S execve,execveat -F key=k",
    ],
)
def test_a_rule_that_leaves_commands_out_does_not_count(line: str) -> None:
    assert rules(line, line)["runtime"]["commands"] == []


def test_a_rule_for_one_architecture_counts_for_that_one_only() -> None:
    line = "-a always,exit -F arch=b64 -S execve,execveat -F auid>=1000 -F auid!=-1 -F key=k"
    assert rules(line, line)["runtime"]["commands"] == ["b64"]


def test_a_watch_in_the_old_form_is_read() -> None:
    rule = parse_rule(["-w", "/etc/passwd", "-p", "wa", "-k", "x"])
    assert str(rule) == "always,exit path=/etc/passwd perm=aw key=x"


def test_no_rules_is_an_empty_list_and_everything_on_disk_is_missing() -> None:
    fact = rules("-a always,exit -F arch=b64 -S mount -F key=k", "No rules\n")
    assert fact["runtime"]["rules"] == []
    assert len(fact["missing"]) == 1


def test_parts_that_were_not_merged_show() -> None:
    line = "-a always,exit -F arch=b64 -S mount -F key=k"
    assert rules(line, line, parts=line.replace("mount", "umount2"))["unmerged"] != []


@pytest.mark.parametrize("bad", ["-a always,exit -Z x", "-a", '-w "/etc', "-a always,exit -F"])
def test_a_rule_that_cannot_be_read_is_an_error(bad: str) -> None:
    with pytest.raises(ProbeError):
        rules(bad, "No rules")


def test_a_kernel_that_does_not_tell_is_an_error() -> None:
    disk = {"files": {RULES: entry("")}}
    for loaded in ({"error": "auditctl is not installed"}, {"rc": 4, "stdout": ""}, None):
        with pytest.raises(ProbeError):
            PARSE["audit-rules"]({"loaded": loaded, "disk": disk})
    with pytest.raises(ProbeError):
        PARSE["audit-rules"]({"loaded": {"rc": 0, "stdout": ""}, "disk": {"files": {}}})


STATUS = (
    "enabled 1\nfailure 1\npid 401\nrate_limit 0\nbacklog_limit 8192\nlost 0\nbacklog 26\n"
    "backlog_wait_time 60000\nbacklog_wait_time_actual 0\nloginuid_immutable 1 locked\n"
)


def test_the_kernels_switches_are_numbers() -> None:
    fact = PARSE["audit-status"]({"status": {"rc": 0, "stdout": STATUS}})
    assert (fact["enabled"], fact["lost"], fact["pid"]) == (1, 0, 401)
    assert fact["loginuid_immutable"] is True
    assert fact["loginuid_locked"] is True


@pytest.mark.parametrize("gone", ["enabled", "failure", "pid", "backlog_limit", "lost"])
def test_a_switch_that_is_not_told_is_an_error(gone: str) -> None:
    text = "\n".join(line for line in STATUS.splitlines() if not line.startswith(f"{gone} "))
    with pytest.raises(ProbeError, match=gone):
        PARSE["audit-status"]({"status": {"rc": 0, "stdout": text}})


def test_the_daemons_settings_as_shipped_hold_what_the_checks_ask(repository: Path) -> None:
    text = (repository / "hardening/audit/auditd.conf").read_text()
    fact = PARSE["audit-settings"]({"file": {"files": {"/etc/audit/auditd.conf": entry(text)}}})
    assert fact["kept_megabytes"] == 256
    assert fact["disk_full_action"] == "rotate"
    assert fact["log_format"] == "raw"


@pytest.mark.parametrize("text", ["", "max_log_file = x\nnum_logs = 2", "garbage"])
def test_settings_that_cannot_be_read_are_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        PARSE["audit-settings"]({"file": {"files": {"/etc/audit/auditd.conf": entry(text)}}})


def protection(logs: dict[str, Any], settings: dict[str, Any] | None = None) -> dict[str, Any]:
    folder = {"/var/log/audit": entry(None, 0o750, "dir", gid=4)}
    other = {"/etc/audit": entry(None, 0o750, "dir")}
    result: dict[str, Any] = PARSE["audit-protection"](
        {
            "logs": {"files": {**folder, **logs}},
            "settings": {"files": {**other, **(settings or {})}},
        }
    )
    return result


def test_a_log_as_auditd_makes_it_is_protected() -> None:
    fact = protection(
        {
            "/var/log/audit/audit.log": entry(None, 0o640, gid=4),
            "/var/log/audit/audit.log.1": entry(None, 0o440, gid=4),
        },
        {"/etc/audit/auditd.conf": entry(None), "/etc/audit/rules.d": entry(None, 0o750, "dir")},
    )
    assert fact["open_logs"] == []
    assert fact["open_settings"] == []


@pytest.mark.parametrize(
    "bad", [entry(None, 0o644, gid=4), entry(None, 0o660, gid=4), entry(None, gid=100)]
)
def test_a_log_that_others_reach_is_open(bad: dict[str, Any]) -> None:
    assert protection({"/var/log/audit/audit.log": bad})["open_logs"] == [
        "/var/log/audit/audit.log"
    ]
    assert protection({"/var/log/audit/audit.log": entry(None, uid=7)})["open_logs"] != []


def test_settings_of_a_group_are_open() -> None:
    fact = protection({}, {"/etc/audit/auditd.conf": entry(None, 0o660, gid=4)})
    assert fact["open_settings"] == ["/etc/audit/auditd.conf"]


def test_a_log_folder_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ProbeError):
        PARSE["audit-protection"]({"logs": {"files": {}}, "settings": {"files": {}}})


def journal(files: dict[str, str], *, kept: bool = True) -> dict[str, Any]:
    found = {path: entry(text, 0o644) for path, text in files.items()}
    log = {"/var/log/journal/x/system.journal": entry(None)} if kept else {}
    result: dict[str, Any] = PARSE["system-journal"](
        {"settings": {"files": found}, "kept": {"files": log}}
    )
    return result


def test_the_last_drop_in_decides_where_the_journal_is_kept() -> None:
    fact = journal(
        {
            "/etc/systemd/journald.conf": "[Journal]\n#Storage=none\nStorage=volatile\n",
            "/usr/lib/systemd/journald.conf.d/60-sekisho.conf": "Storage=none\n",
            "/etc/systemd/journald.conf.d/60-sekisho.conf": "[Journal]\nStorage=persistent\n",
        }
    )
    assert fact["disk"]["storage"] == "persistent"
    assert fact["kept"] is True
    assert journal({})["disk"]["storage"] == "auto"
    assert journal({}, kept=False)["kept"] is False


def test_foreign_rule_files_are_read_without_a_crash(shared_data: Path) -> None:
    """What audit-userspace and go-libaudit ship as examples is all known to the parser."""
    read = 0
    for path in [
        *sorted((shared_data / "audit-userspace/rules").glob("*.rules")),
        *sorted((shared_data / "go-libaudit/rule/testdata").glob("*.rules")),
    ]:
        text = path.read_text()
        fact = rules(text, "No rules")
        lines = {
            line.strip()
            for line in text.splitlines()
            if line.strip().startswith(("-a", "-A", "-w"))
        }
        assert 0 < len(fact["missing"]) <= len(lines) or not lines, path
        read += len(fact["missing"])
    assert read > 200
