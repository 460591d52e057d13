"""The guard's role over several hosts with an SSH server each, in namespaces; run by `scene`.

Words: number of hosts, seconds that every fresh login of the guard is held up, window in seconds,
strategy, and what to try ("good": rules that let the controller in; "shut": on the last host, ones
that do not; "stranger": the last host shows another key than the pinned one; "look": a dry run).
Prints JSON.

A host is a network namespace (a cable to the controller's bridge) and a mount namespace with
/usr/lib/sekisho, /var/lib/sekisho and /etc/sekisho of its own; guard, sshd and nft are the real
ones. Not there: systemd, whose part (the timer) a small program plays, and sudo.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTHON = sys.executable

SUDO = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
exec "$@"
"""
SYSTEMD_RUN = """#!/bin/sh
# The timer: tried again until the command has worked, as Restart=on-failure does.
for word; do case $word in
    --on-active=*) after=${word#--on-active=} ;;
    --*) ;;
    *) break ;;
esac; done
while [ "${1#--}" != "$1" ]; do shift; done
(sleep "$after"; until "$@"; do sleep 2; done) >/dev/null 2>&1 </dev/null &
"""
NOTHING = "#!/bin/sh\nexit 0\n"
# The guard's own login, and no other, is held up: a slow controller.
SLOW_SSH = """#!/bin/sh
case "$*" in *guard\\ confirm*) date +%s.%N >>{log}.begin.$$; sleep {delay}
/usr/bin/ssh "$@"; code=$?; date +%s.%N >>{log}.end.$$; exit $code ;; esac
exec /usr/bin/ssh "$@"
"""
PLAY = """
- hosts: all
  gather_facts: false
  any_errors_fatal: true
  roles:
    - role: guard
"""
RULES = (
    '{"nftables": [{"add": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"delete": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"add": {"table": {"family": "inet", "name": "sekisho"}}}, '
    '{"add": {"chain": {"family": "inet", "table": "sekisho", "name": "input", "type": "filter", '
    '"hook": "input", "prio": 0, "policy": "%s"}}}]}'
)


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def run(*argv: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in argv], check=check, capture_output=True, text=True)


