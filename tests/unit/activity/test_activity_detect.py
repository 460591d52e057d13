"""Every detection both ways: it fires on what is not expected and stays silent on what is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.activity.detect import BY_KEY
from sekisho.activity.pipeline import DETECTION, GAP, SESSION, Activity, Entry
from sekisho.activity.watched import BESIDE, DAILY, KINDS, PATHS, watched

MS = 1_795_315_000_000
UNSET = 4294967295


class Log:
    """Writes the records of events as a kernel would, one serial each."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.serial = 100
        self.ms = MS

    def record(self, type_: str, body: str) -> Log:
        self.serial += 1
        self._put(type_, body)
        return self

    def _put(self, type_: str, body: str) -> None:
        head = f"type={type_} msg=audit({self.ms // 1000}.{self.ms % 1000:03d}:{self.serial}): "
        self.lines.append(head.encode() + body.encode() + b"\n")

    def call(
        self,
        number: int,
        *records: tuple[str, str],
        key: str = "(null)",
        exe: str = "/usr/bin/vi",
        auid: int = 2001,
        uid: int = 0,
        euid: int | None = None,
        pid: int = 500,
        ppid: int = 400,
        success: bool = True,
        paths: tuple[str, ...] = (),
        nametype: str = "NORMAL",
        mode: str = "0100755",
        comm: str | None = None,
        arch: str = "c000003e",
        exit_: int = 0,
        argv: tuple[str, ...] = (),
        cwd: str = "/root",
    ) -> Log:
        self.serial += 1
        quoted = key if key == "(null)" else f'"{key}"'
        for type_, body in records:
            self._put(type_, body)
        self._put(
            "SYSCALL",
            f"arch={arch} syscall={number} success={'yes' if success else 'no'} exit={exit_} "
            f"a0=1 a1=2 a2=3 a3=4 items=1 ppid={ppid} pid={pid} auid={auid} uid={uid} gid=0 "
            f"euid={uid if euid is None else euid} suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts0 "
            f'ses=7 comm="{comm or exe.rpartition("/")[2]}" exe="{exe}" subj=unconfined '
            f"key={quoted}",
        )
        if argv:
            words = " ".join(f'a{n}="{word}"' for n, word in enumerate(argv))
            self._put("EXECVE", f"argc={len(argv)} {words}")
        self._put("CWD", f'cwd="{cwd}"')
        for item, path in enumerate(paths):
            self._put(
                "PATH",
                f'item={item} name="{path}" inode={item + 9} mode={mode} nametype={nametype}',
            )
        self._put("PROCTITLE", "proctitle=00")
        return self

    def command(self, *argv: str, exe: str | None = None, **options: object) -> Log:
        program = exe or argv[0]
        paths = (program,)
        return self.call(59, argv=argv, exe=program, paths=paths, key="sekisho-exec", **options)  # type: ignore[arg-type]

    def file(self, path: str, *, nametype: str = "NORMAL", **options: object) -> Log:
        return self.call(257, key="sekisho-files", paths=(path,), nametype=nametype, **options)  # type: ignore[arg-type]

    def entries(self) -> list[Entry]:
        activity = Activity(people={2001: "aoki", 2002: "baba"}, administrators={"aoki"})
        return activity.feed(self.lines) + activity.flush()

    def found(self) -> list[tuple[str, str, str]]:
        return [
            (entry.data["id"].removeprefix("6-iv-b."), entry.data["severity"], entry.data["who"])
            for entry in self.entries()
            if entry.kind == DETECTION
        ]


def says(op: str, *, res: str = "success", auid: int = 2001, exe: str = "/usr/sbin/useradd") -> str:
    return (
        f'pid=717 uid=0 auid={auid} ses=6 subj=unconfined msg=\'op={op} acct="evil" '
        f'exe="{exe}" hostname=? addr=? terminal=? res={res}\''
    )


def unit(name: str) -> str:
    return (
        f'pid=1 uid=0 auid={UNSET} ses={UNSET} subj=unconfined msg=\'unit={name} comm="systemd" '
        'exe="/usr/lib/systemd/systemd" hostname=? addr=? terminal=? res=success\''
    )


