"""The catalogue's files: read strictly, in whole or in part, compiled to the same values."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.catalogue.compiled import MAX_CATALOGUE_BYTES, compile_catalogue, from_json
from sekisho.catalogue.parse import parse_check, parse_item
from sekisho.control import catalogue_files
from sekisho.control.catalogue_files import find_catalogue, load_catalogue, load_sources, read_yaml
from sekisho.core.errors import SekishoError

ITEM = """\
id: "6-iv-a"
citation: "6(iv)(a)"
title: {en: T, ja: 題}
reading: {en: R, ja: 読}
evidence: [machine]
status: partial
gaps: [{en: one, ja: 一}]
"""
CHECK = """\
id: 6-iv-a.example
title: {en: T, ja: 題}
applies: [all]
rationale: because
asserts:
  - {where: disk, probe: sysctl, key: disk.x, op: equals, value: "2"}
by_hand: look
remedy: kernel
scenario: vm
"""
PROBES = frozenset({"sysctl"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "catalogue").mkdir()
    (tmp_path / "checks/6-iv-a.example").mkdir(parents=True)
    (tmp_path / "catalogue/6-iv-a.yml").write_text(ITEM, encoding="utf-8")
    (tmp_path / "checks/6-iv-a.example/check.yml").write_text(CHECK, encoding="utf-8")
    return tmp_path


def check_raw(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "id": "6-iv-a.example",
        "title": {"en": "T", "ja": "題"},
        "applies": ["all"],
        "rationale": "because",
        "asserts": [
            {"where": "disk", "probe": "sysctl", "key": "a.b", "op": "equals", "value": "2"}
        ],
        "by_hand": "look",
        "remedy": "kernel",
        "scenario": "vm",
    }
    return raw | changes


def assertion(**changes: Any) -> list[dict[str, Any]]:
    return [check_raw()["asserts"][0] | changes]


def test_a_folder_is_read_whole(folder: Path) -> None:
    catalogue = load_catalogue(folder)
    assert [item.id for item in catalogue.items] == ["6-iv-a"]
    assert [check.id for check in catalogue.checks] == ["6-iv-a.example"]
    assert len(catalogue.digest) == 64


def test_the_compiled_catalogue_is_the_same(folder: Path) -> None:
    compiled = compile_catalogue(load_sources(folder))
    path = folder / "catalogue.json"
    path.write_bytes(compiled)
    assert load_catalogue(path) == load_catalogue(folder)


def test_the_real_catalogue_compiles_to_itself(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "catalogue.json"
    path.write_bytes(compile_catalogue(load_sources(repository / "hardening")))
    assert load_catalogue(path) == load_catalogue(repository / "hardening")


def test_a_part_holds_the_item_and_its_checks_only(folder: Path) -> None:
    (folder / "catalogue/12.yml").write_text(
        ITEM.replace("6-iv-a", "12").replace("6(iv)(a)", "12"), encoding="utf-8"
    )
    # A broken neighbour does not stop whoever asks for one item.
    broken = folder / "checks/12.broken"
    broken.mkdir()
    (broken / "check.yml").write_text("id: [", encoding="utf-8")
    part = load_catalogue(folder, items=["6-iv-a"])
    assert [item.id for item in part.items] == ["6-iv-a"]
    assert load_catalogue(folder, checks=["6-iv-a.example"]) == part
    with pytest.raises(SekishoError, match="catalogue is not in order"):
        load_catalogue(folder)


def test_an_unknown_part_is_named(folder: Path) -> None:
    with pytest.raises(SekishoError) as wrong:
        load_catalogue(folder, items=["6-iv-z"], checks=["6-iv-a.none"])
    assert {problem.key for problem in wrong.value.problems} == {""}
    assert {problem.got for problem in wrong.value.problems} == {"6-iv-z", "6-iv-a.none"}


@pytest.mark.parametrize(
    "text",
    [
        "id: 1\nid: 2\n",
        "{1: 2}\n",
        "a: [",
        "a: !!python/object/apply:os.system [id]\n",
        "a: 2026-01-01\n",
        "\x00",
        "a: &a [*a]\n",
    ],
)
def test_yaml_that_is_not_plain_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SekishoError):
        read_yaml(path)


def test_a_huge_or_missing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes(b"#" * (257 * 1024))
    with pytest.raises(SekishoError):
        read_yaml(path)
    with pytest.raises(SekishoError):
        read_yaml(tmp_path / "none.yml")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"id": "6-iv-a.other"}, "id"),
        ({"title": {"en": "T"}}, "title"),
        ({"applies": []}, "applies"),
        ({"applies": ["everybody"]}, "applies"),
        ({"asserts": []}, "asserts"),
        ({"scenario": "container"}, "scenario"),
        ({"rationale": ""}, "rationale"),
        ({"extra": 1}, "extra"),
        ({"asserts": assertion(where="ram")}, "asserts[0].where"),
        ({"asserts": assertion(probe="none")}, "asserts[0].probe"),
        ({"asserts": assertion(probe=["sysctl"])}, "asserts[0].probe"),
        ({"asserts": assertion(key=7)}, "asserts[0].key"),
        ({"asserts": assertion(op="is")}, "asserts[0].op"),
        ({"asserts": assertion(op=["equals"])}, "asserts[0].op"),
        ({"asserts": assertion(op="present")}, "asserts[0].value"),
        ({"asserts": assertion(op="matches", value="(")}, "asserts[0].value"),
        ({"asserts": assertion(op="contains", value=[])}, "asserts[0].value"),
        ({"asserts": assertion(op="one_of", value="ab")}, "asserts[0].value"),
        ({"asserts": assertion(op="at_least", value="many")}, "asserts[0].value"),
        ({"asserts": assertion(expect=1)}, "asserts[0]"),
    ],
)
def test_a_bad_check_is_named_by_its_key(changes: dict[str, Any], key: str) -> None:
    check, problems = parse_check("6-iv-a.example", check_raw(**changes), PROBES)
    assert check is None
    assert key in [problem.key for problem in problems]


def test_a_good_check_has_no_problem() -> None:
    check, problems = parse_check("6-iv-a.example", check_raw(), PROBES)
    assert problems == []
    assert check is not None
    assert check.asserts[0].key == ("a", "b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(JSON)
def test_any_value_is_a_check_or_a_list_of_problems(value: Any) -> None:
    check, problems = parse_check("6-iv-a.example", value, PROBES)
    assert (check is None) == bool(problems)


@given(st.sampled_from(sorted(check_raw())), JSON)
def test_any_value_of_any_key_is_a_check_or_a_list_of_problems(key: str, value: Any) -> None:
    check, problems = parse_check("6-iv-a.example", check_raw(**{key: value}), PROBES)
    assert (check is None) == bool(problems)


@given(JSON)
def test_any_value_is_an_item_or_a_list_of_problems(value: Any) -> None:
    item, problems = parse_item("6-iv-a", value)
    assert (item is None) == bool(problems)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_compiled_catalogue_or_an_error(data: bytes) -> None:
    with contextlib.suppress(SekishoError):
        found = from_json(data, "x")
        assert all(isinstance(name, str) for name in (*found.items, *found.checks))


def test_a_compiled_catalogue_that_is_too_large_is_refused() -> None:
    with pytest.raises(SekishoError, match="not in order"):
        from_json(b" " * (MAX_CATALOGUE_BYTES + 1), "x")


def test_the_environment_wins_then_the_checkout_then_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.delenv("SEKISHO_CATALOGUE", raising=False)
    assert find_catalogue() == repository / "hardening"
    monkeypatch.setenv("SEKISHO_CATALOGUE", str(tmp_path))
    assert find_catalogue() == tmp_path
    monkeypatch.delenv("SEKISHO_CATALOGUE")
    monkeypatch.setattr(catalogue_files, "checkout_root", lambda: None)
    monkeypatch.setattr(catalogue_files, "INSTALLED", tmp_path / "none.json")
    with pytest.raises(SekishoError, match="no catalogue found"):
        find_catalogue()
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    assert find_catalogue() == tmp_path / "none.json"
