"""A flow over a line as both its ends see it: what came, when, and how long nothing did."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from flowworld import PORT, listen, tcp


def wait(ready: Callable[[], object], seconds: float, what: str = "") -> float:
    """Wait until ``ready()``; return the seconds it took, or -1 (with ``what``: an error)."""
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        if ready():
            return time.monotonic() - begin
        time.sleep(0.05)
    if what:
        raise RuntimeError(f"{what} within {seconds} s")
    return -1


class Receiver:
    """Listens on the flow's right end for the whole scene; counts bytes, and when some came."""

    def __init__(self, name: str, address: str, port: int = PORT) -> None:
        self.bytes = 0
        self.came: list[float] = []
        self.server = listen(name, address, port)
        self.server.settimeout(0.2)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                made, _ = self.server.accept()
                threading.Thread(target=self._take, args=(made,), daemon=True).start()

    def _take(self, made: socket.socket) -> None:
        with made, contextlib.suppress(OSError):
            made.settimeout(120)
            while chunk := made.recv(1 << 18):
                self.bytes += len(chunk)
                self.came.append(time.monotonic())

    def gap(self, since: float) -> float:
        """Return the longest time without a byte from ``since`` until now."""
        times = [since, *(when for when in self.came if when > since), time.monotonic()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


class Flow:
    """A flow as its sender uses it."""

    def __init__(self, sender: str, target: str, port: int = PORT) -> None:
        self.sender, self.target, self.port = sender, target, port

    def deliver(self, size: int = 200_000, *, seconds: float = 4.0, source: str = "") -> bool:
        """Return whether ``size`` bytes went through and were acknowledged to their end."""
        with tcp(self.sender, seconds) as made, contextlib.suppress(OSError):
            if source:
                made.bind((source, 0))
            made.connect((self.target, self.port))
            made.sendall(os.urandom(size))
            made.shutdown(socket.SHUT_WR)
            # The receiver's FIN comes back when it has everything.
            return made.recv(1) == b""
        return False

    def back(self, seconds: float = 60.0, **how: Any) -> float:
        """Return the seconds until a delivery passes again (each try has one second), or -1."""
        return wait(lambda: self.deliver(1000, seconds=1.0, **how), seconds)


class Stream:
    """Sends up to 0.1 MB a second without an end, and connects again when it must."""

    def __init__(self, flow: Flow) -> None:
        self.flow, self.connections, self.going = flow, 0, True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        block = os.urandom(2_000)
        while self.going:
            with tcp(self.flow.sender, 1.0) as made, contextlib.suppress(OSError):
                # Little in the queue: what does not get through is noticed within a second.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32_768)
                made.connect((self.flow.target, self.flow.port))
                self.connections += 1
                while self.going:
                    made.sendall(block)
                    time.sleep(0.02)

    def stop(self) -> None:
        self.going = False
        self.thread.join()
