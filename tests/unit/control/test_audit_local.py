"""`sekisho audit --local` as a person runs it: table, JSON, bundle, exit codes, plain errors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sekisho.cli.main import main

pytestmark = pytest.mark.process
ITEM = ("--item", "6-iv-b")  # no probe of this item walks the whole disk


def sekisho(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[3]
    return subprocess.run(
        [sys.executable, "-m", "sekisho.cli.main", *words],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(root / "agent"), "LANG": "C.UTF-8"}
        | more,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("language", "words"),
    [
        (
            "en",
            ("6(iv)(b)", "Activity is recorded", "English translation of 2019",
             "no record of an exercise", "could not tell"),
        ),
        (
            "ja",
            ("第六条第四号ロ", "動作を記録し", "2019年3月29日付の英訳",
             "演習の記録がない", "判定不能"),
        ),
    ],
)  # fmt: skip
def test_the_table_names_the_item_in_the_language_asked_for(
    language: str, words: tuple[str, ...]
) -> None:
    done = sekisho("audit", "--local", *ITEM, "--lang", language)
    assert done.returncode in (1, 2), done.stderr
    for word in words:
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert bool(re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", done.stdout)) is (language == "ja")


def test_another_language_is_refused_with_those_there_are() -> None:
    done = sekisho("audit", "--local", *ITEM, "--lang", "fr")
    assert done.returncode == 3
    assert "expected one of en, ja" in done.stderr


def test_a_breach_comes_with_its_remedy_and_a_look_by_hand() -> None:
    done = sekisho("audit", "--local", "--check", "6-iv-a.kernel-pointers-hidden")
    if done.returncode == 1:
        assert "playbooks/site.yml --tags kernel" in done.stdout
        assert "by hand" in done.stdout


def test_json_is_one_value_that_agrees_with_the_exit_code() -> None:
    done = sekisho("audit", "--local", "--json", *ITEM)
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    assert [item["id"] for item in told["items"]] == ["6-iv-b"]
    assert {finding["item"] for finding in told["findings"]} == {"6-iv-b"}
    assert told["items"][0]["missing"] == ["exercise"]
    assert sum(told["counts"]["findings"].values()) == len(told["findings"])


def test_an_attested_item_is_could_not_tell_and_says_why() -> None:
    done = sekisho("audit", "--local", "--json", "--item", "6-v-a")
    told = json.loads(done.stdout)
    assert done.returncode == 2
    assert told["items"][0]["verdict"] == "error"
    assert told["items"][0]["missing"] == ["attested"]


def test_only_machine_evidence_can_be_asked_for() -> None:
    done = sekisho("audit", "--local", "--json", "--evidence", "machine", *ITEM, "--item", "6-v-a")
    told = json.loads(done.stdout)
    assert all(set(item["evidence"]) == {"machine"} for item in told["items"])
    assert [item["id"] for item in told["items"]] == ["6-iv-b"]


def test_a_bundle_is_written_signed_and_verifies(tmp_path: Path) -> None:
    made = sekisho("audit", "keygen", str(tmp_path / "auditor"))
    assert made.returncode == 0, made.stderr
    done = sekisho(
        "audit", "--local", *ITEM, "--out", str(tmp_path / "out"),
        "--sign-key", str(tmp_path / "auditor"),
    )  # fmt: skip
    assert "evidence bundle" in done.stderr
    (bundle,) = (tmp_path / "out").iterdir()
    code = (
        "import sys; from pathlib import Path;"
        "from sekisho.control.cli.verify_bundle import verify_bundle;"
        "sys.exit(verify_bundle(Path(sys.argv[1]), Path(sys.argv[2])))"
    )
    root = Path(__file__).resolve().parents[3]
    checked = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(tmp_path / "auditor.pub.pem")],
        env={"PYTHONPATH": str(root / "agent"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "whole 完全" in checked.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("audit",), "either --local or -i"),
        (("audit", "--local", "-i", "x"), "either --local or -i"),
        (("audit", "--local", "--item", "6-iv-z"), "6-iv-z"),
        (("audit", "--local", "--check", "x"), "the id of a check"),
        (("audit", "--local", "--evidence", "hearsay"), "hearsay"),
        (("audit", "--local", "--policy", "/nonexistent"), "policy"),
        (("audit", "--local", "--sign-key", "/nonexistent"), "--out"),
        (("audit", "-i", "/nonexistent"), "inventory"),
        (("audit", "--local", "--no-such-option"), "no-such-option"),
    ],
)
def test_wrong_usage_is_exit_three_with_a_reason_and_no_traceback(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(words)) == 3
    told = capsys.readouterr().err
    assert said in told
    assert "Traceback" not in told


def test_the_program_itself_ends_with_that_code() -> None:
    done = sekisho("audit", "--local", "--no-such-option")
    assert done.returncode == 3
    assert "no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 2}', '{"schema": 1, "schema": 1}'])
def test_a_bad_policy_is_exit_three(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.json").write_text(content, encoding="utf-8")
    words = ["audit", "--local", *ITEM, "--policy", str(tmp_path / "policy.json")]
    assert main(words) == 3
    assert "policy" in capsys.readouterr().err


def test_a_person_without_rights_gets_reasons_not_passes() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can step down")
    root = Path(__file__).resolve().parents[3]
    # The interpreter may lie in root's home: a first run loads all it needs, then root steps down.
    words = ["audit", "--local", "--json", "--item", "6-iv-d-2"]
    code = (
        "import contextlib, io, os, sys\n"
        "from sekisho.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    main({words!r})\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"sys.exit(main({words!r}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(root / "agent")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    told = json.loads(done.stdout)
    assert told["exit_code"] in (1, 2)
    assert not [f for f in told["findings"] if f["verdict"] == "pass"]
