#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a host's accounts those of its policy, in one module run: with check mode and diff."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import errno
import grp
import pwd
import re
import signal
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sekisho_text import is_number, lines_of, told

DOCUMENTATION = r"""
module: sekisho_accounts
short_description: Accounts, groups, keys and expiry of a host, from its policy
description:
  - Makes every account of the policy, with its uid, group, expiry and keys. Keys stand in
    C(/etc/ssh/authorized_keys.d), owned by root.
  - An account of a person that the policy does not name is locked, expired and given no shell;
    nothing is ever deleted. A uid is never changed.
  - Never returns or shows a password hash.
options:
  accounts:
    description: C(accounts) of the host's policy, by name.
    type: dict
    required: true
  expiry:
    description: C(derived.accounts.expiry) of the policy, as "name YYYY-MM-DD".
    type: list
    elements: str
    required: true
  console_passwords:
    description: Hashes of administrators' console passwords, by name. Others keep what they have.
    type: dict
    default: {}
  auditor_command:
    description: The program an auditor's key runs.
    type: path
    default: /usr/lib/sekisho/auditor-shell
"""

KEY_FOLDER = "/etc/ssh/authorized_keys.d"
GROUP = {
    "administrator": "sekisho-admin",
    "operator": "sekisho-operator",
    "officer": "sekisho-officer",
    "auditor": "sekisho-auditor",
}
FIRST_PERSON, LAST_PERSON = 1000, 59999
# By their whole path: a program of one's own may have any name.
NO_LOGIN = tuple(
    folder + name
    for folder, names in (
        ("/bin/", ("false", "sync")),
        ("/sbin/", ("nologin", "shutdown", "halt")),
    )
    for name in names
)
NO_SHELL = "/usr/sbin/nologin"
_HASH = re.compile(r"[!-9;-~]{1,400}", re.ASCII)  # crypt(5): no colon, no blank
DAY_ZERO = dt.date(1970, 1, 1)
KEY_FILES = ("authorized_keys", "authorized_keys2")
LONGEST_KEYS = 1024 * 1024


@dataclass(frozen=True)
class Person:
    """An account of the policy."""

    name: str
    role: str
    uid: int
    expires: str
    password: str | None

    @property
    def group(self) -> str:
        """Return the group that carries the role."""
        return GROUP[self.role]


Accounts = Mapping[str, Mapping[str, Any]]
#: Name → password field, day of expiry.
Shadow = Mapping[str, tuple[str, str]]


def _shadow() -> Shadow:
    """Return password field and expiry (days, text) by name."""
    text = handles.text_of("/etc/shadow")
    lines = [line.split(":") for line in lines_of(text) if line.strip()]
    return {line[0]: (line[1], line[7] if len(line) > 7 else "") for line in lines}


def _locked(field: str) -> bool:
    return field.startswith(("!", "*"))


def _may_log_in(entry: pwd.struct_passwd) -> bool:
    return entry.pw_shell.removeprefix("/usr") not in NO_LOGIN


