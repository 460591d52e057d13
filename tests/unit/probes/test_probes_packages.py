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


# Each form tried with apt 3.0.3 (`apt-get indextargets`, against a source with no signature).
@pytest.mark.parametrize(
    "options",
    [
        "trusted=yes",
        " arch=amd64 allow-insecure=yes ",
        "allow-weak=TRUE signed-by=/k",
        'trusted="yes"',
        '"trusted=yes"',
        'trusted="y"es',
        "trusted=on",
        "trusted=01",
        "trusted=0x1",
        "trusted=no trusted=yes",
        "trus%74ed=yes",
        "trusted=%79es",
        'arch="amd64 arm64" trusted=yes',
        "trusted=yes\tarch=amd64",
    ],
)
def test_a_source_that_needs_no_signature_is_told(options: str) -> None:
    line = f"deb [{options}] http://a x main"
    assert packages(sources={"/s.list": line})["unsigned"] == ["/s.list http://a"]


@pytest.mark.parametrize(
    "options",
    [
        "trusted=yes trusted=no",
        "TRUSTED=yes",
        "Allow-Weak=TRUE",  # apt tells an option's name apart by case: this one does nothing
        "trusted=maybe",
        "trusted=2",
        "trusted+=yes",
        "lang=en,trusted=yes",
        "",
    ],
)
def test_words_that_do_not_waive_a_signature_for_apt(options: str) -> None:
    line = f"deb [{options}] http://a x main # [trusted=yes]"
    assert packages(sources={"/s.list": line})["unsigned"] == []


@pytest.mark.parametrize(
    ("fields", "weak"),
    [
        ("Trusted: yes", True),
        ("trusted: YES", True),
        ("Trusted:\n yes", True),
        ("Trusted: on\r", True),
        ("Trusted: no\nTrusted: yes", True),
        ("Allow-Weak: with", True),
        (" \nTrusted: yes", True),  # a line of blanks ends no stanza
        ("Trusted: yes\nTrusted: no", False),
        ('Trusted: "yes"', False),
        ("Trusted: yes # c", False),
        (" Trusted: yes", False),
    ],
)
def test_a_deb822_source_that_needs_no_signature_is_told(fields: str, weak: bool) -> None:
    text = f"Types: deb\nURIs: http://a\nSuites: x\nComponents: main\n{fields}\n"
    assert packages(sources={"/s.sources": text})["unsigned"] == ["/s.sources http://a"] * weak


def test_a_source_without_its_own_key_is_told() -> None:
    assert packages(sources={"/s.list": "deb http://a x main"})["without_key"] == [
        "/s.list http://a"
    ]


@pytest.mark.parametrize("word", ["no", "No", "off", "disable", "without", "0", "FALSE", "no "])
def test_a_source_that_is_switched_off_is_none(word: str) -> None:
    text = f"Enabled: {word}\nTypes: deb\nURIs: http://a\nSuites: x\n"
    assert packages(sources={"/s.sources": text})["sources"] == []
    twice = text.replace("\n", "\nEnabled: yes\n", 1)
    assert packages(sources={"/s.sources": twice})["sources"] == ["http://a"]


@pytest.mark.parametrize("word", ["yes", "", "never", "f", "maybe", '"no"', "1"])
def test_a_source_that_apt_does_not_take_for_switched_off_counts(word: str) -> None:
    text = f"Enabled: {word}\nTypes: deb\nURIs: http://a\nSuites: x\n"
    assert packages(sources={"/s.sources": text})["sources"] == ["http://a"]


def test_the_keys_path_is_kept_as_written() -> None:
    (source,) = read_one_line("/s.list", "deb [signed-by=/K/Foo.gpg] http://a x main")
    assert source.signed_by == "/K/Foo.gpg"
    assert packages(sources={"/s.list": "deb [Signed-By=/K] http://a x main"})["without_key"]


def test_a_file_that_apt_passes_over_holds_no_source() -> None:
    line = "deb [trusted=yes] http://a x main"
    for name in ("a b.list", ".a.list", "a~.list", "\u00e9.list"):
        assert packages(sources={f"/etc/apt/sources.list.d/{name}": line})["sources"] == []


@pytest.mark.parametrize(
    "setting",
    [
        'Dir::Etc::SourceList "/opt/x.list";',
        'dir::etc::sourceparts "/opt";',
        'Dir::Etc "/opt";',
        'Dir "/opt";',
    ],
)
def test_sources_that_apt_reads_elsewhere_are_told(setting: str) -> None:
    told = packages(settings=SETTINGS + setting + "\n")
    for fact in ("sources", "unsigned"):
        assert told[fact] == [
            f"apt reads its sources by {setting[:-1].lower().replace(chr(34), '')}"
        ]


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


@pytest.mark.parametrize("word", ["1", "true", "Yes", "on", "0x1"])
@pytest.mark.parametrize(
    "name", ["APT::Get::AllowUnauthenticated", "apt::get::allowunauthenticated"]
)
def test_switches_that_waive_signatures_are_told_whatever_their_word(name: str, word: str) -> None:
    told = packages(settings=SETTINGS + f'{name} "{word}";\n')
    assert told["weak_settings"] == ["APT::Get::AllowUnauthenticated"]
    # The last one counts.
    assert packages(settings=SETTINGS + f'{name} "{word}";\n{name} "no";\n')["weak_settings"] == []


