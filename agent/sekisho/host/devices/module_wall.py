"""Shut the loading of kernel modules on the host: the listed ones first, then the wall.

``/usr/lib/sekisho/modules-wall VERB``: ``boot`` is run by sekisho-modules.service, ``settle`` by
the playbooks, ``end`` by the timer of a maintenance order, ``status`` by anybody. No agent needed.

The wall never closes on a list that no boot has proven (somebody came back in after it), and once
proven it closes at every boot: a policy that cannot be read, or a listed module that cannot be
loaded, does not keep it open.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import syslog
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.core.names import Console
from sekisho.core.text import lines_of
from sekisho.devices import module_list
from sekisho.devices.module_list import Loaded, Wanted, parse_loaded, parse_proven
from sekisho.devices.module_lock import Boot, Decision, State, decide, settle
from sekisho.devices.modules import canonical as module_name
from sekisho.host.devices.maintenance import Maintenance, Opened, this_host
from sekisho.policy.host_policy import MAX_BYTES, HostPolicy

MAX_PROOF = 1024 * 1024
SCHEMA = 1
SETTLE_S = 30
Run = Callable[[Sequence[str]], int]


def run_quietly(argv: Sequence[str]) -> int:
    """Run a command; 127 when it cannot be started or hangs."""
    try:
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 127


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is; another root in tests."""

    root: Path = Path("/")

    def at(self, path: str) -> Path:
        """Return an absolute path below the root."""
        return self.root / path.lstrip("/")


