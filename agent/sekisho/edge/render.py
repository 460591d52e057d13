"""Write what a site's machines need into a directory: one folder per host, atomically each file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sekisho.canonical import canonical
from sekisho.edge.pki import Pki, Signed
from sekisho.edge.policy_file import write_atomic
from sekisho.errors import Problem, SekishoError
from sekisho.site.compile import compile_host
from sekisho.site.model import MANAGEMENT, Site
from sekisho.site.networkd import network_files


def render(
    site: Site, inventory: Path, hosts: Sequence[str], out: Path, *, now: datetime
) -> list[Signed]:
    """Write ``hosts``' files (all when empty) below ``out`` and return their signed policies.

    ``out/<host>/`` gets policy.json, policy.sig, policy-signer.pub.pem, ca.crt.pem, nftables.json
    and ``network/``; ``out/site.json`` says what is known of every machine. Unchanged files are not
    touched. Raises `SekishoError` for an unknown host or missing keys.
    """
    chosen = list(hosts) or list(site.machines)
    for host in chosen:
        if host not in site.machines:
            problem = Problem(str(inventory), host, "no such machine", "a machine of hosts.yml")
            raise SekishoError("cannot render", (problem,))
    pki = Pki(inventory)
    signer = pki.policy_public()
    authority = (inventory / "pki" / "ca.crt.pem").read_bytes()
    # Serial and date are the signer's to give; see Pki.sign_policies.
    drafts = (compile_host(site, host, serial=1, issued=now) for host in chosen)
    signed = pki.sign_policies(list(drafts), now=now)
    for entry in signed:
        folder = out / str(entry.value["host"])
        _put(folder / "policy.json", entry.data)
        _put(folder / "policy.sig", entry.signature)
        _put(folder / "policy-signer.pub.pem", signer)
        _put(folder / "ca.crt.pem", authority)
        _put(folder / "nftables.json", canonical(entry.value["nftables"]) + b"\n")
        for path, text in network_files(entry.value).items():
            _put(folder / "network" / path.rpartition("/")[2], text.encode())
    _put(out / "site.json", canonical(known(site)) + b"\n")
    return signed


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if path.is_file() and path.read_bytes() == data:
        return
    write_atomic(path, data, 0o644)


def known(site: Site) -> dict[str, Any]:
    """Return what the controller knows of every machine: role, identity, how it is reached."""
    return {
        "site": site.name,
        "profile": site.profile,
        "management": str(site.management.network),
        "hosts": {
            machine.name: {
                "role": machine.role.value,
                "address": str(ours.address),
                "identity": {"dmi_uuid": machine.dmi_uuid, "serial": machine.serial},
                "macs": {one.name: one.mac for one in machine.interfaces.values()},
                "console": machine.console.value,
            }
            for machine in site.machines.values()
            if (ours := machine.on(MANAGEMENT)) is not None
        },
    }