class Run:
    """One module run: what changes, and how to do it unless in check mode."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.before: list[str] = []
        self.after: list[str] = []
        self.left: list[str] = []

    def note(self, what: str, before: str, after: str) -> None:
        """Record one difference as a line of the diff."""
        self.before.append(f"{what}: {before}")
        self.after.append(f"{what}: {after}")

    def do(self, *argv: str, data: str | None = None) -> None:
        """Run a command; any failure ends the module."""
        if self.module.check_mode:
            return
        code, out, err = self.module.run_command(list(argv), data=data)
        if code != 0:
            self.module.fail_json(msg=f"{argv[0]}: {(err or out).strip()}")

    def groups(self) -> None:
        """Make the four groups that carry the roles."""
        for name in sorted(GROUP.values()):
            try:
                grp.getgrnam(name)
            except KeyError:
                self.note("group " + name, "absent", "present")
                self.do("groupadd", "--system", name)

    def account(self, person: Person, shadow: Shadow) -> None:
        """Make one person's account as the policy has it."""
        try:
            entry = pwd.getpwnam(person.name)
        except KeyError:
            self.make(person)
        else:
            if entry.pw_uid != person.uid:
                self.module.fail_json(
                    msg=f"{person.name} has uid {entry.pw_uid}, the policy says {person.uid}: "
                    "files would change owner; settle it by hand"
                )
            held, expiry = shadow.get(person.name, ("!", ""))
            self.change(person, entry, expiry)
            self.password(person, held)
        self.home(person.name, person.uid)

    def make(self, person: Person) -> None:
        """Make an account that is not there."""
        said = f"uid {person.uid}, {person.group}, until {person.expires}"
        self.note(f"account {person.name}", "absent", said)
        self.do(
            *("useradd", "--create-home", "--user-group", "--shell", "/bin/bash"),
            *("--uid", str(person.uid), "--groups", person.group),
            *("--expiredate", person.expires, "--comment", person.role, person.name),
        )
        if person.password:
            self.do("chpasswd", "--encrypted", data=f"{person.name}:{person.password}\n")

    def change(self, person: Person, entry: pwd.struct_passwd, expiry: str) -> None:
        """Set what of an account differs: expiry, shell, groups."""
        name, change = person.name, []
        day = str((dt.date.fromisoformat(person.expires) - DAY_ZERO).days)
        if expiry != day:
            self.note(f"account {name} expires", expiry or "never", f"{day} ({person.expires})")
            change += ["--expiredate", person.expires]
        if not _may_log_in(entry):
            self.note(f"account {name} shell", entry.pw_shell, "/bin/bash")
            change += ["--shell", "/bin/bash"]
        groups = sorted(g.gr_name for g in grp.getgrall() if name in g.gr_mem)
        if groups != [person.group]:
            self.note(f"account {name} groups", " ".join(groups), person.group)
            change += ["--groups", person.group]
        if change:
            self.do("usermod", *change, name)

    def password(self, person: Person, held: str) -> None:
        """Give an administrator the console password of the site; lock everybody else's."""
        if person.role != "administrator":
            self.lock(person.name, held)
        elif person.password and held != person.password:
            self.note(f"console password of {person.name}", "another", "as the site gives it")
            self.do("chpasswd", "--encrypted", data=f"{person.name}:{person.password}\n")
        elif not held:
            self.lock(person.name, held)

    def lock(self, name: str, held: str) -> None:
        """Lock a password that works, or that is empty."""
        if not _locked(held):
            self.note(f"password of {name}", "usable", "locked")
            # An empty field: `usermod -L` alone would leave "!", which is what is wanted.
            self.do("usermod", "--lock", name)

    def home(self, name: str, uid: int) -> None:
        """Close a home to everybody else."""
        home = "/home/" + name
        try:
            with safe.pinned(home) as found:
                mode = stat.S_IMODE(found.info.st_mode)
                if stat.S_ISDIR(found.info.st_mode) and (mode & 0o077 or found.info.st_uid != uid):
                    self.note(home, f"{mode:04o} {found.info.st_uid}", f"0700 {uid}")
                    if not self.module.check_mode:
                        found.set_mode(0o700)
                        found.set_owner(uid, -1)
        except FileNotFoundError:
            return
        except OSError as bad:
            self.left.append(f"{home} is left as it is: {bad.strerror}")

    def others(self, accounts: Accounts, shadow: Shadow) -> None:
        """Shut every account that can log in and is nobody's of the policy."""
        for entry in sorted(pwd.getpwall()):
            if entry.pw_name not in accounts and entry.pw_name != "root":
                self.other(entry, *shadow.get(entry.pw_name, ("!", "")))
        for group in ("sudo", "adm", "disk", "shadow", "staff", "sekisho-admin"):
            self.members(group, accounts)
        self.lock("root", shadow.get("root", ("!", ""))[0])
        absent = sorted(entry.pw_name for entry in pwd.getpwall() if entry.pw_name not in shadow)
        if absent:
            self.note("/etc/shadow", "without " + " ".join(absent), "with them")
            self.do("pwconv")
            for name in absent:
                self.do("usermod", "--lock", name)

    def other(self, entry: pwd.struct_passwd, held: str, expiry: str) -> None:
        """Shut one account that is nobody's of the policy: a person's, or a service's."""
        name = entry.pw_name
        if entry.pw_uid == 0 or FIRST_PERSON <= entry.pw_uid <= LAST_PERSON:
            if not _may_log_in(entry) and _locked(held) and expiry == "1":
                return
            self.note(f"account {name}", "open, in no policy", "locked, expired, no shell")
            self.do("usermod", "-L", "-e", "1970-01-02", "-s", NO_SHELL, name)
            # Sessions and left-over processes end with the account; by uid, unless shared.
            alone = [one.pw_uid for one in pwd.getpwall()].count(entry.pw_uid) == 1
            if alone and not self.module.check_mode:
                self.module.run_command(["loginctl", "kill-user", name])
            return
        if _may_log_in(entry):
            self.note(f"account {name} shell", entry.pw_shell, NO_SHELL)
            self.do("usermod", "-s", NO_SHELL, name)
        self.lock(name, held)

    def secrets(self) -> None:
        """Close the files that hold secrets."""
        shadow = grp.getgrnam("shadow").gr_gid
        wanted = [("/etc/" + name, 0o640, shadow) for name in ("shadow", "gshadow")]
        wanted += [("/etc/" + name, 0o640, shadow) for name in ("shadow-", "gshadow-")]
        wanted += [("/etc/security/opasswd", 0o600, 0)]
        wanted += [(path, 0o600, 0) for path in handles.matching("/etc/ssh/ssh_host_*_key")]
        for path, mode, group in wanted:
            try:
                with safe.pinned(path) as found:
                    info, held = found.info, stat.S_IMODE(found.info.st_mode)
                    if not stat.S_ISREG(info.st_mode):
                        self.left.append(f"{path} is {safe.kind_of(info)}, not a file")
                    elif held & ~mode or info.st_uid != 0 or info.st_gid not in (0, group):
                        was = f"{held:04o} {info.st_uid}:{info.st_gid}"
                        self.note(path, was, f"{mode:04o}")
                        if not self.module.check_mode:
                            found.set_owner(0, group)
                            found.set_mode(mode)
            except FileNotFoundError:
                continue

    def strangers(self) -> None:
        """End processes of a user id that no account has (systemd's passing ones excepted)."""
        known = {entry.pw_uid for entry in pwd.getpwall()} | set(range(61184, 65520))
        for process in handles.processes():
            if process.uid not in known:
                what = f"process {process.name} of uid {process.uid}"
                self.note(what, "running", "ended")
                if not self.module.check_mode:
                    with contextlib.suppress(ProcessLookupError):
                        process.signal(signal.SIGKILL)
            process.close()

    def members(self, group: str, accounts: Accounts) -> None:
        """Take everybody out of a privileged group who is not meant to be in it."""
        try:
            members = list(grp.getgrnam(group).gr_mem)
        except KeyError:
            return
        for name in members:
            role = accounts.get(name, {}).get("role")
            if role is None or GROUP[role] != group:
                known = name in [entry.pw_name for entry in pwd.getpwall()]
                if role is not None and known:
                    continue  # set as a whole in account()
                self.note("group " + group, name, "")
                self.do("gpasswd", "-d", name, group)

    def write(self, folder: safe.Folder | None, name: str, text: str) -> None:
        """Write one root-owned file atomically, unless it is so already."""
        wanted = text.encode("utf-8", "surrogateescape")
        info = folder.stat(name) if folder is not None else None
        if folder is not None and info is not None and stat.S_ISREG(info.st_mode):
            asked = (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_size)
            if asked == (0, 0, 0o644, len(wanted)) and folder.read(name, len(wanted)) == wanted:
                return
        self.note(f"{KEY_FOLDER}/{name}", "other", text.strip())
        if folder is not None and not self.module.check_mode:
            folder.write(name, wanted, 0o644, (0, 0))

    def remove(self, folder: safe.Folder, name: str, path: str) -> None:
        """Remove what grants access beside the policy; a directory is left and told of."""
        info = folder.stat(name)
        if info is None:
            return
        if stat.S_ISDIR(info.st_mode):
            self.left.append(f"{path} is a directory: no keys, and left as it is")
            return
        self.note(path, f"present ({safe.kind_of(info)})", "absent")
        if not self.module.check_mode:
            folder.unlink(name)

    def keys(self, accounts: Accounts) -> None:
        """Write each account's keys; take every other key away."""
        try:
            folder = safe.Folder.open(KEY_FOLDER, make=None if self.module.check_mode else 0o755)
        except FileNotFoundError:
            folder = None  # in check mode only
        if folder is not None and not self.module.check_mode:
            folder.set_mode(0o755)
        for name, account in sorted(accounts.items()):
            options = "restrict,pty"
            if account["role"] == "auditor":
                options = 'restrict,command="{}"'.format(self.module.params["auditor_command"])
            lines = [f"{options} {key} {name}" for key in account["keys"]]
            self.write(folder, name, "\n".join(lines) + "\n")
        if folder is not None:
            for name in folder.names():
                if name not in accounts:
                    self.remove(folder, name, f"{KEY_FOLDER}/{name}")
            folder.close()
        for home in sorted(
            {entry.pw_dir for entry in pwd.getpwall()} | set(handles.matching("/home/*"))
        ):
            self.stray(home, accounts)

    def stray(self, home: str, accounts: Accounts) -> None:
        """Clean the key files in one home, wherever it is. Nothing there ends the run."""
        place = str(PurePosixPath(home, ".ssh"))
        try:
            with safe.Folder.open(home) as opened:
                info = opened.stat(".ssh")
                if info is None:
                    return
                if not stat.S_ISDIR(info.st_mode):  # whatever it leads to is not the person's
                    self.remove(opened, ".ssh", place)
                    return
                with opened.sub(".ssh") as folder:
                    for name in KEY_FILES:
                        if folder.stat(name) is not None:
                            self.clean_in(folder, name, home, accounts)
        except OSError as bad:
            # No home, a home that is a file, a mount that does not answer: told, and passed over.
            if bad.errno not in (errno.ENOENT, errno.ENOTDIR):
                self.left.append(f"{place} is left as it is: {bad.strerror}")

    def clean(self, path: str, accounts: Accounts) -> None:
        """Clean one key file by its path; see `clean_in`."""
        home = str(PurePosixPath(path).parent.parent)
        with safe.beside(path) as (folder, name):
            self.clean_in(folder, name, home, accounts)

    def clean_in(self, folder: safe.Folder, name: str, home: str, accounts: Accounts) -> None:
        """Keep only the owner's keys of the policy in a file sshd is told not to read."""
        path = str(PurePosixPath(home, ".ssh", name))
        own = accounts.get(PurePosixPath(home).name, {}).get("keys", [])
        held = {base64.b64decode(key.split()[1]) for key in own}
        with folder.pin(name) as found:
            info = found.info
            # A link, a FIFO, a file of several names or too long to be keys: not read, taken away.
            if not stat.S_ISREG(info.st_mode) or info.st_nlink > 1 or info.st_size > LONGEST_KEYS:
                self.remove(folder, name, path)
                return
            text = found.read(LONGEST_KEYS).decode("utf-8", "surrogateescape")
        lines = text.split("\n")
        entries = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        kept = [line for line in entries if self.blobs(line) and self.blobs(line) <= held]
        if kept and len(kept) != len(entries):
            self.note(path, f"{len(entries)} keys", f"{len(kept)} keys")
            if not self.module.check_mode:
                data = "".join(line + "\n" for line in kept).encode("utf-8", "surrogateescape")
                owner = (info.st_uid, info.st_gid)
                folder.write(name, data, stat.S_IMODE(info.st_mode) & 0o755, owner)
        if entries and not kept:
            self.remove(folder, name, path)

    @staticmethod
    def blobs(line: str) -> set[bytes | None]:
        """Return every key of a line: one in an option's quotes is not what sshd goes by."""
        found: set[bytes | None] = set()
        for word in line.replace('"', " ").split():
            if word.startswith("AAAA"):
                try:
                    found.add(base64.b64decode(word))
                except ValueError:
                    found.add(None)
        return found


