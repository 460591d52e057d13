"""The auditors' socket: reported when nobody listens there, for then no audit reaches this host.

Looked at with each look of the part `listeners`. The agent does not start it: what ended it may be
an administrator's will, and is in systemd's journal.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from sekisho.core.errors import SekishoError
from sekisho.host.agent.reporter import Book, Paths

MISSING = "6-v-b.probe-socket-missing"
GRACE_S = 60.0  # systemd takes a moment at boot, and for a unit that is installed anew


def listened(path: Path) -> bool:
    """Tell whether a stream socket is bound at ``path``, without connecting to it.

    A datagram socket that connects there is refused by the kernel with another error than where
    nobody is; no service is started by it.

    Raises:
        SekishoError: neither can be told.

    """
    try:
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise SekishoError(f"{path.parent} cannot be opened: {error.strerror}") from None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError as error:
        if error.errno == errno.EPROTOTYPE:
            return True
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return False
        raise SekishoError(f"{path}: whether anybody listens cannot be told: {error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.close(folder)
    return False  # a datagram socket: not the one it should be


class ProbeSocket:
    """Tells when the auditors' socket is missing for longer than a moment, and when it is back."""

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book = book
        self._path = paths.root / "run/sekisho-probe/socket"
        self._since: float | None = None
        self._told = False

    def look(self) -> None:
        """Look once; SekishoError when it cannot be told."""
        now = self._book.clock()
        if listened(self._path):
            if self._told:
                self._book.tell("agent.probe-socket", {"path": str(self._path), "there": True})
            self._since, self._told = None, False
        else:
            self._since = now if self._since is None else self._since
            if now - self._since >= GRACE_S and not self._told:
                what = f"no auditor reaches this host: nobody listens at {self._path}"
                self._book.detect(MISSING, "alert", what, {"path": str(self._path)})
                self._told = True
        self._book.metrics.set("sekisho_probe_socket_missing", int(self._since is not None))
