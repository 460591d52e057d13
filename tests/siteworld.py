"""Sites for tests: the lab's inventory with made-up keys, edited texts, and large ones."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sekisho.compile.policy import compile_host
from sekisho.control.inventory.read import read_inventory
from sekisho.core.errors import Problem, SekishoError
from sekisho.policy.host_policy import HostPolicy
from sekisho.site.model import RawFile, RawInventory, Site
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check

ROOT = Path(__file__).resolve().parent.parent
NOW = date(2026, 11, 22)
ISSUED = datetime(2026, 11, 22)  # noqa: DTZ001 - written out as UTC, whatever it is
SITE = "group_vars/all/site.yml"


def public_key(number: int) -> str:
    """Return a well-formed Ed25519 public key that nobody holds."""
    blob = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + number.to_bytes(32, "big")
    return f"ssh-ed25519 {base64.b64encode(blob).decode()}"


@cache
def approval_pem(number: int) -> str:
    """Return a P-384 public key in PEM; number + 1 is its private scalar."""
    public = ec.derive_private_key(number + 1, ec.SECP384R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


PEOPLE = ("aoki", "baba", "chiba", "auditor")


def made_up_keys() -> dict[str, str]:
    """Return path → text of the keys the lab's people would have."""
    keys = {f"keys/{who}.pub": f"{public_key(n)} {who}\n" for n, who in enumerate(PEOPLE)}
    return keys | {f"keys/{who}-approval.pub": approval_pem(n) for n, who in enumerate(PEOPLE)}


def copy_lab(place: Path) -> None:
    """Write the lab's inventory with made-up keys to ``place``."""
    shutil.copytree(ROOT / "inventory/lab", place, ignore=shutil.ignore_patterns("keys", "pki"))
    (place / "keys").mkdir()
    for path, text in made_up_keys().items():
        (place / path).write_text(text, encoding="utf-8")


def lab_raw(edits: Mapping[str, tuple[str, str] | str] | None = None) -> RawInventory:
    """Return the lab's texts; ``edits``: path → (old, new) once each, or a whole new text."""
    raw = read_inventory(ROOT / "inventory" / "lab")
    raw = replace(raw, where="lab", keys=made_up_keys())
    for path, edit in (edits or {}).items():
        raw = _edit(raw, path, edit)
    return raw


def _edit(raw: RawInventory, path: str, edit: tuple[str, str] | str) -> RawInventory:
    def change(file: RawFile) -> RawFile:
        if file.path != path:
            return file
        if isinstance(edit, str):
            return RawFile(path, edit)
        old, new = edit
        assert old in file.text, f"{path} has no {old!r}"
        return RawFile(path, file.text.replace(old, new, 1))

    return replace(
        raw,
        hosts=change(raw.hosts),
        group_vars=tuple(map(change, raw.group_vars)),
        host_vars=tuple(map(change, raw.host_vars)),
    )


def lab_site(edits: Mapping[str, tuple[str, str] | str] | None = None) -> Site:
    return parse_site(lab_raw(edits))


#: Both outside links through WireGuard; each peer's own address is behind its end of the line.
TUNNEL_KEYS = {
    name: base64.b64encode(name.encode().ljust(32, b".")).decode()
    for name in ("hospital-a", "hospital-z", "university-b")
}
INNER = {"hospital-a": "192.0.2.2", "hospital-z": "192.0.2.3", "university-b": "192.0.2.66"}


def tunnelled(keys: Mapping[str, str] = TUNNEL_KEYS, *, second: bool = False) -> dict[str, str]:
    """Return the lab with WireGuard on both outside links; ``second``: with a second hospital."""
    text = next(file.text for file in lab_raw().group_vars if file.path == SITE)

    def swap(old: str, new: str) -> None:
        nonlocal text
        assert old in text, old
        text = text.replace(old, new, 1)

    for network in ("10.77.1.0/29", "10.77.6.0/29"):
        swap(f"network: {network}", f"encryption: wireguard\n      network: {network}")
    ends = {"hospital-a": ("10.77.1.2", 51820), "university-b": ("10.77.6.2", 51820)}
    if second:
        swap("[hospital-a, gate-in]", "[hospital-a, hospital-z, gate-in]")
        swap(
            "    university-b:\n      side",
            "    hospital-z:\n      side: provider\n      title: {en: Hospital Z, ja: 丙病院}\n"
            "      address: 10.77.1.3\n    university-b:\n      side",
        )
        swap(
            "    store:\n",
            "    intake-z:\n      from: hospital-z\n      to: inbound-1\n      via: gate-in\n"
            "      port: 7602\n      mode: one-way-tcp\n    store:\n",
        )
        ends["hospital-z"] = ("10.77.1.3", 51821)
    for name, (end, port) in ends.items():
        swap(
            f"address: {end}\n",
            f"address: {INNER[name]}\n      vpn: {end}\n"
            f"      wireguard: {{key: {keys[name]}, port: {port}}}\n",
        )
    return {SITE: text}


