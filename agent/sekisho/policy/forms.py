"""Forms of a document's parts: each reads plain JSON into a frozen value, and writes it back. Pure.

One form stands for both ways, so the document is defined once. Nothing raises on bad input: every
defect is noted with its path, and the reader goes on.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, dataclass_transform

from sekisho.core.canonical import canonical
from sekisho.core.errors import Problem, SekishoError, printable

#: More defects than these are counted, not told.
MOST_PROBLEMS = 50
#: Entries of a list or a mapping that no narrower bound is given for.
MOST_ENTRIES = 100_000


class Defects:
    """Every defect of one document, by its path; at most `MOST_PROBLEMS` of them are told."""

    def __init__(self, where: str, item: str) -> None:
        self.where, self.item = where, item
        self.found: list[Problem] = []
        self.more = 0

    def add(self, at: str, got: object, expected: str, hint: str = "") -> None:
        """Note a defect; ``got`` is what stands there, whatever it is."""
        if len(self.found) >= MOST_PROBLEMS:
            self.more += 1
            return
        shown = f"{type(got).__name__} {printable(got, 80)}" if type(got) is str else _shown(got)
        self.found.append(Problem(self.where, at, shown, expected, self.item, hint))

    def said(self, at: str, got: str, expected: str, hint: str = "") -> None:
        """Note a defect whose ``got`` is said in words."""
        if len(self.found) >= MOST_PROBLEMS:
            self.more += 1
        else:
            self.found.append(Problem(self.where, at, got, expected, self.item, hint))

    def problems(self) -> tuple[Problem, ...]:
        """Return what was found, and how much more there is."""
        rest = f"{self.more} more problems"
        last = (Problem(self.where, "", rest, "none", self.item),) if self.more else ()
        return (*self.found, *last)


def _shown(got: object) -> str:
    if isinstance(got, dict):
        return f"a mapping of {len(got)}"
    if isinstance(got, list):
        return f"a list of {len(got)}"
    return "null" if got is None else printable(json.dumps(got), 80)


class Form(Protocol):
    """One form: reads and writes the same part."""

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the part of ``value``, which stands at path ``at``; note what is wrong."""

    def write(self, value: Any) -> Any:
        """Return the part as plain JSON."""


def of(form: Form, *, absent: bool = False) -> Any:
    """Return a dataclass field of this form; ``absent``: the key may be away, and is None then."""
    return field(metadata={"form": form, "absent": absent})


T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(of,))
def record(kind: type[T]) -> type[T]:
    """Make a class a frozen record; a type checker knows that fields of `of` have no default."""
    return dataclass(frozen=True, slots=True)(kind)


def text_of(value: Any) -> Any:
    """Return a part that stands in the document as it is held."""
    return value


class Text:
    """Text of one pattern, whole."""

    def __init__(self, pattern: re.Pattern[str] | str, expected: str) -> None:
        self._match = re.compile(pattern).fullmatch
        self.expected = expected

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the text."""
        if type(value) is not str or self._match(value) is None:
            defects.add(at, value, self.expected)
        return value

    write = staticmethod(text_of)


class Whole:
    """A whole number within bounds; ``true`` is none."""

    def __init__(self, least: int, most: int) -> None:
        self.least, self.most = least, most

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the number."""
        if type(value) is not int or not self.least <= value <= self.most:
            defects.add(at, value, f"a whole number from {self.least} to {self.most}")
        return value

    write = staticmethod(text_of)


class Flag:
    """True or false."""

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the truth."""
        if type(value) is not bool:
            defects.add(at, value, "true or false")
        return value

    write = staticmethod(text_of)


class Word:
    """One of an enumeration's words."""

    def __init__(self, kind: type[enum.StrEnum]) -> None:
        self._words = {one.value: one for one in kind}

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the word."""
        found = self._words.get(value) if type(value) is str else None
        if found is None:
            defects.add(at, value, f"one of {', '.join(self._words)}")
        return found

    def write(self, value: Any) -> Any:
        """Return its text."""
        return value.value


@lru_cache(maxsize=4096)  # of a declared line each end stands four times
def _network(text: str) -> IPv4Network | None:
    try:
        found = IPv4Network(text)
    except ValueError:
        return None
    return found if str(found) == text else None


class Network:
    """An IPv4 network, written as `ipaddress` writes it."""

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the network."""
        found = _network(value) if type(value) is str else None
        if found is None:
            defects.add(at, value, "an IPv4 network such as 10.0.0.0/24")
        return found

    def write(self, value: Any) -> Any:
        """Return its text."""
        return str(value)


class Null:
    """What another form reads, or null."""

    def __init__(self, form: Form) -> None:
        self._form = form

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the part, or None."""
        return None if value is None else self._form.read(value, at, defects)

    def write(self, value: Any) -> Any:
        """Return the part, or null."""
        return None if value is None else self._form.write(value)


class Many:
    """A list of one form, as a tuple."""

    def __init__(self, form: Form, *, least: int = 0, most: int = MOST_ENTRIES) -> None:
        self._form, self._least, self._most = form, least, most

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the entries."""
        if not isinstance(value, list) or not self._least <= len(value) <= self._most:
            defects.add(at, value, f"a list of {self._least} to {self._most}")
            return ()
        read = self._form.read
        return tuple([read(one, f"{at}[{index}]", defects) for index, one in enumerate(value)])

    def write(self, value: Any) -> Any:
        """Return the list."""
        return [self._form.write(one) for one in value]


