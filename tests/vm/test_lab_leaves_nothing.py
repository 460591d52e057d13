"""However the lab ends, this machine is as it was: its own network, mounts, rules, processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORK = (
    "<network><name>probe</name><bridge name='probe0'/>"
    "<ip address='10.99.0.1' netmask='255.255.255.0'><dhcp>"
    "<range start='10.99.0.10' end='10.99.0.20'/></dhcp></ip></network>"
)
START = f"""
import sys
sys.path.insert(0, {str(ROOT / "vagrant")!r})
from pathlib import Path
from labkit import holder
root = Path(sys.argv[1])
holder.start(root)
(root / "network.xml").write_text({NETWORK!r})
holder.virsh("net-create", str(root / "network.xml"))
print(Path(holder.PID_FILE).read_text().strip(), holder.holder_pid())
"""
STOP = f"""
import sys
sys.path.insert(0, {str(ROOT / "vagrant")!r})
from labkit import holder
print(holder.stop())
"""


def say(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def of_this_lab(state: Path) -> list[str]:
    """Processes that name this test's state directory or live in another network namespace."""
    ours = os.readlink("/proc/self/ns/net")
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                net = os.readlink(entry / "ns" / "net")
            except OSError:
                continue
            if str(state) in line or (net != ours and "probe" in line):
                found.append(line)
    return found


def machine(state: Path) -> dict[str, object]:
    return {
        "links": say("ip", "-o", "link", "show"),
        "namespaces": say("ip", "netns", "list"),
        "mounts": Path("/proc/self/mounts").read_text(),
        "rules": say("nft", "list", "ruleset"),
        "routes": say("ip", "route"),
        "run": sorted(p.name for p in Path("/run").iterdir()),
        "processes": of_this_lab(state),
    }


@pytest.mark.parametrize("end", ["stopped", "outer killed", "holder killed", "libvirtd killed"])
def test_the_end_of_the_lab_leaves_nothing_behind(tmp_path: Path, end: str) -> None:
    if os.geteuid() != 0:
        pytest.fail("the lab needs root")
    env = os.environ | {"SEKISHO_LAB_STATE": str(tmp_path)}
    before = machine(tmp_path)
    assert before["processes"] == []
    started = subprocess.run(
        [sys.executable, "-c", START, str(tmp_path / "lab-test")],
        capture_output=True,
        text=True,
        env=env,
        check=False,
    )
    assert started.returncode == 0, started.stderr
    outer, inner = map(int, started.stdout.split())
    inside = ["nsenter", "--target", str(inner), "--net", "--mount", "--pid"]
    assert "probe0" in say(*inside, "ip", "-o", "link", "show")
    assert machine(tmp_path)["links"] == before["links"]
    assert of_this_lab(tmp_path) != []
    if end == "stopped":
        subprocess.run([sys.executable, "-c", STOP], env=env, check=True)
    elif end == "outer killed":
        os.kill(outer, signal.SIGKILL)
    elif end == "holder killed":
        os.kill(inner, signal.SIGKILL)
    else:
        pid = say(*inside, "cat", "/run/libvirt/libvirtd.pid").strip()
        subprocess.run([*inside, "kill", "-9", pid], check=False)  # it may end with them
    deadline = time.monotonic() + 20
    while of_this_lab(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.3)
    assert machine(tmp_path) == before
