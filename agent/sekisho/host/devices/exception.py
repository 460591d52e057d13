"""Opening and closing a device exception on its machine. Run as root; needs no agent to close.

``/usr/lib/sekisho/exception due`` is what the timer runs at the end, and what runs at every boot.
A restart ends an exception: nothing of it is in the kernel then, and its order is spent.
Closing must not wait for the opening's libraries: they are imported when an order is opened.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.devices.exception import DeviceException, parse_exception
from sekisho.host import boot_clock
from sekisho.host.devices import admit as usb_admit
from sekisho.host.devices import exception_state as state
from sekisho.host.devices import exception_wall as wall
from sekisho.host.journal.client import submit

if TYPE_CHECKING:
    from sekisho.host.policy_store import Policy
    from sekisho.orders.model import Order

ROOT = Path("/")
POLICY = Path("/etc/sekisho/policy.json")
KEPT = Path("/var/lib/sekisho")
UNIT = "sekisho-exception-due"
#: What the journal says of a closing.
_CLOSED = ("order", "requester", "approvers", "device", "direction", "end", "closed", "why")
KIND = "device-exception"


def host_policy() -> Policy:
    """Return the host's policy, proven as the agent proves it."""
    from sekisho.host.policy_store import PolicyStore  # noqa: PLC0415

    host = os.uname().nodename.partition(".")[0]
    return PolicyStore(POLICY, KEPT, host=host).load()


def told(order: Order) -> dict[str, Any]:
    """Return what the journal says of an order: who, why, what, how long."""
    exception = parse_exception("content", order.content)
    return {
        "order": order.id,
        "requester": order.requester,
        "approvers": list(order.approvers),
        "reason": order.reason,
        "device": exception.rule.as_json(),
        "direction": exception.direction,
        "start": _utc(order.start),
        "end": _utc(order.end),
    }


def apply(path: Path) -> dict[str, Any]:
    """Open what an order allows, now, until its end; returns what was opened.

    1. The host's own policy is proven, and says whose signatures count.
    2. The order holds: here, now, three people (`sekisho.orders.judge`).
    3. The clock is not before the policy's issue or the journal's newest record.
    4. Nothing else is open, and the order was never used here (`sekisho.host.spent_orders`).
    5. The journal takes the opening; the order is remembered as used; the timer stands.
    6. Only then the wall is opened, for that device alone.

    Raises:
        SekishoError: says which does not hold; nothing stays open.

    """
    from sekisho.core.files import read_bounded  # noqa: PLC0415
    from sekisho.host.spent_orders import OrderRecord  # noqa: PLC0415
    from sekisho.orders.judge import prove, signers_of  # noqa: PLC0415
    from sekisho.orders.model import MAX_BYTES  # noqa: PLC0415

    raw = read_bounded(path, MAX_BYTES)
    policy = host_policy().value
    signers = signers_of(policy)
    with state.alone():
        now = datetime.now(UTC)
        order = prove(raw, signers, site=policy.site, host=policy.host, now=now, where=str(path))
        if order.kind != KIND:
            raise _refuse(path, "kind", order.kind, KIND)
        exception = parse_exception("content", order.content)
        record = OrderRecord(ROOT)
        record.check_clock(now, policy)
        known = state.entries()
        standing = [name for name, entry in known.items() if entry["state"] != "closed"]
        if standing:
            raise _refuse(path, "", f"{', '.join(standing)} still open", "one exception at a time")
        record.refuse_used(order)
        if exception.storage and not wall.loaded() and not wall.may_load():
            raise SekishoError(
                "the kernel takes no modules any more (kernel.modules_disabled): a disk needs a "
                "maintenance order and a restart first; nothing is opened"
            )
        submit("exception.opening", told(order))
        remain = max(1, int(order.end.timestamp() - now.timestamp()))
        entry = told(order) | {
            "schema": 1,
            "id": order.id,
            "state": "open",
            "file": raw.decode(),
            "opened": _utc(now),
            "boot": boot_clock.boot_id(),
            "end_at": int(order.end.timestamp()),
            "deadline": int(boot_clock.boottime()) + remain,
        }
        state.remember(entry)
        try:
            _timer(order, remain)
            if exception.storage:
                wall.load(exception)
            state.write_open(
                state.Open(order.id, exception, entry["end_at"], int(entry["deadline"]))
            )
            changes, wrong = usb_admit.settle_attached()
        except BaseException as bad:
            _close(entry, f"it could not be opened: {printable(str(bad), 200)}")
            raise
        opened = told(order) | {"changes": changes, "wrong": wrong}
        _event("exception.opened", opened)
        return opened


