#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make a host's accounts those of its policy, in one module run: with check mode and diff."""

from __future__ import annotations

import base64
import datetime
import glob
import grp
import os
import pwd
import signal
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

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
NO_LOGIN = ("nologin", "false", "sync", "shutdown", "halt")
NO_SHELL = "/usr/sbin/nologin"
DAY_ZERO = datetime.date(1970, 1, 1)


def _shadow():
    """Return password field and expiry (days, text) by name."""
    with open("/etc/shadow", encoding="utf-8", errors="surrogateescape") as handle:
        lines = [line.rstrip("\n").split(":") for line in handle if line.strip()]
    return {line[0]: (line[1], line[7] if len(line) > 7 else "") for line in lines}


def _locked(field):
    return field.startswith(("!", "*"))


def _may_log_in(entry):
    return os.path.basename(entry.pw_shell) not in NO_LOGIN


class Run:
    """One module run: what changes, and how to do it unless in check mode."""

    def __init__(self, module):
        self.module = module
        self.before = []
        self.after = []

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
            info = os.lstat(home)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(info.st_mode) and (stat.S_IMODE(info.st_mode) & 0o027 or info.st_uid != uid):
            self.note(home, "%04o %d" % (stat.S_IMODE(info.st_mode), info.st_uid), "0700 %d" % uid)
            if not self.module.check_mode:
                os.chmod(home, 0o700)
                os.chown(home, uid, -1)

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
                info = os.lstat(path)
            except FileNotFoundError:
                continue
            held = stat.S_IMODE(info.st_mode)
            if held & ~mode or info.st_uid != 0 or info.st_gid not in (0, group):
                self.note(path, "%04o %d:%d" % (held, info.st_uid, info.st_gid), "%04o" % mode)
                if not self.module.check_mode:
                    os.chown(path, 0, group)
                    os.chmod(path, mode)

    def strangers(self):
        """End processes of a user id that no account has (systemd's passing ones excepted)."""
        known = {entry.pw_uid for entry in pwd.getpwall()} | set(range(61184, 65520))
        for folder in glob.glob("/proc/[0-9]*"):
            try:
                uid = os.stat(folder).st_uid
                name = open(folder + "/comm", encoding="utf-8", errors="replace").read().strip()
            except OSError:
                continue
            if uid not in known:
                self.note("process %s of uid %d" % (name, uid), "running", "ended")
                if not self.module.check_mode:
                    try:
                        os.kill(int(os.path.basename(folder)), signal.SIGKILL)
                    except ProcessLookupError:
                        pass

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

    def write(self, path, text):
        """Write one root-owned file atomically, unless it is so already."""
        try:
            info = os.lstat(path)
            same = (
                stat.S_ISREG(info.st_mode)
                and (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (0, 0, 0o644)
                and open(path, encoding="utf-8", errors="surrogateescape").read() == text
            )
        except FileNotFoundError:
            same = False
        if same:
            return
        self.note(path, "other", text.strip())
        if self.module.check_mode:
            return
        folder = os.path.dirname(path)
        handle, temporary = tempfile.mkstemp(prefix=".sekisho-", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o644)
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, path)

    def remove(self, path):
        """Remove a file that grants access beside the policy."""
        self.note(path, "present", "absent")
        if not self.module.check_mode:
            os.unlink(path)

    def keys(self, accounts):
        """Write each account's keys; take every other key away."""
        if not self.module.check_mode:
            os.makedirs(KEY_FOLDER, mode=0o755, exist_ok=True)
            os.chmod(KEY_FOLDER, 0o755)
        for name, account in sorted(accounts.items()):
            options = "restrict,pty"
            if account["role"] == "auditor":
                options = 'restrict,command="%s"' % self.module.params["auditor_command"]
            lines = ["%s %s %s" % (options, key, name) for key in account["keys"]]
            self.write(os.path.join(KEY_FOLDER, name), "\n".join(lines) + "\n")
        for path in sorted(glob.glob(KEY_FOLDER + "/*") + glob.glob(KEY_FOLDER + "/.*")):
            name = os.path.basename(path)
            if name not in accounts and name not in (".", "..") and not os.path.isdir(path):
                self.remove(path)
        for path in sorted(self.stray_files()):
            self.clean(path, accounts)

    def stray_files(self):
        """Yield every authorized_keys file beside the folder, of homes wherever they stand."""
        homes = {entry.pw_dir for entry in pwd.getpwall()} | set(glob.glob("/home/*"))
        for home in homes:
            for name in ("authorized_keys", "authorized_keys2"):
                path = os.path.join(home, ".ssh", name)
                if os.path.lexists(path):
                    yield path

    def clean(self, path, accounts):
        """Keep only the owner's keys of the policy in a file sshd is told not to read."""
        name = os.path.basename(os.path.dirname(os.path.dirname(path)))
        held = set()
        for key in accounts.get(name, {}).get("keys", []):
            held.add(base64.b64decode(key.split()[1]))
        # The file lies in the person's own directory: follow no link there, in no component.
        try:
            folder = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            handle = os.open(
                os.path.basename(path), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder
            )
        except OSError:
            self.remove(path)
            return
        with os.fdopen(handle, "r+", encoding="utf-8", errors="surrogateescape") as both:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                self.module.fail_json(msg="%s: not a file" % path)
            lines = both.read().splitlines()
            entries = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
            kept = [line for line in entries if self.blob(line) in held]
            if kept and len(kept) != len(entries):
                self.note(path, "%d keys" % len(entries), "%d keys" % len(kept))
                if not self.module.check_mode:
                    both.seek(0)
                    both.truncate()
                    both.write("".join(line + "\n" for line in kept))
        os.close(folder)
        if entries and not kept:
            self.remove(path)

    @staticmethod
    def blob(line):
        """Return the key of a line, or None."""
        for word in line.split():
            if word.startswith("AAAA"):
                try:
                    return base64.b64decode(word)
                except ValueError:
                    return None
        return None


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
    module.exit_json(
        changed=bool(run.after),
        diff={"before": "\n".join(run.before) + "\n", "after": "\n".join(run.after) + "\n"},
    )


if __name__ == "__main__":
    main()
