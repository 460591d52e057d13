"""The lines part: until when this host's certificate and list of revocations count."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from sekisho.core.errors import SekishoError
from sekisho.core.files import read_bounded
from sekisho.host.agent.part import Common, Part
from sekisho.host.agent.reporter import Book, Paths
from sekisho.network.strongswan import CERTIFICATE, REVOKED
from sekisho.policy.host_policy import HostPolicy

UNREADABLE = 1  # long over: the alert fires
_LIMIT = 16 * 1024 * 1024


class LinesPart(Part):
    """Reads both files again when they changed, and shows their ends."""

    NAME = "lines"
    EVERY_S = 60.0

    def __init__(self, book: Book, paths: Paths) -> None:
        self._book = book
        self._files = {
            f"sekisho_line_{name}_until_timestamp_seconds": paths.root / path.lstrip("/")
            for name, path in (("certificate", CERTIFICATE), ("revocations", REVOKED))
        }
        self._wanted = False
        self._held: dict[str, tuple[tuple[int, int], int]] = {}

    @classmethod
    def of(cls, common: Common) -> Self:
        """Make it for a host."""
        return cls(common.book, common.paths)

    def policy(self, policy: HostPolicy) -> None:
        """Take a new policy: whether this host has an encrypted line."""
        self._wanted = bool(policy.lines)
        self.look()

    def look(self) -> None:
        """Look once."""
        for metric, path in self._files.items():
            self._book.metrics.set(metric, self._until(metric, path) if self._wanted else 0)
        self._book.up("lines", works=True)

    def _until(self, metric: str, path: Path) -> int:
        try:
            info = path.stat()
            stamp = (info.st_mtime_ns, info.st_ino)
            if self._held.get(metric, (None, 0))[0] != stamp:
                self._held[metric] = (stamp, _end(read_bounded(path, _LIMIT)))
        except (OSError, ValueError, SekishoError):
            self._held.pop(metric, None)
            return UNREADABLE
        return self._held[metric][1]


def _end(pem: bytes) -> int:
    """Return the Unix time at which a certificate, or a list of revocations, ends; ValueError."""
    from cryptography import x509  # noqa: PLC0415 - slow to import

    if b"BEGIN X509 CRL" in pem:
        listed = x509.load_pem_x509_crl(pem)
        end = getattr(listed, "next_update_utc", None) or getattr(listed, "next_update", None)
    else:
        held = x509.load_pem_x509_certificate(pem)
        end = getattr(held, "not_valid_after_utc", None) or held.not_valid_after
    if not isinstance(end, datetime):
        raise ValueError("without an end")  # noqa: TRY004 - of the file, not of a caller
    return int((end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp())
