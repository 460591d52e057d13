"""Ansible's modules where people own the folders: odd things are findings, no end of a play."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from playbookmodules import module

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users"),
]
NOBODY = 65534
KEY = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32).decode()
OTHER = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"o" * 32).decode()


class Asked:
    """Stand for AnsibleModule."""

    check_mode = False

    def __init__(self, **params: Any) -> None:
        self.params: dict[str, Any] = {"privileged": [], "closed": [], **params}

    def fail_json(self, **said: Any) -> None:
        raise AssertionError(said)


@pytest.fixture
def accounts() -> tuple[ModuleType, Any]:
    library = module("sekisho_accounts")
    return library, library.Run(Asked())


def home(tmp_path: Path) -> Path:
    made = tmp_path / "home/worker"
    (made / ".ssh").mkdir(parents=True)
    for path in (made, made / ".ssh"):
        os.chown(path, NOBODY, NOBODY)
    return made


ACCOUNTS = {"worker": {"role": "operator", "keys": [f"ssh-ed25519 {KEY}"]}}


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link", "names", "sparse", "foreign"])
def test_a_key_file_of_any_kind_is_taken_away_and_told(
    tmp_path: Path, accounts: tuple[ModuleType, Any], kind: str
) -> None:
    library, run = accounts
    place = home(tmp_path)
    path = place / ".ssh/authorized_keys"
    victim = tmp_path / "victim"
    victim.write_text("keep")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(str(path))
    elif kind == "device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(5, 0))
    elif kind == "link":
        path.symlink_to(victim)
    elif kind == "names":
        os.link(victim, path)
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(2**38)
    else:
        path.write_text(f"ssh-ed25519 {OTHER} x\n")
    run.stray(str(place), ACCOUNTS)
    assert not os.path.lexists(path)
    assert any(str(path) in line for line in run.after)
    assert victim.read_text() == "keep"
    assert library.KEY_FILES == ("authorized_keys", "authorized_keys2")


def test_a_directory_in_the_place_of_keys_is_told_and_left(
    tmp_path: Path, accounts: tuple[ModuleType, Any]
) -> None:
    _, run = accounts
    (home(tmp_path) / ".ssh/authorized_keys/x").mkdir(parents=True)
    run.stray(str(tmp_path / "home/worker"), ACCOUNTS)
    assert len(run.left) == 1
    assert run.after == []


def test_a_link_in_the_place_of_ssh_removes_nothing_behind_it(
    tmp_path: Path, accounts: tuple[ModuleType, Any]
) -> None:
    _, run = accounts
    place = home(tmp_path)
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots/authorized_keys").write_text(f"ssh-ed25519 {OTHER} root\n")
    (place / ".ssh").rmdir()
    (place / ".ssh").symlink_to(tmp_path / "roots")
    run.stray(str(place), ACCOUNTS)
    assert (tmp_path / "roots/authorized_keys").exists()
    assert not os.path.lexists(place / ".ssh")


def test_a_home_that_is_none_costs_nothing(
    tmp_path: Path, accounts: tuple[ModuleType, Any]
) -> None:
    _, run = accounts
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("/root")
    for name in ("absent", "file", "link"):
        run.stray(str(tmp_path / name), ACCOUNTS)
    assert run.after == []
    assert len(run.left) == 1  # the link, which somebody else can have made


def test_own_keys_stay_and_their_file_stays_the_persons(
    tmp_path: Path, accounts: tuple[ModuleType, Any]
) -> None:
    _, run = accounts
    path = home(tmp_path) / ".ssh/authorized_keys"
    path.write_text(f"# mine\nssh-ed25519 {KEY} mine\nssh-ed25519 {OTHER} not mine\n")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o600)
    run.stray(str(tmp_path / "home/worker"), ACCOUNTS)
    assert path.read_text() == f"ssh-ed25519 {KEY} mine\n"
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (NOBODY, 0o600)
    before = list(run.after)
    run.stray(str(tmp_path / "home/worker"), ACCOUNTS)
    assert run.after == before


def test_closing_a_file_does_not_make_its_bits_roots(tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!")
    os.chown(tool, NOBODY, NOBODY)
    tool.chmod(0o6777)
    (tmp_path / "way").symlink_to("/etc/shadow")
    run = module("sekisho_packages").Run(Asked(closed=[f"{tmp_path}/*"]))
    run.closed()
    info = tool.stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (0, 0o755)
    assert len(run.done) == 1


def test_a_privileged_programs_other_name_does_not_cost_it_its_bits(tmp_path: Path) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text("#!")
    sudo.chmod(0o4755)
    other = home(tmp_path) / "mine"
    os.link(sudo, other)
    (tmp_path / "foreign").write_text("#!")
    (tmp_path / "foreign").chmod(0o4755)
    run = module("sekisho_packages").Run(Asked(privileged=[str(sudo)]))
    for path in (sudo, other, tmp_path / "foreign"):
        run.mend(str(path))
    assert stat.S_IMODE(sudo.stat().st_mode) == 0o4755
    assert stat.S_IMODE((tmp_path / "foreign").stat().st_mode) == 0o755
    assert len(run.left) == 1


def test_what_is_not_what_was_examined_is_left(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for path in (one, two):
        path.touch()
        path.chmod(0o666)
    judged = os.lstat(one)
    os.replace(two, one)
    run = module("sekisho_packages").Run(Asked())
    run.mend(str(one), judged)
    assert stat.S_IMODE(one.stat().st_mode) == 0o666
    assert (run.done, len(run.left)) == ([], 1)
    run.mend(str(tmp_path / "gone"), judged)
    assert len(run.left) == 1


PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  become: false
  tasks:
    - sekisho_files:
        files:
          - {{path: "{place}/a/file", content: "one", mode: "0640"}}
          - {{path: "{place}/b", state: directory, mode: "2770"}}
          - {{path: "{place}/old", state: absent}}
    - sekisho_packages: {{closed: ["{place}/open"]}}
    - sekisho_live: {{settle: false}}
"""


