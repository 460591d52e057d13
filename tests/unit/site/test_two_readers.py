"""What Ansible would read otherwise than the site model does is refused with a clear line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sekisho.control.inventory.read import read_inventory
from sekisho.core.errors import SekishoError
from sekisho.site.ansible_fields import undoes_pinning
from sekisho.site.identity import is_filler, is_filler_uuid
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check
from siteworld import SITE, copy_lab, lab_raw, lab_site

CORE = "host_vars/core-1.yml"
SERIAL = lab_site().machines["core-1"].serial


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    copy_lab(tmp_path / "lab")
    return tmp_path / "lab"


def refusal(inventory: Path) -> str:
    with pytest.raises(SekishoError) as refused:
        parse_site(read_inventory(inventory))
    return refused.value.diagnostics()


# -- a second inventory ---------------------------------------------------------------------------

SECOND = {
    "hosts2.yml": "core: {hosts: {core-2: }}\n",
    "hosts.ini": "[core]\ncore-2\n",
    "hosts": "[core]\ncore-2\n",
    "more.json": '{"core": {"hosts": {"core-2": null}}}',
    "more.yaml": "core: {hosts: {core-2: }}\n",
    "deeper/hosts.yml": "core: {hosts: {core-2: }}\n",
    "hosts.toml": "[core.hosts.core-2]\n",
}


def write(inventory: Path, name: str, text: str) -> None:
    (inventory / name).parent.mkdir(exist_ok=True)
    (inventory / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", SECOND)
def test_a_second_inventory_is_refused(inventory: Path, name: str) -> None:
    write(inventory, name, SECOND[name])
    said = refusal(inventory)
    assert name.partition("/")[0] in said
    assert "a second inventory" in said


@pytest.mark.parametrize("name", ["README.md", "notes.txt", "hosts.yml.orig", "hosts.yml~", ".x"])
def test_what_ansible_passes_over_may_lie_there(inventory: Path, name: str) -> None:
    write(inventory, name, "core: {hosts: {core-2: }}\n")
    assert set(parse_site(read_inventory(inventory)).machines) == set(lab_site().machines)


@pytest.mark.process
@pytest.mark.slow
def test_ansible_itself_sees_no_host_that_the_model_does_not(
    inventory: Path, repository: Path
) -> None:
    """Ansible's own reading of each of these folders: refused by us, or the same hosts."""
    for name in (*SECOND, "README.md", "notes.txt", "hosts.yml.orig", "hosts.yml~", ".x", "a.cfg"):
        place = inventory.parent / "one"
        shutil.copytree(inventory, place)
        write(place, name, SECOND.get(name, "core: {hosts: {core-2: }}\n"))
        try:
            ours = set(parse_site(read_inventory(place)).machines)
        except SekishoError:
            ours = set()
        seen = subprocess.run(
            [Path(sys.executable).with_name("ansible-inventory"), "-i", place, "--graph"],
            capture_output=True, text=True, check=True, cwd=repository,
        ).stdout  # fmt: skip
        theirs = {line.rpartition("--")[2] for line in seen.split("\n") if "--" in line}
        theirs = {one for one in theirs if one and not one.startswith("@")}
        assert not ours or ours == theirs, name
        shutil.rmtree(place)


def test_a_tree_below_all_is_named_once_and_hides_nothing(inventory: Path) -> None:
    text = (inventory / "hosts.yml").read_text(encoding="utf-8")
    body = "".join(f"    {line}\n" for line in text.split("\n"))
    (inventory / "hosts.yml").write_text(f"all:\n  children:\n{body}", encoding="utf-8")
    said = refusal(inventory)
    assert "a tree below `all`" in said
    assert "a host of hosts.yml" not in said


# -- Ansible's variables that undo the pinned keys ----------------------------------------------

