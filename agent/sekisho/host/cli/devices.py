"""`sekisho devices` on a machine: what is attached here, and what the policy makes of it."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from sekisho.cli.devices import HELP, Json, Policy, add_commands, listed_by, print_json, report_of
from sekisho.core.errors import printable
from sekisho.devices.explain import Verdict, judge_device
from sekisho.devices.policy_file import Listed
from sekisho.host.cli.devices_modules import app as modules_app

SYSFS = Path("/sys")

app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(modules_app, name="modules")


def _present(listed: Listed) -> list[tuple[Verdict, bool]]:
    """Return every USB device of this machine, judged, and whether the kernel lets it work."""
    from sekisho.host.kernel.usb import usb_present  # noqa: PLC0415 - reads sysfs

    rows = []
    for path, device, title, working, held in usb_present(SYSFS, listed.rules):
        told = judge_device(device, listed.rules, held)
        rows.append((Verdict(path, "usb", told.label, told.decision, device, "", title), working))
    return rows


add_commands(app, _present)


@app.command(
    "list",
    epilog="Examples:  sekisho devices list  ·  sekisho devices list --json  ·  "
    "sekisho devices list --policy inventory/lab/host_vars/core-1.yml",
)
def list_(*, policy: Policy = None, as_json: Json = False) -> int:
    """List the USB devices of this machine, each with verdict and rule (デバイスの一覧と判定).

    Exit code: 0 done, 1 a device works although the policy denies it, 2 no policy here, 3 usage.
    """
    listed, known = listed_by(policy)
    rows = _present(listed)
    loose = [told.name for told, working in rows if working and not told.decision.admit]
    if as_json:
        report = report_of([told for told, _ in rows], listed, {})
        for shown, (_, working) in zip(report["devices"], rows, strict=True):
            shown["works"] = working
        print_json(report)
    else:
        from sekisho.cli.devices_table import print_verdicts  # noqa: PLC0415 - rich is slow

        print_verdicts([told for told, _ in rows], {told.path: working for told, working in rows})
    if loose:
        names = ", ".join(printable(name, 60) for name in loose)
        sys.stderr.write(f"works although denied 拒否なのに動作中: {names}\n")
        return 1
    return 0 if known else 2


@app.command(
    "pci",
    epilog="Examples:  sekisho devices pci  ·  sekisho devices pci --json  ·  "
    "ssh core-1 sekisho devices pci >>inventory/SITE/host_vars/core-1.yml",
)
def pci(*, as_json: Json = False) -> int:
    """Write what this machine is made of on PCI, for review and its site file (PCIの一覧の案).

    Read it before it is put into the site file: whatever is in the machine now becomes its own.
    Exit code: 0 written, 2 this machine shows no PCI, 3 usage.
    """
    from sekisho.host.kernel.udev import functions_here  # noqa: PLC0415 - reads sysfs

    found = list(functions_here(SYSFS))
    if as_json:
        keys = ("function", "class", "driver")
        print_json({"schema": 1, "pci": [dict(zip(keys, one, strict=True)) for one in found]})
    elif found:
        sys.stdout.write("  pci:  # place and maker's numbers; behind #: class, and driver or -\n")
        for one, kind, driver in found:
            sys.stdout.write(f'    - "{one}"  # {printable(kind, 6)} {driver or "-"}\n')
    else:
        sys.stderr.write("this machine shows no PCI (PCI がありません)\n")
    return 0 if found else 2