class Wall:
    """Loads, closes, proves and tells."""

    def __init__(
        self,
        places: Places | None = None,
        run: Run = run_quietly,
        orders: Maintenance | None = None,
    ) -> None:
        places = places or Places()
        at = places.at
        self._at, self._run = at, run
        self._orders = orders or Maintenance(places.root, run, host=this_host())
        self.switch = at("/proc/sys/kernel/modules_disabled")
        self.state = at("/run/sekisho-modules.json")
        self.proof = at("/var/lib/sekisho/modules-proven.json")

    # -- what is so ------------------------------------------------------------------------------

    def closed(self) -> bool:
        """Return whether the kernel refuses modules; SekishoError when it does not say."""
        try:
            text = self.switch.read_text().strip()
        except OSError as bad:
            raise SekishoError(f"{self.switch}: {bad.strerror}") from None
        if text not in ("0", "1"):
            raise SekishoError(f"{self.switch}: {printable(text, 40)}; expected 0 or 1")
        return text == "1"

    def policy(self) -> HostPolicy:
        """Return the host's policy; SekishoError when it is not root's alone or is refused."""
        path = self._at("/etc/sekisho/policy.json")
        try:
            info = path.stat()
        except OSError as bad:
            raise SekishoError(f"{path}: {bad.strerror}") from None
        if not stat.S_ISREG(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o22:
            raise SekishoError(f"{path} is not a file that only root can write")
        return HostPolicy.parse(read_bounded(path, MAX_BYTES), str(path))

    def modules(self) -> tuple[Loaded, ...]:
        """Return the loaded modules; SekishoError when the kernel does not tell of them."""
        path = self._at("/proc/modules")
        try:
            return parse_loaded(path.read_text())
        except OSError as bad:
            raise SekishoError(f"{path}: {bad.strerror}") from None

    def loaded(self) -> frozenset[str]:
        """Return the names of the loaded modules."""
        return frozenset(one.name for one in self.modules())

    def proven(self) -> Wanted | None:
        """Return the list that a boot has proven, or None."""
        if not self.proof.exists():
            return None
        value = _json(read_bounded(self.proof, MAX_PROOF), self.proof)
        try:
            return parse_proven(value["allow"], str(self.proof))
        except (TypeError, KeyError):
            raise SekishoError(f"{self.proof} is garbled") from None

    def told(self) -> dict[str, Any]:
        """Return what the last boot left; empty when there was none, or of another boot."""
        try:
            value = _json(self.state.read_bytes(), self.state)
        except (OSError, SekishoError):
            return {}
        same = isinstance(value, dict) and value.get("boot_id") == self._boot_id()
        return value if same else {}

    def _boot_id(self) -> str:
        return self._at("/proc/sys/kernel/random/boot_id").read_text().strip()

    def _built_in(self) -> frozenset[str]:
        path = self._at(f"/lib/modules/{os.uname().release}/modules.builtin")
        try:
            lines = lines_of(path.read_text())
        except OSError:
            return frozenset()
        names = (line.rpartition("/")[2].removesuffix(".ko") for line in lines)
        return frozenset(module_name(name) for name in names)

    # -- boot ------------------------------------------------------------------------------------

    def boot(self) -> int:
        """Load what is listed, then close if it is time; 0 done, 2 not as it should be."""
        trouble = ""
        known: Wanted | None = None
        try:
            known = wanted_of(self.policy())
        except SekishoError as bad:
            trouble = bad.diagnostics()
        proof, order = self._safe_proof(), Opened()
        if known is None:  # closed at every boot once proven, whatever became of the policy
            wanted = proof or Wanted()
        else:
            wanted = known
            order = self._begin()
        proven = proof is not None and (known is None or proof.digest == wanted.digest)
        closed = self.closed()
        decision = decide(wanted, State(closed, proven, _opens(order, "modules")))
        missing = [] if closed else self._load(wanted)
        if decision.close:
            trouble = self._close() or trouble
        elif wanted.lock != "off":
            self._settle_udev()  # what it still loads is of this boot, not of later
        self._tell(wanted, decision, missing, trouble, order)
        return 2 if trouble else 0

    def _safe_proof(self) -> Wanted | None:
        try:
            return self.proven()
        except SekishoError as bad:
            say(syslog.LOG_ERR, bad.diagnostics())
            return None

    def _begin(self) -> Opened:
        try:
            return self._orders.begin()
        except (SekishoError, OSError) as bad:
            said = bad.diagnostics() if isinstance(bad, SekishoError) else str(bad)
            say(syslog.LOG_ERR, f"no maintenance: {said}")
            return Opened()

    def end(self) -> list[str]:
        """End maintenance: unload what came with it, close; return what could not be unloaded."""
        policy = self.policy()
        wanted = wanted_of(policy)
        came = sorted(self.loaded() - set(self.told().get("loaded", [])) - set(wanted.allow))
        for _ in came:  # users first: go round until a round takes none away
            before = self.loaded()
            for name in came:
                if name in before:
                    self._run(["rmmod", name])
            if self.loaded() == before:
                break
        left = sorted(self.loaded() & set(came))
        self._orders.take_down()
        if wanted.lock == "enforce" and not self.closed():
            missing = self._load(wanted)
            trouble = self._close()
            if left:
                trouble = f"{trouble} left from maintenance, in use: {' '.join(left)}".strip()
            why = Decision(close=True, why="maintenance is over")
            self._tell(wanted, why, missing, trouble, Opened())
        return left

    def _load(self, wanted: Wanted) -> list[str]:
        """Load every listed module; return those that are neither loaded nor built in."""
        if wanted.allow:
            self._run(["modprobe", "-a", "-q", "--", *wanted.allow])
        return sorted(set(wanted.allow) - self.loaded() - self._built_in())

    def _close(self) -> str:
        """Close the wall; return what went wrong, or ""."""
        self._settle_udev()
        try:
            self.switch.write_text("1")
        except OSError as bad:
            return f"{self.switch}: {bad.strerror}"
        return "" if self.closed() else f"{self.switch} did not take it"

    def _settle_udev(self) -> None:
        """Let what was found at boot get its driver."""
        self._run(["udevadm", "settle", f"--timeout={SETTLE_S}"])

    def _tell(
        self, wanted: Wanted, decision: Decision, missing: list[str], trouble: str, order: Opened
    ) -> None:
        loaded, closed = self.loaded(), self.closed()
        listed = wanted.lock != "off"
        state = {
            "schema": SCHEMA,
            "boot_id": self._boot_id(),
            "kernel": os.uname().release,
            "lock": wanted.lock,
            "list": wanted.digest,
            "closed": closed,
            "why": decision.why,
            "missing": missing,
            "unlisted": sorted(loaded - set(wanted.allow)) if listed else [],
            "loaded": sorted(loaded),
            "trouble": trouble,
            "maintenance": order.id,
            "opens": sorted(order.opens),
            "until": order.end,
        }
        write_atomic(self.state, canonical(state) + b"\n", mode=0o644)
        word = "closed" if closed else f"OPEN ({decision.why})"
        urgent = bool(trouble or missing or (wanted.lock == "enforce" and not closed))
        say(syslog.LOG_WARNING if urgent else syslog.LOG_NOTICE, f"module wall {word}")
        if missing:
            say(syslog.LOG_WARNING, f"listed, and not in this kernel: {' '.join(missing)}")
        if trouble:
            say(syslog.LOG_ERR, trouble)

    # -- settle ----------------------------------------------------------------------------------

    def settle(self, *, dry: bool = False) -> dict[str, Any]:
        """Bring the running machine to its policy; return what is so and whether it changed.

        Called over the administrator's connection, which is the proof; see `module_lock.settle`.
        """
        policy = self.policy()
        wanted = wanted_of(policy)
        told, proof = self.told(), self._safe_proof()
        state = State(
            closed=self.closed(),
            proven=proof is not None and proof.digest == wanted.digest,
            maintenance=_opens(self._orders.current(), "modules"),
        )
        tried = told.get("list") == wanted.digest and told.get("lock") == "enforce"
        late = self.loaded() - set(told.get("loaded", [])) - set(wanted.allow)
        boot = Boot(tried, tuple(sorted(late)), self.no_way_in(policy))
        step = settle(wanted, state, boot)
        closed, missing = state.closed, told.get("missing", [])
        if step.act != "nothing" and not dry:
            if step.act == "close":
                missing = self._load(wanted)
                wrong = self._close()
                if wrong:
                    raise SekishoError(wrong)
                closed = True
            self._prove(wanted)
            self._tell(wanted, Decision(close=True, why=step.why), missing, "", Opened())
        return {
            "lock": wanted.lock,
            "changed": step.act != "nothing",
            "closed": closed,
            "why": step.why,
            "needs_boot": step.needs_boot,
            "missing": missing,
        }

    def no_way_in(self, policy: HostPolicy) -> str:
        """Return why nobody could come in at the console with the wall closed, or ""."""
        if policy.console is Console.SERIAL:
            return ""
        held = self.loaded() | self._built_in()
        gone = [name for name in ("usbhid", "hid_generic") if name not in held]
        if gone:
            return f"no driver for the console's keyboard: {' '.join(gone)}"
        buses = list(self._at("/sys/bus/usb/devices").glob("usb*"))
        return "" if buses else "no USB host controller works: the console's keyboard is lost"

    def _prove(self, wanted: Wanted) -> None:
        value = {
            "schema": SCHEMA,
            "allow": list(wanted.allow),
            "list": wanted.digest,
            "boot_id": self._boot_id(),
            "kernel": os.uname().release,
        }
        write_atomic(self.proof, canonical(value) + b"\n")


def wanted_of(policy: HostPolicy) -> Wanted:
    """Return what a policy says of modules."""
    return module_list.wanted(policy.modules.lock, policy.modules.allow)


def _opens(order: Opened, wall: str) -> str:
    """Return the order's id when it opens this wall, or ""."""
    return order.id if wall in order.opens else ""


def _json(data: bytes, where: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as bad:
        raise SekishoError(f"{where} is no JSON: {printable(str(bad))}") from None


def say(priority: int, text: str) -> None:
    """Write to the system's log."""
    for line in lines_of(text):
        syslog.syslog(syslog.LOG_AUTHPRIV | priority, f"sekisho-modules: {line}")