UNDOES = [
    ("ansible_connection", "local"),
    ("ansible_connection", "paramiko_ssh"),
    ("ansible_connection", "community.docker.docker"),
    ("ansible_host_key_checking", "false"),
    ("ansible_ssh_host_key_checking", "no"),
    ("ansible_ssh_executable", "/tmp/ssh"),
    ("ansible_ssh_password", "x"),
    ("ansible_shell_executable", "/tmp/sh"),
    ("ansible_paramiko_host_key_auto_add", "true"),
    ("ansible_ssh_transfer_method", "piped"),
    ("ansible_become_exe", "/tmp/sudo"),
    ("mitogen_via", "gate-in"),
    ("mitogen_kind", "lxc"),
    ("ansible_ssh_common_args", "-o StrictHostKeyChecking=no"),
    ("ansible_ssh_common_args", "-oStrictHostKeyChecking=no"),
    ("ansible_ssh_common_args", "-o 'StrictHostKeyChecking no'"),
    ("ansible_ssh_common_args", "-o stricthostkeychecking=accept-new"),
    ("ansible_ssh_common_args", "-o StrictHostKeyChecking=off"),
    ("ansible_ssh_common_args", "-C -o UserKnownHostsFile=/dev/null"),
    ("ansible_ssh_args", "-o UserKnownHostsFile=none"),
    ("ansible_ssh_extra_args", "-o ProxyCommand='nc %h %p'"),
    ("ansible_ssh_extra_args", "-o KnownHostsCommand=/tmp/x"),
    ("ansible_ssh_extra_args", "-o HostKeyAlias=other"),
    ("ansible_ssh_extra_args", "-o VerifyHostKeyDNS=yes"),
    ("ansible_ssh_extra_args", "-o NoHostAuthenticationForLocalhost=yes"),
    ("ansible_ssh_extra_args", "-o PermitLocalCommand=yes -o LocalCommand=id"),
    ("ansible_ssh_extra_args", "-F /tmp/config"),
    ("ansible_ssh_extra_args", "-F/tmp/config"),
    ("ansible_ssh_extra_args", "-o Include=/tmp/config"),
    ("ansible_ssh_extra_args", "-W other:22"),
    ("ansible_ssh_extra_args", "root@other"),
    ("ansible_ssh_extra_args", "-o"),
    ("ansible_ssh_extra_args", "-o StrictHostKeyChecking"),
    ("ansible_ssh_extra_args", "'"),
    ("ansible_ssh_common_args", "{{ lookup('pipe', 'id') }}"),
    ("ansible_ssh_common_args", "-o UserKnownHostsFile=/tmp/mine"),
    ("ansible_ssh_common_args", "-o UserKnownHostsFile=None"),
    ("ansible_ssh_common_args", "-o GlobalKnownHostsFile=/tmp/mine"),
    ("ansible_ssh_common_args", "-o UserKnownHostsFile={{ inventory_dir }}/../mine"),
    ("ansible_ssh_common_args", "-S /tmp/socket"),
    ("ansible_ssh_extra_args", "-o ControlPath=/tmp/socket"),
    ("ansible_user", "-oProxyCommand=id"),
    ("ansible_user", "{{ lookup('pipe', 'id') }}"),
    ("ansible_become_user", "{% if x %}a{% endif %}"),
    ("ansible_ssh_private_key_file", "{{ lookup('pipe', 'id') }}"),
    ("guard_ssh", "sh"),
    ("inventory_hostname", "core-2"),
    ("enrol_replace", "core-1"),
]


@pytest.mark.parametrize("name", ["ansible_ssh_common_args", "ansible_user", "guard_ssh"])
def test_a_list_in_the_place_of_a_value_is_refused(name: str) -> None:
    assert undoes_pinning(name, None)


@pytest.mark.parametrize(("name", "value"), UNDOES)
def test_a_variable_that_undoes_pinning_is_refused(name: str, value: str) -> None:
    assert undoes_pinning(name, value)
    quoted = yaml.safe_dump(value).split("\n")[0]
    raw = lab_raw({CORE: ("ansible_host:", f"{name}: {quoted}\nansible_host:")})
    with pytest.raises(SekishoError, match="not a site") as refused:
        parse_site(raw)
    assert name in refused.value.diagnostics()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ansible_user", "tanabe"),
        ("ansible_port", "2222"),
        ("ansible_become", "true"),
        ("ansible_connection", "ssh"),
        ("ansible_host_key_checking", "true"),
        ("ansible_ssh_common_args", "-o StrictHostKeyChecking=yes -o UserKnownHostsFile=keys/x"),
        ("ansible_ssh_common_args", "-4 -C -o ConnectTimeout=10 -J controller -i keys/aoki"),
        ("ansible_ssh_args", "-F /dev/null -o ControlMaster=auto -o ControlPersist=120s"),
        ("agent_renew_days", "30"),
        ("guard_window", "90"),
    ],
)
def test_what_leaves_the_pinned_keys_in_force_may_stand(name: str, value: str) -> None:
    assert undoes_pinning(name, value) == ""


