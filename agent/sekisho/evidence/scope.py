"""The scope of an audit: what there was to judge, what was asked for, what was left out. Pure.

A reader who sees "6 of 6 hosts answered" must also see that the site has seven. The scope is part
of the run, bound to the manifest, and stands on the report's first page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sekisho.evidence.summary import KINDS

MAX_NAMES = 100_000
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Scope:
    """What one audit could judge and what it was asked to.

    Attributes:
        hosts: every host of the site; of ``--local`` the machine itself.
        items: every item of the catalogue the audit chose from.
        checks: every check of that catalogue.
        only_hosts: the hosts named on the command line; empty: all.
        only_items: the items named; empty: all.
        only_checks: the checks named; empty: all.
        options: other options that shaped the audit, by name: text or number.

    """

    hosts: tuple[str, ...] = ()
    items: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    only_hosts: tuple[str, ...] = ()
    only_items: tuple[str, ...] = ()
    only_checks: tuple[str, ...] = ()
    options: tuple[tuple[str, str | int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the scope as plain JSON values."""
        return {
            **{name: list(getattr(self, name)) for name in _LISTS},
            "options": dict(self.options),
        }

    def expected_hosts(self) -> tuple[str, ...]:
        """Return the hosts this audit was asked to judge, in the site's order."""
        wanted = set(self.only_hosts or self.hosts)
        return tuple(name for name in self.hosts if name in wanted)


#: Of a run that was made by hand; a bundle of it is never whole.
NO_SCOPE = Scope()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What there was to judge and was not judged; empty everywhere: the whole was."""

    hosts: tuple[str, ...]
    items: tuple[str, ...]
    checks: tuple[str, ...]
    evidence: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether anything was left out."""
        return bool(self.hosts or self.items or self.checks or self.evidence)

    @property
    def checks_apart(self) -> tuple[str, ...]:
        """The checks left out whose item was judged: what does not follow from the items."""
        items = set(self.items)
        return tuple(name for name in self.checks if name.partition(".")[0] not in items)

    def lines(self, scope: Scope, named: int) -> list[tuple[str, str]]:
        """Return (hosts|items|checks|evidence, "1 of 7: gate-out") for what was left out.

        ``named`` is how many names are spelled out.
        """
        found = []
        for what, names, spelled, whole in (
            ("hosts", self.hosts, self.hosts, scope.hosts),
            ("items", self.items, self.items, scope.items),
            ("checks", self.checks, self.checks_apart, scope.checks),
            ("evidence", self.evidence, self.evidence, KINDS),
        ):
            if names:
                told = [*spelled[:named]]
                if len(spelled) > named:
                    told.append(f"{len(spelled) - named} more")
                if len(spelled) < len(names):
                    told.append("those of the items left out")
                found.append((what, f"{len(names)} of {len(whole)}: {', '.join(told)}"))
        return found

    def as_json(self) -> dict[str, Any]:
        """Return what was left out as plain JSON values."""
        return {
            "hosts": list(self.hosts),
            "items": list(self.items),
            "checks": list(self.checks),
            "evidence": list(self.evidence),
        }


_LISTS = ("hosts", "items", "checks", "only_hosts", "only_items", "only_checks")


def left_out(
    scope: Scope,
    *,
    hosts: Iterable[str],
    items: Iterable[str],
    checks: Iterable[str],
    evidence: Iterable[str],
) -> LeftOut:
    """Return what of the scope is not among what was judged."""
    return LeftOut(
        hosts=_without(scope.hosts, hosts),
        items=_without(scope.items, items),
        checks=_without(scope.checks, checks),
        evidence=_without(KINDS, evidence),
    )


def _without(whole: tuple[str, ...], judged: Iterable[str]) -> tuple[str, ...]:
    there = set(judged)
    return tuple(name for name in whole if name not in there)


def scope_from_json(value: Any) -> Scope:
    """Return the scope in ``value``; ValueError says what is wrong with it."""
    if not isinstance(value, dict) or set(value) != {*_LISTS, "options"}:
        raise ValueError(f"scope is missing or has not exactly {', '.join(_LISTS)}, options")
    named = {name: _names(value[name], name) for name in _LISTS}
    for whole in ("hosts", "items"):
        if not named[whole]:
            raise ValueError(f"scope: {whole} is empty: there was nothing to judge")
    for whole in ("hosts", "items", "checks"):
        unknown = set(named[f"only_{whole}"]) - set(named[whole])
        if unknown:
            raise ValueError(f"scope: only_{whole} names {min(unknown)!r}, {whole} does not")
    return Scope(**named, options=_options(value["options"]))


def _names(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        raise ValueError(f"scope: {name} is no list of at most {MAX_NAMES}")
    if not all(isinstance(one, str) and 0 < len(one) <= MAX_TEXT for one in value):
        raise ValueError(f"scope: {name} holds something that is no name")
    if len(set(value)) != len(value):
        raise ValueError(f"scope: {name} names something twice")
    return tuple(value)


def _options(value: Any) -> tuple[tuple[str, str | int], ...]:
    if not isinstance(value, Mapping) or len(value) > MAX_TEXT:
        raise ValueError("scope: options is no object")
    for name, held in value.items():
        fits = isinstance(held, str) and len(held) <= MAX_TEXT
        if len(name) > MAX_TEXT or not (fits or (type(held) is int and abs(held) < 2**53)):
            raise ValueError("scope: an option is neither a short text nor a number")
    return tuple(sorted(value.items()))
