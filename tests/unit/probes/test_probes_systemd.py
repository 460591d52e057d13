"""Units that run, and units that are masked or enabled on disk."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link, ran

from sekisho.probes.model import ProbeError
from sekisho.probes.systemd import PROBES

BY_NAME = {probe.name: probe for probe in PROBES}


def test_active_and_failed_units_are_told_apart() -> None:
    told = BY_NAME["units"].parse(
        {
            "units": ran(
                "ssh.service loaded active running OpenBSD Secure Shell server\n"
                "x.service   loaded failed failed  X\n"
                "y.service   loaded activating auto-restart Y\n"
            )
        }
    )
    assert told == {"active": ["ssh.service", "y.service"], "failed": ["x.service"]}


@pytest.mark.parametrize("text", ["", "● x\n", "no units\n", "x.service loaded failed failed X\n"])
def test_a_list_without_one_active_unit_is_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        BY_NAME["units"].parse({"units": ran(text)})


def test_a_systemctl_that_fails_is_an_error() -> None:
    with pytest.raises(ProbeError):
        BY_NAME["units"].parse({"units": ran("", rc=1)})


def unit_files(
    etc: dict[str, Any], lib: tuple[str, ...] = (), above: dict[str, Any] | None = None
) -> Any:
    return BY_NAME["unit-files"].parse(
        {
            "above": {"files": above or {}},
            "etc": {"files": etc},
            "lib": held(dict.fromkeys((f"/usr/lib/systemd/system/{name}" for name in lib), None)),
        }
    )


ETC = "/etc/systemd/system"
FILE = {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file"}
DIR = {"mode": 0o755, "uid": 0, "gid": 0, "kind": "dir"}


def test_only_a_link_to_dev_null_masks() -> None:
    told = unit_files(
        {
            f"{ETC}/a.service": link("/dev/null"),
            f"{ETC}/b.service": link("/usr/lib/systemd/system/b.service"),
            f"{ETC}/c.service": FILE,
        },
        ("a.service", "d.service"),
    )
    assert told["masked"] == ["a.service"]
    assert told["present"] == ["b.service", "c.service", "d.service"]


def test_enabled_is_a_link_in_a_wants_directory() -> None:
    told = unit_files(
        {
            f"{ETC}/sysinit.target.wants": DIR,
            f"{ETC}/sysinit.target.wants/apparmor.service": link(
                "/usr/lib/systemd/system/apparmor.service"
            ),
            f"{ETC}/ssh.service.d/x.conf": FILE,
        }
    )
    assert told["enabled"] == ["apparmor.service"]
    assert told["drop_ins"] == ["ssh.service.d/x.conf"]


@given(st.text(max_size=300))
def test_no_list_makes_the_reader_crash(text: str) -> None:
    try:
        BY_NAME["units"].parse({"units": ran(text)})
    except ProbeError:
        return


@pytest.mark.parametrize(
    "folder",
    ["/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"],
)
def test_a_unit_that_counts_before_the_mask_undoes_it(folder: str) -> None:
    etc = {f"{ETC}/debug-shell.service": link("/dev/null")}
    told = unit_files(etc, above={f"{folder}/debug-shell.service": FILE})
    assert (told["masked"], told["present"]) == ([], ["debug-shell.service"])
    told = unit_files(etc, above={f"{folder}/debug-shell.service": link("/dev/null")})
    assert told["masked"] == ["debug-shell.service"]


def test_a_masked_unit_is_not_enabled() -> None:
    told = unit_files(
        {
            f"{ETC}/sysinit.target.wants/apparmor.service": link("/usr/lib/systemd/system/a"),
            f"{ETC}/apparmor.service": link("/dev/null"),
        }
    )
    assert told["enabled"] == []


def manager(texts: dict[str, str | None]) -> Any:
    return BY_NAME["manager"].parse({"files": held(texts)})


def test_the_last_drop_in_of_system_conf_counts() -> None:
    ours = {
        "/etc/systemd/system.conf.d/60-sekisho-core.conf": "[Manager]\nCtrlAltDelBurstAction=none\n"
    }
    vendor = {"/usr/lib/systemd/system.conf": "CtrlAltDelBurstAction=reboot-force\n"}
    assert manager(vendor | ours) == {"CtrlAltDelBurstAction": "none"}
    late = {"/run/systemd/system.conf.d/90-x.conf": "CtrlAltDelBurstAction=reboot-force\n"}
    assert manager(vendor | ours | late)["CtrlAltDelBurstAction"] == "reboot-force"
    assert manager({"/etc/systemd/system.conf": "#CtrlAltDelBurstAction=none\n"}) == {}
    both = {"/etc/systemd/system.conf": "A=1\n"} | vendor
    assert manager(both) == {"A": "1"}  # of the main files the first alone


def test_what_networkd_waits_for_is_told() -> None:
    text = "Requires=sekisho-nftables.service system.slice\nAfter=sekisho-nftables.service\n"
    told = BY_NAME["network-start"].parse({"networkd": ran(text)})
    assert told["requires"] == ["sekisho-nftables.service", "system.slice"]
    with pytest.raises(ProbeError):
        BY_NAME["network-start"].parse({"networkd": ran("")})


WANTED = link("/usr/lib/systemd/system/x.service")


@pytest.mark.parametrize(
    ("etc", "enabled"),
    [
        ({f"{ETC}/multi-user.target.wants/x.service": WANTED}, ["x.service"]),
        ({f"{ETC}/rescue.target.wants/x.service": WANTED}, []),
        ({f"{ETC}/reboot.target.wants/x.service": WANTED}, []),
        ({f"{ETC}/.multi-user.target.wants/x.service": WANTED}, []),
        ({f"{ETC}/multi-user.target.wants/.x.service": WANTED}, []),
        (
            {
                f"{ETC}/multi-user.target.wants/x.service": WANTED,
                f"{ETC}/x.service": link("/dev/null"),
            },
            [],
        ),
    ],
)
def test_enabled_is_what_a_usual_boot_starts(etc: dict[str, Any], enabled: list[str]) -> None:
    assert unit_files(etc)["enabled"] == enabled


SHOWN = "MaxConnections=16\nTriggerLimitIntervalUSec=0\nLoadState=loaded\nDropInPaths=\n"


def test_the_auditors_socket_is_told_as_systemd_runs_it() -> None:
    parse = BY_NAME["probe-socket"].parse
    assert parse({"show": ran(SHOWN)}) == {
        "LoadState": "loaded",
        "TriggerLimitIntervalUSec": "0",
        "MaxConnections": "16",
        "drop_ins": [],
    }
    changed = SHOWN.replace("=0", "=10s").replace(
        "DropInPaths=", "DropInPaths=/etc/systemd/system/sekisho-probe.socket.d/90-limit.conf"
    )
    told = parse({"show": ran(changed)})
    assert (told["TriggerLimitIntervalUSec"], told["drop_ins"]) == ("10s", ["90-limit.conf"])


@pytest.mark.parametrize("text", ["", "LoadState=loaded\n", SHOWN.replace("Trigger", "T")])
def test_a_systemd_that_does_not_tell_the_limit_is_an_error(text: str) -> None:
    with pytest.raises(ProbeError):
        BY_NAME["probe-socket"].parse({"show": ran(text)})
