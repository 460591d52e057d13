#!/usr/bin/python
# SPDX-License-Identifier: GPL-2.0-or-later
"""Bring the running system to what stands on disk, in one module run, with check mode and diff."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
import subprocess

from ansible.module_utils.basic import AnsibleModule

from ansible.module_utils import sekisho_handles as handles
from ansible.module_utils import sekisho_safe_files as safe
from ansible.module_utils.sekisho_text import lines_of, shown

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
PUT_OFF = "/run/sekisho-reload-put-off"
EFI = ("/boot/efi", "/efi", "/boot")
FOREIGN = set(
    "nfs nfs4 cifs smb3 9p ceph iso9660 udf hfs hfsplus exfat ntfs ntfs3 fuse fuseblk auto".split()
)


class Trouble(Exception):
    """What could not be done; the administrator reads it."""


class Live:
    """Collects what differs, and mends it unless this is a check."""

    def __init__(self, check, warn):
        self.check, self.warn = check, warn
        self.before, self.after = [], []
        self.stale = False  # whether systemd has to read its files again

    def differs(self, what, before, after):
        self.before.append("%s: %s" % (what, before))
        self.after.append("%s: %s" % (what, after))
        return not self.check

    def run(self, *argv):
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, env=ENVIRONMENT, timeout=120
        )
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise Trouble("%s failed (status %d): %s" % (" ".join(argv), done.returncode, said))
        return done.stdout.decode("utf-8", "replace")

    # -- kernel ---------------------------------------------------------------------------------

    def sysctl(self, text):
        wanted = {}
        for line in lines_of(text):
            key, sep, value = line.strip().partition("=")
            if not sep or key.startswith(("#", ";")):
                continue
            key = key.strip()
            optional, key = key.startswith("-"), key.lstrip("-")
            pattern = "/proc/sys/" + key.replace(".", "/")
            paths = sorted(glob.glob(pattern))
            if not paths and not optional:
                self.warn("%s: this kernel has no such setting" % key)
            for path in paths:
                wanted.pop(path, None)  # the last one counts, at its own place
                wanted[path] = value.strip()
        for path, value in wanted.items():
            held = _text(path)
            if held.split() == value.split():
                continue
            if self.differs(path[len("/proc/sys/") :].replace("/", "."), held, value):
                _write(path, value)

    def values(self, entries):
        for entry in entries:
            path, value = entry["path"], entry["value"]
            if not os.path.exists(path):
                if not entry.get("optional"):
                    self.warn("%s: this kernel has no such file" % path)
                continue
            held = _text(path)
            if held in entry.get("accept", [value]):
                continue
            if self.differs(path, held, value):
                _write(path, value)

    def unload(self, modules, tainted):
        names = {name.replace("-", "_") for name in modules}
        if not os.path.exists("/proc/modules"):
            raise Trouble("/proc/modules: this kernel has no modules, or hides them")
        loaded = {line.split()[0]: line.split()[3] for line in lines_of(_text("/proc/modules"))}
        there = {name for name in loaded if name in names}
        if tainted:
            there |= {
                path.split("/")[3]
                for path in glob.glob("/sys/module/*/taint")
                if set(_text(path)) & set("FOEP")
            }
        for name in sorted(there):
            self.differs("module " + name, "loaded", "not loaded")
        if self.check or not there:
            return
        left = set(there)
        while left:  # users first: go round until a round takes none away
            gone = set()
            for name in sorted(left):
                done = subprocess.run(["rmmod", name], capture_output=True, env=ENVIRONMENT)
                if done.returncode == 0:
                    gone.add(name)
            left -= gone
            if not gone:
                users = {name: loaded[name] for name in sorted(left)}
                raise Trouble(
                    "modules that must not be loaded are in use: %s; stop what uses them, or "
                    "restart the machine (they do not load again)" % users
                )

    # -- units ----------------------------------------------------------------------------------

    def units(self, masked, enabled, at_boot, reload, restart):
        """Mask, enable, start and restart; make systemd read its files again only when it must.

        A reload costs seconds on a small machine. That of an enabled unit can wait (it counts from
        the next boot; systemd only says so of a unit it holds); masking needs one only where
        systemd holds the unit, and then it can wait.
        """
        held = self._held() if masked else set()
        # A template has no state; those of its instances that run go on until they end.
        plain = {unit for unit in masked if "@." not in unit}
        states = self._states(plain | set(enabled) | set(at_boot) | set(restart))
        reload = reload or self.stale
        stop, enable, unmasked = [], [], False
        for unit in masked:
            path = os.path.join(ETC, unit)
            link = os.readlink(path) if os.path.islink(path) else None
            if link != "/dev/null":
                was = "a file" if link is None and os.path.exists(path) else link or "not masked"
                if self.differs(unit, was, "masked"):
                    if os.path.lexists(path):
                        os.unlink(path)
                    os.symlink("/dev/null", path)
                    kin = {name.partition("@")[0] + "@.service" for name in held if "@" in name}
                    reload = reload or unit in held or unit in kin
            if unit in plain and states[unit]["ActiveState"] in ("active", "activating", "reloading"):
                if self.differs(unit, "running", "stopped"):
                    stop.append(unit)
        for unit in [*enabled, *at_boot]:
            # Not systemctl's word for it: before the file is there (check mode) it has none.
            if states[unit]["UnitFileState"] not in ("enabled", "static", "indirect"):
                if self.differs(unit, states[unit]["UnitFileState"] or "absent", "enabled"):
                    path = os.path.join(ETC, unit)
                    if os.path.islink(path) and os.readlink(path) == "/dev/null":
                        os.unlink(path)
                        unmasked = True
                    enable.append(unit)
        if enable:
            # Past systemd: told of it, it would call every unit out of date until it has read all.
            self.run("systemctl", "--root=/", "enable", *enable)
        starting = [unit for unit in enabled if states[unit]["ActiveState"] != "active"]
        differ = [unit for unit in [*starting, *restart] if states[unit]["NeedDaemonReload"] == "yes"]
        self.read_again(reload or unmasked or bool(enable), now=unmasked or bool(differ))
        if stop:
            self.run("systemctl", "stop", *stop)
        for unit in enabled:
            if unit not in restart and states[unit]["ActiveState"] != "active":
                if self.differs(unit, states[unit]["ActiveState"], "active"):
                    self.run("systemctl", "start", unit)
        for unit in restart:
            if self.differs(unit, "started with the old files", "restarted"):
                self.run("systemctl", "restart", unit)

    def read_again(self, wanted, now):
        """Make systemd read its files again ``now``, or leave word that it has to."""
        if self.check or not (wanted or now):
            return
        if not now:
            with open(PUT_OFF, "w"):
                pass
            return
        self.run("systemctl", "daemon-reload")
        self.stale = False
        if os.path.exists(PUT_OFF):
            os.unlink(PUT_OFF)

    def settle(self):
        """Make systemd read its files again if that was put off. No change: others told of it."""
        if os.path.exists(PUT_OFF):
            self.read_again(wanted=True, now=True)

    def _held(self):
        """Return the units systemd holds, started or not; asking about one makes it hold that."""
        text = self.run(
            "systemctl", "list-units", "--all", "--full", "--plain", "--no-legend", "--no-pager"
        )
        return {line.split()[0] for line in lines_of(text) if line.strip()}

    def _states(self, units):
        if not units:
            return {}
        names = sorted(units)
        text = self.run(
            "systemctl", "show", "--property=Id,ActiveState,UnitFileState,NeedDaemonReload",
            "--", *names
        )
        blocks = [dict(line.split("=", 1) for line in lines_of(block) if "=" in line)
                  for block in text.strip("\n").split("\n\n")]
        if len(blocks) != len(names):
            raise Trouble("systemctl show spoke of %d units, not %d" % (len(blocks), len(names)))
        return dict(zip(names, blocks))

    # -- mounts and swap --------------------------------------------------------------------------

    def mounts(self, wanted):
        held = {mount.point: mount.options for mount in handles.mounts()}
        for point, options in sorted(wanted.items()):
            if point not in held:
                if self.differs(point, "not mounted", ",".join(options)):
                    if _in_fstab(point):
                        self.run("mount", point)
                    else:
                        self.settle()
                        self.run("systemctl", "start", point.strip("/").replace("/", "-") + ".mount")
                continue
            missing = [option for option in options if option not in held[point]]
            if missing and self.differs(
                point, ",".join(sorted(held[point])), "and " + ",".join(missing)
            ):
                self.run("mount", "-o", "remount," + ",".join(options), point)

    def fstab(self, entries, no_swap):
        path = "/etc/fstab"
        text = _text(path) if os.path.exists(path) else ""
        lines, wanted = [], {entry["point"]: entry for entry in entries}
        for line in lines_of(text):
            words = line.split()
            kept = line
            if words and not words[0].startswith("#") and len(words) > 2:
                if words[1] in wanted:
                    kept = _fstab_line(wanted.pop(words[1]))
                    kept = line if line.split() == kept.split() else kept
                elif _removable(words):
                    kept = "# removable media are not mounted here: " + line
                elif no_swap and words[2] == "swap" and not words[0].startswith("/dev/mapper/"):
                    kept = "# plain swap keeps what must be erasable: " + line
            lines.append(kept)
        lines += [_fstab_line(entry) for entry in wanted.values()]
        new = "\n".join(lines) + "\n"
        if new.rstrip("\n") != text.rstrip("\n") and self.differs(path, text, new):
            temporary = path + ".sekisho"
            with open(temporary, "w") as out:
                os.fchmod(out.fileno(), 0o644)
                out.write(new)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
            self.stale = True  # mount units are made from it when systemd reads its files again

    def unmount(self, types):
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
            if there and self.differs(
                shown(mount.point), "mounted (%s)" % mount.kind, "not mounted"
            ):
                handles.unmount(mount)

    def set_aside(self, entries):
        for entry in entries:
            pattern = re.compile(entry["regex"])
            for path in sorted(glob.glob(entry["glob"], include_hidden=True)):
                if path == entry["but"] or not os.path.isfile(path):
                    continue
                text = _text(path).replace("\\\n", "")
                lines = [line for line in lines_of(text) if not line.lstrip().startswith("#")]
                if any(pattern.search(line) for line in lines) and self.differs(
                    path, "in force", "set aside"
                ):
                    safe.set_aside(path, QUARANTINE)

    def no_swap(self):
        crypt = {
            "/dev/" + path.split("/")[4]
            for path in glob.glob("/sys/class/block/dm-*/dm/uuid")
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


def _tainted():
    text = _text("/proc/sys/kernel/tainted")
    return text.isascii() and text.isdecimal() and bool(int(text[:10]) & FOREIGN_CODE)


def _removable(words):
    options = set(words[3].split(",")) if len(words) > 3 else set()
    return bool(
        options & {"user", "users", "owner", "group", "noauto", "x-systemd.automount"}
        or set(words[2].split(",")) & FOREIGN
        or (words[2] in ("vfat", "msdos") and words[1] not in EFI)
        or re.match(r"/dev/(sr|fd|mmcblk|cdrom)", words[0])
        or re.match(r"/(media|mnt|run/media)(/|$)", words[1])
    )


def _fstab_line(entry):
    return "%s %s %s %s 0 0" % (entry["source"], entry["point"], entry["type"], entry["options"])


def _in_fstab(point):
    if not os.path.exists("/etc/fstab"):
        return False
    lines = (line.split() for line in lines_of(_text("/etc/fstab")))
    return any(len(w) > 2 and w[1] == point and not w[0].startswith("#") for w in lines)


def _text(path):
    # A mount point's name may be anybody's, of any bytes.
    with open(path, encoding="utf-8", errors="surrogateescape") as handle:
        return handle.read().strip()


def _write(path, value):
    try:
        with open(path, "w") as handle:
            handle.write(value)
    except OSError as bad:
        raise Trouble("%s: %s not accepted: %s" % (path, value, bad.strerror))


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "sysctl": {"type": "str", "default": ""},
            "unload": {"type": "list", "elements": "str", "default": []},
            "unload_tainted": {"type": "bool", "default": False},
            "values": {"type": "list", "elements": "dict", "default": []},
            "masked": {"type": "list", "elements": "str", "default": []},
            "enabled": {"type": "list", "elements": "str", "default": []},
            "at_boot": {"type": "list", "elements": "str", "default": []},
            "reload": {"type": "bool", "default": False},
            "settle": {"type": "bool", "default": False},
            "restart": {"type": "list", "elements": "str", "default": []},
            "mounts": {"type": "dict", "default": {}},
            "fstab": {"type": "list", "elements": "dict", "default": []},
            "unmount": {"type": "list", "elements": "str", "default": []},
            "set_aside": {"type": "list", "elements": "dict", "default": []},
            "no_swap": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    asked = module.params
    live = Live(module.check_mode, module.warn)
    try:
        if asked["sysctl"]:
            live.sysctl(asked["sysctl"])
        live.values(asked["values"])
        live.set_aside(asked["set_aside"])
        live.unmount(asked["unmount"])
        if asked["unload"] or asked["unload_tainted"]:
            live.unload(asked["unload"], asked["unload_tainted"])
        if asked["fstab"] or asked["no_swap"]:
            live.fstab(asked["fstab"], asked["no_swap"])
        if asked["no_swap"]:
            live.no_swap()
        if live.stale or any(asked[name] for name in ("masked", "enabled", "at_boot", "reload", "restart")):
            live.units(
                asked["masked"], asked["enabled"], asked["at_boot"], asked["reload"], asked["restart"]
            )
        if asked["mounts"]:
            live.mounts(asked["mounts"])
        if asked["settle"]:
            live.settle()
    except (Trouble, OSError, subprocess.SubprocessError) as bad:
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
