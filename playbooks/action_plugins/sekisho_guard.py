# SPDX-License-Identifier: GPL-2.0-or-later
"""Apply under the host's dead-man guard, come back by a fresh login, confirm: one task per host.

Each host's own worker does all three, so that the time between a host's apply and its confirmation
does not grow with the number of hosts. The token is made here: it is known when the answer of the
apply is lost.
"""

from __future__ import annotations

import json
import re
import resource
import secrets
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

GUARD = ["sudo", "-n", "/usr/lib/sekisho/guard"]
#: A host is free again this long after its window, by its timer and the tries after it (seconds).
GRACE_S = 75
#: One that answers, and does not let the controller in, is asked no longer than this (seconds).
ANSWERS_S = 15
PAUSE_S = 2
LOGIN_S = 30
#: What a host may say; bytes.
MAX_ANSWER = 64 * 1024
TOKEN = re.compile(r"[0-9a-f]{16}")
#: What ssh says (in lower case) and what it means for the one who reads it.
SEEN = (
    ("remote host identification has changed", "another host key than the pinned one"),
    ("host key verification failed", "another host key than the pinned one"),
    ("host key is known", "no pinned host key"),
    ("permission denied", "sshd denied the login"),
    ("connection refused", "connection refused"),
    ("timed out", "connection timed out"),
    ("no route to host", "no route to the host"),
    ("network is unreachable", "no route to the host"),
    ("connection reset", "connection reset"),
    ("connection closed", "connection closed by the host"),
    ("could not resolve", "the host's name cannot be resolved"),
)
#: These are what a packet filter does.
SHUT_OUT = ("timed out", "refused", "no answer", "no route", "reset", "closed")


#: Status, output and errors of a login.
Answer = tuple[int, bytes, str]


class Clock(Protocol):
    """What is asked of the module ``time``."""

    def monotonic(self) -> float:
        """Return seconds from some moment."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


def tame(text: object, limit: int = 600) -> str:
    """Return a host's text for a terminal: printable, on one line, bounded."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:limit])


def log_in(argv: Sequence[str]) -> Answer:
    """Return (status, output, errors) of a login; a host that says too much is cut off.

    Raises:
        OSError, subprocess.TimeoutExpired: it did not start, or did not end.

    """

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_ANSWER, MAX_ANSWER))

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            timeout=LOGIN_S,
            preexec_fn=bounded,
            check=False,
        )
        out.seek(0)
        err.seek(0)
        return done.returncode, out.read(), err.read().decode("utf-8", "replace")


def classify(code: int, err: str) -> str:
    """Return in a few words why a login failed; ``err`` is what ssh and sudo wrote."""
    low = err.lower()
    for mark, meaning in SEEN:
        if mark in low:
            return meaning
    last = tame(err.strip().split("\n")[-1], 200)
    return "status {}{}".format(code, ": " + last if last else "")


