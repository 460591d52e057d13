"""Account facts: who exists, who can log in until when, with which keys and which rights.

No password hash ever leaves the host: `/etc/shadow` is reduced there by ``passwd -S`` (status) and
``cut`` (dates). Sources: passwd(5), shadow(5), group(5), passwd(1), sshd(8) AUTHORIZED_KEYS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sekisho.core.text import is_number, lines_of
from sekisho.probes.account_names import impersonal
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output, text_of

#: Debian's ranges (login.defs(5), systemd's DynamicUser= 61184-65519).
FIRST_PERSON, LAST_PERSON = 1000, 59999
DYNAMIC = range(61184, 65520)
#: By their whole path: a program of one's own may have any name.
NO_LOGIN = frozenset(
    f"{merged}/{place}"
    for merged in ("", "/usr")
    for place in ("bin/false", "bin/sync", "sbin/nologin", "sbin/shutdown", "sbin/halt")
)
KEY_FOLDER = "/etc/ssh/authorized_keys.d/"
#: Membership gives root, or data past the file permissions.
PRIVILEGED = (
    *("root", "adm", "disk", "docker", "incus-admin", "kmem", "kvm", "libvirt", "lxd"),
    *("sekisho-admin", "shadow", "staff", "sudo", "systemd-journal", "tty", "wheel"),
)
KEY_TYPES = (
    *("ssh-ed25519", "ssh-rsa", "ssh-dss"),
    *("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"),
)
MIN_RSA_BITS = 3072
_DENIED = "Permission denied"  # the collector's rights are in the way, not the file
_PASSWD_FIELDS, _GROUP_FIELDS, _SHADOW_FIELDS = 7, 4, 7
_DAY_ZERO = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class Account:
    """One line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str
    second: str = "x"  # passwd(5): x means shadow, empty none; a hash is kept as "here"

    @property
    def may_log_in(self) -> bool:
        """Return whether the shell is one (an empty field means /bin/sh)."""
        return self.shell not in NO_LOGIN

    @property
    def person(self) -> bool:
        """Return whether this is a person's account: the uid range and a login shell."""
        return FIRST_PERSON <= self.uid <= LAST_PERSON and self.may_log_in


def read_passwd(text: str) -> tuple[Account, ...]:
    """Return every account of passwd(5); `ProbeError` for a line that is not one."""
    found = []
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        parts = line.split(":")
        if len(parts) != _PASSWD_FIELDS or not (is_number(parts[2]) and is_number(parts[3])):
            raise ProbeError(f"/etc/passwd:{number}: not an account: {line[:80]!r}")
        # The hash of an account outside shadow goes no further than this.
        field = parts[1] if parts[1] in ("x", "", "*", "!") else "here"
        found.append(Account(parts[0], int(parts[2]), int(parts[3]), parts[5], parts[6], field))
    if not found:
        raise ProbeError("/etc/passwd: empty")
    return tuple(found)


def read_groups(text: str, accounts: Iterable[Account]) -> dict[str, list[str]]:
    """Return members by group, primary groups included."""
    found: dict[str, set[str]] = {}
    names: dict[int, str] = {}
    same: dict[int, set[str]] = {}
    for number, line in enumerate(lines_of(text), 1):
        if not line.strip():
            continue
        parts = line.split(":")
        if len(parts) != _GROUP_FIELDS or not is_number(parts[2]):
            raise ProbeError(f"/etc/group:{number}: not a group: {line[:80]!r}")
        names[int(parts[2])] = parts[0]
        found.setdefault(parts[0], set()).update(name for name in parts[3].split(",") if name)
        same.setdefault(int(parts[2]), set()).add(parts[0])
    for account in accounts:
        if account.gid in names and names[account.gid] != account.name:
            found[names[account.gid]].add(account.name)
    for group in same.values():  # two names of one number are one group to the kernel
        together = {member for name in group for member in found[name]}
        found |= {name: set(together) for name in group}
    return {group: sorted(members) for group, members in sorted(found.items())}


def read_expiry(text: str) -> dict[str, str]:
    """Return the day each account stops working (YYYY-MM-DD, or ``never``), from reduced shadow.

    The lines are ``name:changed:min:max:warn:inactive:expire`` (field 2, the hash, is cut off).
    """
    found = {}
    for line in lines_of(text):
        parts = line.split(":")
        if len(parts) != _SHADOW_FIELDS:
            raise ProbeError(f"shadow: {len(parts)} fields where {_SHADOW_FIELDS} were expected")
        found[parts[0]] = _day(parts[6]) if parts[6] else "never"
    return found


def _day(days: str) -> str:
    if not is_number(days.lstrip("-")):
        raise ProbeError(f"shadow: {days!r} is not a day")
    if int(days) < 0:
        return "never"
    try:
        return (_DAY_ZERO + timedelta(days=int(days))).isoformat()
    except OverflowError:
        return "never"


