"""The catalogue's files into values. Pure: texts in, values or every problem out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.catalogue.model import (
    ROLES,
    SLUG,
    Assertion,
    Catalogue,
    Check,
    Item,
    Op,
    PolicyValue,
)
from sekisho.catalogue.patterns import bounded
from sekisho.core.canonical import digest
from sekisho.core.errors import Problem, SekishoError, printable
from sekisho.core.languages import ITEM_ID
from sekisho.core.text import is_number

_CHECK_KEYS = {
    "id": True,
    "title": True,
    "applies": True,
    "asserts": True,
    "by_hand": True,
    "remedy": True,
    "scenario": True,
    "rationale": True,
    "fails_on": False,
}
_ASSERT_KEYS = {"where", "probe", "key", "op", "value", "missing", "always"}
_ITEM_KEYS = {
    "id": True,
    "citation": True,
    "title": True,
    "reading": True,
    "evidence": True,
    "status": True,
    "gaps": True,
    "exercises": False,
    "alerts": False,
    "profiles": False,
}
_VALUELESS = {Op.PRESENT, Op.ABSENT, Op.EMPTY}
_LISTS = {Op.ONE_OF, Op.CONTAINS, Op.LACKS, Op.SUBSET_OF, Op.SAME_SET}
#: An empty list here would let every host pass ("all of nothing").
_NEVER_EMPTY = {Op.ONE_OF, Op.CONTAINS, Op.LACKS}


class _Reader:
    """Collects every problem of one file instead of stopping at the first."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[Problem] = []

    def wrong(self, key: str, got: object, expected: str) -> None:
        self.problems.append(Problem(self.where, key, printable(got), expected))

    def keys(self, raw: Any, allowed: Mapping[str, bool]) -> dict[str, Any]:
        if not isinstance(raw, dict):
            self.wrong("", raw, "a mapping")
            return {}
        for key in raw:
            if key not in allowed:
                self.wrong(str(key), "an unknown key", f"one of {', '.join(allowed)}")
        for key, needed in allowed.items():
            if needed and key not in raw:
                self.wrong(key, "nothing", "a value")
        return raw

    def both_languages(self, raw: Any, key: str) -> dict[str, str]:
        if (
            isinstance(raw, dict)
            and set(raw) == {"en", "ja"}
            and all(isinstance(text, str) and text.strip() for text in raw.values())
        ):
            return {"en": str(raw["en"]).strip(), "ja": str(raw["ja"]).strip()}
        self.wrong(key, raw, "a mapping with en and ja, both text")
        return {"en": "", "ja": ""}

    def list_in_both(self, raw: Any, key: str) -> tuple[dict[str, str], ...]:
        if not isinstance(raw, list):
            self.wrong(key, raw, "a list of mappings with en and ja")
            return ()
        return tuple(
            self.both_languages(entry, f"{key}[{index}]") for index, entry in enumerate(raw)
        )

    def text(self, raw: Any, key: str) -> str:
        if isinstance(raw, str) and raw.strip():
            return raw.strip()
        self.wrong(key, raw, "text")
        return ""

    def texts(self, raw: Any, key: str, allowed: tuple[str, ...] | None = None) -> tuple[str, ...]:
        if isinstance(raw, list) and all(isinstance(entry, str) for entry in raw):
            for entry in raw:
                if allowed is not None and entry not in allowed:
                    self.wrong(key, entry, f"one of {', '.join(allowed)}")
            return tuple(raw)
        self.wrong(key, raw, "a list of text")
        return ()


def parse_check(name: str, raw: Any, probes: frozenset[str]) -> tuple[Check | None, list[Problem]]:
    """Return the check of folder ``name`` from its parsed YAML, or its problems."""
    reader = _Reader(f"hardening/checks/{name}/check.yml")
    fields = reader.keys(raw, _CHECK_KEYS)
    if fields.get("id") != name:
        reader.wrong("id", fields.get("id"), name)
    item, _, slug = name.partition(".")
    if not ITEM_ID.fullmatch(item) or not SLUG.fullmatch(slug):
        reader.wrong("id", name, "<item>.<slug> in lower case")
    raw_asserts = fields.get("asserts")
    if not isinstance(raw_asserts, list) or not raw_asserts:
        reader.wrong("asserts", raw_asserts, "a list of at least one assertion")
        raw_asserts = []
    asserts = tuple(
        parsed
        for index, entry in enumerate(raw_asserts)
        if (parsed := _assertion(reader, f"asserts[{index}]", entry, probes)) is not None
    )
    applies = reader.texts(fields.get("applies"), "applies", ("all", *ROLES))
    if not applies:
        reader.wrong("applies", fields.get("applies"), "all, or at least one role")
    check = Check(
        id=name,
        title=reader.both_languages(fields.get("title"), "title"),
        applies=applies,
        asserts=asserts,
        by_hand=reader.text(fields.get("by_hand"), "by_hand"),
        remedy=reader.text(fields.get("remedy"), "remedy"),
        scenario=reader.text(fields.get("scenario"), "scenario"),
        rationale=reader.text(fields.get("rationale"), "rationale"),
        fails_on=reader.texts(fields.get("fails_on", []), "fails_on"),
    )
    if check.scenario not in ("vm", "root"):
        reader.wrong("scenario", check.scenario, "vm or root")
    return (None if reader.problems else check), reader.problems


