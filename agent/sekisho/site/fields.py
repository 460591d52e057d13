"""Values of the site's fields: addresses, networks, MACs, dates, titles, public keys. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from sekisho.core.errors import printable
from sekisho.core.yaml_nodes import Node, Reader
from sekisho.orders.sealing import approval_key
from sekisho.site.model import Title

# No control, zero-width or direction-changing characters: titles are shown to officers.
_TITLE = re.compile(
    r"[^\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]"
    r"[^\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069]{0,119}"
)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_KEY_PATH = re.compile(r"keys(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}){1,4}\.pub")
_KEY = re.compile(r"([a-z0-9@.-]{1,64}) ([A-Za-z0-9+/]{40,8000}={0,2})( [ -~]{0,200})?")
_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
)
#: A 3072-bit modulus alone is 384 bytes (+ sign byte, type, exponent, lengths).
_RSA_LEAST_BYTES = 384 + 1 + 4 + 11 + 3 * 4
_NOWHERE = IPv4Address(0)
_NO_NETWORK = IPv4Network("0.0.0.0/32")
_NO_DAY = date(1970, 1, 1)


def title(read: Reader, node: Node | None, key: str) -> Title:
    """Return a title from ``{en: …, ja: …}``."""
    body = read.mapping(node, key, {"en": True, "ja": True}) or {}
    expected = "1 to 120 characters of text"
    return Title(
        en=read.text(body.get("en"), f"{key}.en", _TITLE, expected),
        ja=read.text(body.get("ja"), f"{key}.ja", _TITLE, expected),
    )


def address(read: Reader, node: Node | None, key: str) -> IPv4Address:
    """Return one IPv4 host address (no loopback, multicast, link-local, unspecified)."""
    if node is None:
        return _NOWHERE
    try:
        value = IPv4Address(node.text or "")
    except AddressValueError:
        read.wrong(node.line, key, node.describe(), "an IPv4 address")
        return _NOWHERE
    if _special(value):
        read.wrong(node.line, key, str(value), "the IPv4 address of one host")
    return value


@lru_cache(maxsize=16384)
def _special(value: IPv4Address) -> bool:
    return (
        (value.is_loopback or value.is_multicast or value.is_link_local)
        or int(value) >> 24 == 0
        or int(value) >> 28 == 15
    )  # "this network" (RFC 6890), reserved


def addresses(read: Reader, node: Node | None, key: str) -> tuple[IPv4Address, ...]:
    """Return a list of at least one address, none twice."""
    found: list[IPv4Address] = []
    for index, entry in enumerate(read.entries(node, key, least=1)):
        value = address(read, entry, f"{key}[{index}]")
        if value in found:
            read.wrong(entry.line, f"{key}[{index}]", f"{value} again", "it once")
        found.append(value)
    return tuple(found)


def network(read: Reader, node: Node | None, key: str) -> IPv4Network:
    """Return an IPv4 network from /8 to /31 in prefix form, host bits zero."""
    if node is None:
        return _NO_NETWORK
    text = node.text or ""
    try:
        value = IPv4Network(text)
    except ValueError:
        value = _NO_NETWORK
    if str(value) != text:  # also "10.1.2.0" and "10.1.2.0/255.255.255.248"
        read.wrong(node.line, key, node.describe(), "a network such as 10.1.2.0/29, host bits zero")
        return _NO_NETWORK
    if not 8 <= value.prefixlen <= 31:
        item = "6-iv-e" if value.prefixlen < 8 else ""
        read.wrong(node.line, key, str(value), "a prefix from /8 to /31", item)
    elif _special(value.network_address) or _special(value.broadcast_address):
        read.wrong(node.line, key, str(value), "a network of host addresses")
    return value


def mac(read: Reader, node: Node | None, key: str) -> str:
    """Return one device's MAC address in lower case."""
    expected = "a MAC address in lower case, such as 52:54:00:00:00:01"
    value = read.text(node, key, _MAC, expected)
    if node is not None and value and (int(value[:2], 16) & 1 or value == "00:00:00:00:00:00"):
        read.wrong(node.line, key, value, "the MAC address of one device, not of a group")
    return value