# --- accounts --------------------------------------------------------------------------------


def test_a_new_account_is_an_alert_with_the_persons_name() -> None:
    assert Log().record("ADD_USER", says("add-user")).found() == [("new-account", "alert", "aoki")]


def test_an_account_that_could_not_be_added_is_none() -> None:
    assert Log().record("ADD_USER", says("add-user", res="failed")).found() == []


def test_an_account_removed_or_changed_is_told() -> None:
    assert Log().record("DEL_USER", says("delete-user")).found() == [
        ("account-removed", "warning", "aoki")
    ]
    assert Log().record("USER_CHAUTHTOK", says("PAM:chauthtok")).found() == [
        ("account-changed", "warning", "aoki")
    ]


def test_joining_a_powerful_group_is_more_than_a_change() -> None:
    strong = says("add-user-to-group").replace("acct=", 'grp="sudo" acct=')
    weak = says("add-user-to-group").replace("acct=", 'grp="users" acct=')
    assert Log().record("USER_MGMT", strong).found()[0][:2] == ("sudoers-changed", "alert")
    assert Log().record("USER_MGMT", weak).found()[0][:2] == ("account-changed", "warning")


def test_an_account_added_by_a_packages_installation_is_a_notice() -> None:
    log = Log().command("/usr/bin/apt-get", "install", "chrony", pid=600)
    log.command("/usr/bin/dpkg", "--configure", "chrony", pid=610, ppid=600)
    log.command("/usr/sbin/useradd", "_chrony", pid=717, ppid=610)
    log.record("ADD_USER", says("add-user"))
    assert log.found() == [("new-account", "notice", "aoki")]


def test_the_account_tools_own_files_are_not_told_twice() -> None:
    assert Log().file("/etc/passwd", exe="/usr/sbin/useradd").found() == []
    assert Log().file("/etc/passwd", exe="/usr/bin/vim").found()[0][0] == "account-changed"


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "slug", "severity"),
    [
        ("/etc/ssh/authorized_keys.d/baba", "key-changed", "alert"),
        ("/home/baba/.ssh/authorized_keys", "key-changed", "alert"),
        ("/etc/sudoers", "sudoers-changed", "alert"),
        ("/etc/sudoers.d/evil", "sudoers-changed", "alert"),
        ("/etc/ssh/sshd_config", "sshd-changed", "alert"),
        ("/etc/ssh/sshd_config.d/x.conf", "sshd-changed", "alert"),
        ("/etc/pam.d/sshd", "pam-changed", "alert"),
        ("/etc/audit/rules.d/10-sekisho-base.rules", "audit-rules-changed", "alert"),
        ("/etc/sekisho/nftables.json", "firewall-changed", "alert"),
        ("/etc/sekisho/policy.json", "agent-changed", "alert"),
        ("/usr/lib/sekisho/guard", "agent-changed", "alert"),
        ("/etc/udev/rules.d/60-sekisho.rules", "device-rules-changed", "alert"),
        ("/etc/modprobe.d/60-sekisho-kernel.conf", "module-policy-changed", "alert"),
        ("/etc/ld.so.preload", "preload-changed", "alert"),
        ("/etc/cron.d/evil", "schedule-changed", "alert"),
        ("/var/spool/cron/crontabs/root", "schedule-changed", "alert"),
        ("/etc/systemd/system/evil.timer", "schedule-changed", "alert"),
        ("/etc/systemd/system/evil.service", "unit-changed", "alert"),
        ("/boot/grub/grub.cfg", "boot-changed", "alert"),
        ("/boot/vmlinuz-6.12.48+deb13-amd64", "boot-changed", "alert"),
        ("/boot/initrd.img-6.12.48+deb13-amd64", "boot-changed", "alert"),
        ("/boot/efi/EFI/debian/grubx64.efi", "boot-changed", "alert"),
        ("/etc/default/grub.d/x.cfg", "boot-changed", "alert"),
        ("/etc/grub.d/40_custom", "boot-changed", "alert"),
        ("/usr/lib/systemd/system-generators/x", "unit-changed", "alert"),
        ("/usr/lib/systemd/system-sleep/x", "unit-changed", "alert"),
        ("/usr/lib/systemd/systemd", "unit-changed", "alert"),
        ("/usr/lib/udev/x-helper", "device-rules-changed", "alert"),
        ("/etc/rc.local", "unit-changed", "alert"),
        ("/etc/shadow.bak", "setting-changed", "notice"),
        ("/var/log/audit/audit.log", "evidence-touched", "alert"),
        ("/var/lib/sekisho/journal/0001.jsonl", "evidence-touched", "alert"),
        ("/etc/hosts", "setting-changed", "notice"),
    ],
)
def test_a_watched_file_changed_by_a_person_is_told(path: str, slug: str, severity: str) -> None:
    assert Log().file(path).found() == [(slug, severity, "aoki")]


