"""Ansible's modules: bad input is a message, check mode touches nothing, a second run is quiet."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from playbookmodules import module

pytestmark = pytest.mark.process  # importing Ansible looks the syslog service up

KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32).decode()


class FailedError(Exception):
    """The module ended with a message."""


class Asked:
    """Stand for AnsibleModule: commands answer from a table, and are kept."""

    def __init__(
        self, answers: dict[str, tuple[int, str, str]] | None = None, **params: Any
    ) -> None:
        self.answers, self.params = answers or {}, params
        self.check_mode = False
        self.commands: list[str] = []
        self.warnings: list[str] = []
        self.told: dict[str, Any] = {}

    def run_command(self, argv: list[str], **_: Any) -> tuple[int, str, str]:
        assert isinstance(argv, list), "as Ansible's own"
        said = " ".join(argv)
        self.commands.append(said)
        return self.answers.get(said, (0, "", ""))

    def fail_json(self, **said: Any) -> None:
        raise FailedError(said["msg"])

    def exit_json(self, **said: Any) -> None:
        self.told = said

    def warn(self, text: str) -> None:
        self.warnings.append(text)


# -- accounts --------------------------------------------------------------------------------------

ADMIN = {"role": "administrator", "uid": 2001, "keys": [KEY]}


@pytest.mark.parametrize(
    ("account", "expiry", "passwords", "said"),
    [
        (ADMIN | {"role": "root"}, "aoki 2027-01-01", {}, "its role is 'root'"),
        ({"uid": 2001}, "aoki 2027-01-01", {}, "its role is None"),
        (ADMIN | {"uid": 0}, "aoki 2027-01-01", {}, "its uid is 0, not from 1000"),
        (ADMIN | {"uid": "²"}, "aoki 2027-01-01", {}, "its uid is '²'"),
        (ADMIN | {"uid": None}, "aoki 2027-01-01", {}, "its uid is None"),
        (ADMIN | {"keys": []}, "aoki 2027-01-01", {}, "aoki has no key"),
        (ADMIN | {"keys": KEY}, "aoki 2027-01-01", {}, "not a list of SSH public keys"),
        (ADMIN | {"keys": ["ssh-ed25519"]}, "aoki 2027-01-01", {}, "not a list of SSH"),
        (ADMIN | {"keys": [f"{KEY}\nroot"]}, "aoki 2027-01-01", {}, "not a list of SSH"),
        (ADMIN, "", {}, "expiry is missing"),
        (ADMIN, "aoki tomorrow", {}, "expiry is tomorrow"),
        (ADMIN, "aoki 2027-01-01", {"aoki": "x\nroot:y"}, "no hash of crypt"),
        (ADMIN, "aoki 2027-01-01", {"aoki": "x:y"}, "no hash of crypt"),
        (ADMIN | {"role": "officer"}, "aoki 2027-01-01", {}, "no administrator"),
    ],
)
def test_accounts_that_are_none_are_told_before_anything_is_done(
    account: dict[str, Any], expiry: str, passwords: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        module("sekisho_accounts").wanted({"aoki": account}, expiry.split("\n"), passwords)


def test_accounts_of_a_policy_are_read() -> None:
    (one,) = module("sekisho_accounts").wanted(
        {"aoki": ADMIN | {"uid": "2001"}}, ["aoki 2027-01-01"], {"aoki": "$y$j9T$abc/.$def"}
    )
    assert (one.uid, one.group, one.expires) == (2001, "sekisho-admin", "2027-01-01")


# -- files -----------------------------------------------------------------------------------------

FILE = {
    "path": "/etc/x", "content": "x", "base64": False, "mode": "0644", "owner": "root",
    "group": "root", "state": "present", "secret": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "etc/x"}, "no absolute path"),
        ({"path": "/etc/\0x"}, "no absolute path"),
        ({"content": None}, "no content given"),
        ({"mode": "u=rw"}, "is not octal"),
        ({"mode": "99"}, "is not octal"),
        ({"mode": "4²4"}, "is not octal"),
        ({"base64": True, "content": "%%"}, "no base64"),
        ({"owner": "nobody-of-that-name"}, "name not found"),
    ],
)
def test_a_file_that_is_none_is_told(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        module("sekisho_files").wanted(FILE | change, check=False)


def test_in_check_mode_an_owner_may_not_be_there_yet_and_the_file_differs() -> None:
    one = module("sekisho_files").wanted(FILE | {"owner": "later"}, check=True)
    assert one.owner is None
    assert not one.same(None, None)
    with pytest.raises(OSError, match="not there"):
        one.put()


def test_a_secret_is_not_in_the_diff() -> None:
    one = module("sekisho_files").wanted(FILE | {"secret": True, "content": "hush"}, check=False)
    assert "hush" not in json.dumps(one.difference(None, b"hush before"))


def test_a_file_named_twice_is_told_before_any_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = module("sekisho_files")
    path = str(tmp_path / "x")
    asked = Asked(files=[FILE | {"path": path}, FILE | {"path": path}])
    monkeypatch.setattr(library, "AnsibleModule", lambda **_: asked)
    with pytest.raises(FailedError, match="named twice"):
        library.main()
    assert list(tmp_path.iterdir()) == []


# -- the running system ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("# a note", "# a note"),
        ("", ""),
        ("UUID=1 / ext4 rw 0 1", "UUID=1 / ext4 rw 0 1"),
        ("tmpfs /dev/shm tmpfs defaults 0 0", "tmpfs /dev/shm tmpfs nosuid 0 0"),
        ("tmpfs  /dev/shm\ttmpfs nosuid 0 0", "tmpfs  /dev/shm\ttmpfs nosuid 0 0"),
        ("/dev/sr0 /c udf rw", "# removable media are not mounted here: /dev/sr0 /c udf rw"),
        ("/swap none swap sw", "# plain swap keeps what must be erasable: /swap none swap sw"),
        ("/dev/mapper/swap none swap sw 0 0", "/dev/mapper/swap none swap sw 0 0"),
    ],
)  # fmt: skip
def test_lines_of_fstab_are_kept_changed_or_set_aside(line: str, kept: str) -> None:
    entry = {"source": "tmpfs", "point": "/dev/shm", "type": "tmpfs", "options": "nosuid"}
    assert module()._kept(line, {"/dev/shm": entry}, no_swap=True) == kept


def test_fstab_is_written_whole_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = module()
    path = tmp_path / "fstab"
    path.write_bytes(b"# \xff\nUUID=1 / ext4 rw 0 1\n")
    monkeypatch.setattr(library, "FSTAB", str(path))
    entries = [{"source": "t", "point": "/p", "type": "tmpfs", "options": "nosuid"}]
    for check, lines in ((True, 2), (False, 3), (False, 3)):
        live = library.Live(check=check, warn=lambda _: None)
        live.fstab(entries, no_swap=False)
        assert len(path.read_bytes().split(b"\n")) == lines + 1
    assert live.after == []
    assert [one.name for one in tmp_path.iterdir()] == ["fstab"]
    assert b"\xff" in path.read_bytes()


def test_a_value_the_kernel_has_or_has_not(tmp_path: Path) -> None:
    said: list[str] = []
    live = module().Live(check=False, warn=said.append)
    held = tmp_path / "held"
    held.write_text("[none] all\n")
    live.values([{"path": str(held), "value": "none", "accept": ["[none] all"], "optional": None}])
    live.values([{"path": str(tmp_path / "not"), "value": "1", "accept": None, "optional": True}])
    assert (live.after, said) == ([], [])
    live.values([{"path": str(tmp_path / "not"), "value": "1", "accept": None, "optional": None}])
    live.values([{"path": str(held), "value": "1", "accept": None, "optional": None}])
    assert said == [f"{tmp_path}/not: this kernel has no such file"]
    assert held.read_text() == "1"


def test_a_pattern_that_is_none_and_a_value_that_is_refused_are_told(tmp_path: Path) -> None:
    library = module()
    live = library.Live(check=False, warn=lambda _: None)
    with pytest.raises(library.TroubleError, match=r"set_aside: '\(' is no pattern"):
        live.set_aside([{"glob": str(tmp_path / "*"), "regex": "(", "but": ""}])
    with pytest.raises(library.TroubleError, match="not accepted"):
        library._write(str(tmp_path / "a/b"), "1")
    with pytest.raises(library.TroubleError, match="failed"):
        live.run("false")


# -- audit -----------------------------------------------------------------------------------------

RULES = "-w /etc -p wa\n-a always,exit -S all\n"
LISTED = "-w /etc -p wa\n-a always,exit -S all\n"
FIRST = ["load the rules", "make auditd read its settings"]
STATUS = "enabled 1\nlost 0\n"


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    library = module("sekisho_audit")
    (tmp_path / "rules.d").mkdir()
    for name, value in (("RULES", "rules"), ("SETTINGS", "settings"), ("LOGS", "log")):
        monkeypatch.setattr(library, name, str(tmp_path / value))
    monkeypatch.setattr(library, "PARTS", str(tmp_path / "rules.d/*.rules"))
    (tmp_path / "rules").write_text(RULES)

    def play(*, check: bool = False, **answers: tuple[int, str, str]) -> Asked:
        table = {
            "auditctl -s": answers.get("status", (0, STATUS, "")),
            "auditctl -l": answers.get("listing", (0, LISTED, "")),
            "augenrules --load": answers.get("load", (0, "", "")),
            "systemctl is-enabled auditd.service": (0, "enabled\n", ""),
            "systemctl is-enabled audit-rules.service": (0, "static\n", ""),
            "systemctl is-active auditd.service": (0, "active\n", ""),
        }
        asked = Asked(table, folders=[], state_file=str(tmp_path / "state.json"))
        asked.check_mode = check
        monkeypatch.setattr(library, "AnsibleModule", lambda **_: asked)
        library.main()
        return asked

    play.state = tmp_path / "state.json"  # type: ignore[attr-defined]
    return play


def test_audit_rules_are_loaded_once_and_the_second_run_is_quiet(audit: Any) -> None:
    assert audit().told["actions"] == FIRST
    again = audit()
    assert again.told["changed"] is False
    assert "augenrules --load" not in again.commands


def test_in_check_mode_audit_is_asked_and_not_changed(audit: Any) -> None:
    told = audit(check=True, status=(0, "enabled 1\nlost 3\n", ""))
    assert told.told["actions"] == [FIRST[0], "acknowledge 3 lost records", FIRST[1]]
    assert not {"augenrules --load", "auditctl --reset-lost", "auditctl --signal reload"} & set(
        told.commands
    )
    assert not audit.state.exists()


@pytest.mark.parametrize("saved", [b"[]", b"{", b"\xff", b"[" * 100_000, b'{"listing": 7}'])
def test_a_garbled_state_file_only_costs_another_load(audit: Any, saved: bytes) -> None:
    audit.state.write_bytes(saved)
    assert audit().told["actions"] == FIRST
    assert audit().told["changed"] is False


def test_rules_that_are_gone_or_off_are_loaded_again_and_locked_ones_wait(audit: Any) -> None:
    audit()
    assert audit(status=(0, "enabled 2\nlost 0\n", "")).told["reboot_required"] is False
    with pytest.raises(FailedError, match=r"2 audit rules stand in .* the kernel lists 0"):
        audit(listing=(0, "No rules\n", ""))
    locked = audit(listing=(0, "", ""), status=(0, "enabled 2\nlost 0\n", ""))
    assert locked.told["reboot_required"] is True
    assert locked.warnings == ["the audit rules are locked until the next boot; they load then"]
    with pytest.raises(FailedError, match="still off after loading"):
        audit(status=(0, "enabled 0\nlost 0\n", ""))


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"load": (0, "", "There was an error in line 3")}, "do not load: There was an error"),
        ({"load": (1, "", "")}, "do not load"),
        ({"listing": (4, "", "must be root")}, "auditctl -l: must be root"),
        ({"status": (1, "", "no audit here")}, "auditctl -s: no audit here"),
    ],
)
def test_what_audit_cannot_be_asked_or_told_ends_the_run(
    audit: Any, answers: Any, said: str
) -> None:
    with pytest.raises(FailedError, match=said):
        audit(**answers)


# -- the guard -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((1, "", "not root"), r"the guard gave no answer \(status 1\): not root"),
        ((0, "[", ""), "the guard gave no answer"),
        ((1, '{"error": "busy"}', ""), "the guard refused: busy"),
        ((2, "{}", "lost"), "the guard refused: lost"),
    ],
)
def test_a_guard_that_refuses_or_is_none_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str, str], said: str
) -> None:
    library = module("sekisho_guard")
    asked = Asked(
        {"/usr/lib/sekisho/guard apply": answer},
        files=[], timeout_s=50, token="", restore_previous=False,
    )  # fmt: skip
    monkeypatch.setattr(library, "AnsibleModule", lambda **_: asked)
    with pytest.raises(FailedError, match=said):
        library.main()


def test_in_check_mode_the_guard_only_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    library = module("sekisho_guard")
    answer = {"changed": True, "diff": [{"path": "/etc/x", "before": "a", "after": "b"}]}
    asked = Asked(
        {"/usr/lib/sekisho/guard plan": (0, json.dumps(answer), "")},
        files=[], timeout_s=50, token="", restore_previous=False,
    )  # fmt: skip
    asked.check_mode = True
    monkeypatch.setattr(library, "AnsibleModule", lambda **_: asked)
    library.main()
    assert asked.commands == ["/usr/lib/sekisho/guard plan"]
    assert asked.told["diff"][0]["before_header"] == "/etc/x"


# -- packages --------------------------------------------------------------------------------------

QUERY = "dpkg-query -W -f ${binary:Package}\t${db:Status-Want}\t${db:Status-Status}\t${Version}\n"
INSTALLED = """\
nftables	install	installed	1
held:amd64	hold	installed	2:3
half	install	half-configured	1
spool	install	installed	1
"""


@pytest.mark.parametrize("check", [True, False])
def test_packages_are_made_whole_and_in_check_mode_only_told(*, check: bool) -> None:
    asked = Asked({QUERY: (0, INSTALLED, "")}, absent=["spo*"])
    asked.check_mode = check
    run = module("sekisho_packages").Run(asked)
    run.state()
    assert run.done == ["unhold held:amd64", "finish half", "remove spool"]
    assert len(asked.commands) == (1 if check else 4)


def test_a_changed_program_that_cannot_be_had_again_ends_the_run() -> None:
    off = (1, "??5??????   /usr/sbin/nft\n??5?????? c /etc/nftables.conf\n", "")
    asked = Asked(
        {QUERY: (0, INSTALLED, ""), "dpkg --verify nftables": off}, whole=["nftables"], absent=[]
    )
    run = module("sekisho_packages").Run(asked)
    with pytest.raises(FailedError, match=r"nftables is not as its package has it.*/usr/sbin/nft"):
        run.whole(run.installed())
    assert "apt-get" in asked.commands[-2]


# -- the network -----------------------------------------------------------------------------------


def test_no_table_passes_by_its_name_in_another_family() -> None:
    names = [
        ("inet", "sekisho"),
        ("inet", "sekisho_twin"),
        ("ip", "sekisho"),
        ("ip6", "sekisho_twin"),
    ]
    tables = [{"table": {"family": family, "name": name}} for family, name in names]
    answer = (0, json.dumps({"nftables": [{"metainfo": {}}, *tables]}), "")
    library = module("sekisho_network")
    plan = library.Plan(Asked({"nft -j list tables": answer}))
    assert library.tables(plan) is True
    assert [command[-2:] for command in plan.commands] == [
        ["ip", "sekisho"],
        ["ip6", "sekisho_twin"],
    ]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((255, "", "no such thing"), "ip rule: no such thing"),
        ((0, "{", ""), "its answer is no JSON"),
    ],
)
def test_a_command_that_fails_or_says_no_json_ends_the_run(
    answer: tuple[int, str, str], said: str
) -> None:
    plan = module("sekisho_network").Plan(Asked({"ip rule": answer}))
    with pytest.raises(FailedError, match=said):
        plan.json("ip", "rule")


def test_a_socket_without_its_number_ends_the_run() -> None:
    library = module("sekisho_network")
    line = "tcp LISTEN 0 128 0.0.0.0:8000 0.0.0.0:*\n"
    plan = library.Plan(Asked({"ss -H -n -e -l -t -u": (0, line, "")}))
    with pytest.raises(FailedError, match="does not tell a socket's inode"):
        library.listeners(plan, {"sockets": []})