class Confirmation:
    """Comes back to one host until the change is confirmed, rolled back, or the host stays away."""

    def __init__(  # noqa: PLR0913 - two are the test's
        self,
        login: Sequence[str],
        token: str,
        *,
        window_s: float,
        left_s: float,
        run: Callable[[Sequence[str]], Answer] = log_in,
        clock: Clock = time,
    ) -> None:
        """``left_s`` of the window of ``window_s`` seconds were left when the apply answered."""
        self.login, self.token, self.window_s, self.left_s = list(login), token, window_s, left_s
        self.run, self.clock = run, clock
        #: (began, took, what was seen); seconds, counted from the apply's answer
        self.tries: list[tuple[float, float, str]] = []
        self.answer: dict[str, Any] = {}

    def come_back(self) -> bool:
        """Return True when the change is confirmed."""
        began = self.clock.monotonic()
        while True:
            at = self.clock.monotonic() - began
            answer = self._try()
            took = self.clock.monotonic() - began - at
            if isinstance(answer, dict):
                self.answer = answer
                self.tries.append((at, took, "an answer"))
                return bool(answer.get("confirmed") == self.token)
            self.tries.append((at, took, answer))
            shut = any(word in answer for word in SHUT_OUT)
            if at + took > self.left_s + (GRACE_S if shut else ANSWERS_S):
                return False
            self.clock.sleep(PAUSE_S)

    def _try(self) -> dict[str, Any] | str:
        """Return the guard's answer, or in words what was seen in its place."""
        argv = self.login + GUARD + ["confirm", self.token]
        try:
            code, out, err = self.run(argv)
        except subprocess.TimeoutExpired:
            return f"no answer within {LOGIN_S} s"
        except OSError as bad:
            return f"{argv[0]} cannot be started: {bad.strerror}"
        try:
            answer = json.loads(out)
        except (ValueError, RecursionError):
            answer = None
        if isinstance(answer, dict) and ("confirmed" in answer or "error" in answer):
            return answer
        return classify(code, err)

    def failures(self) -> str:
        """Return the logins that failed, in words; "" when none did."""
        spans: list[tuple[str, float, float]] = []
        for at, _, what in self.tries[: -1 if self.answer else None]:
            first = spans.pop()[1] if spans and spans[-1][0] == what else at
            spans.append((what, first, at))
        return "; ".join(
            f"{what} (at {a:.0f} s)" if a == b else f"{what} (from {a:.0f} to {b:.0f} s)"
            for what, a, b in spans
        )

    def told(self, host: str, lost: str = "") -> str:
        """Return what happened, by what was seen, and what to do."""
        seen, error = self.failures(), tame(self.answer.get("error", ""))
        at, took, _ = self.tries[-1]
        if not self.answer:
            return (
                f"{host}: not confirmed: the host has not let the controller in for "
                f"{at + took:.0f} s since the change: {seen}. It frees itself "
                f"{self.window_s:.0f} s after the change; look at its console."
            )
        undone = self.answer.get("rolled_back")
        if not isinstance(undone, dict) and "rolled back" not in error:
            before = f" Before that: {seen}." if seen else ""
            return f"{host}: the guard did not confirm: {error}.{before}"
        back = f"the host put the old state back{when(undone)} (window {self.window_s:.0f} s)"
        # A connection that was open is lost by the rules, however soon the next login gets through.
        if not seen and not lost:
            return (
                f"{host}: the confirmation came too late: {back}. The login worked: it began "
                f"{at:.1f} s after the apply's answer and took {took:.1f} s, so it is not the "
                "rules that are at fault. The controller or the host is slow: run the play again "
                "when they are less busy, or with a longer window (-e guard_timeout_s=180)."
            )
        what, look = (
            "the controller could not log in again",
            ("Look at sshd's configuration, the pinned keys and the inventory"),
        )
        if lost or any(word in seen for word in SHUT_OUT):
            what, look = (
                "the new rules did not let the controller back in",
                ("Look at the rules for port 22 from the controllers (`sekisho site show`)"),
            )
        return (
            f"{host}: {what}, so nothing was confirmed, and {back}; it answers again now. "
            f"Seen from the controller, in seconds from the apply's answer: {seen or 'nothing'}. "
            f"{look}, correct the site, and run the play again."
        )


def when(undone: Any) -> str:
    """Return when a change was rolled back, as the guard says it; "" when it does not."""
    try:
        at = datetime.fromtimestamp(undone["at"], UTC).strftime("%H:%M:%S UTC")
        after = f", {undone['at'] - undone['applied']:.0f} s after the change"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""
    return f" at {at}{after}"


class ActionModule(ActionBase):
    """The action `sekisho_guard`."""

    _requires_connection = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the module on the host, then confirm what it put in force."""
        super().run(tmp, task_vars)
        host = (task_vars or {}).get("inventory_hostname", "?")
        args = dict(self._task.args)
        login = args.pop("login", [])
        token = secrets.token_hex(8)
        args["token"] = token
        window_s = float(args.get("timeout_s", 50))
        lost = ""
        try:
            result = self._execute_module(
                module_name="sekisho_guard", module_args=args, task_vars=task_vars
            )
        # Rules that shut the controller out also shut this task's own connection out: it dies of
        # its missed keep-alives (the plays keep them short).
        except AnsibleConnectionFailure as bad:
            lost = str(bad)
            result = {"changed": True, "token": token}
        if result.get("failed") or not result.get("changed") or self._task.check_mode:
            return result
        # What the host says is taken where it has the form of what it should be, no further.
        left_s = result.get("left_s", window_s)
        left_s = min(window_s, left_s) if isinstance(left_s, (int, float)) else window_s
        given = str(result.get("token"))
        token = given if TOKEN.fullmatch(given) else token
        confirmation = Confirmation(login, token, window_s=window_s, left_s=left_s)
        if confirmation.come_back():
            at, took, _ = confirmation.tries[-1]
            result["confirmed_s"] = round(at + took, 1)
            return result
        told = confirmation.told(host, lost)
        if lost:
            first = lost.split("\n")[0][:300]
            told += f" The connection was lost while the change was made: {first}"
        result.update(failed=True, changed=False, msg=told)
        return result
