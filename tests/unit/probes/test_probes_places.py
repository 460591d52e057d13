"""Files of no package: found by what they are not, in every folder that is read for them."""

from __future__ import annotations

from typing import Any

import pytest
from probes_raw import held, link, owning, ran

from sekisho.probes.model import ProbeError
from sekisho.probes.places import PROBES

(PROBE,) = PROBES
BASH = "/usr/bin/bash\0\0"


def places(
    texts: dict[str, str | None],
    *,
    owners: tuple[str, ...] = (),
    programs: str = BASH,
    **kinds: Any,
) -> Any:
    return PROBE.parse(
        {
            **owning("/usr/bin/bash", *owners),
            "programs": ran(programs),
            "files": held(texts, **kinds),
        }
    )


#: Where each kind of thing is read from: the vendor's folders, the administrator's, those of /run.
PLACES = [
    ("/usr/lib/x86_64-linux-gnu/security/pam_x.so", "pam_modules"),
    ("/usr/lib/x86_64-linux-gnu/libnss_x.so.2", "name_modules"),
    ("/usr/local/lib/libc.so.6", "local_libraries"),
    ("/usr/local/lib/x86_64-linux-gnu/libc.so.6", "local_libraries"),
    ("/etc/systemd/system/x.service", "units"),
    ("/run/systemd/system/x.timer", "units"),
    ("/usr/lib/systemd/system/x.service", "units"),
    ("/usr/lib/systemd/user/x.service", "units"),
    ("/usr/local/lib/systemd/user/x.service", "units"),
    ("/etc/systemd/user/x.service", "units"),
    ("/etc/systemd/system.control/x.service", "units"),
    ("/usr/share/systemd/user/x.service", "units"),
    ("/home/aoki/.config/systemd/user/x.service", "units"),
    ("/root/.local/share/systemd/user/x.service", "units"),
    ("/etc/systemd/system/ssh.service.d/x.conf", "drop_ins"),
    ("/usr/lib/systemd/system/ssh.service.d/x.conf", "drop_ins"),
    ("/etc/systemd/user/x.service.d/x.conf", "drop_ins"),
    ("/run/systemd/system.control/ssh.service.d/x.conf", "drop_ins"),
    ("/usr/lib/systemd/system-generators/x", "generators"),
    ("/run/systemd/system-generators/x", "generators"),
    ("/etc/systemd/user-generators/x", "generators"),
    ("/usr/lib/systemd/system-environment-generators/x", "generators"),
    ("/etc/cron.d/x", "cron"),
    ("/etc/cron.d/.x", "cron"),
    ("/var/spool/cron/crontabs/root", "cron"),
    ("/etc/profile.d/x.sh", "start_scripts"),
    ("/etc/rc.local", "start_scripts"),
    ("/etc/ssh/sshrc", "start_scripts"),
    ("/etc/apt/apt.conf.d/99x", "apt_settings"),
    ("/etc/apt/trusted.gpg.d/x.asc", "apt_keys"),
    ("/etc/ld.so.conf.d/x.conf", "library_paths"),
    ("/etc/initramfs-tools/hooks/x", "boot_hooks"),
    ("/usr/share/initramfs-tools/scripts/init-top/x", "boot_hooks"),
    ("/etc/kernel/postinst.d/x", "boot_hooks"),
    ("/etc/grub.d/99_x", "boot_hooks"),
    ("/usr/lib/python3/dist-packages/x.pth", "python_start"),
    ("/usr/lib/python3/dist-packages/sitecustomize.py", "python_start"),
    ("/usr/lib/python3.13/os.py", "python_start"),
    ("/etc/udev/rules.d/x.rules", "hooks"),
    ("/usr/lib/udev/rules.d/x.rules", "hooks"),
    ("/usr/lib/udev/x-helper", "hooks"),
    ("/usr/lib/systemd/system-sleep/x", "hooks"),
    ("/usr/lib/systemd/system-shutdown/x", "hooks"),
    ("/usr/share/dbus-1/system-services/x.service", "hooks"),
    ("/etc/polkit-1/rules.d/x.rules", "hooks"),
    ("/usr/lib/binfmt.d/x.conf", "hooks"),
    ("/etc/tmpfiles.d/x.conf", "hooks"),
    ("/run/modprobe.d/x.conf", "hooks"),
    ("/etc/logrotate.d/x", "hooks"),
    ("/etc/network/if-up.d/x", "hooks"),
]