def test_what_unattended_upgrades_leaves_out_or_adds_is_told() -> None:
    text = (
        'unattended-upgrade::Package-Blacklist "";\nunattended-upgrade::Package-Blacklist:: ".*";\n'
    )
    text += 'Unattended-Upgrade::Allowed-Origins:: "o:a";\n'
    assert packages(settings=SETTINGS + text)["unattended"] == {
        "allowed-origins": ["o:a"],
        "package-blacklist": [".*"],
        "update-days": [],
    }
    assert packages()["settings"]["apt::periodic::unattended-upgrade"] == "1"


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


LOGIN = "auth optional pam_faildelay.so delay=3000000\nauth requisite pam_nologin.so\n"
LOGIN += "@include common-auth\nauth optional pam_group.so\n"
COUNTED = """auth required pam_faillock.so preauth
auth [success=2 default=ignore] pam_unix.so
auth [default=die] pam_faillock.so authfail
auth requisite pam_deny.so
auth required pam_permit.so
"""


def pam(auth: str = "auth required pam_unix.so\n", login: str = LOGIN, **texts: str) -> Any:
    stacks = {"/etc/pam.d/common-auth": auth, "/etc/pam.d/login": login}
    return BY_NAME["pam"].parse({"files": held(stacks | texts)})


def test_a_stack_is_told_with_its_white_space_made_even() -> None:
    told = pam("# c\nauth\t[success=1  default=ignore]\t pam_unix.so  nullok # c\nauth include x\n",
               **{"/etc/pam.d/x": ""})  # fmt: skip
    assert told["stacks"]["common-auth"] == [
        "auth [success=1  default=ignore] pam_unix.so nullok",
        "auth include x",
    ]
    assert told["empty_passwords"] == ["common-auth"]


def test_a_packages_own_stack_counts_where_etc_has_none() -> None:
    vendor = {"/usr/lib/pam.d/run0": "auth sufficient pam_unix.so nullok_secure\n"}
    assert pam(**vendor)["empty_passwords"] == ["run0"]
    assert (
        pam(**vendor, **{"/etc/pam.d/run0": "auth required pam_deny.so\n"})["empty_passwords"] == []
    )


def test_a_login_that_counts_failed_passwords() -> None:
    assert pam(COUNTED)["uncounted"] == []


@pytest.mark.parametrize(
    ("login", "told"),
    [
        ("auth requisite pam_nologin.so\n", "do not ask pam_faillock"),
        ("auth required pam_unix.so\n", "do not ask pam_faillock"),
        ("auth sufficient pam_permit.so\n" + LOGIN, "login: auth sufficient pam_permit.so"),
        ("auth [success=done] pam_unix.so\n" + LOGIN, "success=done"),
        ("auth [default=9] pam_unix.so\n" + LOGIN, "default=9"),
        ("@include trial\n" + LOGIN, "pam_rootok.so"),
        ("auth substack trial\n" + LOGIN, "pam_rootok.so"),
    ],
)
def test_a_way_round_the_counting_is_told(login: str, told: str) -> None:
    trial = {"/etc/pam.d/trial": "auth sufficient pam_rootok.so\n"}
    (seen,) = pam(COUNTED, login, **trial)["uncounted"]
    assert told in seen


@pytest.mark.parametrize("login", ["@include nowhere\n", "@include login\n", "@include\n"])
def test_an_include_that_leads_nowhere_is_an_error(login: str) -> None:
    with pytest.raises(ProbeError):
        pam(COUNTED, login)


def test_switches_and_numbers_of_faillock_are_read() -> None:
    told = pam(**{"/etc/security/faillock.conf": "# c\ndeny = 5\naudit\n"})
    assert told["faillock"] == {"deny": "5", "audit": "yes"}
    assert told["quality"] == {}


def test_the_main_file_of_password_quality_is_read_last() -> None:
    conf = "/etc/security/pwquality.conf"
    told = pam(**{conf: "minlen = 14\n", f"{conf}.d/z.conf": "minlen = 6\ndcredit = 3\n"})
    assert told["quality"] == {"minlen": "14", "dcredit": "3"}


def test_a_line_that_is_no_entry_is_no_fact() -> None:
    with pytest.raises(ProbeError, match="not an entry"):
        pam("authentic required pam_unix.so\n")
    with pytest.raises(ProbeError, match="no such file"):
        BY_NAME["pam"].parse({"files": held({})})


@pytest.mark.parametrize("path", ["/usr/lib/pam.d/systemd-user", "/etc/pam.d/.hidden"])
def test_a_vendors_stack_and_a_hidden_one_are_read_too(path: str) -> None:
    told = pam("", **{path: "session optional pam_exec.so /x\n"})
    assert "pam_exec.so" in told["modules"]


@pytest.mark.parametrize(
    ("module", "elsewhere"),
    [
        ("pam_unix.so", False),
        ("/usr/lib/x86_64-linux-gnu/security/pam_unix.so", False),
        ("/lib/security/pam_unix.so", False),
        ("/srv/pam_unix.so", True),
        ("../../../srv/pam_unix.so", True),
        ("/usr/lib/x86_64-linux-gnu/security/../../pam_x.so", True),
    ],
)
def test_a_module_named_by_a_path_of_somebodys_own_is_told(module: str, elsewhere: bool) -> None:
    told = pam("", **{"/etc/pam.d/x": f"auth required {module}\n"})
    assert told["modules_elsewhere"] == ([module] if elsewhere else [])
