#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the package state whole in one module run: holds, half-installed, unwanted, changed files."""

from __future__ import annotations

import fnmatch
import glob
import grp
import os
import pwd
import stat

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.sekisho_text import lines_of, told

DOCUMENTATION = r"""
module: sekisho_packages
short_description: No holds, nothing half-installed, nothing unwanted, guarding programs unchanged
description:
  - Uses dpkg and apt-get only; fetches nothing unless C(upgrade) is set or a changed program has to
    be installed again and its package is not in apt's cache.
options:
  absent:
    description: Patterns of package names that must not be installed.
    type: list
    elements: str
    default: []
  whole:
    description: Packages whose programs must be as dpkg recorded them.
    type: list
    elements: str
    default: []
  only:
    description:
      - Folder to the patterns of names that may stand in it beside what packages put there. Every
        other file is moved to C(/var/lib/sekisho/quarantine), out of everybody's reach but root's.
    type: dict
    default: {}
  folders:
    description: Folders of C(only) in which directories are moved too.
    type: list
    elements: str
    default: []
  closed:
    description: Patterns of paths that root must own and nobody else may write.
    type: list
    elements: str
    default: []
  privileged:
    description: Files that may be set-user-id or set-group-id; every other loses the bit.
    type: list
    elements: str
    default: []
  timers:
    description: Patterns of timers that may be active; every other is stopped.
    type: list
    elements: str
    default: []
  upgrade:
    description: Refresh the lists and install what waits.
    type: bool
    default: false
"""

ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
KEEP = ("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-confdef")
QUARANTINE = "/var/lib/sekisho/quarantine"
PUT_OFF = "/run/sekisho-reload-put-off"  # as in sekisho_live
NOT_CONTENT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")


def _known(look_up, number):
    """Return whether an id has a name, or is one of systemd's passing ones."""
    if 61184 <= number <= 65519:
        return True
    try:
        look_up(number)
    except KeyError:
        return False
    return True