class Named:
    """A mapping from names to one form, frozen."""

    def __init__(
        self, names: re.Pattern[str] | str, expected: str, form: Form, *, most: int = MOST_ENTRIES
    ) -> None:
        self._match = re.compile(names).fullmatch
        self._expected, self._form, self._most = expected, form, most

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the entries by name."""
        if not isinstance(value, dict) or len(value) > self._most:
            defects.add(at, value, f"a mapping of at most {self._most}")
            return MappingProxyType({})
        found = {}
        for name, one in value.items():
            if self._match(name) is None:
                defects.add(f"{at}.{printable(name, 40)}", name, self._expected)
            else:
                found[name] = self._form.read(one, f"{at}.{name}", defects)
        return MappingProxyType(found)

    def write(self, value: Any) -> Any:
        """Return the mapping."""
        return {name: self._form.write(one) for name, one in value.items()}


@dataclass(frozen=True, slots=True)
class _Key:
    """One field of a record: its name, its form, whether the key may be away."""

    name: str
    form: Form
    absent: bool


def keys_of(kind: Any) -> tuple[_Key, ...]:
    """Return the fields of a dataclass that have a form (`of`)."""
    return tuple(
        _Key(one.name, one.metadata["form"], one.metadata["absent"])
        for one in fields(kind)
        if "form" in one.metadata
    )


class Record:
    """A mapping with exactly a dataclass's fields."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._keys = keys_of(kind)
        self._names = frozenset(one.name for one in self._keys)

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the record."""
        if not isinstance(value, dict):
            defects.add(at, value, f"a mapping with {', '.join(one.name for one in self._keys)}")
            return None
        if value.keys() - self._names:
            unknown_keys(value, self._names, f"{at}.", defects)
        found = {}
        for one in self._keys:
            name = one.name
            if name in value:
                found[name] = one.form.read(value[name], f"{at}.{name}", defects)
            else:
                found[name] = None
                if not one.absent:
                    defects.said(f"{at}.{name}", "nothing", "this key")
        return self._kind(**found)

    def write(self, value: Any) -> Any:
        """Return the mapping; a key that may be away is, where it is None."""
        found = {}
        for one in self._keys:
            held = getattr(value, one.name)
            if held is not None or not one.absent:
                found[one.name] = one.form.write(held)
        return found


def unknown_keys(
    value: Mapping[str, Any], names: frozenset[str], front: str, defects: Defects
) -> None:
    """Note every key of a mapping that is none of ``names``."""
    for key in value:
        if key not in names:
            defects.said(
                f"{front}{printable(key, 40)}", "a key that this version does not know",
                "no such key", "update the agent: a newer compiler wrote this",
            )  # fmt: skip


class Tagged:
    """A mapping whose form is chosen by the word at one of its keys."""

    def __init__(self, tag: str, forms: Mapping[str, Record]) -> None:
        self._tag, self._forms = tag, forms

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the record of the form that the tag names."""
        tag = value.get(self._tag) if isinstance(value, dict) else None
        form = self._forms.get(tag) if type(tag) is str else None
        if form is None:
            words = ", ".join(self._forms)
            if isinstance(value, dict):
                defects.add(f"{at}.{self._tag}", tag, f"one of {words}")
            else:
                defects.add(at, value, f"a mapping whose {self._tag} is one of {words}")
            return None
        return form.read(value, at, defects)

    def write(self, value: Any) -> Any:
        """Return the mapping."""
        return self._forms[getattr(value, self._tag)].write(value)


class Row:
    """A list with exactly a dataclass's fields, in their order."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self._keys = keys_of(kind)

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the record."""
        if not isinstance(value, list) or len(value) != len(self._keys):
            defects.add(at, value, f"a list of {', '.join(one.name for one in self._keys)}")
            return None
        return self._kind(
            *[
                one.form.read(entry, f"{at}.{one.name}", defects)
                for one, entry in zip(self._keys, value, strict=True)
            ]
        )

    def write(self, value: Any) -> Any:
        """Return the list."""
        return [one.form.write(getattr(value, one.name)) for one in self._keys]


class Whose:
    """A list that has a reader of its own, whose values write themselves (``as_json``)."""

    def __init__(self, parse: Callable[[Any], Sequence[Any]]) -> None:
        self._parse = parse

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return what the reader returns; its problems keep their words."""
        try:
            found = tuple(self._parse(value))
        except SekishoError as bad:
            for one in bad.problems:
                key = one.key if not one.key or one.key.startswith("[") else f".{one.key}"
                defects.said(f"{one.where}{key}", one.got, one.expected, one.hint)
            if not bad.problems:
                defects.said(at, bad.message, "a list in its own form")
            return ()
        return found

    def write(self, value: Any) -> Any:
        """Return the list."""
        return [one.as_json() for one in value]


@dataclass(frozen=True, slots=True)
class Sealed:
    """JSON that nobody can change: kept as canonical bytes, given out anew each time."""

    data: bytes

    @classmethod
    def of(cls, value: Any) -> Sealed:
        """Return ``value`` sealed; TypeError for what JSON without floats cannot hold."""
        return cls(canonical(value))

    @property
    def digest(self) -> str:
        """The value's digest (`sekisho.core.canonical.digest`)."""
        return hashlib.sha256(self.data).hexdigest()

    def value(self) -> Any:
        """Return a copy of the value, the caller's own."""
        return json.loads(self.data)


class Ruleset:
    """A libnftables document: ``nftables``, a list of objects. Sealed; read elsewhere."""

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the document, sealed."""
        entries = value.get("nftables") if isinstance(value, dict) and len(value) == 1 else None
        if not isinstance(entries, list) or not entries:
            defects.add(at, value, "a mapping with exactly nftables, a list of objects")
            return Sealed(b"{}")
        for index, one in enumerate(entries):
            if not isinstance(one, dict) or len(one) != 1:
                defects.add(f"{at}.nftables[{index}]", one, "an object with one key")
        return Sealed.of(value)

    def write(self, value: Any) -> Any:
        """Return the document."""
        return value.value()