class World:
    """The hosts, their controller, and what a play over them did."""

    def __init__(self, folder: Path, count: int, delay: float) -> None:
        self.folder, self.names = folder, [f"h{number}" for number in range(1, count + 1)]
        self.hosts: list[subprocess.Popen[bytes]] = []
        self.log = folder / "login"
        tools = folder / "tools"
        tools.mkdir()
        for name, text in (("sudo", SUDO), ("systemd-run", SYSTEMD_RUN),
                           ("systemctl", NOTHING), ("udevadm", NOTHING)):  # fmt: skip
            program(tools / name, text)
        program(tools / "ssh", SLOW_SSH.format(log=self.log, delay=delay))
        program(folder / "guard", f"#!/bin/sh\nPYTHONPATH={REPOSITORY}/agent exec {PYTHON} "
                '-m sekisho.host.guard.main "$@"\n')  # fmt: skip
        for key in ("host", "other", "login"):
            run("ssh-keygen", "-q", "-t", "ecdsa", "-b", "256", "-N", "", "-f", folder / key)
        shutil.copy(folder / "login.pub", folder / "authorized")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "address", "add", "10.99.0.254/24", "dev", "br0")
        run("ip", "link", "set", "br0", "up")
        (folder / "inventory/keys").mkdir(parents=True)
        known = (folder / "host.pub").read_text()
        pinned = "".join(f"{self.address(name)} {known}" for name in self.names)
        (folder / "inventory/keys/known_hosts").write_text(pinned)
        # What Ansible's own connection believes: the key of the "stranger", too.
        other = (folder / "other.pub").read_text()
        (folder / "believed").write_text(f"{pinned}{self.address(self.names[-1])} {other}")

    def address(self, name: str) -> str:
        return f"10.99.0.{name[1:]}"

    def start(self, name: str, key: str) -> None:
        own = self.folder / name
        for place in ("up", "work", "state", "etc", "run"):
            (own / place).mkdir(parents=True)
        (own / "sshd").write_text(
            f"ListenAddress {self.address(name)}\nHostKey {self.folder}/{key}\nUsePAM no\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
            f"SetEnv PATH={self.folder}/tools:/usr/sbin:/usr/bin:/sbin:/bin\nPidFile none\n"
        )
        (own / "start").write_text(f"""set -e
mount --make-rprivate /
mount -t overlay none -o lowerdir=/usr/lib,upperdir={own}/up,workdir={own}/work /usr/lib
mkdir -p /usr/lib/sekisho && cp {self.folder}/guard /usr/lib/sekisho/guard
mount -t tmpfs none /var/lib && mkdir -p /var/lib/sekisho
mount -t tmpfs none /run && mkdir -p /run/sshd
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip address add {self.address(name)}/24 dev eth0
ip link set eth0 up
exec /usr/sbin/sshd -D -e -f {own}/sshd 2>{own}/log
""")
        host = subprocess.Popen(["unshare", "-n", "-m", "sh", str(own / "start")])
        self.hosts.append(host)
        ends = time.monotonic() + 20
        here = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{host.pid}/ns/net") == here and time.monotonic() < ends:
            time.sleep(0.02)
        run("ip", "link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0",
            "netns", host.pid)  # fmt: skip
        run("ip", "link", "set", f"v{name}", "master", "br0", "up")

    def inside(self, name: str, *argv: str) -> str:
        host = self.hosts[self.names.index(name)]
        return run("nsenter", "-t", host.pid, "-n", "-m", *argv, check=False).stdout

    def play(
        self, window: int, strategy: str, policies: dict[str, str], *more: str
    ) -> dict[str, object]:
        hosts = {
            name: {"ansible_host": self.address(name), "sekisho_guarded": [
                {"path": f"{self.folder}/{name}/etc/nftables.json", "mode": "0600",
                 "kind": "nftables", "content": RULES % policies[name]}]}
            for name in self.names
        }  # fmt: skip
        shared = {
            "ansible_user": "root", "ansible_ssh_private_key_file": str(self.folder / "login"),
            "ansible_ssh_common_args": f"-oUserKnownHostsFile={self.folder}/believed",
            "guard_timeout_s": window, "mitogen_ssh_keepalive_interval": 3,
            "mitogen_ssh_keepalive_count": 3, "ansible_python_interpreter": "/usr/bin/python3",
        }  # fmt: skip
        (self.folder / "inventory/hosts.json").write_text(
            json.dumps({"all": {"hosts": hosts, "vars": shared}})
        )
        (self.folder / "play.yml").write_text(PLAY)
        environment = os.environ | {
            "PATH": f"{self.folder}/tools:{REPOSITORY}/.venv/bin:{os.environ['PATH']}",
            "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_STRATEGY": strategy,
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"), "HOME": str(self.folder),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "tmp"), "ANSIBLE_BECOME": "false",
        }  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(
            [Path(PYTHON).parent / "ansible-playbook", "-i", self.folder / "inventory",
             self.folder / "play.yml", *more], cwd=REPOSITORY, env=environment, check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return {"code": done.returncode, "said": done.stdout + done.stderr,
                "took": time.monotonic() - began}  # fmt: skip

    def logins(self) -> list[list[float]]:
        """Return when each fresh login began and ended."""
        found = []
        for path in self.folder.glob("login.begin.*"):
            end = Path(str(path).replace(".begin.", ".end."))
            if end.exists():
                found.append(
                    [float(path.read_text().split()[0]), float(end.read_text().split()[0])]
                )
        return sorted(found)

    def state(self, name: str) -> dict[str, object]:
        listed = self.inside(name, "nft", "list", "table", "inet", "sekisho")
        found = re.search(r"policy (\w+);", listed)
        status = self.inside(name, "/usr/lib/sekisho/guard", "status")
        return {"policy": found[1] if found else "", "status": json.loads(status or "{}")}

    def end(self) -> None:
        for host in self.hosts:
            host.kill()
            host.wait()


def main(count: str, delay: str, window: str, strategy: str, what: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sekisho-guard-") as name:
        world = World(Path(name), int(count), float(delay))
        try:
            for host in world.names:
                last = host == world.names[-1]
                world.start(host, "other" if last and what == "stranger" else "host")
            time.sleep(1)
            policies = dict.fromkeys(world.names, "accept")
            if what == "shut":
                policies[world.names[-1]] = "drop"
            dry = ("--check", "--diff") if what == "look" else ()
            played = world.play(int(window), strategy, policies, *dry)
            states = {host: world.state(host) for host in world.names}
            sys.stdout.write(json.dumps({**played, "logins": world.logins(), "states": states}))
        finally:
            world.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