def problems(edits: Mapping[str, tuple[str, str] | str]) -> list[Problem]:
    """Return what parsing, or else checking, says of the edited lab."""
    try:
        site = lab_site(edits)
    except SekishoError as failure:
        return list(failure.problems)
    return check(site, now=NOW)


def host_policy(
    host: str, edits: Mapping[str, tuple[str, str] | str] | None = None, /, **parts: Any
) -> HostPolicy:
    """Return a lab host's policy; ``parts`` stand in its document instead of what was compiled."""
    compiled = compile_host(lab_site(edits), host, serial=1, issued=ISSUED)
    return HostPolicy.parse(compiled.as_json() | parts) if parts else compiled


def policy(host: str, edits: Mapping[str, tuple[str, str] | str] | None = None) -> dict[str, Any]:
    """Return a lab host's policy as its document."""
    return host_policy(host, edits).as_json()


def big_raw(machines: int) -> RawInventory:
    """Return a sound site of about ``machines``: the lab with that many terminals on its desk."""
    raw = lab_raw(
        {
            SITE: ("network: 10.77.7.0/29", "network: 10.90.0.0/16"),
            "host_vars/core-1.yml": ("address: 10.77.7.2}", "address: 10.90.0.1}"),
            "host_vars/terminal-1.yml": ("address: 10.77.7.1}", "address: 10.90.0.2}"),
        }
    )
    site = next(file for file in raw.group_vars if file.path == SITE).text
    pattern = next(file for file in raw.host_vars if file.path.endswith("terminal-1.yml")).text
    hosts, files = [], []
    for number in range(machines - 7):
        name = f"desk-{number}"
        high, low = divmod(number + 256, 256)
        text = pattern
        for old, new in (
            ("10.77.0.17", f"10.91.{high}.{low}"),
            ("10.90.0.2", f"10.90.{high}.{low}"),
            ("52:54:00:77:00:17", f"52:54:01:00:{high:02x}:{low:02x}"),
            ("52:54:00:77:07:01", f"52:54:02:00:{high:02x}:{low:02x}"),
            ("-000000000017", f"-0001{number:08x}"),
            ("LAB-0017", f"LAB-T{number}"),
        ):
            text = text.replace(old, new)
        hosts.append(f"    {name}:\n")
        files.append(RawFile(f"host_vars/{name}.yml", text))
    site = site.replace("10.77.0.0/24", "10.64.0.0/11").replace("10.77.0.", "10.64.0.")
    site = site.replace("10.77.", "10.32.")
    names = ", ".join(f"desk-{number}" for number in range(machines - 7))
    members = "[terminal-1, core-1" + (f", {names}]" if names else "]")
    site = site.replace("[terminal-1, core-1]", members)
    site = site.replace("10.90.0.0/16", "10.128.0.0/16")
    moved = tuple(RawFile(file.path, _renumber(file.text)) for file in (*raw.host_vars, *files))
    return replace(
        raw,
        hosts=RawFile(raw.hosts.path, raw.hosts.text + "".join(hosts)),
        group_vars=tuple(
            RawFile(file.path, site) if file.path == SITE else file for file in raw.group_vars
        ),
        host_vars=moved,
    )


def _renumber(text: str) -> str:
    """Move the lab's small networks out of the way of a large management network."""
    text = text.replace("10.77.0.", "10.64.0.").replace("10.77.", "10.32.")
    return text.replace("10.91.", "10.65.").replace("10.90.", "10.128.")
