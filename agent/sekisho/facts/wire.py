"""What auditor and host say to each other: one request, one response. Pure.

Request: canonical JSON ``{"schema": 1, "nonce": hex, "probes": [name, …]}``, at most 64 KiB.
Response: 8 bytes ``SKP1`` + length (big-endian, of what follows), then zlib-compressed canonical
JSON ``{"schema": 1, "nonce", "collector", "digest", "raw"}`` or ``{"schema": 1, "nonce",
"error"}``. A host with a key adds ``at``, ``key`` and ``signature`` (`sekisho.facts.answer`);
an older host does not and an older auditor does not look.
Names of registered probes are the only thing a request can say: no argument reaches a command.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.core.bounds import MAX_VALUES
from sekisho.core.canonical import canonical, digest, speaks
from sekisho.core.errors import printable
from sekisho.core.strict_json import strict_json
from sekisho.facts.answer import ANSWER_KEYS, Answer, answer_from_json

SCHEMA = 1
MAGIC = b"SKP1"
HEADER_BYTES = 8
MAX_REQUEST_BYTES = 64 * 1024
#: A server's facts are 1 to 3 MiB with some 30,000 values, and pack to a fifth.
MAX_RESPONSE_BYTES = 8 * 1024 * 1024  # compressed
MAX_RAW_BYTES = 32 * 1024 * 1024  # decompressed
MAX_RATIO = 100  # decompressed bytes for each compressed one, beyond the first MiB
MAX_RAW_VALUES = 250_000
MAX_PROBES = 512
_NONCE = re.compile(r"[0-9a-f]{32,128}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")


class WireError(Exception):
    """The other side broke the protocol; the message says how."""


@dataclass(frozen=True, slots=True)
class Request:
    """What an auditor asks: which probes, and a nonce against replayed answers."""

    nonce: str
    probes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Packed:
    """Raw facts that nobody has parsed in this process: canonical JSON, compressed."""

    data: bytes

    @classmethod
    def of(cls, plain: bytes) -> Packed:
        """Return facts packed, from their canonical JSON."""
        return cls(zlib.compress(plain, 1))

    def plain(self) -> bytes:
        """Return the JSON; `WireError` when it is more than facts may be."""
        return _unpack(self.data)

    def value(self) -> dict[str, Any]:
        """Return the facts, parsed here; `WireError` for too many values or no canonical JSON."""
        plain = self.plain()
        found = _json(plain, "raw facts", MAX_RAW_VALUES)
        if canonical(found) != plain:
            raise WireError("the raw facts are not in canonical form")
        return found


def facts_digest(raw: Mapping[str, Any] | Packed) -> str:
    """Return the digest of raw facts, parsed or not; `WireError` when they are too large."""
    if isinstance(raw, Packed):
        return hashlib.sha256(raw.plain()).hexdigest()
    return digest(raw)


@dataclass(frozen=True, slots=True)
class Response:
    """What a host answered: its collector's version, and the raw facts with their digest."""

    nonce: str
    collector: str
    digest: str
    raw: Mapping[str, Any] | Packed
    answer: Answer | None = None


def encode_request(request: Request) -> bytes:
    """Return the request's bytes."""
    return canonical({"schema": SCHEMA, "nonce": request.nonce, "probes": list(request.probes)})


def decode_request(data: bytes, known: Container[str]) -> Request:
    """Return the request; raise `WireError` for anything but known probes and a nonce."""
    if len(data) > MAX_REQUEST_BYTES:
        raise WireError(f"a request of more than {MAX_REQUEST_BYTES} bytes")
    value = _json(data, "request")
    if set(value) != {"schema", "nonce", "probes"} or not speaks(value["schema"], SCHEMA):
        raise WireError("a request has exactly schema 1, nonce and probes")
    nonce, names = value["nonce"], value["probes"]
    if not isinstance(nonce, str) or not _NONCE.fullmatch(nonce):
        raise WireError("nonce must be 32 to 128 hex digits")
    if not isinstance(names, list) or not 1 <= len(names) <= MAX_PROBES:
        raise WireError(f"probes must be a list of 1 to {MAX_PROBES} names")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name not in known:
            raise WireError(f"no probe is named {printable(name, 64)}")
    if len(set(names)) != len(names):
        raise WireError("a probe is named twice")
    return Request(nonce=nonce, probes=tuple(names))


