#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the running system to what stands on disk, in one module run, with check mode and diff."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.sekisho_text import lines_of, shown

Json = dict[str, Any]

DOCUMENTATION = r"""
module: sekisho_live
short_description: Bring the running system to what stands on disk, in one run
description:
  - Compares the running kernel and units with what is wanted and changes only what differs. Files
    are C(sekisho_files)' business; this is the other half.
options:
  sysctl:
    description: Settings in the form of sysctl.d(5), put in force in their order; the last counts.
    type: str
    default: ""
  unload:
    description: Modules that must not be loaded. One in use is an error that names its user.
    type: list
    elements: str
    default: []
  unload_tainted:
    description: Also unload modules that are unsigned, forced or built elsewhere.
    type: bool
    default: false
  values:
    description: Files below /sys to write (path, value) unless they hold one of C(accept);
        C(optional) ones may be missing.
    type: list
    elements: dict
    default: []
  masked:
    description: Units to mask and stop (a template is masked only). A unit file in /etc makes way.
    type: list
    elements: str
    default: []
  enabled:
    description: Units to enable and start.
    type: list
    elements: str
    default: []
  at_boot:
    description: Units to enable; somebody else starts them.
    type: list
    elements: str
    default: []
  reload:
    description:
      - A caller's file changed, so systemd has to read its files again. It does so now when a unit
        that is started or restarted here differs from what systemd holds of it; else that is put
        off, to the next run that needs it or says C(settle), so that a whole play reloads once or
        twice.
    type: bool
    default: false
  settle:
    description: Make systemd read its files again now if that was put off.
    type: bool
    default: false
  restart:
    description: Units to restart (a caller's file changed).
    type: list
    elements: str
    default: []
  mounts:
    description: Mount point to the options it must have now.
    type: dict
    default: {}
  fstab:
    description: Lines of /etc/fstab to hold, one for a mount point.
    type: list
    elements: dict
    default: []
  unmount:
    description:
      - Types of file systems that must not be mounted (vfat is left at the EFI partition). They are
        detached with what is mounted on them; what has a file open keeps it until it ends.
    type: list
    elements: str
    default: []
  set_aside:
    description:
      - Files to move to C(/var/lib/sekisho/quarantine) when a line of theirs matches (glob, regex,
        but the path to leave alone). Beside the others a checker would find them again.
    type: list
    elements: dict
    default: []
  no_swap:
    description: Switch plain swap off and take it out of /etc/fstab. Encrypted and zram stay.
    type: bool
    default: false
"""

ENVIRONMENT = dict(os.environ, LC_ALL="C", PATH="/usr/sbin:/usr/bin:/sbin:/bin")
ETC = "/etc/systemd/system"
QUARANTINE = "/var/lib/sekisho/quarantine"
#: Stands while systemd has files to read again; gone with a boot, which reads them all.
FSTAB = "/etc/fstab"
NOTHING = Path("/dev/null")
PUT_OFF = "/run/sekisho-reload-put-off"
EFI = ("/boot/efi", "/efi", "/boot")
FOREIGN = {
    "nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "iso9660", "udf", "hfs", "hfsplus", "exfat",
    "ntfs", "ntfs3", "fuse", "fuseblk", "auto",
}  # fmt: skip
RUNNING = ("active", "activating", "reloading")
TIME_LIMIT_S = 120


class TroubleError(Exception):
    """What could not be done; the administrator reads it."""


