"""The list of kernel modules a machine may hold, and when loading any other is shut off. Pure.

`kernel.modules_disabled=1` is one way: until the next boot nobody, root included, loads or unloads
a module (Linux Documentation/admin-guide/sysctl/kernel.rst). So the list comes from the site, was
reviewed there, and is proven by a boot before the wall closes on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sekisho.core.canonical import digest
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.text import lines_of
from sekisho.devices.modules import GROUPS, canonical

NAME = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)
MAX_MODULES = 500
LOCKS = ("off", "dry-run", "enforce")

#: One of these drives the console's USB keyboard.
HOST_CONTROLLERS = ("xhci_pci", "xhci_hcd", "ehci_pci", "ohci_pci", "uhci_hcd")
_KEYBOARD = ("hid", "hid_generic", "usbcore", "usbhid")
_FILTER = ("nf_conntrack", "nf_tables", "nfnetlink", "nft_ct", "nft_limit", "nft_log")
_TUNNEL = ("esp4", "xfrm_algo", "xfrm_user")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a host's policy says of modules: how far the wall goes, and what may be loaded."""

    lock: str = "off"
    allow: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return what names the list: a proof counts for this one and no other."""
        return digest(sorted(self.allow))


def wanted(lock: str, allow: Iterable[str]) -> Wanted:
    """Return the modules of a policy's ``modules``, each by the kernel's own name, once."""
    return Wanted(lock, tuple(sorted({canonical(name) for name in allow})))


def parse_proven(allow: Any, where: str) -> Wanted:
    """Return the list that a boot has proven, as ``where`` holds it; SekishoError when garbled."""
    if (
        not isinstance(allow, list)
        or len(allow) > MAX_MODULES
        or not all(isinstance(name, str) and NAME.fullmatch(name) for name in allow)
    ):
        problem = Problem(where, "allow", printable(allow), "a list of module names")
        raise SekishoError("the module list was not understood", (problem,))
    return wanted("enforce", allow)


def required(*, console: str, role: str) -> dict[str, tuple[str, ...]]:
    """Return reason → modules without which a machine of this role must not shut the wall."""
    found: dict[str, tuple[str, ...]] = {"the packet filter": _FILTER}
    if console == "listed-keyboard":
        found["the console's keyboard"] = _KEYBOARD
    if role == "gateway":
        found["the IP-VPN"] = _TUNNEL
    return found


def defects(wanted: Wanted, *, console: str, role: str) -> Iterator[tuple[str, str, str]]:
    """Yield (key, got, expected) for everything that makes a list unfit to be enforced."""
    allow = set(wanted.allow)
    for group, entry in GROUPS.items():
        yield from (
            ("modules.allow", f"{name}, which is blocked ({group})", "a module that may load")
            for name in sorted(allow & set(entry.modules))
        )
    if wanted.lock == "off":
        return
    for reason, names in required(console=console, role=role).items():
        missing = sorted(set(names) - allow)
        if missing:
            yield ("modules.allow", f"no {', '.join(missing)}", f"what {reason} needs")
    if console == "listed-keyboard" and not allow & set(HOST_CONTROLLERS):
        wants = f"one of {', '.join(HOST_CONTROLLERS)}: the console's keyboard needs it"
        yield ("modules.allow", "no USB host controller", wants)


# -- proposing a list ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Loaded:
    """One module of the running kernel: how often it is used, by which modules, what it drives."""

    name: str
    uses: int
    users: tuple[str, ...]
    drives: int = 0

    @property
    def needed(self) -> bool:
        """Tell whether something would be lost without it now."""
        return self.uses > 0 or bool(self.users) or self.drives > 0


def parse_loaded(text: str) -> tuple[Loaded, ...]:
    """Return the modules of /proc/modules (proc_modules(5)); SekishoError for anything else."""
    found = []
    for number, line in enumerate(lines_of(text), start=1):
        words = line.split()
        if (
            len(words) < 5
            or not NAME.fullmatch(words[0])
            or not re.fullmatch(r"-?[0-9]{1,9}", words[2], re.ASCII)
        ):
            raise SekishoError(
                "the list of loaded modules was not understood",
                (Problem(f"/proc/modules:{number}", "", printable(line, 60), "name size uses …"),),
            )
        users = tuple(user for user in words[3].split(",") if user and NAME.fullmatch(user))
        found.append(Loaded(words[0], int(words[2]), users))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A list for review: what it holds and why, and what was left out."""

    allow: Mapping[str, str]  # module → why
    idle: tuple[str, ...]
    blocked: tuple[str, ...]


def propose(loaded: Sequence[Loaded], *, console: str, role: str) -> Proposal:
    """Return the list this machine needs: what is in use now, and what its role requires.

    Loaded but idle modules are left out and named; blocked ones never enter a list.
    """
    shut = {name for entry in GROUPS.values() for name in entry.modules}
    allow: dict[str, str] = {}
    for one in loaded:
        if one.needed and one.name not in shut:
            allow[one.name] = _why(one)
    for reason, names in required(console=console, role=role).items():
        for name in names:
            allow.setdefault(name, reason)
    if console == "listed-keyboard" and not set(allow) & set(HOST_CONTROLLERS):
        for name in sorted({one.name for one in loaded} & set(HOST_CONTROLLERS)):
            allow[name] = "the console's keyboard"
    return Proposal(
        allow=dict(sorted(allow.items())),
        idle=tuple(sorted(one.name for one in loaded if one.name not in {*allow, *shut})),
        blocked=tuple(sorted(one.name for one in loaded if one.name in shut)),
    )


def _why(one: Loaded) -> str:
    if one.drives:
        return f"drives {one.drives} device{'s' if one.drives > 1 else ''}"
    if one.users:
        return f"used by {', '.join(one.users[:3])}{' …' if len(one.users) > 3 else ''}"
    return "in use"


def render(found: Proposal, *, lock: str = "dry-run") -> str:
    """Return the YAML to put under ``sekisho_machine`` of the machine's site file."""
    lines = [
        "  modules:                     # `sekisho devices modules propose`; review before use",
        f"    lock: {lock:<22} # off | dry-run | enforce",
        "    allow:",
    ]
    lines += [f"      - {name:<24} # {why}" for name, why in found.allow.items()]
    lines += _told("loaded, but idle: not in the list", found.idle)
    lines += _told("loaded although blocked: the role devices unloads them", found.blocked)
    return "\n".join(lines) + "\n"


def _told(what: str, names: Iterable[str]) -> list[str]:
    held = list(names)
    return [f"  # {what}:", *(f"  #   {name}" for name in held)] if held else []