def read_status(text: str) -> dict[str, str]:
    """Return each account's password status: ``L`` locked, ``P`` usable, ``NP`` none needed."""
    found = {}
    for line in lines_of(text):
        parts = line.split()
        if len(parts) < 2 or parts[1] not in ("L", "LK", "P", "PS", "NP"):
            raise ProbeError(f"passwd -S: not a status: {line[:80]!r}")
        found[parts[0]] = {"LK": "L", "PS": "P"}.get(parts[1], parts[1])
    if not found:
        raise ProbeError("passwd -S: no account")
    return found


@dataclass(frozen=True, slots=True)
class Key:
    """One authorised public key: where it stands, whose it is, and whether it is weak."""

    account: str
    path: str
    fingerprint: str
    options: str
    weak: bool


def fingerprint(blob: bytes) -> str:
    """Return the fingerprint as ``ssh-keygen -l`` prints it: ``SHA256:`` and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def rsa_bits(blob: bytes) -> int:
    """Return the length of an RSA key's modulus in bits; 0 when the blob is cut short."""
    fields, rest = [], blob
    while len(rest) >= 4:
        length = int.from_bytes(rest[:4], "big")
        fields.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    return int.from_bytes(fields[2], "big").bit_length() if len(fields) > 2 else 0


def read_keys(path: str, account: str, text: str) -> list[Key]:
    """Return every key of one authorized_keys file.

    A line that sshd would not take as a key is kept with its digest as ``unreadable:…``: it must
    not disappear from the comparison with the policy.
    """
    found = []
    for line in lines_of(text):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        words = entry.split()
        start = next((i for i, word in enumerate(words) if word in KEY_TYPES), len(words))
        try:
            blob = base64.b64decode(words[start + 1], validate=True)
        except (ValueError, IndexError, binascii.Error):
            mark = hashlib.sha256(entry.encode("utf-8", "surrogatepass")).hexdigest()[:16]
            found.append(Key(account, path, f"unreadable:{mark}", "", weak=True))
            continue
        kind = words[start]
        weak = kind == "ssh-dss" or (kind == "ssh-rsa" and rsa_bits(blob) < MIN_RSA_BITS)
        found.append(Key(account, path, fingerprint(blob), " ".join(words[:start]), weak))
    return found


def _owner(path: str, homes: Mapping[str, list[str]]) -> str:
    if path.startswith(KEY_FOLDER):
        return path.removeprefix(KEY_FOLDER)
    home = path.partition("/.ssh/")[0]
    return "+".join(sorted(homes.get(home, ()))) or f"nobody:{home}"


def _all_keys(found: Mapping[str, FileOutcome], accounts: Iterable[Account]) -> list[Key]:
    keys: list[Key] = []
    homes: dict[str, list[str]] = {}
    for account in accounts:
        homes.setdefault(account.home.rstrip("/"), []).append(account.name)
    for path, entry in sorted(found.items()):
        if entry.kind == "dir":
            continue
        if entry.text is None and (path.startswith(KEY_FOLDER) or entry.error == _DENIED):
            raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
        text = f"unreadable {path}" if entry.text is None else entry.text  # a finding, as no key
        keys += read_keys(path, _owner(path, homes), text)
    return keys


def _usable(accounts: Iterable[Account], status: Mapping[str, str], keys: list[Key]) -> list[str]:
    """Return whoever can get in besides root: by a shell, a password (or none needed), or a key."""
    keyed = {key.account for key in keys}
    return sorted(
        {
            account.name
            for account in accounts
            if account.name != "root"
            and (
                account.may_log_in
                or status.get(account.name) in ("P", "NP")
                or account.second in ("", "here")
            )
        }
        | {account.name for account in accounts if account.name != "root" and account.name in keyed}
    )


