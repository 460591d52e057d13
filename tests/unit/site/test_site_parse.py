"""The inventory's texts are read strictly; every defect is one problem with file and line."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from sekisho.control.inventory.read import MAX_HOST_FILE, read_inventory
from sekisho.core.errors import Problem, SekishoError
from sekisho.site.fields import public_key_problem
from sekisho.site.model import Mode, RawFile, Role
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check
from siteworld import NOW, SITE, big_raw, lab_raw, lab_site, policy, problems

CORE = "host_vars/core-1.yml"
HASH = f"hmac-sha256:{'0' * 32}:{'1' * 64}"


def only(edits: dict[str, tuple[str, str] | str]) -> Problem:
    found = problems(edits)
    assert len(found) == 1, [problem.line() for problem in found]
    return found[0]


def test_a_device_may_be_listed_by_its_serials_hash_and_in_more_than_one_piece() -> None:
    plain = policy("core-1")["devices"][0]
    edits = {CORE: ("serial: SEKISHO-KBD-1", f"serial_hash: {HASH}\n      count: 2")}
    hashed = policy("core-1", edits)["devices"][0]
    assert hashed == {key: plain[key] for key in plain if key != "serial"} | {
        "serial_hash": HASH,
        "count": 2,
    }
    assert set(plain) == {"name", "vendor", "product", "serial", "port", "interfaces"}


def test_the_lab_reads_as_it_is_written() -> None:
    site = lab_site()
    assert site.name == "lab"
    assert [machine.name for machine in site.of(Role.GATEWAY)] == ["gate-in", "gate-out"]
    assert site.flows["intake"].via == "gate-in"
    assert site.flows["intake"].mode is Mode.ONE_WAY_TCP
    assert str(site.machines["core-1"].interfaces["eth1"].address) == "10.77.3.2"
    assert site.people["aoki"].name.ja == "青木 遥"
    assert site.links["wan-in"].at == "lab/group_vars/all/site.yml:17"


@pytest.mark.parametrize(
    ("edits", "key", "got"),
    [
        ({SITE: ("  profile: producer", "  profil: producer")}, "sekisho_site.profil", "unknown"),
        ({SITE: ("port: 7601", "port: '7601'")}, "flows.intake.port", "7601"),
        ({SITE: ("port: 7601", "port: 76010")}, "flows.intake.port", "76010"),
        ({SITE: ("port: 7601", "port: 0o16621")}, "flows.intake.port", "0o16621"),
        ({SITE: ("mode: one-way-tcp", "mode: both-ways")}, "flows.intake.mode", "both-ways"),
        ({SITE: ("network: 10.77.1.0/29", "network: 10.77.1.1/29")}, "links.wan-in.network", "1.1"),
        ({SITE: ("network: 10.77.1.0/29", "network: 0.0.0.0/0")}, "links.wan-in.network", "0.0"),
        ({SITE: ("address: 10.77.1.2", "address: 10.77.1.02")}, "peers.hospital-a.address", "02"),
        ({SITE: ("address: 10.77.1.2", "address: 127.0.0.1")}, "peers.hospital-a.address", "127"),
        ({SITE: ("uid: 2001", "uid: 0")}, "people.aoki.uid", "0"),
        ({SITE: ("trained: 2026-10-01", "trained: 2026-13-01")}, "people.aoki.trained", "13"),
        ({SITE: ("en: Aoki Haruka", 'en: "Aoki\\u202eHaruka"')}, "people.aoki.name.en", "u202e"),
        ({SITE: ("[keys/aoki.pub]", "[keys/../aoki.pub]")}, "people.aoki.keys[0]", ".."),
        ({SITE: ("[keys/aoki.pub]", "[keys/nobody.pub]")}, "people.aoki.keys[0]", "no file"),
        ({CORE: ("link: hop-in", "link: [hop-in]")}, "interfaces.eth1.link", "a list"),
        ({CORE: ("eth1: {link", "eth0: {link")}, "eth0", "the same key again"),
        ({CORE: ("eth1: {link", "lo: {link")}, "interfaces.lo", "this name"),
        ({CORE: (", serial: SEKISHO-DISK-0013", "")}, "disks[0].serial", "nothing"),
        ({CORE: ('"pci-0000:00:03.0"', "vda")}, "disks[0].path", "vda"),
        ({CORE: ("SEKISHO-DISK-0013}", "X, mode: rw}")}, "disks[0].mode", "rw"),
        ({CORE: ("01.1 8086:7010", "01.1 8086:7010 x")}, "pci", "7010 x"),
        ({CORE: ("00:01.1 8086:7010", "00:01.0 8086:7010")}, "pci", "0000:00:01.0 again"),
        ({CORE: ("net.ifnames=0", "init=/bin/sh")}, "boot", "init=/bin/sh"),
        ({CORE: ("net.ifnames=0", "systemd.set_credential=a")}, "boot", "systemd.set_credential=a"),
        ({CORE: ("net.ifnames=0", "a b")}, "boot", "a b"),
        ({CORE: ('vendor: "0627"', "vendor: 0627")}, "devices[0].vendor", "a YAML int"),
        ({CORE: ('port: "1"', "port: 1")}, "devices[0].port", "a YAML int"),
        ({CORE: ("serial: SEKISHO-KBD-1", "serial_hash: x")}, "devices[0].serial_hash", "x"),
        ({CORE: ('port: "1"', 'port: "1"\n      count: 0')}, "devices[0].count", "0"),
        ({CORE: ('port: "1"', 'port: "1"\n      count: "2"')}, "devices[0].count", "2"),
        (
            {CORE: ("serial: SEKISHO-KBD-1", f"serial: X\n      serial_hash: {HASH}")},
            "devices[0].serial",
            "it and serial_hash",
        ),
        ({CORE: ("console: serial", "console: bmc")}, "console", "bmc"),
        ({CORE: ('mac: "52:54:00:77:03:02"', "mac: 52:54:00:57:03:02")}, "interfaces.eth1.mac", ""),
        ({CORE: ("52:54:00:77:03:02", "53:54:00:77:03:02")}, "interfaces.eth1.mac", "53:54"),
        ({CORE: ("sekisho_machine:", "sekisho_machin:")}, "sekisho_machin", "unknown"),
        ({CORE: ("ansible_host:", "sekisho_site: {}\nansible_host:")}, "sekisho_site", "unknown"),
        ({"hosts.yml": ("monitors:", "montors:")}, "montors", "unknown"),
        ({"hosts.yml": ("core-1:", "core-1: {ansible_port: 23}")}, "core.hosts.core-1", "mapping"),
    ],
)
def test_one_defect_is_told_at_its_key(
    edits: dict[str, tuple[str, str] | str], key: str, got: str
) -> None:
    found = problems(edits)
    match = [problem for problem in found if problem.key == key]
    assert match, [problem.line() for problem in found]
    assert got in match[0].got


def test_the_line_is_where_the_defect_stands() -> None:
    problem = only({SITE: ("mode: one-way-tcp", "mode: both-ways")})
    text = next(file.text for file in lab_raw().group_vars if file.path == SITE)
    line = text[: text.index("mode: one-way-tcp")].count("\n") + 1
    assert problem.where == f"lab/{SITE}:{line}"


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("sekisho_machine: &m {}\n", "an anchor"),
        ("sekisho_machine: *m\n", "an alias"),
        ("sekisho_machine: !!python/object:os.system {}\n", "a tag"),
        ("a: 1\n---\nb: 2\n", "a second document"),
        ("a: {b: [c}\n", "did not find"),
        ("? {a: b}\n: c\n", "a mapping"),
        ("- a\n", "a list"),
        ("a: \x00\n", "control characters"),
        ("sekisho_machine: " + "[" * 100_000, "nesting deeper"),
        ("- " * 100_000, "nesting deeper"),
        ("sekisho_machine: " + "{a: " * 50_000, "nesting deeper"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused(text: str, got: str) -> None:
    found = problems({CORE: text})
    assert any(got in problem.got and problem.where.startswith(f"lab/{CORE}") for problem in found)


def test_a_bomb_of_aliases_is_refused_at_once() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
    )
    started = time.process_time()
    assert any("an anchor" in problem.got for problem in problems({CORE: bomb}))
    assert time.process_time() - started < 2


def test_every_problem_is_told_not_only_the_first() -> None:
    found = problems(
        {
            SITE: ("uid: 2001", "uid: x"),
            CORE: ("console: serial", "console: none"),
            "hosts.yml": ("montors:" if False else "monitors:", "montors:"),
        }
    )
    assert {"people.aoki.uid", "console", "montors"} <= {problem.key for problem in found}


def test_a_host_without_a_description_and_a_description_without_a_host_are_told() -> None:
    raw = lab_raw()
    fewer = replace(raw, host_vars=raw.host_vars[1:])
    with pytest.raises(SekishoError, match="is not a site") as failure:
        parse_site(fewer)
    assert failure.value.problems[0].expected == "a file host_vars/core-1.yml"
    more = replace(raw, host_vars=(*raw.host_vars, RawFile("host_vars/core-9.yml", "a: 1\n")))
    with pytest.raises(SekishoError) as failure:
        parse_site(more)
    assert failure.value.problems[0].got == "a description of core-9"


def test_two_site_descriptions_are_told() -> None:
    raw = lab_raw()
    site = next(file.text for file in raw.group_vars if file.path == SITE)
    twice = replace(raw, group_vars=(*raw.group_vars, RawFile("group_vars/all/b.yml", site)))
    with pytest.raises(SekishoError) as failure:
        parse_site(twice)
    assert failure.value.problems[0].got == "a second site"


def test_ten_thousand_machines_are_read_and_checked_in_seconds() -> None:
    raw = big_raw(10_000)
    started = time.process_time()  # whatever else the machine does
    site = parse_site(raw)
    assert check(site, now=NOW) == []
    assert time.process_time() - started < 20  # about 2 s on an idle core
    assert len(site.machines) == 10_000


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG6xeB0+MKSgW3jVEh2KenXQ+8PJi3C81UwKDtPMeLGR a",
            True,
        ),
        ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG6xeB0+MKSgW3jVEh2KenXQ+8PJi3C81UwKDtPMeLGR", True),
        ('command="sh" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIG6xeB0+MKSgW3jVEh2KenXQ+8PJ', False),
        ("ssh-dss AAAAB3NzaC1kc3MAAACBAAAAB3NzaC1kc3MAAACBAAAAB3NzaC1kc3MAAACB", False),
        ("ssh-ed25519 AAAAB3NzaC1kc3MAAACBAAAAB3NzaC1kc3MAAACBAAAAB3NzaC1kc3MAAACB", False),
        ("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7vbqajDw4o6gJy8UtmIbkcpnkO3Kwc4qsEnSZp", False),
        ("ssh-ed25519 AAAA\nssh-ed25519 BBBB", False),
        ("", False),
    ],
)
def test_a_public_key_is_one_key_of_a_known_kind_without_options(text: str, good: bool) -> None:
    assert (public_key_problem(text) == "") is good


# -- reading the directory -------------------------------------------------------------------


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    (tmp_path / "group_vars" / "all").mkdir(parents=True)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "hosts.yml").write_text("core:\n", encoding="utf-8")
    return tmp_path


def test_reading_takes_texts_and_public_keys_only(inventory: Path) -> None:
    (inventory / "keys").mkdir()
    (inventory / "keys" / "aoki.pub").write_text("public", encoding="utf-8")
    (inventory / "keys" / "aoki").write_text("private", encoding="utf-8")
    raw = read_inventory(inventory)
    assert raw.keys == {"keys/aoki.pub": "public"}
    assert "private" not in repr(raw)


def test_reading_refuses_a_link_a_large_file_and_what_is_not_text(inventory: Path) -> None:
    target = inventory / "host_vars" / "core-1.yml"
    target.symlink_to(inventory / "hosts.yml")
    with pytest.raises(SekishoError, match="cannot read") as failure:
        read_inventory(inventory)
    assert failure.value.problems[0].got == "a symbolic link"
    target.unlink()
    target.write_bytes(b"a" * (MAX_HOST_FILE + 1))
    with pytest.raises(SekishoError) as failure:
        read_inventory(inventory)
    assert "more than" in failure.value.problems[0].got
    target.write_bytes(b"a: \xff\n")
    with pytest.raises(SekishoError) as failure:
        read_inventory(inventory)
    assert "UTF-8" in failure.value.problems[0].got


def test_reading_refuses_a_file_that_only_ansible_would_read(inventory: Path) -> None:
    (inventory / "group_vars" / "core.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(SekishoError) as failure:
        read_inventory(inventory)
    assert "Ansible reads" in failure.value.problems[0].got


def test_reading_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SekishoError) as failure:
        read_inventory(tmp_path / "none")
    assert failure.value.problems[0].got == "no directory"