@pytest.mark.parametrize("strategy", ["linear", "mitogen_linear"])
def test_the_shared_file_reaches_the_modules(
    tmp_path: Path, repository: Path, strategy: str
) -> None:
    (tmp_path / "old").write_text("x")
    (tmp_path / "open").write_text("x")
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "play.yml").write_text(PLAY.format(place=tmp_path))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,",
         str(tmp_path / "play.yml")],
        cwd=repository, capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "ANSIBLE_STRATEGY": strategy,
             "ANSIBLE_LOCALHOST_WARNING": "false", "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
             "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok=3 " in done.stdout
    assert "changed=2 " in done.stdout
    assert (tmp_path / "a/file").read_text() == "one"
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o2770
    assert not (tmp_path / "old").exists()
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644


def test_the_modules_and_the_agent_share_one_file(repository: Path) -> None:
    shared = repository / "playbooks/module_utils/sekisho_safe_files.py"
    assert shared.is_symlink()
    assert shared.resolve() == (repository / "agent/sekisho/core/safe_files.py").resolve()


@pytest.mark.parametrize("kind", ["fifo", "link", "sparse", "directory"])
def test_what_is_in_the_place_of_a_file_is_replaced_or_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    library = module("sekisho_files")
    path, victim = tmp_path / "file", tmp_path / "victim"
    victim.write_text("keep")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(victim)
    elif kind == "sparse":
        with path.open("wb") as stream:
            stream.truncate(2**38)
    else:
        path.mkdir()
    entry = {"path": str(path), "content": "new", "mode": "0644", "owner": "root", "group": "root",
             "state": "present", "secret": False, "base64": False}  # fmt: skip
    said: dict[str, Any] = {}

    def end(**words: Any) -> None:
        said.update(words)
        raise SystemExit

    fake = SimpleNamespace(
        params={"files": [entry]}, check_mode=False, exit_json=end, fail_json=end
    )
    monkeypatch.setattr(library, "AnsibleModule", lambda **_: fake)
    with pytest.raises(SystemExit):
        library.main()
    if kind == "directory":
        assert str(path) in said["msg"]
    else:
        assert (said["changed"], path.read_text()) == (True, "new")
    assert victim.read_text() == "keep"


