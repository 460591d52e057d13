"""The kernel's command line: every word is declared, and what is not is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held, unreadable

from sekisho.catalogue.judge import Fact, HostFacts, judge
from sekisho.catalogue.model import Finding, Verdict
from sekisho.control.catalogue_files import load_catalogue
from sekisho.devices.boot_line import DEBIAN, TERMINAL, WORDS, declared, risky_words
from sekisho.probes.boot import PROBES
from sekisho.probes.model import ProbeError

ROOT = Path(__file__).resolve().parents[3]
LINE = " ".join(("BOOT_IMAGE=/vmlinuz-6.12 root=UUID=0a-0b", *DEBIAN, *WORDS))
CHECK = next(
    check
    for check in load_catalogue(ROOT / "hardening").checks
    if check.id == "6-iv-c.boot-asks-for-no-shell"
)


def boot(texts: dict[str, str | None], **kinds: Any) -> Any:
    (probe,) = PROBES
    return probe.parse({"files": held({"/proc/cmdline": f"{LINE}\n"} | texts, **kinds)})


def found(texts: dict[str, str | None], *own: str, role: str = "core") -> Finding:
    facts = {"boot_words": Fact(value=boot(texts))}
    policy = {"boot": declared(role, own)}
    return judge(CHECK, HostFacts(host="h", role=role, facts=facts, policy=policy))


#: Words that a list of bad ones lets through, some of them seen elsewhere.
UNDECLARED = (
    "systemd.set_credential=ssh.authorized_keys.root:c3No",
    "systemd.set_credential_binary=ssh.authorized_keys.root:c3No",
    "rd.systemd.debug_shell",
    "systemd.debug-shell=1",
    "init=/bin/sh",
    "audit=0",
    "LD_PRELOAD=/x.so",
    "mitigations=off",
    "word.nobody.has.thought.of=1",
    "--",
    "/bin/sh",
    '"init=/bin/sh"',
    "$extra",
)


@pytest.mark.parametrize("word", UNDECLARED)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/cmdline", "{line} {word}\n"),
        ("/boot/grub/grub.cfg", "\tlinux /vmlinuz root=UUID=0a-0b ro {word}\n"),
        ("/boot/grub/grub.cfg", "\tlinuxefi /vmlinuz ro \\\n {word}\n"),
        ("/boot/grub/custom.cfg", "linux /vmlinuz {word}\n"),
        ("/etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {word}"\n'),
        ("/etc/default/grub.d/x.cfg", 'export GRUB_CMDLINE_LINUX_DEFAULT+=" {word}"\n'),
        ("/etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_LINUX="ro \\\n {word}"\n'),
        ("/etc/default/grub.d/x.cfg", 'GRUB_CMDLINE_LINUX="ro\n{word}"\n'),
        ("/etc/default/grub.d/x.cfg", 'eval "GRUB_CMDLINE_LINUX={word}"\n'),
        ("/etc/kernel/cmdline", "ro {word}\n"),
        ("/boot/loader/entries/x.conf", "title x\noptions ro {word}\n"),
    ],
)
def test_a_word_that_nobody_declared_is_a_breach_wherever_it_stands(
    path: str, text: str, word: str
) -> None:
    told = found({path: text.replace("{line}", LINE).replace("{word}", word)})
    assert told.verdict is Verdict.FAIL


@given(st.from_regex(r"[a-z_.]{1,12}(=[a-z0-9]{1,8})?", fullmatch=True))
def test_any_further_word_is_a_breach(word: str) -> None:
    if word in declared("core", ()) or word.startswith(("root=", "BOOT_IMAGE=")):
        return
    assert found({"/proc/cmdline": f"{LINE} {word}\n"}).verdict is Verdict.FAIL


def test_the_declared_line_passes_now_and_at_the_next_boot() -> None:
    grub = (ROOT / "hardening/grub/sekisho.cfg").read_text(encoding="utf-8")
    texts: dict[str, str | None] = {
        "/etc/default/grub": '# GRUB_CMDLINE_LINUX="x"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n',
        "/etc/default/grub.d/sekisho.cfg": grub,
        "/boot/grub/grub.cfg": f"\tlinux /vmlinuz-6.12 {LINE.partition(' ')[2]}\n"
        "\tlinux /vmlinuz-6.12 root=UUID=0a-0b ro single\n\tinitrd /initrd.img-6.12\n",
    }
    assert found(texts).verdict is Verdict.PASS
    console = {"/proc/cmdline": f"{LINE} console=ttyS0,115200n8\n"}
    assert found(console).verdict is Verdict.FAIL
    assert found(console, "console=ttyS0,115200n8").verdict is Verdict.PASS


def test_a_terminal_has_words_of_its_own() -> None:
    path = ROOT / "hardening/grub/sekisho-terminal.cfg"
    texts: dict[str, str | None] = {
        "/etc/default/grub.d/sekisho-terminal.cfg": path.read_text(encoding="utf-8"),
        "/proc/cmdline": f"{LINE} {' '.join(TERMINAL[:3])}\n",
    }
    assert found(texts, role="terminal").verdict is Verdict.PASS
    assert found(texts, role="core").verdict is Verdict.FAIL


def test_what_the_playbooks_write_is_what_the_site_declares() -> None:
    """One list in two places: the file that update-grub reads and the words a policy holds."""
    for name, words in (("sekisho.cfg", WORDS), ("sekisho-terminal.cfg", TERMINAL)):
        text = (ROOT / "hardening/grub" / name).read_text(encoding="utf-8")
        written = " ".join(re.findall(r'^GRUB_CMDLINE_\w+="([^"]*)"', text, re.MULTILINE))
        assert set(written.split()) - {"$GRUB_CMDLINE_LINUX"} == set(words)


def test_another_root_than_the_menus_is_a_breach() -> None:
    menu = "linux /vmlinuz root=UUID=0a-0b ro\n"
    assert found({"/boot/grub/grub.cfg": menu}).verdict is Verdict.PASS
    other = menu + "linux /vmlinuz root=/dev/sdb1 ro\n"
    assert found({"/boot/grub/grub.cfg": other}).verdict is Verdict.FAIL
    now = LINE.replace("root=UUID=0a-0b", "root=/dev/sdb1")
    assert found({"/proc/cmdline": now, "/boot/grub/grub.cfg": menu}).verdict is Verdict.FAIL


def test_what_is_handed_over_past_the_line_is_a_breach() -> None:
    path = "/run/credentials/@system/ssh.authorized_keys.root"
    told = boot({path: "k"})
    assert told["handed_over"] == ["ssh.authorized_keys.root"]
    assert found({path: "k"}).verdict is Verdict.FAIL
    efi = "/sys/firmware/efi/efivars/SystemdOptions-8cf2644b-4b0b-428f-9387-6d876050dc67"
    assert found({efi: "x"}).verdict is Verdict.FAIL


def test_without_a_policy_only_what_is_wrong_anywhere_is_a_breach() -> None:
    def bare(line: str) -> Verdict:
        facts = {"boot_words": Fact(value=boot({"/proc/cmdline": line}))}
        return judge(CHECK, HostFacts(host="h", role=None, facts=facts)).verdict

    assert bare("root=/dev/vda ro quiet\n") is Verdict.ERROR
    assert bare("root=/dev/vda ro rdinit=/x\n") is Verdict.FAIL


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("root=/dev/vda ro quiet audit=1 apparmor=1", []),
        ("ro init=/bin/sh", ["init=/bin/sh"]),
        ("ro init=/usr/lib/sekisho/terminal-init", []),
        ("ro init=/usr/lib/sekisho/terminal-init2", ["init=/usr/lib/sekisho/terminal-init2"]),
        ("ro single", ["single"]),
        ("ro systemd.debug_shell rd.break=mount", ["rd.break=mount", "systemd.debug_shell"]),
        ("rd.systemd.debug_shell", ["rd.systemd.debug_shell"]),
        ("systemd.set_credential=a:b", ["systemd.set_credential=a:b"]),
        ("audit=0", ["audit=0"]),
        ("initcall_debug systemd.hostname=core-1 s390=1", []),
    ],
)
def test_words_that_open_the_machine_at_boot_are_named(line: str, words: list[str]) -> None:
    assert risky_words(line) == words


def test_a_file_that_cannot_be_read_is_no_fact() -> None:
    (probe,) = PROBES
    with pytest.raises(ProbeError):
        probe.parse({"files": held({})})
    path = "/boot/grub/grub.cfg"
    with pytest.raises(ProbeError):
        boot({path: None}, **{path: unreadable()})


@given(st.text())
def test_no_text_makes_the_reader_crash(text: str) -> None:
    for path in ("/proc/cmdline", "/boot/grub/grub.cfg", "/etc/default/grub"):
        boot({path: text})
