"""The host's signed policy: read, proven, and never older than one already accepted.

What the caller must still do: act on the value, and ``accept`` it once it is in force.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.files import read_bounded, write_atomic
from sekisho.policy.host_policy import MAX_BYTES, HostPolicy

MAX_POLICY = MAX_BYTES
MAX_SIGNATURE = 256  # bytes; a DER ECDSA P-384 signature has at most 104

POLICY = "policy.json"
SIGNATURE = "policy.sig"
SIGNER = "policy-signer.pub.pem"

_SERIAL = re.compile(r"([1-9][0-9]{0,17}) ([0-9a-f]{64})\n", re.ASCII)


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was proven: signed by the site, for this host, not older than the last.

    Attributes:
        value: the policy.
        serial: its serial, larger is newer.
        digest: SHA-256 of the bytes that were signed, hex.
        data: the bytes that were signed.
        signature: the site's signature over them, DER.

    """

    value: HostPolicy
    serial: int
    digest: str
    data: bytes = field(repr=False)
    signature: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Floor:
    """The newest policy accepted so far: older is refused, and so is another of equal serial."""

    serial: int = 0
    digest: str = ""


def _refuse(where: str, key: str, got: str, expected: str, hint: str = "") -> SekishoError:
    return SekishoError(
        "the policy was refused", (Problem(where, key, got, expected, "6-iv-a", hint),)
    )


def _check_signature(data: bytes, signature: bytes, signer_pem: bytes, where: str) -> None:
    # Lazy: the library costs 10 MB and 50 ms, and pure tests of the rest need none of it.
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA384  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(signer_pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _refuse(SIGNER, "", "no public key in PEM", "the site's policy key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise _refuse(SIGNER, "", "another kind of key", "an ECDSA key on P-384")
    try:
        key.verify(signature, data, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise _refuse(
            where,
            "",
            f"a signature of {len(signature)} bytes that does not fit",
            "the site key's signature over exactly these bytes",
            "write the policy again: playbooks/site.yml --tags policy",
        ) from None


def prove(data: bytes, signature: bytes, signer_pem: bytes, *, host: str, floor: Floor) -> Policy:
    """Return the policy when every one of these holds, in this order.

    1. It is not huge, and has a signature.
    2. The site's key signed exactly these bytes (ECDSA P-384, SHA-384).
    3. It is JSON without floats or doubled keys, in canonical form.
    4. It is a policy: every part in its form (`HostPolicy.parse`).
    5. It is for this host.
    6. It is not older than the newest accepted, and not another one of that serial.

    Raises:
        SekishoError: says which of them does not hold.

    """
    if len(data) > MAX_POLICY:
        raise _refuse(POLICY, "", f"more than {MAX_POLICY} bytes", f"at most {MAX_POLICY} bytes")
    if not signature:
        raise _refuse(SIGNATURE, "", "no signature", "the site key's signature")
    if len(signature) > MAX_SIGNATURE:
        raise _refuse(
            SIGNATURE, "", f"more than {MAX_SIGNATURE} bytes", f"at most {MAX_SIGNATURE} bytes"
        )
    _check_signature(data, signature, signer_pem, SIGNATURE)
    value = HostPolicy.parse(data, POLICY, form=True)
    if value.host != host:
        raise _refuse(POLICY, "host", value.host, f"{host}, this host")
    digest = hashlib.sha256(data).hexdigest()
    serial = value.serial
    if serial < max(1, floor.serial):
        raise _refuse(
            POLICY,
            "serial",
            str(serial),
            f"{max(1, floor.serial)} or newer: that one was accepted already",
            "an older policy does not come back; compile and sign a new one",
        )
    if serial == floor.serial and floor.digest not in ("", digest):
        raise _refuse(
            POLICY, "serial", f"{serial} with other content", "a new serial for new content"
        )
    return Policy(value, serial, digest, data, signature)


class PolicyStore:
    """The policy in /etc, the newest accepted one's serial, and copies of what was in force.

    ``good`` lets the agent start when the policy in /etc is refused; ``enforced`` is the last one
    whose packet filter was confirmed. A copy is proven in the same way as the original.
    """

    def __init__(self, policy: Path, state: Path, *, host: str) -> None:
        self.policy = policy
        self.signature = policy.with_name(SIGNATURE)
        self.signer = policy.with_name(SIGNER)
        self.state = state
        self.serial = state / "policy.serial"
        self.host = host

    def floor(self) -> Floor:
        """Return the newest policy accepted so far; SekishoError when its record is garbled."""
        if not self.serial.exists():
            return Floor()
        text = read_bounded(self.serial, 256).decode("utf-8", "replace")
        found = _SERIAL.fullmatch(text)
        if found is None:
            hint = "remove the file by hand if this is known damage"
            problem = Problem(
                str(self.serial), "", printable(text), "serial and digest", "6-iv-a", hint
            )
            raise SekishoError("which policy was accepted last cannot be told", (problem,))
        return Floor(int(found[1]), found[2])

    def _copy(self, name: str) -> tuple[Path, Path]:
        return self.state / f"policy.{name}.json", self.state / f"policy.{name}.sig"

    def load(self) -> Policy:
        """Return the policy in /etc, proven; SekishoError says why it is refused."""
        return self._prove(self.policy, self.signature, self.floor())

    def load_copy(self, name: str, *, floor: Floor | None = None) -> Policy:
        """Return the kept copy ``name``, proven again; SekishoError when there is none."""
        return self._prove(*self._copy(name), self.floor() if floor is None else floor)

    def _prove(self, policy: Path, signature: Path, floor: Floor) -> Policy:
        data = read_bounded(policy, MAX_POLICY)
        sealed = read_bounded(signature, MAX_SIGNATURE)
        signer = read_bounded(self.signer, 64 * 1024)
        return prove(data, sealed, signer, host=self.host, floor=floor)

    def keep(self, name: str, policy: Policy) -> None:
        """Keep a copy of ``policy`` under ``name``; SekishoError when the disk refuses."""
        data, signature = self._copy(name)
        try:
            write_atomic(signature, policy.signature)
            write_atomic(data, policy.data)
        except OSError as error:
            raise SekishoError(f"{data} cannot be written: {error.strerror}") from None

    def accept(self, policy: Policy) -> None:
        """Remember ``policy`` as the newest: its serial, digest and a copy for the next start.

        Raises:
            SekishoError: the state cannot be written.

        """
        self.keep("good", policy)
        try:
            write_atomic(self.serial, f"{policy.serial} {policy.digest}\n".encode())
        except OSError as error:
            raise SekishoError(f"{self.serial} cannot be written: {error.strerror}") from None