def _several(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return ``key: a b`` for every key that more than one name holds."""
    held: dict[str, set[str]] = {}
    for key, name in pairs:
        held.setdefault(key, set()).add(name)
    return sorted(f"{key}: {' '.join(sorted(n))}" for key, n in held.items() if len(n) > 1)


def _login_defs(text: str) -> dict[str, str]:
    pairs = (line.split(None, 1) for line in lines_of(text) if line.strip()[:1] not in ("", "#"))
    return {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}


def _loose_homes(found: Mapping[str, FileOutcome], accounts: Iterable[Account]) -> list[str]:
    """Return the homes others can enter; of a person's elsewhere, that nobody looked at it.

    0700 also silences every entry of an access control list, which a mode does not show.
    """
    people = {account.home.rstrip("/"): account for account in accounts if account.person}
    loose = [
        f"{home or '/'} of {account.name}: not in /home"
        for home, account in people.items()
        if not re.fullmatch(r"/home/[^/]+", home)
    ]
    for path, entry in found.items():
        account = people.get(path)
        if entry.kind == "link" and account is not None:
            loose.append(f"{path} is a link")
        if entry.kind != "dir" or (account is None and path != "/root"):
            continue
        uid = 0 if account is None else account.uid
        if entry.uid != uid or entry.mode & 0o077:
            loose.append(f"{path} {entry.mode:04o} owner {entry.uid}")
    return sorted(loose)


def _accounts(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    accounts = read_passwd(text_of(found, "/etc/passwd"))
    groups = read_groups(text_of(found, "/etc/group"), accounts)
    expiry = read_expiry(output(raw, "shadow"))
    status = read_status(output(raw, "status"))
    today = output(raw, "today").strip()
    if len(today) != 10 or not is_number(today.replace("-", "")):
        raise ProbeError(f"date: {today!r} is not a day")
    keys = _all_keys(files(raw, "keys"), accounts)
    people = [account for account in accounts if account.person]
    usable = _usable(accounts, status, keys)
    folder = {p: e for p, e in files(raw, "keys").items() if p.startswith(KEY_FOLDER)}
    uids = {account.uid for account in accounts}
    # A person's account that the playbook shut keeps its groups; it leads nowhere any more.
    shut = {a.name for a in accounts if not a.may_log_in and (a.uid == 0 or a.uid >= FIRST_PERSON)}
    running = {int(word) for word in output(raw, "processes").split() if is_number(word)}
    if not running:
        raise ProbeError("ps: no process")
    return {
        "today": int(today.replace("-", "")),
        "people": sorted(account.name for account in people),
        "people_uids": sorted(f"{account.name} {account.uid}" for account in people),
        "can_log_in": sorted(
            account.name
            for account in people
            if expiry.get(account.name, "never") == "never" or expiry[account.name] > today
        ),
        "expiry": sorted(f"{a.name} {expiry.get(a.name, 'never')}" for a in people),
        "superusers": sorted(a.name for a in accounts if a.uid == 0 and a.may_log_in),
        "system_with_shell": sorted(
            a.name for a in accounts if a.may_log_in and not a.person and a.uid != 0
        ),
        "shared_uids": _several(
            (str(a.uid), a.name) for a in accounts if a.may_log_in or a.name in usable
        ),
        "repeated_names": sorted(n for n, k in Counter(a.name for a in accounts).items() if k > 1),
        "shared_homes": _several((a.home, a.name) for a in people),
        "usable": usable,
        "impersonal": [name for name in usable if impersonal(name)],
        "not_in_shadow": sorted(
            a.name for a in accounts if a.name not in expiry or a.second in ("", "here")
        ),
        "with_password": sorted(
            {name for name, state in status.items() if state == "P"}
            | {a.name for a in accounts if a.second == "here"}
        ),
        "needs_no_password": sorted(
            {name for name, state in status.items() if state == "NP"}
            | {a.name for a in accounts if not a.second}
        ),
        # A field in passwd itself counts before shadow's.
        "root_password": {"here": "P", "": "NP"}.get(
            next((a.second for a in accounts if a.name == "root"), "x"),
            status.get("root", "unknown"),
        ),
        "keys": sorted({f"{key.account} {key.fingerprint}" for key in keys}),
        "weak_keys": sorted({f"{k.account} {k.fingerprint}" for k in keys if k.weak}),
        "shared_keys": _several((key.fingerprint, key.account) for key in keys),
        "unrestricted": sorted(
            {
                key.account
                for key in keys
                if key.path.startswith(KEY_FOLDER) and "restrict" not in key.options.split(",")
            }
        ),
        "loose_key_files": sorted(
            path for path, entry in folder.items() if entry.uid != 0 or entry.mode & 0o022
        ),
        "groups": groups,
        "privileged": sorted(
            f"{group} {name}"
            for group in PRIVILEGED
            for name in groups.get(group, ())
            if name != "root" and name not in shut
        ),
        "unknown_users_running": sorted(
            str(uid) for uid in running if uid not in uids and uid not in DYNAMIC
        ),
        "loose_homes": _loose_homes(files(raw, "homes"), accounts),
        "login_defs": _login_defs(text_of(found, "/etc/login.defs")),
    }


PROBES = (
    Probe(
        name="accounts",
        operations={
            "files": Read(("/etc/passwd", "/etc/group", "/etc/login.defs")),
            "shadow": Run(("cut", "-s", "-d:", "-f1,3-8", "/etc/shadow")),
            "status": Run(("passwd", "-S", "-a")),
            "today": Run(("date", "-u", "+%Y-%m-%d")),
            "processes": Run(("ps", "-eo", "uid=")),
            "keys": Read(
                (
                    "/etc/ssh/authorized_keys.d/*",
                    "/root/.ssh/authorized_keys",
                    "/root/.ssh/authorized_keys2",
                    "/home/*/.ssh/authorized_keys",
                    "/home/*/.ssh/authorized_keys2",
                    "/var/lib/*/.ssh/authorized_keys",
                    "/var/lib/*/.ssh/authorized_keys2",
                )
            ),
            "homes": Read(("/root", "/home/*"), content=False),
        },
        parse=_accounts,
    ),
)
