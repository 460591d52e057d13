"""Mounts now and after a boot, swap, core dumps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.kernel import effective_files
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, files, text_of

#: Types whose data lies on another machine, on removable media, or comes from a user's program.
FOREIGN_TYPES = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "coda", "orangefs", "gfs2", "ocfs2"),
        *("lustre", "glusterfs", "virtiofs", "vboxsf", "iso9660", "udf", "hfs", "hfsplus"),
        *("exfat", "ntfs", "ntfs3", "fuse", "fuseblk"),
    )
)
_UNIT_DIRS = (
    *("/usr/lib/systemd/system", "/usr/local/lib/systemd/system", "/run/systemd/system"),
    "/etc/systemd/system",
)
#: Drop-ins of one mount and of all mounts.
_TMP = "tmp.mount"
_DROP_INS = ("mount.d", f"{_TMP}.d")
#: Words of mount(8) that take another back, or bring others with them.
_UNDO = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro"}
_BRING = {"user": ("noexec", "nosuid", "nodev"), "users": ("noexec", "nosuid", "nodev")}
_EFI = ("/boot/efi", "/efi", "/boot")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), text)


def parse_mountinfo(text: str) -> dict[str, dict[str, Any]]:
    """Return mount point → type, source, options of /proc/<pid>/mountinfo; the topmost wins."""
    mounts: dict[str, dict[str, Any]] = {}
    for line in lines_of(text):
        left, sep, right = line.partition(" - ")
        fields, after = left.split(" "), right.split(" ")
        if not sep or len(fields) < 6 or len(after) < 3:
            raise ProbeError(f"mountinfo: garbled line {line[:60]!r}")
        mounts[_unescape(fields[4])] = {
            "type": after[0],
            "source": _unescape(after[1]),
            # options of the mount and of the file system, as mount(8) shows them
            "options": sorted({*fields[5].split(","), *after[2].split(",")}),
        }
    if "/" not in mounts:
        raise ProbeError("mountinfo: no root mount")
    return mounts


def parse_fstab(text: str) -> list[dict[str, Any]]:
    """Return fstab's entries: source, point, type, options."""
    entries = []
    for line in lines_of(text):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3:
            raise ProbeError(f"/etc/fstab: garbled line {line[:60]!r}")
        entries.append(
            {
                "source": _unescape(words[0]),
                "point": _unescape(words[1]),
                "type": words[2],
                "options": words[3].split(",") if len(words) > 3 else ["defaults"],
            }
        )
    return entries


def effective_options(words: Iterable[str]) -> list[str]:
    """Return mount options as the last of two that contradict each other leaves them."""
    held: dict[str, None] = {}
    for word in words:
        for one in (*_BRING.get(word, ()), word):
            held.pop(_UNDO.get(one, ""), None)
            for undone in (word for word, other in _UNDO.items() if other == one):
                held.pop(undone, None)
            held[one] = None
    return sorted(held)


def _unit_options(text: str) -> list[str] | None:
    held = None
    for line in lines_of(text):
        key, sep, value = line.strip().partition("=")
        if sep and key == "Options":
            held = value.replace("%%", "%").split(",")  # the last assignment counts
    return held


def _persistent_tmp(
    units: Mapping[str, FileOutcome], fstab: list[dict[str, Any]]
) -> list[str] | None:
    """Return the options /tmp gets at boot; None when nothing mounts it (systemd.unit(5))."""
    own = units.get(f"/etc/systemd/system/{_TMP}") or units.get(f"/run/systemd/system/{_TMP}")
    if own is not None and own.target == "/dev/null":
        return None
    line = next((entry for entry in fstab if entry["point"] == "/tmp"), None)  # noqa: S108
    shipped = units.get(f"/usr/local/lib/systemd/system/{_TMP}") or units.get(
        f"/usr/lib/systemd/system/{_TMP}"
    )
    if own is not None:
        options = _unit_options(own.text or "")
    elif line is not None:
        options = list(line["options"])
    elif shipped is not None:
        options = _unit_options(shipped.text or "")
    else:
        return None
    dirs = tuple(f"{folder}/{name}" for name in _DROP_INS for folder in _UNIT_DIRS)
    for entry in effective_files(
        {path: entry for path, entry in units.items() if path.endswith(".conf")}, dirs
    ):
        options = _unit_options(entry.text or "") or options
    return options or []


