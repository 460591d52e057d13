"""An item has one id and is cited by one function, in both languages and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sekisho.control.catalogue_files import load_catalogue
from sekisho.core.languages import LANGUAGES, cite, item_of, kanji, language_of


@pytest.mark.parametrize(
    ("item", "english", "japanese"),
    [
        ("6-i-f", "6(i)(f)", "第六条第一号ヘ"),
        ("6-iii-c", "6(iii)(c)", "第六条第三号ハ"),
        ("6-iv-d-2", "6(iv)(d)2", "第六条第四号ニ(2)"),
        ("6-v-b", "6(v)(b)", "第六条第五号ロ"),
        ("12", "12", "第十二条"),
        ("26", "26", "第二十六条"),
        ("38", "38", "第三十八条"),
    ],
)
def test_items_are_cited_as_each_language_does(item: str, english: str, japanese: str) -> None:
    assert cite(item, "en") == english
    assert cite(item, "ja") == japanese


def test_every_item_is_found_again_from_each_of_its_forms(repository: Path) -> None:
    items = [item.id for item in load_catalogue(repository / "hardening").items]
    for language in LANGUAGES:
        cited = [cite(item, language) for item in items]
        assert len(set(cited)) == len(items)
        assert [item_of(text) for text in cited] == items
    assert [item_of(item) for item in items] == items
    assert item_of("第六条第四号ニ（2）") == "6-iv-d-2"


ARTICLES = st.integers(1, 99).map(str)
ROMANS = st.sampled_from(("i", "ii", "iii", "iv", "v", "vi", "vii", "viii"))
IDS = st.one_of(
    ARTICLES,
    st.tuples(ARTICLES, ROMANS).map("-".join),
    st.tuples(ARTICLES, ROMANS, st.sampled_from("abcdef")).map("-".join),
    st.tuples(ARTICLES, ROMANS, st.sampled_from("abcdef"), st.sampled_from("123456789")).map(
        "-".join
    ),
)


@given(IDS, st.sampled_from(LANGUAGES))
def test_any_item_is_found_again(item: str, language: str) -> None:
    assert item_of(cite(item, language)) == item


@given(st.text(max_size=40) | st.text("第六条三十号ハニ(2)（）0123456789iv-abc", max_size=14))
def test_any_text_is_an_item_or_refused(text: str) -> None:
    try:
        item = item_of(text)
    except ValueError:
        return
    assert text in (item, cite(item, "en")) or cite(item, "ja") == text.translate(
        str.maketrans("（）", "()")
    )


@pytest.mark.parametrize(
    "text",
    ["", "6-", "6-c", "06", "0", "100", "6-iiii-c", "6-iii-g", "6-iii-c-0", "第十十条", "第〇条",
     "6(iii)(c", "第六条第三号ハ(0)", "6-iii-c\n", "\uff16-iii-c", "²"],
)  # fmt: skip
def test_what_is_no_item_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"item|number|not found"):
        item_of(text)


def test_numbers_are_those_of_japanese_law() -> None:
    assert [kanji(n) for n in (1, 10, 11, 20, 26, 30, 99)] == [
        "一", "十", "十一", "二十", "二十六", "三十", "九十九",
    ]  # fmt: skip
    for wrong in (0, -1, 100):
        with pytest.raises(ValueError, match="1 and 99"):
            kanji(wrong)


def test_another_language_is_refused() -> None:
    with pytest.raises(ValueError, match="no language 'fr'"):
        cite("6-iii-c", "fr")


@pytest.mark.parametrize(
    ("locale", "language"),
    [("ja_JP.UTF-8", "ja"), ("ja", "ja"), ("C.UTF-8", "en"), ("", "en"), ("jam_JM", "en"),
     ("en_US", "en")],
)  # fmt: skip
def test_the_terminals_locale_chooses(locale: str, language: str) -> None:
    assert language_of(locale) == language
