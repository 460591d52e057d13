"""A host for the agent's tests: keys, a signed policy, folders; all below one folder."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import siteworld
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.host.agent.reporter import Book, Paths
from sekisho.host.agent.table import labels
from sekisho.host.metrics import Metrics
from sekisho.policy.host_policy import HostPolicy

OWN = {"family": "inet", "name": "sekisho"}
SIGNER = ec.generate_private_key(ec.SECP384R1())
STRANGER = ec.generate_private_key(ec.SECP384R1())


def rules(port: int = 22) -> dict[str, Any]:
    """Return a small table that drops everything but one port."""
    place = {"family": "inet", "table": "sekisho"}
    left = {"payload": {"protocol": "tcp", "field": "dport"}}
    expr = [{"match": {"op": "==", "left": left, "right": {"set": [port]}}}, {"accept": None}]
    hook = {"type": "filter", "hook": "input", "prio": 0, "policy": "drop"}
    return {
        "nftables": [
            {"add": {"table": OWN}},
            {"delete": {"table": OWN}},
            {"add": {"table": OWN}},
            {"add": {"set": {**place, "name": "peers", "type": "ipv4_addr", "elem": ["10.0.0.2"]}}},
            {"add": {"chain": {**place, "name": "in", **hook}}},
            {"add": {"rule": {**place, "chain": "in", "expr": expr, "comment": "6-iv-a.ssh"}}},
        ]
    }


@cache
def _compiled() -> bytes:
    return canonical(siteworld.policy("core-1"))


def policy(**changes: Any) -> dict[str, Any]:
    """Return the document of core-1's policy, on the loopback and small, with ``changes``."""
    compiled: dict[str, Any] = json.loads(_compiled())
    return (
        compiled
        | {
            "serial": 5,
            "issued": "2026-11-20T00:00:00Z",
            "management": compiled["management"] | {"monitors": ["127.0.0.1"]},
            "interfaces": {},
            "routes": [],
            "accounts": {"aoki": compiled["accounts"]["aoki"]},
            "listeners": [{"proto": "tcp", "address": "10.77.0.13", "port": 22, "program": "sshd"}],
            "metrics": {"address": "127.0.0.1", "port": 9723},
            "nftables": rules(),
        }
        | changes
    )


def parsed(**changes: Any) -> HostPolicy:
    """Return the same policy as the agent's parts take it."""
    return HostPolicy.parse(policy(**changes))


def signed(data: bytes, key: ec.EllipticCurvePrivateKey = SIGNER) -> bytes:
    """Return the signature of a policy's bytes."""
    return key.sign(data, ec.ECDSA(hashes.SHA384()))


def signer_pem(key: ec.EllipticCurvePrivateKey = SIGNER) -> bytes:
    """Return the public half of the signer."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key in PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=signs, crl_sign=signs,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


@dataclass
class Authority:
    """A certificate authority and what it signs."""

    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP384R1())
    )

    def certificate(
        self, name: str, key: ec.EllipticCurvePrivateKey | None = None, address: str = ""
    ) -> bytes:
        """Return a certificate in PEM; without a key, the authority's own."""
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ca")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key((key or self.key).public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=key is None, path_length=None), critical=True)
        )
        # As the site's own authority has them; Python 3.13 takes no certificate without.
        own = x509.SubjectKeyIdentifier.from_public_key((key or self.key).public_key())
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(own, critical=False).add_extension(by, critical=False)
        builder = builder.add_extension(_usage(signs=key is None), critical=True)
        if address:
            names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA384()).public_bytes(Encoding.PEM)


class MemoryJournal:
    """Keeps events in a list; refuses them when told to."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.full = False

    def append(self, kind: str, data: dict[str, Any], *, durable: bool = False) -> int:  # noqa: ARG002
        if self.full:
            raise SekishoError("the disk is full")
        canonical(data)  # what the real one would refuse
        self.events.append((kind, data))
        return len(self.events)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]

    def detections(self) -> list[str]:
        return [data["id"] for kind, data in self.events if kind == "agent.detection"]


@dataclass
class Host:
    """One host below a folder."""

    root: Path
    journal: MemoryJournal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.paths = Paths(
            etc=self.root / "etc/sekisho",
            state=self.root / "state",
            run=self.root / "run",
            proc=self.root / "proc",
            sys=self.root / "sys",
            root=self.root,
            audit_log=self.root / "audit.log",
        )
        for folder in (self.paths.etc, self.paths.state, self.paths.run, self.paths.sys):
            folder.mkdir(parents=True, exist_ok=True)
        self.now = 1000.0
        self.metrics = Metrics(labels() | {"version": ("test",)})
        self.book = Book(self.journal, self.metrics, clock=lambda: self.now, wall=lambda: self.now)

    def write_policy(
        self, value: Any = None, key: ec.EllipticCurvePrivateKey = SIGNER, **changes: Any
    ) -> bytes:
        """Write a signed policy; return its bytes."""
        data = canonical(policy(**changes) if value is None else value)
        (self.paths.etc / "policy.json").write_bytes(data)
        (self.paths.etc / "policy.sig").write_bytes(signed(data, key))
        (self.paths.etc / "policy-signer.pub.pem").write_bytes(signer_pem())
        return data

    def write_rules(self, value: Any = None) -> None:
        """Write the file loaded at boot."""
        text = json.dumps(rules() if value is None else value, indent=1)
        (self.paths.etc / "nftables.json").write_text(text)
