"""A whole agent below one folder, its loop in simulated time; false are only the kernel's ends.

The loop's selector does not sleep: it moves the clock to where the sleep would have ended, and on
the way calls what the test planned with `World.at`. Hours take moments, and an hour is an hour.
"""

from __future__ import annotations

import contextlib
import copy
import http.client
import importlib
import json
import os
import selectors
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import ec

from agentworld import Authority, Host, private_pem
from sekisho.host.journal.socket import Peer
from sekisho.host.journal.store import JournalWriter
from sekisho.host.kernel.nft import own_objects
from sekisho.journal.intake import submission
from sekisho.network.netlink import Fact

AGENT = "sekisho.host.agent"
EPOCH = 1_790_000_000.0  # the wall clock at the start
AUTHORITY, KEY, OTHER = Authority(), *(ec.generate_private_key(ec.SECP384R1()) for _ in "ab")
CA = AUTHORITY.certificate("ca")
CRT, NEW_CRT = (AUTHORITY.certificate("core-1", KEY, "127.0.0.1") for _ in "ab")
MONITOR = AUTHORITY.certificate("monitor-1", OTHER, "127.0.0.1")
SSHD = ("0D004D0A", 22)
STRANGE = Fact("link", "eth7", "eth7")
TICK = 2_000  # turns at one moment: more of them is a loop that never sleeps


class EndlessError(BaseException):
    """The loop does not end, or sleeps for ever. No part's failure: nothing may catch it."""


