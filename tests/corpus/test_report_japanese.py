"""Every message a reader of facts can give has its Japanese, so that a report is whole."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sekisho.catalogue import wording
from sekisho.catalogue.judge import UNKNOWN
from sekisho.catalogue.model import Op
from sekisho.evidence import words
from sekisho.evidence.japanese import expected_in, observed_in, reason_in

ROOT = Path(__file__).resolve().parents[2] / "agent/sekisho"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
#: Messages that are only what another program or file said: names, and then its words.
QUOTED = re.compile(r"(?:[\w/.{}-]+: )*\{\}")
#: Alternatives inside a message: `{error or 'no content'}` and the like.
ALTERNATIVES = ("no content", "no such file", "not a regular file", "not a link", "no metadata",
                "included in itself", "no state")  # fmt: skip


def template(node: ast.expr) -> str | None:
    """Return a message with ``{}`` for its values; None for what is no text written there."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
        )
    if isinstance(node, ast.BinOp):
        left, right = template(node.left), template(node.right)
        return None if left is None or right is None else left + right
    return None


def messages() -> Iterator[tuple[str, str]]:
    for room in ("probes", "catalogue"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                    continue
                if node.func.id not in ("ProbeError", "Unknown", "Fact"):
                    continue
                told = [*node.args, *(k.value for k in node.keywords if k.arg == "error")]
                for text in filter(None, map(template, told)):
                    yield f"{path.name}:{node.lineno}", text


def test_every_reason_a_fact_is_missing_has_its_japanese() -> None:
    found = list(messages())
    assert len(found) > 120, "the messages were not found"
    wrong = []
    for where, text in found:
        if QUOTED.fullmatch(text):
            continue
        sample = text
        while "{}" in sample:
            sample = sample.replace("{}", "VALUE", 1)
        if not JAPANESE.search(reason_in(sample, "ja")):
            wrong.append(f"{where}: {text}")
        elif reason_in(sample, "ja").count("VALUE") != sample.count("VALUE"):
            wrong.append(f"{where}: a value is lost: {text} -> {reason_in(sample, 'ja')}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("text", ALTERNATIVES[:-1])
def test_every_alternative_has_its_japanese(text: str) -> None:
    assert JAPANESE.search(reason_in(f"/etc/x: {text}", "ja"))


def test_every_comparison_and_observation_has_its_japanese() -> None:
    for op in Op:
        assert JAPANESE.search(expected_in(f'sysctl:runtime.kernel.x {op} "2"', "ja")), op
        assert '"2"' in expected_in(f'sysctl:runtime.kernel.x {op} "2"', "ja") or op in (
            Op.EMPTY, Op.PRESENT, Op.ABSENT, Op.PROVEN,
        )  # fmt: skip
    for label in wording._LISTS.values():
        assert JAPANESE.search(observed_in(f"{label}: a, b", "ja")), label
    for half in (wording._FOR_NOW, wording._FROM_THE_NEXT_BOOT):
        told = observed_in(f"sysctl:disk.x {half}: not set", "ja")
        assert told.startswith("sysctl:disk.x ")
        assert not re.search("in force|not set", told)
    for text in ("missing: a; not allowed: b", "there: a", wording.not_set("1", good=True)):
        assert not re.search(r"missing|allowed|there|default", observed_in(text, "ja"))
    told = observed_in(f"{UNKNOWN}/x: no such file; {UNKNOWN}disk: no outcome", "ja")
    assert told == "判定できない：/x：ファイルがない；判定できない：disk：結果がない"


@pytest.mark.parametrize(
    "value", ['{"a": "b; c"}', "x; y; z", "no: such", "equals equals", "", "a:b c", "…"]
)
def test_a_value_is_carried_over_whole(value: str) -> None:
    """What came from the host is never changed but at our own joints."""
    for text in (observed_in(value, "ja"), observed_in(f"not allowed: {value}", "ja")):
        assert re.sub("；|; ", "", value) in re.sub("；|; ", "", text)


def test_english_is_the_record_itself() -> None:
    for read in (expected_in, observed_in, reason_in):
        assert (
            read("sysctl:a equals 1; no such: thing", "en") == "sysctl:a equals 1; no such: thing"
        )


def test_every_word_of_the_report_is_there_in_both_languages() -> None:
    tables = [value for value in vars(words).values() if isinstance(value, dict)]
    assert len(tables) > 8
    for table in tables:
        for key, both in table.items():
            if not isinstance(both, dict):
                continue
            assert set(both) == {"en", "ja"}, key
            assert not JAPANESE.search(both["en"]), key
            assert both["en"] == "" or JAPANESE.search(both["ja"]), key
