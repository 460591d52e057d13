"""A host for the guard's fault tests: a kernel that outlives a killed process, kills, power cuts.

Kills: an operation runs in a process of its own that is killed (SIGKILL) before its N-th change of
the disk or command, for every N. Power cuts: the same changes are recorded, and the disk is made as
it may be after a cut at each of them: what a folder's fsync has not made lasting may be there or
not, each by itself, and what a file's fsync has not is empty.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sekisho.host.guard.guard import Done, Guard
from sekisho.host.guard.request import Wanted

MAX_SUBSETS = 64
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.utime",
           "os.chmod"}  # fmt: skip
OWN = {"family": "inet", "name": "sekisho"}


def rules(version: str) -> bytes:
    """Return a rule set as the compiler writes it; its one chain is named by the version."""
    chain = {"family": "inet", "table": "sekisho", "name": version, "type": "filter",
             "hook": "input", "prio": 0, "policy": "drop"}  # fmt: skip
    made = [{"add": {"table": OWN}}, {"delete": {"table": OWN}}, {"add": {"table": OWN}},
            {"add": {"chain": chain}}]  # fmt: skip
    return json.dumps({"nftables": made}).encode()


class Machine:
    """One host below a folder: its disk (`etc`, `state`) and its kernel, which a cut empties."""

    def __init__(self, root: Path) -> None:
        self.root, self.disk, self.kernel = root, root / "disk", root / "kernel"
        self.state = self.disk / "var/guard"
        self.rules, self.sshd = self.disk / "etc/sekisho/rules", self.disk / "etc/ssh/sshd"
        self.watch: Callable[[str, tuple[Any, ...]], None] | None = None
        self.silent = False
        for folder in (self.disk / "var", self.disk / "etc/ssh", self.kernel, root / "usb"):
            folder.mkdir(parents=True, exist_ok=True)
        self.boots = 0

    @property
    def guard(self) -> Guard:
        return Guard(state=self.state, run=self, usb=self.root / "usb")

    def wanted(self, version: str) -> list[Wanted]:
        return [
            Wanted(self.rules, rules(version), 0o600, "nftables"),
            Wanted(self.sshd, version.encode(), 0o644, "sshd"),
        ]

    # -- the kernel and systemd -----------------------------------------------------------------

    def _get(self, name: str) -> Any:
        path = self.kernel / name
        return json.loads(path.read_bytes()) if path.exists() else None

    def _set(self, name: str, value: Any) -> None:
        fresh = self.kernel / f"{name}.fresh"
        fresh.write_text(json.dumps(value))
        fresh.replace(self.kernel / name)

    def __call__(self, argv: Sequence[str], stdin: bytes) -> Done:
        if self.watch is not None:
            self.watch("command", tuple(argv))
        self.silent = True
        try:
            return self._run(list(argv), stdin)
        finally:
            self.silent = False

    def _run(self, argv: list[str], stdin: bytes) -> Done:  # noqa: C901 - one case per command
        table = self._get("table")
        if argv[:3] == ["nft", "-j", "-s"]:
            if table is None:
                return Done(1, b"", b"Error: No such file or directory\n")
            listed = [{"metainfo": {"version": "1"}}, {"table": {**OWN, "handle": 1}}, *table]
            return Done(0, json.dumps({"nftables": listed}).encode(), b"")
        if argv[:2] == ["nft", "-j"]:
            for command in json.loads(stdin)["nftables"]:
                (act, body), *_ = command.items()
                (kind, what), *_ = body.items()
                if kind == "table" and what["name"] == "sekisho":
                    table = (table or []) if act == "add" else None
                elif kind == "table":
                    self._set("untracked", act == "add")
                else:
                    table = [*(table or []), {kind: {**what, "handle": 2}}]
            self._set("table", table)
        elif argv[:2] == ["nft", "-f"]:
            self._set("untracked", b"notrack" in stdin)
        elif argv[0] == "systemd-run":
            self._set("timers", [*(self._get("timers") or []), argv[-1]])
        elif argv[:2] == ["systemctl", "stop"]:
            gone = argv[2].removeprefix("sekisho-guard-").removesuffix(".timer")
            self._set("timers", [one for one in self._get("timers") or [] if one != gone])
        elif argv[:2] == ["systemctl", "reload-or-restart"]:
            self._set("sshd", self.sshd.read_text() if self.sshd.exists() else None)
        return Done(0, b"", b"")

    def loaded(self) -> str | None:
        """Return the version of the rules in the kernel, None without a table, "" when empty."""
        table = self._get("table")
        if table is None:
            return None
        return next((one["chain"]["name"] for one in table), "")

    def timers(self) -> list[str]:
        return list(self._get("timers") or [])

    def untracked(self) -> bool:
        return bool(self._get("untracked"))

    # -- what is so, and recovery -----------------------------------------------------------------

    def versions(self, *, running: bool) -> set[str | None]:
        """Return the versions that are anywhere: one, or the host is half changed."""
        found: set[str | None] = {self.sshd.read_text() if self.sshd.exists() else None}
        if self.rules.exists():
            made = json.loads(self.rules.read_bytes())["nftables"]
            found.add(made[-1]["add"]["chain"]["name"])
        else:
            found.add(None)
        if running:
            found |= {self.loaded(), self._get("sshd")}
        return found

    def fire_timers(self) -> None:
        """Let every armed timer run out, as systemd does: until its command works."""
        for token in self.timers():
            self.guard.rollback(token)
            self._set("timers", [one for one in self.timers() if one != token])

    def power_cycle(self) -> None:
        """Lose the kernel and boot: the guard's unit, then the one that loads the rules' file."""
        for path in self.kernel.iterdir():
            path.unlink()
        self.boots += 1
        if (self.state / "pending.json").exists():
            self.guard.rollback(live=False)
        if self.rules.exists():
            assert self(["nft", "-j", "-f", "-"], self.rules.read_bytes()).code == 0
        self._set("sshd", self.sshd.read_text() if self.sshd.exists() else None)


# -- kills -----------------------------------------------------------------------------------------


class Steps:
    """Counts the changes a process makes, and kills it before one of them."""

    def __init__(self, machine: Any, kill_at: int, seen: list[Any] | None = None) -> None:
        self.machine, self.kill_at, self.count = machine, kill_at, 0
        self.seen = seen
        machine.watch = self._step
        fsync = os.fsync

        def watched(handle: int) -> None:
            self._step("fsync", (handle,))
            fsync(handle)

        os.fsync = watched
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.machine.silent:
            return
        if event == "open" and isinstance(args[0], str) and args[2] & _WRITES:
            self._step("open", (args[0], args[2]))
        elif event in _EVENTS:
            self._step(event, args)

    def _step(self, event: str, args: tuple[Any, ...]) -> None:
        self.count += 1
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.seen is not None:
            self.machine.silent = True
            self.seen.append(_told(event, args))
            self.machine.silent = False


def killed_at(machine: Any, act: Callable[[Any], object], step: int) -> bool:
    """Run ``act`` in a process of its own, killed before its ``step``; False: it ended before.

    ``machine`` is a `Machine`, or anything with its ``watch`` and ``silent``.
    """
    child = os.fork()
    if child == 0:
        code = 0
        try:
            Steps(machine, step)
            act(machine)
        except BaseException as bad:  # noqa: BLE001 - told by the exit code
            os.write(2, f"{type(bad).__name__}: {bad}\n".encode())
            code = 9
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), "the operation itself failed"
    return status == signal.SIGKILL


# -- power cuts ------------------------------------------------------------------------------------


def _path(name: Any, folder: Any = -1) -> str:
    text = os.fsdecode(name)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(text):
        text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
    return os.path.abspath(text)


def _told(event: str, args: tuple[Any, ...]) -> tuple[Any, ...]:  # noqa: PLR0911 - one per kind
    """Return a change as `cuts` replays it."""
    if event == "open":
        return ("open", _path(args[0]))
    if event == "fsync":
        path = os.readlink(f"/proc/self/fd/{args[0]}")
        if stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return ("syncdir", path)
        with open(path, "rb") as stream:
            return ("content", path, stream.read())
    if event == "os.rename":
        return ("rename", _path(args[0], args[2]), _path(args[1], args[3]))
    if event in ("os.remove", "os.rmdir"):
        return ("gone", _path(args[0], args[1]))
    if event == "os.mkdir":
        return ("mkdir", _path(args[0], args[2]))
    return ("other", event)


def recorded(machine: Machine, acts: Sequence[Callable[[Machine], object]]) -> list[Any]:
    """Run ``acts`` in a process of its own; return their changes, with a mark after each act."""
    place = machine.root / "record"
    child = os.fork()
    if child == 0:
        code = 9
        try:
            seen: list[Any] = []
            Steps(machine, 0, seen)
            for number, act in enumerate(acts):
                act(machine)
                seen.append(("done", number))
            machine.silent = True
            place.write_bytes(pickle.dumps(seen))
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    return list(pickle.loads(place.read_bytes()))  # noqa: S301 - our own child's


Entries = dict[str, Any]


class Disk:
    """What is surely on the disk, and what may be: changes that no fsync has made lasting."""

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        self.entries: Entries = {}  # path → "dir", or the number of a file
        self.content: dict[int, bytes] = {}
        self.now: Entries = {}  # as the running system sees it
        self.open_changes: list[tuple[str, Entries]] = []  # (folder, path → what)
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                self.entries[str(path)] = "dir"
            else:
                number = len(self.content)
                self.content[number] = path.read_bytes()
                self.entries[str(path)] = number
        self.now = dict(self.entries)

    def take(self, change: tuple[Any, ...]) -> None:
        """Take one recorded change over."""
        kind, path = change[0], str(change[1]) if len(change) > 1 else ""
        if kind == "content" and path in self.now:
            self.content[self.now[path]] = change[2]
        elif kind == "syncdir":
            for folder, what in self.open_changes:
                if folder == path:
                    self._apply(self.entries, what)
            self.open_changes = [one for one in self.open_changes if one[0] != path]
        elif not path.startswith(self.root):
            return
        elif kind == "open" and path not in self.now:
            number = len(self.content)
            self.content[number] = b""
            self._change(os.path.dirname(path), {path: number})
        elif kind == "mkdir":
            self._change(os.path.dirname(path), {path: "dir"})
        elif kind == "gone":
            self._change(os.path.dirname(path), {path: None})
        elif kind == "rename":
            inner = {
                change[2] + old[len(path) :]: what
                for old, what in self.now.items()
                if old == path or old.startswith(path + "/")
            }
            gone = {path + new[len(change[2]) :]: None for new in inner}
            self._change(os.path.dirname(path), gone | inner)

    def _change(self, folder: str, what: Entries) -> None:
        self._apply(self.now, what)
        self.open_changes.append((folder, what))

    @staticmethod
    def _apply(entries: Entries, what: Entries) -> None:
        for path, node in what.items():
            if node is None:
                entries.pop(path, None)
            else:
                entries[path] = node

    def after_cut(self) -> Iterator[Entries]:
        """Yield every disk a cut may leave now (all, or a fair part, of the subsets)."""
        count = len(self.open_changes)
        whole = range(count)
        if 2**count <= MAX_SUBSETS:
            chosen: list[Sequence[int]] = [
                pick for size in range(count + 1) for pick in itertools.combinations(whole, size)
            ]
        else:
            chosen = [(), tuple(whole)]
            chosen += [(one,) for one in whole]
            chosen += [tuple(other for other in whole if other != one) for one in whole]
        for pick in chosen:
            left = dict(self.entries)
            for index in pick:
                self._apply(left, self.open_changes[index][1])
            yield left

    def write(self, entries: Entries) -> None:
        """Make the folder as a cut left it; what is in a folder that is gone is gone, too."""
        shutil.rmtree(self.root)
        Path(self.root).mkdir()
        for path, node in sorted(entries.items()):
            if not Path(path).parent.is_dir():
                continue
            if node == "dir":
                Path(path).mkdir()
            else:
                Path(path).write_bytes(self.content[node])


def cuts(start: Disk, log: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield (position, acts done) for every cut, the machine's disk made as the cut left it."""
    done = 0
    for position in range(len(log) + 1):
        for left in start.after_cut():
            start.write(left)
            yield position, done
        if position < len(log):
            change = log[position]
            if change[0] == "done":
                done += 1
            else:
                start.take(change)