def encode_response(
    request: Request,
    collector: str,
    raw: dict[str, Any],
    answer: Callable[[str, str, str], Answer] = lambda nonce, _collector, _digest: Answer(nonce),
) -> bytes:
    """Return the response's bytes; an answer that is too large becomes an error response.

    ``answer`` signs: nonce, collector and digest of the facts go in.
    """
    whole = digest(raw)
    held = answer(request.nonce, collector, whole)
    plain = canonical(
        {
            "schema": SCHEMA,
            "nonce": request.nonce,
            "collector": collector,
            "digest": whole,
            "raw": raw,
            **(held.as_json() if held.signature is not None else {}),
        }
    )
    if len(plain) > MAX_RAW_BYTES:
        return encode_error(request.nonce, f"the facts are larger than {MAX_RAW_BYTES} bytes")
    packed = zlib.compress(plain, 6)
    if len(packed) > MAX_RESPONSE_BYTES:
        return encode_error(request.nonce, f"the answer is larger than {MAX_RESPONSE_BYTES} bytes")
    return MAGIC + struct.pack(">I", len(packed)) + packed


def encode_error(nonce: str, reason: str) -> bytes:
    """Return a response that only says why there are no facts."""
    packed = zlib.compress(canonical({"schema": SCHEMA, "nonce": nonce, "error": reason}))
    return MAGIC + struct.pack(">I", len(packed)) + packed


def body_length(header: bytes) -> int:
    """Return the length the header announces; raise `WireError` for anything else than ours."""
    if len(header) < HEADER_BYTES:
        raise WireError(f"the answer was cut after {len(header)} bytes")
    if header[:4] != MAGIC:
        raise WireError(f"the answer is not ours: it begins {printable(repr(header[:8]))}")
    (length,) = struct.unpack(">I", header[4:HEADER_BYTES])
    if not 1 <= length <= MAX_RESPONSE_BYTES:
        raise WireError(f"the host announces {length} bytes; at most {MAX_RESPONSE_BYTES}")
    return int(length)


def decode_response(body: bytes, request: Request) -> Response:
    """Return the response to ``request`` from its compressed body.

    Raises:
        WireError: not zlib, too large, too many values, garbled JSON, another nonce, other probes
            than asked, a digest that does not fit, or the host's own error.

    """
    value = _json(_unpack(body), "answer", MAX_RAW_VALUES)
    if not speaks(value.get("schema"), SCHEMA):
        raise WireError(f"the host speaks schema {printable(value.get('schema'), 40)}, not 1")
    if "error" in value:
        raise WireError(f"the host refused: {printable(value['error'], 200)}")
    if value.get("nonce") != request.nonce:
        raise WireError("the answer belongs to another request (nonce differs)")
    raw, collector = value.get("raw"), value.get("collector")
    if not isinstance(raw, dict) or not isinstance(collector, str):
        raise WireError("the answer holds no facts")
    try:
        told = digest(raw)
    except (TypeError, RecursionError) as bad:
        raise WireError(f"the facts are garbled: {printable(str(bad))}") from None
    if value.get("digest") != told:
        raise WireError("the facts do not match their digest")
    probes = raw.get("probes")
    if not isinstance(probes, dict) or set(probes) - set(request.probes):
        raise WireError("the facts are not those that were asked for")
    return Response(
        nonce=request.nonce,
        collector=printable(collector, 80),
        digest=told,
        raw=raw,
        answer=_answer(value),
    )


def _answer(value: dict[str, Any]) -> Answer:
    """Return the signature in an answer, if there is one; whether it holds is asked elsewhere."""
    try:
        return answer_from_json({key: value.get(key) for key in ANSWER_KEYS})
    except ValueError as bad:
        raise WireError(f"the host's signature is malformed: {bad}") from None


def _unpack(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    most = min(MAX_RAW_BYTES, 1024 * 1024 + MAX_RATIO * len(body))
    try:
        plain = unpacker.decompress(body, most + 1)
    except zlib.error as bad:
        raise WireError(f"the answer is garbled: {bad}") from None
    if len(plain) > most:
        raise WireError(f"the answer of {len(body)} bytes unpacks to more than {most}")
    if not unpacker.eof or unpacker.unused_data:
        raise WireError("the answer was cut or something follows it")
    return plain


def _json(data: bytes, what: str, values: int = MAX_VALUES) -> dict[str, Any]:
    try:
        value = strict_json(data, size=MAX_RAW_BYTES, values=values, surrogates=True)
    except ValueError as bad:
        raise WireError(f"the {what} is no JSON of ours: {printable(str(bad))}") from None
    if not isinstance(value, dict):
        raise WireError(f"the {what} is {type(value).__name__}, not an object")
    return value
