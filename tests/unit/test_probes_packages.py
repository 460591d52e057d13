"""Package facts: where packages may come from, what is whole, what waits; PAM's stacks."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, ran, unreadable

from sekisho.probes.model import ProbeError
from sekisho.probes.packages import (
    PROBES,
    newest_kernel,
    read_deb822,
    read_one_line,
    read_settings,
)
from sekisho.probes.pam import PROBES as PAM_PROBES
from sekisho.probes.pam import read_stack

BY_NAME = {probe.name: probe for probe in (*PROBES, *PAM_PROBES)}
SETTINGS = 'APT "";\nAPT::Periodic::Unattended-Upgrade "1";\n'


def packages(
    *,
    sources: dict[str, str | None] | None = None,
    installed: str = "sudo\t1.9\tii \n",
    settings: str = SETTINGS,
    kinds: dict[str, Any] | None = None,
) -> Any:
    return BY_NAME["packages"].parse(
        {
            "installed": ran(installed),
            "sources": held(sources or {}, **(kinds or {})),
            "settings": ran(settings),
        }
    )


def test_both_forms_of_sources_are_read() -> None:
    told = packages(
        sources={
            "/etc/apt/sources.list": "# c\ndeb [signed-by=/k.gpg] http://a/debian trixie main\n",
            "/etc/apt/sources.list.d/b.sources": (
                "Types: deb\nURIs: http://b/debian\n http://c/debian\nSuites: x\nSigned-By: /k\n"
            ),
        }
    )
    assert told["sources"] == ["http://a/debian", "http://b/debian", "http://c/debian"]
    assert told["without_key"] == []
    assert told["unsigned"] == []


@pytest.mark.parametrize(
    "line",
    [
        "deb [trusted=yes] http://a x main",
        "deb [ arch=amd64 allow-insecure=yes ] http://a x main",
        "deb [Allow-Weak=TRUE signed-by=/k] http://a x main",
    ],
)
def test_a_source_that_needs_no_signature_is_told(line: str) -> None:
    assert packages(sources={"/s.list": line})["unsigned"] == ["/s.list http://a"]


def test_a_deb822_source_that_needs_no_signature_is_told() -> None:
    text = "Types: deb\nURIs: http://a\nSuites: x\nTrusted: yes\n"
    assert packages(sources={"/s.sources": text})["unsigned"] == ["/s.sources http://a"]


def test_a_source_without_its_own_key_is_told() -> None:
    assert packages(sources={"/s.list": "deb http://a x main"})["without_key"] == [
        "/s.list http://a"
    ]


def test_a_source_that_is_switched_off_is_none() -> None:
    text = "Enabled: no\nTypes: deb\nURIs: http://a\nSuites: x\n"
    assert packages(sources={"/s.sources": text})["sources"] == []


@pytest.mark.parametrize("bad", ["deb", "dep http://a x main", "Types: deb"])
def test_a_line_that_is_no_source_is_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        packages(sources={"/s.list": bad})


def test_a_block_without_uris_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="without URIs"):
        packages(sources={"/s.sources": "Types: deb\nSuites: x\n"})


def test_a_source_that_cannot_be_read_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="Permission denied"):
        packages(sources={"/s.list": None}, kinds={"/s.list": unreadable()})


def test_holds_and_half_installed_packages_are_told() -> None:
    told = packages(installed="a\t1\tii \nb\t1\thi \nc\t1\tiU \nd\t1\trc \ne\t1\tiHR\n")
    assert told["held"] == ["b"]
    assert told["broken"] == ["c iU", "e iHR"]
    assert told["installed"] == ["a", "b"]


@pytest.mark.parametrize("bad", ["", "a\t1\n", "a\t1\tzz \n"])
def test_garbled_package_lists_are_no_fact(bad: str) -> None:
    with pytest.raises(ProbeError):
        packages(installed=bad)


def test_switches_that_waive_signatures_are_told_whatever_their_word() -> None:
    for word in ("1", "true", "Yes"):
        told = packages(settings=SETTINGS + f'APT::Get::AllowUnauthenticated "{word}";\n')
        assert told["weak_settings"] == ["APT::Get::AllowUnauthenticated"]
    assert packages(settings=SETTINGS)["weak_settings"] == []


def test_lists_of_settings_are_kept_whole() -> None:
    text = 'Unattended-Upgrade::Origins-Pattern "";\n'
    text += (
        'Unattended-Upgrade::Origins-Pattern:: "a";\nUnattended-Upgrade::Origins-Pattern:: "b";\n'
    )
    assert packages(settings=text)["origins"] == ["a", "b"]


def test_hooks_of_apt_are_told() -> None:
    assert packages(settings=SETTINGS + 'DPkg::Post-Invoke:: "true";\n')["hooks"] == ["true"]


def test_the_newest_kernel_is_found_by_number_not_by_letter() -> None:
    names = [f"/boot/vmlinuz-6.12.{n}+deb13-amd64" for n in (9, 117, 48)]
    assert newest_kernel(names) == "6.12.117+deb13-amd64"
    with pytest.raises(ProbeError):
        newest_kernel([])


def test_a_machine_that_runs_an_older_kernel_is_told() -> None:
    told = BY_NAME["kernel_package"].parse(
        {
            "release": ran("6.12.9-amd64\n"),
            "images": held(
                {"/boot/vmlinuz-6.12.9-amd64": None, "/boot/vmlinuz-6.12.10-amd64": None}
            ),
            "restart": held({}),
        }
    )
    assert told["older_than_installed"] == ["6.12.9-amd64 (installed: 6.12.10-amd64)"]


@given(st.text())
def test_sources_and_settings_of_any_text_are_read_or_refused(text: str) -> None:
    for reader in (
        lambda: read_one_line("/x", text),
        lambda: read_deb822("/x", text),
        lambda: read_settings(text),
        lambda: read_stack("/x", text),
    ):
        with contextlib.suppress(ProbeError):
            reader()


# -- PAM ------------------------------------------------------------------------------------------


def pam(auth: str = "auth required pam_unix.so\n", **texts: str) -> Any:
    return BY_NAME["pam"].parse({"files": held({"/etc/pam.d/common-auth": auth} | texts)})


def test_a_stack_is_told_with_its_white_space_made_even() -> None:
    told = pam("# c\nauth\t[success=1  default=ignore]\t pam_unix.so  nullok # c\n@include x\n")
    assert told["stacks"]["common-auth"] == [
        "auth [success=1  default=ignore] pam_unix.so nullok",
        "@include x",
    ]
    assert told["empty_passwords"] == ["common-auth"]
    assert told["modules"] == ["pam_unix.so"]


def test_switches_and_numbers_of_faillock_are_read() -> None:
    told = pam(**{"/etc/security/faillock.conf": "# c\ndeny = 5\naudit\n"})
    assert told["faillock"] == {"deny": "5", "audit": "yes"}
    assert told["quality"] == {}


def test_the_longest_idle_time_counts() -> None:
    told = pam(
        **{"/etc/profile.d/a.sh": "TMOUT=900\n", "/etc/profile.d/b.sh": "readonly TMOUT=0\n"}
    )
    assert told["idle_seconds"] == 900
    assert "idle_seconds" not in pam()


def test_a_line_that_is_no_entry_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="not an entry"):
        pam("authentic required pam_unix.so\n")
    with pytest.raises(ProbeError, match="no such file"):
        BY_NAME["pam"].parse({"files": held({})})
