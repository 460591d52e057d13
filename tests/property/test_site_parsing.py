"""Whatever the inventory's texts hold, the parser answers with a site or with problems."""

from __future__ import annotations

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.errors import Problem, SekishoError
from sekisho.core.yaml_nodes import Node, Reader
from sekisho.site.fields import public_key_problem
from sekisho.site.parse import parse_site
from sekisho.site.rules.invariants import check
from siteworld import NOW, lab_raw

CORE = "host_vars/core-1.yml"
_TEXTS = {file.path: file.text for file in (lab_raw().hosts, *lab_raw().group_vars,
                                            *lab_raw().host_vars)}  # fmt: skip
_WORDS = st.sampled_from(
    ["link", "hop-in", "core-1", "10.77.3.1", "10.77.0.0/8", "{", "}", "[", "]", ":", "- ", "\n",
     "  ", "&a", "*a", "!!int", "\x00", "\u202e", "'", '"', "|", ">", "%", "@", "\t", "---", "~",
     "null", "1e3", "0x1F", "2027-03-31", "via: gate-in", "from: core-1", "to: inbound-1"]
)  # fmt: skip


def judge(raw_edits: dict[str, str]) -> list[Problem]:
    """Return the problems; anything but a site or a `SekishoError` fails the test."""
    try:
        site = parse_site(lab_raw(raw_edits))
    except SekishoError as failure:
        return list(failure.problems)
    return check(site, now=NOW)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str]:
    """A text of the lab with a slice replaced by words that mean something to YAML or to us."""
    path = draw(st.sampled_from(sorted(_TEXTS)))
    text = _TEXTS[path]
    start = draw(st.integers(0, len(text)))
    end = min(len(text), start + draw(st.integers(0, 40)))
    new = "".join(draw(st.lists(_WORDS | st.text(max_size=4), max_size=6)))
    return path, text[:start] + new + text[end:]


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
@example(
    ("host_vars/core-1.yml", _TEXTS["host_vars/core-1.yml"].replace("_host: ", "_host: \u202e"))
)
def test_a_damaged_inventory_is_a_site_or_a_list_of_problems(edit: tuple[str, str]) -> None:
    path, text = edit
    for problem in judge({path: text}):  # a SekishoError without problems would hide the cause
        line = problem.line()
        assert line.isprintable()
        assert len(line) < 2000
        assert problem.got
        assert problem.expected


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=300) | st.lists(_WORDS, max_size=60).map("".join))
def test_any_text_composes_to_what_yaml_says_or_to_a_problem(text: str) -> None:
    problems: list[Problem] = []
    root = Reader("x", problems).compose(text)
    if root is None:
        return
    assert not problems
    value = yaml.load(text, Loader=yaml.CBaseLoader)  # noqa: S506 - makes text only
    assert _plain(root) == value


def _plain(node: Node) -> object:
    if node.pairs is not None:
        return {key: _plain(value) for key, (_, value) in node.pairs.items()}
    if node.entries is not None:
        return [_plain(entry) for entry in node.entries]
    return node.text


@given(st.text(max_size=200))
def test_any_text_is_a_key_or_is_told_why_not(text: str) -> None:
    said = public_key_problem(text)
    assert said.isprintable()
    assert len(said) < 200
