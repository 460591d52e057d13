"""How many records a second the journal takes and verifies. Run by hand; prints medians.

    .venv/bin/python tests/bench/bench_journal.py [DIRECTORY]

The directory should lie on the disk the journal would use (default: the current one).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "agent"))

from cryptography.hazmat.primitives.asymmetric import ec

from sekisho.host.journal.options import Options
from sekisho.host.journal.store import JournalWriter
from sekisho.journal.verification import verify
from sekisho.local.journal_files import segments

RUNS = 5
EVENT = {
    "who": "aoki", "session": 41, "terminal": "pts/0", "auid": 2001, "uid": 0,
    "exe": "/usr/bin/apt", "argv": ["apt", "install", "nftables"], "cwd": "/root", "ok": True,
}  # fmt: skip


def write(place: Path, count: int, *, durable: bool, threads: int = 1) -> float:
    """Return records a second until the last one is on the disk."""
    key = ec.generate_private_key(ec.SECP384R1())
    writer = JournalWriter.open(place, "bench", "b", key, options=Options())

    def run() -> None:
        for _ in range(count // threads):
            writer.append("audit.exec", EVENT, durable=durable)

    workers = [threading.Thread(target=run) for _ in range(threads)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    writer.flush()
    rate = count / (time.perf_counter() - begin)
    writer.close()
    report_begin = time.perf_counter()
    report = verify(segments(place), key.public_key(), (place / "head.json").read_bytes())
    assert report.exit_code == 0, report.findings
    VERIFIED.append(report.records / (time.perf_counter() - report_begin))
    again = time.perf_counter()
    JournalWriter.open(place, "bench", "b", key).close()
    REOPENED.append(time.perf_counter() - again)
    return rate


VERIFIED: list[float] = []
REOPENED: list[float] = []


def main() -> None:
    """Print one line per way of writing."""
    base = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
    for name, count, durable, threads in (
        ("group commit, window 50 ms", 100_000, False, 1),
        ("durable, one thread", 1_000, True, 1),
        ("durable, 16 threads", 4_000, True, 16),
    ):
        rates = []
        VERIFIED.clear()
        for _ in range(RUNS):
            with tempfile.TemporaryDirectory(dir=base) as place:
                rates.append(write(Path(place), count, durable=durable, threads=threads))
        low, high = min(rates), max(rates)
        print(f"{name:30} {statistics.median(rates):10,.0f} records/s ({low:,.0f} to {high:,.0f})")  # noqa: T201 - its output
        if not durable:
            print(f"{'verify':30} {statistics.median(VERIFIED):10,.0f} records/s")  # noqa: T201 - same
            print(f"{'reopen after a stop':30} {statistics.median(REOPENED):10.3f} s")  # noqa: T201 - same


if __name__ == "__main__":
    main()
