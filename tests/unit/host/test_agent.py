"""The whole daemon, as a process in a network namespace of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentworld import Authority, Host, private_pem, rules
from sekisho.core.errors import SekishoError
from sekisho.host.agent.parts.network import CHECK as NETWORK
from sekisho.host.agent.parts.rules import DRIFT
from sekisho.host.journal.client import submit

pytestmark = pytest.mark.kernel

PYTHON = "/usr/bin/python3"  # Debian's own, with Debian's own packages: as on the servers


class Daemon:
    """An agent below a folder, in namespaces of its own."""

    def __init__(self, root: Path, repository: Path) -> None:
        self.root, self.repository = root, repository
        self.host = Host(root)
        authority, key = Authority(), ec.generate_private_key(ec.SECP384R1())
        etc = self.host.paths.etc
        (etc / "host.key.pem").write_bytes(private_pem(key))
        (etc / "ca.crt.pem").write_bytes(authority.certificate("ca"))
        (etc / "host.crt.pem").write_bytes(authority.certificate("core-1", key, "127.0.0.1"))
        self.host.write_policy()
        self.host.write_rules()
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        agent = [
            *(PYTHON, "-m", "sekisho.host.agent.main", "--host", "core-1"),
            *("--policy", str(self.host.paths.etc / "policy.json"), "--root", str(self.root)),
        ]
        self.process = subprocess.Popen(
            ["unshare", "-rn", "--", *agent],
            env={"PYTHONPATH": str(self.repository / "agent"), "PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE,
            text=True,
        )
        state = self.root / "run/sekisho/agent.json"
        state.unlink(missing_ok=True)
        self.wait(state.exists)

    def wait(self, done: Any, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process is not None
            if self.process.poll() is not None:
                _, said = self.process.communicate()
                if "unshare" in said and not os.environ.get("CI"):
                    pytest.skip(f"no namespaces here: {said.strip()}")
                pytest.fail(f"the agent ended: {said}")
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.05)

    def inside(self, *argv: str) -> str:
        assert self.process is not None
        wrap = ["nsenter", "--target", str(self.process.pid), "--user", "--net"]
        done = subprocess.run(
            [*wrap, "--preserve-credentials", "--", *argv],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    def events(self) -> list[dict[str, Any]]:
        folder = self.root / "var/lib/sekisho/journal"
        return [
            json.loads(line)
            for path in sorted(folder.glob("*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def daemon(tmp_path: Path, repository: Path) -> Iterator[Daemon]:
    if shutil.which("nft") is None or not Path(PYTHON).exists():
        if os.environ.get("CI"):
            pytest.fail("nft and Debian's Python are needed")
        pytest.skip("nft and Debian's Python are needed")
    found = Daemon(tmp_path, repository)
    yield found
    if found.process is not None and found.process.poll() is None:
        found.process.kill()
        found.process.communicate()


def test_it_starts_keeps_events_repairs_rules_and_ends_sealed(daemon: Daemon) -> None:
    daemon.start()
    assert "policy.in-force" in daemon.kinds()
    sock = daemon.root / "run/sekisho/journal.sock"
    number = submit("transfer.received", {"delivery": "a-1"}, path=sock)
    kept = daemon.events()[number - 1]
    assert kept["data"]["delivery"] == "a-1"
    assert set(kept["data"]["_from"]) == {"pid", "uid", "gid"}
    with pytest.raises(SekishoError, match="agent's own"):
        submit("agent.started", {}, path=sock)
    assert submit("agent.agree", {"why": "test"}, path=sock) > number
    before = daemon.kinds().count("rules.repaired")
    daemon.inside("nft", "flush", "ruleset")
    daemon.wait(lambda: daemon.kinds().count("rules.repaired") > before, 15)
    assert "tcp dport 22" in daemon.inside("nft", "list", "table", "inet", "sekisho")
    assert daemon.stop() == 0
    assert daemon.kinds()[-2:] == ["agent.stopping", "seal"]
    assert not sock.exists()


def test_it_notices_a_route_and_a_switch_nobody_asked_for_and_takes_them_away(
    daemon: Daemon,
) -> None:
    daemon.start()
    said = daemon.inside("ip", "route", "add", "blackhole", "10.66.0.0/16")
    assert said == ""
    daemon.wait(lambda: "network.repaired" in daemon.kinds(), 15)
    (told,) = (one["data"] for one in daemon.events() if one["data"].get("id") == NETWORK)
    assert told["off"] == ["not declared: route blackhole 10.66.0.0/16"]
    assert "10.66" not in daemon.inside("ip", "route")
    state = json.loads((daemon.root / "run/sekisho/agent.json").read_text())
    assert state["parts"]["network"]
    before = daemon.kinds().count("rules.repaired")
    daemon.inside("nft", "add", "element", "inet", "sekisho", "peers", "{ 10.9.9.9 }")
    daemon.wait(lambda: daemon.kinds().count("rules.repaired") > before, 15)
    drift = [one["data"] for one in daemon.events() if one["data"].get("id") == DRIFT][-1]
    kept = json.loads(Path(drift["loaded"]).read_bytes())
    assert "10.9.9.9" in json.dumps(kept)
    daemon.inside("nft", "add", "table", "ip", "nat")
    daemon.wait(lambda: daemon.kinds().count("rules.repaired") > before + 1, 15)
    assert "table ip nat" not in daemon.inside("nft", "list", "tables")
    assert "table inet sekisho" in daemon.inside("nft", "list", "tables")


def test_it_takes_a_newer_policy_on_hangup_and_refuses_an_older_one(daemon: Daemon) -> None:
    daemon.start()
    for serial, kind in ((6, "policy.in-force"), (4, "agent.detection")):
        before = daemon.kinds().count(kind)
        daemon.host.write_policy(serial=serial)
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait(lambda kind=kind, before=before: daemon.kinds().count(kind) > before)
    state = daemon.root / "run/sekisho/agent.json"
    daemon.wait(lambda: json.loads(state.read_text())["policy_refused"])
    assert json.loads(state.read_text())["policy_serial"] == 6


def test_killed_at_once_it_starts_again_and_the_journal_goes_on(daemon: Daemon) -> None:
    daemon.start()
    daemon.stop(signal.SIGKILL)
    numbers = [event["n"] for event in daemon.events()]
    daemon.start()
    daemon.stop()
    assert [event["n"] for event in daemon.events()][: len(numbers)] == numbers
    assert "journal.broken" not in daemon.kinds()
    assert daemon.kinds().count("agent.started") == 2


def test_garbage_on_its_socket_does_not_disturb_it(daemon: Daemon) -> None:
    daemon.start()
    path = str(daemon.root / "run/sekisho/journal.sock")
    for garbage in (b"\xff" * 1000, b"{", b"x" * 60_000, b"\0"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(path)
            client.send(garbage)
            assert b"error" in client.recv(65536)
    assert submit("transfer.received", {}, path=Path(path)) > 0


def test_without_a_key_it_says_what_to_do_and_ends(daemon: Daemon) -> None:
    (daemon.host.paths.etc / "host.key.pem").unlink()
    done = subprocess.run(
        [
            *(PYTHON, "-m", "sekisho.host.agent.main", "--host", "core-1"),
            *("--policy", str(daemon.host.paths.etc / "policy.json"), "--root", str(daemon.root)),
        ],
        env={"PYTHONPATH": str(daemon.repository / "agent"), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "host.key.pem" in done.stderr
    assert rules()
