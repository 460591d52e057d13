"""A demo that fails says what, why, what to do and how to go on, in its last ten lines."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from tests.vm import demo
from tests.vm.ending import LINES, Kept, StoppedError, closing, of_playbook, playbook_failures
from tests.vm.trial import Trial

LOG = """
PLAY [Servers] *****************************************************************

TASK [deb : Install the package] ***********************************************
changed: [core-1]

TASK [guard : Come back and confirm] *******************************************
fatal: [core-1 -> localhost]: FAILED! => {"changed": false, "msg": "port 22 is\\nshut"}
fatal: [gate-in -> localhost]: FAILED! => {"changed": false, "msg": "port 22 is\\nshut"}
failed: [gate-out] (item=x) => {"ansible_loop_var": "item", "item": "x", "stderr": "other"}
fatal: [outbound-1]: UNREACHABLE! => {"changed": false, "unreachable": true}
fatal: [inbound-1]: FAILED! => {broken json
"""


def test_a_playbooks_failures_are_read_off_its_log_each_reason_once() -> None:
    found = playbook_failures(LOG)
    assert [(one.task, one.hosts, one.said) for one in found] == [
        (
            "guard : Come back and confirm",
            ("core-1", "gate-in"),
            "port 22 is shut",
        ),
        ("guard : Come back and confirm", ("gate-out",), "other"),
        ("guard : Come back and confirm", ("outbound-1",), "it gave no reason; see the log"),
        ("guard : Come back and confirm", ("inbound-1",), "{broken json"),
    ]


@pytest.mark.parametrize("log", [LOG, "", "\n\n", "ERROR! no hosts matched\n", "x" * 100_000])
def test_the_closing_is_ten_lines_at_most_and_holds_no_raw_json(log: str) -> None:
    text = closing(of_playbook("site.yml", 2, log), go_on="make demo", logs=[".lab/demo.log"] * 20)
    rows = text.rstrip("\n").split("\n")
    assert len(rows) <= LINES
    assert [row.split()[0] for row in rows[:5]] == ["FAILED", "why", "do", "go", "log"]
    assert '{"' not in text
    assert max(map(len, rows)) < 400


def test_a_broken_expectation_is_named_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial("attack_3_network")
    trial.expect("nothing answers", held=True)
    trial.expect("port 22 is closed", held=False, seen="open")
    trial.expect("port 23 is closed", held=False, seen="open too")
    stopped = demo.tell_result([Trial("audit"), trial], "table\n")
    assert stopped is not None
    assert stopped.what == "attack_3_network: port 22 is closed (and 1 more, listed above)"
    assert stopped.why == "open"
    assert "--only 3" in stopped.do
    assert "2/3" not in capsys.readouterr().out.split("BROKEN")[-1]


def test_all_held_ends_without_a_word_of_failure(capsys: pytest.CaptureFixture[str]) -> None:
    trial = Trial("audit")
    trial.expect("no breach", held=True)
    assert demo.tell_result([trial], "") is None
    assert "1/1 held" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("bad", "code", "what"),
    [
        (StoppedError("the box", "no space", "make room"), 2, "FAILED  the box"),
        (KeyboardInterrupt(), 130, "FAILED  interrupted"),
        (KeyError("kind"), 2, "FAILED  KeyError"),
    ],
)
def test_whatever_ends_the_demo_its_last_lines_say_so(  # noqa: PLR0917 - a table and fixtures
    bad: BaseException, code: int, what: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def broken(*_: object) -> None:
        raise bad

    monkeypatch.setattr(demo, "story", broken)
    monkeypatch.setattr(demo, "saved", lambda name: name == "fresh")
    monkeypatch.setattr(demo, "state_name", lambda: "provisioned-x")
    monkeypatch.setattr(demo, "DEMO_LOG", tmp_path / "demo.log")
    monkeypatch.setattr("sys.argv", ["demo", "--keep"])
    assert demo.main() == code
    out = capsys.readouterr().out
    rows = out.rstrip("\n").split("\n")[-LINES:]
    assert any(row.startswith(what) for row in rows)
    assert any("begins at the playbooks" in row for row in rows)
    assert (tmp_path / "demo.log").read_text(encoding="utf-8").endswith(out[-80:])


def test_the_last_runs_log_is_kept() -> None:
    shown, log = io.StringIO(), io.StringIO()
    kept = Kept(shown, log)
    kept.write("one\n")
    assert (shown.getvalue(), log.getvalue()) == ("one\n", "one\n")
