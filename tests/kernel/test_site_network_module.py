"""The module that brings the running network to the site's plan, on a network of its own.

Listeners are not tried here: ending somebody's service is for the lab's machines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from siteworld import ROOT, policy

pytestmark = pytest.mark.kernel

ARGV = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--uts", "--pid", "--fork")
SETUP = """
set -eu
run() { "$@" >"$HOME/said" 2>&1 || { cat "$HOME/said"; exit 9; }; }
hostname core-1
ip link set lo up
unshare --net sleep 300 &
sleep 0.2
for n in 0 1 2 3; do ip link add eth$n type veth peer name far$n netns $!; done
for n in 0 1 2 3; do nsenter --net=/proc/$!/ns/net ip link set far$n up; done
ip address add 10.77.0.13/24 dev eth0
ip address add 10.77.3.2/29 dev eth1
ip address add 10.77.4.1/29 dev eth2
ip address add 10.77.7.2/29 dev eth3
for n in 0 1 2 3; do ip link set eth$n up; done
until [ "$(ip -br link | grep -c '^eth.*UP  ')" = 4 ]; do sleep 0.1; done
nft -j -f "$RULES"
"""
BREAK = """
hostname forged
ip address add 198.51.100.7/32 dev lo
ip address add 198.51.100.9/28 dev eth1
ip link add pretended type bridge
ip link set eth0 promisc on
ip route add default via 10.77.0.250
ip route add 198.51.100.64/26 via 10.77.3.1
ip route add 198.51.100.128/25 dev eth0 table 77
ip rule add from 198.51.100.8 lookup 77 priority 77
nft add table ip forged
"""
SEEN = """
hostname; ip -br -4 address; ip route; ip rule; ip -br link; nft list tables
ip link show eth0 | head -n1
"""


def play(tmp_path: Path, script: str) -> str:
    """Run a shell script in namespaces; ``MODULE [--check]`` in it runs the module."""
    wanted = policy("core-1")
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(wanted["nftables"]), encoding="utf-8")
    tasks: list[dict[str, Any]] = [
        {"name": "Run the module", "sekisho_network": {"policy": wanted}, "register": "found"},
        {
            "name": "Keep what it said",
            "ansible.builtin.copy": {
                "content": "{{ found | to_json }}", "dest": str(tmp_path / "found"), "mode": "0600",
            },
            "check_mode": False,
        },
    ]  # fmt: skip
    book = [{"name": "Try", "hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(json.dumps(book), encoding="utf-8")
    ansible = Path(sys.executable).with_name("ansible-playbook")
    if not ansible.exists():
        pytest.skip("no ansible beside this Python")
    module = (
        f"run {ansible} -i localhost, -c local {tmp_path}/play.yml "
        f"-e ansible_python_interpreter={sys.executable}"
    )
    text = SETUP + script.replace("MODULE", module)
    (tmp_path / "ansible.cfg").touch()
    environment = {
        **os.environ,
        "RULES": str(rules),
        "ANSIBLE_LIBRARY": str(ROOT / "playbooks" / "library"),
        "ANSIBLE_MODULE_UTILS": str(ROOT / "playbooks" / "module_utils"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
        "ANSIBLE_STRATEGY": "linear",
        "ANSIBLE_CONFIG": str(tmp_path / "ansible.cfg"),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        (*ARGV, "--kill-child", "--mount-proc", "sh", "-eu", "-c", text),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def result(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "found").read_text(encoding="utf-8"))


def test_a_network_as_declared_is_left_alone(tmp_path: Path) -> None:
    play(tmp_path, "MODULE")
    assert result(tmp_path)["off"] == []
    assert result(tmp_path)["changed"] is False


@pytest.mark.slow
def test_what_is_not_declared_goes_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    text = play(tmp_path, f"{BREAK}\nMODULE\necho ==\n{SEEN}\nMODULE")
    assert result(tmp_path)["changed"] is False
    after = text.partition("==")[2]
    for gone in ("forged", "198.51.100", "pretended", "default via", "PROMISC", "lookup 77"):
        assert gone not in after, gone
    for kept in ("core-1", "10.77.0.13/24", "10.77.3.2/29", "inet sekisho"):
        assert kept in after, kept


def test_check_mode_tells_everything_and_touches_nothing(tmp_path: Path) -> None:
    before, _, after = play(
        tmp_path, f"{BREAK}\n{SEEN}\necho ==\nMODULE --check\n{SEEN}"
    ).partition("==\n")
    assert before.split() == after.split()
    said = "\n".join(result(tmp_path)["off"])
    for word in ("another name", "lo has", "eth1 has", "pretended", "listens in", "default",
                 "198.51.100.64/26", "198.51.100.128/25", "priority 77", "ip forged"):  # fmt: skip
        assert word in said, word
