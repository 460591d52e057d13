"""Rules: one event in, what is not expected of it out. Small, pure, each alone. Pure.

A rule is looked up by the type of a record or by the key of the kernel's rule that made it, so an
ordinary command costs two look-ups. A rule says what happened; `Detector` in
`sekisho.activity.detector` says who it was and how heavy it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sekisho.activity.events import Command, Path, Syscall, resolve
from sekisho.activity.join import Event
from sekisho.activity.records import UNSET, Record
from sekisho.activity.watched import (
    ACCOUNT_TOOLS,
    AGENT_UNIT,
    CLOCK_KEEPERS,
    GUARD_UNITS,
    KEEPERS,
    NOTICE,
    ODD_PLACES,
    POWERFUL_GROUPS,
    watched,
)

#: Keys of the kernel's rules (hardening/audit); the tests hold the two together.
KEY_EXEC = "sekisho-exec"
KEY_FILES = "sekisho-files"
KEY_MODULES = "sekisho-modules"
KEY_MOUNT = "sekisho-mount"
KEY_TIME = "sekisho-time"
KEY_TRACE = "sekisho-trace"
KEY_HOSTNAME = "sekisho-hostname"
KEY_SETUID = "sekisho-setuid"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a rule looks at. ``call`` is None for an event that holds no system call."""

    event: Event
    call: Syscall | None
    paths: tuple[Path, ...]
    cwd: str

    def of(self, type_: str) -> Record:
        """Return the event's record of a type that is known to be there."""
        return self.event.records(type_)[0]


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule found.

    Attributes:
        slug: the kind of detection (`sekisho.activity.watched.KINDS`).
        subject: the account, file, unit, table … it is about.
        what: one line of what happened.
        severity: when it differs from the kind's.
        once: what one process says many times in a row is one detection under this name.

    """

    slug: str
    subject: str
    what: str
    severity: str | None = None
    once: str = ""


Rule = Callable[[Seen], Found | None]


def _worked(record: Record) -> bool:
    return record.text("res") in ("success", "1", "yes")


def _account(record: Record) -> str:
    return record.text("acct") or record.text("id") or "?"


def group_member(seen: Seen) -> Found | None:
    """Find an account changed; one that joins a powerful group may become root."""
    record = seen.event.records()[0]
    if not _worked(record):
        return None
    account, group, op = _account(record), record.text("grp") or "", record.text("op") or "changed"
    if group in POWERFUL_GROUPS and op.startswith("add-"):
        return Found("sudoers-changed", account, f"{op}: {account} in {group}", once=account)
    return Found("account-changed", account, f"{op}: {account} {group}".rstrip(), once=account)


def _account_rule(slug: str, verb: str) -> Rule:
    def rule(seen: Seen) -> Found | None:
        record = seen.event.records()[0]
        if not _worked(record):
            return None
        account = _account(record)
        return Found(slug, account, f"{record.text('op') or verb}: {account}", once=account)

    return rule


def service_stopped(seen: Seen) -> Found | None:
    """Find a protecting unit, or the agent itself, stopped."""
    record = seen.of("SERVICE_STOP")
    unit = (record.text("unit") or "").removesuffix(".service")
    if unit == AGENT_UNIT:
        return Found("agent-stopped", unit, f"{unit} stopped ({record.text('res')})")
    if unit in GUARD_UNITS:
        return Found("guard-stopped", unit, f"{unit} stopped ({record.text('res')})")
    return None


def audit_daemon_ended(seen: Seen) -> Found | None:
    """Find auditd's end: nothing is written from here until it starts again."""
    record = seen.event.records()[0]
    return Found("audit-stopped", "auditd", f"auditd ended: {record.text('op') or record.type}")


def audit_configured(seen: Seen) -> Found | None:
    """Find the kernel's audit switched, or its rules changed."""
    for record in seen.event.records("CONFIG_CHANGE"):
        fields = record.fields
        if record.text("op") in ("add_rule", "remove_rule"):
            key = record.text("key") or "no key"
            op = record.text("op") or ""
            return Found("audit-rules-changed", key, f"{op}: {key}", once=op)
        if fields.get("lost") == b"0":
            what = f"the kernel's count of lost records ({record.text('old')}) was set back"
            return Found("evidence-touched", "lost", what)
        if fields.get("audit_enabled") == b"0":
            return Found("audit-stopped", "audit_enabled", "the kernel's audit was switched off")
        if "audit_pid" in fields and fields["audit_pid"] == b"0":
            return Found("audit-stopped", "audit_pid", "no daemon takes the records any more")
        for name in ("audit_backlog_limit", "audit_failure", "audit_rate_limit"):
            if name in fields and fields[name] != fields.get("old"):
                return Found("audit-rules-changed", name, f"{name} set to {record.text(name)}")
    return None