def _mounts(raw: Mapping[str, Any]) -> dict[str, Any]:
    tables = files(raw, "tables")
    # A sandboxed collector has mounts of its own; those of PID 1 are the machine's.
    whole = tables.get("/proc/1/mountinfo")
    table = "/proc/1/mountinfo" if whole and whole.text else "/proc/self/mountinfo"
    mounts = parse_mountinfo(text_of(tables, table))
    fstab_file = tables.get("/etc/fstab")
    if fstab_file is not None and fstab_file.text is None:
        raise ProbeError(f"/etc/fstab: {fstab_file.error or 'no content'}")
    fstab = parse_fstab(fstab_file.text or "") if fstab_file else []
    persistent: dict[str, list[str]] = {}
    tmp = _persistent_tmp(files(raw, "units"), fstab)
    if tmp is not None:
        persistent["/tmp"] = effective_options(tmp)  # noqa: S108
    for entry in fstab:
        if entry["point"] not in ("/tmp", "none", "swap"):  # noqa: S108
            persistent[entry["point"]] = effective_options(entry["options"])
    return {
        "runtime": mounts,
        "persistent": persistent,
        "foreign": sorted(
            point
            for point, held in mounts.items()
            if (held["type"] in FOREIGN_TYPES or held["type"].startswith("fuse."))
            or (held["type"] in ("vfat", "msdos") and point not in _EFI)
        ),
        "fstab_removable": [
            f"{entry['source']} {entry['point']}" for entry in fstab if _removable(entry)
        ],
    }


def _removable(entry: Mapping[str, Any]) -> bool:
    """Return whether an fstab line lets media in: by hand, by users, on demand, from elsewhere."""
    options = set(entry["options"])
    return bool(
        options & {"user", "users", "owner", "group", "noauto", "x-systemd.automount"}
        or set(entry["type"].split(",")) & (FOREIGN_TYPES | {"auto"})
        or entry["type"].startswith("fuse.")
        or (entry["type"] in ("vfat", "msdos") and entry["point"] not in _EFI)
        or re.match(r"/dev/(sr|fd|mmcblk|cdrom)", entry["source"])
        or re.match(r"/(media|mnt|run/media)(/|$)", entry["point"])
    )


def _swap(raw: Mapping[str, Any]) -> dict[str, Any]:
    tables = files(raw, "tables")
    lines = lines_of(text_of(tables, "/proc/swaps"))
    if not lines or not lines[0].startswith("Filename"):
        raise ProbeError("/proc/swaps: no heading")
    mapped = {
        f"/dev/{path.split('/')[4]}"
        for path, entry in files(raw, "mapped").items()
        if (entry.text or "").startswith("CRYPT-")
    }
    active = [_unescape(line.split()[0]) for line in lines[1:] if line.split()]
    fstab_file = tables.get("/etc/fstab")
    fstab = parse_fstab((fstab_file.text or "") if fstab_file else "")
    configured = [entry["source"] for entry in fstab if entry["type"] == "swap"]
    # A mapped device is encrypted when crypttab makes it, or dm-crypt has it now; LVM maps, too.
    crypttab = tables.get("/etc/crypttab")
    encrypted = {
        f"/dev/mapper/{line.split()[0]}"
        for line in ((crypttab.text or "") if crypttab else "").split("\n")
        if line.strip() and not line.lstrip().startswith("#")
    } | {
        f"/dev/mapper/{(entry.text or '').strip()}"
        for path, entry in files(raw, "names").items()
        if f"/dev/{path.split('/')[4]}" in mapped
    }
    units = [path for path, entry in files(raw, "units").items() if entry.target != "/dev/null"]
    return {
        # zram stays in memory; a mapped device of type CRYPT is encrypted
        "plain": [
            name for name in active if name not in mapped and not name.startswith("/dev/zram")
        ],
        "configured": [
            name
            for name in configured
            if name not in encrypted and not name.startswith("/dev/zram")
        ]
        + units,
    }


