"""Whose kernel runs: only Debian's own build, from a whole package, is Debian's kernel."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran, unreadable

from sekisho.probes.kernel_build import PROBES
from sekisho.probes.model import ProbeError

RELEASE = "6.12.48+deb13-amd64"
NAME = f"linux-image-{RELEASE}"
VERSION = "6.12.48-1"
MD5 = "0123456789abcdef0123456789abcdef"
LINE = (
    f"Linux version {RELEASE} (debian-kernel@lists.debian.org) (x86_64-linux-gnu-gcc-14 "
    "(Debian 14.2.0-19) 14.2.0, GNU ld (GNU Binutils for Debian) 2.44) #1 SMP PREEMPT_DYNAMIC "
    f"Debian {VERSION} (2025-09-20)\n"
)
WHOLE: dict[str, Any] = {
    "version": held({"/proc/version": LINE}),
    "installed": ran(f"bash\t5.2\tii \n{NAME}\t{VERSION}\tii \n"),
    "owners": ran(f"/var/lib/dpkg/info/{NAME}.list:/boot/vmlinuz-{RELEASE}\n"),
    "recorded": ran(f"/var/lib/dpkg/info/{NAME}.md5sums:{MD5}  boot/vmlinuz-{RELEASE}\n"),
    "images": ran(f"{MD5}  /boot/vmlinuz-{RELEASE}\n"),
}


def told(**changed: Any) -> dict[str, Any]:
    (probe,) = PROBES
    fact = probe.parse(WHOLE | changed)
    assert isinstance(fact, dict)
    return fact


def version(line: str) -> dict[str, Any]:
    return held({"/proc/version": line})


def test_debians_kernel_of_a_whole_package_is_debians() -> None:
    assert told() == {"release": RELEASE, "foreign": [], "unpackaged": []}


@pytest.mark.parametrize(
    "line",
    [
        # seen by a stranger: no taint flag, and nobody's Debian kernel
        "Linux version 6.18.44-fc-v857 (builder@sandboxing) (gcc (GCC) 15.3.0) #1 SMP @0\n",
        LINE.replace("debian-kernel@lists.debian.org", "me@home"),
        LINE.replace(f"Debian {VERSION} (2025-09-20)", "Mon Jan 5 10:00:00 UTC 2026"),
        LINE.replace(f" Debian {VERSION} (2025-09-20)", f" Debian {VERSION} (2025-09-20) custom"),
    ],
)
def test_a_kernel_that_debian_did_not_build_is_told(line: str) -> None:
    assert told(version=version(line))["foreign"]


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"images": ran("")}, "no such image"),
        ({"images": ran(f"{MD5}  /boot/vmlinuz-6.1.0-40-amd64\n")}, "no such image"),
        ({"images": ran(f"{'f' * 32}  /boot/vmlinuz-{RELEASE}\n")}, "not as linux-image"),
        ({"recorded": ran("", rc=1)}, "not as linux-image"),
        ({"owners": ran("", rc=1)}, "of no package"),
        ({"installed": ran("bash\t5.2\tii \n")}, "of no package"),
        ({"installed": ran(f"{NAME}\t{VERSION}\trc \n")}, "of no package"),
        (
            {"recorded": ran(f"/var/lib/dpkg/info/x.md5sums:{MD5}  boot/vmlinuz-{RELEASE}\n")},
            "not as linux-image",
        ),
        ({"installed": ran(f"{NAME}\t6.12.48-2\tii \n")}, "6.12.48-1 runs, installed is"),
    ],
)
def test_an_image_that_its_package_did_not_bring_is_told(changed: Any, why: str) -> None:
    (found,) = told(**changed)["unpackaged"]
    assert why in found


@pytest.mark.parametrize(
    "changed",
    [
        {"version": version("")},
        {"version": version("FreeBSD 15\n")},
        {"version": held({"/proc/version": None}, **{"/proc/version": unreadable()})},
        {"images": ran("", rc=1)},
        {"images": ran("x\n")},
        {"owners": ran("x\n")},
        {"owners": ran("", rc=2)},
        {"recorded": ran("x\n")},
        {"installed": ran("")},
    ],
)
def test_what_cannot_be_read_is_no_fact(changed: Any) -> None:
    with pytest.raises(ProbeError):
        told(**changed)


@given(st.text(), st.sampled_from(["owners", "recorded", "images", "installed"]))
def test_no_output_makes_the_reader_crash(text: str, label: str) -> None:
    for changed in ({label: ran(text)}, {"version": version(text)}):
        try:
            told(**changed)
        except ProbeError:
            continue
