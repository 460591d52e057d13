"""TMOUT as a login shell has it in the end, and a shell begun inside; else an error."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from probes_raw import held

from sekisho.catalogue.judge import Fact, HostFacts, judge
from sekisho.catalogue.model import Verdict
from sekisho.control.catalogue_files import load_catalogue
from sekisho.probes.model import ProbeError
from sekisho.probes.shells import PROBES

# Debian 13's, shortened.
PROFILE = """if [ "${PS1-}" ]; then
  if [ "${BASH-}" ] && [ "$BASH" != "/bin/sh" ]; then
    if [ -f /etc/bash.bashrc ]; then
      . /etc/bash.bashrc
    fi
  fi
fi
if [ -d /etc/profile.d ]; then
  for i in $(run-parts --list --regex '^[a-zA-Z0-9_][a-zA-Z0-9._-]*\\.sh$' /etc/profile.d); do
    if [ -r $i ]; then
      . $i
    fi
  done
  unset i
fi
"""
BASHRC = '[ -z "${PS1-}" ] && return\nshopt -s checkwinsize\n'
OURS = "# c\nTMOUT=900\nreadonly TMOUT\nexport TMOUT\n"
ACCOUNTS = "root:x:0:0::/root:/bin/bash\ndaemon:x:1:1::/:/usr/sbin/nologin\n"


def shells(  # one word per file
    sekisho: str | None = OURS, *, profile: str = PROFILE, bashrc: str = BASHRC,
    passwd: str = ACCOUNTS, environment: str = "", **scripts: str,
) -> Any:  # fmt: skip
    texts: dict[str, str | None] = {
        "/etc/profile": profile, "/etc/bash.bashrc": bashrc, "/etc/passwd": passwd,
        "/etc/environment": environment,
    }  # fmt: skip
    texts |= {} if sekisho is None else {"/etc/profile.d/sekisho.sh": sekisho}
    texts |= {f"/etc/profile.d/{name}.sh": text for name, text in scripts.items()}
    return PROBES[0].parse({"files": held(texts)})


def verdict(repository: Path, **change: Any) -> Verdict:
    try:
        fact = Fact(shells(**change))
    except ProbeError as bad:
        fact = Fact(error=str(bad))
    catalogue = load_catalogue(repository / "hardening")
    check = next(one for one in catalogue.checks if one.id == "6-iv-a.idle-shells-end")
    return judge(check, HostFacts("h", "core", {"shells": fact})).verdict


def test_our_own_file_is_what_the_check_wants(repository: Path) -> None:
    ours = (repository / "hardening/login/profile.sh").read_text(encoding="utf-8")
    assert shells(ours)["login"] == {"seconds": 900, "readonly": True, "exported": True}
    assert verdict(repository, sekisho=ours) is Verdict.PASS


@pytest.mark.parametrize(
    "text",
    [
        "readonly TMOUT=900 ; export TMOUT",
        "export TMOUT=600\nreadonly TMOUT",
        "readonly TMOUT=900 && export TMOUT",
        "declare -xr TMOUT=900",
        "typeset -r -x TMOUT='300'",
        'declare -rx TMOUT="900"',
        "TMOUT=9\\\n00; readonly TMOUT; export TMOUT # a quarter of an hour",
        OURS + 'echo "ends after $TMOUT"\n',
        OURS + "TMOUT=0\nunset TMOUT\n[ -z x ] && TMOUT=0\n",  # readonly: bash refuses all three
        "if true; then\n  x=1\nfi\n" + OURS,
    ],
)
def test_a_time_that_ends_idle_shells_passes(repository: Path, text: str) -> None:
    assert verdict(repository, sekisho=text) is Verdict.PASS


@pytest.mark.parametrize(
    "change",
    [
        {"sekisho": None},
        {"sekisho": "TMOUT=0\nreadonly TMOUT\nexport TMOUT"},  # 0: for ever
        {"sekisho": "TMOUT=\nreadonly TMOUT\nexport TMOUT"},
        {"sekisho": "TMOUT=901\nreadonly TMOUT\nexport TMOUT"},
        {"sekisho": "TMOUT=900\nexport TMOUT"},  # anybody sets it back
        {"sekisho": "TMOUT=900\nreadonly TMOUT"},  # a shell begun inside has none
        {"sekisho": "# TMOUT=900\n"},
        {"sekisho": OURS + "export -n TMOUT\n"},
        {"sekisho": "TMOUT=900\nexport TMOUT", "z": "unset TMOUT\nreadonly TMOUT"},
        {"sekisho": "TMOUT=900\nexport TMOUT", "z": "readonly TMOUT=0"},
        {"a": "readonly TMOUT=0; export TMOUT"},  # ours comes too late
        {"bashrc": BASHRC + "readonly TMOUT=0\n"},
        {"bashrc": BASHRC + "TMOUT=0\n"},  # every shell begun inside reads it
        {"bashrc": BASHRC + "unset TMOUT\n"},
        {"profile": PROFILE + "TMOUT=0\n", "sekisho": "TMOUT=900\nexport TMOUT"},
        {"sekisho": None, "environment": "TMOUT=900\n"},  # not readonly
        {"passwd": ACCOUNTS + "aoki:x:1000:1000::/home/aoki:/bin/sh\n"},  # dash knows no TMOUT
        {"passwd": ACCOUNTS + "aoki:x:1000:1000::/home/aoki:\n"},
    ],
)
def test_shells_that_stay_open_fail(repository: Path, change: dict[str, str]) -> None:
    wanted = (Verdict.FAIL, Verdict.ERROR) if "-n" in str(change) else (Verdict.FAIL,)
    assert verdict(repository, **change) in wanted


@pytest.mark.parametrize(
    "change",
    [
        {"sekisho": "if [ $UID -ne 0 ]; then\n  TMOUT=900\nfi\nreadonly TMOUT; export TMOUT"},
        {"sekisho": '[ -z "$TMOUT" ] && TMOUT=900'},
        {"sekisho": "[ TMOUT ] && TMOUT=900; readonly TMOUT; export TMOUT"},
        {"sekisho": "TMOUT=$((15 * 60))"},
        {"sekisho": "f() {\nTMOUT=900\n}\nf"},
        {"sekisho": "TMOUT=900 true"},
        {"sekisho": "declare -n x=TMOUT; x=0"},
        {"sekisho": "read TMOUT </etc/x"},
        {"sekisho": "return\n" + OURS},
        {"a": ". /opt/site.sh"},
        {"profile": "for f in /opt/*; do . $f; done\n"},
        {"environment": "TMOUT=@{HOME}\n"},
        {"A": "TMOUT=0", "b": "TMOUT=900", "B": "TMOUT=1", "sekisho": None},
    ],
)
def test_what_cannot_be_followed_is_an_error(repository: Path, change: dict[str, str]) -> None:
    assert verdict(repository, **change) is Verdict.ERROR


def test_a_package_may_read_its_own_files() -> None:
    told = shells(
        bash_completion="if true; then\n. /usr/share/bash-completion/bash_completion\nfi\n"
    )
    assert told["login"]["seconds"] == 900


def test_a_script_by_another_name_is_not_read() -> None:
    texts: dict[str, str | None] = {
        "/etc/profile": PROFILE, "/etc/passwd": ACCOUNTS, "/etc/profile.d/x.bak": OURS,
        "/etc/profile.d/.h.sh": OURS,
    }  # fmt: skip
    assert "seconds" not in PROBES[0].parse({"files": held(texts)})["login"]


@given(st.text(), st.text())
def test_no_text_makes_the_reader_crash(script: str, profile: str) -> None:
    try:
        shells(f"TMOUT=1\n{script}", profile=PROFILE + profile, environment=script)
    except ProbeError:
        return


STATEMENTS = st.sampled_from(
    ("TMOUT=900", "TMOUT=0", "TMOUT=60", "unset TMOUT", "export TMOUT", "readonly TMOUT",
     "export TMOUT=300", "readonly TMOUT=5", "declare -x TMOUT=7", "declare -rx TMOUT", ":")
)  # fmt: skip


@pytest.mark.process
@given(st.lists(STATEMENTS, max_size=6))
def test_bash_itself_ends_with_the_same(statements: list[str]) -> None:
    script = "\n".join(statements)
    asked = "declare -p TMOUT 2>/dev/null || echo none"
    done = subprocess.run(
        ["/bin/bash", "--norc", "--noprofile", "-c", f"{script}\n{asked}"],
        capture_output=True, text=True, check=False, env={"PATH": "/bin"},
    )  # fmt: skip
    told = shells(script)["login"]
    answer = done.stdout.strip()
    assert ("r" in answer.split(" ")[1] if answer != "none" else False) == told["readonly"]
    assert ('="' in answer) == ("seconds" in told)
    if "seconds" in told:
        assert f'"{told["seconds"]}"' in answer
        assert ("x" in answer.split(" ")[1]) == told["exported"]
