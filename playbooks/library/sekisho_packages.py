#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Keep the package state whole in one module run: holds, half-installed, unwanted, changed files."""

from __future__ import annotations

import fnmatch
import glob
import os

from ansible.module_utils.basic import AnsibleModule

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
  upgrade:
    description: Refresh the lists and install what waits.
    type: bool
    default: false
"""

ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
KEEP = ("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-confdef")
NOT_CONTENT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")


class Run:
    """One module run."""

    def __init__(self, module):
        self.module = module
        self.done = []

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
        lines = self.ask("dpkg-query", "-W", "-f", form).splitlines()
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

    def changed(self, package):
        """Return the programs of a package that are missing or not as dpkg recorded them."""
        off = []
        for line in self.ask("dpkg", "--verify", package, ok=(0, 1)).splitlines():
            marks, _, path = line.partition(" ")
            path = path.strip()
            # "c /path" is a configuration file; documentation may be left out on purpose.
            if path.startswith("/usr/") and not path.startswith(NOT_CONTENT):
                if marks == "missing" or marks[2:3] == "5":
                    off.append(path)
        return off

    def whole(self, packages):
        """Install again, from apt's cache or the mirror, every package with a changed program."""
        for name in self.module.params["whole"]:
            known = [full for full in packages if full.partition(":")[0] == name]
            for full in known:
                if packages[full][1] != "installed":
                    continue
                off = self.changed(full)
                if not off:
                    continue
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

    def upgrade(self):
        """Install what waits."""
        self.ask("apt-get", "-qq", "update")
        waiting = self.ask("apt-get", "-s", "-qq", "dist-upgrade")
        names = [line.split()[1] for line in waiting.splitlines() if line.startswith("Inst ")]
        if names:
            self.act("upgrade " + " ".join(names), "apt-get", "-y", "-qq", *KEEP, "dist-upgrade")


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "absent": {"type": "list", "elements": "str", "default": []},
            "whole": {"type": "list", "elements": "str", "default": []},
            "upgrade": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run = Run(module)
    packages = run.state()
    run.whole(packages)
    if module.params["upgrade"]:
        run.upgrade()
    module.exit_json(changed=bool(run.done), done=run.done, diff={"prepared": "\n".join(run.done)})


if __name__ == "__main__":
    main()
