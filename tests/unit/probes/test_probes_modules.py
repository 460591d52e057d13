"""Modules: configuration as kmod reads it, and modprobe's own word."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link, ran, unreadable

from sekisho.devices.modules import GROUPS, NEEDED, blocked, canonical, render
from sekisho.probes.model import ProbeError
from sekisho.probes.modules import PROBES

BY_NAME = {probe.name: probe for probe in PROBES}
PARSE = BY_NAME["modules"].parse
OURS = {
    "/etc/modprobe.d/60-sekisho-devices.conf": render("devices"),
    "/etc/modprobe.d/60-sekisho-kernel.conf": render("kernel"),
}


def fact(
    config: dict[str, Any], *, loaded: str = "ext4 1 1 - Live 0x0\n", dry: str = "install x\n"
) -> Any:
    return PARSE(
        {"loaded": held({"/proc/modules": loaded}), "config": held(config), "dry_run": ran(dry)}
    )


def test_our_files_refuse_every_module_of_every_group() -> None:
    told = fact(OURS)
    assert set(told["groups"]) == set(GROUPS)
    assert [name for name, group in told["groups"].items() if group["not_refused"]] == []
    assert told["overridden"] == []


def test_without_our_files_every_group_is_open() -> None:
    told = fact({})
    assert told["groups"]["usb-storage"]["not_refused"] == sorted(GROUPS["usb-storage"].modules)


def test_blacklist_without_install_is_not_refused() -> None:
    told = fact({"/etc/modprobe.d/a.conf": "blacklist thunderbolt\n"})
    assert told["groups"]["thunderbolt"]["not_refused"] == ["thunderbolt"]


def test_install_without_blacklist_is_not_refused() -> None:
    told = fact({"/etc/modprobe.d/a.conf": "install thunderbolt /bin/false\n"})
    assert told["groups"]["thunderbolt"]["not_refused"] == ["thunderbolt"]


def test_an_earlier_install_command_defeats_ours_and_is_named() -> None:
    config = {
        "/etc/modprobe.d/00-handy.conf": "install uas /sbin/modprobe --ignore-install uas\n",
        **OURS,
    }
    told = fact(config)
    assert told["groups"]["usb-storage"]["not_refused"] == ["uas"]
    assert told["overridden"] == ["uas"]


def test_a_pattern_that_loads_defeats_ours() -> None:
    told = fact({"/etc/modprobe.d/00.conf": "install ums-* /sbin/insmod x\n", **OURS})
    assert "ums_karma" in told["groups"]["usb-storage"]["not_refused"]


def test_a_file_masked_by_dev_null_refuses_nothing() -> None:
    raw = {
        "loaded": held({"/proc/modules": ""}),
        "config": held({"/usr/lib/modprobe.d/60-sekisho-devices.conf": render("devices")}),
        "dry_run": ran("install x\n"),
    }
    raw["config"]["files"]["/etc/modprobe.d/60-sekisho-devices.conf"] = link("/dev/null")
    assert PARSE(raw)["groups"]["floppy"]["not_refused"] == ["floppy"]


def test_dashes_and_underscores_name_the_same_module() -> None:
    told = fact({"/etc/modprobe.d/a.conf": "blacklist sr-mod\noptions usb-core x=1\n"})
    assert told["options"] == {"usb_core": {"x": "1"}}


def test_a_loaded_module_is_found_in_its_group() -> None:
    told = fact(OURS, loaded="uas 32768 0 - Live 0x0\nusb_storage 90112 1 uas, Live 0x0\n")
    assert told["groups"]["usb-storage"]["loaded"] == ["uas", "usb_storage"]


def test_what_modprobe_would_insert_is_loadable_even_if_refused_on_disk() -> None:
    told = fact(OURS, dry="insmod /lib/modules/6.12/kernel/fs/nfsd/nfsd.ko.xz \ninstall /bin/false")
    assert told["groups"]["disks-given-away"]["loadable"] == ["nfsd"]


def test_when_modprobe_says_nothing_loadable_is_unknown_and_not_empty() -> None:
    raw = {"loaded": held({"/proc/modules": ""}), "config": held({}), "dry_run": {"error": "gone"}}
    assert "loadable" not in PARSE(raw)["groups"]["floppy"]
    assert "loadable" not in fact(OURS, dry="")["groups"]["floppy"]


def test_hidden_modules_are_an_error() -> None:
    with pytest.raises(ProbeError):
        PARSE({"loaded": held({}), "config": held({}), "dry_run": ran("")})


def test_an_unreadable_configuration_is_an_error() -> None:
    config = held({})
    config["files"]["/etc/modprobe.d/x.conf"] = unreadable()
    with pytest.raises(ProbeError):
        PARSE({"loaded": held({"/proc/modules": ""}), "config": config, "dry_run": ran("")})


@given(st.text(max_size=300))
def test_no_modprobe_file_makes_the_reader_crash(text: str) -> None:
    fact({"/etc/modprobe.d/a.conf": text})


def test_the_list_never_names_what_the_enclave_stands_on() -> None:
    assert not NEEDED & set(blocked())
    assert {"esp4", "esp6", "ext4", "virtio_net", "usbhid"} <= NEEDED


def test_no_module_is_listed_twice_and_every_name_is_canonical() -> None:
    everything = [name for group in GROUPS.values() for name in group.modules]
    assert len(everything) == len(set(everything))
    assert all(canonical(name) == name for name in everything)


@pytest.mark.parametrize("area", ["devices", "kernel"])
def test_the_files_on_disk_are_those_the_list_makes(area: str, repository: Path) -> None:
    path = repository / f"hardening/modprobe/60-sekisho-{area}.conf"
    assert path.read_text() == render(area), "run make docs"


def test_every_group_has_its_check(repository: Path) -> None:
    texts = "".join(
        path.read_text() for path in (repository / "hardening/checks").glob("*/check.yml")
    )
    assert [name for name in GROUPS if f"[groups, {name}, not_refused]" not in texts] == []


@pytest.mark.process
def test_kmod_itself_reads_our_files_as_the_probe_does(repository: Path) -> None:
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin")
    if modprobe is None:
        pytest.skip("kmod is not installed here")
    # kmod reads only paths ending in .conf, and one -C may name one file
    for area in ("devices", "kernel"):
        path = repository / f"hardening/modprobe/60-sekisho-{area}.conf"
        said = subprocess.run(
            [modprobe, "-c", "-C", str(path)], capture_output=True, text=True, check=False
        )
        assert "ignoring bad line" not in said.stderr
        lines = set(said.stdout.splitlines())
        for name in blocked(area):
            assert f"blacklist {name}" in lines
            assert f"install {name} /bin/false" in lines
            assert any(line.strip() == f"softdep {name}" for line in lines)


def builtin(lists: dict[str, str], release: str = "6.12.118+deb13-amd64") -> Any:
    texts: dict[str, str | None] = {"/proc/sys/kernel/osrelease": f"{release}\n"}
    texts |= {f"/usr/lib/modules/{name}/modules.builtin": text for name, text in lists.items()}
    return BY_NAME["builtin-modules"].parse({"kernel": held(texts)})


def test_a_module_built_into_the_running_kernel_is_told() -> None:
    text = "kernel/fs/minix/minix.ko\nkernel/net/sctp/sctp.ko\nkernel/fs/ext4/ext4.ko\n"
    told = builtin({"6.12.118+deb13-amd64": text})
    assert (told["file-systems"], told["protocols"], told["wireless"]) == (["minix"], ["sctp"], [])
    assert builtin({"6.12.118+deb13-amd64": "", "6.1.0": text})["file-systems"] == []


def test_a_kernel_without_its_list_is_no_answer() -> None:
    with pytest.raises(ProbeError, match=r"modules\.builtin: no such file"):
        builtin({"6.1.0": ""}, "6.18.44-fc-v857")
