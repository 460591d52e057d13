"""The probe service: one request on a socket, one answer, then gone.

systemd accepts the connection on `/run/sekisho-probe/socket` (group sekisho-auditor) and starts one
sandboxed instance per connection with the socket as standard input (`sekisho-probe@.service`).
What a client can say is the name of registered probes and a nonce; nothing else is read, no
argument reaches a command and nothing is written anywhere. The answer is signed with the host's key
where there is one.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

from sekisho.core.build import tool_name
from sekisho.facts.wire import (
    MAX_REQUEST_BYTES,
    WireError,
    decode_request,
    encode_error,
    encode_response,
)
from sekisho.local.collect import collect
from sekisho.local.facts_key import answer_for
from sekisho.probes.registry import registry

#: A client has this long to say what it wants; the unit's RuntimeMaxSec bounds the rest.
REQUEST_SECONDS = 10.0


def serve(connection: socket.socket) -> int:
    """Answer one connection; return 0 when it was answered with facts, 1 when refused."""
    peer = _peer(connection)
    known = registry()
    try:
        request = decode_request(_read_request(connection), known)
    except (WireError, OSError) as refused:
        _log(f"refused uid {peer}: {refused}")
        _send(connection, encode_error("", str(refused)))
        return 1
    raw = collect(known[name] for name in request.probes)
    answered = _send(connection, encode_response(request, tool_name(), raw, answer_for))
    _log(
        f"uid {peer} read {len(request.probes)} probes in {raw['milliseconds']} ms"
        + ("" if answered else " and went away")
    )
    return 0


def _read_request(connection: socket.socket) -> bytes:
    """Return what the client says until it shuts its writing half; bounded in time and size."""
    until = time.monotonic() + REQUEST_SECONDS
    data = bytearray()
    while True:
        left = until - time.monotonic()
        if left <= 0:
            raise WireError(f"no whole request within {REQUEST_SECONDS:.0f} s")
        connection.settimeout(left)
        try:
            chunk = connection.recv(MAX_REQUEST_BYTES + 1 - len(data))
        except TimeoutError:
            continue
        if not chunk:
            return bytes(data)
        data += chunk
        if len(data) > MAX_REQUEST_BYTES:
            raise WireError(f"a request of more than {MAX_REQUEST_BYTES} bytes")


def _send(connection: socket.socket, data: bytes) -> bool:
    connection.settimeout(60)
    try:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return False
    return True


def _peer(connection: socket.socket) -> int:
    size = struct.calcsize("3i")
    try:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    except OSError:
        return -1
    return int(struct.unpack("3i", told)[1])


def _log(text: str) -> None:
    sys.stderr.write(f"sekisho-probe: {text}\n")


def main() -> int:
    """Serve the connection that systemd passed as standard input."""
    os.umask(0o077)
    with socket.socket(fileno=os.dup(0)) as connection:
        return serve(connection)


if __name__ == "__main__":
    sys.exit(main())
