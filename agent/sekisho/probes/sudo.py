"""sudo's rules and defaults, as sudo itself parses them, and who may read the files.

Sources: sudoers(5), cvtsudoers(1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output


def _flat(entries: Any) -> str:
    """Return one list of cvtsudoers' members as words: a name, a group, a command."""
    words = []
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict):
            prefix = {"usergroup": "%", "netgroup": "+"}
            negated = "!" if entry.get("negated") else ""
            words += [
                f"{negated}{prefix.get(key, '')}{value}"
                for key, value in entry.items()
                if key != "negated"
            ]
    return ",".join(words)


def _sudo_rule(spec: Mapping[str, Any]) -> list[str]:
    rules = []
    for command in spec.get("Cmnd_Specs") or [{}]:
        options = [
            f"{key}={value}"
            for entry in command.get("Options") or []
            for key, value in sorted(entry.items())
        ]
        runas = _flat(command.get("runasusers")) or "root"
        rules.append(
            f"{_flat(spec.get('User_List'))} {_flat(spec.get('Host_List'))}=({runas})"
            f" {' '.join(options)}{' ' if options else ''}{_flat(command.get('Commands'))}"
        )
    return rules


def _sudo(raw: Mapping[str, Any]) -> dict[str, Any]:
    try:
        told = json.loads(output(raw, "effective"))
    except ValueError as bad:
        raise ProbeError(f"cvtsudoers: {bad}") from None
    if not isinstance(told, dict):
        raise ProbeError(f"cvtsudoers: {type(told).__name__}, not an object")
    defaults: dict[str, Any] = {}
    for entry in told.get("Defaults") or []:
        if not entry.get("Binding"):
            for option in entry.get("Options") or []:
                defaults |= {
                    k: v if isinstance(v, (bool, str)) else str(v) for k, v in option.items()
                }
    found = files(raw, "files")
    return {
        # What is let in from the caller's environment, or taken from a file.
        "environment": sorted(
            f"{key} {name}"
            for entry in told.get("Defaults") or []
            for option in entry.get("Options") or []
            for key in ("env_keep", "env_check", "env_file", "restricted_env_file")
            if option.get(key) and option.get("operation") != "list_remove"
            for name in (option[key] if isinstance(option[key], list) else [option[key]])
        ),
        "rules": sorted(rule for spec in told.get("User_Specs") or [] for rule in _sudo_rule(spec)),
        "defaults": defaults,
        "bound_defaults": sum(1 for e in told.get("Defaults") or [] if e.get("Binding")),
        "files": sorted(path for path, entry in found.items() if entry.kind != "dir"),
        "loose": sorted(
            f"{path} {entry.mode:04o}"
            for path, entry in found.items()
            if entry.uid != 0
            or entry.mode & (0o022 if entry.kind == "dir" else 0o337)
            or (entry.gid != 0 and entry.mode & 0o040 and entry.kind != "dir")
        ),
    }


PROBES = (
    Probe(
        name="sudo",
        operations={
            "effective": Run(("cvtsudoers", "-f", "json", "/etc/sudoers")),
            "files": Read(("/etc/sudoers", "/etc/sudoers.d", "/etc/sudoers.d/*"), content=False),
        },
        parse=_sudo,
    ),
)
