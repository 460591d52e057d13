"""The host's signature over facts it gives: made with the key that seals its journal.

The auditor's request decides nothing of what is signed but the nonce; the statement has a form of
its own, so that no seal, head, order or certificate can be had this way (docs/adr/0009).
"""

from __future__ import annotations

import time
from pathlib import Path

from sekisho.core.errors import SekishoError
from sekisho.facts.answer import Answer, sign_answer
from sekisho.local.journal_files import read_private_key

HOST_KEY = Path("/etc/sekisho/host.key.pem")


def answer_for(nonce: str, collector: str, digest: str, *, key: Path = HOST_KEY) -> Answer:
    """Return the answer for facts with ``digest``; not signed where no host key can be read.

    A host that is not enrolled, and ``audit --local`` of a person who is not root, have none.
    """
    try:
        key.lstat()  # before OpenSSL is loaded for nothing
        private = read_private_key(key)
    except (OSError, SekishoError, ImportError):
        return Answer(nonce)
    return sign_answer(private, nonce, time.time_ns() // 1_000_000, collector, digest)