def test_our_own_inventories_and_configuration_pass(repository: Path) -> None:
    for path in (repository / "inventory").glob("*/group_vars/all/*.yml"):
        for name, value in yaml.safe_load(path.read_text("utf-8")).items():
            assert undoes_pinning(name, value if isinstance(value, str) else str(value)) == ""


@given(st.text(max_size=80))
def test_any_arguments_are_judged_without_a_crash(text: str) -> None:
    assert isinstance(undoes_pinning("ansible_ssh_args", text), str)


# -- words that YAML 1.1 reads as something else ------------------------------------------------

WORDS = ("no", "yes", "on", "off", "true", "false", "null")


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    ("where", "what"), [("people", "aoki"), ("peers", "hospital-a"), ("links", "desk"),
                        ("flows", "intake")],
)  # fmt: skip
def test_a_name_that_yaml_reads_as_no_text_is_refused(where: str, what: str, word: str) -> None:
    assert word not in yaml.safe_load(f"{word}: 1")
    raw = lab_raw({SITE: (f"    {what}:\n", f"    {word}:\n")})
    with pytest.raises(SekishoError) as refused:
        parse_site(raw)
    assert f"{where}.{word}: got a word that YAML reads as" in refused.value.diagnostics()


# -- identities that identify nothing -----------------------------------------------------------

FILLERS = (
    "To Be Filled By O.E.M.", "to be filled by o.e.m", "Default string", "Not Specified", "None",
    "System Serial Number", "0", "00000000", "0123456789", "123456789", "XXXXXXXX", "N/A",
    "Not Applicable", "Unknown", "INVALID", "Empty", "0000-0000", "OEM", "Serial Number",
    "Chassis Serial Number", "1234567890",
)  # fmt: skip


@pytest.mark.parametrize("text", FILLERS)
def test_a_makers_filler_is_no_serial_number(text: str) -> None:
    assert is_filler(text)
    with pytest.raises(SekishoError, match="not a site") as refused:
        parse_site(lab_raw({CORE: (f"serial: {SERIAL}", f'serial: "{text}"')}))
    assert "identity.serial" in refused.value.diagnostics()


@pytest.mark.parametrize(
    "text", ["LAB-0011", "CZJ1234567", "5CG9190ABC", "J30X", "VMware-56 4d 7c", "S/N 7A0012"]
)
def test_a_machines_own_number_is_none(text: str) -> None:
    assert not is_filler(text)


@pytest.mark.parametrize(
    "uuid",
    [
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "11111111-1111-1111-1111-111111111112",
    ],
)
def test_a_shared_uuid_is_no_identity(uuid: str) -> None:
    assert is_filler_uuid(uuid)
    own = lab_site().machines["core-1"].dmi_uuid
    assert not is_filler_uuid(own)
    with pytest.raises(SekishoError) as refused:
        parse_site(lab_raw({CORE: (f"dmi_uuid: {own}", f"dmi_uuid: {uuid}")}))
    assert "identity.dmi_uuid" in refused.value.diagnostics()


def test_two_serial_numbers_that_differ_in_case_are_one(inventory: Path) -> None:
    path = inventory / "host_vars/gate-in.yml"
    text = path.read_text("utf-8")
    other = (inventory / CORE).read_text("utf-8").split("serial: ")[1].split("\n")[0]
    mine = text.split("serial: ")[1].split("\n")[0]
    path.write_text(text.replace(mine, other.lower(), 1), encoding="utf-8")
    found = check(parse_site(read_inventory(inventory)), now=date(2026, 11, 30))
    assert any(one.key == "identity.serial" and "core-1" in one.got for one in found)


def test_a_name_that_passwd_cannot_hold_is_refused() -> None:
    raw = lab_raw({SITE: ("{en: Aoki Haruka,", "{en: 'Aoki: Haruka',")})
    with pytest.raises(SekishoError) as refused:
        parse_site(raw)
    assert "people.aoki.name" in refused.value.diagnostics()


def test_a_network_of_nothing_is_refused() -> None:
    with pytest.raises(SekishoError, match="not a site"):
        parse_site(lab_raw({SITE: ("network: 10.77.2.0/29", "network: 0.77.2.0/29")}))
