"""Fetch raw facts from hosts over SSH: pinned host keys only, one round trip per host.

The other end is not trusted: it may be slow, garble, cut, flood or announce nonsense. Every host
has one deadline; what it may send is counted from the first byte of its banner on; a key that is
not the pinned one stops that host. Its answer is parsed and judged in a process of its own, inside
the same deadline (`sekisho.control.judging.hosts`). Nothing a host does stops another host or
becomes a fact.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sekisho.control.judging.hosts import Reader, read_here
from sekisho.control.ssh.pinned_keys import PinnedKeys, fingerprint
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.evidence.report import OverBudgetError
from sekisho.facts.answer import host_nonce
from sekisho.facts.wire import (
    HEADER_BYTES,
    MAX_RESPONSE_BYTES,
    Request,
    Response,
    WireError,
    body_length,
    encode_request,
)

if TYPE_CHECKING:
    import paramiko

#: What the client asks for; the forced command answers to nothing else.
WISH = "sekisho-probe 1"
_MAX_BANNER_BYTES = 32 * 1024
_MAX_WIRE_BYTES = MAX_RESPONSE_BYTES + 2 * 1024 * 1024
_MAX_STDERR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Target:
    """One host to ask: its name in the site and where it listens."""

    name: str
    address: str
    port: int = 22


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one host: a response, or the reason why there is none."""

    target: Target
    response: Response | None
    reason: str | None
    fingerprint: str | None
    milliseconds: int


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in: account, private key, pinned host keys, seconds a host may take.

    ``nonce`` is this audit's own; each host is asked with one derived from it.
    """

    user: str
    key: paramiko.PKey
    pinned: PinnedKeys
    timeout: float
    nonce: str = field(default_factory=lambda: secrets.token_hex(32))


def load_key(path: Path) -> paramiko.PKey:
    """Return the auditor's private key; a missing, encrypted or odd one is a `SekishoError`."""
    import paramiko  # noqa: PLC0415 - only an audit over SSH needs it

    try:
        return paramiko.PKey.from_path(path)
    except FileNotFoundError:
        got = "no such file"
    except paramiko.PasswordRequiredException:
        got = "a key locked with a passphrase"
    except (OSError, ValueError, TypeError, paramiko.SSHException) as bad:
        got = printable(str(bad))
    except Exception as bad:  # noqa: BLE001 - from_path also raises cryptography's own errors
        got = printable(f"{type(bad).__name__}: {bad}")
    raise SekishoError(
        "the auditor's key cannot be used",
        (Problem(str(path), "", got, "an unlocked private key (ed25519 or ECDSA)", hint="--key"),),
    )


def audit_hosts(  # noqa: PLR0913 - by name beyond the third
    targets: Iterable[Target],
    probes: tuple[str, ...],
    access: Access,
    *,
    jobs: int = 16,
    done: Callable[[Reply], None] = lambda _reply: None,
    read: Reader = read_here,
) -> list[Reply]:
    """Ask every target for ``probes``, side by side; return one reply each, in the given order.

    Args:
        targets: the hosts.
        probes: names of the probes.
        access: account, key, pinned host keys and the time one host may take.
        jobs: hosts asked at once.
        done: called once per host as it finishes (from this thread).
        read: parses, and judges, one host's answer; an audit's does it in a process with limits.

    """
    _quiet_paramiko()
    chosen = list(targets)
    replies: dict[str, Reply] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(jobs, len(chosen) or 1))) as pool:
        running = {pool.submit(ask, target, probes, access, read): target for target in chosen}
        for future in as_completed(running):
            reply = future.result()
            replies[reply.target.name] = reply
            done(reply)
    return [replies[target.name] for target in chosen]


def ask(target: Target, probes: tuple[str, ...], access: Access, read: Reader = read_here) -> Reply:
    """Ask one host; never raises: what goes wrong is the reply's reason."""
    started = time.monotonic()
    seen: list[str] = []
    response: Response | None = None
    reason: str | None = None
    try:
        body, request, left = _ask(target, probes, access, seen)
        response = read(body, request, target.name, left)
    except (WireError, OverBudgetError, _HostError) as known:
        reason = str(known)
    except Exception as unknown:  # noqa: BLE001 - a hostile host must not stop the others
        reason = f"{type(unknown).__name__}: {printable(str(unknown), 200)}"
    return Reply(
        target=target,
        response=response,
        reason=reason,
        fingerprint=seen[0] if seen else None,
        milliseconds=int((time.monotonic() - started) * 1000),
    )


class _HostError(Exception):
    """Why a host gave no facts, in words for the auditor."""


class _CountedSocket:
    """A socket that gives no more than it may: the banner's and the whole connection's bytes."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._seen = 0
        self._head = b""
        self._greeted = False

    def recv(self, size: int) -> bytes:
        data = self._inner.recv(size)
        self._seen += len(data)
        if not self._greeted:
            # The banner's line may begin in one piece and end in another: keep the tail.
            self._head = (self._head + data)[-4096:]
            self._greeted = b"\nSSH-" in b"\n" + self._head or self._head.startswith(b"SSH-")
            if not self._greeted and self._seen > _MAX_BANNER_BYTES:
                raise ConnectionError("no SSH banner within the first 32 KiB")
        if self._seen > _MAX_WIRE_BYTES:
            raise ConnectionError(f"more than {_MAX_WIRE_BYTES} bytes")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Deadline:
    """One clock per host: when it runs out the connection is closed under whoever waits."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.until = time.monotonic() + seconds
        self.expired = False
        self._closers: list[Callable[[], None]] = []
        self._timer = threading.Timer(seconds, self._expire)
        self._timer.daemon = True
        self._timer.start()

    def left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise _HostError(f"no whole answer within {self.seconds:g} s")
        return left

    def closes(self, closer: Callable[[], None]) -> None:
        self._closers.append(closer)

    def _expire(self) -> None:
        self.expired = True
        self.close()

    def close(self) -> None:
        self._timer.cancel()
        for closer in reversed(self._closers):
            try:
                closer()
            except Exception:  # noqa: BLE001, S112 - closing is all there is left to do
                continue


