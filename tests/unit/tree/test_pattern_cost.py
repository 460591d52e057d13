"""No regular expression of the tree takes more than linear time, whatever text it meets."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hostilepatterns import Use, costly, uses

ROOT = Path(__file__).resolve().parents[3] / "agent/sekisho"


def test_every_pattern_takes_linear_time() -> None:
    began = time.process_time()
    found = uses(ROOT)
    assert len(found) > 120, "the patterns of the tree were not found"
    slow = {
        f"{use.where} {use.method}({use.pattern.pattern!r})": first
        for use in found
        if (first := next(costly(use), None)) is not None
    }
    assert slow == {}
    assert time.process_time() - began < 240, "the table itself takes too long"


def test_the_measure_finds_what_backtracks() -> None:
    """Each of these was in the tree, or is of a kind that a change may bring."""
    for pattern, method in (
        (re.compile(r"^\s*(?:export\s+)?(?P<key>LD_[A-Z_]+|ENV)\b", re.MULTILINE), "finditer"),
        (re.compile(r"^\s*SSHD_OPTS=(.*)$", re.MULTILINE), "findall"),
        (re.compile(r"\S*sshd: (?P<argv>.*sshd\b.*) \[listener\].*"), "fullmatch"),
        (re.compile(r"\s+proto (\w+) (?:spi \S+ )?reqid (\d+).* mode (\w+)\s*"), "fullmatch"),
        (re.compile(r"deb\s+(?:\[\s*([^]]*?)\s*\]\s+)?(\S+)\s+\S.*"), "fullmatch"),
        (re.compile(r"(/[^\n]*?) ((?:=|cap_)[a-z0-9_,=+ ]*)"), "fullmatch"),
        (re.compile(rb'([A-Za-z0-9_.\-]+)=("[^"]*"|\{[^}]*\}|[^ ]*)'), "findall"),
        (re.compile(r"(\\n)+\Z"), "sub"),
        (re.compile(r"(a+)+b"), "fullmatch"),
    ):
        assert next(costly(Use("here", pattern, method)), None), pattern.pattern