def _utc(moment: datetime) -> str:
    """Return a UTC moment as orders write it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _refuse(path: Path, key: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the order opens nothing", (Problem(str(path), key, got, expected, "6-iii-c"),)
    )


def _timer(order: Order, remain: int) -> None:
    """Have systemd close at the end by either clock; the unit tries again until it is done."""
    _stop_timer()
    argv = [
        "/usr/bin/systemd-run",
        f"--unit={UNIT}.service",
        f"--on-calendar={order.end.strftime('%Y-%m-%d %H:%M:%S')} UTC",
        f"--on-active={remain}",
        "--timer-property=AccuracySec=1s",
    ]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        said = printable((done.stderr or done.stdout).strip(), 300)
        raise SekishoError(f"the timer that closes it cannot be set: {said}")


def _stop_timer() -> None:
    subprocess.run(
        ["/usr/bin/systemctl", "stop", f"{UNIT}.timer"], check=False, capture_output=True
    )


def end(why: str, only: str | None = None) -> list[str]:
    """Close what is open, before its end; returns the orders closed."""
    with state.alone():
        found = [
            entry
            for name, entry in state.entries().items()
            if entry["state"] == "open" and only in (None, name)
        ]
        for entry in found:
            _close(entry, why)
        return [entry["id"] for entry in found]


def due() -> int:
    """Close what is past its end, by either clock or by a restart. 0 done, 2 something stays."""
    with state.alone():
        worst = 0
        standing = 0
        for entry in state.entries().values():
            if entry["state"] == "closed":
                continue
            try:
                why = _over(entry)
                if why:
                    _close(entry, why)
                else:
                    standing += 1
            except (SekishoError, OSError, KeyError, TypeError) as bad:
                said = bad.diagnostics() if isinstance(bad, SekishoError) else str(bad)
                sys.stderr.write(f"exception {entry['id']} stays open: {said}\n")
                worst = 2
        try:  # without an entry nothing may stand open
            if not standing and (state.RUN / "open.json").exists():
                state.forget_open()
                usb_admit.settle_attached()
            if not standing and wall.loaded():
                wall.unload()
        except (SekishoError, OSError) as bad:
            sys.stderr.write(f"exception: {bad}\n")
            worst = 2
        if worst == 0 and not standing:
            _stop_timer()
        return worst


def _over(entry: Mapping[str, Any]) -> str:
    if entry["state"] != "open" or {"boot", "end_at", "deadline"} - entry.keys():
        return "its record is garbled"
    if entry["boot"] != boot_clock.boot_id():
        return "the machine was restarted"
    if time.time() >= entry["end_at"]:
        return "its window is over"
    if boot_clock.boottime() >= entry["deadline"]:
        return "its time is over by the clock nobody sets"
    return ""


def _close(entry: dict[str, Any], why: str) -> None:
    """Shut everything of one exception, then remember and tell it.

    Raises:
        SekishoError: something could not be shut; the order still counts as open then.

    """
    state.forget_open()
    _end_copies()
    try:
        exception = parse_exception("entry", {key: entry[key] for key in ("device", "direction")})
    except (SekishoError, KeyError):  # then nothing was let in by it, and the list decides
        exception = None
    wrong: list[str] = []
    works: tuple[Callable[[], object], ...] = (
        lambda: _shut(exception) if exception else None,
        usb_admit.settle_attached,
        wall.unload,
    )
    for work in works:
        try:
            work()
        except (SekishoError, OSError) as bad:
            wrong.append(bad.message if isinstance(bad, SekishoError) else str(bad))
    if (exception and usb_admit.fitting(exception)) or wall.loaded():
        raise SekishoError("; ".join(["it could not be shut", *wrong]))
    closed = {**entry, "state": "closed", "closed": _utc(datetime.now(UTC)), "why": why}
    state.update(closed)
    told_of = {"order": entry["id"]} | {key: closed[key] for key in _CLOSED if key in closed}
    _event("exception.closed", told_of)
    sys.stdout.write(f"{entry['id']} closed: {why}\n")


def _shut(exception: DeviceException) -> None:
    for path in usb_admit.fitting(exception):
        wall.shut(path)


def _end_copies() -> None:
    """Kill what copies at this moment; its mounts are in its own namespace and go with it."""
    with contextlib.suppress(OSError, ValueError):
        number = int((state.RUN / "copy.pid").read_text())
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        if b"exception" in words and b"copy" in words:
            os.kill(number, signal.SIGKILL)
            until = time.monotonic() + 10
            while Path(f"/proc/{number}").exists() and time.monotonic() < until:
                time.sleep(0.05)


def _event(kind: str, data: Mapping[str, Any]) -> None:
    """Tell the journal, or keep it for when there is one: closing waits for nobody."""
    kept = state.spool(kind, data)
    try:
        submit(kind, {**data})
    except SekishoError:
        return
    kept.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Run the timer's verb."""
    words = sys.argv[1:] if argv is None else argv
    if words != ["due"]:
        sys.stderr.write("usage: /usr/lib/sekisho/exception due\n")
        return 3
    return due()


if __name__ == "__main__":
    sys.exit(main())