def firewall_changed(seen: Seen) -> Found | None:
    """Find a rule set loaded or flushed; our unit and agent do so with nobody logged in."""
    record = seen.of("NETFILTER_CFG")
    table, op, comm = record.text("table") or "?", record.text("op") or "?", record.text("comm")
    person = seen.call is not None and seen.call.auid != UNSET
    ours = not person and comm in ("nft", "python3", "sekisho", "sekisho-agent", "sekisho-guard")
    name = table.partition(":")[0]
    return Found(
        "firewall-changed",
        name,
        f"{op} {name} by {comm or '?'}",
        NOTICE if ours else None,
        once=f"{op} {name}",
    )


def module_by_record(seen: Seen) -> Found | None:
    """Find a module loaded or removed (systemd-udevd does so for hardware: a notice)."""
    names = [record.text("name") or "?" for record in seen.event.records("KERN_MODULE")]
    call = seen.call
    if call is not None and call.success is False:
        return Found("module-loaded", ", ".join(names), f"refused: module {', '.join(names)}")
    own = call is not None and call.auid == UNSET
    return Found(
        "module-loaded", ", ".join(names), f"module {', '.join(names)}", NOTICE if own else None
    )


def module_by_call(seen: Seen) -> Found | None:
    """Find a module call without the module's name: it failed before there was one."""
    if seen.call is None or b"KERN_MODULE" in seen.event.types:
        return None
    outcome = "done" if seen.call.success else f"refused ({seen.call.exit})"
    return Found(
        "module-loaded",
        seen.call.comm,
        f"{seen.call.comm} called for a module: {outcome}",
        NOTICE if seen.call.auid == UNSET else None,
    )


_NO_SUCH_FILE, _THERE_ALREADY = -2, -17


def file_changed(seen: Seen) -> Found | None:
    """Find a watched file written, created, renamed, removed or given other rights."""
    if seen.call is None or seen.call.exe in KEEPERS:
        return None
    if seen.call.exe in ACCOUNT_TOOLS and seen.call.success:
        return None  # they tell of it themselves: new-account, account-changed
    if seen.call.exit in (_NO_SUCH_FILE, _THERE_ALREADY):
        return None  # looked for or made sure of, not changed
    candidates = [path for path in seen.paths if path.nametype != "PARENT"]
    # Of a rename the new name tells more than the old one.
    rank = {"CREATE": 0, "NORMAL": 1, "UNKNOWN": 2, "DELETE": 3}
    candidates.sort(key=lambda path: rank.get(path.nametype, 2))
    if not candidates:
        candidates = list(seen.paths)
    named = {resolve(path.name, seen.cwd): path for path in reversed(candidates)}
    hit = watched(resolve(path.name, seen.cwd) for path in candidates)
    if hit is None:
        return None
    slug, where = hit
    if slug == "setting-changed" and seen.call.auid == UNSET:
        return None
    verb = {"CREATE": "created", "DELETE": "removed"}.get(named[where].nametype, "changed")
    if seen.call.success is False:
        verb = f"not {verb} (refused)"
    return Found(slug, where, f"{where} {verb} by {seen.call.exe or seen.call.comm}", once=where)


def time_set(seen: Seen) -> Found | None:
    """Find the clock set or steered by something else than its keeper."""
    if seen.call is None or seen.call.exe in CLOCK_KEEPERS or seen.call.success is False:
        return None
    return Found("time-set", seen.call.comm, f"clock set by {seen.call.exe}")


def mounted(seen: Seen) -> Found | None:
    """Find a file system mounted or unmounted by a person."""
    if seen.call is None or seen.call.auid == UNSET:
        return None
    names = [resolve(path.name, seen.cwd) for path in seen.paths if path.name]
    subject = names[0] if names else "?"
    what = f"{seen.call.comm}: {' '.join(names) or '?'}"
    if seen.call.success is False:
        return Found("mounted", subject, f"{what} (refused: {seen.call.exit})", NOTICE)
    # The calls that prepare a mount (fsconfig, fsmount) name no path: told once for each program.
    return Found("mounted", subject, what, once="" if names else "?")