def _ask(
    target: Target, probes: tuple[str, ...], access: Access, seen: list[str]
) -> tuple[bytes, Request, float]:
    """Return the answer's body, what was asked, and the seconds this host has left."""
    names = access.pinned.keys_of(target.name, target.address, target.port)
    if not names:
        raise _HostError(
            f"no host key is pinned for {target.name} ({target.address}) in {access.pinned.where}"
        )
    deadline = _Deadline(access.timeout)
    try:
        return *_converse(target, probes, access, seen, deadline), deadline.left()
    except (WireError, _HostError):
        if deadline.expired:
            raise _HostError(f"no whole answer within {deadline.seconds:g} s") from None
        raise
    except Exception as bad:  # noqa: BLE001 - whatever a hostile host provokes is its reason
        # Every wait ends with the deadline, so any time-out is the deadline's.
        if deadline.expired or isinstance(bad, TimeoutError):
            raise _HostError(f"no whole answer within {deadline.seconds:g} s") from None
        raise _HostError(_explain(bad)) from None
    finally:
        deadline.close()


def _converse(
    target: Target,
    probes: tuple[str, ...],
    access: Access,
    seen: list[str],
    deadline: _Deadline,
) -> tuple[bytes, Request]:
    import paramiko  # noqa: PLC0415

    # 1. Connect; every later wait ends with the deadline.
    try:
        raw = socket.create_connection((target.address, target.port), timeout=deadline.left())
    except TimeoutError:
        raise _HostError(f"no connection within {deadline.seconds:g} s") from None
    except OSError as bad:
        raise _HostError(f"cannot connect to {target.address}: {bad.strerror or bad}") from None
    deadline.closes(raw.close)
    counted: Any = _CountedSocket(raw)
    transport = paramiko.Transport(counted, disabled_algorithms=None)
    deadline.closes(transport.close)
    transport.banner_timeout = transport.auth_timeout = deadline.left()
    # 2. Ask only for key types that are pinned, then compare the key before saying anything else.
    pinned = access.pinned.keys_of(target.name, target.address, target.port)
    kinds = tuple(
        kind for kind in transport.get_security_options().key_types if kind_of(kind) in pinned
    )
    if not kinds:
        raise _HostError(
            f"only key types that this client does not speak are pinned: {set(pinned)}"
        )
    transport.get_security_options().key_types = kinds
    transport.start_client(timeout=deadline.left())
    offered = transport.get_remote_server_key()
    seen.append(fingerprint(offered.asbytes()))
    if pinned.get(offered.get_name()) != offered.asbytes():
        raise _HostError(
            f"the host key is not the pinned one: it shows {seen[0]}; "
            f"pinned in {access.pinned.where} is "
            + ", ".join(fingerprint(key) for key in pinned.values())
        )
    # 3. Log in with this one key; no agent, no other key, no password.
    transport.auth_publickey(access.user, access.key)
    # 4. One request, one answer.
    request = Request(nonce=host_nonce(access.nonce, target.name), probes=probes)
    channel = transport.open_session(timeout=deadline.left())
    channel.settimeout(deadline.left())
    channel.exec_command(WISH)
    channel.sendall(encode_request(request))
    channel.shutdown_write()
    header = _read(channel, HEADER_BYTES, deadline)
    if len(header) < HEADER_BYTES:
        raise _HostError(_nothing(channel, header))
    length = body_length(header)
    body = _read(channel, length, deadline)
    if len(body) < length:
        raise WireError(f"the answer was cut: {len(body)} of {length} bytes")
    if _read(channel, 1, deadline):
        raise WireError("something follows the answer")
    return body, request


def kind_of(algorithm: str) -> str:
    """Return the key type of a host key algorithm (RSA keys sign with SHA-2 names)."""
    return "ssh-rsa" if algorithm.startswith("rsa-sha2-") else algorithm


def _read(channel: paramiko.Channel, size: int, deadline: _Deadline) -> bytes:
    data = bytearray()
    while len(data) < size:
        channel.settimeout(deadline.left())
        chunk = channel.recv(min(65536, size - len(data)))
        if not chunk:
            break
        data += chunk
    return bytes(data)


def _nothing(channel: paramiko.Channel, header: bytes) -> str:
    said = b""
    if channel.recv_stderr_ready():
        said = channel.recv_stderr(_MAX_STDERR_BYTES)
    told = printable(said.decode("utf-8", "backslashreplace").strip(), 200)
    return f"the answer was cut after {len(header)} bytes" + (f"; it said: {told}" if told else "")


def _explain(bad: Exception) -> str:
    import paramiko  # noqa: PLC0415

    match bad:
        case paramiko.AuthenticationException():
            return "the host does not accept the auditor's key"
        case paramiko.ssh_exception.IncompatiblePeer():
            return f"no common algorithm, or no pinned key type: {printable(str(bad), 200)}"
        case EOFError():
            return "the host closed the connection"
        case _:
            return f"{type(bad).__name__}: {printable(str(bad), 200) or 'no reason given'}"


def _quiet_paramiko() -> None:
    # Paramiko logs a hostile banner's traceback to the terminal; the reason is in the reply.
    logger = logging.getLogger("paramiko")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
