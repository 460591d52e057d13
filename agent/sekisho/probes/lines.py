"""Encrypted lines: what strongSwan is told, what the kernel holds, when certificates end."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sekisho.core.text import lines_of
from sekisho.network.strongswan import CERTIFICATE, REVOKED, SWANCTL
from sekisho.probes.model import FileOutcome, Probe, ProbeError, Read, Run, files, output, time_of

#: Days before its end at which a certificate is wrong, and hours for a list of revocations.
CERTIFICATE_DAYS, CRL_HOURS = 14, 48
_CONFIGS = ("/etc/swanctl/swanctl.conf", "/etc/swanctl/conf.d/*.conf")
_KEYS = tuple(f"/etc/swanctl/{name}/*" for name in ("private", "ecdsa", "rsa", "pkcs8", "pkcs12"))
_CREDENTIALS = tuple(f"/{name}/credstore/network.wireguard.*" for name in ("etc", "run"))
_POLICY = re.compile(r"src (\S+) dst (\S+)(?: proto (\S+))?(?: sport (\d+))?(?: dport (\d+))?\s*")
_DIRECTION = re.compile(r"\s+(?:dir (\w+)|socket (?:in|out))\b.*")
_TEMPLATE = re.compile(r"\s+proto (\w+) (?:spi \S+ )?reqid (\d{1,10})\b.* mode (\w+)\s*")


def _sections(text: str, path: str) -> dict[str, Any]:
    """Return swanctl.conf's nested sections; `ProbeError` for what this reader does not know."""
    root: dict[str, Any] = {}
    stack = [root]
    for line in lines_of(text):
        bare = line.partition("#")[0].strip()
        if not bare:
            continue
        if bare == "}":
            if len(stack) == 1:
                raise ProbeError(f"{path}: a section ends that did not begin")
            stack.pop()
        elif bare.endswith("{"):
            inner: dict[str, Any] = stack[-1].setdefault(bare[:-1].strip(), {})
            if not isinstance(inner, dict):
                raise ProbeError(f"{path}: {bare[:60]!r} is a setting and a section")
            stack.append(inner)
        elif "=" in bare:
            name, _, value = bare.partition("=")
            stack[-1][name.strip()] = value.strip()
        elif not bare.startswith("include conf.d/"):
            # An include elsewhere, a section without its own line: it could hold anything.
            raise ProbeError(f"{path}: garbled line {bare[:60]!r}")
    if len(stack) != 1:
        raise ProbeError(f"{path}: a section does not end")
    return root


def _told(found: Mapping[str, FileOutcome]) -> dict[str, Any]:
    flows, proposals, trust, others = [], set(), set(), []
    for path, entry in sorted(found.items()):
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        for name, connection in _parts(_sections(entry.text, path), "connections"):
            if path != SWANCTL:
                others.append(f"{name} in {path}")
            proposals |= {one.strip() for one in connection.get("proposals", "default").split(",")}
            if connection.get("version") != "2":
                proposals.add(f"IKE version {connection.get('version', '1 or 2')}")
            for _, remote in _starting(connection, "remote"):
                trust.add(f"{remote.get('auth')} {remote.get('revocation', 'relaxed')}")
            for child, body in _parts(connection, "children"):
                proposals |= {
                    one.strip() for one in body.get("esp_proposals", "default").split(",")
                }
                words = (body.get("reqid"), body.get("local_ts"), body.get("remote_ts"))
                flows.append(f"{name} {child} {' '.join(map(str, words))}")
                if body.get("mode", "tunnel") != "tunnel":
                    proposals.add(f"mode {body['mode']}")
    return {
        "configured": sorted(flows),
        "proposals": sorted(proposals),
        "trust": sorted(trust),
        "other_files": sorted(others),
    }


