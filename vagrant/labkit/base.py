"""Where the lab's things lie, what the inventory says of its machines, and how errors are told."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent
VAGRANT = REPOSITORY / "vagrant"
INVENTORY = REPOSITORY / "inventory" / "lab"
STATE = Path(os.environ.get("SEKISHO_LAB_STATE", "/var/lib/sekisho-lab"))
KEYS = STATE / "keys"
OUTSIDE = "outside"
_STARTED = time.monotonic()


class LabError(Exception):
    """A failure of the lab: what, where and what to do, in one message."""


def say(text: str) -> None:
    """Print one line of progress with the seconds since the driver started."""
    sys.stderr.write(f"lab {time.monotonic() - _STARTED:5.0f}s  {text}\n")
    sys.stderr.flush()


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    timeout: float = 600,
    check: bool = True,
    data: str | None = None,
    env: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end and return its output; a failure tells what it said."""
    try:
        done = subprocess.run(
            argv, input=data, capture_output=True, text=True, timeout=timeout, check=False, env=env
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed; see requirements/debian/lab.txt") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(map(str, argv))}: no end after {timeout:.0f} s") from error
    if check and done.returncode != 0:
        words = (done.stderr or done.stdout).strip()[-2000:]
        raise LabError(f"{' '.join(map(str, argv))}: exit {done.returncode}: {words}")
    return done


def load_yaml(path: Path) -> Any:
    """Return a YAML file's content, through PyYAML or, where that is missing, Vagrant's Ruby."""
    try:
        import yaml  # noqa: PLC0415 - not in the standard library, and Ruby serves as well
    except ModuleNotFoundError:
        script = "puts JSON.generate(YAML.safe_load(File.read(ARGV[0]), permitted_classes: [Date]))"
        return json.loads(
            run(["ruby", "-rjson", "-ryaml", "-rdate", "-e", script, str(path)]).stdout
        )
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Machine:
    """One virtual machine of the lab.

    Attributes:
        name: its name in the inventory, or ``outside``.
        address: its address on the management network.
        autostart: whether `up` boots it.

    """

    name: str
    address: str
    autostart: bool


@dataclass(frozen=True, slots=True)
class Site:
    """What the driver needs to know of the site: machines in boot order, people, administrator."""

    machines: tuple[Machine, ...]
    people: tuple[str, ...]
    admin: str
    admin_uid: int
    admin_name: str

    def machine(self, name: str) -> Machine:
        """Return the machine called ``name``."""
        for machine in self.machines:
            if machine.name == name:
                return machine
        known = " ".join(m.name for m in self.machines)
        raise LabError(f"no machine {name!r} in the lab; there are: {known}")


def load_site() -> Site:
    """Read ``inventory/lab``."""
    site = load_yaml(INVENTORY / "group_vars" / "all" / "site.yml")["sekisho_site"]
    groups = load_yaml(INVENTORY / "hosts.yml")
    terminals = groups.get("terminals", {}).get("hosts", {})
    network = site["management"]["network"].rsplit(".", 1)[0]
    machines = [Machine(OUTSIDE, f"{network}.9", autostart=True)]
    for group in groups.values():
        for host in group["hosts"]:
            address = load_yaml(INVENTORY / "host_vars" / f"{host}.yml")["ansible_host"]
            machines.append(Machine(host, address, autostart=host not in terminals))
    admin = next(p for p, data in site["people"].items() if data["role"] == "administrator")
    person = site["people"][admin]
    return Site(
        tuple(machines), tuple(site["people"]), admin, int(person["uid"]), person["name"]["en"]
    )


def digest_of(paths: Sequence[Path]) -> str:
    """Return a short digest over the names and contents of ``paths``."""
    total = hashlib.sha256()
    for path in sorted(paths):
        total.update(f"{path.name}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:16]


def box_digest(site: Site) -> str:
    """Return what names the box: its recipe, its packages and the administrator it carries."""
    recipe = [p for p in (VAGRANT / "box").rglob("*") if p.is_file()]
    keys = [KEYS / f"{site.admin}.pub", KEYS / f"{site.admin}.password"]
    return digest_of([VAGRANT / "build-box", *recipe, *keys])


def lab_digest(site: Site) -> str:
    """Return what names a lab: its box, its machines and how they are drawn.

    Of the site only what shapes machines and wires counts: a new flow or person needs no new lab.
    """
    model = load_yaml(INVENTORY / "group_vars" / "all" / "site.yml")["sekisho_site"]
    groups = load_yaml(INVENTORY / "hosts.yml")
    shape: dict[str, Any] = {key: model[key] for key in ("management", "links", "peers")}
    shape["groups"] = {name: list(group["hosts"]) for name, group in groups.items()}
    for machine in site.machines[1:]:
        data = load_yaml(INVENTORY / "host_vars" / f"{machine.name}.yml")["sekisho_machine"]
        shape[machine.name] = {key: data[key] for key in ("identity", "interfaces", "disks")}
    drawn = digest_of([VAGRANT / "Vagrantfile", VAGRANT / "provision-outside"])
    text = json.dumps([box_digest(site), drawn, shape], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_atomic(path: Path, text: str, mode: int = 0o644) -> None:
    """Write ``text`` to ``path`` so that a reader sees the old or the new, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(path)


@contextlib.contextmanager
def locked(wait: float = 900) -> Iterator[None]:
    """Hold the lab's lock, so that two runs that change it do not collide."""
    STATE.mkdir(parents=True, exist_ok=True)
    with (STATE / "lock").open("a+") as stream:
        deadline = time.monotonic() + wait
        told = False
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say("another run holds the lab's lock; waiting")
                    told = True
                if time.monotonic() > deadline:
                    raise LabError(f"the lab stayed locked for {wait:.0f} s") from None
                time.sleep(0.5)
        yield
