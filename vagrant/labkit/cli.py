"""The driver's command line."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from labkit import holder, machines, ssh, usb
from labkit.base import LabError, Site, load_site, locked, say
from labkit.keys import ensure_keys

Args = argparse.Namespace


def _print(text: object) -> None:
    sys.stdout.write(f"{text}\n")


def up(site: Site, args: Args) -> None:
    """Bring the lab up: restored if that state is saved, else booted; of it, those named alone."""
    chosen = [site.machine(name) for name in args.hosts]
    with locked():
        if holder.holder_pid() is not None:
            if not args.fresh and not args.restore:
                say("already up (restore NAME goes back, down ends it)")
                return
            holder.stop()
        ensure_keys(site)
        ssh.write_config(site)
        machines.ensure_box(site)
        machines.prune(site)
        root = machines.root_of(site)
        saved = machines.saved_states(site)
        wanted = args.restore or "fresh"
        if args.restore and wanted not in saved:
            raise LabError(
                f"no saved state {wanted!r} of the lab as it is drawn now; "
                f"there are: {' '.join(saved) or 'none'}"
            )
        anew = args.fresh or wanted not in saved
        if anew and root.exists():
            shutil.rmtree(root)
        root.mkdir(parents=True, exist_ok=True)
        try:
            holder.start(root)
            if anew:
                machines.first_boot(site, chosen or [m for m in site.machines if m.autostart])
                machines.save(site, "fresh")
            else:
                machines.restore(site, wanted, args.hosts)
        except BaseException:
            say("failed: taking everything down")
            holder.stop()
            raise
        say("up")


def down(_site: Site, _args: Args) -> None:
    """End the lab."""
    with locked():
        say("down" if holder.stop() else "was not up")


def status(site: Site, _args: Args) -> None:
    """Print what runs; exit 1 when the lab is down."""
    saved = " ".join(machines.saved_states(site)) or "none"
    if holder.holder_pid() is None:
        _print(f"down; saved: {saved}")
        sys.exit(1)
    found = machines.states(site)
    for machine in site.machines:
        _print(f"{machine.name:12} {machine.address:12} {found[machine.name]}")
    _print(f"saved: {saved}")


def keys(site: Site, _args: Args) -> None:
    """Make the people's keys."""
    _print(ensure_keys(site))


def box(site: Site, _args: Args) -> None:
    """Build the box if it is missing or stale."""
    with locked():
        ensure_keys(site)
        _print(machines.ensure_box(site))


def save(site: Site, args: Args) -> None:
    """Save all running machines."""
    with locked():
        machines.save(site, args.name)


def restore(site: Site, args: Args) -> None:
    """Bring machines back as they were saved."""
    with locked():
        machines.restore(site, args.name, args.hosts)


def _words(args: Args) -> list[str]:
    return list(args.words[1:] if args.words[:1] == ["--"] else args.words)


def ssh_into(site: Site, args: Args) -> None:
    """Log in, or run a command, as the administrator."""
    words = _words(args)
    name = site.machine(args.host).name
    ssh.replace_process(holder.inside(ssh.argv(name, words, tty=not words)))


def execute(_site: Site, args: Args) -> None:
    """Run a program of this machine inside the lab's network."""
    ssh.replace_process(holder.inside(_words(args)))


def console(site: Site, args: Args) -> None:
    """Stand in front of a machine."""
    name = site.machine(args.host).name
    ssh.replace_process(holder.inside(["virsh", "-c", "qemu:///system", "console", name]))


def monitor(site: Site, args: Args) -> None:
    """Run one command in a machine's QEMU monitor."""
    _print(usb.hmp(site.machine(args.host).name, " ".join(_words(args))))


def usb_plug(site: Site, args: Args) -> None:
    """Plug a USB device in."""
    host = site.machine(args.host).name
    _print(usb.plug(host, args.kind, serial=args.serial, port=args.port))


def usb_unplug(site: Site, args: Args) -> None:
    """Pull USB devices out."""
    host = site.machine(args.host).name
    for device in args.devices or usb.plugged(host):
        usb.unplug(host, device)


def power_cut(site: Site, args: Args) -> None:
    """Cut a machine's power."""
    machines.power_cut(site.machine(args.host).name)


def power_on(site: Site, args: Args) -> None:
    """Start a machine that is off."""
    machines.power_on(site, args.host, args.usb)


def boot_words(site: Site, args: Args) -> None:
    """Set further words of a machine's kernel command line; none: as it was drawn."""
    with locked():
        machines.boot_words(site, args.host, _words(args))


def disk_digest(site: Site, args: Args) -> None:
    """Print the SHA-256 of the disk of a machine that is off."""
    _print(machines.disk_digest(site, args.host))


def wait(site: Site, args: Args) -> None:
    """Wait until a machine answers over SSH."""
    seconds = ssh.answer(site.machine(args.host), timeout=args.timeout)
    _print(f"{args.host} answers after {seconds:.1f} s")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="lab", description="The lab: machines of every role in namespaces of their own."
    )
    sub = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, work: Callable[[Site, Args], None], *arguments: str
    ) -> argparse.ArgumentParser:
        one = sub.add_parser(name, help=work.__doc__)
        one.set_defaults(work=work)
        for argument in arguments:
            one.add_argument(argument)
        return one

    start = command("up", up)
    start.add_argument("--fresh", action="store_true", help="forget saved states, boot anew")
    start.add_argument("--restore", metavar="NAME", default="")
    start.add_argument("hosts", nargs="*", help="these machines alone; all that start by default")
    command("down", down)
    command("status", status)
    command("keys", keys)
    command("box", box)
    command("save", save, "name")
    command("restore", restore, "name").add_argument("hosts", nargs="*")
    command("ssh", ssh_into, "host").add_argument("words", nargs=argparse.REMAINDER)
    command("monitor", monitor, "host").add_argument("words", nargs=argparse.REMAINDER)
    command("exec", execute).add_argument("words", nargs=argparse.REMAINDER)
    command("console", console, "host")
    command("power-cut", power_cut, "host")
    command("power-on", power_on, "host").add_argument(
        "--usb", action="append", default=[], choices=usb.KINDS, help="plugged in before it wakes"
    )
    command("boot-words", boot_words, "host").add_argument("words", nargs=argparse.REMAINDER)
    command("disk-digest", disk_digest, "host")
    plug = command("usb-plug", usb_plug, "host")
    plug.add_argument("kind", choices=usb.KINDS)
    plug.add_argument("--serial", default="")
    plug.add_argument("--port", default="")
    command("usb-unplug", usb_unplug, "host").add_argument("devices", nargs="*")
    command("wait", wait, "host").add_argument("--timeout", type=float, default=300)
    return top


def main() -> None:
    """Run one subcommand; exit 2 on a failure of the lab, 130 when interrupted."""
    os.umask(0o022)
    if sys.argv[1:2] == ["_hold"]:
        sys.exit(holder.hold(Path(sys.argv[2])))
    machines.terminate_on_signals()
    try:
        args = parser().parse_args()
        args.work(load_site(), args)
    except LabError as error:
        sys.stderr.write(f"lab: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
