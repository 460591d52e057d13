#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the package state whole in one module run: holds, halves, unwanted, changed files."""

from __future__ import annotations

import fnmatch
import glob
import grp
import os
import pwd
import stat
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.basic import AnsibleModule
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
SHARED = "/dev/shm"  # noqa: S108 - looked through, not written to
PLACES = ("/", "/run", "/tmp", "/var/tmp", SHARED)  # noqa: S108 - same
PUT_OFF = "/run/sekisho-reload-put-off"  # as in sekisho_live
NOT_CONTENT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")


@dataclass(frozen=True)
class Package:
    """A package as dpkg has it."""

    want: str
    status: str
    version: str


Packages = Mapping[str, Package]


def _known(look_up: Callable[[int], object], number: int) -> bool:
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

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.done: list[str] = []
        self.left: list[str] = []
        self._privileged: set[tuple[int, int]] | None = None

    def ask(self, *argv: str, ok: Collection[int] = (0,)) -> str:
        """Run a reading command and return what it printed."""
        code, out, err = self.module.run_command(list(argv), environ_update=ENVIRONMENT)
        if code not in ok:
            self.module.fail_json(msg=f"{' '.join(argv[:3])}: {(err or out).strip()}")
        return out

    def act(self, what: str, *argv: str) -> None:
        """Record a change and carry it out unless in check mode."""
        self.done.append(what)
        if not self.module.check_mode:
            self.ask(*argv)

    def installed(self) -> Packages:
        """Return the packages by name."""
        form = "${binary:Package}\t${db:Status-Want}\t${db:Status-Status}\t${Version}\n"
        lines = lines_of(self.ask("dpkg-query", "-W", "-f", form))
        return {name: Package(*rest) for name, *rest in (line.split("\t") for line in lines)}

    def state(self) -> Packages:
        """Lift holds, finish what was half done, remove what is unwanted."""
        packages = self.installed()
        held = sorted(name for name, one in packages.items() if one.want == "hold")
        if held:
            self.act("unhold " + " ".join(held), "apt-mark", "unhold", *held)
        whole = ("installed", "config-files", "not-installed")
        half = sorted(name for name, one in packages.items() if one.status not in whole)
        if half:
            self.act("finish " + " ".join(half), "dpkg", "--configure", "-a")
        unwanted = sorted(
            name
            for name, one in packages.items()
            if one.status == "installed"
            and any(
                fnmatch.fnmatchcase(name.partition(":")[0], pattern)
                for pattern in self.module.params["absent"]
            )
        )
        if unwanted:
            self.act("remove " + " ".join(unwanted), "dpkg", "--purge", *unwanted)
        return packages

    def changed(self, *packages: str) -> list[str]:
        """Return the programs of packages that are missing or not as dpkg recorded them."""
        off = []
        for line in lines_of(self.ask("dpkg", "--verify", *packages, ok=(0, 1))):
            marks, _, path = line.partition(" ")
            path = path.strip()
            # "c /path" is a configuration file; documentation may be left out on purpose.
            content = path.startswith("/usr/") and not path.startswith(NOT_CONTENT)
            if content and (marks == "missing" or marks[2:3] == "5"):
                off.append(path)
        return off

    def whole(self, packages: Packages) -> None:
        """Install again, from apt's cache or the mirror, every package with a changed program."""
        known = [
            full
            for full in sorted(packages)
            if full.partition(":")[0] in self.module.params["whole"]
            and packages[full].status == "installed"
        ]
        # One run of dpkg for all; only when something is off is it asked package by package.
        for full in known if known and self.changed(*known) else []:
            if off := " ".join(self.changed(full)):
                self.again(full, packages[full].version, off)

    def again(self, full: str, version: str, off: str) -> None:
        """Install one package again."""
        name, escaped = full.partition(":")[0], version.replace(":", "%3a")
        cached = handles.matching(
            f"/var/cache/apt/archives/{glob.escape(f'{name}_{escaped}_')}*.deb"
        )
        what = f"install {full} again: {off}"
        if cached:
            deb = str(Path(cached[0]).resolve())
            self.act(what, "dpkg", "--force-confold", "-i", deb)
        else:
            self.act(what, "apt-get", "-y", *KEEP, "install", "--reinstall", full)
        if not self.module.check_mode and self.changed(full):
            self.module.fail_json(
                msg=f"{full} is not as its package has it, and neither apt's cache nor a mirror "
                f"could give the package; bring it in and run again: {off}"
            )

    def only(self) -> None:
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
            whole = folder in self.module.params["folders"]
            for path in handles.matching(f"{glob.escape(folder)}/*"):
                name = Path(path).name
                if path in owned or (
                    not whole and (Path(path).is_symlink() or Path(path).is_dir())
                ):
                    continue
                if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted[folder]):
                    continue
                if folder.startswith("/etc/systemd/system"):
                    units.append(name)
                self.quarantine(path)
        if units and not self.module.check_mode:
            self.ask("systemctl", "stop", *units, ok=(0, 1, 5))
            with safe.beside(PUT_OFF) as (parent, name):
                # sekisho_live has systemd read its files once for all.
                parent.write(name, b"", 0o644)

    def quarantine(self, path: str) -> None:
        """Move one file where only root reaches it; its path is its name there."""
        self.done.append(f"quarantine {path}")
        if self.module.check_mode:
            return
        safe.set_aside(path, QUARANTINE)

    def closed(self) -> None:
        """Give root what is root's, and take writing from everybody else."""
        for pattern in self.module.params["closed"]:
            for path in handles.matching(pattern):
                try:
                    with safe.pinned(path) as found:
                        self.close(path, found)
                except FileNotFoundError:
                    continue
                except OSError as bad:
                    self.left.append(f"{path} is left as it is: {bad.strerror}")

    def close(self, path: str, found: safe.Pinned) -> None:
        """Close one file or folder; set-id bits that another owner set do not become root's."""
        if stat.S_ISLNK(found.info.st_mode):
            return
        mode = stat.S_IMODE(found.info.st_mode)
        if found.info.st_uid != 0 or mode & 0o022:
            self.done.append(f"close {path} ({mode:04o}, owner {found.info.st_uid})")
            if not self.module.check_mode:
                found.set_owner(0, -1)
                found.set_mode(mode & ~(0o022 if found.info.st_uid == 0 else 0o6022))

    def walk(self) -> None:
        """Mend what the walk over the local file systems finds."""
        places = [place for place in PLACES if Path(place).is_dir()]
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

    def mend(self, path: str, judged: os.stat_result | None = None) -> None:
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
            self.left.append(f"{path} is left as it is: {bad.strerror}")

    def mend_found(self, path: str, folder: safe.Folder, name: str, found: safe.Pinned) -> None:
        """Mend what is held by its handle: device, owner, bits."""
        info = found.info
        act = not self.module.check_mode
        if stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
            kernels = path.startswith("/dev/") and not path.startswith(f"{SHARED}/")
            if not kernels and "/systemd/inaccessible/" not in path:
                self.done.append(f"remove device {path}")
                if act:
                    folder.unlink(name)
            return
        if not (_known(pwd.getpwuid, info.st_uid) and _known(grp.getgrgid, info.st_gid)):
            self.done.append(f"give root {path} (was {info.st_uid}:{info.st_gid})")
            if act:
                found.set_owner(0, 0)
        if stat.S_ISLNK(info.st_mode):
            return
        mode, wanted = stat.S_IMODE(info.st_mode), self.bits(path, info)
        if wanted != mode:
            self.done.append(f"{path}: {mode:04o} to {wanted:04o}")
            if act:
                found.set_mode(wanted)

    def bits(self, path: str, info: os.stat_result) -> int:
        """Return the mode that a file may have."""
        wanted = mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISREG(info.st_mode) and mode & 0o6000:
            if path in self.module.params["privileged"]:
                pass
            elif (info.st_dev, info.st_ino) in self.privileged():
                # Its bits are the program's own: taken here, they would be gone there.
                self.left.append(f"{path} is another name of a privileged program")
            else:
                wanted &= ~0o6000
        if wanted & 0o002 and not wanted & 0o1000 and not stat.S_ISSOCK(info.st_mode):
            wanted &= ~0o002
        return wanted

    def privileged(self) -> set[tuple[int, int]]:
        """Return device and inode of the programs that may be set-id."""
        if self._privileged is None:
            self._privileged = set()
            for path in self.module.params["privileged"]:
                try:
                    info = Path(path).stat()
                except OSError:
                    continue
                self._privileged.add((info.st_dev, info.st_ino))
        return self._privileged

    def tell(self) -> None:
        """Warn of what was left, a bounded number of lines."""
        for line in told(self.left, 20):
            self.module.warn(line)

    def timers(self) -> None:
        """Stop timers that nobody declared."""
        listing = ("--type=timer", "--state=active", "--plain", "--no-legend", "--no-pager")
        for line in lines_of(self.ask("systemctl", "list-units", *listing)):
            name = line.split()[0]
            known = self.module.params["timers"]
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known):
                self.act("stop " + name, "systemctl", "stop", name)

    def upgrade(self) -> None:
        """Install what waits."""
        self.ask("apt-get", "-qq", "update")
        waiting = self.ask("apt-get", "-s", "-qq", "dist-upgrade")
        names = [line.split()[1] for line in lines_of(waiting) if line.startswith("Inst ")]
        if names:
            self.act("upgrade " + " ".join(names), "apt-get", "-y", "-qq", *KEEP, "dist-upgrade")


def main() -> None:
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