def test_a_folder_that_is_there_already_was_not_changed() -> None:
    assert Log().file("/etc/audit", success=False, exit_=-17).found() == []
    assert Log().file("/etc/sudoers", success=False, exit_=-13).found() != []


@pytest.mark.parametrize(
    "path",
    ["/etc/resolv.conf", "/etc/passwd.lock", "/etc/shadow.4711", "/srv/x", "/etc-not/passwd"],
)
def test_a_file_that_nobody_watches_is_not_told(path: str) -> None:
    assert Log().file(path).found() == []


def test_a_relative_name_with_dots_is_the_same_file() -> None:
    assert Log().file("../etc/./sudoers", cwd="/root").found()[0][0] == "sudoers-changed"
    assert Log().file("sudoers", cwd="/etc").found()[0][0] == "sudoers-changed"
    assert Log().file("//etc//sudoers").found()[0][0] == "sudoers-changed"


def test_a_deleted_udev_rule_is_told_as_removed() -> None:
    (entry,) = [
        entry
        for entry in Log().file("/etc/udev/rules.d/60.rules", nametype="DELETE").entries()
        if entry.kind == DETECTION
    ]
    assert entry.data["id"] == "6-iv-b.device-rules-changed"
    assert "removed" in entry.data["what"]


def test_the_same_file_by_the_same_process_is_told_once_in_a_row() -> None:
    log = Log().file("/etc/sudoers").file("/etc/sudoers")
    assert len(log.found()) == 1
    log.ms += 60_000
    assert len(log.file("/etc/sudoers").found()) == 2


def test_dpkgs_own_files_are_a_notice() -> None:
    log = Log().file("/etc/pam.d/sshd", exe="/usr/bin/dpkg", auid=UNSET)
    assert log.found() == [("pam-changed", "notice", "system")]


def test_the_playbooks_files_are_a_notice_with_the_administrators_name() -> None:
    log = Log().command("/usr/bin/python3(mitogen:root@vm:1)", exe="/usr/bin/python3.13", pid=50)
    log.file("/etc/sudoers.d/.sekisho-ab3defgh", pid=60, ppid=50, exe="/usr/bin/python3.13")
    log.file("/etc/sudoers.d/sekisho", pid=60, ppid=50, exe="/usr/bin/python3.13")
    assert log.found() == [("sudoers-changed", "notice", "aoki")]


def test_who_is_no_administrator_cannot_pass_for_the_playbooks() -> None:
    log = Log().command(
        "/usr/bin/python3(mitogen:x)", exe="/usr/bin/python3.13", pid=50, auid=2002, uid=2002
    )
    log.file("/etc/sudoers", pid=60, ppid=50, auid=2002)
    assert ("sudoers-changed", "alert", "baba") in log.found()


def test_touching_the_evidence_is_an_alert_even_for_the_playbooks() -> None:
    log = Log().command("/usr/bin/python3(mitogen:x)", exe="/usr/bin/python3.13", pid=50)
    log.file("/var/log/audit/audit.log", pid=60, ppid=50)
    assert log.found() == [("evidence-touched", "alert", "aoki")]
    assert Log().file("/var/log/audit/audit.log", exe="/usr/sbin/auditd").found() == []


