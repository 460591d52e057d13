"""Tell systemd how the service is: ready, alive, stopping. See sd_notify(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from sekisho.core.text import is_number


class Notifier:
    """Sends to the socket systemd named; without one (run by hand) it does nothing."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        name = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract socket.
        self._address = "\0" + name[1:] if name.startswith("@") else name
        micros = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between signs of life: half of what systemd allows; None when it asks for none.
        self.interval_s = int(micros) / 2_000_000 if is_number(micros) and mine else None

    def send(self, **fields: str) -> bool:
        """Send fields such as ``READY="1"``; False when nobody listens."""
        if not self._address:
            return False
        message = "\n".join(f"{key}={value}" for key, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.connect(self._address)
                out.sendall(message.encode())
        except OSError:
            return False
        return True
