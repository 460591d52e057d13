"""What a third party could use: found by what it is not, a package's."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, link, owning, ran, unreadable

from sekisho.probes.model import ProbeError
from sekisho.probes.software import PROBES, read_digests

BY_NAME = {probe.name: probe for probe in PROBES}
MD5 = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32


def places(texts: dict[str, str | None], *, owners: tuple[str, ...] = (), **kinds: Any) -> Any:
    return BY_NAME["places"].parse(
        {
            **owning("/usr/bin/bash", *owners),
            "programs": ran("/usr/bin/bash\n"),
            "files": held(texts, **kinds),
        }
    )


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/usr/lib/x86_64-linux-gnu/security/pam_x.so", "pam_modules"),
        ("/usr/lib/x86_64-linux-gnu/libnss_x.so.2", "name_modules"),
        ("/etc/systemd/system/x.service", "units"),
        ("/run/systemd/system/x.timer", "units"),
        ("/home/aoki/.config/systemd/user/x.service", "units"),
        ("/etc/systemd/system/ssh.service.d/x.conf", "drop_ins"),
        ("/usr/lib/systemd/system-generators/x", "generators"),
        ("/etc/cron.d/x", "cron"),
        ("/var/spool/cron/crontabs/root", "cron"),
        ("/etc/profile.d/x.sh", "start_scripts"),
        ("/etc/rc.local", "start_scripts"),
        ("/etc/ssh/sshrc", "start_scripts"),
        ("/etc/apt/apt.conf.d/99x", "apt_settings"),
        ("/etc/apt/trusted.gpg.d/x.asc", "apt_keys"),
        ("/etc/ld.so.conf.d/x.conf", "library_paths"),
        ("/etc/initramfs-tools/hooks/x", "boot_hooks"),
        ("/usr/lib/python3/dist-packages/x.pth", "python_start"),
    ],
)
def test_a_file_of_no_package_is_told_and_a_packaged_one_is_not(path: str, key: str) -> None:
    assert places({path: None})[key] == [path]
    assert places({path: None}, owners=(path,))[key] == []


def test_local_software_is_told_whoever_brought_it() -> None:
    told = places({"/usr/local/bin/x": None, "/opt/y": None}, **{"/opt/y": {"kind": "dir"}})
    assert told["local"] == ["/opt/y", "/usr/local/bin/x"]


def test_a_program_of_no_package_is_told() -> None:
    told = BY_NAME["places"].parse(
        {
            **owning("/bin/bash"),
            "programs": ran("/usr/bin/bash\n/usr/sbin/x\n"),
            "files": held({}),
        }
    )
    assert told["programs"] == ["/usr/sbin/x"]


def test_a_unit_that_is_a_link_out_of_the_systems_folders_is_told() -> None:
    told = places(
        {f"/etc/systemd/system/{name}.service": None for name in "abc"},
        **{
            "/etc/systemd/system/a.service": link("/usr/lib/systemd/system/a.service"),
            "/etc/systemd/system/b.service": link("/dev/null"),
            "/etc/systemd/system/c.service": link("/srv/c.service"),
        },
    )
    assert told["unit_links"] == ["/etc/systemd/system/c.service -> /srv/c.service"]


def test_who_lingers_is_told() -> None:
    assert places({"/var/lib/systemd/linger/aoki": ""})["lingering"] == ["aoki"]


def preload(texts: dict[str, str | None], **kinds: Any) -> Any:
    return BY_NAME["preload"].parse({"files": held(texts, **kinds)})


def test_preloaded_libraries_and_environments_are_told() -> None:
    told = preload(
        {
            "/etc/ld.so.preload": "/lib/a.so /lib/b.so\n",
            "/etc/environment": "PATH=/x\nLD_PRELOAD=/c.so\n#LD_AUDIT=1\n",
            "/etc/sudo.conf": "# Plugin x\nPlugin approval x.so\nSet y z\n",
        }
    )
    assert told["preloaded"] == ["/lib/a.so", "/lib/b.so"]
    assert told["environment"] == ["/etc/environment: LD_PRELOAD"]
    assert told["sudo_plugins"] == ["Plugin approval x.so"]


def test_a_link_to_nowhere_sets_nothing_but_an_unreadable_file_is_no_fact() -> None:
    path = "/etc/default/locale"
    assert preload({path: None}, **{path: link("x") | {"error": "No such file or directory"}}) == {
        "preloaded": [], "environment": [], "sudo_plugins": [],
    }  # fmt: skip
    with pytest.raises(ProbeError):
        preload({"/etc/ld.so.preload": None}, **{"/etc/ld.so.preload": unreadable()})


def integrity(now: str, recorded: str = f"{MD5}  usr/sbin/sshd\n") -> Any:
    return BY_NAME["integrity"].parse(
        {"now": ran(now), "recorded": held({"/var/lib/dpkg/info/x.md5sums": recorded})}
    )


def test_a_program_as_its_package_brought_it_is_whole() -> None:
    told = integrity(f"{MD5}  /usr/sbin/sshd\n")
    assert told == {"compared": 1, "changed": [], "unrecorded": []}


def test_a_changed_program_and_one_of_no_package_are_told() -> None:
    told = integrity(f"{OTHER}  /usr/sbin/sshd\n{MD5}  /usr/lib/openssh/x\n")
    assert told["changed"] == ["/usr/sbin/sshd"]
    assert told["unrecorded"] == ["/usr/lib/openssh/x"]


def test_records_of_debian_12_without_usr_count() -> None:
    told = integrity(f"{MD5}  /usr/bin/su\n", f"{MD5}  bin/su\n")
    assert told["changed"] == told["unrecorded"] == []


@pytest.mark.parametrize("bad", ["", "x  /a\n", f"\\{MD5}  /a\\nb\n", f"{MD5}  a\n"])
def test_digests_that_cannot_be_read_are_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        integrity(bad)


def test_what_listens_is_told_by_program() -> None:
    line = (
        'tcp LISTEN 0 1 127.0.0.1:4444 0.0.0.0:* users:(("nc",pid=1,fd=3),("a\\"b",pid=2,fd=1))\n'
    )
    told = BY_NAME["processes"].parse({"names": ran("sh\nnc\n"), "listening": ran(line)})
    assert told["listening"] == ['a\\"b', "nc"]
    assert told["names"] == ["nc", "sh"]


def test_a_listener_whose_program_is_not_shown_is_no_fact() -> None:
    line = "tcp LISTEN 0 128 10.0.0.1:22 0.0.0.0:*\n"
    with pytest.raises(ProbeError, match="not shown"):
        BY_NAME["processes"].parse({"names": ran("sh\n"), "listening": ran(line)})


def test_active_timers_are_told() -> None:
    told = BY_NAME["timers"].parse({"timers": ran("a.timer loaded active waiting A\n\n")})
    assert told == {"active": ["a.timer"]}
    with pytest.raises(ProbeError):
        BY_NAME["timers"].parse({"timers": ran("", rc=1)})


@given(st.text())
def test_readers_take_any_text_or_refuse_it(text: str) -> None:
    with contextlib.suppress(ProbeError):
        read_digests(text)


def test_the_kernels_own_socket_of_a_tunnel_is_no_programs() -> None:
    line = "udp UNCONN 0 0 0.0.0.0:51820 0.0.0.0:* \n"
    raw = {"names": ran("sh\n"), "listening": ran(line)}
    told = ran("wg-2827a0be\t51820\n")
    assert BY_NAME["processes"].parse(raw | {"tunnels": told})["listening"] == []
    for other in (ran("wg-2827a0be\t51821\n"), ran("", rc=1), {"error": "wg is not installed"}):
        with pytest.raises(ProbeError, match="not shown"):
            BY_NAME["processes"].parse(raw | {"tunnels": other})