def _assertion(reader: _Reader, key: str, raw: Any, probes: frozenset[str]) -> Assertion | None:
    if not isinstance(raw, dict) or not set(raw) <= _ASSERT_KEYS:
        reader.wrong(key, raw, f"a mapping with {', '.join(sorted(_ASSERT_KEYS))}")
        return None
    before = len(reader.problems)
    if raw.get("where") not in ("disk", "runtime"):
        reader.wrong(f"{key}.where", raw.get("where"), "disk or runtime")
    if not isinstance(raw.get("probe"), str) or raw["probe"] not in probes:
        reader.wrong(f"{key}.probe", raw.get("probe"), "the name of a probe")
    path = raw.get("key")
    if isinstance(path, str):
        path = path.split(".")
    if not isinstance(path, list) or not all(isinstance(part, str) for part in path):
        reader.wrong(f"{key}.key", path, "a dotted path, or a list of keys")
        path = []
    op = next((known for known in Op if known.value == raw.get("op")), None)
    if op is None:
        reader.wrong(f"{key}.op", raw.get("op"), f"one of {', '.join(Op)}")
        return None
    value = _value(reader, f"{key}.value", op, raw)
    if not isinstance(raw.get("always", False), bool):
        reader.wrong(f"{key}.always", raw["always"], "true or false")
    if len(reader.problems) > before:
        return None
    return Assertion(
        where=raw["where"],
        probe=raw["probe"],
        key=tuple(path),
        op=op,
        value=value,
        missing=raw.get("missing"),
        has_missing="missing" in raw,
        always=raw.get("always", False),
    )


def _value(reader: _Reader, key: str, op: Op, raw: Mapping[str, Any]) -> Any:
    """Return the expected value; wrong for its comparison is a problem, not a verdict later."""
    value = raw.get("value")
    if (op in _VALUELESS) == ("value" in raw):
        reader.wrong(key, value, "no value" if op in _VALUELESS else "a value")
        return None
    if isinstance(value, dict) and set(value) == {"policy"}:
        if op is Op.MATCHES:  # a pattern of somebody else's may never end
            reader.wrong(key, value, "a regular expression, written here")
        return PolicyValue(tuple(str(value["policy"]).split(".")))
    if op is Op.PROVEN:
        reader.wrong(key, value, "{policy: …}, the lines declared one way")
    if op in _LISTS and (not isinstance(value, (list, dict)) or (not value and op in _NEVER_EMPTY)):
        reader.wrong(key, value, "a list with something in it")
    if op in (Op.AT_LEAST, Op.AT_MOST) and (isinstance(value, bool) or not _is_number(value)):
        reader.wrong(key, value, "a number")
    if op is Op.MATCHES:
        try:
            bounded(value if isinstance(value, str) else "(")
        except ValueError as bad:
            reader.wrong(key, f"{printable(value, 80)}, {bad}", "a regular expression, bounded")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and is_number(value.lstrip("-")))


def parse_item(name: str, raw: Any) -> tuple[Item | None, list[Problem]]:
    """Return the item of file ``name``.yml from its parsed YAML, or its problems."""
    reader = _Reader(f"hardening/catalogue/{name}.yml")
    fields = reader.keys(raw, _ITEM_KEYS)
    if str(fields.get("id")) != name or not ITEM_ID.fullmatch(name):
        reader.wrong("id", fields.get("id"), f"{name}, an item of the regulation")
    item = Item(
        id=name,
        citation=reader.text(fields.get("citation"), "citation"),
        title=reader.both_languages(fields.get("title"), "title"),
        reading=reader.both_languages(fields.get("reading"), "reading"),
        evidence=reader.texts(
            fields.get("evidence"), "evidence", ("machine", "exercise", "attested")
        ),
        status=reader.text(fields.get("status"), "status"),
        gaps=reader.list_in_both(fields.get("gaps"), "gaps"),
        exercises=reader.texts(fields.get("exercises", []), "exercises"),
        alerts=reader.texts(fields.get("alerts", []), "alerts"),
        profiles=reader.texts(
            fields.get("profiles", ["producer", "entrusted"]), "profiles", ("producer", "entrusted")
        ),
    )
    if item.status not in ("machine", "partial", "attested", "planned"):
        reader.wrong("status", item.status, "machine, partial, attested or planned")
    if not item.evidence:
        reader.wrong("evidence", fields.get("evidence"), "at least one kind of evidence")
    return (None if reader.problems else item), reader.problems


def parse_catalogue(
    items: Mapping[str, Any], checks: Mapping[str, Any], probes: frozenset[str]
) -> Catalogue:
    """Return the whole catalogue; raise `SekishoError` with every problem of every file."""
    problems: list[Problem] = []
    good_items: list[Item] = []
    good_checks: list[Check] = []
    for name in items:
        item, wrong = parse_item(name, items[name])
        problems += wrong
        if item is not None:
            good_items.append(item)
    for name in checks:
        check, wrong = parse_check(name, checks[name], probes)
        problems += wrong
        if name.partition(".")[0] not in items:
            problems.append(
                Problem(f"hardening/checks/{name}", "", "a check of no item", "an item's file")
            )
        if check is not None:
            good_checks.append(check)
    if not items:
        problems.append(Problem("hardening/catalogue", "", "no file", "one file per item"))
    if problems:
        raise SekishoError("the catalogue is not in order", tuple(problems))
    return Catalogue(
        items=tuple(sorted(good_items, key=lambda item: order(item.id))),
        checks=tuple(sorted(good_checks, key=lambda check: (order(check.item), check.id))),
        digest=digest({"items": dict(items), "checks": dict(checks)}),
    )


_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5}


def order(item: str) -> tuple[int, int, str, str]:
    """Return a sort key that puts items in the regulation's order."""
    article, roman, letter, number = (*item.split("-"), "", "", "")[:4]
    return int(article), _ROMAN.get(roman, 0), letter, number
