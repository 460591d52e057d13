"""The one-way hop against scp: the same 1 GiB file between two network namespaces.

    .venv/bin/python tests/bench/bench_hop.py [--runs 5] [--mib 1024] [--dir /dev/shm]

Ours verifies both ends and syncs to the disk before it is done; scp does neither. In memory
(/dev/shm) the network and the programs are measured, on a disk mostly the disk. Runs alternate.
Needs root (sshd), sshd and scp; leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/kernel"))

from transfer_nets import LEFT, PORT, RIGHT, Nets, nets  # noqa: E402 - a module beside the tests

MIB = 1024 * 1024
SSH_ALSO = """
add rule inet sekisho output ip saddr 10.9.0.2 ip daddr 10.9.0.1 tcp sport 22 accept
"""


def make_file(path: Path, mib: int) -> None:
    """Write random bytes."""
    with path.open("wb") as stream:
        for _ in range(mib):
            stream.write(os.urandom(MIB))


def start_sshd(both: Nets, place: Path) -> subprocess.Popen[bytes]:
    """Start sshd in the right namespace, with keys of this run only."""
    Path("/run/sshd").mkdir(exist_ok=True)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
        subprocess.run(words, check=True)
    shutil.copy(place / "user.pub", place / "authorized")
    options = {
        "AuthorizedKeysFile": place / "authorized",
        "StrictModes": "no",
        "PermitRootLogin": "yes",
        "ListenAddress": RIGHT,
        "UsePAM": "no",
        "PidFile": "none",
        "Subsystem": "sftp internal-sftp",
    }
    words = ["/usr/sbin/sshd", "-D", "-f", "/dev/null", "-h", str(place / "host")]
    for key, value in options.items():
        words += ["-o", f"{key}={value}"]
    # Without the user namespace: sshd drops privileges to users that are not mapped there.
    inside = ["nsenter", "-t", str(both.right), "-n"]
    return subprocess.Popen([*inside, *words], stderr=subprocess.DEVNULL)


def scp(both: Nets, place: Path, cipher: str) -> float:
    """Copy with scp; return seconds."""
    target = place / "scp-out"
    target.unlink(missing_ok=True)
    words = ["nsenter", "-t", str(both.left), "-n", "scp", "-q", "-i", str(place / "user")]
    for option in ("StrictHostKeyChecking=no", f"UserKnownHostsFile={place / 'known'}"):
        words += ["-o", option]
    if cipher:
        words += ["-c", cipher]
    begin = time.perf_counter()
    subprocess.run([*words, str(place / "src/data.bin"), f"root@{RIGHT}:{target}"], check=True)
    return time.perf_counter() - begin


def ours(both: Nets, place: Path) -> float:
    """Send with sekisho, hashing at both ends and synced to the disk; return seconds."""
    store = place / "store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(place / "state", ignore_errors=True)
    base = [sys.executable, "-m", "sekisho.cli.main"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
    words = ["receive", "--listen", RIGHT, "--port", str(PORT), "--store", str(store)]
    words += ["--peer", LEFT, "--no-journal", "--once"]
    log = (place / "receive.log").open("wb")
    receiver = both.start("right", [*base, *words], env=environment, stderr=log)
    try:
        while b"listening" not in (place / "receive.log").read_bytes():
            time.sleep(0.05)
        words = ["send", str(place / "src"), "--to", "right", "--address", RIGHT]
        words += ["--port", str(PORT), "--from", "left", "--state", str(place / "state"), "--json"]
        begin = time.perf_counter()
        subprocess.run(
            both.command("left", [*base, *words]),
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
        seconds = time.perf_counter() - begin
        receiver.wait(timeout=30)
    finally:
        receiver.kill()
        receiver.wait()
        log.close()
    return seconds


def main() -> None:
    """Run all alternately and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--dir", type=Path, default=Path("/dev/shm"))
    options = parser.parse_args()
    times: dict[str, list[float]] = {"scp": [], "scp aes128-gcm": [], "sekisho": []}
    with tempfile.TemporaryDirectory(dir=options.dir) as name, nets() as both:
        place = Path(name)
        place.chmod(0o755)
        (place / "src").mkdir()
        make_file(place / "src/data.bin", options.mib)
        both.run("right", ["nft", "-f", "-"], text=SSH_ALSO.replace("add rule", "insert rule"))
        sshd = start_sshd(both, place)
        try:
            time.sleep(0.5)
            for _ in range(options.runs):
                times["scp"].append(scp(both, place, ""))
                times["scp aes128-gcm"].append(scp(both, place, "aes128-gcm@openssh.com"))
                (place / "scp-out").unlink()
                times["sekisho"].append(ours(both, place))
        finally:
            sshd.kill()
            sshd.wait()
    mine = statistics.median(times["sekisho"])
    where = f"in {options.dir}, {options.runs} runs each"
    sys.stdout.write(f"{options.mib} MiB between two namespaces, {where}\n")
    for key, values in times.items():
        middle = statistics.median(values)
        rate = options.mib * MIB / middle / 1e6
        spread = f"{min(values):.2f} to {max(values):.2f}"
        line = f"{key:16} {middle:6.2f} s ({spread})  {rate:6.0f} MB/s"
        sys.stdout.write(f"{line}  {middle / mine:5.2f} of ours\n")


if __name__ == "__main__":
    main()