def wanted(accounts: Accounts, expiry: Sequence[str], passwords: Mapping[str, str]) -> list[Person]:
    """Return the accounts to have, by name.

    Raises:
        ValueError: the policy's words are not what they must be, or would shut everybody out.

    """
    ends = {name: day for name, _, day in (entry.partition(" ") for entry in expiry)}
    persons = []
    for name, account in sorted(accounts.items()):
        role, keys, uid = account.get("role"), account.get("keys"), account.get("uid")
        number = int(str(uid)) if is_number(str(uid)) else -1
        if role not in GROUP:
            raise ValueError(f"account {name}: its role is {role!r}, not one of {sorted(GROUP)}")
        if not FIRST_PERSON <= number <= LAST_PERSON:
            raise ValueError(
                f"account {name}: its uid is {uid!r}, not from {FIRST_PERSON} to {LAST_PERSON}"
            )
        if not isinstance(keys, list) or not all(_is_key(key) for key in keys):
            raise ValueError(f"account {name}: its keys are not a list of SSH public keys")
        if role == "administrator" and not keys:
            raise ValueError(f"{name} has no key: the administrator would be shut out")
        try:
            dt.date.fromisoformat(ends.get(name, ""))
        except ValueError:
            said = ends.get(name, "missing")
            raise ValueError(f"account {name}: expiry is {said}, not YYYY-MM-DD") from None
        password = passwords.get(name)
        if password is not None and not _HASH.fullmatch(password):
            raise ValueError(f"account {name}: its console password is no hash of crypt(5)")
        persons.append(Person(name, role, number, ends[name], password))
    if not any(person.role == "administrator" for person in persons):
        raise ValueError("the policy has no administrator: everybody would be shut out")
    return persons


