"""A quarantined host in a real kernel: what is cut, what is left, over a restart, and back."""

from __future__ import annotations

import contextlib
import json
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent)]

from flowworld import (  # noqa: E402 - path first
    CONTROLLER,
    PORT,
    World,
    _asks,
    inside,
    listen,
    reaches,
    sh,
    tcp,
)

from sekisho.host.kernel.nft import Nft  # noqa: E402 - path first
from sekisho.host.kernel.quarantine import Quarantine  # noqa: E402 - path first

UNIT = Path(__file__).parents[2] / "hardening/systemd/sekisho-quarantine.service"
OWN, MONITOR = "10.77.0.13", "10.77.0.16"


def _passes() -> dict[str, bool]:
    """Return what passes at core-1 now, by what it is."""
    return {
        "ssh": reaches("controller", OWN, 22, CONTROLLER),
        "flow": reaches("inbound-1", "10.77.3.2", PORT),
        "desk": reaches("terminal-1", "10.77.7.2", 22),
        "metrics": reaches("monitor-1", OWN, 9723),
        "metrics from the controller": reaches("controller", OWN, 9723, CONTROLLER),
        "time": _asks("core-1", OWN, MONITOR, "monitor-1", 123),
        "loopback": reaches("core-1", "127.0.0.1", 5555),
    }


def _lives(client: Any, made: Any) -> bool:
    """Return whether an open session still carries a byte either way."""
    for one, other in ((client, made), (made, client)):
        one.settimeout(3)  # waits so long only where nothing comes
        other.settimeout(3)
        try:
            one.sendall(b"!")
            other.recv(1)
        except OSError:
            return False
    return True


def host() -> dict[str, Any]:
    """Throw core-1's switch, restart, throw it back; a session is open all the while."""
    world = World(("gate-in", "core-1", "inbound-1", "monitor-1", "terminal-1"))
    places = ((OWN, 22), (OWN, 9723), ("10.77.3.2", PORT), ("10.77.7.2", 22), ("127.0.0.1", 5555))
    servers = [listen("core-1", address, port) for address, port in places]
    client = tcp("controller", 3)
    client.bind((CONTROLLER, 0))
    client.connect((OWN, 22))
    made, _ = servers[0].accept()
    file = Path("/run/quarantined")
    switch = inside("core-1", lambda: Quarantine(file))
    result: dict[str, Any] = {"before": _passes(), "session before": _lives(client, made)}
    inside("core-1", switch.on)
    result |= {"on": _passes(), "session on": _lives(client, made), "kept": switch.kept()}
    result["dropped"] = world.counters("core-1")["drop-quarantine"] > 0
    # A restart: the rules from their file, then the switch as its unit throws it, by nft alone.
    unit = dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if "=" in line)
    world.flush("core-1")
    world.load("core-1")
    result["the rules alone, restarted"] = _passes()["ssh"]
    world.nft("core-1", *shlex.split(unit["ExecStart"])[1:])
    result["the unit asks for the file"] = unit["ConditionPathExists"]
    result["restarted"] = _passes()
    inside("core-1", switch.off)
    result |= {"off": _passes(), "kept when off": switch.kept()}
    for one in (client, made, *servers):
        one.close()
    return result


def gateway() -> dict[str, Any]:
    """Throw a gateway's switch: what it forwards ends, an open push too."""
    World(("gate-in", "inbound-1"))
    server = listen("inbound-1", "10.77.2.2", PORT)
    client = tcp("hospital-a", 3)
    client.connect(("10.77.2.2", PORT))
    made, _ = server.accept()

    def pushed() -> bool:
        made.settimeout(3)
        try:
            client.sendall(b"push")
            return bool(made.recv(4))
        except OSError:
            return False

    switch = inside("gate-in", lambda: Quarantine(Path("/run/quarantined")))
    result: dict[str, Any] = {"before": [pushed(), reaches("hospital-a", "10.77.2.2", PORT)]}
    inside("gate-in", switch.on)
    result["on"] = [pushed(), reaches("hospital-a", "10.77.2.2", PORT)]
    inside("gate-in", switch.off)
    result["off"] = [reaches("hospital-a", "10.77.2.2", PORT)]
    return result


def tables() -> dict[str, Any]:
    """Return which tables are told as foreign, whatever they call themselves."""
    world = World(("core-1",))
    names = ("sekisho_twin", "sekisho_untracked", "visitor")
    for name in names:
        world.nft("core-1", f"add table inet {name}; add table ip {name}")
    look = Nft().foreign
    result = {"beside our own": inside("core-1", look)}
    world.flush("core-1")
    for name in names:
        world.nft("core-1", f"add table inet {name}")
    result["before the first load"] = inside("core-1", look)
    return result


def full_disk() -> dict[str, Any]:
    """Throw the switch while not one more byte can be written beside it."""
    World(("core-1",))
    disk = Path("/run/full")
    disk.mkdir()
    sh("mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk))
    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    try:
        (disk / "more").write_bytes(b"!")
    except OSError as error:
        refused = error.strerror
    else:
        refused = ""
    switch = inside("core-1", lambda: Quarantine(disk / "quarantined"))
    inside("core-1", switch.on)
    return {"refused": refused, "on": inside("core-1", switch.loaded), "kept": switch.kept()}


def speed(rounds: int = 40) -> dict[str, Any]:
    """Return milliseconds of throwing the switch: all of it, and the transaction alone."""
    World(("core-1",))
    switch = inside("core-1", lambda: Quarantine(Path("/run/quarantined")))

    def timed(call: Any) -> float:
        started = time.monotonic()
        call()
        return (time.monotonic() - started) * 1000

    def measure() -> dict[str, Any]:
        whole, alone = [], []
        for _ in range(rounds):
            whole.append(timed(switch.on))
            switch.off()
            alone.append(timed(lambda: switch._throw(on=True)))
            switch.off()
        return {
            name: {"median": statistics.median(one), "worst": max(one)}
            for name, one in (("whole", whole), ("thrown and read back", alone))
        }

    return inside("core-1", measure)


if __name__ == "__main__":
    scenes = {
        "host": host,
        "gateway": gateway,
        "tables": tables,
        "full_disk": full_disk,
        "speed": speed,
    }
    json.dump(scenes[sys.argv[1]](), sys.stdout)
