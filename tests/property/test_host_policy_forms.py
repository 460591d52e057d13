"""The policy's parser under thousands of documents: refused in our words, or kept to the byte."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from examples import examples
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.policy import forms, host_policy, parts
from sekisho.policy.forms import MOST_PROBLEMS, keys_of
from sekisho.policy.host_policy import HostPolicy

#: Real policies; of their packet filters, which are most of the bytes, only the beginning.
GOLDENS = [
    (told := json.loads(path.read_bytes()))
    | {"nftables": {"nftables": told["nftables"]["nftables"][:5]}}
    for path in sorted((Path(__file__).resolve().parents[1] / "golden/policies").glob("*.json"))
]
WHOLE = GOLDENS[-1]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(document: Any) -> HostPolicy | None:
    """Return the policy, or None when it is refused as the house refuses."""
    try:
        return HostPolicy.parse(document)
    except SekishoError as bad:
        refusal = bad
    assert refusal.problems, "a refusal that says nothing"
    assert len(refusal.problems) <= MOST_PROBLEMS + 1
    assert refusal.diagnostics().replace("\n", "").isprintable()
    return None


@settings(max_examples=examples(500))
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_our_own_words(data: bytes) -> None:
    assert read(data) is None


@settings(max_examples=examples(500))
@given(JSON)
def test_any_json_is_refused_in_our_own_words(value: Any) -> None:
    data = json.dumps(value, allow_nan=True).encode()
    assert read(data) is None
    if isinstance(value, dict):
        assert read(WHOLE | value) is None or value.keys() <= WHOLE.keys()


Place = tuple[str | int, ...]


def below(value: Any, path: Place = ()) -> list[Place]:
    found = [path]
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        found += [place for key, one in pairs for place in below(one, (*path, key))]
    return found


PLACES = [(golden, place) for golden, value in enumerate(GOLDENS) for place in below(value)]


def put(document: Any, path: Place, change: Callable[[Any, Any], None], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    change(place, (path[-1], value))
    return changed


def _set(place: Any, told: tuple[Any, Any]) -> None:
    place[told[0]] = told[1]


def _drop(place: Any, told: tuple[Any, Any]) -> None:
    del place[told[0]]


def _add(place: Any, told: tuple[Any, Any]) -> None:
    if isinstance(place, list):
        place.insert(told[0], told[1])
    else:
        place[f"{told[0]}x"] = told[1]


def _again(place: Any, told: tuple[Any, Any]) -> None:
    if isinstance(place, list):
        place.append(copy.deepcopy(place[told[0]]))
    else:
        place["again"] = copy.deepcopy(place[told[0]])


@settings(max_examples=examples(1000), deadline=None)
@given(
    st.sampled_from(PLACES),
    st.sampled_from([_set, _drop, _add, _again]),
    JSON,
)
def test_a_changed_policy_is_refused_or_is_what_it_says(
    drawn: tuple[int, Place], change: Any, value: Any
) -> None:
    golden, path = drawn
    document = put(GOLDENS[golden], path, change, value)
    told = read(document if isinstance(document, dict) else json.dumps(document).encode())
    if told is None:
        return
    kept = told.as_json()
    assert HostPolicy.parse(kept) == told
    for key in document.keys() - {"devices", "declared"}:  # order of interfaces; columns of rows
        assert kept[key] == document[key]
    assert kept.keys() == document.keys()


# -- documents made of the forms themselves ------------------------------------------------------


def texts(value: Any) -> Iterator[str]:
    """Yield every text of a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from (key, *texts(one))
    elif isinstance(value, list):
        for one in value:
            yield from texts(one)


#: Real texts, and some that are long, short or strange: each form takes those that fit it.
POOL = sorted({
    *(text for golden in GOLDENS for text in texts(golden)),
    *("a", "a1-b2", "255.255.255.255", "0.0.0.0/0", "10.0.0.1/32[tcp]", "x" * 126, "wg-0", "::"),
    *("A" * 43 + "=", "ff:ff:ff:ff:ff:ff", "病院A, ticket 12", "nf_tables", "2000-02-29", "f" * 64),
})  # fmt: skip


def text(match: Any) -> st.SearchStrategy[str]:
    return st.sampled_from([one for one in POOL if match(one)])


def many(form: Any) -> st.SearchStrategy[list[Any]]:
    return st.lists(of_form(form._form), min_size=form._least, max_size=form._least + 3)


def tagged(form: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(sorted(form._forms)).flatmap(
        lambda tag: record(form._forms[tag]._kind).map(lambda made: made | {form._tag: tag})
    )


ENTRY = st.dictionaries(st.text(max_size=5), st.integers(), min_size=1, max_size=1)
VALUES: dict[type, Callable[[Any], st.SearchStrategy[Any]]] = {
    forms.Text: lambda form: text(form._match),
    forms.Whole: lambda form: st.integers(form.least, form.most),
    forms.Flag: lambda _form: st.booleans(),
    forms.Word: lambda form: st.sampled_from(sorted(form._words)),
    forms.Network: lambda _form: st.sampled_from(["0.0.0.0/0", "10.0.0.0/24", "192.0.2.1/32"]),
    forms.Null: lambda form: st.none() | of_form(form._form),
    forms.Many: many,
    host_policy._Functions: lambda form: many(form).filter(
        lambda made: len({one.partition(" ")[0] for one in made}) == len(made)
    ),
    forms.Named: lambda form: st.dictionaries(text(form._match), of_form(form._form), max_size=3),
    forms.Record: lambda form: record(form._kind),
    forms.Tagged: tagged,
    forms.Row: lambda form: st.tuples(*[of_form(one.form) for one in keys_of(form._kind)]).map(
        list
    ),
    parts.Day: lambda _form: st.dates().map(lambda day: day.isoformat()),
    parts.Base64: lambda form: st.binary(min_size=1, max_size=40).map(form.write),
    forms.Ruleset: lambda _form: st.lists(ENTRY, min_size=1, max_size=3).map(
        lambda made: {"nftables": made}
    ),
}


def of_form(form: Any) -> st.SearchStrategy[Any]:
    """Return JSON values that a form reads."""
    return VALUES[type(form)](form)


def record(kind: type) -> st.SearchStrategy[dict[str, Any]]:
    told = {one.name: of_form(one.form) for one in keys_of(kind) if not one.absent}
    more = {one.name: of_form(one.form) for one in keys_of(kind) if one.absent}
    return st.fixed_dictionaries(told, optional=more)


#: Lists with readers of their own have properties of their own.
KEYS = [one for one in keys_of(HostPolicy) if not isinstance(one.form, forms.Whose)]


@settings(max_examples=examples(500), deadline=None)
@given(
    st.sampled_from(KEYS).flatmap(lambda one: st.tuples(st.just(one.name), of_form(one.form))),
    st.sampled_from(KEYS).flatmap(lambda one: st.tuples(st.just(one.name), of_form(one.form))),
)
def test_whatever_the_forms_allow_is_read_and_written_back_byte_for_byte(
    one: tuple[str, Any], other: tuple[str, Any]
) -> None:
    data = canonical(WHOLE | dict([one, other]))
    try:
        data.decode()
    except UnicodeDecodeError:
        return  # a lone surrogate, which is no text here
    told = HostPolicy.parse(data, form=True)
    assert told.as_bytes() == data
    assert HostPolicy.parse(told.as_json()) == told
