"""Permission facts: no file name forges the walk's records, nothing is taken for clean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, owning, ran

from sekisho.probes.model import ProbeError
from sekisho.probes.permissions import PROBES, split_walk, walk_argv

BY_NAME = {probe.name: probe for probe in PROBES}
TMP = "\0" + "1777 0 0 d /tmp" + "\0"
IDS = {"/etc/passwd": "root:x:0:0::/root:/bin/sh\naoki:x:2001:2001::/h:/bin/sh\n",
       "/etc/group": "root:x:0:\naoki:x:2001:\n"}  # fmt: skip


def record(mode: str, path: str, *, kind: str = "f", ids: str = "0 0") -> str:
    return f"\0{mode} {ids} {kind} {path}\0"


def walk(
    text: str, *, owners: tuple[str, ...] = ("/usr/bin/sudo",), libraries: str = "", **more: Any
) -> Any:
    return BY_NAME["walk"].parse(
        {
            "walk": ran(text, **more),
            "libraries": ran(libraries),
            **owning(*owners),
            "ids": held(dict(IDS)),
        }
    )


@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to nobody")
@pytest.mark.parametrize("ids", [(987654, 0), (0, 987654), (987654, 987654)])
def test_the_walk_itself_finds_the_file_of_nobody(tmp_path: Path, ids: tuple[int, int]) -> None:
    tmp_path.chmod(0o755)  # what root keeps to itself is not entered
    for name, owner in {"lost": ids, "roots": (0, 0)}.items():
        (tmp_path / name).touch()
        os.chown(tmp_path / name, *owner)
    done = subprocess.run(walk_argv(str(tmp_path)), capture_output=True, text=True, check=False)
    assert [one["path"] for one in split_walk(done.stdout)[0]] == [f"{tmp_path}/lost"]


def test_a_machine_whose_root_has_no_name_gives_no_fact() -> None:
    raw = {"walk": ran(TMP), "libraries": ran(""), **owning("/usr/bin/sudo")}
    nameless = held({**IDS, "/etc/passwd": "aoki:x:2001:2001::/h:/bin/sh\n"})
    with pytest.raises(ProbeError, match="0 has no name"):
        BY_NAME["walk"].parse({**raw, "ids": nameless})


def test_what_lies_below_the_libraries_is_told_with_the_rest() -> None:
    told = walk(TMP, libraries=record("4755", "/usr/lib/x"))
    assert told["unpackaged_privileged"] == ["/usr/lib/x"]
    with pytest.raises(ProbeError):
        walk(TMP, libraries="\0")


@pytest.mark.process
def test_the_two_walks_are_one_and_meet_nowhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # what root keeps to itself is not entered
    for name in ("usr/lib/deep", "usr/bin", "srv"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "open").touch()
        (tmp_path / name / "open").chmod(0o666)
    libraries = f"{tmp_path}/usr/lib"
    seen = []
    for argv in (walk_argv(str(tmp_path), but=libraries), walk_argv(libraries, but="")):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        seen += [match["path"] for match in split_walk(done.stdout)[0]]
    assert sorted(seen) == sorted(
        f"{tmp_path}/{name}/open" for name in ("usr/lib/deep", "usr/bin", "srv")
    )


def test_a_privileged_file_of_a_package_is_told_and_is_nobodys_worry() -> None:
    told = walk(TMP + record("4755", "/usr/bin/su") + "util-linux: /usr/bin/su\n")
    assert told["privileged"] == ["/usr/bin/su"]
    assert told["unpackaged_privileged"] == []


def test_a_privileged_file_of_no_package_is_told() -> None:
    told = walk(TMP + record("4755", "/srv/x"), rc=1)
    assert told["unpackaged_privileged"] == ["/srv/x"]


def test_debian_12_lists_some_files_without_usr() -> None:
    told = walk(TMP + record("4755", "/usr/bin/su"), owners=("/bin/su",))
    assert told["unpackaged_privileged"] == []


@pytest.mark.parametrize(
    "name", ["/srv/x\nsudo: /srv/x", "/srv/a: /srv/x", "/srv/x cap_net_raw=ep", "/srv/\x01\x7f"]
)
def test_no_file_name_passes_for_a_packages_word(name: str) -> None:
    told = walk(TMP + record("4755", name) + record("4755", "/srv/x"))
    assert told["unpackaged_privileged"] == sorted([name, "/srv/x"])
    assert told["capable"] == []


def test_shared_folders_are_told_from_open_ones() -> None:
    told = walk(TMP + record("0777", "/srv/open", kind="d") + record("0666", "/srv/f"))
    assert told["world_writable_folders"] == ["/srv/open"]
    assert told["world_writable_files"] == ["/srv/f"]


def test_files_of_nobody_are_told_and_those_of_passing_users_are_not() -> None:
    told = walk(TMP + record("0644", "/a", ids="4242 0") + record("0644", "/b", ids="61200 61200"))
    assert told["unowned"] == ["/a"]


def test_devices_belong_into_dev() -> None:
    told = walk(
        TMP
        + record("0660", "/dev/sda", kind="b")
        + record("0000", "/run/systemd/inaccessible/blk", kind="b")
        + record("0600", "/srv/d", kind="b")
        + record("0600", "/srv/run/systemd/inaccessible/blk", kind="b")
    )
    assert told["devices_elsewhere"] == ["/srv/d", "/srv/run/systemd/inaccessible/blk"]


def test_capabilities_are_told_by_file() -> None:
    told = walk(TMP + "/usr/bin/ping cap_net_raw=ep\n/usr/bin/all =ep\n")
    assert told["capable_files"] == ["/usr/bin/all", "/usr/bin/ping"]


def test_a_line_nobody_understands_is_not_passed_over() -> None:
    assert walk(TMP + "/srv/split\n")["capable_files"] == ["unreadable: /srv/split"]


def test_without_getcap_the_capabilities_are_not_known() -> None:
    assert "capable" not in walk(TMP, stderr="find: 'getcap': No such file or directory\n", rc=1)


def test_a_walk_that_was_kept_out_somewhere_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="Permission denied"):
        walk(TMP, stderr="find: '/var/x': Permission denied\n", rc=1)


@pytest.mark.parametrize("bad", ["", "\0", "\0mode x\0", TMP + "\0", "4755 0 0 f /x"])
def test_an_empty_cut_or_garbled_walk_is_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        walk(bad)


@given(st.text(alphabet=st.characters(exclude_characters="\0")), st.text())
def test_whatever_stands_between_the_records_the_records_are_kept(name: str, between: str) -> None:
    between = between.replace("\0", "")
    records, _ = split_walk(f"{between}\0" + f"4755 0 0 f /{name}" + f"\0{between}")
    assert [one["path"] for one in records] == [f"/{name}"]


def test_the_walk_leaves_out_only_what_is_not_local_or_is_roots_alone() -> None:
    argv = walk_argv()
    left_out = [argv[i + 1] for i, word in enumerate(argv) if word == "-fstype"]
    assert {"proc", "sysfs", "nfs4"} <= set(left_out)
    assert not {"ext4", "xfs", "btrfs", "tmpfs", "overlay", "vfat", "devtmpfs"} & set(left_out)


def modes(places: str = "", *, secrets: Any = None, **kinds: Any) -> Any:
    shut = held({"/etc/shadow": None}, **{"/etc/shadow": {"mode": 0o640, "gid": 42}})
    return BY_NAME["modes"].parse(
        {
            "places": ran(places),
            "files": held(dict.fromkeys(("/etc/passwd", *kinds)), **kinds),
            "secrets": secrets or shut,
        }
    )


def test_what_others_own_or_can_write_is_told_wherever_it_lies() -> None:
    told = modes(
        "0 664 /etc/profile\0001000 644 /etc/systemd/system/a.service.d/x.conf\0"
        "0 2775 /usr/lib/x86_64-linux-gnu\0000 666 /etc/a b\nc\0",
        **{"/var/lib": {"mode": 0o777}},
    )
    assert told["writable"] == [
        "/etc/a b\nc", "/etc/profile", "/usr/lib/x86_64-linux-gnu", "/var/lib",
    ]  # fmt: skip
    assert told["not_root"] == ["/etc/systemd/system/a.service.d/x.conf"]
    assert told["readable_secrets"] == []


@pytest.mark.parametrize("bad", ["0 664 /etc/profile", "0 664\0", "x 664 /etc\0"])
def test_a_cut_or_garbled_walk_over_roots_places_is_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        modes(bad)


@pytest.mark.parametrize(
    ("entry", "open_"),
    [
        ({"mode": 0o600}, False),
        ({"mode": 0o640, "gid": 42}, False),
        ({"mode": 0o640, "gid": 0}, False),
        ({"mode": 0o644}, True),
        ({"mode": 0o640, "gid": 1000}, True),  # people are in that group
        ({"mode": 0o600, "uid": 1000}, True),
        ({"kind": "link", "mode": 0o777, "target": "/tmp/x"}, True),
    ],
)
def test_a_secret_that_others_can_read_is_told(entry: dict[str, Any], open_: bool) -> None:
    path = "/etc/sekisho/host.key.pem"
    told = modes(secrets=held({path: None}, **{path: entry}))
    assert told["readable_secrets"] == [path] * open_


def test_no_file_at_all_is_no_fact() -> None:
    with pytest.raises(ProbeError):
        BY_NAME["modes"].parse({"places": ran(""), "files": held({}), "secrets": held({})})