class Bell:
    """Something with a descriptor that can be rung."""

    def __init__(self) -> None:
        self._out, self._in = socket.socketpair()
        self._out.setblocking(False)

    def fileno(self) -> int:
        return self._out.fileno()

    def ring(self) -> None:
        self._in.send(b"!")

    def quiet(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._out.recv(4096)

    def close(self) -> None:
        self._out.close()
        self._in.close()


class Table:
    """The packet filter, in memory: it reads back what it was given, and rings at every load."""

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> list[dict[str, Any]] | None:
        if "table" in self.world.broken:
            raise OSError(1, "no table")
        return copy.deepcopy(self.world.table)

    def ruleset(self) -> list[dict[str, Any]]:
        return self.read() or []

    def foreign(self) -> list[tuple[str, str]]:
        return []

    def expected(self, wanted: Any) -> list[dict[str, Any]]:
        return [{kind: named} for kind, named in own_objects(wanted)][1:]

    def load(self, wanted: Any) -> None:
        self.world.loads += 1
        self.world.table = self.expected(wanted)


class Rung(Bell):
    """What the kernel announces, by kind of listener."""

    def __init__(self, world: World, kind: str) -> None:
        super().__init__()
        self.waiting: list[Any] = []
        assert kind not in world.bells, f"{kind} is heard already"
        world.bells[kind] = self

    def ring_with(self, *news: Any) -> None:
        self.waiting += news
        self.ring()

    def drain(self) -> int:
        self.quiet()
        return 1

    def take(self, _names: Any) -> list[Any]:
        self.quiet()
        news, self.waiting = self.waiting, []
        return news

    def added(self) -> Iterator[Any]:
        yield from self.take(None)


class Network:
    """The kernel's network: ``world.facts``."""

    names = {2: "eth0"}  # noqa: RUF012 - never changed

    def __init__(self, world: World) -> None:
        self.world = world

    def read(self) -> set[Fact]:
        self.world.readings += 1
        return set(self.world.facts)

    def indexes(self) -> dict[str, int]:
        return {"eth0": 2}

    def change(self, _kind: int, _body: bytes) -> None:
        """Count the tries, and change nothing."""
        self.world.changes += 1


class Notifier:
    """Keeps what systemd would hear, and when."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.interval_s: float | None = 15.0
        self.said: list[dict[str, str]] = []

    def send(self, **fields: str) -> bool:
        self.said.append(fields)
        for heard in self.world.on_notice:
            heard(fields)
        return True

    def count(self, key: str) -> int:
        return sum(key in fields for fields in self.said)


class Selector(selectors.DefaultSelector):
    """Does not sleep: it moves the world's clock."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, world.selector_closed = world, False

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            self.world.sleep(timeout)
            ready = super().select(0)
        return ready

    def close(self) -> None:
        self.world.selector_closed = True
        super().close()


class World:
    """The folders, the kernel's ends, the clock, and the agent in them."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.host = Host(root)
        self.root, self.paths = root, self.host.paths
        self.now, self.jumped = 1000.0, 0
        self.plan: list[tuple[float, int, Callable[[], None]]] = []
        self.on_notice: list[Callable[[dict[str, str]], None]] = []
        self.notifier = Notifier(self)
        self.bells: dict[str, Rung] = {}
        self.broken: set[str] = set()  # ends that cannot be opened now
        self.table: list[dict[str, Any]] | None = None
        self.loads = self.readings = self.changes = 0
        self.facts: set[Fact] = set()
        self.xfrm = False
        self.audit = SimpleNamespace(lost=0, enabled=1, pid=401, backlog=3)
        self.port = free_port()
        self.given: list[tuple[str, int]] = []  # part, and the serial it was given
        self.refusing: set[str] = set()  # parts that refuse whatever policy they get
        etc, proc = self.paths.etc, self.paths.proc
        (etc / "host.key.pem").write_bytes(private_pem(KEY))
        (etc / "ca.crt.pem").write_bytes(CA)
        (etc / "host.crt.pem").write_bytes(CRT)
        for name, text in (
            ("sys/kernel/random/boot_id", "7d0f2c1e-0f7a-4c43-8ac7-1f0e6e7a0001\n"),
            ("self/statm", "5000 2500 100 1 0 1 0\n"),
            ("sys/kernel/modules_disabled", "0\n"),
        ):
            (proc / name).parent.mkdir(parents=True, exist_ok=True)
            (proc / name).write_text(text)
        for table in ("tcp", "tcp6", "udp", "udp6"):
            self.listen(table, *([SSHD] if table == "tcp" else []))
        self.paths.audit_log.touch()
        (self.paths.root / "etc/sudoers.d").mkdir(parents=True)
        self.write_policy(**changes)
        self.host.write_rules()
        self.agent: Any = None
        self.metrics: Any = None

    # -- the outside ---------------------------------------------------------------------------

    def write_policy(self, **changes: Any) -> None:
        self.host.write_policy(
            **{"metrics": {"address": "127.0.0.1", "port": self.port}, "pci": []} | changes
        )

    def listen(self, table: str, *sockets: tuple[str, int]) -> None:
        line = "   0: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 0 33 0 {} 1"
        state = "0A" if table.startswith("tcp") else "07"
        wide = "0" * 24 if table.endswith("6") else ""
        lines = [line.format(wide + at, port, state, port) for at, port in sockets]
        (self.paths.proc / "net").mkdir(parents=True, exist_ok=True)
        (self.paths.proc / "net" / table).write_text("\n".join(["  sl  head", *lines]) + "\n")

    def client(self, kind: str = "", **data: Any) -> socket.socket:
        """Return a client of the journal's socket that has sent an event, when one is given."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.connect(str(self.paths.run / "journal.sock"))
        link.setblocking(False)
        if kind:
            link.send(submission(kind, data))
        return link

    def scrape(self, certificate: bytes = MONITOR, port: int = 0) -> str:
        """Return what the monitor sees."""
        for name, pem in (("m.crt", certificate), ("m.key", private_pem(OTHER))):
            (self.root / name).write_bytes(pem)
        context = ssl.create_default_context(cafile=str(self.paths.etc / "ca.crt.pem"))
        context.load_cert_chain(self.root / "m.crt", self.root / "m.key")
        link = http.client.HTTPSConnection(
            "127.0.0.1", port or self.port, context=context, timeout=5
        )
        try:
            link.request("GET", "/metrics")
            sock = link.sock
            assert isinstance(sock, ssl.SSLSocket)
            self.certificate = sock.getpeercert(binary_form=True)
            return link.getresponse().read().decode()
        finally:
            link.close()

    def silence(self, part: str, seconds: float) -> None:
        """Lose the timer of one of a part's looks, as a defect of the loop would."""
        loop = self.agent._loop
        kept = [one for one in loop._timers if one[2:4] != (part, seconds)]
        assert len(kept) == len(loop._timers) - 1, f"{part} has one look every {seconds} s"
        loop._timers[:] = sorted(kept)

    def mute(self) -> None:
        for bell in self.bells.values():
            bell.close()
        self.bells.clear()

    def ring(self, kind: str) -> None:
        self.bells[kind].ring()

    # -- what the agent says -------------------------------------------------------------------

    def events(self) -> list[dict[str, Any]]:
        return [
            json.loads(line)
            for path in sorted((self.paths.state / "journal").glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events()]

    def detected(self, check: str, saying: str = "") -> int:
        return sum(
            event["data"].get("id") == check and saying in json.dumps(event["data"])
            for event in self.events()
        )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.paths.run / "agent.json").read_text())
        return found

    def up(self, part: str) -> bool:
        return bool(self.metrics.get("sekisho_agent_part_up", part))

    def metric(self, name: str, *labels: str) -> float:
        return float(self.metrics.get(f"sekisho_{name}", *labels))

    # -- time ----------------------------------------------------------------------------------

    @property
    def t(self) -> float:
        """Seconds since the start."""
        return self.now - 1000.0

    def at(self, seconds: float, call: Callable[[], None]) -> None:
        """Plan something ``seconds`` after the start, between two turns of the loop."""
        self.plan.append((1000.0 + seconds, len(self.plan), call))
        self.plan.sort()

    def sleep(self, seconds: float | None) -> None:
        """Let time pass until something of the plan is due, or the sleep is over."""
        until = self.now + seconds if seconds is not None else None
        self.jumped = 0 if seconds else self.jumped + 1
        if self.jumped > TICK or self.now > self.end:
            raise EndlessError("the loop turns and turns")
        if self.plan and (until is None or self.plan[0][0] <= until):
            when, _, call = self.plan.pop(0)
            self.now = max(self.now, when)
            call()
        elif until is not None:
            self.now = until
        else:
            raise EndlessError("the loop sleeps for ever")

    def run(self, seconds: float = 1.0, number: int = signal.SIGTERM) -> None:
        """Let a new agent run so long, and end it as systemd does."""
        self.end = 1000.0 + seconds + 60.0
        self.at(seconds, lambda: os.kill(os.getpid(), number))
        with self.inside():
            module = importlib.import_module(f"{AGENT}.main")
            self.agent = module.Agent(
                self.paths,
                self.paths.etc / "policy.json",
                "core-1",
                self.notifier,
                clock=lambda: self.now,
                wall=lambda: EPOCH + self.t,
            )
            try:
                self.agent.run()
            finally:
                self.agent.close()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Put the false ends in, and take signals away from everybody else's handlers."""
        with contextlib.ExitStack() as stack:
            for module, name, end in self.ends():
                stack.enter_context(mock.patch.object(module, name, end))
            peer = mock.patch("sekisho.host.journal.socket.peer_of", return_value=Peer(7, 0, 0))
            stack.enter_context(peer)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                stack.callback(signal.signal, number, signal.signal(number, _unheard))
            stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(-1))
            stack.callback(self.mute)
            yield

    def ends(self) -> Iterator[tuple[Any, str, Any]]:
        """Yield module, name and what stands there instead."""
        agent = importlib.import_module(f"{AGENT}.main")
        loop = importlib.import_module(f"{AGENT}.loop")
        network, activity, intake, rules, devices = (
            importlib.import_module(f"{AGENT}.parts.{name}")
            for name in ("network", "activity", "intake", "rules", "devices")
        )
        yield rules, "Nft", lambda: Table(self)
        yield rules, "NftChanges", lambda: self.opened("nft")
        yield devices, "DeviceMonitor", lambda: self.opened("udev")
        selector = SimpleNamespace(DefaultSelector=partial(Selector, self), EVENT_READ=1)
        yield loop, "selectors", selector
        yield network, "KernelNetwork", lambda: Network(self)
        yield network, "spoken", lambda _protocol: self.xfrm
        yield network, "NetworkChanges", lambda which: self.opened("xfrm" if which else "route")
        yield activity, "kernel_status", lambda: self.audit
        yield intake, "_gid", lambda _name: os.getgid()
        yield agent, "Metrics", partial(self.counted, agent.Metrics)
        yield agent, "JournalWriter", SimpleNamespace(open=self.journalled)
        for name, owner in self.takers():
            yield owner, "policy", self.taker(name, owner.policy)

    def opened(self, kind: str) -> Rung:
        if kind in self.broken:
            raise OSError(1, f"no {kind}")
        return Rung(self, kind)

    def journalled(self, *arguments: Any) -> JournalWriter:
        self.journal = JournalWriter.open(*arguments)
        return self.journal

    def counted(self, metrics: Any, *arguments: Any) -> Any:
        self.metrics = metrics(*arguments)
        return self.metrics

    def takers(self) -> Iterator[tuple[str, Any]]:
        """Yield the parts that take what a policy says."""
        for name in ("devices", "exceptions", "listeners", "lines", "network", "activity"):
            module = importlib.import_module(f"{AGENT}.parts.{name}")
            yield name, getattr(module, f"{name.title()}Part")

    def taker(self, name: str, take: Callable[..., None]) -> Callable[..., None]:
        def given(part: Any, policy: Any) -> None:
            self.given.append((name, policy.serial))
            if name in self.refusing:
                raise ValueError(f"{name} refuses it")
            take(part, policy)

        return given


def _unheard(number: int, _frame: Any) -> None:
    raise EndlessError(f"nobody listens to signal {number}")


def expect(so: bool, what: str) -> None:
    """Fail with a sentence when it is not so."""
    assert so, what


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as link:
        link.bind(("127.0.0.1", 0))
        return int(link.getsockname()[1])
