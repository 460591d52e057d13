"""One trial against the lab: steps a person can follow, expectations that are kept with what was seen.

The demo prints a trial, `make test-lab` asserts it: one implementation of each attack for both.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LAB = REPOSITORY / "vagrant/lab"
INVENTORY = REPOSITORY / "inventory/lab"
BIN = REPOSITORY / ".venv/bin"
MANAGED = ("gate-in", "inbound-1", "core-1", "outbound-1", "gate-out", "monitor-1")


@dataclass(frozen=True, slots=True)
class Seen:
    """Outcome of a command on a machine of the lab."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Expectation:
    """One thing that had to hold, whether it did, and what was seen."""

    what: str
    held: bool
    seen: str


@dataclass(slots=True)
class Trial:
    """A named attack with its steps and expectations."""

    name: str
    expectations: list[Expectation] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    label: str = ""  # in front of every line, where several trials run at once

    def _say(self, text: str) -> None:
        mark = f"{self.label} " if self.label else ""
        sys.stdout.write("".join(f"{mark}{line}\n" for line in text.splitlines()))
        sys.stdout.flush()

    def step(self, text: str) -> None:
        """Say what is being done."""
        self._say(f"  {time.monotonic() - self.started:6.1f} s  {text}")

    def expect(self, what: str, held: object, seen: object = "") -> None:
        """Keep one expectation and go on: a trial shows everything that broke."""
        entry = Expectation(what, bool(held), str(seen)[:600])
        self.expectations.append(entry)
        mark = "holds " if entry.held else "BROKEN"
        tail = f"  [{' '.join(entry.seen.split())[:160]}]" if entry.seen else ""
        self._say(f"          {mark}  {what}{tail}")

    @property
    def broken(self) -> list[Expectation]:
        """Return what did not hold."""
        return [entry for entry in self.expectations if not entry.held]


