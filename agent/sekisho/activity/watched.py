"""What is watched: every detection's name, weight and titles, and the paths behind them. Pure.

One id everywhere: ``6-iv-b.<slug>`` is the detection, its metric label and its alert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NOTICE, WARNING, ALERT = "notice", "warning", "alert"


@dataclass(frozen=True, slots=True)
class Kind:
    """A detection's kind.

    Attributes:
        severity: ``notice``, ``warning`` or ``alert``.
        excusable: True when the same thing done by a package's installation or by the playbooks
            is only a notice. Never True for what blinds the watch itself.

    """

    severity: str
    excusable: bool
    en: str
    ja: str


KINDS: dict[str, Kind] = {
    "new-account": Kind(
        ALERT,
        True,
        "An account was added",
        "アカウントが追加された",
    ),
    "account-removed": Kind(
        WARNING,
        True,
        "An account was removed",
        "アカウントが削除された",
    ),
    "account-changed": Kind(
        WARNING,
        True,
        "An account, group or password was changed",
        "アカウント・グループ・パスワードが変更された",
    ),
    "key-changed": Kind(
        ALERT,
        True,
        "A log-in key was changed",
        "ログイン鍵が変更された",
    ),
    "sudoers-changed": Kind(
        ALERT,
        True,
        "The right to become root was changed",
        "root になる権限が変更された",
    ),
    "sshd-changed": Kind(
        ALERT,
        True,
        "The SSH server's settings were changed",
        "SSH サーバの設定が変更された",
    ),
    "pam-changed": Kind(
        ALERT,
        True,
        "The log-in rules (PAM) were changed",
        "認証規則 (PAM) が変更された",
    ),
    "audit-rules-changed": Kind(
        ALERT,
        True,
        "The audit rules were changed",
        "監査規則が変更された",
    ),
    "audit-stopped": Kind(
        ALERT,
        False,
        "The recording of activity was stopped",
        "動作の記録が停止された",
    ),
    "evidence-touched": Kind(
        ALERT,
        False,
        "Records of activity were touched",
        "動作の記録に手が加えられた",
    ),
    "firewall-changed": Kind(
        ALERT,
        True,
        "The packet filter was changed",
        "パケットフィルタが変更された",
    ),
    "agent-stopped": Kind(
        ALERT,
        False,
        "The agent was stopped",
        "エージェントが停止された",
    ),
    "guard-stopped": Kind(
        ALERT,
        True,
        "A protecting service was stopped",
        "保護用サービスが停止された",
    ),
    "agent-changed": Kind(
        ALERT,
        True,
        "Sekisho's own files were changed",
        "関所自身のファイルが変更された",
    ),
    "module-loaded": Kind(
        ALERT,
        True,
        "A kernel module was loaded or removed by hand",
        "カーネルモジュールが手で操作された",
    ),
    "module-policy-changed": Kind(
        ALERT,
        True,
        "The module blocklist was changed",
        "モジュール禁止一覧が変更された",
    ),
    "device-rules-changed": Kind(
        ALERT,
        True,
        "The device rules were changed",
        "デバイスの規則が変更された",
    ),
    "time-set": Kind(
        ALERT,
        True,
        "The clock was set by hand",
        "時計が手で変更された",
    ),
    "mounted": Kind(
        WARNING,
        True,
        "A file system was mounted or unmounted",
        "ファイルシステムが着脱された",
    ),
    "traced": Kind(
        ALERT,
        True,
        "A process was attached to another one",
        "他のプロセスが操作された",
    ),
    "preload-changed": Kind(
        ALERT,
        True,
        "What every program loads was changed",
        "全プログラムが読む部品が変更された",
    ),
    "schedule-changed": Kind(
        ALERT,
        True,
        "A scheduled job was changed",
        "定期実行が変更された",
    ),
    "unit-changed": Kind(
        ALERT,
        True,
        "A service's definition was changed",
        "サービス定義が変更された",
    ),
    "boot-changed": Kind(
        ALERT,
        True,
        "What the machine boots was changed",
        "起動設定が変更された",
    ),
    "setting-changed": Kind(
        NOTICE,
        True,
        "Another setting of the machine was changed",
        "その他の設定が変更された",
    ),
    "root-by-stranger": Kind(
        ALERT,
        False,
        "Somebody who is no administrator acts as root",
        "管理者でない者が root として操作した",
    ),
    "login-failures": Kind(
        ALERT,
        False,
        "Log-ins fail in a row",
        "ログインの失敗が続いた",
    ),
    "odd-program": Kind(
        ALERT,
        True,
        "A program was run from a place anybody can write to",
        "誰でも書ける場所のプログラムが実行された",
    ),
    "promiscuous": Kind(
        ALERT,
        False,
        "An interface listens to everybody",
        "通信の傍受が始まった",
    ),
    "setuid-set": Kind(
        ALERT,
        True,
        "A program was given its owner's rights",
        "setuid/setgid が設定された",
    ),
    "hostname-changed": Kind(
        WARNING,
        True,
        "The machine's name was changed",
        "ホスト名が変更された",
    ),
    "program-crashed": Kind(
        NOTICE,
        False,
        "A program crashed",
        "プログラムが異常終了した",
    ),
}

#: Exact path, or a folder when it ends in a slash. The first match names the detection.
PATHS: tuple[tuple[str, str], ...] = (
    ("/etc/passwd", "account-changed"),
    ("/etc/shadow", "account-changed"),
    ("/etc/group", "account-changed"),
    ("/etc/gshadow", "account-changed"),
    ("/etc/subuid", "account-changed"),
    ("/etc/subgid", "account-changed"),
    ("/etc/security/opasswd", "account-changed"),
    ("/etc/login.defs", "pam-changed"),
    ("/etc/ssh/authorized_keys.d/", "key-changed"),
    ("/etc/ssh/authorized_keys/", "key-changed"),
    ("/etc/ssh/", "sshd-changed"),
    ("/etc/sudoers", "sudoers-changed"),
    ("/etc/sudoers.d/", "sudoers-changed"),
    ("/etc/sudo.conf", "sudoers-changed"),
    ("/etc/polkit-1/", "sudoers-changed"),
    ("/etc/pam.d/", "pam-changed"),
    ("/etc/security/", "pam-changed"),
    ("/etc/nsswitch.conf", "pam-changed"),
    ("/etc/audit/", "audit-rules-changed"),
    ("/etc/nftables.conf", "firewall-changed"),
    ("/etc/nftables.d/", "firewall-changed"),
    ("/etc/sekisho/nftables.json", "firewall-changed"),
    ("/etc/sekisho/", "agent-changed"),
    ("/usr/lib/sekisho/", "agent-changed"),
    ("/usr/share/sekisho/", "agent-changed"),
    ("/usr/lib/python3/dist-packages/sekisho/", "agent-changed"),
    ("/etc/udev/", "device-rules-changed"),
    ("/usr/lib/udev/rules.d/", "device-rules-changed"),
    ("/run/udev/rules.d/", "device-rules-changed"),
    ("/etc/modprobe.d/", "module-policy-changed"),
    ("/etc/modules-load.d/", "module-policy-changed"),
    ("/etc/modules", "module-policy-changed"),
    ("/etc/ld.so.preload", "preload-changed"),
    ("/etc/ld.so.conf", "preload-changed"),
    ("/etc/ld.so.conf.d/", "preload-changed"),
    ("/etc/crontab", "schedule-changed"),
    ("/etc/cron.d/", "schedule-changed"),
    ("/etc/cron.hourly/", "schedule-changed"),
    ("/etc/cron.daily/", "schedule-changed"),
    ("/etc/cron.weekly/", "schedule-changed"),
    ("/etc/cron.monthly/", "schedule-changed"),
    ("/etc/cron.yearly/", "schedule-changed"),
    ("/var/spool/cron/", "schedule-changed"),
    ("/usr/lib/systemd/boot/", "boot-changed"),
    ("/etc/systemd/", "unit-changed"),
    ("/etc/init.d/", "unit-changed"),
    ("/etc/rc.local", "unit-changed"),
    ("/usr/lib/systemd/", "unit-changed"),  # generators, sleep and shutdown hooks run as root
    ("/run/systemd/system/", "unit-changed"),
    ("/etc/default/grub", "boot-changed"),
    ("/etc/default/grub.d/", "boot-changed"),
    ("/etc/grub.d/", "boot-changed"),
    ("/etc/kernel/", "boot-changed"),
    ("/etc/fstab", "boot-changed"),
    ("/etc/crypttab", "boot-changed"),
    ("/etc/initramfs-tools/", "boot-changed"),
    ("/boot/", "boot-changed"),  # kernels, initrds, the boot loader, the EFI partition
    ("/usr/lib/udev/", "device-rules-changed"),  # its helpers run as root for every device
    ("/var/log/audit/", "evidence-touched"),
    ("/var/lib/sekisho/journal/", "evidence-touched"),
    # The rest of what the kernel's rules record (hardening/audit): no folder is without a kind.
    ("/var/lib/sekisho/", "setting-changed"),
    ("/var/spool/", "setting-changed"),
)
_EXACT = {path: slug for path, slug in PATHS if not path.endswith("/")}
_FOLDERS = tuple((path, slug) for path, slug in PATHS if path.endswith("/"))
#: Programs that tell of every account they change in records of their own (libaudit).
ACCOUNT_TOOLS = frozenset(
    f"/usr/{place}/{tool}"
    for place in ("sbin", "bin")
    for tool in (
        *("useradd", "usermod", "userdel", "groupadd", "groupmod", "groupdel", "chpasswd"),
        *("passwd", "chage", "gpasswd", "chfn", "chsh", "newusers", "groupmems", "chgpasswd"),
    )
)
#: Groups whose members can become root or read what root reads.
POWERFUL_GROUPS = frozenset(("root", "sudo", "adm", "shadow", "disk", "wheel", "docker", "kmem"))
#: Working copies the account tools keep beside the real file (``passwd-``, ``shadow.4711`` …).
BESIDE = re.compile(
    r"/etc/(passwd|shadow|group|gshadow|subuid|subgid)([-+]|\.(lock|[0-9]{1,10}))", re.ASCII
)
#: Files under /etc that the system writes in the course of its day.
DAILY = frozenset(
    (
        *("/etc/adjtime", "/etc/resolv.conf", "/etc/ld.so.cache", "/etc/mtab", "/etc/.pwd.lock"),
        *("/etc/machine-id", "/etc/.updated"),
    )
)

#: Folders in which anybody, or a person without further rights, can put a program.
ODD_PLACES = (
    *("/tmp/", "/var/tmp/", "/dev/shm/", "/dev/mqueue/"),  # noqa: S108 - watched, not used
    *("/run/user/", "/run/lock/", "/home/", "/root/"),
)

#: Units whose stop is an event of its own.
GUARD_UNITS = frozenset(
    (
        "auditd",
        "audit-rules",
        "sekisho-nftables",
        "sekisho-probe.socket",
        "chrony",
        "ssh",
        "systemd-journald",
        "systemd-udevd",
        "apparmor",
        "strongswan",
    )
)
AGENT_UNIT = "sekisho-agent"

#: Programs whose own changes are a package's installation.
INSTALLERS = frozenset(
    (
        "/usr/bin/dpkg",
        "/usr/bin/dpkg-deb",
        "/usr/bin/dpkg-divert",
        "/usr/bin/dpkg-statoverride",
        "/usr/bin/apt",
        "/usr/bin/apt-get",
        "/usr/bin/unattended-upgrade",
        "/usr/bin/unattended-upgrades",
    )
)
#: What PAM and systemd run as root while a person is being let in.
LOGIN_HELPERS = frozenset(
    (
        *("/usr/bin/env", "/usr/bin/run-parts", "/usr/sbin/unix_chkpwd"),
        *("/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-executor"),
    )
)
#: Programs that keep the clock (their small corrections are their work).
CLOCK_KEEPERS = frozenset(("/usr/sbin/chronyd", "/usr/lib/systemd/systemd-timesyncd"))
#: Who writes the records of activity in the course of duty.
KEEPERS = frozenset(("/usr/sbin/auditd",))


def _slug_of(path: str) -> str | None:
    slug = _EXACT.get(path)
    if slug is not None:
        return slug
    for folder, name in _FOLDERS:
        if path.startswith(folder) or path == folder[:-1]:
            return name
    if "/.ssh/" in path:
        return "key-changed"
    if path.endswith(".timer") and path.startswith(("/etc/", "/usr/lib/", "/run/")):
        return "schedule-changed"
    if path.startswith("/etc/") and path not in DAILY and not BESIDE.fullmatch(path):
        return "setting-changed"
    return None


def watched(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return slug and path of the first watched path, or None."""
    for path in paths:
        slug = _slug_of(path)
        if slug == "unit-changed" and path.endswith(".timer"):
            return "schedule-changed", path
        if slug is not None:
            return slug, path
    return None
