"""Handing an event to the host's journal over the agent's unix socket."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.journal.intake import MAX_ANSWER, parse_answer, submission

SOCKET = Path("/run/sekisho/journal.sock")


def submit(kind: str, data: dict[str, Any], timeout: float = 10.0, *, path: Path = SOCKET) -> int:
    """Have the event kept by the host's journal and return its record number.

    Raises:
        SekishoError: the event is malformed, nobody answers within ``timeout`` seconds, or the
            journal refuses. The event is then not known to be kept.

    """
    message = submission(kind, data)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            # Not settimeout: a connect that may not block fails at once while others wait, too.
            limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6) + 1)  # struct timeval
            for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
                link.setsockopt(socket.SOL_SOCKET, option, limit)
            link.connect(str(path))
            link.sendall(message)
            answer = link.recv(MAX_ANSWER + 1)
    except OSError as error:
        problem = Problem(
            str(path), kind, printable(str(error)), "an answer", hint="is sekisho-agent running?"
        )
        raise SekishoError("the journal does not answer", (problem,)) from error
    return parse_answer(answer)
