"""How a run that failed ends: what failed, why, what to do, how to go on; read off the tools' own logs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

LINES = 10  # what still stands on a screen when the run is over
_TASK = re.compile(r"(?:TASK|RUNNING HANDLER) \[(.*?)\] \**\s*")
_FAILED = re.compile(r"(fatal|failed): \[([^\]\s]+)[^\]]*\].*?(?:=> (?:\(item=.*?\) => )?(\{.*))?")
_SAYS = ("msg", "stderr", "reason", "module_stderr", "stdout")


class StoppedError(Exception):
    """The run cannot go on; says what failed, why, and what to do about it."""

    def __init__(self, what: str, why: str, do: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what, self.why, self.do = what, why, do


@dataclass(frozen=True, slots=True)
class Failure:
    """One task of a playbook that failed, with the hosts it failed on and what they said."""

    task: str
    hosts: tuple[str, ...]
    said: str


def sentence(text: str, length: int = 300) -> str:
    """Return text as one line of at most ``length`` characters."""
    one = " ".join(text.split())
    return one if len(one) <= length else f"{one[: length - 1]}…"


def playbook_failures(log: str) -> list[Failure]:
    """Return the failed tasks of an ansible-playbook log, the same reason of several hosts once."""
    task = "before the first task"
    found: dict[tuple[str, str], list[str]] = {}
    for line in log.split("\n"):
        begun = _TASK.match(line)
        if begun:
            task = begun[1]
        failed = _FAILED.fullmatch(line.rstrip())
        if failed:
            found.setdefault((task, _said(failed[3] or line)), []).append(failed[2])
    return [Failure(task, tuple(hosts), said) for (task, said), hosts in found.items()]


def _said(result: str) -> str:
    try:
        value = json.loads(result)
    except ValueError:
        return sentence(result)
    for key in _SAYS:
        if isinstance(value, dict) and isinstance(value.get(key), str) and value[key].strip():
            return sentence(value[key])
    return "it gave no reason; see the log"


def of_playbook(name: str, code: int, log: str) -> StoppedError:
    """Return why a playbook failed, from its log."""
    failures = playbook_failures(log)
    if not failures:
        last = next((one for one in reversed(log.split("\n")) if one.strip()), "it printed nothing")
        return StoppedError(f"{name} (exit {code})", sentence(last), "read the log named below")
    first = failures[0]
    more = f" ({len(failures) - 1} more failed tasks in the log)" if len(failures) > 1 else ""
    return StoppedError(
        f'{name}: task "{first.task}" on {", ".join(first.hosts)}',
        first.said + more,
        "read the task's lines in the log named below",
    )


def closing(stopped: StoppedError, *, go_on: str, logs: Sequence[Path | str]) -> str:
    """Return the last lines of a run that failed, at most `LINES`."""
    rows = [
        f"FAILED  {sentence(stopped.what)}",
        f"  why    {sentence(stopped.why)}",
        f"  do     {sentence(stopped.do)}",
        f"  go on  {sentence(go_on)}",
        *(f"  log    {log}" for log in logs),
    ]
    return "".join(f"{row}\n" for row in rows[:LINES])


class Kept:
    """A stream whose every write also goes to a log."""

    def __init__(self, shown: TextIO, log: TextIO) -> None:
        self._shown, self._log = shown, log

    def write(self, text: str) -> int:
        """Write to both; a log that cannot be written does not end the run."""
        try:
            self._log.write(text)
        except OSError as error:
            self._shown.write(f"[log] {error}\n")
        return self._shown.write(text)

    def flush(self) -> None:
        """Flush both."""
        self._log.flush()
        self._shown.flush()

    def isatty(self) -> bool:
        """Return whether a person watches."""
        return self._shown.isatty()


def keep_log(path: Path) -> None:
    """Keep what this process prints from now on in ``path`` as well; the last run's becomes ``.1``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    log = path.open("w", encoding="utf-8", buffering=1)
    sys.stdout = Kept(sys.stdout, log)  # type: ignore[assignment] - what the demo uses of it