class Lab:
    """The lab's machines as the attacker, the administrator and the auditor reach them."""

    def driver(self, *words: str, timeout: float = 300, check: bool = True) -> str:
        """Run the lab's driver and return what it printed; RuntimeError when it failed."""
        done = subprocess.run(
            [str(LAB), *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            errors="backslashreplace",
        )
        if check and done.returncode != 0:
            msg = f"lab {' '.join(words)}: {done.returncode}: {done.stderr[-800:]}"
            raise RuntimeError(msg)
        return done.stdout

    def user(self, host: str, command: str, *, timeout: float = 120, stdin: str = "") -> Seen:
        """Run a shell command as the administrator on ``host``."""
        try:
            done = subprocess.run(
                [str(LAB), "ssh", host, command],
                input=stdin, capture_output=True, text=True, timeout=timeout, check=False,
                errors="backslashreplace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Seen(255, "", f"no answer within {timeout} s")
        return Seen(done.returncode, done.stdout, done.stderr)

    def root(self, host: str, command: str, *, timeout: float = 120, stdin: str = "") -> Seen:
        """Run a shell command as root on ``host``."""
        return self.user(
            host, f"sudo -n sh -c {shlex.quote(command)}", timeout=timeout, stdin=stdin
        )

    def peer(self, name: str, command: str, *, timeout: float = 300, stdin: str = "") -> Seen:
        """Run a shell command as root in a peer's network namespace on the outside machine."""
        return self.root(
            "outside", f"ip netns exec {name} sh -c {shlex.quote(command)}",
            timeout=timeout, stdin=stdin,
        )  # fmt: skip

    def put(self, host: str, path: str, content: bytes | str) -> None:
        """Write a file on ``host`` as root."""
        data = content.encode() if isinstance(content, str) else content
        done = subprocess.run(
            [str(LAB), "ssh", host, f"sudo -n sh -c {shlex.quote(f'cat > {shlex.quote(path)}')}"],
            input=data, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            msg = f"put {host}:{path}: {done.stderr.decode(errors='replace')[-400:]}"
            raise RuntimeError(msg)

    def inside(
        self,
        *argv: str | Path,
        timeout: float = 1200,
        log: Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Seen:
        """Run a program of the controller inside the lab's namespaces.

        With ``log`` both its streams go there line by line and come back as one; ``progress`` is
        told each line.
        """
        environment = {
            **os.environ, "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0",
            "NO_COLOR": "1",
        }  # fmt: skip
        words = [str(LAB), "exec", *map(str, argv)]
        if log is None:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=timeout, check=False,
                cwd=REPOSITORY, env=environment, errors="backslashreplace",
            )  # fmt: skip
            return Seen(done.returncode, done.stdout, done.stderr)
        log.parent.mkdir(parents=True, exist_ok=True)
        told: list[str] = []
        with log.open("w", encoding="utf-8") as kept, subprocess.Popen(
            ["timeout", str(int(timeout)), *words], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, env=environment,
            errors="backslashreplace",
        ) as running:  # fmt: skip
            for line in running.stdout or ():
                kept.write(line)
                kept.flush()
                told.append(line)
                if progress is not None:
                    progress(line)
        return Seen(running.returncode, "".join(told), "")

    def playbook(
        self,
        name: str,
        *words: str,
        timeout: float = 1500,
        progress: Callable[[str], None] | None = None,
    ) -> Seen:
        """Run a playbook, or several joined by "+" over the same connections; the log is in .lab/."""
        limit = () if "--limit" in words else ("--limit", "localhost:all:!terminals")
        files = [REPOSITORY / f"playbooks/{one}.yml" for one in name.split("+")]
        return self.inside(
            BIN / "ansible-playbook", "-i", INVENTORY, *files,
            *limit, *words, timeout=timeout, log=REPOSITORY / f".lab/{name}.log", progress=progress,
        )  # fmt: skip

    def audit(self, *words: str) -> dict[str, Any]:
        """Audit the lab from outside and return the JSON report with the exit code in ``exit``."""
        hosts = () if "--host" in words else [word for host in MANAGED for word in ("--host", host)]
        seen = self.inside(BIN / "sekisho", "audit", "-i", INVENTORY, "--json", *hosts, *words)
        if not seen.out.strip().startswith("{"):
            msg = f"audit gave no report (exit {seen.code}): {seen.err[-800:]}"
            raise RuntimeError(msg)
        return {**json.loads(seen.out), "exit": seen.code}

    def journal(self, host: str, kind: str = "") -> list[dict[str, Any]]:
        """Return the records of a host's journal, those of ``kind`` (prefix) only."""
        # The host looks first: the whole of it through an emulated cipher takes seconds.
        mark = shlex.quote(f'"kind":"{kind}')
        seen = self.root(host, f"grep -hF {mark} /var/lib/sekisho/journal/*.jsonl")
        records = [json.loads(line) for line in seen.out.splitlines() if line.startswith("{")]
        return [record for record in records if record["kind"].startswith(kind)]

    def console_login(self, host: str, person: str, secret: str, command: str) -> str:
        """Log in on the serial console, run one command, log out; return what the screen said."""
        sys.path.insert(0, str(REPOSITORY / "vagrant"))
        from labkit.ssh import Console  # noqa: PLC0415

        console = Console(host)
        try:
            console.send("\n")
            console.expect("login: ", timeout=60)
            console.send(person + "\n")
            console.expect("assword: ", timeout=60)
            console.send(secret + "\n")
            console.expect("$ ", timeout=60)
            console.send(command + "\n")
            said = ""
            ends = time.monotonic() + 8
            while time.monotonic() < ends:
                said += console.read(1)
            console.send("exit\n")
            return said
        finally:
            console.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask the monitor's Prometheus; return its samples (labels under ``metric``)."""
        # Spoken by the shell: a start of Python is a second of an emulated processor.
        wish = f"GET /api/v1/query?query={quote(expression, safe='')} HTTP/1.0\\r\\n\\r\\n"
        speak = f"exec 3<>/dev/tcp/127.0.0.1/9090; printf {shlex.quote(wish.replace('%', '%%'))} >&3; cat <&3"
        seen = self.root("monitor-1", f"bash -c {shlex.quote(speak)}")
        _head, _, body = seen.out.partition("\n\n")  # text mode: its line ends are translated
        if seen.code != 0 or not body.startswith("{"):
            return []
        return list(json.loads(body)["data"]["result"])

    def metric(self, expression: str) -> float:
        """Return the sum of what the monitor's Prometheus answers; 0 when it knows nothing."""
        return sum(float(sample["value"][1]) for sample in self.query(expression))


def until(
    condition: Callable[[], Any], *, timeout: float = 60, every: float = 1.0
) -> tuple[Any, float]:
    """Poll until ``condition`` is truthy; return its last value and the seconds it took."""
    started = time.monotonic()
    while True:
        value = condition()
        taken = time.monotonic() - started
        if value or taken > timeout:
            return value, taken
        time.sleep(every)


def failed_checks(report: dict[str, Any], host: str = "") -> set[str]:
    """Return the ids of the checks that failed (on ``host``)."""
    return {
        finding["check"]
        for finding in report["findings"]
        if finding["verdict"] == "fail" and (not host or finding["host"] == host)
    }


def lines(values: Sequence[object]) -> str:
    """Return values one a line."""
    return "\n".join(map(str, values))
