"""What the kernel was started with, and will be: every word of its command line.

Sources: kernel-command-line(7), grub.cfg (``linux``), /etc/default/grub, the boot loader
specification (``options``), systemd.system-credentials(7).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sekisho.devices.boot_line import risky_words
from sekisho.probes.model import Probe, ProbeError, Read, files

_RUNNING = "/proc/cmdline"
_CREDENTIALS = "/run/credentials/@system/"
#: systemd reads this EFI variable as if it stood on the kernel's line.
_EFI = "/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67"
#: Where the boot loader says which image and which file system it took: not the kernel's doing.
_PLACE = re.compile(r"(BOOT_IMAGE|root)=\S+")
_SETTING = re.compile(r"(?:export\s+)?GRUB_CMDLINE_\w*\+?=(?P<words>.*)")
_GRUB_LINE = re.compile(r"linux\S*+\s++\S++(?P<words>.*)")


def _words(path: str, line: str) -> list[str]:
    """Return the kernel's words in one line of a boot loader's file; a line of none gives none."""
    text = line.strip()
    if path.endswith("/cmdline"):
        return text.split()
    if path.endswith(".conf"):
        return text.split()[1:] if re.match(r"options\s", text) else []
    if path.startswith("/etc/default/"):
        match = _SETTING.fullmatch(text)
        if match and text.count('"') % 2 == text.count("'") % 2 == 0:
            words = [w for w in re.split(r"[\s\"']+", match["words"]) if w]
            return [w for w in words if not re.fullmatch(r"\$\{?GRUB_CMDLINE_\w+\}?", w)]
        # Whatever else sets it (eval, declare, a command) is no word of anybody's declaration.
        odd = "GRUB_CMDLINE" in text and not text.startswith("#")
        return [f"unread:{'_'.join(text.split())[:80]}"] if odd else []
    if match := _GRUB_LINE.fullmatch(text):
        return match["words"].split()
    return []


def _joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").split("\n")


def _boot(raw: Mapping[str, Any]) -> dict[str, Any]:
    found = files(raw, "files")
    running = found.get(_RUNNING)
    if running is None or running.text is None:
        raise ProbeError(f"{_RUNNING}: not readable")
    now = running.text.split()
    next_words: dict[str, set[str]] = {}
    roots = {word for word in now if word.startswith("root=")}
    for path, entry in found.items():
        if path in (_RUNNING, _EFI) or path.startswith(_CREDENTIALS):
            continue
        if entry.kind == "dir":
            continue
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'not a regular file'}")
        words = {word for line in _joined(entry.text) for word in _words(path, line)}
        if path.startswith("/boot/"):
            # Debian's rescue entries say "single": they ask for root's password, which is locked.
            words.discard("single")
            roots |= {word for word in words if word.startswith("root=")}
        next_words[path] = words
    handed = sorted(
        path.removeprefix(_CREDENTIALS) for path in found if path.startswith(_CREDENTIALS)
    )
    return {
        "running": risky_words(running.text),
        "disk": sorted(
            f"{path}: {word}"
            for path, words in next_words.items()
            for word in risky_words(" ".join(words))
        ),
        "running_words": sorted({word for word in now if not _PLACE.fullmatch(word)}),
        "disk_words": sorted(
            {word for words in next_words.values() for word in words if not _PLACE.fullmatch(word)}
        ),
        "other_roots": sorted(roots) if len(roots) > 1 else [],
        "handed_over": [
            *handed,
            *(["EFI variable SystemdOptions"] if _EFI in found else []),
        ],
    }


PROBES = (
    Probe(
        name="boot_words",
        operations={
            "files": Read(
                (
                    *(_RUNNING, _EFI, f"{_CREDENTIALS}*"),
                    *("/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/kernel/cmdline"),
                    *(
                        "/boot/grub/grub.cfg",
                        "/boot/grub/custom.cfg",
                        "/boot/loader/entries/*.conf",
                    ),
                    *("/boot/efi/loader/entries/*.conf", "/efi/loader/entries/*.conf"),
                    *("/boot/efi/EFI/*/grub.cfg",),
                )
            )
        },
        parse=_boot,
    ),
)
