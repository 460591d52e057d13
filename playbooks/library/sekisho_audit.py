#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the kernel's audit rules and the daemon to what stands on disk, in one module run."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sekisho_text import lines_of

DOCUMENTATION = r"""
module: sekisho_audit
short_description: Load the audit rules, prove that all of them are loaded, keep the daemon running
description:
  - The kernel lists rules in words of its own, so what it listed after the last good load is kept
    and compared with what it lists now. Rules are loaded again only when a file or the kernel's
    list differs. One line that does not load fails the run.
  - The daemon reads its settings again when they are not those it read last, whoever changed them.
  - Rules locked with C(-e 2) cannot be changed before a boot; then C(reboot_required) is returned.
  - The logs are closed to everybody but root and the group that may read them.
  - What the kernel lost since its start is said, and the count set back (which is itself recorded).
options:
  folders:
    description: Folders that rules speak of; made (C(0755) root) when missing, else left alone.
    type: list
    elements: path
    default: []
  state_file:
    description: Where to keep what the kernel listed after the last good load.
    type: path
    default: /var/lib/sekisho/audit-loaded.json
"""

RULES = "/etc/audit/audit.rules"
SETTINGS = "/etc/audit/auditd.conf"
LOGS = "/var/log/audit"
PARTS = "/etc/audit/rules.d/*.rules"
UNITS = ("auditd.service", "audit-rules.service")


def _digest(paths: Iterable[str]) -> str:
    total = hashlib.sha256()
    for path in paths:
        data = Path(path).read_bytes()
        total.update(f"{path} {len(data)}\n".encode("utf-8", "surrogateescape"))
        total.update(data)
    return total.hexdigest()


def _rules(text: str) -> list[str]:
    lines = (line.strip() for line in lines_of(text))
    return [line for line in lines if line.startswith(("-a", "-A", "-w"))]


def _open_logs() -> dict[str, int]:
    """Return path to the mode it may have, of every log that somebody else could read or write."""
    found = {}
    for path in [LOGS, *handles.matching(f"{LOGS}/audit.log*")]:
        wanted = 0o750 if path == LOGS else 0o640 if path.endswith(".log") else 0o440
        try:
            info = Path(path).lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(info.st_mode) and (stat.S_IMODE(info.st_mode) & ~wanted or info.st_uid):
            found[path] = wanted
    return found


