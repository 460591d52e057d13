#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the kernel's audit rules and the daemon to what stands on disk, in one module run."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import sekisho_safe_files as safe
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


def _digest(paths):
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as handle:
            data = handle.read()
        total.update(("%s %d\n" % (path, len(data))).encode())
        total.update(data)
    return total.hexdigest()


def _rules(text):
    lines = (line.strip() for line in lines_of(text))
    return [line for line in lines if line.startswith(("-a", "-A", "-w"))]


def _saved(path):
    try:
        with open(path, "rb") as handle:
            return json.loads(handle.read())
    except (OSError, ValueError):
        return {}


def _save(path, value):
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".sekisho-", dir=folder)
    with os.fdopen(handle, "w") as out:
        json.dump(value, out, sort_keys=True)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def _listing(module):
    code, out, err = module.run_command(["auditctl", "-l"])
    if code != 0:
        module.fail_json(msg="auditctl -l: %s" % err.strip())
    return [line for line in lines_of(out) if line.startswith("-")]


def _status(module):
    code, out, err = module.run_command(["auditctl", "-s"])
    if code != 0:
        module.fail_json(msg="auditctl -s: %s" % err.strip())
    return dict(line.split(None, 1) for line in lines_of(out) if " " in line.strip())


def _load(module, state_file, digest):
    code, out, err = module.run_command(["augenrules", "--load"])
    said = " ".join((out + " " + err).split())
    # auditctl stops at the first bad line and says so; its exit status is not always passed on.
    if code != 0 or "error" in err.lower():
        module.fail_json(msg="the audit rules do not load: %s" % said)
    with open(RULES, encoding="utf-8") as handle:
        wanted = _rules(handle.read())
    listing = _listing(module)
    if len(listing) != len(wanted):
        module.fail_json(
            msg="%d audit rules stand in %s, the kernel lists %d: %s"
            % (len(wanted), RULES, len(listing), said)
        )
    _save(state_file, {**_saved(state_file), "digest": digest(), "listing": listing})
    return listing


def _open_logs():
    """Return path to the mode it may have, of every log that somebody else could read or write."""
    found = {}
    for path in [LOGS, *sorted(glob.glob(LOGS + "/audit.log*"))]:
        wanted = 0o750 if path == LOGS else 0o640 if path.endswith(".log") else 0o440
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(info.st_mode) and (stat.S_IMODE(info.st_mode) & ~wanted or info.st_uid):
            found[path] = wanted
    return found


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folders": {"type": "list", "elements": "path", "default": []},
            "state_file": {"type": "path", "default": "/var/lib/sekisho/audit-loaded.json"},
        },
        supports_check_mode=True,
    )
    module.run_command_environ_update = {"LC_ALL": "C"}
    changes, before, after = [], [], []
    result = {"reboot_required": False}

    state_file = module.params["state_file"]
    folders = [*module.params["folders"], os.path.dirname(state_file)]
    for folder in dict.fromkeys(folders):
        if not os.path.isdir(folder):
            changes.append("make %s" % folder)
            if not module.check_mode:
                os.makedirs(folder, mode=0o755)

    for path, mode in _open_logs().items():
        changes.append("close %s (%04o)" % (path, mode))
        if not module.check_mode:
            with safe.pinned(path) as found:
                if not stat.S_ISLNK(found.info.st_mode):
                    found.set_owner(0, -1)
                    found.set_mode(mode)

    def digest():
        return _digest([*sorted(glob.glob(PARTS)), *([RULES] if os.path.exists(RULES) else [])])

    status, listing, saved = _status(module), _listing(module), _saved(state_file)
    # Made by -D -e 0 on the way, or by an intruder: the rules are there and record nothing.
    off = status.get("enabled") == "0"
    if off or saved.get("digest") != digest() or saved.get("listing") != listing:
        if status.get("enabled") == "2":
            result["reboot_required"] = True
            module.warn("the audit rules are locked until the next boot; they load then")
        else:
            changes.append("load the rules")
            if not module.check_mode:
                loaded = _load(module, state_file, digest)
                before = [line for line in listing if line not in loaded]
                after = [line for line in loaded if line not in listing]
                if _status(module).get("enabled") == "0":
                    module.fail_json(msg="the kernel's audit is still off after loading the rules")

    lost = status.get("lost", "0")
    if lost != "0":
        # Setting it back makes a record that holds the old count, so the loss stays on the books.
        changes.append("acknowledge %s lost records" % lost)
        module.warn("the kernel lost %s audit records; look into why before you go on" % lost)
        if not module.check_mode:
            module.run_command(["auditctl", "--reset-lost"], check_rc=True)

    for unit in UNITS:
        code, out, _ = module.run_command(["systemctl", "is-enabled", unit])
        if out.strip() not in ("enabled", "static", "alias"):
            changes.append("enable %s" % unit)
            if not module.check_mode:
                module.run_command(["systemctl", "enable", unit], check_rc=True)
    code, out, _ = module.run_command(["systemctl", "is-active", "auditd.service"])
    settings = _digest([SETTINGS]) if os.path.exists(SETTINGS) else ""
    if code != 0:
        changes.append("start auditd.service")
        if not module.check_mode:
            module.run_command(["systemctl", "reset-failed", "auditd.service"])
            module.run_command(["systemctl", "start", "auditd.service"], check_rc=True)
    elif saved.get("settings") != settings:
        changes.append("make auditd read its settings")
        if not module.check_mode:  # the unit refuses systemctl reload; the signal is the way
            module.run_command(["auditctl", "--signal", "reload"], check_rc=True)
    if not module.check_mode and _saved(state_file).get("settings") != settings:
        _save(state_file, {**_saved(state_file), "settings": settings})

    module.exit_json(
        changed=bool(changes),
        actions=changes,
        diff={
            "before_header": "audit (running)",
            "after_header": "audit (running)",
            "before": "".join("%s\n" % line for line in before),
            "after": "".join("%s\n" % line for line in [*after, *("# " + c for c in changes)]),
        },
        **result,
    )


if __name__ == "__main__":
    main()
