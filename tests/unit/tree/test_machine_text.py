"""Machines' text is split at newlines alone, and names are never numbers: in the whole tree."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.core.text import is_number, lines_of
from sekisho.probes.accounts import read_passwd

#: Method → files that may call it, and why.
ALLOWED = {
    "splitlines": {
        "agent/sekisho/host/kernel/audit_tail.py": "of bytes that hold no carriage return",
    },
    "isdigit": {
        "agent/sekisho/activity/arguments.py": "of bytes: ASCII alone",
        "agent/sekisho/activity/events.py": "of bytes: ASCII alone",
    },
    "isdecimal": {
        "agent/sekisho/core/text.py": "the one place",
        "playbooks/library/sekisho_live.py": "with isascii, and ten characters at most",
    },
    "isnumeric": {},
}


def test_no_file_splits_or_counts_as_python_does(repository: Path) -> None:
    wrong, seen = [], set()
    for path in [
        *(repository / "agent/sekisho").rglob("*.py"),
        *(repository / "playbooks").rglob("*.py"),
    ]:
        name = str(path.relative_to(repository))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in ALLOWED:
                if name in ALLOWED[node.attr] or path.is_symlink():
                    seen.add((node.attr, name))
                else:
                    wrong.append(f"{name}:{node.lineno} .{node.attr}")
    assert wrong == [], "use sekisho.core.text: lines_of, is_number"
    assert {(kind, name) for kind, names in ALLOWED.items() for name in names} <= seen


SEPARATORS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


@given(st.lists(st.text(st.sampled_from("ab:" + SEPARATORS), max_size=6), max_size=6))
def test_lines_are_what_stands_between_newlines(lines: list[str]) -> None:
    assert lines_of("".join(f"{line}\n" for line in lines)) == lines
    assert lines_of("\n".join([*lines, "x"])) == [*lines, "x"]


@given(st.text(max_size=30))
def test_what_is_a_number_is_read_by_int(text: str) -> None:
    if is_number(text):
        assert str(int(text)).rjust(len(text), "0") == text


@pytest.mark.parametrize(
    "text", ["²", "\uff11", "\u0661", "", "-1", "1_0", " 1", "1" * 19, "1" * 5000]
)
def test_what_only_looks_like_a_number_is_none(text: str) -> None:
    assert not is_number(text)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_a_persons_own_name_costs_no_account(separator: str) -> None:
    """`chfn -r $'12\\u20283'` is accepted by Debian 13: it made 20 checks "could not tell"."""
    text = f"root:x:0:0:root:/root:/bin/bash\nmallory:x:1001:1001:,{separator}3,,:/home/m:/bin/sh\n"
    found = read_passwd(text)
    assert [(one.name, one.uid) for one in found] == [("root", 0), ("mallory", 1001)]
