"""Security updates that wait: versions in Debian's order, lists of the security archive alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran, unreadable

from sekisho.probes.model import ProbeError
from sekisho.probes.updates import PROBES, SECURITY_SOURCE, compare_versions

PARSE = PROBES[0].parse
FOLDER = "/var/lib/apt/lists"
ARCHIVE = "deb.debian.org_debian-security_dists_trixie-security"
LIST = f"{FOLDER}/{ARCHIVE}_main_binary-amd64_Packages"
RELEASE = f"{FOLDER}/{ARCHIVE}_InRelease:Label: Debian-Security\n"
TRIAL = "Types: deb\nURIs: file:/var/tmp/sekisho-security\nSuites: ./\nTrusted: yes\n"
TRIAL_LIST = f"{FOLDER}/_var_tmp_sekisho-security_._Packages"


def updates(
    offered: str = "",
    *,
    installed: str = "tzdata\t2025b-1\tall\tii \nlibssl3\t3.0.16-1\tamd64\thi \n",
    releases: str = RELEASE,
    path: str | None = LIST,
    packed: str = "",
    source: str | None = None,
) -> Any:
    return PARSE(
        {
            "source": held({} if source is None else {SECURITY_SOURCE: source}),
            "installed": ran(installed),
            "releases": ran(releases, rc=0 if releases else 1),
            "lists": ran(f"@{path}\n{offered}" if path else ""),
            "packed": ran(packed),
        }
    )


# dpkg 1.22's own answers (dpkg --compare-versions), and policy's examples.
@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1.0", "1.0+deb13u1"),
        ("1.0~rc1", "1.0"),
        ("1.0~~", "1.0~~a"),
        ("1.0-1", "1.0-1+b1"),
        ("1.9", "1.10"),
        ("9.99", "1:0.1"),
        ("2.41-12+deb13u2", "2.41-12+deb13u10"),
        ("1.0-1~bpo13+1", "1.0-1"),
        ("1.0a", "1.0+"),
        ("1.0", "1.0a"),
        ("1.0-1-1", "1.0-1-2"),
        ("0:1.0", "1.0-1"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(older: str, newer: str) -> None:
    assert compare_versions(older, newer) < 0 < compare_versions(newer, older)
    assert compare_versions(newer, newer) == 0


@pytest.mark.parametrize(("one", "same"), [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.01", "1.1")])
def test_versions_written_otherwise_are_the_same(one: str, same: str) -> None:
    assert compare_versions(one, same) == 0


VERSIONS = st.text("019aZ~+.-:", max_size=8)


@given(VERSIONS, VERSIONS)
def test_the_order_has_two_sides(one: str, other: str) -> None:
    forth, back = compare_versions(one, other), compare_versions(other, one)
    assert (forth > 0) == (back < 0)
    assert (forth == 0) == (back == 0)


def test_updates_that_wait_are_named_on_any_debian() -> None:
    told = updates("tzdata 2026a-0 all\nlibssl3 3.0.16-1 amd64\nnever-installed 9 all\n")
    assert told["pending"] == ["tzdata"]
    assert updates("tzdata 2025b-1 all\n")["pending"] == []


def test_a_held_package_waits_too() -> None:
    assert updates("libssl3 3.0.17-1 amd64\n")["pending"] == ["libssl3"]


def test_another_architectures_package_is_not_this_one() -> None:
    assert updates("libssl3 3.0.17-1 arm64\n")["pending"] == []
    both = "libssl3\t3.0.17-1\tamd64\tii \nlibssl3\t3.0.16-1\ti386\tii \n"
    assert updates("libssl3 3.0.17-1 amd64\n", installed=both)["pending"] == []
    assert updates("libssl3 3.0.17-1 i386\n", installed=both)["pending"] == ["libssl3"]


def test_a_removed_packages_settings_do_not_wait() -> None:
    installed = "bash\t5\tamd64\tii \ntzdata\t1\tall\trc \n"
    assert updates("tzdata 2026a-0 all\n", installed=installed)["pending"] == []


def test_a_newer_version_of_the_machines_own_is_no_update() -> None:
    installed = "tzdata\t2027a-1\tall\tii \n"
    assert updates("tzdata 2026a-0 all\n", installed=installed)["pending"] == []


def test_a_list_of_another_archive_does_not_count() -> None:
    foreign = f"{FOLDER}/mirror_security-tools_dists_x_main_binary-amd64_Packages"
    with pytest.raises(ProbeError, match="apt-get update"):
        updates("tzdata 2026a-0 all\n", path=foreign)


@pytest.mark.parametrize("field", ["Label: Debian-Security", "Codename: trixie-security"])
def test_the_archive_is_known_by_its_release(field: str) -> None:
    named = f"{FOLDER}/{ARCHIVE}_Release:{field}\n"
    assert updates("tzdata 2026a-0 all\n", releases=named)["pending"] == ["tzdata"]


@pytest.mark.parametrize("ending", ["lz4", "gz", "zst", "xz"])
def test_compressed_lists_are_read(ending: str) -> None:
    text = (
        f"@{LIST}.{ending}\nPackage: tzdata\nVersion: 2026a-0\nArchitecture: all\n"
        "Description: a b c\n Version: 0\n\nPackage: x\nVersion: 1\nArchitecture: all\n"
    )
    assert updates(path=None, packed=text)["pending"] == ["tzdata"]


@pytest.mark.parametrize("source", [None, TRIAL])
def test_no_list_of_a_security_archive_is_not_no_updates(source: str | None) -> None:
    with pytest.raises(ProbeError, match="no package list of a security archive"):
        updates(path=None, releases="", source=source)


def test_a_site_without_a_mirror_knows_of_none() -> None:
    assert updates(path=None, releases="", source="# none\n")["pending"] == []


def test_the_sites_own_source_counts_without_a_release() -> None:
    offered = "tzdata 9999-1 all\n"
    told = updates(offered, path=TRIAL_LIST, releases="", source=TRIAL)
    assert told["pending"] == ["tzdata"]
    # Its list left behind after the source is gone: nobody's.
    told = updates(offered, path=TRIAL_LIST, releases="", source="# none\n")
    assert told["pending"] == []


def test_a_source_that_cannot_be_read_is_an_error() -> None:
    raw = {"source": held({SECURITY_SOURCE: None}, **{SECURITY_SOURCE: unreadable()})}
    with pytest.raises(ProbeError, match="Permission denied"):
        PARSE(raw | {"installed": ran("a\t1\tall\tii \n")})


@pytest.mark.parametrize("bad", ["tzdata\n", "a b c d\n", "a  all\n"])
def test_garbled_lists_are_an_error(bad: str) -> None:
    with pytest.raises(ProbeError):
        updates(bad)
    with pytest.raises(ProbeError):
        updates(path=None, packed=f"@{LIST}.lz4\nPackage: x\n\n")


@given(st.text(), st.text(), st.text())
def test_no_answer_makes_the_reader_crash(offered: str, releases: str, packed: str) -> None:
    try:
        updates(offered, releases=releases, packed=packed)
    except ProbeError:
        return