# --- the watch itself ------------------------------------------------------------------------


def test_the_audit_daemons_end_is_an_alert() -> None:
    log = Log().record("DAEMON_END", "op=terminate auid=2001 uid=0 ses=6 pid=9 res=success")
    assert log.found() == [("audit-stopped", "alert", "aoki")]
    assert Log().record("DAEMON_ROTATE", "op=rotate-logs auid=0 pid=1 res=success").found() == []


def config(fields: str) -> Log:
    return Log().call(44, ("CONFIG_CHANGE", f"op=set {fields} auid=2001 ses=6 res=1"))


def test_switching_the_recording_off_is_an_alert() -> None:
    assert config("audit_enabled=0 old=1").found() == [("audit-stopped", "alert", "aoki")]
    assert config("audit_pid=0 old=401").found() == [("audit-stopped", "alert", "aoki")]
    assert config("audit_enabled=1 old=1").found() == []
    assert config("audit_pid=401 old=0").found() == []


def test_changed_audit_rules_are_told_once_for_each_program_run() -> None:
    rule = ("CONFIG_CHANGE", 'auid=2001 ses=6 op=remove_rule key="sekisho-exec" list=4 res=1')
    log = Log().call(44, rule, exe="/usr/sbin/auditctl").call(44, rule, exe="/usr/sbin/auditctl")
    assert log.found() == [("audit-rules-changed", "alert", "aoki")]
    assert config("audit_backlog_limit=64 old=8192").found()[0][0] == "audit-rules-changed"
    assert config("audit_backlog_limit=8192 old=8192").found() == []


def test_setting_the_count_of_lost_records_back_is_an_alert() -> None:
    assert config("lost=0 old=12").found()[0][:2] == ("evidence-touched", "alert")


def test_the_agents_stop_is_an_alert_with_the_name_of_who_asked_for_it() -> None:
    log = Log().command("/usr/bin/systemctl", "stop", "sekisho-agent")
    log.record("SERVICE_STOP", unit("sekisho-agent"))
    assert log.found() == [("agent-stopped", "alert", "aoki")]
    assert Log().record("SERVICE_STOP", unit("sekisho-agent")).found()[0][2] == "system"
    assert Log().record("SERVICE_START", unit("sekisho-agent")).found() == []


def test_a_guards_stop_is_told_and_another_services_is_not() -> None:
    assert Log().record("SERVICE_STOP", unit("auditd")).found()[0][:2] == ("guard-stopped", "alert")
    assert Log().record("SERVICE_STOP", unit("getty@tty1")).found() == []


def test_rules_flushed_by_a_person_are_an_alert_and_by_our_own_a_notice() -> None:
    flush = "table=sekisho:3 family=1 entries=9 op=nft_unregister_table pid=5 subj=x comm="
    by_hand = Log().call(46, ("NETFILTER_CFG", flush + '"nft"'), exe="/usr/sbin/nft")
    assert by_hand.found() == [("firewall-changed", "alert", "aoki")]
    unit_ = Log().call(46, ("NETFILTER_CFG", flush + '"nft"'), exe="/usr/sbin/nft", auid=UNSET)
    assert unit_.found() == [("firewall-changed", "notice", "system")]
    other = Log().call(46, ("NETFILTER_CFG", flush + '"sshd"'), exe="/usr/sbin/sshd", auid=UNSET)
    assert other.found() == [("firewall-changed", "alert", "system")]


# --- the kernel ------------------------------------------------------------------------------


def test_a_module_by_hand_is_an_alert_and_by_the_kernel_a_notice() -> None:
    name = ("KERN_MODULE", 'name="dummy"')
    by_hand = Log().call(313, name, key="sekisho-modules", exe="/usr/bin/kmod")
    assert by_hand.found() == [("module-loaded", "alert", "aoki")]
    udev = Log().call(313, name, key="sekisho-modules", exe="/usr/bin/kmod", auid=UNSET)
    assert udev.found() == [("module-loaded", "notice", "system")]
    refused = Log().call(175, key="sekisho-modules", exe="/usr/bin/kmod", success=False, exit_=-1)
    assert refused.found() == [("module-loaded", "alert", "aoki")]


