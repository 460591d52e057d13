"""Mounts, swap and core dumps, now and after a boot."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link

from sekisho.probes.model import ProbeError
from sekisho.probes.mounts import PROBES, parse_fstab, parse_mountinfo

BY_NAME = {probe.name: probe for probe in PROBES}
ROOT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,errors=remount-ro\n"
TMP = "30 22 0:30 / /tmp rw,nosuid,nodev shared:9 - tmpfs tmpfs rw,size=1k\n"
SHIPPED = "[Mount]\nWhat=tmpfs\nOptions=mode=1777,strictatime,nosuid,nodev,size=50%%\n"
DROP_IN = "[Mount]\nOptions=mode=1777,nosuid,nodev,noexec,size=50%%\n"


def mounts(info: str, *, fstab: str = "", units: dict[str, Any] | None = None) -> Any:
    return BY_NAME["mounts"].parse(
        {
            "tables": held({"/proc/1/mountinfo": info, "/etc/fstab": fstab}),
            "units": held(units or {}),
        }
    )


def test_options_of_the_mount_and_of_the_file_system_are_both_seen() -> None:
    told = mounts(ROOT + TMP)
    assert told["runtime"]["/tmp"]["options"] == ["nodev", "nosuid", "rw", "size=1k"]


def test_the_mounts_of_process_one_count_and_not_the_collectors_own() -> None:
    raw = {
        "tables": held({"/proc/1/mountinfo": ROOT + TMP, "/proc/self/mountinfo": ROOT}),
        "units": held({}),
    }
    assert "/tmp" in BY_NAME["mounts"].parse(raw)["runtime"]


def test_a_blank_in_a_mount_point_is_read() -> None:
    line = r"31 22 8:1 / /media/My\040Stick rw - vfat /dev/sda1 rw" + "\n"
    assert mounts(ROOT + line)["foreign"] == ["/media/My Stick"]


@pytest.mark.parametrize("text", ["", "garbage\n", ROOT.replace(" / rw", " /x rw"), "1 2 3 - a\n"])
def test_a_garbled_table_is_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        parse_mountinfo(text)


@pytest.mark.parametrize(
    ("kind", "point", "foreign"),
    [
        ("vfat", "/boot/efi", False),
        ("vfat", "/mnt", True),
        ("nfs4", "/srv", True),
        ("fuse.sshfs", "/srv", True),
        ("fusectl", "/sys/fs/fuse/connections", False),
        ("xfs", "/srv", False),
        ("iso9660", "/srv", True),
    ],
)
def test_what_comes_from_elsewhere_is_foreign(kind: str, point: str, foreign: bool) -> None:
    told = mounts(ROOT + f"40 22 8:1 / {point} rw - {kind} source rw\n")
    assert bool(told["foreign"]) is foreign


def test_the_shipped_tmp_unit_alone_lets_programs_run() -> None:
    told = mounts(ROOT, units={"/usr/lib/systemd/system/tmp.mount": SHIPPED})
    assert "noexec" not in told["persistent"]["/tmp"]


def test_our_drop_in_replaces_the_options() -> None:
    told = mounts(
        ROOT,
        units={
            "/usr/lib/systemd/system/tmp.mount": SHIPPED,
            "/etc/systemd/system/tmp.mount.d/60-sekisho.conf": DROP_IN,
        },
    )
    assert {"nosuid", "nodev", "noexec"} <= set(told["persistent"]["/tmp"])


def test_a_later_drop_in_can_take_it_away_again() -> None:
    told = mounts(
        ROOT,
        units={
            "/usr/lib/systemd/system/tmp.mount": SHIPPED,
            "/etc/systemd/system/tmp.mount.d/60-sekisho.conf": DROP_IN,
            "/etc/systemd/system/tmp.mount.d/99-exec.conf": "[Mount]\nOptions=mode=1777\n",
        },
    )
    assert told["persistent"]["/tmp"] == ["mode=1777"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ("nosuid,nodev,noexec", ["nodev", "noexec", "nosuid"]),
        ("nosuid,nodev,noexec,exec", ["exec", "nodev", "nosuid"]),
        ("exec,suid,dev,noexec,nosuid,nodev", ["nodev", "noexec", "nosuid"]),
        ("user", ["nodev", "noexec", "nosuid", "user"]),
        ("noexec,user,exec", ["exec", "nodev", "nosuid", "user"]),
    ],
)
def test_the_last_of_two_options_counts(options: str, kept: list[str]) -> None:
    told = mounts(ROOT, fstab=f"tmpfs /dev/shm tmpfs {options} 0 0\n")
    assert told["persistent"]["/dev/shm"] == kept
    unit = {"/usr/lib/systemd/system/tmp.mount": f"[Mount]\nOptions={options}\n"}
    assert mounts(ROOT, units=unit)["persistent"]["/tmp"] == kept


@pytest.mark.parametrize(
    "path",
    [
        "/usr/local/lib/systemd/system/tmp.mount.d/90-x.conf",
        "/etc/systemd/system/mount.d/90-x.conf",
        "/run/systemd/system/tmp.mount",
    ],
)
def test_every_folder_of_the_tmp_unit_counts(path: str) -> None:
    shipped = "[Mount]\nOptions=nosuid,nodev,noexec\n"
    units = {"/usr/lib/systemd/system/tmp.mount": shipped, path: "[Mount]\nOptions=nosuid,nodev\n"}
    assert mounts(ROOT, units=units)["persistent"]["/tmp"] == ["nodev", "nosuid"]


def test_a_masked_tmp_unit_mounts_nothing() -> None:
    units = held({"/usr/lib/systemd/system/tmp.mount": SHIPPED})
    units["files"]["/etc/systemd/system/tmp.mount"] = link("/dev/null")
    told = BY_NAME["mounts"].parse({"tables": held({"/proc/1/mountinfo": ROOT}), "units": units})
    assert "/tmp" not in told["persistent"]


@pytest.mark.parametrize(
    ("line", "removable"),
    [
        ("/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0", True),
        ("/dev/sdb1 /data ext4 defaults,user 0 2", True),
        ("/dev/sdb1 /data auto defaults 0 0", True),
        ("server:/x /srv nfs4 defaults 0 0", True),
        ("/dev/sdb1 /mnt/x ext4 defaults 0 0", True),
        ("/dev/sda1 /boot/efi vfat umask=0077 0 1", False),
        ("UUID=1 / ext4 errors=remount-ro 0 1", False),
        ("tmpfs /dev/shm tmpfs nosuid,nodev,noexec 0 0", False),
        ("# /dev/sr0 /media/cdrom0 udf user,noauto 0 0", False),
    ],
)
def test_fstab_lines_that_let_media_in(line: str, removable: bool) -> None:
    assert bool(mounts(ROOT, fstab=line + "\n")["fstab_removable"]) is removable


def test_a_cut_fstab_line_is_an_error() -> None:
    with pytest.raises(ProbeError):
        parse_fstab("/dev/vda /\n")


@given(st.text(max_size=300))
def test_no_table_makes_the_readers_crash(text: str) -> None:
    for reader in (parse_fstab, parse_mountinfo):
        try:
            reader(text)
        except ProbeError:
            continue


HEAD = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"


def swap(
    lines: str,
    *,
    fstab: str = "",
    crypttab: str = "",
    mapped: dict[str, str] | None = None,
    names: dict[str, str] | None = None,
) -> Any:
    return BY_NAME["swap"].parse(
        {
            "tables": held(
                {"/proc/swaps": HEAD + lines, "/etc/fstab": fstab, "/etc/crypttab": crypttab}
            ),
            "mapped": held(dict(mapped or {})),
            "names": held(dict(names or {})),
            "units": held({}),
        }
    )


def test_no_swap_is_no_plain_swap() -> None:
    assert swap("") == {"plain": [], "configured": []}


def test_a_swap_file_is_plain() -> None:
    assert swap("/var/swapfile file 16380 0 -2\n")["plain"] == ["/var/swapfile"]


def test_encrypted_swap_and_swap_in_memory_are_not_plain() -> None:
    told = swap(
        "/dev/dm-0 partition 1 0 -2\n/dev/zram0 partition 1 0 100\n",
        mapped={"/sys/class/block/dm-0/dm/uuid": "CRYPT-PLAIN-swap\n"},
    )
    assert told["plain"] == []


def test_a_mapped_device_that_is_not_encrypted_is_plain() -> None:
    told = swap("/dev/dm-0 partition 1 0 -2\n", mapped={"/sys/class/block/dm-0/dm/uuid": "LVM-x\n"})
    assert told["plain"] == ["/dev/dm-0"]


def test_swap_that_comes_back_at_boot_is_configured() -> None:
    assert swap("", fstab="UUID=9 none swap sw 0 0\n")["configured"] == ["UUID=9"]


def test_swap_on_a_mapped_device_is_encrypted_only_when_crypttab_or_the_kernel_says_so() -> None:
    """LVM maps devices too: a name below /dev/mapper says nothing of encryption."""
    fstab = "/dev/mapper/vg-swap none swap sw 0 0\n"
    assert swap("", fstab=fstab)["configured"] == ["/dev/mapper/vg-swap"]
    crypttab = "# vg-swap\nvg-swap /dev/vda5 /dev/urandom swap\n"
    assert swap("", fstab=fstab, crypttab=crypttab)["configured"] == []
    assert swap("", fstab=fstab, crypttab="# vg-swap x y z\n")["configured"] != []
    held_now = {
        "mapped": {"/sys/class/block/dm-0/dm/uuid": "CRYPT-LUKS2-x\n"},
        "names": {"/sys/class/block/dm-0/dm/name": "vg-swap\n"},
    }
    assert swap("", fstab=fstab, **held_now)["configured"] == []
    lvm = held_now | {"mapped": {"/sys/class/block/dm-0/dm/uuid": "LVM-x\n"}}
    assert swap("", fstab=fstab, **lvm)["configured"] == ["/dev/mapper/vg-swap"]


def test_the_kernel_says_whether_it_can_hibernate() -> None:
    def told(texts: dict[str, str | None]) -> Any:
        return BY_NAME["sleep"].parse({"state": held(texts)})["states"]

    assert told({"/sys/power/state": "freeze mem disk\n"}) == ["freeze", "mem", "disk"]
    assert told({"/sys/power/state": "\n"}) == told({}) == []
    with pytest.raises(ProbeError):
        told({"/sys/power/state": None})


def core_limits(texts: dict[str, str]) -> Any:
    raw = {name: held({}) for name in ("manager", "coredump", "handler")}
    raw["limits"] = held(dict(texts))
    raw["now"] = held({"/proc/1/limits": ""})
    return BY_NAME["core-dumps"].parse(raw)["raised"]


def test_a_core_limit_raised_for_one_person_is_told() -> None:
    def told(limits: str) -> Any:
        return core_limits({"/etc/security/limits.d/60-x.conf": limits})

    everybody = "* hard core 0\nroot hard core 0\n"
    assert told(everybody) == []
    for line in ("aoki hard core unlimited", "@ops - core 1", "aoki soft core 100"):
        assert told(f"{everybody}{line}\n") == [f"/etc/security/limits.d/60-x.conf: {line}"]


def test_a_swap_table_without_its_heading_is_an_error() -> None:
    with pytest.raises(ProbeError):
        BY_NAME["swap"].parse(
            {
                "tables": held({"/proc/swaps": ""}),
                "mapped": held({}),
                "names": held({}),
                "units": held({}),
            }
        )


def test_core_dump_settings_are_read_from_every_place(repository: Any) -> None:
    content = repository / "hardening"
    told = BY_NAME["core-dumps"].parse(
        {
            "limits": held(
                {
                    "/etc/security/limits.conf": "# * hard core 1\n",
                    "/etc/security/limits.d/60-sekisho.conf": (
                        content / "limits/60-sekisho.conf"
                    ).read_text(),
                }
            ),
            "manager": held(
                {
                    "/etc/systemd/system.conf.d/60-sekisho-core.conf": (
                        content / "systemd/60-sekisho-core.conf"
                    ).read_text()
                }
            ),
            "coredump": held(
                {
                    "/etc/systemd/coredump.conf.d/60-sekisho.conf": (
                        content / "systemd/60-sekisho-coredump.conf"
                    ).read_text()
                }
            ),
            "handler": held({}),
            "now": held({"/proc/1/limits": "Max core file size        0     unlimited  bytes\n"}),
        }
    )
    assert told == {
        "limits": {"*": "0", "root": "0"},
        "raised": [],
        "units": "0",
        "storage": "none",
        "handler": "absent",
        "pid1": "unlimited",
    }


def test_of_two_core_limits_for_the_same_the_later_counts() -> None:
    """As Debian 13 ships it (10-coredump-debian.conf), and our own file behind it."""
    debian = "* soft core 0\nroot soft core 0\n* hard core infinity\nroot hard core infinity\n"
    ours = "* hard core 0\nroot hard core 0\n"
    folder = "/etc/security/limits.d"
    assert core_limits({f"{folder}/10-a.conf": debian, f"{folder}/60-b.conf": ours}) == []
    found = core_limits({f"{folder}/10-a.conf": ours, f"{folder}/60-b.conf": debian})
    assert found == [
        f"{folder}/60-b.conf: * hard core infinity", f"{folder}/60-b.conf: root hard core infinity",
    ]  # fmt: skip
