"""The quarantine switch on this host: thrown in the kernel, and kept over a restart.

That a file is there keeps it: `sekisho-quarantine.service` throws the switch at boot by nft alone,
before any network; the agent and a new load of the rules keep it on. The file is empty, so that it
can be made on a full disk and cannot be garbled. Made before the switch is thrown and taken away
before it is thrown back: the agent, which hears of both, never works against it, and a power cut in
between leaves what was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError
from sekisho.host.guard.files import sync_dir
from sekisho.host.kernel.nft import Nft
from sekisho.nft.quarantine import MEMBER, SET, is_on, switch, switched

FILE = Path("/var/lib/sekisho/quarantined")


def kept(file: Path = FILE) -> bool:
    """Return whether the host is to be quarantined: a file's being there says so."""
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
        try:
            self._file.touch(0o600)
            sync_dir(self._file.parent)
        except OSError as error:
            raise SekishoError(f"{self._file} cannot be made: {error.strerror}") from None
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
            sync_dir(self._file.parent)
        self._throw(on=False)

    def _throw(self, *, on: bool) -> None:
        self._nft.apply(switch(on=on))
        if self.loaded() is not on:
            problem = Problem("table inet sekisho", SET, "unchanged", f"{MEMBER} in it: {on}")
            raise SekishoError("the kernel did not throw the switch", (problem,))
