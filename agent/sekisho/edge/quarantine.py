"""The quarantine switch on this host: thrown in the kernel, and kept over a restart.

The file is what the kernel is given, so that ``sekisho-quarantine.service`` loads it at boot by nft
alone, before any network; while it is there the agent and a new load of the rules keep the switch
on. Written before the switch is thrown and taken away before it is thrown back: the agent, which
hears of both, never works against it, and a power cut in between leaves what was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from sekisho.canonical import canonical
from sekisho.edge.nft import Nft
from sekisho.edge.policy_file import write_atomic
from sekisho.errors import Problem, SekishoError
from sekisho.flows.quarantine import MEMBER, SET, is_on, switch, switched

FILE = Path("/var/lib/sekisho/quarantine.json")


def kept(file: Path = FILE) -> bool:
    """Return whether the host is to be quarantined: by the file's being there, whatever it holds.

    A garbled file does not set a host free.
    """
    return os.path.lexists(file)


def with_switch(rules: bytes, file: Path = FILE) -> bytes:
    """Return rules that are about to be loaded with the switch on, where it is to stay on.

    Rules that have no switch are left as they are: they must load all the same.
    """
    if not kept(file):
        return rules
    document = json.loads(rules)
    if is_on(document["nftables"]) is None:
        return rules
    return json.dumps(switched(document, on=True)).encode()


class Quarantine:
    """The switch, in the kernel of this network namespace and on this disk."""

    def __init__(self, file: Path = FILE, nft: Nft | None = None) -> None:
        self._file, self._nft = file, nft or Nft()

    def loaded(self) -> bool:
        """Return whether the kernel has the switch on; SekishoError when that cannot be told."""
        found = is_on(self._nft.read() or ())
        if found is None:
            problem = Problem(
                "table inet sekisho", SET, "no such set", "the set of the compiled rules",
                hint="load the site's rules first: playbooks/site.yml --tags flows",
            )  # fmt: skip
            raise SekishoError("the loaded rules know no quarantine", (problem,))
        return found

    def kept(self) -> bool:
        """Return whether a restart keeps the host quarantined."""
        return kept(self._file)

    def on(self) -> None:
        """Quarantine the host, now and after every restart; nothing is kept when it fails.

        Raises:
            SekishoError: the rules have no such switch, or the kernel did not throw it.

        """
        self.loaded()
        fresh = not self.kept()
        write_atomic(self._file, canonical(switch(on=True)) + b"\n", 0o600)
        try:
            self._throw(on=True)
        except SekishoError:
            if fresh:
                self._file.unlink(missing_ok=True)
            raise

    def off(self) -> None:
        """Set the host free, now and after every restart; `SekishoError` when it still is not."""
        self._file.unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(self._file.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self._throw(on=False)

    def _throw(self, *, on: bool) -> None:
        self._nft.apply(switch(on=on))
        if self.loaded() is not on:
            problem = Problem("table inet sekisho", SET, "unchanged", f"{MEMBER} in it: {on}")
            raise SekishoError("the kernel did not throw the switch", (problem,))