def test_the_clock_set_by_hand_is_an_alert_and_steered_by_chrony_nothing() -> None:
    set_ = Log().call(227, key="sekisho-time", exe="/usr/bin/date")
    assert set_.found() == [("time-set", "alert", "aoki")]
    offset = ("TIME_INJOFFSET", "sec=0 nsec=404866262")
    assert Log().call(159, offset, exe="/usr/sbin/adjtimex").found()[0][0] == "time-set"
    assert Log().call(159, offset, exe="/usr/sbin/chronyd", auid=UNSET).found() == []
    refused = Log().call(227, key="sekisho-time", exe="/usr/bin/date", success=False, exit_=-1)
    assert refused.found() == []


def test_a_mount_by_a_person_is_told_and_by_the_system_not() -> None:
    log = Log().call(165, key="sekisho-mount", exe="/usr/bin/mount", paths=("/mnt",))
    assert log.found() == [("mounted", "warning", "aoki")]
    system = Log().call(165, key="sekisho-mount", exe="/usr/bin/mount", auid=UNSET)
    assert system.found() == []
    refused = Log().call(165, key="sekisho-mount", paths=("/mnt",), success=False, exit_=-1)
    assert refused.found() == [("mounted", "notice", "aoki")]


def test_reaching_into_another_process_is_an_alert() -> None:
    target = ("OBJ_PID", 'opid=828 oauid=2001 ouid=0 oses=6 obj=unconfined ocomm="sshd"')
    log = Log().call(101, target, key="sekisho-trace", exe="/usr/bin/gdb")
    (entry,) = [entry for entry in log.entries() if entry.kind == DETECTION]
    assert (entry.data["id"], entry.data["subject"]) == ("6-iv-b.traced", "sshd")
    assert Log().call(101, target, exe="/usr/bin/gdb").found() == []  # not one of the rules'


def test_the_hostname_set_by_a_person_is_told() -> None:
    log = Log().call(170, key="sekisho-hostname", exe="/usr/bin/hostname")
    assert log.found() == [("hostname-changed", "warning", "aoki")]
    assert Log().call(170, key="sekisho-hostname", auid=UNSET).found() == []


def test_a_file_given_its_owners_rights_is_an_alert_unless_dpkg_did_it() -> None:
    log = Log().call(268, key="sekisho-setuid", exe="/usr/bin/chmod", paths=("/tmp/t",))
    assert log.found() == [("setuid-set", "alert", "aoki")]
    dpkg = Log().call(268, key="sekisho-setuid", exe="/usr/bin/dpkg", paths=("/usr/bin/su",))
    assert dpkg.found() == [("setuid-set", "notice", "aoki")]


def test_an_interface_that_listens_to_everybody_is_an_alert() -> None:
    on = ("ANOM_PROMISCUOUS", "dev=eth1 prom=256 old_prom=0 auid=2001 uid=0 gid=0 ses=6")
    off = ("ANOM_PROMISCUOUS", "dev=eth1 prom=0 old_prom=256 auid=2001 uid=0 gid=0 ses=6")
    assert Log().call(54, on, exe="/usr/bin/tcpdump").found() == [("promiscuous", "alert", "aoki")]
    assert Log().call(54, off, exe="/usr/bin/tcpdump").found() == []


def test_a_crash_is_a_notice() -> None:
    crash = f'auid={UNSET} uid=0 gid=0 ses=7 pid=9 comm="x" exe="/usr/sbin/sshd" sig=11 res=1'
    assert Log().record("ANOM_ABEND", crash).found() == [("program-crashed", "notice", "system")]


# --- commands --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/tmp/x", "/dev/shm/x", "/var/tmp/x", "/home/baba/x"])
def test_a_program_from_a_place_anybody_writes_is_an_alert(place: str) -> None:
    assert Log().command(place, uid=2001).found() == [("odd-program", "alert", "aoki")]