def test_names_of_any_bytes_and_number_spoil_no_answer(tmp_path: Path) -> None:
    """Ansible refuses a whole answer for one lone surrogate, and any_errors_fatal ends the play."""
    library = module("sekisho_packages")
    names = [b"a\xffb", b"two\nlines", "日本".encode(), b"\x1b[2J", b"\xed\xa0\x80"]
    asked = Asked(privileged=["/x"], timers=[], upgrade=False)
    said: dict[str, Any] = {}
    asked.warn = lambda line: said.setdefault("warnings", []).append(line)  # type: ignore[attr-defined]
    asked.exit_json = said.update  # type: ignore[attr-defined]

    class Run(library.Run):  # type: ignore[misc,name-defined]
        def state(self) -> dict[str, Any]:
            return {}

        def whole(self, _packages: dict[str, Any]) -> None:
            self.left += [f"{os.fsdecode(name)} is left as it is: gone" for name in names]

        only = closed = state

        def walk(self) -> None:
            for name in [*names, *(b"%d" % number for number in range(3000))]:
                path = os.path.join(os.fsencode(tmp_path), name)
                os.close(os.open(path, os.O_CREAT))
                os.chmod(path, 0o666)  # noqa: S103 - what is to be mended
                self.mend(os.fsdecode(path))

    library.Run, library.AnsibleModule = Run, lambda **_: asked
    library.main()
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o664 for one in tmp_path.iterdir())
    json.dumps(said, ensure_ascii=False).encode("utf-8")
    lines = [*said["done"], *said["warnings"]]
    assert all(line.isprintable() for line in lines)
    assert len(said["done"]) <= 1001
    assert "2005 more" in said["done"][-1]
    assert any("日本" in line for line in lines)


@pytest.mark.parametrize("option", ['environment="X= {} " ', 'command="a {}" ', '"{}" '])
def test_a_key_in_an_option_is_not_the_key_of_its_line(
    tmp_path: Path, accounts: tuple[ModuleType, Any], option: str
) -> None:
    _, run = accounts
    place = home(tmp_path)
    path = place / ".ssh/authorized_keys"
    own = f'environment="A=B C" ssh-ed25519 {KEY} worker\n'
    path.write_text(f"{own}{option.format(KEY)}ssh-ed25519 {OTHER} x\n")
    run.stray(str(place), ACCOUNTS)
    assert path.read_text() == own


def test_a_mount_point_of_any_bytes_is_told_and_unmounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = module("sekisho_live")
    table = tmp_path / "mountinfo"
    table.write_bytes(b"9 1 0:9 / /home/w/\xff\\040\\012\\134x rw - fuse a rw\n")
    there = library.handles.mounts(str(table))
    monkeypatch.setattr(library.handles, "mounts", lambda: there)
    done: list[Any] = []
    monkeypatch.setattr(library.handles, "unmount", done.append)
    live = library.Live(check=False, warn=lambda _: None)
    live.unmount(["fuse"])
    assert [(one.number, one.point) for one in done] == [(9, os.fsdecode(b"/home/w/\xff \n\\x"))]
    json.dumps([live.before, live.after], ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("check", [False, True])
def test_a_process_of_no_account_is_ended_by_its_handle(
    accounts: tuple[ModuleType, Any], monkeypatch: pytest.MonkeyPatch, *, check: bool
) -> None:
    library, run = accounts
    run.module.check_mode = check
    own = library.handles.Process(os.getpid())
    with subprocess.Popen(["sleep", "60"], user=54321) as stranger:
        held = library.handles.Process(stranger.pid)
        monkeypatch.setattr(library.handles, "processes", lambda: iter([own, held]))
        run.strangers()
        assert run.after == ["process sleep of uid 54321: ended"]
        assert (stranger.poll() is None) is check or stranger.wait(10) == -9
        stranger.kill()