class Run:
    """One module run."""

    def __init__(self, module):
        self.module = module
        self.done = []
        self.left = []
        self._privileged = None

    def ask(self, *argv, ok=(0,)):
        """Run a reading command and return what it printed."""
        code, out, err = self.module.run_command(list(argv), environ_update=ENVIRONMENT)
        if code not in ok:
            self.module.fail_json(msg="%s: %s" % (" ".join(argv[:3]), (err or out).strip()))
        return out

    def act(self, what, *argv):
        """Record a change and carry it out unless in check mode."""
        self.done.append(what)
        if not self.module.check_mode:
            self.ask(*argv)

    def installed(self):
        """Return desired state, status and version by package name."""
        form = "${binary:Package}\t${db:Status-Want}\t${db:Status-Status}\t${Version}\n"
        lines = lines_of(self.ask("dpkg-query", "-W", "-f", form))
        return {line.split("\t")[0]: line.split("\t")[1:] for line in lines}

    def state(self):
        """Lift holds, finish what was half done, remove what is unwanted."""
        packages = self.installed()
        held = sorted(name for name, (want, _, _) in packages.items() if want == "hold")
        if held:
            self.act("unhold " + " ".join(held), "apt-mark", "unhold", *held)
        whole = ("installed", "config-files", "not-installed")
        half = sorted(name for name, (_, status, _) in packages.items() if status not in whole)
        if half:
            self.act("finish " + " ".join(half), "dpkg", "--configure", "-a")
        unwanted = sorted(
            name
            for name, (_, status, _) in packages.items()
            if status == "installed"
            and any(
                fnmatch.fnmatchcase(name.partition(":")[0], pattern)
                for pattern in self.module.params["absent"]
            )
        )
        if unwanted:
            self.act("remove " + " ".join(unwanted), "dpkg", "--purge", *unwanted)
        return packages

    def changed(self, *packages):
        """Return the programs of packages that are missing or not as dpkg recorded them."""
        off = []
        for line in lines_of(self.ask("dpkg", "--verify", *packages, ok=(0, 1))):
            marks, _, path = line.partition(" ")
            path = path.strip()
            # "c /path" is a configuration file; documentation may be left out on purpose.
            if path.startswith("/usr/") and not path.startswith(NOT_CONTENT):
                if marks == "missing" or marks[2:3] == "5":
                    off.append(path)
        return off

    def whole(self, packages):
        """Install again, from apt's cache or the mirror, every package with a changed program."""
        known = [
            full
            for full in sorted(packages)
            if full.partition(":")[0] in self.module.params["whole"]
            and packages[full][1] == "installed"
        ]
        # One run of dpkg for all; only when something is off is it asked package by package.
        if known and self.changed(*known):
            for full in known:
                off = self.changed(full)
                if not off:
                    continue
                name = full.partition(":")[0]
                version = packages[full][2].replace(":", "%3a")
                cached = glob.glob("/var/cache/apt/archives/%s_%s_*.deb" % (name, version))
                what = "install %s again: %s" % (full, " ".join(off))
                if cached:
                    self.act(what, "dpkg", "--force-confold", "-i", os.path.realpath(cached[0]))
                else:
                    self.act(what, "apt-get", "-y", *KEEP, "install", "--reinstall", full)
                if not self.module.check_mode and self.changed(full):
                    self.module.fail_json(
                        msg="%s is not as its package has it, and neither apt's cache nor a mirror "
                        "could give the package; bring it in and run again: %s"
                        % (full, " ".join(off))
                    )

    def only(self):
        """Take out of force what stands in a folder of ours and is nobody's."""
        wanted = self.module.params["only"]
        if not wanted:
            return
        patterns = [folder + "/*" for folder in sorted(wanted)]
        lines = lines_of(self.ask("dpkg-query", "-S", *patterns, ok=(0, 1)))
        owned = {line.partition(": ")[2] for line in lines}
        owned |= {"/usr" + path for path in owned if path.startswith(("/bin/", "/sbin/", "/lib/"))}
        units = []
        for folder in sorted(wanted):
            for path in sorted(glob.glob(glob.escape(folder) + "/*", include_hidden=True)):
                name = os.path.basename(path)
                if path in owned or os.path.islink(path) and folder not in self.module.params["folders"]:
                    continue
                if os.path.isdir(path) and not os.path.islink(path):
                    if folder not in self.module.params["folders"]:
                        continue
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted[folder]):
                    continue
                if folder.startswith("/etc/systemd/system"):
                    units.append(name)
                self.quarantine(path)
        if units and not self.module.check_mode:
            self.ask("systemctl", "stop", *units, ok=(0, 1, 5))
            with safe.beside(PUT_OFF) as (folder, name):
                folder.write(name, b"", 0o644)  # sekisho_live has systemd read its files once for all

    def quarantine(self, path):
        """Move one file where only root reaches it; its path is its name there."""
        self.done.append("quarantine " + path)
        if self.module.check_mode:
            return
        safe.set_aside(path, QUARANTINE)

    def closed(self):
        """Give root what is root's, and take writing from everybody else."""
        for pattern in self.module.params["closed"]:
            for path in sorted(glob.glob(pattern, include_hidden=True)):
                try:
                    with safe.pinned(path) as found:
                        self.close(path, found)
                except FileNotFoundError:
                    continue
                except OSError as bad:
                    self.left.append("%s is left as it is: %s" % (path, bad.strerror))

    def close(self, path, found):
        """Close one file or folder; set-id bits that another owner set do not become root's."""
        if stat.S_ISLNK(found.info.st_mode):
            return
        mode = stat.S_IMODE(found.info.st_mode)
        if found.info.st_uid != 0 or mode & 0o022:
            self.done.append("close %s (%04o, owner %d)" % (path, mode, found.info.st_uid))
            if not self.module.check_mode:
                found.set_owner(0, -1)
                found.set_mode(mode & ~(0o022 if found.info.st_uid == 0 else 0o6022))

    def walk(self):
        """Mend what the walk over the local file systems finds."""
        places = [p for p in ("/", "/run", "/tmp", "/var/tmp", "/dev/shm") if os.path.isdir(p)]
        out = self.ask(
            *("find", *places, "-xdev"),
            *("(", "-path", QUARANTINE, "-o", "-path", "/run/user", ")", "-prune", "-o", "("),
            *("-type", "f", "-perm", "/6000", "-o"),
            # find reads /etc/passwd again for every file it asks -nouser of: not root's own.
            *("!", "-uid", "0", "-nouser", "-o", "!", "-gid", "0", "-nogroup", "-o"),
            *("-perm", "-0002", "!", "-type", "l", "!", "-type", "s", "!", "-perm", "-1000"),
            *("-o", "-type", "b", "-o", "-type", "c", ")", "-printf", "%p\\0"),
            ok=(0, 1),
        )
        for path in sorted(set(out.split("\0")) - {""}):
            self.mend(path)

    def mend(self, path, judged=None):
        """Mend one file: what it is is asked of the handle that is then acted on.

        With C(judged), a stat result, only if it is still the one that was examined.
        """
        try:
            with safe.beside(path) as (folder, name), folder.pin(name) as found:
                if judged is not None:
                    found.expect(judged)
                self.mend_found(path, folder, name, found)
        except FileNotFoundError:
            pass
        except OSError as bad:  # somebody moves his files about meanwhile: the next run looks again
            self.left.append("%s is left as it is: %s" % (path, bad.strerror))

    def mend_found(self, path, folder, name, found):
        """Mend what is held by its handle: device, owner, bits."""
        info = found.info
        mode = stat.S_IMODE(info.st_mode)
        act = not self.module.check_mode
        if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
            kernels = path.startswith("/dev/") and not path.startswith("/dev/shm/")
            if not kernels and "/systemd/inaccessible/" not in path:
                self.done.append("remove device " + path)
                if act:
                    folder.unlink(name)
            return
        if not (_known(pwd.getpwuid, info.st_uid) and _known(grp.getgrgid, info.st_gid)):
            self.done.append("give root %s (was %d:%d)" % (path, info.st_uid, info.st_gid))
            if act:
                found.set_owner(0, 0)
        if stat.S_ISLNK(info.st_mode):
            return
        wanted = mode
        if stat.S_ISREG(info.st_mode) and mode & 0o6000:
            if path in self.module.params["privileged"]:
                pass
            elif (info.st_dev, info.st_ino) in self.privileged():
                # Its bits are the program's own: taken here, they would be gone there.
                self.left.append("%s is another name of a privileged program" % path)
            else:
                wanted &= ~0o6000
        if wanted & 0o002 and not wanted & 0o1000 and not stat.S_ISSOCK(info.st_mode):
            wanted &= ~0o002
        if wanted != mode:
            self.done.append("%s: %04o to %04o" % (path, mode, wanted))
            if act:
                found.set_mode(wanted)

    def privileged(self):
        """Return device and inode of the programs that may be set-id."""
        if self._privileged is None:
            self._privileged = set()
            for path in self.module.params["privileged"]:
                try:
                    info = os.stat(path)
                except OSError:
                    continue
                self._privileged.add((info.st_dev, info.st_ino))
        return self._privileged

    def tell(self):
        """Warn of what was left, a bounded number of lines."""
        for line in told(self.left, 20):
            self.module.warn(line)

    def timers(self):
        """Stop timers that nobody declared."""
        listing = ("--type=timer", "--state=active", "--plain", "--no-legend", "--no-pager")
        for line in lines_of(self.ask("systemctl", "list-units", *listing)):
            name = line.split()[0]
            known = self.module.params["timers"]
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
                self.act("stop " + name, "systemctl", "stop", name)

    def upgrade(self):
        """Install what waits."""
        self.ask("apt-get", "-qq", "update")
        waiting = self.ask("apt-get", "-s", "-qq", "dist-upgrade")
        names = [line.split()[1] for line in lines_of(waiting) if line.startswith("Inst ")]
        if names:
            self.act("upgrade " + " ".join(names), "apt-get", "-y", "-qq", *KEEP, "dist-upgrade")


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "absent": {"type": "list", "elements": "str", "default": []},
            "whole": {"type": "list", "elements": "str", "default": []},
            "only": {"type": "dict", "default": {}},
            "folders": {"type": "list", "elements": "str", "default": []},
            "closed": {"type": "list", "elements": "str", "default": []},
            "privileged": {"type": "list", "elements": "str", "default": []},
            "timers": {"type": "list", "elements": "str", "default": []},
            "upgrade": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run = Run(module)
    packages = run.state()
    run.whole(packages)
    run.only()
    run.closed()
    if module.params["privileged"]:
        run.walk()
    if module.params["timers"]:
        run.timers()
    if module.params["upgrade"]:
        run.upgrade()
    run.tell()
    done = told(run.done)
    module.exit_json(changed=bool(done), done=done, diff={"prepared": "\n".join(done)})


if __name__ == "__main__":
    main()