def _sleep(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sleep states the running kernel offers; ``disk`` is hibernation."""
    state = files(raw, "state").get("/sys/power/state")
    if state is None:
        return {"states": []}  # a kernel that cannot sleep at all
    if state.text is None:
        raise ProbeError(f"/sys/power/state: {state.error or 'no content'}")
    return {"states": state.text.split()}


def _core_dumps(raw: Mapping[str, Any]) -> dict[str, Any]:
    limits: dict[str, str] = {}
    last: dict[tuple[str, str], tuple[str, str]] = {}
    for entry in effective_files(files(raw, "limits"), ("/etc/security", "/etc/security/limits.d")):
        for line in lines_of(entry.text or ""):
            words = line.split("#", 1)[0].split()
            if len(words) == 4 and words[2] == "core" and words[1] in ("hard", "-"):
                limits[words[0]] = words[3]
            # A line for one person or group counts over the one for everybody, and of two lines for
            # the same the later (pam_limits(8)).
            if len(words) == 4 and words[2] == "core":
                for kind in ("soft", "hard") if words[1] == "-" else (words[1],):
                    last[words[0], kind] = words[3], f"{entry.path}: {' '.join(words)}"
    manager: dict[str, str] = {}
    for label in ("manager", "coredump"):
        for entry in effective_files(files(raw, label), _CONF_DIRS[label]):
            for line in lines_of(entry.text or ""):
                key, sep, value = line.strip().partition("=")
                if sep and not key.startswith(("#", ";")):
                    manager[key] = value
    now = text_of(files(raw, "now"), "/proc/1/limits")
    held = re.search(r"^Max core file size\s+(\S+)\s+(\S+)", now, re.MULTILINE)
    return {
        "limits": limits,
        "raised": sorted({line for value, line in last.values() if value != "0"}),
        "units": manager.get("DefaultLimitCORE", "unset"),
        "storage": manager.get("Storage", "unset"),
        "handler": "installed"
        if "/usr/lib/systemd/systemd-coredump" in files(raw, "handler")
        else "absent",
        "pid1": held[2] if held else "unknown",
    }


_CONF_DIRS = {
    label: tuple(
        f"{folder}/systemd/{name}.conf.d"
        for folder in ("/usr/lib", "/usr/local/lib", "/run", "/etc")
    )
    for label, name in (("manager", "system"), ("coredump", "coredump"))
}


PROBES = (
    Probe(
        name="mounts",
        operations={
            "tables": Read(("/proc/1/mountinfo", "/proc/self/mountinfo", "/etc/fstab")),
            "units": Read(
                (
                    *(f"{folder}/{_TMP}" for folder in _UNIT_DIRS),
                    *(f"{folder}/{name}/*.conf" for folder in _UNIT_DIRS for name in _DROP_INS),
                )
            ),
        },
        parse=_mounts,
    ),
    Probe(
        name="swap",
        operations={
            "tables": Read(("/proc/swaps", "/etc/fstab", "/etc/crypttab")),
            "mapped": Read(("/sys/class/block/dm-*/dm/uuid",)),
            "names": Read(("/sys/class/block/dm-*/dm/name",)),
            "units": Read(("/etc/systemd/system/*.swap",), content=False),
        },
        parse=_swap,
    ),
    Probe(name="sleep", operations={"state": Read(("/sys/power/state",))}, parse=_sleep),
    Probe(
        name="core-dumps",
        operations={
            "limits": Read(("/etc/security/limits.conf", "/etc/security/limits.d/*.conf")),
            "manager": Read(tuple(f"{folder}/*.conf" for folder in _CONF_DIRS["manager"])),
            "coredump": Read(tuple(f"{folder}/*.conf" for folder in _CONF_DIRS["coredump"])),
            "handler": Read(("/usr/lib/systemd/systemd-coredump",), content=False),
            "now": Read(("/proc/1/limits",)),
        },
        parse=_core_dumps,
    ),
)
