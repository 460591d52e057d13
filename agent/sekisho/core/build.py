"""Which build of Sekisho this is: its version and the digest of its own source.

Standard library only. The digest tells two builds apart that bear the same version; it does not
prove anything about a machine that lies about its own.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from sekisho import __version__

PACKAGE = Path(__file__).resolve().parent.parent
#: Hex digits of the digest that are shown: 128 bits.
SHOWN = 32


@functools.cache
def tool_name(package: Path = PACKAGE) -> str:
    """Return ``sekisho VERSION sha256:DIGEST``, the digest over every module of the package."""
    whole = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        whole.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"sekisho {__version__} sha256:{whole.hexdigest()[:SHOWN]}"
