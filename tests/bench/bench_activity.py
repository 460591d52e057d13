"""Audit log to journal entries: our whole way against laurel's parsing alone, same log, same run.

    .venv/bin/python tests/bench/bench_activity.py [--events N] [--laurel PATH] [--log FILE]

laurel (Debian package) reads the log on its standard input and writes JSON; it neither detects nor
chains. Ours parses, joins, names, detects, and chains every entry with SHA-256. Seconds are CPU
seconds (user and system), so that a busy machine does not tilt the ratio; best of three.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "agent"))

from sekisho.activity.join import Joiner
from sekisho.activity.pipeline import Activity
from sekisho.journal.records import encode_data

MS = 1_795_315_000_000


def synthetic(events: int) -> bytes:
    """Return a log of commands as auditd writes it on Debian 13 (RAW): six records each."""
    out = []
    for serial in range(1, events + 1):
        ms = MS + serial
        head = f"msg=audit({ms // 1000}.{ms % 1000:03d}:{serial}):"
        out.append(
            f"type=SYSCALL {head} arch=c000003e syscall=59 success=yes exit=0 a0=5585f9ee8a30 "
            f"a1=5585f9f10ef0 a2=5585f9ee9b60 a3=0 items=2 ppid=1200 pid={1000 + serial % 30000} "
            "auid=2001 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=pts1 ses=6 "
            'comm="grep" exe="/usr/bin/grep" subj=unconfined key="sekisho-exec"\n'
            f'type=EXECVE {head} argc=4 a0="grep" a1="-r" a2=6120776F7264 a3="/var/log/{serial}"\n'
            f'type=CWD {head} cwd="/home/aoki"\n'
            f'type=PATH {head} item=0 name="/usr/bin/grep" inode=2512 dev=fe:00 mode=0100755 '
            "ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 "
            "cap_frootid=0\n"
            f'type=PATH {head} item=1 name="/lib64/ld-linux-x86-64.so.2" inode=11186 dev=fe:00 '
            "mode=0100755 ouid=0 ogid=0 rdev=00:00 nametype=NORMAL cap_fp=0 cap_fi=0 cap_fe=0 "
            "cap_fver=0 cap_frootid=0\n"
            f"type=PROCTITLE {head} proctitle=67726570002D72006120776F7264002F7661722F6C6F67\n"
        )
    return "".join(out).encode()


def with_ends(log: bytes) -> bytes:
    """Return the log with the closing records that the kernel sends and auditd leaves out."""
    lines = []
    for line in log.splitlines(keepends=True):
        lines.append(line)
        if line.startswith(b"type=PROCTITLE"):
            lines.append(b"type=EOE " + line.split(b" ", 2)[1] + b" \n")
    return b"".join(lines)


def whole_way(log: bytes) -> int:
    """Parse, join, name, detect, chain; return the number of entries."""
    activity = Activity(people={2001: "aoki"}, administrators={"aoki"})
    chain, count = b"", 0
    lines = log.splitlines(keepends=True)
    for start in range(0, len(lines), 4000):
        for entry in activity.feed(lines[start : start + 4000]):
            chain = hashlib.sha256(chain + encode_data(entry.data)).digest()
            count += 1
    return count + len(activity.flush())


def parse_only(log: bytes) -> int:
    """Parse and join, which is what laurel does; return the number of events."""
    joiner = Joiner()
    return sum(1 for _ in joiner.feed(log.splitlines(keepends=True)))


def laurel(program: str, log: Path, folder: Path) -> float:
    """Return the seconds laurel takes for the log on its standard input."""
    config = folder / "laurel.toml"
    config.write_text(
        f'directory = "{folder}/out"\nstatusreport-period = 0\ninput = "stdin"\n'
        '[auditlog]\nfile = "audit.log"\nsize = 1000000000\ngenerations = 1\n'
        '[transform]\nexecve-argv = [ "array" ]\n'
        "[translate]\nuniversal = false\nuser-db = false\n"
        "[enrich]\nexecve-env = [ ]\ncontainer = false\npid = false\n"
    )
    with log.open("rb") as lines:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [program, "--config", str(config)], stdin=lines, check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    written = sum(path.stat().st_size for path in (folder / "out").glob("audit.log*"))
    if written < log.stat().st_size // 10:
        raise SystemExit(f"laurel wrote {written} bytes only: it did not do the work")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def best(work: Callable[[], object]) -> float:
    """Return the shortest of three runs, in seconds."""
    times = []
    for _ in range(3):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def main() -> int:
    """Print events a second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--laurel", default=shutil.which("laurel") or "/usr/sbin/laurel")
    parser.add_argument("--log", type=Path, help="a recorded log instead of a made one")
    options = parser.parse_args()
    log = options.log.read_bytes() if options.log else synthetic(options.events)
    events = parse_only(log)
    records = log.count(b"\n")
    _say(f"log: {events} events, {records} records, {len(log) / 1e6:.1f} MB")
    figures = {
        "sekisho parse + join + name + detect + chain": events / best(lambda: whole_way(log)),
        "sekisho parse + join": events / best(lambda: parse_only(log)),
    }
    if os.access(options.laurel, os.X_OK):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            source = folder / "log"
            source.write_bytes(with_ends(log))
            figures["laurel parse (JSON out)"] = events / min(
                laurel(options.laurel, source, folder) for _ in range(3)
            )
    else:
        _say(f"laurel is not at {options.laurel}: no comparison")
    for name_, figure in figures.items():
        _say(f"{figure:12,.0f} events/s  {name_}")
    rival = figures.get("laurel parse (JSON out)")
    if rival is not None:
        whole = figures["sekisho parse + join + name + detect + chain"]
        _say(f"ratio, whole way to laurel's parsing alone: {whole / rival:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
