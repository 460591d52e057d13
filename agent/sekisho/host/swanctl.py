"""strongSwan on this machine: have it read its files again, and cut off who is revoked."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.core.text import lines_of
from sekisho.network.strongswan import REVOKED

#: The revoked serial numbers the running daemon's associations have been judged by.
JUDGED = Path("/run/sekisho-line.json")
_LIMIT = 16 * 1024 * 1024
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Swanctl:
    """How strongSwan's daemon is reached; the defaults are the packages'."""

    crl: Path = Path(REVOKED)
    judged: Path = JUDGED
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def _run(self, *words: str) -> str:
        command: Sequence[str] = ("swanctl", *words, *self.words)
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
                env={**os.environ, **self.environment},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(command, str(error)) from None
        if done.returncode != 0:
            raise _failed(command, done.stderr or done.stdout)
        return done.stdout

    def apply(self) -> list[str]:
        """Read connections, certificates and revocations again; return the lines cut off.

        A list with a newly revoked serial ends every association: who is still certified comes back
        by its trap within a second or two, who is revoked does not.
        """
        revoked = self._serials()
        self._run("--flush-certs")
        self._run("--load-all", "--noprompt", "--clear")
        new = revoked - self._judged()
        cut: list[str] = []
        if new:
            for name in self._associations():
                self._run("--terminate", "--ike", name, "--force", "--timeout", "5")
                cut.append(name)
        write_atomic(self.judged, canonical({"revoked": sorted(revoked)}) + b"\n")
        return cut

    def _associations(self) -> list[str]:
        found = {
            line.partition(":")[0]
            for line in lines_of(self._run("--list-sas"))
            if line and not line[0].isspace() and ": #" in line
        }
        return sorted(found)

    def _serials(self) -> set[str]:
        from cryptography import x509  # noqa: PLC0415 - slow to import

        try:
            held = x509.load_pem_x509_crl(read_bounded(self.crl, _LIMIT))
        except (OSError, ValueError):
            problem = Problem(
                str(self.crl), "", "no list of revocations", "the site's, in PEM", "6-iv-d-4",
                "run the play with --tags ipsec",
            )  # fmt: skip
            raise SekishoError("the line's revocations are not known", (problem,)) from None
        return {f"{entry.serial_number:x}" for entry in held}

    def _judged(self) -> set[str]:
        """Return what was judged before; nothing after a boot: no association stands either."""
        try:
            return set(json.loads(read_bounded(self.judged, _LIMIT))["revoked"])
        except (OSError, ValueError, KeyError, TypeError, SekishoError):
            return set()


def _failed(command: Sequence[str], said: str) -> SekishoError:
    last = lines_of(said.strip())[-1:] or ["nothing"]
    problem = Problem(" ".join(command), "", printable(last[0]), "success", "6-iv-d-4")
    return SekishoError("strongSwan did not do what it was asked", (problem,))
