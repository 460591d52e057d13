"""What gets into programs without their asking: preloaded libraries, variables, loader folders.

Every file from which a login, a service or systemd takes its environment is read, the vendor's
folders too; the dynamic loader's cache is asked where libraries really come from.
Sources: ld.so(8), ldconfig(8), environment.d(5), systemd-system.conf(5) DefaultEnvironment=,
pam_env.conf(5), sudo.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output

PRELOAD = "/etc/ld.so.preload"
#: Variables that make a program load or run something of another's choosing.
_VARIABLE = re.compile(
    r"(?<![A-Za-z0-9_])(?P<key>LD_[A-Z0-9_]+|PYTHON[A-Z0-9_]+|PERL5(?:LIB|OPT|DB)|RUBY(?:LIB|OPT)"
    r"|NODE_(?:OPTIONS|PATH)|JAVA_TOOL_OPTIONS|BASH_ENV|ENV|SHELLOPTS|BASHOPTS|PS4|GCONV_PATH"
    r"|GLIBC_TUNABLES|LOCPATH|NLSPATH|OPENSSL_(?:CONF|ENGINES|MODULES)|GIO_[A-Z_]*MODULE[A-Z_]*)"
    r"(?=[ \t]*=|[ \t]+(?:DEFAULT|OVERRIDE)[ \t]*=)",
    re.ASCII,
)
_SYSTEM = ("/etc", "/run", "/usr/lib", "/usr/local/lib")
#: Debian's own folders of libraries; /usr/local's are Debian's too, and have a check of their own.
_FOLDER = re.compile(
    r"(/usr(/local)?)?/lib(32|64|x32)?(/[a-z0-9_]+-linux-[a-z0-9]+)?(/glibc-hwcaps/[a-z0-9-]+)?",
    re.ASCII,
)
_INCLUDE = "/etc/ld.so.conf.d/*.conf"
_CACHED = re.compile(r"\t[^\t]+ => (?P<folder>/.*)/[^/]+")


def _settings(entry: FileOutcome) -> Iterator[str]:
    """Yield the lines of a file that are no comment, continued ones joined."""
    for line in (entry.text or "").replace("\\\n", " ").split("\n"):
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            yield line


def _variables(lines: Iterator[str]) -> set[str]:
    return {match["key"] for line in lines for match in _VARIABLE.finditer(line)}


def _loader(found: Mapping[str, FileOutcome], cache: str) -> list[str]:
    """Return folders the loader searches, by its settings and its cache, that are not Debian's."""
    odd = set()
    for path, entry in found.items():
        for line in _settings(entry):
            word = line.partition("#")[0].strip()
            if word.split() == ["include", _INCLUDE] and path == "/etc/ld.so.conf":
                continue
            if not _FOLDER.fullmatch(word.rstrip("/")):
                odd.add(f"{path}: {word}")
    lines = [line for line in cache.split("\n") if " => " in line]
    if not lines:
        raise ProbeError("ldconfig -p: not one library")
    for line in lines:
        match = _CACHED.fullmatch(line)
        folder = match["folder"] if match else line.strip()[:80]
        if not _FOLDER.fullmatch(folder):
            odd.add(f"ld.so.cache: {folder}")
    return sorted(odd)


def _preload(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    unread = [
        f"{path}: {entry.error}"
        for path, entry in found.items()
        if entry.error is not None
        and not (entry.kind == "link" and "No such" in entry.error)
        and not path.startswith("/home/")
    ]
    if unread:
        raise ProbeError("; ".join(unread)[:200])
    preload = found.get(PRELOAD)
    return {
        "preloaded": [] if preload is None else (preload.text or "").split(),
        "environment": sorted(
            {
                f"{path}: {key}"
                for path, entry in found.items()
                if path != PRELOAD
                for key in _variables(_settings(entry))
            }
            # A person's own folder that hides behind a link: told, and no trouble for the rest.
            | {
                f"{path}: not read: {entry.error}"
                for path, entry in found.items()
                if path.startswith("/home/") and entry.error is not None
            }
        ),
        "sudo_plugins": sorted(
            line.strip()
            for line in (_settings(found["/etc/sudo.conf"]) if "/etc/sudo.conf" in found else ())
            if line.strip().lower().startswith("plugin")
        ),
    }


def _loader_fact(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"folders": _loader(files(raw, "files"), output(raw, "cache"))}


def _manager(raw: Mapping[str, Any]) -> dict[str, Any]:
    text = output(raw, "environment")
    if "=" not in text:
        raise ProbeError("systemctl show-environment: not one variable")
    return {"variables": sorted(_variables(iter(text.split("\n"))))}


PROBES = (
    Probe(
        name="preload",
        operations={
            "files": Read(
                (
                    *(PRELOAD, "/etc/sudo.conf", "/etc/environment"),
                    *("/etc/security/pam_env.conf", "/etc/default/*"),
                    *(f"{folder}/environment.d/*" for folder in _SYSTEM),
                    *("/home/*/.config/environment.d/*", "/root/.config/environment.d/*"),
                    *("/home/*/.pam_environment", "/root/.pam_environment"),
                    *("/etc/profile", "/etc/profile.d/*", "/etc/bash.bashrc"),
                    *(
                        f"{folder}/systemd/{name}.conf{ending}"
                        for folder in _SYSTEM
                        for name in ("system", "user")
                        for ending in ("", ".d/*")
                    ),
                )
            )
        },
        parse=_preload,
    ),
    Probe(
        name="loader",
        operations={
            "files": Read(("/etc/ld.so.conf", "/etc/ld.so.conf.d/*")),
            "cache": Run(("ldconfig", "-p")),
        },
        parse=_loader_fact,
    ),
    Probe(
        name="manager-environment",
        operations={"environment": Run(("systemctl", "show-environment"))},
        parse=_manager,
    ),
)