def test_a_script_from_such_a_place_is_told_too_and_a_program_of_the_system_is_not() -> None:
    log = Log().call(
        59,
        argv=("/bin/sh", "./go.sh"),
        exe="/usr/bin/dash",
        paths=("./go.sh", "/bin/sh"),
        cwd="/tmp",
        uid=2001,
        key="sekisho-exec",
    )
    assert log.found() == [("odd-program", "alert", "aoki")]
    assert Log().command("/usr/bin/id", uid=2001).found() == []


def test_root_in_the_hands_of_no_administrator_is_an_alert_once_a_session() -> None:
    log = Log().command("/usr/bin/id", auid=2002).command("/usr/bin/ls", auid=2002)
    assert log.found() == [("root-by-stranger", "alert", "baba")]
    assert Log().command("/usr/bin/id", auid=2001).found() == []
    assert Log().command("/usr/bin/id", auid=UNSET).found() == []


def test_root_that_lets_a_person_in_is_not_yet_in_its_hands() -> None:
    log = Log().command("/usr/bin/env", "-i", "run-parts", auid=2002, pid=50, ppid=40)
    log.command("/usr/bin/uname", auid=2002, pid=51, ppid=50)  # the message of the day
    log.command("/usr/sbin/unix_chkpwd", auid=2002, pid=52, ppid=40)
    log.command("/usr/bin/bash", auid=2002, uid=2002, pid=60, ppid=40)
    assert log.found() == []
    log.command("/usr/bin/sudo", "-i", auid=2002, uid=2002, euid=0, mode="0104755", pid=61, ppid=60)
    assert log.found() == []
    log.command("/usr/bin/env", auid=2002, pid=62, ppid=61)
    assert log.found() == [("root-by-stranger", "alert", "baba")]


def test_a_shell_that_turns_into_root_without_a_new_process_is_told() -> None:
    log = Log().command("/usr/bin/bash", auid=2002, uid=2002, pid=60, ppid=40)
    log.command("/usr/bin/env", auid=2002, pid=60, ppid=40)
    assert log.found() == [("root-by-stranger", "alert", "baba")]


def test_a_program_with_its_owners_rights_is_not_yet_root_in_hand() -> None:
    assert (
        Log().command("/usr/bin/passwd", auid=2002, uid=2002, euid=0, mode="0104755").found() == []
    )
    stolen = Log().command("/usr/bin/bash", auid=2002, uid=2002, euid=0, mode="0100755")
    assert stolen.found() == [("root-by-stranger", "alert", "baba")]


def test_a_program_that_is_not_there_was_not_run() -> None:
    entries = Log().command("/tmp/x", success=False, exit_=-2).entries()
    assert entries == []
    (entry,) = Log().command("/tmp/x", success=False, exit_=-13).entries()  # refused: told
    assert entry.data["success"] is False


# --- log-ins ---------------------------------------------------------------------------------


def failed(
    account: str, *, type_: str = "USER_AUTH", address: str = "10.77.0.9"
) -> tuple[str, str]:
    return type_, (
        f'pid=9 uid=0 auid={UNSET} ses={UNSET} msg=\'op=PAM:authentication acct="{account}" '
        f'exe="/usr/sbin/sshd" hostname={address} addr={address} terminal=ssh res=failed\''
    )


def test_failed_log_ins_in_a_row_are_one_alert() -> None:
    log = Log()
    for number in range(5):
        log.record(*failed(f"user{number}"))
        log.ms += 1000
    assert log.found() == [("login-failures", "alert", "user4")]
    assert [entry.data["what"] for entry in log.entries() if entry.kind == SESSION] == [
        "failed"
    ] * 5


def test_failed_log_ins_spread_over_time_are_none() -> None:
    log = Log()
    for _ in range(10):
        log.record(*failed("aoki"))
        log.ms += 30_000
    assert log.found() == []


