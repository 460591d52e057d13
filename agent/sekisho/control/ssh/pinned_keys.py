"""Pinned SSH host keys: a `known_hosts` file, read strictly. Nothing is ever added to it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sekisho.core.errors import Problem, SekishoError, printable

_MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PinnedKeys:
    """Host keys by name as written in the file; hashed names are matched by their HMAC."""

    where: str
    plain: Mapping[str, Mapping[str, bytes]]
    hashed: tuple[tuple[bytes, bytes, str, bytes], ...]  # salt, digest, key type, key

    def keys_of(self, name: str, address: str, port: int) -> dict[str, bytes]:
        """Return the keys pinned for a host by type, under its name or its address."""
        found: dict[str, bytes] = {}
        for label in _labels(name, address, port):
            found |= self.plain.get(label, {})
            for salt, told, kind, key in self.hashed:
                if hmac.compare_digest(hmac.digest(salt, label.encode(), "sha1"), told):
                    found[kind] = key
        return found


def _labels(name: str, address: str, port: int) -> tuple[str, ...]:
    labels = (name, address) if port == 22 else (f"[{name}]:{port}", f"[{address}]:{port}", name)
    return tuple(dict.fromkeys(label.lower() for label in labels))


def fingerprint(key: bytes) -> str:
    """Return the fingerprint of a host key as ssh-keygen writes it."""
    told = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"SHA256:{told}"


def read_pinned(path: Path) -> PinnedKeys:
    """Return the pinned keys of a `known_hosts` file.

    Raises:
        SekishoError: the file cannot be read, or a line is not in order. Markers
            (``@cert-authority``, ``@revoked``) and patterns are refused: a pin is one host's key.

    """
    try:
        with path.open("rb") as handle:
            data = handle.read(_MAX_BYTES + 1)
    except OSError as bad:
        raise SekishoError(
            "there are no pinned host keys",
            (
                Problem(
                    str(path),
                    "",
                    bad.strerror or "unreadable",
                    "a known_hosts file with the key of every host",
                    hint="--known-hosts; get the keys on the hosts' consoles, not over the network",
                ),
            ),
        ) from None
    return parse_pinned(data, str(path))


def parse_pinned(data: bytes, where: str) -> PinnedKeys:
    """Return the pinned keys in ``data``; raise `SekishoError` with every bad line."""
    reader = _Lines(where)
    if len(data) > _MAX_BYTES:
        reader.wrong(0, "", f"more than {_MAX_BYTES} bytes", "fewer")
        data = b""
    for number, raw in enumerate(data.decode("utf-8", "backslashreplace").split("\n"), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            reader.read(number, line)
    if reader.problems:
        raise SekishoError("the pinned host keys are not in order", tuple(reader.problems))
    return PinnedKeys(where=where, plain=reader.plain, hashed=tuple(reader.hashed))


class _Lines:
    """Collects keys and every problem of the file's lines."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.plain: dict[str, dict[str, bytes]] = {}
        self.hashed: list[tuple[bytes, bytes, str, bytes]] = []
        self.problems: list[Problem] = []

    def wrong(self, number: int, key: str, got: str, expected: str) -> None:
        self.problems.append(Problem(f"{self.where}:{number}", key, printable(got, 60), expected))

    def read(self, number: int, line: str) -> None:
        words = line.split()
        if len(words) < 3 or line.startswith("@"):
            self.wrong(number, "", line, "names, key type and key")
            return
        names, kind, text = words[:3]
        key = _decode(text)
        if key is None or not key.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
            self.wrong(number, "", text, f"a {printable(kind, 40)} key")
            return
        for label in names.split(","):
            self.name(number, label, kind, key)

    def name(self, number: int, label: str, kind: str, key: bytes) -> None:
        if label.startswith("|1|"):
            salt, _, told = label[3:].partition("|")
            pair = _decode(salt), _decode(told)
            if pair[0] is None or pair[1] is None:
                self.wrong(number, "", label, "a hashed name")
            else:
                self.hashed.append((pair[0], pair[1], kind, key))
        elif any(sign in label for sign in "*?!|"):
            self.wrong(number, "", label, "a name, no pattern")
        elif self.plain.setdefault(label.lower(), {}).setdefault(kind, key) != key:
            self.wrong(number, label, "a second key of one type", "one key")


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
