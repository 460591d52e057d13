#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a host's accounts those of its policy, in one module run: with check mode and diff."""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import glob
import grp
import os
import pwd
import signal
import stat

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.sekisho_text import told

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
DAY_ZERO = datetime.date(1970, 1, 1)
KEY_FILES = ("authorized_keys", "authorized_keys2")
LONGEST_KEYS = 1024 * 1024


def _shadow():
    """Return password field and expiry (days, text) by name."""
    with open("/etc/shadow", encoding="utf-8", errors="surrogateescape") as handle:
        lines = [line.rstrip("\n").split(":") for line in handle if line.strip()]
    return {line[0]: (line[1], line[7] if len(line) > 7 else "") for line in lines}


def _locked(field):
    return field.startswith(("!", "*"))


def _may_log_in(entry):
    return entry.pw_shell.removeprefix("/usr") not in NO_LOGIN


class Run:
    """One module run: what changes, and how to do it unless in check mode."""

    def __init__(self, module):
        self.module = module
        self.before = []
        self.after = []
        self.left = []

    def note(self, what, before, after):
        """Record one difference as a line of the diff."""
        self.before.append("%s: %s" % (what, before))
        self.after.append("%s: %s" % (what, after))

    def do(self, *argv, data=None):
        """Run a command; any failure ends the module."""
        if self.module.check_mode:
            return
        code, out, err = self.module.run_command(list(argv), data=data)
        if code != 0:
            self.module.fail_json(msg="%s: %s" % (argv[0], (err or out).strip()))

    def groups(self):
        """Make the four groups that carry the roles."""
        for name in sorted(GROUP.values()):
            try:
                grp.getgrnam(name)
            except KeyError:
                self.note("group " + name, "absent", "present")
                self.do("groupadd", "--system", name)

    def account(self, name, wanted, expires, password, shadow):
        """Make one person's account as the policy has it."""
        group, uid = GROUP[wanted["role"]], int(wanted["uid"])
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            self.note("account " + name, "absent", "uid %d, %s, until %s" % (uid, group, expires))
            self.do(
                *("useradd", "--create-home", "--user-group", "--shell", "/bin/bash"),
                *("--uid", str(uid), "--groups", group, "--expiredate", expires),
                *("--comment", wanted["role"], name),
            )
            if password:
                self.do("chpasswd", "--encrypted", data="%s:%s\n" % (name, password))
            self.home(name, uid)
            return
        if entry.pw_uid != uid:
            self.module.fail_json(
                msg="%s has uid %d, the policy says %d: files would change owner; settle it by hand"
                % (name, entry.pw_uid, uid)
            )
        change = []
        held, expiry = shadow.get(name, ("!", ""))
        day = str((datetime.date.fromisoformat(expires) - DAY_ZERO).days)
        if expiry != day:
            self.note("account %s expires" % name, expiry or "never", "%s (%s)" % (day, expires))
            change += ["--expiredate", expires]
        if not _may_log_in(entry):
            self.note("account %s shell" % name, entry.pw_shell, "/bin/bash")
            change += ["--shell", "/bin/bash"]
        groups = sorted(g.gr_name for g in grp.getgrall() if name in g.gr_mem)
        if groups != [group]:
            self.note("account %s groups" % name, " ".join(groups), group)
            change += ["--groups", group]
        if change:
            self.do("usermod", *change, name)
        if wanted["role"] != "administrator":
            self.lock(name, held)
        elif password and held != password:
            self.note("console password of " + name, "another", "as the site gives it")
            self.do("chpasswd", "--encrypted", data="%s:%s\n" % (name, password))
        elif held == "":
            self.lock(name, held)
        self.home(name, uid)

    def lock(self, name, held):
        """Lock a password that works, or that is empty."""
        if not _locked(held):
            self.note("password of " + name, "usable", "locked")
            # An empty field: `usermod -L` alone would leave "!", which is what is wanted.
            self.do("usermod", "--lock", name)

    def home(self, name, uid):
        """Close a home to everybody else."""
        home = "/home/" + name
        try:
            with safe.pinned(home) as found:
                mode = stat.S_IMODE(found.info.st_mode)
                if stat.S_ISDIR(found.info.st_mode) and (mode & 0o077 or found.info.st_uid != uid):
                    self.note(home, "%04o %d" % (mode, found.info.st_uid), "0700 %d" % uid)
                    if not self.module.check_mode:
                        found.set_mode(0o700)
                        found.set_owner(uid, -1)
        except FileNotFoundError:
            return
        except OSError as bad:
            self.left.append("%s is left as it is: %s" % (home, bad.strerror))

    def others(self, accounts, shadow):
        """Shut every account that can log in and is nobody's of the policy."""
        for entry in sorted(pwd.getpwall()):
            name = entry.pw_name
            if name in accounts or name == "root":
                continue
            person = entry.pw_uid == 0 or FIRST_PERSON <= entry.pw_uid <= LAST_PERSON
            held, expiry = shadow.get(name, ("!", ""))
            if person:
                if not _may_log_in(entry) and _locked(held) and expiry == "1":
                    continue
                self.note("account " + name, "open, in no policy", "locked, expired, no shell")
                self.do("usermod", "-L", "-e", "1970-01-02", "-s", NO_SHELL, name)
                if not self.module.check_mode:
                    # Sessions and left-over processes end with the account; by uid, unless shared.
                    if [other.pw_uid for other in pwd.getpwall()].count(entry.pw_uid) == 1:
                        self.module.run_command(["loginctl", "kill-user", name])
                continue
            if _may_log_in(entry):
                self.note("account %s shell" % name, entry.pw_shell, NO_SHELL)
                self.do("usermod", "-s", NO_SHELL, name)
            self.lock(name, held)
        for group in ("sudo", "adm", "disk", "shadow", "staff", "sekisho-admin"):
            self.members(group, accounts)
        self.lock("root", shadow.get("root", ("!", ""))[0])
        absent = sorted(entry.pw_name for entry in pwd.getpwall() if entry.pw_name not in shadow)
        if absent:
            self.note("/etc/shadow", "without " + " ".join(absent), "with them")
            self.do("pwconv")
            for name in absent:
                self.do("usermod", "--lock", name)

    def secrets(self):
        """Close the files that hold secrets."""
        shadow = grp.getgrnam("shadow").gr_gid
        wanted = [("/etc/" + name, 0o640, shadow) for name in ("shadow", "gshadow")]
        wanted += [("/etc/" + name, 0o640, shadow) for name in ("shadow-", "gshadow-")]
        wanted += [("/etc/security/opasswd", 0o600, 0)]
        wanted += [(path, 0o600, 0) for path in sorted(glob.glob("/etc/ssh/ssh_host_*_key"))]
        for path, mode, group in wanted:
            try:
                with safe.pinned(path) as found:
                    info, held = found.info, stat.S_IMODE(found.info.st_mode)
                    if not stat.S_ISREG(info.st_mode):
                        self.left.append("%s is %s, not a file" % (path, safe.kind_of(info)))
                    elif held & ~mode or info.st_uid != 0 or info.st_gid not in (0, group):
                        self.note(path, "%04o %d:%d" % (held, info.st_uid, info.st_gid), "%04o" % mode)
                        if not self.module.check_mode:
                            found.set_owner(0, group)
                            found.set_mode(mode)
            except FileNotFoundError:
                continue

    def strangers(self):
        """End processes of a user id that no account has (systemd's passing ones excepted)."""
        known = {entry.pw_uid for entry in pwd.getpwall()} | set(range(61184, 65520))
        for process in handles.processes():
            if process.uid not in known:
                what = "process %s of uid %d" % (process.name, process.uid)
                self.note(what, "running", "ended")
                if not self.module.check_mode:
                    with contextlib.suppress(ProcessLookupError):
                        process.signal(signal.SIGKILL)
            process.close()

    def members(self, group, accounts):
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

    def write(self, folder, name, text):
        """Write one root-owned file atomically, unless it is so already."""
        path = os.path.join(KEY_FOLDER, name)
        wanted = text.encode("utf-8", "surrogateescape")
        info = folder and folder.stat(name)
        if info is not None and stat.S_ISREG(info.st_mode):
            asked = (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode), info.st_size)
            if asked == (0, 0, 0o644, len(wanted)) and folder.read(name, len(wanted)) == wanted:
                return
        self.note(path, "other", text.strip())
        if not self.module.check_mode:
            folder.write(name, wanted, 0o644, (0, 0))

    def remove(self, folder, name, path):
        """Remove what grants access beside the policy; a directory is left and told of."""
        info = folder.stat(name)
        if info is None:
            return
        if stat.S_ISDIR(info.st_mode):
            self.left.append("%s is a directory: no keys, and left as it is" % path)
            return
        self.note(path, "present (%s)" % safe.kind_of(info), "absent")
        if not self.module.check_mode:
            folder.unlink(name)

    def keys(self, accounts):
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
                options = 'restrict,command="%s"' % self.module.params["auditor_command"]
            lines = ["%s %s %s" % (options, key, name) for key in account["keys"]]
            self.write(folder, name, "\n".join(lines) + "\n")
        if folder is not None:
            for name in folder.names():
                if name not in accounts:
                    self.remove(folder, name, os.path.join(KEY_FOLDER, name))
            folder.close()
        for home in sorted({entry.pw_dir for entry in pwd.getpwall()} | set(glob.glob("/home/*"))):
            self.stray(home, accounts)

    def stray(self, home, accounts):
        """Clean the key files in one home, wherever it is. Nothing there ends the run."""
        place = os.path.join(home, ".ssh")
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
                self.left.append("%s is left as it is: %s" % (place, bad.strerror))

    def clean(self, path, accounts):
        """Clean one key file by its path; see `clean_in`."""
        home = os.path.dirname(os.path.dirname(path))
        with safe.beside(path) as (folder, name):
            self.clean_in(folder, name, home, accounts)

    def clean_in(self, folder, name, home, accounts):
        """Keep only the owner's keys of the policy in a file sshd is told not to read."""
        path = os.path.join(home, ".ssh", name)
        held = set()
        for key in accounts.get(os.path.basename(home), {}).get("keys", []):
            held.add(base64.b64decode(key.split()[1]))
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
            self.note(path, "%d keys" % len(entries), "%d keys" % len(kept))
            if not self.module.check_mode:
                data = "".join(line + "\n" for line in kept).encode("utf-8", "surrogateescape")
                owner = (info.st_uid, info.st_gid)
                folder.write(name, data, stat.S_IMODE(info.st_mode) & 0o755, owner)
        if entries and not kept:
            self.remove(folder, name, path)

    @staticmethod
    def blobs(line):
        """Return every key of a line: one in an option's quotes is not what sshd goes by."""
        found = set()
        for word in line.replace('"', " ").split():
            if word.startswith("AAAA"):
                try:
                    found.add(base64.b64decode(word))
                except ValueError:
                    found.add(None)
        return found


def main():
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
    if not any(account["role"] == "administrator" for account in accounts.values()):
        module.fail_json(msg="the policy has no administrator: everybody would be shut out")
    for name, account in accounts.items():
        if account["role"] == "administrator" and not account["keys"]:
            module.fail_json(msg="%s has no key: the administrator would be shut out" % name)
    expiry = dict(entry.split() for entry in module.params["expiry"])
    run = Run(module)
    shadow = _shadow()
    run.groups()
    for name in sorted(accounts):
        password = module.params["console_passwords"].get(name)
        run.account(name, accounts[name], expiry[name], password, shadow)
    run.keys(accounts)
    run.others(accounts, shadow)
    run.secrets()
    run.strangers()
    for line in told(run.left, 20):
        module.warn(line)
    before, after = ("\n".join(told("\n".join(side).split("\n"))) for side in (run.before, run.after))
    module.exit_json(
        changed=bool(run.after),
        diff={"before": before + "\n", "after": after + "\n"},
    )


if __name__ == "__main__":
    main()
