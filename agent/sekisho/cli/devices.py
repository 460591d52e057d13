"""What would happen to a device, and a rule for it: commands that both sides have.

The control side knows recorded and described devices; a machine also knows those that are here.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.devices import export_db
from sekisho.devices.explain import Verdict, judge_device, judge_dump
from sekisho.devices.policy import HEX4, INTERFACE, KEY_BYTES, PORT, Device
from sekisho.devices.policy_file import MAX_BYTES as MAX_LIST
from sekisho.devices.policy_file import Listed, parse_listed

HOST_POLICY = Path("/etc/sekisho/policy.json")
HELP = (
    "Say what is attached, what the policy makes of it, and propose a rule for review. "
    "接続されたデバイスと、その判定・理由を示します。"
)
#: Reads this machine's own devices: each judged by a list, and whether it works.
Present = Callable[[Listed], list[tuple[Verdict, bool]]]

Policy = Annotated[
    Path | None,
    typer.Option(
        help="List to judge by: a host's policy, a machine's site file, or a bare list of "
        "devices (JSON or YAML). Default: this machine's policy.",
        show_default=False,
    ),
]
_Dump = Annotated[
    Path | None,
    typer.Option(
        "--export-db",
        help="Output of `udevadm info --export-db` of any machine; - is standard input.",
        show_default=False,
    ),
]
_Target = Annotated[
    str | None,
    typer.Argument(
        help="A device: its name (1-1.2), its port (1.2) or its place under /sys.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer, present: Present | None = None) -> None:
    """Add `explain` and `propose`; without ``present``, of recorded devices only."""

    @app.command(
        "explain",
        epilog="Examples:  sekisho devices explain 1-1.2  ·  "
        "sekisho devices explain --vendor 0627 --product 0001 --serial K1 --port 1.2 "
        "--interfaces 03:01:01  ·  sekisho devices explain --export-db machine.txt "
        "--policy policy.json --json",
    )
    def explain(  # noqa: PLR0913 - the options of a command
        target: _Target = None,
        *,
        export: _Dump = None,
        policy: Policy = None,
        vendor: Annotated[str | None, typer.Option(help="Described: four hex digits.")] = None,
        product: Annotated[str | None, typer.Option(help="Described: four hex digits.")] = None,
        serial: Annotated[str | None, typer.Option(help="Described: serial number.")] = None,
        port: Annotated[str | None, typer.Option(help="Described: 1.2, or 3-1.2.")] = None,
        interfaces: Annotated[
            str | None, typer.Option(help="Described: every interface, 03:01:01,03:00:00.")
        ] = None,
        everything: Annotated[
            bool, typer.Option("--all", help="Also show what is software (loop, lo).")
        ] = False,
        as_json: Json = False,
    ) -> int:
        """Say what would happen to a device, and by which rule (デバイスの扱いと理由).

        A device that is here, one described by options, or every device of a dump: all USB devices
        and all else that can carry files. Exit code for one device: 0 admitted, 1 denied, 2 denied
        because something is not known. For a dump: 0 judged, 1 a USB device that can carry files is
        admitted, 2 a USB device could not be judged, or no policy. 3 usage or configuration.
        """
        described = {
            "--vendor": vendor,
            "--product": product,
            "--serial": serial,
            "--port": port,
            "--interfaces": interfaces,
        }
        verdicts, listed, known, more = _asked(described, target, export, policy, present)
        one = export is None or target is not None
        if as_json:
            print_json(report_of(verdicts, listed, more))
        else:
            from sekisho.cli.devices_table import print_verdicts  # noqa: PLC0415

            print_verdicts(verdicts, everything=everything or one)
        return _code(verdicts, one=one, known=known)

    @app.command(
        "propose",
        epilog="Examples:  sekisho devices propose 1-1.2 --name desk-keyboard  ·  "
        "sekisho devices propose 1-1.2 --hash-serial --out rule.yml  ·  "
        "sekisho devices propose --export-db machine.txt 3-4",
    )
    def propose_(
        target: _Target,
        *,
        export: _Dump = None,
        name: Annotated[str | None, typer.Option(help="The rule's name.")] = None,
        hash_serial: Annotated[
            bool,
            typer.Option("--hash-serial", help="Write the serial number as a keyed hash."),
        ] = False,
        out: Annotated[
            Path | None, typer.Option(help="New file to write; default standard output.")
        ] = None,
    ) -> int:
        """Write a rule for review, for the machine's site file (確認用の規則の案).

        Refused for whatever can carry files (storage, MTP/PTP, network, vendor-specific …) and for
        what cannot be told apart. Exit code: 0 written, 1 refused, 2 not enough is known, 3 usage.
        """
        from sekisho.devices.propose import RefusedError, propose  # noqa: PLC0415

        if target is None:  # typer lets None through only when called as a function
            raise SekishoError("say which device")
        told = _only(target, export, present)
        device = told.device
        try:
            text = propose(
                device,
                title=told.title,
                label=told.label,
                name=name,
                key=secrets.token_bytes(KEY_BYTES) if hash_serial else None,
                certain=told.source in ("", "descriptors")
                or "_" not in (device.serial if device and device.serial else ""),
            )
        except RefusedError as no:
            sys.stderr.write(
                f"sekisho devices: no rule is proposed for {printable(told.name, 60)}: "
                f"{no.english}\n"
                f"規則の案は作りません: {no.japanese}\n"
            )
            return 2 if no.unknown else 1
        if out is None:
            sys.stdout.write(text)
        elif out.exists():
            raise SekishoError(f"{out} is there already; a proposal overwrites nothing")
        else:
            write_atomic(out, text.encode(), mode=0o644)
        return 0


def _asked(
    described: dict[str, str | None],
    target: str | None,
    export: Path | None,
    policy: Path | None,
    present: Present | None,
) -> tuple[list[Verdict], Listed, bool, dict[str, Any]]:
    """Return what was asked for, judged, by which list, whether there is one, and counts."""
    by_options = any(value is not None for value in described.values())
    if by_options and (target is not None or export is not None):
        raise SekishoError("say a device, a dump or a description, not two of them")
    if not by_options and target is None and export is None:
        raise SekishoError("say which: a device, --export-db FILE, or --vendor, --product …")
    listed, known = listed_by(policy)
    more: dict[str, Any] = {}
    if by_options:
        verdicts = [judge_device(_described(described), listed.rules, {})]
    elif export is not None:
        dump = _dump(export)
        verdicts = list(judge_dump(dump, listed.rules, listed.cards, listed.disks))
        more = {"records": len(dump.records), "stray_lines": dump.stray}
    else:
        verdicts = [told for told, _ in _here(present)(listed)]
    if target is not None:
        verdicts = _chosen(verdicts, target)
    return verdicts, listed, known, more


def _here(present: Present | None) -> Present:
    if present is None:
        raise SekishoError(
            "this machine's own devices cannot be read here: the package sekisho-agent is not "
            "installed; say --export-db FILE"
        )
    return present


def listed_by(policy: Path | None) -> tuple[Listed, bool]:
    """Return the list to judge by, and whether there is one: without any, nothing is listed."""
    path = policy or HOST_POLICY
    if policy is None and not path.exists():
        sys.stderr.write(
            f"no policy at {path}: nothing is listed; say --policy FILE "
            "(方針がありません: すべて拒否として示します)\n"
        )
        return Listed(), False
    return parse_listed(read_bounded(path, MAX_LIST), str(path)), True


def _dump(path: Path) -> export_db.Dump:
    if str(path) == "-":
        raw = sys.stdin.buffer.read(export_db.MAX_BYTES + 1)
        return export_db.parse_export_db(raw, "standard input")
    return export_db.parse_export_db(read_bounded(path, export_db.MAX_BYTES), str(path))


def _described(options: dict[str, str | None]) -> Device:
    """Return the device that the options describe; what is not said is unknown."""
    problems = []
    for name, form, expected in (
        ("--vendor", HEX4, "four lower-case hex digits"),
        ("--product", HEX4, "four lower-case hex digits"),
        ("--port", PORT, "a port such as 1.2, or 3-1.2 with its bus"),
    ):
        value = options[name]
        if value is not None and not form.fullmatch(value):
            problems.append(Problem(name, "", printable(value, 60), expected))
    codes = (options["--interfaces"] or "").split(",") if options["--interfaces"] else []
    problems += [
        Problem("--interfaces", "", printable(code, 60), "cc:ss:pp in hex, with commas between")
        for code in codes
        if not INTERFACE.fullmatch(code)
    ]
    if problems:
        raise SekishoError("the description was not understood", tuple(problems))
    port = options["--port"]
    return Device(
        sysname=port if port is not None and "-" in port else "described",
        vendor=options["--vendor"],
        product=options["--product"],
        serial=options["--serial"],
        port=None if port is None else port.rpartition("-")[2],
        interfaces=frozenset(codes) or None,
    )


def _chosen(verdicts: Sequence[Verdict], target: str) -> list[Verdict]:
    """Return the devices called so: one by name or place, or all of that port."""
    wanted = target.rstrip("/")
    name = wanted.rpartition("/")[2]
    found = [
        told
        for told in verdicts
        if told.path == wanted.removeprefix("/sys")
        or ("/bus/usb/devices/" in wanted and told.name == name)
        or ("/" not in wanted and told.name == wanted)
    ]
    if not found and re.fullmatch(r"[0-9.]+", wanted, re.ASCII):
        found = [told for told in verdicts if told.device and told.device.port == wanted]
    if not found:
        raise SekishoError(
            "no such device",
            (Problem(printable(target, 80), "", "nothing", "see `sekisho devices list`"),),
        )
    return found


def _only(target: str, export: Path | None, present: Present | None) -> Verdict:
    """Return the one device called so, judged by an empty list."""
    if export is None:
        verdicts = [told for told, _ in _here(present)(Listed())]
    else:
        verdicts = list(judge_dump(_dump(export), (), {}))
    found = _chosen(verdicts, target)
    if len(found) > 1:
        names = ", ".join(printable(told.name, 40) for told in found)
        raise SekishoError(f"{printable(target, 40)} is {len(found)} devices: {names}")
    return found[0]


def _code(verdicts: Sequence[Verdict], *, one: bool, known: bool) -> int:
    if one:
        if any(told.unknown for told in verdicts):
            return 2
        return 0 if all(told.decision.admit for told in verdicts) else 1
    if any(told.breach for told in verdicts):
        return 1
    unknown = any(told.unknown and told.device is not None for told in verdicts)
    return 2 if unknown or not known else 0


def report_of(verdicts: Sequence[Verdict], listed: Listed, more: dict[str, Any]) -> dict[str, Any]:
    """Return verdicts and counts as `--json` prints them."""
    usb = [told for told in verdicts if told.device is not None]
    return {
        "schema": 1,
        "rules": len(listed.rules),
        **more,
        "counts": {
            "devices": len(verdicts),
            "usb": len(usb),
            "admitted": sum(told.decision.admit for told in verdicts),
            "denied": sum(not told.decision.admit for told in verdicts),
            "unknown": sum(told.unknown for told in verdicts),
            "carriers_admitted": sum(told.breach for told in verdicts),
        },
        "devices": [told.as_json() for told in verdicts],
    }


def print_json(value: Any) -> None:
    """Print one JSON value."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")