class Live:
    """Collects what differs, and mends it unless this is a check."""

    def __init__(self, *, check: bool, warn: Callable[[str], None]) -> None:
        self.check, self.warn = check, warn
        self.before: list[str] = []
        self.after: list[str] = []
        self.stale = False  # whether systemd has to read its files again

    def differs(self, what: str, before: str, after: str) -> bool:
        """Record a difference; return whether to mend it."""
        self.before.append(f"{what}: {before}")
        self.after.append(f"{what}: {after}")
        return not self.check

    def run(self, *argv: str) -> str:
        """Run a command and return what it printed; `TroubleError` when it fails."""
        done = _started(argv)
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise TroubleError(f"{' '.join(argv)} failed (status {done.returncode}): {said}")
        return done.stdout.decode("utf-8", "replace")

    # -- kernel ---------------------------------------------------------------------------------

    def sysctl(self, text: str) -> None:
        """Put settings in the form of sysctl.d(5) in force."""
        wanted: dict[str, str] = {}
        for line in lines_of(text):
            key, sep, value = line.strip().partition("=")
            if not sep or key.startswith(("#", ";")):
                continue
            key = key.strip()
            optional, key = key.startswith("-"), key.lstrip("-")
            pattern = "/proc/sys/" + key.replace(".", "/")
            paths = handles.matching(pattern)
            if not paths and not optional:
                self.warn(f"{key}: this kernel has no such setting")
            for path in paths:
                wanted.pop(path, None)  # the last one counts, at its own place
                wanted[path] = value.strip()
        for path, value in wanted.items():
            held = _text(path)
            if held.split() == value.split():
                continue
            if self.differs(path[len("/proc/sys/") :].replace("/", "."), held, value):
                _write(path, value)

    def values(self, entries: Iterable[Json]) -> None:
        """Write values to files of /sys unless they hold an accepted one."""
        for entry in entries:
            path, value = entry["path"], entry["value"]
            if not Path(path).exists():
                if not entry.get("optional"):
                    self.warn(f"{path}: this kernel has no such file")
                continue
            held = _text(path)
            if held in (entry.get("accept") or [value]):
                continue
            if self.differs(path, held, value):
                _write(path, value)

    def unload(self, modules: Iterable[str], *, tainted: bool) -> None:
        """Take modules out of the kernel, their users first."""
        names = {name.replace("-", "_") for name in modules}
        if not Path("/proc/modules").exists():
            raise TroubleError("/proc/modules: this kernel has no modules, or hides them")
        loaded = {line.split()[0]: line.split()[3] for line in lines_of(_text("/proc/modules"))}
        there = {name for name in loaded if name in names}
        if tainted:
            there |= {
                path.split("/")[3]
                for path in handles.matching("/sys/module/*/taint")
                if set(_text(path)) & set("FOEP")
            }
        for name in sorted(there):
            self.differs("module " + name, "loaded", "not loaded")
        if self.check or not there:
            return
        left = set(there)
        while left:  # users first: go round until a round takes none away
            gone = {name for name in sorted(left) if _started(["rmmod", name]).returncode == 0}
            left -= gone
            if not gone:
                users = {name: loaded[name] for name in sorted(left)}
                raise TroubleError(
                    f"modules that must not be loaded are in use: {users}; stop what uses them, or "
                    "restart the machine (they do not load again)"
                )

    # -- units ----------------------------------------------------------------------------------

    def units(
        self,
        masked: Sequence[str],
        enabled: Sequence[str],
        at_boot: Sequence[str],
        *,
        reload: bool,
        restart: Sequence[str],
    ) -> None:
        """Mask, enable, start and restart; make systemd read its files again only when it must.

        A reload costs seconds on a small machine. That of an enabled unit can wait (it counts from
        the next boot; systemd only says so of a unit it holds); masking needs one only where
        systemd holds the unit, and then it can wait.
        """
        held = self._held() if masked else set()
        # A template has no state; those of its instances that run go on until they end.
        plain = {unit for unit in masked if "@." not in unit}
        states = self._states(plain | set(enabled) | set(at_boot) | set(restart))
        stale = [self._mask(unit, held) for unit in masked]
        stop = [
            unit
            for unit in masked
            if unit in plain
            and states[unit]["ActiveState"] in RUNNING
            and self.differs(unit, "running", "stopped")
        ]
        enable = [
            unit
            for unit in [*enabled, *at_boot]
            # Not systemctl's word for it: before the file is there (check mode) it has none.
            if (was := states[unit]["UnitFileState"]) not in ("enabled", "static", "indirect")
            and self.differs(unit, was or "absent", "enabled")
        ]
        unmasked = [unit for unit in enable if _unmask(unit)]
        if enable:
            # Past systemd: told of it, it would call every unit out of date until it has read all.
            self.run("systemctl", "--root=/", "enable", *enable)
        starting = [unit for unit in enabled if states[unit]["ActiveState"] != "active"]
        differ = [
            unit for unit in [*starting, *restart] if states[unit]["NeedDaemonReload"] == "yes"
        ]
        self.read_again(
            wanted=reload or self.stale or any(stale) or bool(enable),
            now=bool(unmasked or differ),
        )
        if stop:
            self.run("systemctl", "stop", *stop)
        for unit in starting:
            was = states[unit]["ActiveState"]
            if unit not in restart and self.differs(unit, was, "active"):
                self.run("systemctl", "start", unit)
        for unit in restart:
            if self.differs(unit, "started with the old files", "restarted"):
                self.run("systemctl", "restart", unit)

    def _mask(self, unit: str, held: Collection[str]) -> bool:
        """Mask a unit; return whether systemd, which holds it, has to read its files again."""
        path = Path(ETC, unit)
        link = path.readlink() if path.is_symlink() else None
        if link == NOTHING:
            return False
        was = "a file" if link is None and path.exists() else str(link or "not masked")
        if not self.differs(unit, was, "masked"):
            return False
        with safe.beside(str(path)) as (folder, name):
            folder.unlink(name, missing_ok=True)
            folder.symlink(str(NOTHING), name)
        return unit in held or unit in {
            f"{name.partition('@')[0]}@.service" for name in held if "@" in name
        }

    def read_again(self, *, wanted: bool, now: bool) -> None:
        """Make systemd read its files again ``now``, or leave word that it has to."""
        if self.check or not (wanted or now):
            return
        with safe.beside(PUT_OFF) as (folder, name):
            if not now:
                folder.write(name, b"", 0o644)
                return
            self.run("systemctl", "daemon-reload")
            self.stale = False
            folder.unlink(name, missing_ok=True)

    def settle(self) -> None:
        """Make systemd read its files again if that was put off. No change: others told of it."""
        if Path(PUT_OFF).exists():
            self.read_again(wanted=True, now=True)

    def _held(self) -> set[str]:
        """Return the units systemd holds, started or not; asking about one makes it hold that."""
        text = self.run(
            "systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager"
        )
        return {line.split()[0] for line in lines_of(text) if line.strip()}

    def _states(self, units: Collection[str]) -> dict[str, dict[str, str]]:
        if not units:
            return {}
        names = sorted(units)
        text = self.run(
            "systemctl",
            "show",
            "--property=Id,ActiveState,UnitFileState,NeedDaemonReload",
            "--",
            *names,
        )
        blocks = [
            dict(line.split("=", 1) for line in lines_of(block) if "=" in line)
            for block in text.strip("\n").split("\n\n")
        ]
        if len(blocks) != len(names):
            raise TroubleError(f"systemctl show spoke of {len(blocks)} units, not {len(names)}")
        return dict(zip(names, blocks, strict=True))

    # -- mounts and swap --------------------------------------------------------------------------

    def mounts(self, wanted: Mapping[str, Sequence[str]]) -> None:
        """Mount what must be mounted, with the options it must have."""
        held = {mount.point: mount.options for mount in handles.mounts()}
        for point, options in sorted(wanted.items()):
            if point not in held:
                if self.differs(point, "not mounted", ",".join(options)):
                    self._mount(point)
                continue
            missing = [option for option in options if option not in held[point]]
            if missing and self.differs(
                point, ",".join(sorted(held[point])), "and " + ",".join(missing)
            ):
                self.run("mount", "-o", "remount," + ",".join(options), point)

    def _mount(self, point: str) -> None:
        if _in_fstab(point):
            self.run("mount", point)
        else:
            self.settle()
            self.run("systemctl", "start", f"{point.strip('/').replace('/', '-')}.mount")

    def fstab(self, entries: Iterable[Json], *, no_swap: bool) -> None:
        """Hold lines of /etc/fstab; comment out removable media and plain swap."""
        text = _text(FSTAB) if Path(FSTAB).exists() else ""
        wanted = {entry["point"]: entry for entry in entries}
        lines = [_kept(line, wanted, no_swap=no_swap) for line in lines_of(text)]
        lines += [_fstab_line(entry) for entry in wanted.values()]
        new = "\n".join(lines) + "\n"
        if new.rstrip("\n") != text.rstrip("\n") and self.differs(FSTAB, text, new):
            with safe.beside(FSTAB) as (folder, name):
                folder.write(name, new.encode("utf-8", "surrogateescape"), 0o644)
            self.stale = True  # mount units are made from it when systemd reads its files again

    def unmount(self, types: Collection[str]) -> None:
        """Take away what is mounted of some types; what is mounted on it goes with it."""
        found = [
            mount
            for mount in handles.mounts()
            if mount.kind in types and not (mount.kind == "vfat" and mount.point in EFI)
        ]
        # The outermost first, whose owner may let nobody see inside; of one point the topmost.
        for _, mount in sorted(
            enumerate(found), key=lambda one: (one[1].point.count("/"), -one[0])
        ):
            there = mount in handles.mounts()
            if there and self.differs(shown(mount.point), f"mounted ({mount.kind})", "not mounted"):
                handles.unmount(mount)

    def set_aside(self, entries: Iterable[Json]) -> None:
        """Move files away in which a line matches."""
        for entry in entries:
            try:
                pattern = re.compile(entry["regex"])
            except re.error as bad:
                raise TroubleError(f"set_aside: {entry['regex']!r} is no pattern: {bad}") from None
            for path in handles.matching(entry["glob"]):
                if path == entry["but"] or not Path(path).is_file():
                    continue
                text = _text(path).replace("\\\n", "")
                lines = [line for line in lines_of(text) if not line.lstrip().startswith("#")]
                if any(pattern.search(line) for line in lines) and self.differs(
                    path, "in force", "set aside"
                ):
                    safe.set_aside(path, QUARANTINE)

    def no_swap(self) -> None:
        """Switch plain swap off."""
        crypt = {
            "/dev/" + path.split("/")[4]
            for path in handles.matching("/sys/class/block/dm-*/dm/uuid")
            if _text(path).startswith("CRYPT-")
        }
        for line in lines_of(_text("/proc/swaps"))[1:]:
            name = line.split()[0].replace("\\040", " ")
            if name in crypt or fnmatch.fnmatch(name, "/dev/zram*"):
                continue
            if self.differs("swap", name, "off"):
                self.run("swapoff", name)