def traced(seen: Seen) -> Found | None:
    """Find a process attached to another one, or writing its memory."""
    if seen.call is None:
        return None
    target = seen.event.record("OBJ_PID")
    name = "?" if target is None else target.text("ocomm") or "?"
    pid = "?" if target is None else target.text("opid") or "?"
    return Found("traced", name, f"{seen.call.exe} attached to {name} ({pid})")


def hostname_changed(seen: Seen) -> Found | None:
    """Find the machine's name set by a person."""
    if seen.call is None or seen.call.success is False or seen.call.auid == UNSET:
        return None
    return Found("hostname-changed", seen.call.comm, f"name set by {seen.call.exe}")


def setuid_set(seen: Seen) -> Found | None:
    """Find a file given the set-user-id or set-group-id bit (the kernel's rule filters)."""
    if seen.call is None or seen.call.success is False:
        return None
    names = [resolve(path.name, seen.cwd) for path in seen.paths if path.nametype != "PARENT"]
    subject = names[0] if names else "?"
    return Found("setuid-set", subject, f"{subject} given its owner's rights by {seen.call.exe}")


def promiscuous(seen: Seen) -> Found | None:
    """Find an interface that begins to take packets not meant for this machine."""
    record = seen.of("ANOM_PROMISCUOUS")
    if (record.number("prom") or 0) <= (record.number("old_prom") or 0):
        return None
    device = record.text("dev") or "?"
    return Found("promiscuous", device, f"{device} listens to everybody")


def crashed(seen: Seen) -> Found | None:
    """Find a program that died of a signal that tells of a fault."""
    record = seen.of("ANOM_ABEND")
    exe = record.text("exe") or record.text("comm") or "?"
    return Found("program-crashed", exe, f"{exe} died of signal {record.text('sig')}")


_ODD = (*ODD_PLACES, "/memfd:")


def odd_program(command: Command) -> Found | None:
    """Find a program or script run from where anybody can put one."""
    path = command.exe
    if path.startswith(_ODD) or path.endswith(" (deleted)"):
        return Found("odd-program", path, f"{path} was run")
    if command.script is not None:
        path = resolve(command.script, command.cwd)
        if path.startswith(_ODD):
            return Found("odd-program", path, f"{path} was run")
    return None


def root_by_stranger(command: Command, administrators: frozenset[str]) -> Found | None:
    """Find root in the hands of a person who is no administrator.

    A program that carries its owner's rights (passwd, sudo itself) is not yet root in hand.
    """
    if command.auid == UNSET or command.euid != 0 or command.who in administrators:
        return None
    if command.uid != 0 and command.setuid:
        return None
    return Found("root-by-stranger", command.who, f"{command.who} runs {command.exe} as root")


#: Rules by record type. The first type of an event that has rules decides.
BY_TYPE: dict[bytes, Rule] = {
    b"ADD_USER": _account_rule("new-account", "account added"),
    b"DEL_USER": _account_rule("account-removed", "account removed"),
    b"ADD_GROUP": _account_rule("account-changed", "group added"),
    b"DEL_GROUP": _account_rule("account-changed", "group removed"),
    b"USER_MGMT": group_member,
    b"GRP_MGMT": group_member,
    b"USER_CHAUTHTOK": _account_rule("account-changed", "password changed"),
    b"GRP_CHAUTHTOK": _account_rule("account-changed", "group password changed"),
    b"ACCT_LOCK": _account_rule("account-changed", "account locked"),
    b"ACCT_UNLOCK": _account_rule("account-changed", "account unlocked"),
    b"SERVICE_STOP": service_stopped,
    b"DAEMON_END": audit_daemon_ended,
    b"DAEMON_ABORT": audit_daemon_ended,
    b"CONFIG_CHANGE": audit_configured,
    b"NETFILTER_CFG": firewall_changed,
    b"KERN_MODULE": module_by_record,
    b"TIME_INJOFFSET": time_set,
    b"TIME_ADJNTPVAL": time_set,
    b"ANOM_PROMISCUOUS": promiscuous,
    b"ANOM_ABEND": crashed,
}
#: Rules by the key of the kernel's rule.
BY_KEY: dict[str, Rule] = {
    KEY_FILES: file_changed,
    KEY_MODULES: module_by_call,
    KEY_TIME: time_set,
    KEY_MOUNT: mounted,
    KEY_TRACE: traced,
    KEY_HOSTNAME: hostname_changed,
    KEY_SETUID: setuid_set,
}