class Run:
    """One module run: what is off, mended unless in check mode."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.state_file: str = module.params["state_file"]
        self.changes: list[str] = []
        self.before: list[str] = []
        self.after: list[str] = []
        self.reboot = False

    def differs(self, what: str) -> bool:
        """Record a change; return whether to make it."""
        self.changes.append(what)
        return not self.module.check_mode

    def ask(self, *argv: str) -> str:
        """Return what a command prints; a failure ends the module."""
        code, out, err = self.module.run_command(list(argv))
        if code != 0:
            self.module.fail_json(msg=f"{' '.join(argv)}: {(err or out).strip()}")
        return out

    def saved(self) -> dict[str, Any]:
        """Return what was kept of the last good load; nothing when it is not readable."""
        try:
            found = json.loads(Path(self.state_file).read_bytes())
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self, **values: Any) -> None:
        """Keep more of it."""
        data = json.dumps({**self.saved(), **values}, sort_keys=True).encode()
        with safe.beside(self.state_file) as (folder, name):
            folder.write(name, data, 0o600)

    def listing(self) -> list[str]:
        """Return the rules as the kernel lists them."""
        return [line for line in lines_of(self.ask("auditctl", "-l")) if line.startswith("-")]

    def status(self) -> dict[str, str]:
        """Return the kernel's state of audit, by its words."""
        lines = (line.strip().split(None, 1) for line in lines_of(self.ask("auditctl", "-s")))
        return {words[0]: words[1] for words in lines if len(words) == 2}

    def folders(self) -> None:
        """Make the folders that rules speak of, and the state file's own."""
        own = str(Path(self.state_file).parent)
        for folder in dict.fromkeys([*self.module.params["folders"], own]):
            if not Path(folder).is_dir() and self.differs(f"make {folder}"):
                safe.Folder.open(folder, make=0o755).close()

    def logs(self) -> None:
        """Close the logs."""
        for path, mode in _open_logs().items():
            if self.differs(f"close {path} ({mode:04o})"):
                with safe.pinned(path) as found:
                    if not stat.S_ISLNK(found.info.st_mode):
                        found.set_owner(0, -1)
                        found.set_mode(mode)

    def rules(self, status: Mapping[str, str]) -> None:
        """Load the rules unless they are loaded."""
        listing, saved = self.listing(), self.saved()
        # Made by -D -e 0 on the way, or by an intruder: the rules are there and record nothing.
        off = status.get("enabled") == "0"
        same = (saved.get("digest"), saved.get("listing")) == (_wanted(), listing)
        if same and not off:
            return
        if status.get("enabled") == "2":
            self.reboot = True
            self.module.warn("the audit rules are locked until the next boot; they load then")
        elif self.differs("load the rules"):
            loaded = self.load()
            self.before = [line for line in listing if line not in loaded]
            self.after = [line for line in loaded if line not in listing]
            if self.status().get("enabled") == "0":
                self.module.fail_json(msg="the kernel's audit is still off after loading the rules")

    def load(self) -> list[str]:
        """Load the rules and prove that each is loaded; return the kernel's list."""
        code, out, err = self.module.run_command(["augenrules", "--load"])
        said = " ".join((out + " " + err).split())
        # auditctl stops at the first bad line and says so; its exit status is not always passed on.
        if code != 0 or "error" in err.lower():
            self.module.fail_json(msg=f"the audit rules do not load: {said}")
        wanted, listing = _rules(handles.text_of(RULES)), self.listing()
        if len(listing) != len(wanted):
            self.module.fail_json(
                msg=f"{len(wanted)} audit rules stand in {RULES}, "
                f"the kernel lists {len(listing)}: {said}"
            )
        self.save(digest=_wanted(), listing=listing)
        return listing

    def lost(self, status: Mapping[str, str]) -> None:
        """Say what the kernel lost, and set the count back."""
        lost = status.get("lost", "0")
        if lost != "0":
            self.module.warn(
                f"the kernel lost {lost} audit records; look into why before you go on"
            )
            # Setting it back makes a record that holds the old count: the loss stays on the books.
            if self.differs(f"acknowledge {lost} lost records"):
                self.ask("auditctl", "--reset-lost")

    def daemon(self) -> None:
        """Keep the daemon running, by the settings that stand on disk."""
        for unit in UNITS:
            _, out, _ = self.module.run_command(["systemctl", "is-enabled", unit])
            known = out.strip() in ("enabled", "static", "alias")
            if not known and self.differs(f"enable {unit}"):
                self.ask("systemctl", "enable", unit)
        code, _, _ = self.module.run_command(["systemctl", "is-active", "auditd.service"])
        settings = _digest([SETTINGS]) if Path(SETTINGS).exists() else ""
        if code != 0:
            if self.differs("start auditd.service"):
                self.module.run_command(["systemctl", "reset-failed", "auditd.service"])
                self.ask("systemctl", "start", "auditd.service")
        elif self.saved().get("settings") != settings and self.differs(
            "make auditd read its settings"
        ):  # the unit refuses systemctl reload; the signal is the way
            self.ask("auditctl", "--signal", "reload")
        if not self.module.check_mode and self.saved().get("settings") != settings:
            self.save(settings=settings)


def _wanted() -> str:
    """Return the digest of the rules on disk."""
    whole = [RULES] if Path(RULES).exists() else []
    return _digest([*handles.matching(PARTS), *whole])


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "default": []},
            "state_file": {"type": "path", "default": "/var/lib/sekisho/audit-loaded.json"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    run = Run(module)
    try:
        run.folders()
        run.logs()
        status = run.status()
        run.rules(status)
        run.lost(status)
        run.daemon()
    except OSError as bad:
        module.fail_json(msg=str(bad), actions=run.changes)
    after = [*run.after, *(f"# {change}" for change in run.changes)]
    module.exit_json(
        changed=bool(run.changes),
        actions=run.changes,
        reboot_required=run.reboot,
        diff={
            "before_header": "audit (running)",
            "after_header": "audit (running)",
            "before": "".join(f"{line}\n" for line in run.before),
            "after": "".join(f"{line}\n" for line in after),
        },
    )


if __name__ == "__main__":
    main()
