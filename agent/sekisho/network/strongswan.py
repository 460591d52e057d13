"""A host's lines into strongSwan's files: swanctl.conf and strongswan.conf. Pure.

IKEv2 only, both ends with certificates of the site's CA, one proposal and no other: what the other
end cannot do is no line. Each flow is one child with exact selectors. Both formats are strongSwan's
own nested sections; what is written here are numbers, addresses and names the site model admitted.
Source: swanctl.conf(5), strongswan.conf(5), RFC 7296, RFC 4106, RFC 5903.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sekisho.policy.parts import Child, Line

#: AES-256-GCM with 16 octets of ICV, HMAC-SHA-384, ECP-384: all on the CRYPTREC list.
IKE_PROPOSAL = "aes256gcm16-prfsha384-ecp384"
ESP_PROPOSAL = "aes256gcm16-ecp384"
#: The other end must sign with ECDSA on P-384 and SHA-384, and so must its issuer have.
AUTHENTICATION = "ecdsa-384-sha384-ike:ecdsa-sha384"

SWANCTL = "/etc/swanctl/conf.d/sekisho.conf"
STRONGSWAN = "/etc/strongswan.d/sekisho-strongswan.conf"
KEY = "/etc/swanctl/private/line.key.pem"
CERTIFICATE = "/etc/swanctl/x509/line.crt.pem"
AUTHORITY = "/etc/swanctl/x509ca/site.crt.pem"
REVOKED = "/etc/swanctl/x509crl/site.crl.pem"

#: Hours an IKE association and minutes a child live before they are made anew.
IKE_HOURS, CHILD_MINUTES = 4, 60
#: Packets under one key at most, well before the 2³² of ESP's number (RFC 4303, 3.3.3).
CHILD_PACKETS = 2_000_000_000
#: A packet this far behind the newest is refused (RFC 4303, 3.4.3).
REPLAY_WINDOW = 1024
DPD_SECONDS = 10
PLUGINS = (
    *("random", "nonce", "openssl", "kdf"),
    *("pem", "pkcs1", "pkcs8", "pubkey", "x509", "revocation", "constraints"),
    *("kernel-netlink", "socket-default", "vici"),
)

Tree = Mapping[str, Any]

_HEAD = "# Written by Sekisho from the site model; changes are overwritten.\n"


def swanctl_conf(lines: Iterable[Line]) -> str:
    """Return swanctl.conf for a host's (or a peer's) lines; see `sekisho.site.lines.lines_of`."""
    return _HEAD + _text({"connections": {line.name: _connection(line) for line in lines}})


def _connection(line: Line) -> Tree:
    return {
        "version": "2",
        "local_addrs": line.local_address,
        "remote_addrs": line.peer_address,
        "proposals": IKE_PROPOSAL,
        "mobike": "no",  # the ends are exactly these two addresses
        "encap": "no",
        "dpd_delay": f"{DPD_SECONDS}s",
        "reauth_time": "0",
        "rekey_time": f"{IKE_HOURS}h",
        "unique": "replace",
        # 0: for ever. The end that starts comes back by itself, however long the line was down.
        "keyingtries": "0" if line.starts else "1",
        "send_certreq": "no",
        "send_cert": "always",
        "local": {
            "auth": "pubkey",
            "certs": CERTIFICATE.rpartition("/")[2],
            "id": f"fqdn:{line.local_id}",
        },
        "remote": {
            "auth": AUTHENTICATION,
            "id": f"fqdn:{line.peer_id}",
            "cacerts": AUTHORITY.rpartition("/")[2],
            # No fresh word of the CA on the certificate is no word: refused.
            "revocation": "strict",
        },
        "children": {child.flow: _child(line, child) for child in line.children},
    }


def _child(line: Line, child: Child) -> Tree:
    return {
        "mode": "tunnel",
        "local_ts": child.local_ts,
        "remote_ts": child.remote_ts,
        "esp_proposals": ESP_PROPOSAL,
        "reqid": str(child.reqid),
        "rekey_time": f"{CHILD_MINUTES}m",
        "rekey_packets": str(CHILD_PACKETS),
        "replay_window": str(REPLAY_WINDOW),
        # The trap stays in the kernel: a packet without an association asks for one, and waits.
        "start_action": "trap|start" if line.starts else "trap",
        "close_action": "start" if line.starts else "trap",
        "dpd_action": "start" if line.starts else "trap",
    }


def strongswan_conf() -> str:
    """Return what the daemon itself is told: no route of its own, and a dead end noticed soon."""
    settings: Tree = {
        "install_routes": "no",
        "install_virtual_ip": "no",
        "integrity_test": "no",
        "send_vendor_id": "no",
        "accept_unencrypted_mainmode_messages": "no",
        # 2 + 3 + 4.5 + 6.75 s without an answer: the other end is away.
        "retransmit_timeout": "2.0",
        "retransmit_base": "1.5",
        "retransmit_tries": "3",
        # Nothing else: among the others are one that exempts whole networks from encryption
        # (bypass-lan), one that moves encryption out of the kernel, and ways to fetch from outside.
        "load_modular": "no",
        "load": " ".join(PLUGINS),
        # A child that both ends made at once, or that never got traffic, does not pile up.
        "delete_rekeyed": "yes",
        "plugins": {
            # Of a daemon that was killed the kernel still holds policies: replace, do not fail.
            "kernel-netlink": {"policy_update": "yes"},
            "socket-default": {"use_ipv6": "no"},
        },
    }
    return _HEAD + _text({"charon": settings, "charon-systemd": settings})


def _text(tree: Tree, depth: int = 0) -> str:
    """Return nested sections as text; refuse what would end a value or a section early."""
    pad = "  " * depth
    lines = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            lines.append(f"{pad}{name} {{\n{_text(value, depth + 1)}{pad}}}\n")
            continue
        if set(value) & set('{}#"\n\r'):
            msg = f"{name}: {value!r} cannot stand in a strongSwan setting"
            raise ValueError(msg)
        lines.append(f"{pad}{name} = {value}\n")
    return "".join(lines)
