"""The gateway's daemon as Debian's unit with our drop-in runs it, under a flow that never ends.

A scene of `linescenes` that needs systemd as the machine's first process, and a machine to spoil.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lineflow import Flow, Receiver, Stream, wait
from lineworld import (
    INBOUND,
    ROOT,
    Charon,
    Line,
    Wire,
    sh,
)

from sekisho.network.strongswan import (
    AUTHORITY,
    CERTIFICATE,
    KEY,
    REVOKED,
    STRONGSWAN,
    SWANCTL,
    strongswan_conf,
    swanctl_conf,
)

UNIT = "strongswan.service"
DROP_INS = Path(f"/etc/systemd/system/{UNIT}.d")


def systemctl(*words: str) -> str:
    """Ask the machine's systemd: in its mount namespace, and never from another of processes."""
    return sh("nsenter", "--target", "1", "--mount", "systemctl", *words)


def install(made: Charon) -> None:
    """Put the gateway's files where the play puts them, and its unit into the gateway's network."""
    for path in (KEY, CERTIFICATE, AUTHORITY, REVOKED):
        shutil.copy(made.place(path), path)
    Path(SWANCTL).write_text(swanctl_conf(made.lines))
    Path(STRONGSWAN).write_text(strongswan_conf())
    DROP_INS.mkdir(parents=True, exist_ok=True)
    ours = "60-sekisho-strongswan.conf"
    shutil.copy(ROOT.parent / "hardening/systemd" / ours, DROP_INS / "60-sekisho.conf")
    (DROP_INS / "90-test.conf").write_text(
        f"[Service]\nNetworkNamespacePath=/proc/{os.getpid()}/root/run/netns/gate-in\n"
    )
    # The rules are in the namespace already.
    Path("/etc/systemd/system/sekisho-nftables.service").write_text(
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
    )
    systemctl("unmask", UNIT)
    systemctl("daemon-reload")


def unit(folder: Path) -> dict[str, Any]:
    """Kill, restart, stop and flush while the hospital sends; return gaps and what was in clear."""
    line = Line(folder, behind=True)
    taken = Receiver("inbound-1", INBOUND)
    wire = Wire("line", "br0")
    install(line.charon("gate-in"))
    hospital = line.charon("hospital-a")
    hospital.start()
    began = time.monotonic()
    systemctl("start", UNIT)
    seen: dict[str, Any] = {"unit started s": time.monotonic() - began}
    stream = Stream(Flow("hospital-a", INBOUND))

    def flows(seconds: float = 90) -> bool:
        """Return whether bytes come for three seconds on end, within ``seconds``."""
        return wait(lambda: len(taken.came) > 20 and taken.came[-20] > time.monotonic() - 3,
                    seconds) >= 0  # fmt: skip

    def event(what: str, do: Callable[[], object]) -> None:
        if not flows():
            raise RuntimeError(f"before {what}: nothing comes")
        begun, esp = time.monotonic(), wire.esp
        do()
        time.sleep(5)
        seen[what] = {"comes back": flows(30), "gap s": round(taken.gap(begun), 2),
                      "esp": wire.esp - esp, "clear": wire.clear}  # fmt: skip

    def stop() -> None:
        systemctl("stop", UNIT)
        time.sleep(2)
        before = taken.bytes
        time.sleep(5)
        seen["bytes while stopped"] = taken.bytes - before
        seen["drops while stopped"] = line.clear_drops()
        systemctl("start", UNIT)

    def flush() -> None:
        for what in ("state", "policy"):
            sh("ip", "-n", "gate-in", "xfrm", what, "flush")

    event("kill -9", lambda: systemctl("kill", "--signal=KILL", UNIT))
    seen["restarts by itself"] = int(
        systemctl("show", "--property=NRestarts", "--value", UNIT).strip()
    )
    event("restart", lambda: systemctl("restart", UNIT))
    event("stop and start", stop)
    event("kernel flushed", flush)
    if not seen["kernel flushed"]["comes back"]:
        event_after = time.monotonic()
        systemctl("restart", UNIT)
        seen["flushed, back after the unit's restart s"] = (
            time.monotonic() - event_after if flows() else -1
        )
    stream.stop()
    seen["line"] = wire.stop()
    systemctl("stop", UNIT)
    line.close()
    return seen
