"""Kernel facts: what systemd-sysctl would do, and what the kernel says of itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link, unreadable

from sekisho.probes.kernel import PROBES, sysctl_name
from sekisho.probes.model import ProbeError

BY_NAME = {probe.name: probe for probe in PROBES}


def fact(name: str, **raw: Any) -> Any:
    return BY_NAME[name].parse(raw)


def test_a_file_in_etc_hides_one_of_the_same_name_in_usr_lib() -> None:
    told = fact(
        "sysctl",
        live=held({}),
        disk=held(
            {
                "/etc/sysctl.d/50-a.conf": "kernel.sysrq = 0\n",
                "/usr/lib/sysctl.d/50-a.conf": "kernel.sysrq = 438\nkernel.panic = 1\n",
            }
        ),
    )
    assert told["disk"] == {"kernel.sysrq": "0"}


def test_the_last_file_name_counts_whatever_its_directory() -> None:
    told = fact(
        "sysctl",
        live=held({}),
        disk=held(
            {
                "/etc/sysctl.d/60-sekisho.conf": "kernel.sysrq = 0\n",
                "/usr/lib/sysctl.d/99-vendor.conf": "kernel.sysrq=1\n",
            }
        ),
    )
    assert told["disk"]["kernel.sysrq"] == "1"


def test_a_link_to_dev_null_masks_a_vendor_file() -> None:
    raw = held({"/usr/lib/sysctl.d/50-a.conf": "kernel.sysrq = 1\n"})
    raw["files"]["/etc/sysctl.d/50-a.conf"] = link("/dev/null")
    assert fact("sysctl", live=held({}), disk=raw)["disk"] == {}


def test_an_unreadable_sysctl_file_is_an_error_and_not_silence() -> None:
    raw = held({})
    raw["files"]["/etc/sysctl.d/99-secret.conf"] = unreadable()
    with pytest.raises(ProbeError, match="99-secret"):
        fact("sysctl", live=held({}), disk=raw)


def test_comments_and_the_ignore_mark_are_read_as_sysctl_d_says() -> None:
    told = fact(
        "sysctl",
        live=held({}),
        disk=held({"/etc/sysctl.d/a.conf": "# kernel.a = 1\n; kernel.b=2\n-kernel.c = 3 4\n"}),
    )
    assert told["disk"] == {"kernel.c": "3 4"}


LIVE = {
    f"/proc/sys/net/ipv4/conf/{name}/log_martians": "1\n"
    for name in ("all", "default", "lo", "eth1.5")
}
MARTIANS = "net.ipv4.conf.{}.log_martians"


# Tried with systemd-sysctl 257 in a network namespace of its own.
@pytest.mark.parametrize(
    ("lines", "disk"),
    [
        ("net.ipv4.conf.*.log_martians = 1", {"1"}),
        ("net/ipv4/conf/*/log_martians = 1", {"1"}),
        ("net.*.conf.*.log_martians = 1", {"1"}),
        ("net.ipv4.conf.*.log_martians = 1\n-net.ipv4.conf.lo.log_martians", {"1", "excluded"}),
        ("-net.ipv4.conf.lo.log_martians\nnet.ipv4.conf.*.log_martians = 1", {"1", "excluded"}),
        ("net.ipv4.conf.*.log_martians = 1\n-net.ipv4.conf.l*.log_martians", {"1"}),
        ("net.ipv4.conf.lo.log_martians = 0\nnet.ipv4.conf.*.log_martians = 1", {"0", "1"}),
        ("net.ipv4.conf.*.log_martians = 1\nnet.ipv4.conf.*.log_mart*ans = 0", {"0", "1"}),
        ("net.ipv4.conf.*.log_martians = 1\n-net.ipv4.conf.*.log_martians", set()),
        ("net.ipv4.conf.eth1/5.log_martians = 0\nnet.ipv4.conf.*.log_martians=1", {"0", "1"}),
    ],
)
def test_every_interface_gets_what_systemd_sysctl_would_give_it(lines: str, disk: set[str]) -> None:
    told = fact("sysctl", live=held(LIVE), disk=held({"/etc/sysctl.d/a.conf": lines}))
    assert set(told["interfaces"]["disk"]["ipv4"].get("log_martians", [])) == disk


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        ("net.ipv4.conf.all.log_martians = 1", "1"),
        ("net.ipv4.conf..all.log_martians = 1", "1"),
        (" - net.ipv4.conf.all.log_martians = 1", "1"),
        ("net.ipv4.conf.all.log_martians = 1\nnet/ipv4/conf/all/log_martians = 0", "0"),
        ("net.ipv4.conf.all.log_martians = 1\n-net.ipv4.conf.all.log_martians = 0", "0"),
        ("net.ipv4.conf.all.log_martians = 1\n-net.ipv4.conf.all.log_martians", None),
        ("net.ipv4.conf.all.log_martians 1", None),
        ("/proc/sys/net/ipv4/conf/all/log_martians = 1", None),
        ("net.ipv4.conf.{all,lo}.log_martians = 1", None),
        # The third line says what the first says: it stays where it was, before the second.
        (
            f"{MARTIANS.format('a*')} = 0\n{MARTIANS.format('*')} = 1\n{MARTIANS.format('a*')} = 0",
            "1",
        ),
    ],
)
def test_the_last_word_on_a_setting_counts(lines: str, value: str | None) -> None:
    told = fact("sysctl", live=held(LIVE), disk=held({"/etc/sysctl.d/a.conf": lines}))
    assert told["disk"].get("net.ipv4.conf.all.log_martians") == value


def test_a_kernel_that_waits_to_be_started_is_told() -> None:
    raw = held({"/sys/kernel/kexec_loaded": "1\n"})
    assert fact("lockdown", state=raw)["kexec_loaded"] == "1"


def test_one_interface_with_another_value_is_seen() -> None:
    told = fact(
        "sysctl",
        live=held(
            {
                "/proc/sys/net/ipv4/conf/all/rp_filter": "1\n",
                "/proc/sys/net/ipv4/conf/eth1/rp_filter": "0\n",
                "/proc/sys/net/ipv6/conf/eth1/accept_ra": "0\n",
            }
        ),
        disk=held({}),
    )
    assert told["interfaces"]["runtime"]["ipv4"]["rp_filter"] == ["0", "1"]
    assert told["interfaces"]["runtime"]["ipv6"]["accept_ra"] == ["0"]


def test_a_setting_that_cannot_be_read_is_absent_so_that_judging_says_error() -> None:
    raw = held({})
    raw["files"]["/proc/sys/kernel/kptr_restrict"] = unreadable()
    assert "kernel.kptr_restrict" not in fact("sysctl", live=raw, disk=held({}))["runtime"]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("kernel.sysrq", "kernel.sysrq"),
        (" -kernel/sysrq ", "kernel.sysrq"),
        ("net/ipv4/conf/eth0.7/rp_filter", "net.ipv4.conf.eth0/7.rp_filter"),
        ("net.ipv4.conf.eth0/7.rp_filter", "net.ipv4.conf.eth0/7.rp_filter"),
    ],
)
def test_the_first_separator_says_how_a_name_is_written(written: str, name: str) -> None:
    assert sysctl_name(written) == name


@given(st.text(max_size=200))
def test_no_sysctl_file_makes_the_reader_crash(text: str) -> None:
    told = fact("sysctl", live=held({}), disk=held({"/etc/sysctl.d/a.conf": text}))
    assert isinstance(told["disk"], dict)


def test_taint_bits_have_names_and_modules_are_named() -> None:
    told = fact(
        "taint",
        tainted=held({"/proc/sys/kernel/tainted": "12289\n"}),
        modules=held({"/sys/module/evil/taint": "OE\n", "/sys/module/ext4/taint": "\n"}),
    )
    assert told["flags"] == ["proprietary-module", "out-of-tree-module", "unsigned-module"]
    assert told["modules"] == {"evil": "OE"}


@pytest.mark.parametrize("text", ["", "yes", "-1", "0x1"])
def test_a_garbled_taint_is_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        fact("taint", tainted=held({"/proc/sys/kernel/tainted": text}), modules=held({}))


def test_an_unknown_taint_bit_is_not_lost() -> None:
    told = fact("taint", tainted=held({"/proc/sys/kernel/tainted": str(1 << 40)}), modules=held({}))
    assert told["flags"] == ["bit-40"]


def test_lockdown_is_the_bracketed_state() -> None:
    told = fact(
        "lockdown",
        state=held(
            {
                "/sys/kernel/security/lockdown": "none [integrity] confidentiality\n",
                "/sys/kernel/security/lsm": "lockdown,yama,apparmor",
                "/sys/module/module/parameters/sig_enforce": "Y\n",
            }
        ),
    )
    assert told == {
        "lockdown": "integrity",
        "lsm": ["lockdown", "yama", "apparmor"],
        "signatures_required": "Y",
    }


def test_a_kernel_without_lockdown_has_no_state_to_pass_with() -> None:
    assert "lockdown" not in fact("lockdown", state=held({}))


def test_a_lockdown_file_without_a_state_is_an_error() -> None:
    with pytest.raises(ProbeError):
        fact("lockdown", state=held({"/sys/kernel/security/lockdown": "none integrity"}))


def test_the_boot_parameters_of_our_grub_file_are_read(repository: Any) -> None:
    text = (repository / "hardening/grub/sekisho.cfg").read_text()
    told = fact(
        "kernel-command-line",
        cmdline=held(
            {"/proc/cmdline": "root=/dev/vda ro\n", "/etc/default/grub.d/sekisho.cfg": text}
        ),
    )
    assert told["runtime"] == ["root=/dev/vda", "ro"]
    assert "usbcore.authorized_default=0" in told["disk"]


def test_a_hidden_file_is_seen_and_is_no_setting_in_force() -> None:
    """systemd-sysctl, kmod and udev pass over it: its content must make no check green."""
    told = fact(
        "sysctl", live=held({}), disk=held({"/etc/sysctl.d/.60-x.conf": "kernel.sysrq=0\n"})
    )
    assert "kernel.sysrq" not in told["disk"]
    told = fact("sysctl", live=held({}), disk=held({"/etc/sysctl.d/60-x.conf": "kernel.sysrq=0\n"}))
    assert told["disk"]["kernel.sysrq"] == "0"


def next_words(texts: dict[str, str | None]) -> Any:
    raw = held({"/proc/cmdline": "ro\n"} | texts)
    return fact("kernel-command-line", cmdline=raw)["disk"]


OURS = 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX audit=1 lockdown=integrity"\n'


def test_a_later_file_that_takes_our_words_away_is_what_counts() -> None:
    """Our own file alone says nothing: update-grub reads the rest, and the menu is what boots."""
    ours = {"/etc/default/grub.d/sekisho.cfg": OURS}
    assert next_words(ours) == ["audit=1", "lockdown=integrity"]
    assert next_words({"/etc/default/grub": 'GRUB_CMDLINE_LINUX="a"\n'} | ours) == [
        "a", "audit=1", "lockdown=integrity",
    ]  # fmt: skip
    assert next_words(ours | {"/etc/default/grub.d/zz.cfg": "export GRUB_CMDLINE_LINUX=''\n"}) == []
    assert next_words({"/etc/default/grub.d/.sekisho.cfg": OURS}) == []
    more = ours | {"/etc/default/grub.d/zz.cfg": 'GRUB_CMDLINE_LINUX+=" b"\n'}
    assert next_words(more)[-1] == "b"


def test_the_boot_menu_wins_and_every_entry_must_have_a_word() -> None:
    ours = {"/etc/default/grub.d/sekisho.cfg": OURS}
    menu = (
        "\tlinux\t/vmlinuz root=UUID=1 ro audit=1 quiet\n"
        "\tlinux /vmlinuz root=UUID=1 ro single audit=1\n"
    )
    assert next_words(ours | {"/boot/grub/grub.cfg": menu}) == ["root=UUID=1", "ro", "audit=1"]
    assert next_words(ours | {"/boot/grub/grub.cfg": "set x=1\n"}) == []