@pytest.mark.parametrize(("path", "key"), PLACES)
def test_a_file_of_no_package_is_told_and_a_packaged_one_is_not(path: str, key: str) -> None:
    assert places({path: None})[key] == [path]
    assert places({path: None}, owners=(path,))[key] == []


@pytest.mark.parametrize(("path", "key"), PLACES)
def test_a_link_counts_as_what_it_leads_to(path: str, key: str) -> None:
    """A link was passed over whatever it led to: the file itself could lie anywhere."""
    evil = places({path: None}, **{path: link("/srv/evil")})
    key = "unit_links" if key == "units" else key
    assert evil[key] == [f"{path} -> /srv/evil"]
    packaged = places({path: None}, owners=("/usr/lib/own",), **{path: link("/usr/lib/own")})
    assert packaged[key] == []
    loop = places({path: None}, **{path: link(path)})
    assert loop[key] == [f"{path} -> {path}"]


def test_a_mask_brings_nothing() -> None:
    path = "/etc/systemd/system/x.service"
    told = places({path: None}, **{path: link("/dev/null")})
    assert (told["units"], told["unit_links"]) == ([], [])


def test_local_software_is_told_whoever_brought_it() -> None:
    told = places(
        {"/usr/local/bin/x": None, "/usr/local/bin/.agent": None, "/opt/y": None},
        **{"/opt/y": {"kind": "dir"}},
    )
    assert told["local"] == ["/opt/y", "/usr/local/bin/.agent", "/usr/local/bin/x"]


def test_roots_own_python_modules_are_told() -> None:
    path = "/root/.local/lib/python3.13/site-packages/x.pth"
    assert places({path: None})["local_python"] == [path]


def test_a_program_of_no_package_is_told_and_an_alternative_is_not() -> None:
    told = places(
        {"/etc/alternatives/awk": None},
        owners=("/usr/bin/mawk",),
        programs=BASH
        + "/usr/sbin/x\0\0/usr/bin/awk\0/etc/alternatives/awk\0/usr/bin/y\0../../srv/y\0",
        **{"/etc/alternatives/awk": link("/bin/mawk")},
    )
    assert told["programs"] == ["/usr/bin/y -> ../../srv/y", "/usr/sbin/x"]


@pytest.mark.parametrize("text", ["", "\0", "/usr/bin/bash\0", "/usr/bin/bash"])
def test_a_list_of_programs_that_is_cut_is_no_fact(text: str) -> None:
    with pytest.raises(ProbeError):
        places({}, programs=text)


def test_a_unit_that_is_a_link_out_of_the_systems_folders_is_told() -> None:
    told = places(
        {f"/etc/systemd/system/{name}.service": None for name in "abc"},
        owners=("/usr/lib/systemd/system/a.service",),
        **{
            "/etc/systemd/system/a.service": link("/usr/lib/systemd/system/a.service"),
            "/etc/systemd/system/b.service": link("/dev/null"),
            "/etc/systemd/system/c.service": link("/srv/c.service"),
        },
    )
    assert told["unit_links"] == ["/etc/systemd/system/c.service -> /srv/c.service"]


def test_who_lingers_is_told() -> None:
    assert places({"/var/lib/systemd/linger/aoki": ""})["lingering"] == ["aoki"]


def test_what_at_counts_with_is_no_job() -> None:
    assert places({"/var/spool/cron/atjobs/.SEQ": None})["cron"] == []
    assert places({"/var/spool/cron/atjobs/a1": None})["cron"] == ["/var/spool/cron/atjobs/a1"]


def test_a_persons_units_behind_a_link_are_told() -> None:
    path = "/home/aoki/.config"
    behind = link("/srv") | {"error": "a link that others can have made"}
    assert places({path: None}, **{path: behind})["unit_links"] == [f"{path} -> /srv"]