def day(read: Reader, node: Node | None, key: str) -> date:
    """Return a date written ``2027-03-31``."""
    if node is None:
        return _NO_DAY
    text = node.text or ""
    try:
        return date.fromisoformat(text if _DAY.fullmatch(text) else "")
    except ValueError:
        read.wrong(node.line, key, node.describe(), "a date such as 2027-03-31")
        return _NO_DAY


def public_keys(
    read: Reader, node: Node | None, key: str, files: Mapping[str, str]
) -> tuple[str, ...]:
    """Return a person's keys as ``type base64``; each entry is a key, or ``keys/NAME.pub``."""
    found: list[str] = []
    for index, entry in enumerate(read.entries(node, key, least=1)):
        here = f"{key}[{index}]"
        text = entry.text or ""
        if text.startswith("keys/"):
            if not _KEY_PATH.fullmatch(text):
                read.wrong(entry.line, here, entry.describe(), "a path such as keys/aoki.pub")
                continue
            if text not in files:
                read.wrong(
                    entry.line,
                    here,
                    f"no file {text}",
                    "the person's public key beside the inventory",
                    "6-ii-d",
                    "ssh-keygen makes one; the lab makes its own when it is brought up",
                )
                continue
            text = files[text].strip()
        wrong = public_key_problem(text)
        if wrong:
            read.wrong(entry.line, here, wrong, "one OpenSSH public key, without options")
            continue
        short = " ".join(text.split(" ")[:2])
        if short in found:
            read.wrong(entry.line, here, "the same key again", "it once")
        found.append(short)
    return tuple(found)


def order_key(read: Reader, node: Node | None, key: str, files: Mapping[str, str]) -> bytes:
    """Return the key (DER) a person signs orders with, from a PEM ``keys/NAME.pub``, or ``b""``."""
    if node is None:
        return b""
    text = node.text or ""
    if not _KEY_PATH.fullmatch(text) or text not in files:
        hint = "sekisho exception key makes one; only its .pub belongs here"
        read.wrong(node.line, key, node.describe(), "a file such as keys/aoki-approval.pub",
                   "6-iii-c", hint)  # fmt: skip
        return b""
    try:
        return approval_key(files[text].encode())
    except ValueError as bad:
        read.wrong(node.line, key, str(bad), "a public key on P-384, in PEM", "6-iii-c")
        return b""


def wireguard_key(read: Reader, node: Node | None, key: str) -> str:
    """Return a WireGuard public key: 32 bytes in base64, the one way to write them."""
    text = (node.text or "") if node is not None else ""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    good = len(raw) == 32 and any(raw) and base64.b64encode(raw).decode() == text
    if node is not None and not good:
        hint = "`wg pubkey` at the peer's end prints it; the private key stays there"
        expected = "a WireGuard public key, 44 characters of base64"
        read.wrong(node.line, key, node.describe(), expected, "6-iv-d-1", hint)
    return text


def public_key_problem(text: str) -> str:
    """Return what is wrong with an OpenSSH public key line, or ""."""
    match = _KEY.fullmatch(text)
    if match is None:
        return printable(repr(text), 60)
    kind = match.group(1)
    if kind not in _KEY_TYPES:
        return f"a key of type {printable(kind, 40)}"
    try:
        blob = base64.b64decode(match.group(2), validate=True)
    except binascii.Error:
        return "a key that is not base64"
    named = len(kind).to_bytes(4, "big") + kind.encode("ascii")
    if not blob.startswith(named):
        return f"a key that says {kind} and holds something else"
    if kind == "ssh-rsa" and len(blob) < _RSA_LEAST_BYTES:
        return "an RSA key under 3072 bits"
    return ""
