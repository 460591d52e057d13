"""The two languages of everything people read, and how each cites an item of the regulation. Pure.

An item has one id, `6-iv-d-2`. English texts cite it as 6(iv)(d)2, Japanese ones as
第六条第四号ニ(2). Nothing writes either by hand: both are derived from the id here, and a corpus
test holds every Japanese text to the same form.
"""

from __future__ import annotations

import re

LANGUAGES = ("en", "ja")

#: The id of an item: article, item, letter, number; `6-iv-d-2`.
ITEM_ID = re.compile(
    r"([1-9][0-9]?)(?:-(iii|ii|iv|ix|i|viii|vii|vi|v|x)(?:-([a-f])(?:-([1-9]))?)?)?"
)
_CITED = re.compile(r"([1-9][0-9]?)(?:\(([ivx]{1,4})\)(?:\(([a-f])\)([1-9])?)?)?")
_CITED_JA = re.compile(
    r"第([一二三四五六七八九十]{1,3})条"
    r"(?:第([一二三四五六七八九十]{1,3})号(?:([イロハニホヘ])(?:[(（]([1-9])[)）])?)?)?"
)
_DIGITS = "一二三四五六七八九"
_LETTERS = dict(zip("abcdef", "イロハニホヘ", strict=True))
_ROMANS = dict(zip(("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x"), range(1, 11),
                   strict=True))  # fmt: skip


def cite(item: str, language: str) -> str:
    """Return how a language cites an item: ``6(iii)(c)``, ``第六条第三号ハ``.

    Args:
        item: the item's id, such as ``6-iii-c``.
        language: ``en`` or ``ja``.

    Raises:
        ValueError: not an item's id, or a language that is not there.

    """
    article, number, letter, point = _parts(item)
    if language == "en":
        text = f"{article}({number})" if number else article
        return text + (f"({letter})" if letter else "") + point
    if language != "ja":
        raise ValueError(f"no language {language!r}; expected one of {', '.join(LANGUAGES)}")
    text = f"第{kanji(int(article))}条"
    if number:
        text += f"第{kanji(_ROMANS[number])}号"
    return text + (_LETTERS[letter] if letter else "") + (f"({point})" if point else "")


def item_of(text: str) -> str:
    """Return the id of an item written in any of its three forms; ValueError for other text."""
    if ITEM_ID.fullmatch(text):
        return "-".join(part for part in _parts(text) if part)
    if found := _CITED.fullmatch(text):
        return item_of("-".join(part for part in found.groups() if part))
    if found := _CITED_JA.fullmatch(text):
        article, number, letter, point = found.groups()
        romans = {value: name for name, value in _ROMANS.items()}
        letters = {kana: latin for latin, kana in _LETTERS.items()}
        parts = [str(_number(article))]
        parts += [romans.get(_number(number), "?")] if number else []
        parts += [letters[letter]] if letter else []
        return item_of("-".join(parts + ([point] if point else [])))
    raise ValueError("not an item of the regulation, such as 6-iii-c, 6(iii)(c) or 第六条第三号ハ")


def kanji(number: int) -> str:
    """Return a number of 1 to 99 as Japanese law writes it: 26 is 二十六."""
    if not 0 < number < 100:
        raise ValueError(f"{number} is not between 1 and 99")
    tens, ones = divmod(number, 10)
    text = ("" if tens == 1 else _DIGITS[tens - 1]) + "十" if tens else ""
    return text + (_DIGITS[ones - 1] if ones else "")


def language_of(locale: str) -> str:
    """Return the language to speak in a POSIX locale (``ja_JP.UTF-8``); English by default."""
    return "ja" if re.fullmatch(r"ja(?:[_.@].*)?", locale, re.DOTALL) else "en"


def _parts(item: str) -> tuple[str, str, str, str]:
    found = ITEM_ID.fullmatch(item)
    if found is None:
        raise ValueError(f"not an item's id: {item[:40]!r}")
    article, number, letter, point = (part or "" for part in found.groups())
    return article, number, letter, point


def _number(text: str) -> int:
    tens, ten, ones = text.rpartition("十") if "十" in text else ("", "", text)
    value = (10 * (_DIGITS.index(tens) + 1 if tens else 1) if ten else 0) + (
        _DIGITS.index(ones) + 1 if ones else 0
    )
    if kanji(value) != text:
        raise ValueError(f"not a number of Japanese law: {text}")
    return value