def test_a_session_is_told_with_person_and_address() -> None:
    body = (
        'pid=9 uid=0 auid=2001 ses=6 msg=\'op=PAM:session_open acct="aoki" '
        'exe="/usr/sbin/sshd" hostname=10.77.0.1 addr=10.77.0.1 terminal=ssh res=success\''
    )
    (entry,) = Log().record("USER_START", body).entries()
    assert entry.kind == SESSION
    assert (entry.data["what"], entry.data["who"], entry.data["address"]) == (
        "start",
        "aoki",
        "10.77.0.1",
    )


# --- losses and the whole --------------------------------------------------------------------


def test_what_the_kernel_lost_is_a_gap_and_only_what_is_new() -> None:
    activity = Activity(people={}, administrators=set())
    assert activity.kernel(0, MS) == []
    (gap,) = activity.kernel(7, MS)
    assert (gap.kind, gap.data["reason"], gap.data["count"]) == (GAP, "kernel-lost", 7)
    assert activity.kernel(7, MS) == []
    assert activity.kernel(9, MS)[0].data["count"] == 2
    assert activity.kernel(1, MS)[0].data["count"] == 1  # started again
    assert activity.counters["kernel_lost"] == 10


def test_every_kind_has_both_titles_and_a_name_that_can_be_an_id() -> None:
    for slug, kind in KINDS.items():
        assert slug.replace("-", "").isalpha()
        assert kind.en
        assert kind.ja
        assert not kind.ja.isascii()


def test_the_page_lists_every_detection_as_it_is(repository: Path) -> None:
    page = (repository / "docs/activity.md").read_text()
    for slug, kind in KINDS.items():
        then = "notice" if kind.excusable else kind.severity
        assert f"| `{slug}` {kind.en} | {kind.severity} | {then} |" in page


def test_every_watched_path_leads_to_a_kind() -> None:
    for path, slug in PATHS:
        assert slug in KINDS
        hit = watched([path + "x" if path.endswith("/") else path])
        assert hit is not None
        assert hit[0] in KINDS


def test_the_kernels_rules_carry_exactly_the_keys_the_detections_know(repository: Path) -> None:
    text = "\n".join(
        path.read_text() for path in sorted((repository / "hardening/audit").glob("*.rules"))
    )
    keys = {word[len("key=") :] for word in text.split() if word.startswith("key=")}
    assert keys == {*BY_KEY, "sekisho-exec"}


def recorded_folders(repository: Path) -> list[str]:
    text = (repository / "hardening/audit/40-sekisho-files.rules").read_text(encoding="utf-8")
    return sorted({word[len("dir=") :] for word in text.split() if word.startswith("dir=")})


@given(name=st.from_regex(r"[a-z0-9][a-z0-9._@+-]{0,12}(/[a-z0-9.]{1,12}){0,2}", fullmatch=True))
def test_what_the_kernels_rules_record_always_has_a_kind(name: str) -> None:
    """A file that is recorded and judged by nobody is a file that nobody watches."""
    repository = Path(__file__).resolve().parents[3]
    folders = recorded_folders(repository)
    assert len(folders) >= 9
    for folder in folders:
        path = f"{folder}/{name}"
        if path in DAILY or BESIDE.fullmatch(path):
            continue
        hit = watched([path])
        assert hit is not None, path
        assert hit[0] in KINDS


def test_a_remount_is_told_and_its_preparations_once() -> None:
    for call, paths in ((433, ("/",)), (442, ("/tmp",)), (428, ("/srv",))):
        log = Log().call(call, key="sekisho-mount", exe="/usr/bin/mount", paths=paths)
        assert log.found() == [("mounted", "warning", "aoki")]
    log = Log()
    for _ in range(4):
        log.call(431, key="sekisho-mount", exe="/usr/bin/mount")
    assert log.found() == [("mounted", "warning", "aoki")]


def test_every_entry_is_plain_json_without_floats() -> None:
    log = Log().command("/tmp/x", auid=2002).file("/etc/sudoers")
    log.record("ADD_USER", says("add-user")).record(*failed("x"))
    for entry in log.entries():
        text = json.dumps(entry.data, allow_nan=False)
        assert json.loads(text, parse_float=lambda _: pytest.fail("a float")) == entry.data
