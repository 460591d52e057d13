"""Ctrl-C ends a command within a second, in whatever foreign code it is, with exit code 130.

Python raises KeyboardInterrupt between two of its own instructions: not inside a solver's call of
seconds, and one raised in a callback or a finalizer is lost. So a thread sees the signal as well
(PEP 475, `signal.set_wakeup_fd`): it gives the command its time to unwind, then ends the process.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CODE = 128 + signal.SIGINT
GRACE_S = 0.6
SAID = "sekisho: interrupted\n"


class Interrupt:
    """What is known of Ctrl-C while one command runs."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self._over = threading.Event()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)

    def _watch(self) -> None:
        while number := self._woken.recv(1):
            if number[0] == signal.SIGINT:
                self.came.set()
                if not self._over.wait(GRACE_S):
                    with suppress(OSError):
                        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, SAID.encode())
                    os._exit(CODE)
                return

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch for Ctrl-C meanwhile; in another thread than the main one no signal comes."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, daemon=True, name="interrupt")
        watcher.start()
        try:
            yield
        finally:
            self._over.set()
            signal.set_wakeup_fd(before)
            self._wake.close()
            watcher.join(GRACE_S)
            self._woken.close()