#: Bits of /proc/sys/kernel/tainted that speak of foreign code (tainted-kernels.rst).
FOREIGN_CODE = sum(1 << bit for bit in (0, 1, 3, 8, 10, 12, 13, 15, 18))


def _tainted() -> bool:
    text = _text("/proc/sys/kernel/tainted")
    return text.isascii() and text.isdecimal() and bool(int(text[:10]) & FOREIGN_CODE)


def _removable(words: Sequence[str]) -> bool:
    options = set(words[3].split(",")) if len(words) > 3 else set()
    return bool(
        options & {"user", "users", "owner", "group", "noauto", "x-systemd.automount"}
        or set(words[2].split(",")) & FOREIGN
        or (words[2] in ("vfat", "msdos") and words[1] not in EFI)
        or re.match(r"/dev/(sr|fd|mmcblk|cdrom)", words[0])
        or re.match(r"/(media|mnt|run/media)(/|$)", words[1])
    )


def _kept(line: str, wanted: dict[str, Json], *, no_swap: bool) -> str:
    """Return a line of fstab as it should be; takes what it holds out of ``wanted``."""
    words = line.split()
    if len(words) < 3 or words[0].startswith("#"):
        return line
    if words[1] in wanted:
        new = _fstab_line(wanted.pop(words[1]))
        return line if words == new.split() else new
    if _removable(words):
        return f"# removable media are not mounted here: {line}"
    if no_swap and words[2] == "swap" and not words[0].startswith("/dev/mapper/"):
        return f"# plain swap keeps what must be erasable: {line}"
    return line


