"""Whose a file is: by dpkg's lists of the packages it knows, and what was moved aside."""

from __future__ import annotations

import contextlib
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, owning, ran, unreadable

from sekisho.local.collect import read, run
from sekisho.probes.model import ProbeError, Run
from sekisho.probes.ownership import OWNERSHIP, read_owners, read_ownership
from sekisho.probes.registry import registry


def test_owners_are_read_across_the_merge_of_usr() -> None:
    assert read_ownership(owning("/bin/x", "/etc/y")) == {"/bin/x", "/usr/bin/x", "/etc/y"}


@pytest.mark.parametrize("package", ["never-heard-of", "gone", "gone:amd64"])
def test_a_list_of_a_package_that_dpkg_does_not_have_owns_nothing(package: str) -> None:
    raw = owning("/usr/bin/x", package=package)
    raw["owners"]["stdout"] += "/var/lib/dpkg/info/bash.list:/usr/bin/bash\n"
    assert read_ownership(raw) == {"/usr/bin/bash"}


def test_a_file_that_a_package_moved_aside_still_has_its_owner_and_one_moved_by_hand_has_not() -> (
    None
):
    moved = "/usr/bin/a\n/usr/bin/a.distrib\ndash\n/usr/bin/b\n/usr/bin/b.mine\n:\n"
    assert read_ownership(owning("/usr/bin/a", diversions=moved)) == {
        "/usr/bin/a", "/usr/bin/a.distrib",
    }  # fmt: skip


def test_a_machine_without_diversions_is_in_order() -> None:
    raw = owning("/usr/bin/a")
    assert read_ownership(raw) == read_ownership(raw | {"diversions": held({})}) == {"/usr/bin/a"}


@pytest.mark.parametrize(
    "off",
    [
        {"owners": ran("")},
        {"owners": ran("", rc=1)},
        {"owners": ran("/var/lib/dpkg/info/bash.list:/etc/x\n", rc=2)},
        {"owners": ran("/var/lib/dpkg/info/bash.list:/etc/x\n", truncated=True)},
        {"owners": ran("/srv/bash.list:/etc/x\n")},
        {"owners": ran("bash: /etc/x\n")},
        {"installed": ran("")},
        {"diversions": held({"/d": None}, **{"/d": unreadable()})},
        {"diversions": held({"/d": "/a\n/b\n"})},
    ],
)
def test_a_record_that_is_empty_cut_or_garbled_is_no_fact(off: dict[str, Any]) -> None:
    with pytest.raises(ProbeError):
        read_ownership(owning("/etc/x") | off)


def test_what_dpkg_query_says_of_single_files_is_read_and_its_word_on_diversions_is_not() -> None:
    text = "a, b:amd64: /bin/x\ndiversion by d from: /etc/sh\nlocal diversion to: /etc/z\nc: /etc/y"
    assert read_owners(text.splitlines()) == {"/bin/x", "/usr/bin/x", "/etc/y"}


@given(st.text(), st.text())
def test_readers_take_any_text_or_refuse_it(lines: str, diversions: str) -> None:
    read_owners(lines.splitlines())
    for raw in (owning(lines, diversions=diversions), {**owning(), "owners": ran(lines)}):
        with contextlib.suppress(ProbeError):
            read_ownership(raw)


@pytest.mark.process
def test_this_machines_dpkg_says_the_same_of_every_place() -> None:
    raw = {
        label: run(what) if isinstance(what, Run) else read(what)
        for label, what in OWNERSHIP.items()
    }
    places = (
        *("/etc/*", "/usr/bin/*", "/usr/sbin/*", "/bin/*", "/sbin/*"),
        *("/usr/lib/systemd/system*", "/lib/systemd/system*"),
        *("/usr/lib/python3/dist-packages/*.pth", "/usr/lib/*/security/*.so"),
        *("/lib/*/security/*.so", "/usr/lib/*/libnss_*.so*", "/lib/*/libnss_*.so*"),
    )
    further = (
        *("/usr/lib/systemd/*", "/lib/systemd/*", "/usr/lib/udev/*", "/lib/udev/*"),
        *("/usr/lib/kernel/*", "/usr/lib/*.d/*", "/lib/*.d/*", "/usr/lib/python3*"),
        *("/usr/lib/networkd-dispatcher*", "/usr/lib/NetworkManager*", "*/bin/*", "*/sbin/*"),
        "*.usr-is-merged",  # Debian 13 diverts files there that another package is about to move
    )

    def asked(patterns: tuple[str, ...]) -> set[str]:
        told = subprocess.run(
            ["dpkg-query", "-S", *patterns], capture_output=True, text=True, check=False
        )
        return read_owners(told.stdout.splitlines())

    by_dpkg, ours = asked(places), read_ownership(raw)
    everywhere = by_dpkg | asked(further)
    elsewhere = {path for path in ours - everywhere if not path.startswith("/usr/share/")}
    assert len(by_dpkg) > 100
    assert by_dpkg <= ours
    assert elsewhere == set()


def test_the_same_record_is_collected_once() -> None:
    walk, places = registry()["walk"].operations, registry()["places"].operations
    assert all(walk[label] == places[label] == what for label, what in OWNERSHIP.items())
    assert registry()["packages"].operations["installed"] == OWNERSHIP["installed"]
