"""The host agent: journal, devices, modules, packet filter, files, listeners, activity, metrics.

``python3 -m sekisho.host.agent.main --policy /etc/sekisho/policy.json`` is what the unit runs.
SIGHUP reads the policy again; SIGTERM ends it with a sealed journal. A part that fails is counted,
told and tried again; only a journal that cannot be opened ends the agent (systemd starts it again).
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sekisho import __version__
from sekisho.activity.watched import KINDS
from sekisho.core.canonical import canonical, digest
from sekisho.core.errors import SekishoError
from sekisho.host.agent.loop import Loop
from sekisho.host.agent.parts import activity as agent_activity
from sekisho.host.agent.parts import devices as agent_devices
from sekisho.host.agent.parts import exceptions as agent_exceptions
from sekisho.host.agent.parts import files as agent_files
from sekisho.host.agent.parts import lines as agent_lines
from sekisho.host.agent.parts import listeners as agent_listeners
from sekisho.host.agent.parts import modules as agent_modules
from sekisho.host.agent.parts import network as agent_network
from sekisho.host.agent.parts import policy as agent_policy
from sekisho.host.agent.parts import probe_socket as agent_probe_socket
from sekisho.host.agent.parts import rules as agent_rules
from sekisho.host.agent.parts.intake import IntakePart
from sekisho.host.agent.reporter import Book, Paths, say
from sekisho.host.enrol import load_key
from sekisho.host.journal.store import JournalWriter
from sekisho.host.kernel.nft import Nft, NftChanges
from sekisho.host.kernel.udev import DeviceMonitor
from sekisho.host.metrics import Metrics, MetricsServer, server_context
from sekisho.host.policy_store import PolicyStore
from sekisho.host.sdnotify import Notifier
from sekisho.nft.readback import normalise

HEALTH_EVERY_S = 5.0
RETRY_S = 30.0  # a part that could not start tries again

#: Every check the agent itself can detect; activity's are added.
CHECKS = (
    agent_policy.CHECK,
    agent_rules.DRIFT,
    agent_rules.FILE,
    agent_network.CHECK,
    agent_devices.REFUSED,
    agent_devices.APPEARED,
    agent_devices.LET_IN,
    agent_exceptions.UNPROVEN,
    agent_exceptions.OVERDUE,
    agent_listeners.OPENED,
    agent_probe_socket.MISSING,
    agent_files.CHECK,
    agent_modules.OPEN,
)


def checks() -> list[str]:
    """Return the id of everything that can be detected on a host."""
    return sorted({*CHECKS, *(f"6-iv-b.{slug}" for slug in KINDS)})


class Agent:
    """Wires the parts together and turns the loop."""

    def __init__(self, paths: Paths, policy: Path, host: str, notifier: Notifier) -> None:
        self._paths, self._host, self._notifier = paths, host, notifier
        self._metrics = Metrics(checks(), __version__)
        boot = (paths.proc / "sys/kernel/random/boot_id").read_text().strip()
        self._journal = JournalWriter.open(
            paths.state / "journal", host, boot, load_key(paths.etc / "host.key.pem")
        )
        self._book = Book(self._journal, self._metrics)
        self._loop = Loop(self._failed)
        self._store = PolicyStore(policy, paths.state, host=host)
        self._policy = agent_policy.PolicyPart(self._book, self._store, self._changed)
        self._server: MetricsServer | None = None
        self._intake = IntakePart(self._book, paths, self._journal, self._agree)
        self._rules: agent_rules.RulesPart | None = None
        self._devices: agent_devices.DevicesPart | None = None
        self._exceptions = agent_exceptions.ExceptionsPart(self._book, *paths.exceptions)
        self._listeners = agent_listeners.ListenersPart(self._book, paths)
        self._files = agent_files.FilesPart(self._book, paths)
        self._modules = agent_modules.ModulesPart(self._book, paths)
        self._lines = agent_lines.LinesPart(self._book, paths)
        self._network = agent_network.NetworkPart(self._book, paths, self._policy.settled)
        self._activity = agent_activity.ActivityPart(
            self._book,
            paths,
            self._journal,
            lambda: self._loop.after("activity", 0.0, self._activity.poll),
        )
        self._started = time.time()
        self._rules_digest = ""
        self._seal_count, self._seal_time = 0, 0
        self._refusals: deque[str] = deque(maxlen=100)  # from the metrics server's threads

    # -- start -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start every part; a part that cannot start is told, counted, and tried again."""
        self._metrics.set("sekisho_agent_start_timestamp_seconds", int(self._started))
        self._book.tell("agent.started", {"version": __version__, "pid": os.getpid()})
        for part, begin in (
            ("intake", lambda: self._intake.start(self._loop)),
            ("nft", self._start_rules),
            ("network", lambda: self._network.start(self._loop)),
            ("devices", self._start_devices),
            ("files", self._start_files),
        ):
            self._begin(part, begin)
        self._try("policy", self._policy.start)
        every = self._loop.every
        every("policy", agent_policy.LOOK_EVERY_S, self._policy.look)
        every("exceptions", agent_exceptions.LOOK_EVERY_S, self._exceptions.look)
        every("listeners", agent_listeners.LOOK_EVERY_S, self._listeners.look)
        every("modules", agent_modules.LOOK_EVERY_S, self._modules.look)
        every("lines", agent_lines.LOOK_EVERY_S, self._lines.look)
        every("activity", agent_activity.POLL_EVERY_S, self._activity.poll)
        every("activity", agent_activity.ASK_KERNEL_EVERY_S, self._activity.ask_kernel)
        every("loop", HEALTH_EVERY_S, self.health)
        if self._notifier.interval_s is not None:
            every("loop", self._notifier.interval_s, self._alive)
        # Before READY: who looks right after a restart sees the whole agent.
        for part, look in (
            ("exceptions", self._exceptions.look),
            ("listeners", self._listeners.look),
            ("modules", self._modules.look),
            ("lines", self._lines.look),
            ("network", self._network.check),
            ("activity", self._activity.poll),
            ("activity", self._activity.ask_kernel),
            ("loop", self.health),
        ):
            self._try(part, look)
        self._notifier.send(READY="1", STATUS=self._status())

    def _begin(self, part: str, begin: Callable[[], None]) -> None:
        if not self._try(part, begin):
            self._loop.after(part, RETRY_S, lambda: self._begin(part, begin))

    def _try(self, part: str, call: Callable[[], None]) -> bool:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the other parts go on all the same
            self._failed(part, error)
            return False
        return True

    def _failed(self, part: str, error: Exception) -> None:
        # Each of these says that it works when it does so the next time.
        if part not in ("metrics", "intake", "loop"):
            self._book.up(part, works=False)
        self._book.failed(part, error)

    def _agree(self, why: str) -> int:
        self._policy.look()
        return self._files.agree(why)

    def _start_rules(self) -> None:
        changes = NftChanges()
        self._rules = agent_rules.RulesPart(self._book, self._paths, Nft(), self._store)
        self._rules.start()
        self._rules.policy(self._policy.policy)
        check, due = self._rules.check, False

        def changed() -> None:
            nonlocal due
            changes.drain()
            if not due:
                due = True
                self._loop.after("nft", agent_rules.SETTLE_S, settled)

        def settled() -> None:
            nonlocal due
            due = False
            check()

        self._loop.reader("nft", changes, changed)
        self._loop.every("nft", agent_rules.CHECK_EVERY_S, check)

    def _start_devices(self) -> None:
        devices = agent_devices.DevicesPart(
            self._book,
            self._paths,
            lambda seconds, call: self._loop.after("devices", seconds, call),
            self._exceptions.excepted,
        )
        devices.hear(self._loop, DeviceMonitor)
        self._devices = devices
        if self._book.policy is not None:
            devices.policy(self._book.policy)
        self._loop.every("devices", agent_devices.LOOK_EVERY_S, devices.look)
        # What is attached already is judged by the policy, which is read after this.
        self._loop.after("devices", 0.0, lambda: self._begin("devices", devices.start))
        self._book.up("devices", works=True)

    def _start_files(self) -> None:
        self._files.start()
        self._loop.every("files", agent_files.LOOK_EVERY_S, self._files.look)

    # -- policy ------------------------------------------------------------------------------

    def _changed(self, policy: Mapping[str, Any]) -> None:
        """Give a new policy to every part; one that refuses it is told, the others take it."""
        self._rules_digest = digest(normalise(policy["nftables"]))
        if self._rules is not None:
            self._rules.policy(self._policy.policy)
            self._try("nft", self._rules.check)
        self._try("exceptions", lambda: self._exceptions.policy(policy))
        if self._devices is not None:
            devices = self._devices
            self._try("devices", lambda: devices.policy(policy))
        self._try("listeners", lambda: self._listeners.policy(policy))
        self._try("lines", lambda: self._lines.policy(policy))
        self._try("network", lambda: self._network.policy(policy))
        self._try("activity", lambda: self._activity.policy(policy))
        self._try("metrics", lambda: self._serve_metrics(policy))

    def _serve_metrics(self, policy: Mapping[str, Any]) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        etc, wanted = self._paths.etc, policy["metrics"]
        context = server_context(etc / "host.crt.pem", etc / "host.key.pem", etc / "ca.crt.pem")
        self._server = MetricsServer(
            (str(wanted["address"]), int(wanted["port"])),
            context,
            allowed=frozenset(policy["management"]["monitors"]),
            render=self._metrics.render,
            failed=self._refusals.append,
        )
        self._book.up("metrics", works=True)

    def reload(self) -> None:
        """Read policy and certificates again (SIGHUP)."""
        self._notifier.send(
            RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000), STATUS="reloading"
        )
        self._policy.reload()
        if self._book.policy is not None:
            policy = self._book.policy
            self._try("metrics", lambda: self._serve_metrics(policy))
        self._notifier.send(READY="1", STATUS=self._status())

    # -- health ------------------------------------------------------------------------------

    def _alive(self) -> None:
        self._notifier.send(WATCHDOG="1")

    def health(self) -> None:
        """Show how the agent itself is."""
        metrics, stats = self._metrics, self._journal.stats
        while self._refusals:
            self._book.failed("metrics", SekishoError(self._refusals.popleft()))
        now = time.time()
        if stats.sealed_n != self._seal_count:
            self._seal_count, self._seal_time = stats.sealed_n, int(now)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        metrics.set("sekisho_agent_heartbeat_timestamp_seconds", int(now))
        metrics.set("sekisho_agent_resident_bytes", _resident(self._paths.proc))
        metrics.set("sekisho_agent_lag_seconds", round(self._loop.lag_s, 3))
        metrics.raise_to("sekisho_agent_cpu_seconds_total", usage.ru_utime + usage.ru_stime)
        for name, total in (
            ("sekisho_journal_records_total", stats.appended),
            ("sekisho_journal_lost_total", stats.lost),
            ("sekisho_journal_write_errors_total", stats.write_errors + stats.sync_errors),
            ("sekisho_journal_repaired_total", stats.repaired),
            ("sekisho_journal_broken_total", stats.broken),
        ):
            metrics.raise_to(name, total)
        metrics.set("sekisho_journal_last_number", stats.last_n)
        metrics.set("sekisho_journal_unsealed_records", stats.last_n - stats.sealed_n)
        metrics.set("sekisho_journal_last_seal_timestamp_seconds", self._seal_time)
        self._book.up("journal", works=stats.last_n - stats.synced_n < 10_000)
        self._book.up("loop", works=True)
        self._write_state(now)
        self._notifier.send(STATUS=self._status())

    def _status(self) -> str:
        serial = self._policy.policy.serial if self._policy.policy is not None else None
        policy = f"policy {serial}" if serial is not None else "NO POLICY"
        return f"{policy}, journal at {self._journal.stats.last_n}"

    def _write_state(self, now: float) -> None:
        up = self._metrics.by_label("sekisho_agent_part_up")
        state = {
            "schema": 1,
            "version": __version__,
            "host": self._host,
            "pid": os.getpid(),
            "at": int(now),
            "policy_serial": self._policy.policy.serial if self._policy.policy else 0,
            "rules_digest": self._rules_digest,
            "policy_refused": bool(self._metrics.get("sekisho_policy_fallback")),
            "parts": {part: value == 1 for part, value in up.items()},
            "journal": {
                "last": self._journal.stats.last_n,
                "sealed": self._journal.stats.sealed_n,
                "lost": self._journal.stats.lost,
            },
            "resident_bytes": int(self._metrics.get("sekisho_agent_resident_bytes")),
        }
        path = self._paths.run / "agent.json"
        temporary = path.with_name(".agent.json")
        temporary.write_bytes(canonical(state) + b"\n")
        temporary.chmod(0o644)
        temporary.replace(path)

    # -- run and stop ------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT; SIGHUP reloads."""
        wake, woken = socket.socketpair()
        wake.setblocking(False)
        woken.setblocking(False)
        asked: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda which, _frame: asked.append(which))
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

        def signalled() -> None:
            woken.recv(4096)
            while asked:
                if asked.pop(0) == signal.SIGHUP:
                    self.reload()
                else:
                    self._loop.stop()

        self._loop.reader("loop", woken, signalled)
        self.start()
        self._loop.run()

    def close(self) -> None:
        """Stop: what was read is written, the journal is sealed and closed."""
        self._notifier.send(STOPPING="1", STATUS="sealing the journal")
        self._try("activity", self._activity.close)
        self._intake.close()
        if self._server is not None:
            self._server.close()
        self._book.tell("agent.stopping", {"pid": os.getpid()})
        self._journal.close()
        self._loop.close()


def _resident(proc: Path) -> int:
    pages = int((proc / "self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main(argv: list[str] | None = None) -> int:
    """Run the agent until it is told to stop; 1 when it cannot start."""
    parser = argparse.ArgumentParser(prog="sekisho-agent", description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path("/etc/sekisho/policy.json"))
    parser.add_argument("--root", type=Path, help="another root for state and sockets (tests)")
    parser.add_argument("--host", default=os.uname().nodename.partition(".")[0])
    given = parser.parse_args(argv)
    paths = Paths()
    if given.root is not None:
        root: Path = given.root
        paths = Paths(
            etc=given.policy.parent,
            state=root / "var/lib/sekisho",
            run=root / "run/sekisho",
            root=root,
            audit_log=root / "var/log/audit/audit.log",
        )
        for folder in (paths.state, paths.run):
            folder.mkdir(parents=True, exist_ok=True)
    try:
        agent = Agent(paths, given.policy, given.host, Notifier(os.environ))
    except (SekishoError, OSError) as error:
        say(error.diagnostics() if isinstance(error, SekishoError) else str(error))
        return 1
    try:
        agent.run()
    finally:
        agent.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
