"""SSH facts: what sshd makes of its configuration, what stands on disk, what runs.

``sshd -T`` reads every file as the next start would; whether the running sshd has read them too is
told by comparing the files' times with the unit's last change of state (a reload counts).
Sources: sshd(8), sshd_config(5), systemd.unit(5), systemd-ssh-generator(8).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.model import Probe, ProbeError, Read, Run, files, output

#: Words that may stand several times in ``sshd -T``, each with a value of its own.
MANY = ("listenaddress", "hostkey", "port", "acceptenv", "subsystem", "setenv")
#: Comma-separated lists.
LISTS = (
    *("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "pubkeyacceptedalgorithms"),
    *("casignaturealgorithms",),
)
#: Repeated, one pattern a line or several words a line.
WORDS = ("allowusers", "denyusers", "allowgroups", "denygroups", "authorizedkeysfile")
BANNER = "/etc/issue.net"
MAIN_FILE = "/etc/ssh/sshd_config"
#: Older names that sshd still takes (sshd_config(5)).
_ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "dsaauthentication": "pubkeyauthentication",
}
_PROPERTIES = (
    *("Id", "ActiveState", "UnitFileState", "StateChangeTimestamp", "ExecStart", "Environment"),
    *("EnvironmentFiles", "NeedDaemonReload"),
)


def read_effective(text: str) -> dict[str, Any]:
    """Return ``sshd -T`` as a mapping: text, or a list where the keyword takes several values."""
    found: dict[str, Any] = {}
    for line in lines_of(text):
        key, sep, value = line.partition(" ")
        if not re.fullmatch(r"[a-z0-9]+", key):
            raise ProbeError(f"sshd -T: not a setting: {line[:80]!r}")
        if key in LISTS:
            found[key] = [entry for entry in value.split(",") if entry]
        elif key in MANY:
            found.setdefault(key, []).append(value)
        elif key in WORDS:
            found.setdefault(key, []).extend(value.split())
        else:
            found[key] = value if sep else ""
    if "port" not in found or "permitrootlogin" not in found:
        raise ProbeError("sshd -T: cut short: neither port nor permitrootlogin")
    for key in WORDS[:4]:
        found.setdefault(key, [])
    return found


def read_includes(text: str) -> list[str]:
    """Return the paths named by ``Include`` lines of one configuration file."""
    return [path for key, words, _ in _lines(text) if key == "include" for path in words]


def _lines(text: str) -> list[tuple[str, list[str], str]]:
    """Return (keyword, values, the Match block's criteria or nothing) of every line of one file."""
    found, matched = [], ""
    for line in text.split("\n"):
        bare = line.split(" #", 1)[0].strip().rstrip("\r")
        if not bare or bare.startswith("#"):
            continue
        keyword, _, rest = re.sub(r"[\s=]", " ", bare, count=1).partition(" ")
        words = rest.strip().removeprefix("=").replace('"', "").split()
        key = keyword.lower()
        if key == "match":
            # `Match all` ends every condition; sshd -T follows it as it follows no other.
            matched = "" if [word.lower() for word in words] == ["all"] else " ".join(words)
        else:
            found.append((_ALIASES.get(key, key), words, matched))
    return found


def read_matched(files_read: Mapping[str, str]) -> dict[str, Any]:
    """Return what Match blocks set (``matched`` by keyword, ``blocks`` with their criteria).

    ``includes`` are those of all files, in order.

    ``files_read`` is text by path; the main file is read first, then what it includes. What
    stands in a Match block may hold for anybody: ``sshd -T`` tells nothing of it.

    Raises:
        ProbeError: a file is included that was not collected.

    """
    values: dict[str, set[str]] = {}
    blocks: set[str] = set()
    includes: list[str] = []
    queue = [(MAIN_FILE, "")]
    seen: set[tuple[str, str]] = set()
    while queue:
        path, inside = queue.pop(0)
        if (path, inside) in seen:
            continue
        seen.add((path, inside))
        for key, words, matched in _lines(files_read.get(path, "")):
            if key == "include":
                includes += words
                for pattern in words:
                    whole = pattern if pattern.startswith("/") else f"/etc/ssh/{pattern}"
                    if not whole.startswith(f"{MAIN_FILE}.d/"):
                        raise ProbeError(f"{path}: includes {whole[:80]}, which was not collected")
                    queue += [
                        (other, inside or matched)
                        for other in sorted(files_read)
                        if fnmatch(other, whole)
                    ]
            elif matched or inside:
                block = " ".join(filter(None, (inside, matched)))
                blocks.add(f"{block.lower()}: {key} {' '.join(words)}")
                told = words if key in WORDS else [" ".join(words)]
                told = told[0].split(",") if key in LISTS and told else told
                values.setdefault(key, set()).update(
                    word.lower() if word.lower() in ("yes", "no") else word for word in told
                )
    return {
        "matched": {key: sorted(held) for key, held in values.items()},
        "blocks": sorted(blocks),
        "includes": includes,
    }


def read_units(text: str) -> dict[str, dict[str, str]]:
    """Return the properties of ``systemctl show`` by unit."""
    units: dict[str, dict[str, str]] = {}
    for block in text.split("\n\n"):
        pairs = dict(line.split("=", 1) for line in lines_of(block) if "=" in line)
        if "Id" in pairs:
            units[pairs["Id"]] = pairs
    if "ssh.service" not in units:
        raise ProbeError("systemctl show: no ssh.service")
    return units


def _seconds(text: str) -> int | None:
    """Return systemd's ``@seconds`` as a number, None for a unit that never changed."""
    return int(text[1:]) if re.fullmatch(r"@\d+", text) else None


def _newest(text: str) -> tuple[float, str]:
    newest = (0.0, "")
    for line in lines_of(text):
        when, _, path = line.partition(" ")
        try:
            newest = max(newest, (float(when), path))
        except ValueError:
            raise ProbeError(f"find: not a time: {line[:80]!r}") from None
    if not newest[1]:
        raise ProbeError(f"find: no {MAIN_FILE}")
    return newest


def _sshd(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    main = found.get(MAIN_FILE)
    if main is None or main.text is None:
        raise ProbeError(f"{MAIN_FILE}: {'no such file' if main is None else main.error}")
    host_keys = files(raw, "host_keys")
    defaults = found.get("/etc/default/ssh")
    banner = files(raw, "banner").get(BANNER)
    options = re.findall(
        r"^[^\S\n]*SSHD_OPTS=(.*)$", (defaults.text or "") if defaults else "", re.MULTILINE
    )
    effective = read_effective(output(raw, "effective"))
    texts = {path: entry.text for path, entry in found.items() if entry.text is not None}
    try:
        told = read_matched(texts)
        # sshd -T shows no word that takes several values while it has none.
        told["matched"] = {key: [] for key in (*effective, *MANY, *WORDS)} | told["matched"]
    except ProbeError:
        # Without the key `matched` what depends on it is an error; the include itself is told.
        told = {"includes": read_includes(main.text)}
    return told | {
        "effective": effective,
        "banner": (banner.text or "").strip() if banner else "",
        "settings_in_main": sorted({key for key, _, _ in _lines(main.text)} - {"include"}),
        "start_options": (options[-1].strip().strip("\"'") if options else ""),
        "loose": sorted(
            f"{path} {entry.mode:04o} owner {entry.uid}"
            for path, entry in found.items()
            if entry.kind != "link" and (entry.uid != 0 or entry.mode & 0o022)
        ),
        "loose_host_keys": sorted(
            f"{path} {entry.mode:04o} owner {entry.uid}"
            for path, entry in host_keys.items()
            if entry.uid != 0 or entry.mode & 0o077
        ),
        "host_keys": sorted(host_keys),
    }


def _started(text: str) -> list[str]:
    """Return the command lines of systemd's ``ExecStart``: ``{ path=… ; argv[]=… ; … }``."""
    parts = (part.partition(" ; ") for part in text.split("argv[]=")[1:])
    return [argv for argv, end, _ in parts if end]


def _listener(line: str) -> str:
    """Return the command line of sshd's listener from its title, or "" for another process."""
    name, _, rest = line.partition("sshd: ")
    argv, sep, _ = rest.rpartition(" [listener]")
    ours = sep and not re.search(r"\s", name) and re.search(r"sshd\b", argv)
    return argv if ours else ""


def _running(raw: Mapping[str, Any]) -> dict[str, Any]:
    units = read_units(output(raw, "units"))
    service = units["ssh.service"]
    changed = _seconds(service.get("StateChangeTimestamp", ""))
    when, path = _newest(output(raw, "times"))
    listeners = [
        argv
        for line in lines_of(output(raw, "processes", ok=(0, 1)))
        if (argv := _listener(line.strip()))
    ]
    active = service.get("ActiveState") == "active"
    return {
        "active": service.get("ActiveState", "unknown"),
        "enabled": service.get("UnitFileState", "unknown"),
        # Times have whole seconds here: a file written in the second of the reload counts as read.
        "stale_file": (
            ["sshd does not run"]
            if not active or changed is None
            else [path]
            if int(when) > changed
            else []
        ),
        "listeners": sorted(set(listeners)),
        # As the next start would run it, drop-ins of the unit included.
        "start": sorted(
            {
                *_started(service.get("ExecStart", "")),
                *(
                    f"{key}={service[key]}"
                    for key in ("Environment", "EnvironmentFiles")
                    if service.get(key)
                ),
            }
        ),
        "reload_wanted": service.get("NeedDaemonReload", "unknown"),
        "other_units": sorted(
            name
            for name, unit in units.items()
            if name != "ssh.service" and unit.get("ActiveState") in ("active", "activating")
        ),
        "generated": sorted(
            path for path, entry in files(raw, "generated").items() if entry.kind != "dir"
        ),
    }


PROBES = (
    Probe(
        name="sshd",
        operations={
            "effective": Run(("sshd", "-T")),
            "files": Read(
                (
                    MAIN_FILE,
                    "/etc/ssh/sshd_config.d",
                    "/etc/ssh/sshd_config.d/*",
                    "/etc/default/ssh",
                    "/etc/ssh/ssh_host_*_key.pub",
                )
            ),
            "host_keys": Read(("/etc/ssh/ssh_host_*_key",), content=False),
            "banner": Read((BANNER,)),
        },
        parse=_sshd,
    ),
    Probe(
        name="sshd_running",
        operations={
            "units": Run(
                (
                    *("systemctl", "show", "--timestamp=unix"),
                    f"--property={','.join(_PROPERTIES)}",
                    *("ssh.service", "ssh.socket", "sshd-vsock.socket", "sshd-unix-local.socket"),
                )
            ),
            "times": Run(
                (
                    *("find", MAIN_FILE, "/etc/ssh/sshd_config.d", "-type", "f"),
                    # Both times: a file moved into its place keeps the first one.
                    *("-printf", "%T@ %p\\n%C@ %p\\n"),
                )
            ),
            "processes": Run(("ps", "-C", "sshd", "-o", "args="), ok=(0, 1)),
            "generated": Read(
                (
                    "/run/systemd/generator/sshd-*",
                    "/run/systemd/generator/sockets.target.wants/sshd-*",
                ),
                content=False,
            ),
        },
        parse=_running,
    ),
)