def _is_key(key: object) -> bool:
    words = key.split(" ") if isinstance(key, str) and key.isprintable() else []
    try:
        return len(words) > 1 and bool(base64.b64decode(words[1], validate=True))
    except ValueError:
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "accounts": {"type": "dict", "required": True},
            "expiry": {"type": "list", "elements": "str", "required": True},
            "console_passwords": {"type": "dict", "default": {}, "no_log": True},
            "auditor_command": {"type": "path", "default": "/usr/lib/sekisho/auditor-shell"},
        },
        supports_check_mode=True,
    )
    accounts = module.params["accounts"]
    try:
        persons = wanted(accounts, module.params["expiry"], module.params["console_passwords"])
    except ValueError as bad:
        module.fail_json(msg=str(bad))
    run = Run(module)
    shadow = _shadow()
    run.groups()
    for person in persons:
        run.account(person, shadow)
    run.keys(accounts)
    run.others(accounts, shadow)
    run.secrets()
    run.strangers()
    for line in told(run.left, 20):
        module.warn(line)
    before, after = (
        "\n".join(told("\n".join(side).split("\n"))) for side in (run.before, run.after)
    )
    module.exit_json(
        changed=bool(run.after),
        diff={"before": before + "\n", "after": after + "\n"},
    )


if __name__ == "__main__":
    main()
