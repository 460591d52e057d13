"""The process that reads and judges hostile facts: a child with limits for each host. No threads.

`sekisho.control.judging.hosts` starts it with a socket as standard input. It reads the catalogue
once; then
each message brings the socket of one job, for which it forks a child. The kernel ends a child that
takes more time or memory than it may, whatever it is in the middle of.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any

from sekisho.catalogue.compiled import from_json
from sekisho.catalogue.model import Catalogue
from sekisho.catalogue.parse import parse_catalogue
from sekisho.core.canonical import canonical
from sekisho.core.strict_json import strict_json
from sekisho.evidence.report import HostRecord, NoSolverError, judge_host
from sekisho.facts.wire import Packed, Request, WireError, decode_response
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.registry import registry

#: Address space of one child: a whole answer parsed, and the solver's own.
CHILD_BYTES = 1024 * 1024 * 1024
_PARTS = struct.Struct(">Q")
_MOST_TOLD = 1 << 16


def send(connection: socket.socket, *parts: bytes) -> None:
    """Send a message of several parts, each with its length."""
    for part in parts:
        connection.sendall(_PARTS.pack(len(part)))
        connection.sendall(part)


def receive(connection: socket.socket, limit: int) -> bytes:
    """Return one part of a message; EOFError when it is cut, ValueError above ``limit``."""
    (length,) = _PARTS.unpack(_exactly(connection, _PARTS.size))
    if length > limit:
        raise ValueError(f"{length} bytes, at most {limit}")
    return _exactly(connection, length)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(min(size - len(data), 1 << 20))
        if not chunk:
            raise EOFError(f"cut after {len(data)} of {size} bytes")
        data += chunk
    return bytes(data)


@dataclass(frozen=True, slots=True)
class _Setup:
    catalogue: Catalogue
    solver: str | None


def serve(control: socket.socket) -> None:
    """Fork a child for each job until the other end is closed."""
    setup = _setup(control)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
    send(control, b"ready")
    while True:
        data, handles, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        with socket.socket(fileno=handles[0]) as job:
            if os.fork() == 0:
                control.close()
                _child(job, setup)


def _told(connection: socket.socket) -> Any:
    return strict_json(receive(connection, _MOST_TOLD), size=_MOST_TOLD)


def _setup(control: socket.socket) -> _Setup:
    told = _told(control)
    sources = from_json(receive(control, 1 << 24), "catalogue.json")
    catalogue = parse_catalogue(
        {name: load() for name, load in sources.items.items()},
        {name: load() for name, load in sources.checks.items()},
        frozenset(registry()),
    )
    if told["solver"] is not None:
        with contextlib.suppress(ImportError):
            import sekisho.prover.prove  # noqa: F401, PLC0415 - once, not for each host
    return _Setup(catalogue, told["solver"])


def _child(job: socket.socket, setup: _Setup) -> None:
    """Do one job and end; nothing raises out of it."""
    try:
        told = _told(job)
        _limit(float(told["seconds"]), int(told["bytes"]))
        policy = receive(job, 1 << 25)
        body = receive(job, 1 << 26)
        answer, packed = _answer(told, policy, body, setup)
    except NoSolverError as none:
        answer, packed = {"solver": none.message}, b""
    except MemoryError:
        answer, packed = {"over": "it takes more memory than it may"}, b""
    except Exception as bad:  # noqa: BLE001 - hostile facts end one child, and are told of
        answer, packed = {"over": f"{type(bad).__name__}: {str(bad)[:200]}"}, b""
    with contextlib.suppress(OSError):
        send(job, canonical(answer), packed)
    os._exit(0)


def _limit(seconds: float, size: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    whole = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _answer(
    told: dict[str, Any], policy: bytes, body: bytes, setup: _Setup
) -> tuple[dict[str, Any], bytes]:
    """Return what the facts hold and what they were judged to; the facts packed when they came."""
    found: dict[str, Any] = {}
    packed = Packed(body)
    try:
        if told["probes"] is not None:  # a host's whole answer
            response = decode_response(body, Request(told["nonce"], tuple(told["probes"])))
            found = {
                "collector": response.collector,
                "digest": response.digest,
                "answer": None if response.answer is None else response.answer.as_json(),
            }
            raw: Any = response.raw
            packed = Packed.of(canonical(raw))
        else:
            raw = packed.value()
    except WireError as bad:
        return {"refused": str(bad)}, b""
    host = HostRecord(told["host"], raw, HostPolicy.parse(policy) if policy else None)
    findings = judge_host(setup.catalogue, host, setup.solver)
    found["findings"] = [finding.as_json() for finding in findings]
    return found, packed.data if told["probes"] is not None else b""


def main() -> int:
    """Serve the socket that is standard input."""
    with socket.socket(fileno=os.dup(0)) as control:
        serve(control)
    return 0


if __name__ == "__main__":
    sys.exit(main())
