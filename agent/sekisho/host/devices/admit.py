"""Admit or shut USB devices in sysfs by the host's policy. Standard library only; no agent needed.

Two entries: ``/usr/lib/sekisho/usb-admit SYSFS-PATH``, run by udev for a device that looks listed,
and ``/usr/lib/sekisho/usb-enforce``, run by the guard and the playbooks for all that is attached.
Any doubt (no policy, a garbled list, a device that vanishes) leaves or makes it shut.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import sys
import syslog
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sekisho.core.errors import SekishoError, printable
from sekisho.devices.descriptors import MAX_BYTES
from sekisho.devices.exception import DeviceException, decide_excepted
from sekisho.devices.policy import Decision, Device, Rule, decide, device_from_sysfs
from sekisho.devices.udev_rules import PATH as RULES
from sekisho.host.boot_clock import boottime
from sekisho.host.devices.exception_state import read_open
from sekisho.host.devices.exception_wall import attach
from sekisho.host.devices.usb_policy import (
    HostList,
    console_or_refuse,
    read_policy,
    remember_keyboard,
)

BUS = Path("/sys/bus/usb/devices")
PARAMETER = Path("/sys/module/usbcore/parameters/authorized_default")
#: Whoever decides holds it: two devices that come at once are counted one after the other.
LOCK = Path("/run/sekisho-usb.lock")
#: Under this name a device in use by an open exception is counted.
EXCEPTED = "!exception"


def read_device(folder: int, sysname: str) -> Device:
    """Return the device behind an open sysfs folder; what cannot be read is unknown.

    An open folder stays with its device: another one plugged into the same port is not it.
    """
    attributes = {}
    for name in ("serial", "devpath"):
        data = _read(folder, name, 4096)
        if data is not None:
            attributes[name] = data.decode("utf-8", "backslashreplace").removesuffix("\n")
    return device_from_sysfs(sysname, attributes, _read(folder, "descriptors", MAX_BYTES))


def _read(folder: int, name: str, limit: int) -> bytes | None:
    try:
        handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        with os.fdopen(handle, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None


def _write(folder: int, name: str, value: str) -> None:
    handle = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
    with os.fdopen(handle, "w") as stream:
        stream.write(value)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def excepted() -> DeviceException | None:
    """Return what an open exception lets in at this moment; any doubt lets nothing in."""
    try:
        found = read_open()
    except SekishoError as bad:
        syslog.syslog(syslog.LOG_ERR, f"no exception: {bad.diagnostics()}")
        return None
    if found is None or found.over(time.time(), boottime()):
        return None
    return found.exception


def judge(
    device: Device,
    rules: Sequence[Rule],
    held: Mapping[str, int],
    exception: DeviceException | None = None,
) -> Decision:
    """Return whether a device may attach: by the list, or else by the open exception."""
    decision = decide(device, rules, held)
    if decision.admit or exception is None:
        return decision
    other = decide_excepted(device, exception, taken=held.get(EXCEPTED, 0) > 0)
    return other if other.admit else decision


def held_by(
    rules: Sequence[Rule], but: str, bus: Path, exception: DeviceException | None = None
) -> Counter[str]:
    """Return rule name → how many devices other than ``but`` are in use by it.

    In use is what the kernel holds as authorized; a device that cannot be read is none of a rule's.
    """
    held: Counter[str] = Counter()
    for path in _attached(bus):
        if path.name == but:
            continue
        try:
            with _opened(path) as folder:
                if (_read(folder, "authorized", 16) or b"0").strip() == b"0":
                    continue
                decision = judge(read_device(folder, path.name), rules, held, exception)
        except OSError:  # gone meanwhile
            continue
        count(held, decision)
    return held


def count(held: Counter[str], decision: Decision) -> None:
    """Count a device in use."""
    if decision.admit:
        held[EXCEPTED if decision.code == "excepted" else decision.rule] += 1


def _attached(bus: Path) -> list[Path]:
    """Return every device but the controllers, hubs before what hangs on them."""
    return [path for path in sorted(bus.glob("[0-9]*-*")) if ":" not in path.name]


@contextlib.contextmanager
def _alone() -> Iterator[bool]:
    """Hold the lock while others wait; yields False when it cannot be had."""
    try:
        handle = os.open(LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield True
    finally:
        os.close(handle)


def settle(
    path: Path,
    rules: Sequence[Rule],
    held: Mapping[str, int],
    *,
    exception: DeviceException | None = None,
    dry: bool = False,
) -> tuple[Decision, str]:
    """Decide on one attached device and make the kernel follow. Returns decision and change ("").

    ``held`` counts the other devices in use, by rule. OSError when the kernel refuses or the
    device is gone; SekishoError when an excepted disk could not be let in to the end.
    """
    with _opened(path) as folder:
        device = read_device(folder, path.name)
        decision = judge(device, rules, held, exception)
        state = _read(folder, "authorized", 16)
        wanted = "1" if decision.admit else "0"
        if state is not None and state.strip() == wanted.encode():
            return decision, ""
        if not dry and decision.code == "excepted" and exception is not None:
            attach(path, exception)
        elif not dry:
            _write(folder, "authorized", wanted)
    verb = "admitted" if decision.admit else "shut"
    who = f"{device.vendor}:{device.product} {printable(device.serial or '-', 64)}"
    return decision, f"{verb} {path.name} {who}: {decision.reason}"


def admit(argv: Sequence[str]) -> int:
    """Run by udev: decide on one device. Exit status 0 admitted, 1 shut, 2 could not tell."""
    parser = argparse.ArgumentParser(prog="usb-admit", description=admit.__doc__)
    parser.add_argument("path", type=Path, help="the device's folder below /sys")
    path = parser.parse_args(argv).path
    syslog.openlog("sekisho-usb", 0, syslog.LOG_AUTHPRIV)
    rules: tuple[Rule, ...] = ()
    dry = False
    try:
        listed = read_policy()
        rules, dry = listed.rules, listed.dry
    except SekishoError as bad:
        syslog.syslog(syslog.LOG_ERR, f"{path.name}: nothing is admitted: {bad.diagnostics()}")
    try:
        with _alone() as alone:
            if not alone:
                syslog.syslog(syslog.LOG_ERR, f"{path.name}: nothing is admitted: no {LOCK}")
                rules = ()
            opened = excepted() if alone else None
            others = held_by(rules, path.name, BUS, opened)
            decision, change = settle(path, rules, others, exception=opened, dry=dry)
            if decision.admit:
                remember_keyboard(rules, decision.rule)
    except (OSError, SekishoError) as bad:
        said = bad.diagnostics() if isinstance(bad, SekishoError) else bad.strerror
        syslog.syslog(syslog.LOG_ERR, f"{path.name}: {said}")
        return 2
    if change or not decision.admit:
        said = change or f"refused {path.name}: {decision.reason}"
        said = f"dry run, nothing is done: {said}" if dry else said
        syslog.syslog(syslog.LOG_NOTICE, said)
    return 0 if decision.admit else 1


def enforce(argv: Sequence[str]) -> int:
    """Deny by default on every bus, then settle every attached device.

    Prints one line per change. Exit status 0, or 2 when something could not be put in force.
    """
    parser = argparse.ArgumentParser(prog="usb-enforce", description=enforce.__doc__)
    parser.add_argument(
        "--check", action="store_true", help="say what would change, change nothing"
    )
    parser.add_argument(
        "--if-in-force",
        action="store_true",
        help="do nothing unless the udev rules on disk are those of the policy",
    )
    options = parser.parse_args(argv)
    try:
        listed = read_policy()
        if listed.dry:
            return _told_only(listed, check=options.check)
        console_or_refuse(listed, _devices())
    except SekishoError as bad:
        sys.stderr.write(f"usb-enforce: nothing changed: {bad.diagnostics()}\n")
        return 2
    if options.if_in_force and not _in_force(Path(RULES), listed.udev):
        return 0
    _deny_by_default(dry=options.check)
    with _alone() as alone:
        wrong = [] if alone else [f"{LOCK} cannot be had: two may be admitted where one is listed"]
        changes, failed = _settle_all(listed.rules, dry=options.check)
        wrong += failed
    sys.stdout.writelines(f"{line}\n" for line in changes)
    for line in wrong:
        sys.stderr.write(f"usb-enforce: {line}\n")
    return 2 if wrong else 0


def fitting(exception: DeviceException) -> list[Path]:
    """Return the devices in use that are the one excepted (two only if it was forged)."""
    found = []
    for path in _attached(BUS):
        with contextlib.suppress(OSError), _opened(path) as folder:
            device = read_device(folder, path.name)
            if _in_use(path) and decide_excepted(device, exception, taken=False).admit:
                found.append(path)
    return found


def settle_attached() -> tuple[list[str], list[str]]:
    """Settle everything attached by the policy and the open exception, if any.

    Returns the changes made, and what went wrong. `SekishoError` without a policy.
    """
    listed = read_policy()
    with _alone() as alone:
        if not alone:
            raise SekishoError(f"{LOCK} cannot be had")
        return _settle_all(listed.rules, dry=listed.dry)


def _deny_by_default(*, dry: bool) -> None:
    for path in [PARAMETER, *sorted(BUS.glob("usb*/authorized_default"))]:
        if not path.exists() or path.read_text().strip() == "0":
            continue
        sys.stdout.write(f"deny by default: {path}\n")
        if not dry:
            path.write_text("0")


def _settle_all(rules: Sequence[Rule], *, dry: bool) -> tuple[list[str], list[str]]:
    """Settle everything attached; return what changed and what went wrong.

    What is in use comes first, so that a newcomer of the same name does not take its place. A hub
    still comes before what hangs on it: nothing does before the hub is in use.
    """
    changes: list[str] = []
    wrong: list[str] = []
    held: Counter[str] = Counter()
    opened = excepted()
    for path in sorted(_attached(BUS), key=lambda one: (not _in_use(one), one.name)):
        try:
            decision, change = settle(path, rules, held, exception=opened, dry=dry)
        except FileNotFoundError:
            continue  # went away with its hub, or was unplugged
        except OSError as bad:
            wrong.append(f"{path.name}: {bad.strerror}")
            continue
        except SekishoError as bad:
            wrong.append(bad.message)
            continue
        count(held, decision)
        if change:
            changes.append(change)
    return changes, wrong


def _in_use(path: Path) -> bool:
    try:
        return (path / "authorized").read_bytes().strip() != b"0"
    except OSError:
        return False


def _devices() -> Iterator[Device]:
    """Yield what is attached, as far as it can be read."""
    for path in _attached(BUS):
        with contextlib.suppress(OSError), _opened(path) as folder:
            yield read_device(folder, path.name)


def _told_only(listed: HostList, *, check: bool) -> int:
    """Dry run: leave every bus open, and say what enforcing would change."""
    for path in [PARAMETER, *sorted(BUS.glob("usb*/authorized_default"))]:
        if path.exists() and path.read_text().strip() == "0":
            sys.stdout.write(f"open by default (dry run): {path}\n")
            if not check:
                path.write_text("1")
    changes, wrong = _settle_all(listed.rules, dry=True)
    for line in changes:
        sys.stderr.write(f"usb-enforce: dry run, nothing is done: {line}\n")
    return 2 if wrong else 0


def _in_force(path: Path, text: str) -> bool:
    try:
        return path.read_text() == text
    except (OSError, UnicodeDecodeError):
        return False


def main_admit() -> None:
    """Entry of ``/usr/lib/sekisho/usb-admit``."""
    sys.exit(admit(sys.argv[1:]))


def main_enforce() -> None:
    """Entry of ``/usr/lib/sekisho/usb-enforce``."""
    sys.exit(enforce(sys.argv[1:]))