def _fstab_line(entry: Json) -> str:
    return f"{entry['source']} {entry['point']} {entry['type']} {entry['options']} 0 0"


def _in_fstab(point: str) -> bool:
    if not Path(FSTAB).exists():
        return False
    lines = (line.split() for line in lines_of(_text(FSTAB)))
    return any(len(w) > 2 and w[1] == point and not w[0].startswith("#") for w in lines)


def _unmask(unit: str) -> bool:
    """Take away what masks a unit; return whether it was masked."""
    path = Path(ETC, unit)
    if not path.is_symlink() or path.readlink() != NOTHING:
        return False
    with safe.beside(str(path)) as (folder, name):
        folder.unlink(name)
    return True


def _started(argv: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT,
        timeout=TIME_LIMIT_S, check=False,
    )  # fmt: skip


def _text(path: str) -> str:
    return handles.text_of(path).strip()


def _write(path: str, value: str) -> None:
    """Write to a file of the kernel's, in place."""
    try:
        with Path(path).open("w", encoding="ascii") as out:
            out.write(value)
    except (OSError, UnicodeEncodeError) as bad:
        raise TroubleError(f"{path}: {value!r} not accepted: {bad}") from None


def _dicts(**kinds: str) -> Json:
    """Return the form of a list of dictionaries; keys whose values are texts must be there."""
    options = {name: {"type": kind, "required": kind == "str"} for name, kind in kinds.items()}
    return {"type": "list", "elements": "dict", "default": [], "options": options}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "sysctl": {"type": "str", "default": ""},
            "unload": {"type": "list", "elements": "str", "default": []},
            "unload_tainted": {"type": "bool", "default": False},
            "values": _dicts(path="str", value="str", accept="list", optional="bool"),
            "masked": {"type": "list", "elements": "str", "default": []},
            "enabled": {"type": "list", "elements": "str", "default": []},
            "at_boot": {"type": "list", "elements": "str", "default": []},
            "reload": {"type": "bool", "default": False},
            "settle": {"type": "bool", "default": False},
            "restart": {"type": "list", "elements": "str", "default": []},
            "mounts": {"type": "dict", "default": {}},
            "fstab": _dicts(source="str", point="str", type="str", options="str"),
            "unmount": {"type": "list", "elements": "str", "default": []},
            "set_aside": _dicts(glob="str", regex="str", but="str"),
            "no_swap": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    asked = module.params
    live = Live(check=module.check_mode, warn=module.warn)
    try:
        if asked["sysctl"]:
            live.sysctl(asked["sysctl"])
        live.values(asked["values"])
        live.set_aside(asked["set_aside"])
        live.unmount(asked["unmount"])
        if asked["unload"] or asked["unload_tainted"]:
            live.unload(asked["unload"], tainted=asked["unload_tainted"])
        if asked["fstab"] or asked["no_swap"]:
            live.fstab(asked["fstab"], no_swap=asked["no_swap"])
        if asked["no_swap"]:
            live.no_swap()
        if live.stale or any(
            asked[name] for name in ("masked", "enabled", "at_boot", "reload", "restart")
        ):
            live.units(
                asked["masked"],
                asked["enabled"],
                asked["at_boot"],
                reload=asked["reload"],
                restart=asked["restart"],
            )
        if asked["mounts"]:
            live.mounts(asked["mounts"])
        if asked["settle"]:
            live.settle()
    except (TroubleError, OSError, subprocess.SubprocessError) as bad:
        module.fail_json(msg=str(bad), done=live.after)
    module.exit_json(
        changed=bool(live.after),
        changes=live.after,
        tainted=_tainted(),
        diff={
            "before": "\n".join(live.before) + "\n" if live.before else "",
            "after": "\n".join(live.after) + "\n" if live.after else "",
            "before_header": "running system",
            "after_header": "running system",
        },
    )


if __name__ == "__main__":
    main()
