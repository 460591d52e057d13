"""The kernel's command line: the words a machine may be started with. Pure.

A deny list never ends (systemd alone reads some forty words, credentials for root's keys among
them), so the whole line is what the site declares: the words the playbooks write (`WORDS`), a
terminal's own, those of the machine's ``boot:``, and the few that the boot loader writes itself.
Sources: kernel-command-line(7), systemd.system-credentials(7), bootparam(7).
"""

from __future__ import annotations

import re

#: What the role ``kernel`` writes for every machine (hardening/grub/sekisho.cfg).
WORDS = (
    *("usbcore.authorized_default=0", "initcall_blacklist=serial_pci_driver_init"),
    *("lockdown=integrity", "module.sig_enforce=1", "init_on_alloc=1", "init_on_free=1"),
    *("slab_nomerge", "intel_iommu=on", "amd_iommu=force_isolation", "iommu.passthrough=0"),
    *("iommu.strict=1", "efi=disable_early_pci_dma", "page_alloc.shuffle=1"),
    *("randomize_kstack_offset=on", "vsyscall=none", "apparmor=1", "audit=1"),
    *("audit_backlog_limit=8192",),
)
#: What the role ``terminal`` adds (hardening/grub/sekisho-terminal.cfg); the last one is its
#: maintenance entry's, and a terminal that runs so is told by its own checks.
TERMINAL = (
    *("init=/usr/lib/sekisho/terminal-init", "bdev_allow_write_mounted=0", "fsck.mode=skip"),
    "sekisho.maintenance",
)
#: Debian's own words in every entry of its boot menu.
DEBIAN = ("ro", "quiet")
MAX_WORDS = 64
#: One word of a site file: printable ASCII without blanks, quotes, ``$`` or a backslash.
WORD = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.,:;=/@%+*~-]{0,199}", re.ASCII)

#: Words that hand the machine to whoever stands at it, or switch a protection off. No list of all:
#: it only says more of a word that the declaration lacks anyway.
_RISKY = re.compile(
    r"(init|rdinit|(rd\.)?break|rd\.shell|(rd\.)?systemd\.\S+|single|s|S|[0-9]|-[bs]|emergency"
    r"|rescue|apparmor|audit|enforcing|selinux|lsm|security|module\.sig_enforce|nokaslr|nosmap"
    r"|nosmep|nopti|mitigations|lockdown|iommu|debug|sysrq_always_enabled|netconsole|nfsroot|ip"
    r"|bootconfig|LD_[A-Z_]+|sysctl\.\S+|module_blacklist|modprobe\.blacklist|rd\.luks\.\S+|--)"
    r"(=(?P<value>\S*))?"
)
#: Of those, words that are how it should be; a terminal's start is judged by its own checks.
_HARMLESS = frozenset(
    (
        *("apparmor=1", "audit=1", "module.sig_enforce=1", "enforcing=1", "lockdown=integrity"),
        *("lockdown=confidentiality", TERMINAL[0]),
    )
)
_NAME = re.compile(r"systemd\.hostname=[a-z0-9-]{1,63}", re.ASCII)


def risky_words(line: str) -> list[str]:
    """Return the words of a kernel command line that open a shell or switch a protection off."""
    return sorted(
        {
            word
            for word in line.split()
            if _RISKY.fullmatch(word) and word not in _HARMLESS and not _NAME.fullmatch(word)
        }
    )


def declared(role: str, own: tuple[str, ...]) -> list[str]:
    """Return every word that a machine's command line may hold, besides where its root lies."""
    terminal = TERMINAL if role == "terminal" else ()
    return sorted({*DEBIAN, *WORDS, *terminal, *own})
