"""The site's own keys: signing policies, certificates for mutual TLS and for IPsec, CRLs. Pure.

ECDSA on P-384 with SHA-384 throughout. Keys come in, bytes go out; making keys, reading and
writing them is `sekisho.control.pki.authority`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import IPv4Address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sekisho.core.errors import Problem, SekishoError, printable

#: Days a host's certificate is good for; the authority's own lives ten years.
HOST_DAYS = 825
CA_DAYS = 3650
#: Days a line's certificate is good for, unless its issuer says less; and a list of revocations.
LINE_DAYS = 397
CRL_DAYS = 30
MAX_REQUEST = 16 * 1024
#: id-kp-ipsecIKE (RFC 4945, 5.1.3.12): good for IKE, and for no TLS connection.
IPSEC_IKE = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.17")
#: Why a certificate may be revoked (RFC 5280, 5.3.1), as the command line writes it.
REASONS: Mapping[str, x509.ReasonFlags] = {
    "key-compromise": x509.ReasonFlags.key_compromise,
    "affiliation-changed": x509.ReasonFlags.affiliation_changed,
    "superseded": x509.ReasonFlags.superseded,
    "cessation-of-operation": x509.ReasonFlags.cessation_of_operation,
    "privilege-withdrawn": x509.ReasonFlags.privilege_withdrawn,
}
_SKEW = timedelta(minutes=5)  # a host's clock may be a little behind the controller's


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Return the DER signature of ``data``."""
    return key.sign(data, ec.ECDSA(SHA384()))


def fits(key: ec.EllipticCurvePublicKey, data: bytes, signature: bytes) -> bool:
    """Return whether ``signature`` is the key's over exactly ``data``."""
    try:
        key.verify(signature, data, ec.ECDSA(SHA384()))
    except InvalidSignature:
        return False
    return True


def make_authority(
    key: ec.EllipticCurvePrivateKey, site: str, *, now: datetime, number: int
) -> x509.Certificate:
    """Return the site's self-signed certificate authority; it may sign hosts and nothing else."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Sekisho site {site}")])
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(number)
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, SHA384())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _refused(host: str, key: str, got: str, expected: str) -> SekishoError:
    return SekishoError(
        "the certificate request was refused", (Problem(host, key, got, expected, "6-iv-a"),)
    )


def read_request(pem: bytes, *, host: str) -> ec.EllipticCurvePublicKey:
    """Return the key of a host's request, proven to be held by the asker and named for ``host``.

    The request's other wishes (alternative names, usages) are not looked at: what the certificate
    says comes from the site. Raises `SekishoError`.
    """
    if len(pem) > MAX_REQUEST:
        raise _refused(host, "", f"more than {MAX_REQUEST} bytes", "a request in PEM")
    try:
        request = x509.load_pem_x509_csr(pem)
        names = [
            attribute.value for attribute in request.subject if attribute.oid == NameOID.COMMON_NAME
        ]
        public = request.public_key()
        held = request.is_signature_valid
    except Exception as bad:  # noqa: BLE001 - whatever a hostile request makes of the parser
        raise _refused(host, "", printable(str(bad)) or "garbled", "a request in PEM") from None
    if not held:
        raise _refused(host, "signature", "one that does not fit", "the asker's own")
    if names != [host]:
        shown = ", ".join(printable(str(name)) for name in names) or "no name"
        raise _refused(host, "common name", shown, host)
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp384r1":
        raise _refused(host, "key", "another kind of key", "an ECDSA key on P-384")
    return public


def make_host_certificate(  # noqa: PLR0913 - an issuance has these inputs
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    *,
    host: str,
    address: IPv4Address,
    now: datetime,
    number: int,
) -> x509.Certificate:
    """Return a host's certificate for both ends of TLS: its name, its management address."""
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    names = x509.SubjectAlternativeName([x509.DNSName(host), x509.IPAddress(address)])
    uses = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH])
    ends = min(now + timedelta(days=HOST_DAYS), authority.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)]))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(number)
        .not_valid_before(now - _SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(uses, critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .sign(authority_key, SHA384())
    )


def make_line_certificate(  # noqa: PLR0913 - an issuance has these inputs
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    public: ec.EllipticCurvePublicKey,
    *,
    site: str,
    name: str,
    role: str,
    identities: Sequence[str],
    now: datetime,
    number: int,
    days: int = LINE_DAYS,
) -> x509.Certificate:
    """Return a certificate for one end of encrypted lines: its name, role and site, for IKE only.

    ``identities`` are the DNS names it has on its lines (`sekisho.site.lines.identity`).
    """
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, site),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    names = x509.SubjectAlternativeName([x509.DNSName(one) for one in identities])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(number)
        .not_valid_before(now - _SKEW)
        .not_valid_after(min(now + timedelta(days=days), authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([IPSEC_IKE]), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .sign(authority_key, SHA384())
    )


def make_crl(
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    revoked: Iterable[tuple[int, datetime, str]],
    *,
    number: int,
    now: datetime,
) -> x509.CertificateRevocationList:
    """Return the list of revoked certificates (serial, when, reason of `REASONS`); RFC 5280, 5."""
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now - _SKEW)
        .next_update(now + timedelta(days=CRL_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
    )
    for serial, when, reason in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(serial)
            .revocation_date(when)
            .add_extension(x509.CRLReason(REASONS[reason]), critical=False)
            .build()
        )
    return builder.sign(authority_key, SHA384())