def _parts(tree: Mapping[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    inner = tree.get(name, {})
    return [(key, one) for key, one in inner.items() if isinstance(one, dict)]


def _starting(tree: Mapping[str, Any], prefix: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (key, one)
        for key, one in tree.items()
        if isinstance(one, dict) and (key == prefix or key.startswith(f"{prefix}-"))
    ]


def _policies(text: str) -> list[str]:
    """Return the kernel's policies as ``dir src dst proto sport dport reqid``, without sockets'."""
    found, head, direction = [], None, None
    for line in lines_of(text):
        if line[:1].strip():
            match = _POLICY.fullmatch(line)
            if match is None:
                raise ProbeError(f"ip xfrm policy: garbled line {line[:80]!r}")
            head, direction = match, None
        elif (ours := _DIRECTION.fullmatch(line)) is not None:
            direction = ours[1] or ""
            if direction and " action block" in line:
                found.append(f"{direction} {_selector(head)} block")
                direction = ""
        elif direction and (template := _TEMPLATE.fullmatch(line)) is not None:
            found.append(f"{direction} {_selector(head)} {template[1]} {template[3]} {template[2]}")
    return sorted(found)


def _selector(head: re.Match[str] | None) -> str:
    if head is None:
        raise ProbeError("ip xfrm policy: a policy without its selector")
    source, target, proto, sport, dport = head.groups()
    return f"{source} {target} {proto or 'any'} {sport or 0} {dport or 0}"


def _algorithms(text: str) -> list[str]:
    found = set()
    for line in lines_of(text):
        words = line.split()
        if words[:1] in (["aead"], ["enc"], ["auth"], ["auth-trunc"], ["comp"]):
            found.add(f"{words[0]} {words[1]} {words[-1]}")
    return sorted(found)


def _certificates(raw: Mapping[str, Any], now: datetime, *, wanted: bool) -> list[str]:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    held = files(raw, "certificates")
    wrong = [] if CERTIFICATE in held or not wanted else [f"{CERTIFICATE}: no such file"]
    for path, entry in sorted(held.items()):
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        try:
            ends = _ends(x509.load_pem_x509_certificate(entry.text.encode()), "not_valid_after")
        except ValueError:
            wrong.append(f"{path}: no certificate in PEM")
            continue
        if ends - now < timedelta(days=CERTIFICATE_DAYS):
            wrong.append(f"{path}: ends {ends:%Y-%m-%d %H:%M} UTC")
    return wrong


def _revocations(raw: Mapping[str, Any], now: datetime, *, wanted: bool) -> list[str]:
    from cryptography import x509  # noqa: PLC0415 - slow to import

    held = files(raw, "revocations")
    wrong = [] if REVOKED in held or not wanted else [f"{REVOKED}: no such file"]
    for path, entry in sorted(held.items()):
        if entry.text is None:
            raise ProbeError(f"{path}: {entry.error or 'no content'}")
        try:
            ends = _ends(x509.load_pem_x509_crl(entry.text.encode()), "next_update")
        except ValueError:
            wrong.append(f"{path}: no list of revocations in PEM")
            continue
        if ends - now < timedelta(hours=CRL_HOURS):
            wrong.append(f"{path}: to be renewed by {ends:%Y-%m-%d %H:%M} UTC")
    return wrong


def _ends(held: Any, name: str) -> datetime:
    """Return a date of a certificate or list; older libraries know it without its zone only."""
    found = getattr(held, f"{name}_utc", None) or getattr(held, name, None)
    if not isinstance(found, datetime):
        raise ValueError(name)  # noqa: TRY004 - what stands there has no end
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _lines(raw: Mapping[str, Any]) -> dict[str, Any]:
    told = _told(files(raw, "configuration"))
    now = time_of(raw, "now")
    wanted = bool(told["configured"])
    return told | {
        "loaded": _policies(output(raw, "policies")),
        "algorithms": _algorithms(output(raw, "associations")),
        "certificate_wrong": _certificates(raw, now, wanted=wanted),
        "revocations_wrong": _revocations(raw, now, wanted=wanted),
        "keys_open": [
            f"{path} {entry.mode:04o} {entry.uid}"
            for path, entry in sorted(files(raw, "keys").items())
            if entry.kind != "file" or entry.mode & 0o077 or entry.uid
        ],
    }


PROBES = (
    Probe(
        name="lines",
        operations={
            "configuration": Read(_CONFIGS),
            "certificates": Read(("/etc/swanctl/x509/*",)),
            "revocations": Read(("/etc/swanctl/x509crl/*",)),
            "keys": Read((*_KEYS, *_CREDENTIALS), content=False),
            "now": Run(("date", "+%s")),
            "policies": Run(("ip", "xfrm", "policy", "list")),
            # Without the keys: an evidence bundle must not hold them.
            "associations": Run(("ip", "xfrm", "state", "list", "nokeys")),
        },
        parse=_lines,
    ),
)
