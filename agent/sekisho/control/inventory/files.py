"""Write what a site's machines need into a directory: one folder per host, atomically each file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sekisho.compile.policy import compile_host
from sekisho.control.pki.authority import Pki, Signed
from sekisho.control.pki.lines import LinePki
from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError
from sekisho.core.files import read_bounded, write_atomic
from sekisho.network.networkd import network_files
from sekisho.network.strongswan import (
    AUTHORITY,
    REVOKED,
    STRONGSWAN,
    SWANCTL,
    strongswan_conf,
    swanctl_conf,
)
from sekisho.nft.ipsec import PEER_RULES, peer_ruleset
from sekisho.policy.host_policy import HostPolicy
from sekisho.site.lines import lines_of
from sekisho.site.model import MANAGEMENT, Site


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
        folder = out / entry.value.host
        _put(folder / "policy.json", entry.data)
        _put(folder / "policy.sig", entry.signature)
        _put(folder / "policy-signer.pub.pem", signer)
        _put(folder / "ca.crt.pem", authority)
        _put(folder / "nftables.json", entry.value.nftables.data + b"\n")
        for path, text in line_files(entry.value).items():
            _put(folder / "ipsec" / path.rpartition("/")[2], text.encode())
        for path, text in network_files(entry.value).items():
            _put(folder / "network" / path.rpartition("/")[2], text.encode())
    _put(out / "site.json", canonical(known(site)) + b"\n")
    return signed


def line_files(policy: HostPolicy) -> dict[str, str]:
    """Return path → text of strongSwan's files for a host's lines; none where it has no line."""
    if not policy.lines:
        return {}
    return {SWANCTL: swanctl_conf(policy.lines), STRONGSWAN: strongswan_conf()}


def render_peer(lines: LinePki, name: str, out: Path, *, now: datetime) -> list[str]:
    """Write what peer ``name`` needs at its end below ``out``; return the paths written.

    swanctl.conf, strongswan.conf, a packet filter that keeps the flow off the line unless it is
    encrypted, the authority's certificate and its list of revocations. The peer's own key and
    certificate are not among them: the key is made there (`sekisho pki request`).
    """
    lines.party(name)
    if name not in lines.site.peers:
        problem = Problem(lines.site.at, name, "a machine of ours", "a peer", "", "run the play")
        raise SekishoError("not a peer", (problem,))
    own = lines_of(lines.site, name)
    files = {
        SWANCTL: swanctl_conf(own).encode(),
        STRONGSWAN: strongswan_conf().encode(),
        PEER_RULES: canonical(peer_ruleset(own)) + b"\n",
        AUTHORITY: read_bounded(lines.folder / "ca.crt.pem", 64 * 1024),
        REVOKED: lines.crl(now=now),
    }
    for path, data in files.items():
        _put(out / path.lstrip("/"), data)
    return [str(out / path.lstrip("/")) for path in files]


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
