"""The report for people: one HTML file, whole in Japanese and whole in English. Pure.

A switch shows one language at a time, without a script. Nothing leads outside, and every value is
made printable and escaped by the environment itself, so that no template can forget it: what a
hostile host said can only be read. The same audit always gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sekisho.catalogue.model import Catalogue
from sekisho.core.errors import printable
from sekisho.core.languages import LANGUAGES
from sekisho.evidence.law_text import LawText
from sekisho.evidence.page import Page, page_of
from sekisho.evidence.report import AuditRun, Judged
from sekisho.evidence.words import SWITCH

_LONGEST = 2000  # characters of one value
_PLAIN = re.compile(r"[^A-Za-z0-9]")


def render(  # noqa: PLR0913 - a report has these inputs
    catalogue: Catalogue,
    run: AuditRun,
    judged: Judged,
    *,
    evidence: str,
    first: str = "en",
    law: LawText | None = None,
    checked: Mapping[str, str] | None = None,
) -> str:
    """Return the whole page.

    Args:
        catalogue: the catalogue evaluated by.
        run: the audit.
        judged: its findings.
        evidence: digest of the bundle's other files (`evidence_digest`), shown on every sheet.
        first: the language that is shown at first, ``en`` or ``ja``.
        law: the official text of the items, where the reader brings it.
        checked: what verifying the bundle gave, by language, where it was verified.

    """
    if first not in LANGUAGES:
        raise ValueError(f"no language {first!r}; expected one of {', '.join(LANGUAGES)}")
    reports: list[Page] = [
        page_of(catalogue, run, judged, language, evidence=evidence, law=law, checked=checked)
        for language in sorted(LANGUAGES, key=lambda language: language != first)
    ]
    return (
        _environment().get_template("page.html").render(reports=reports, first=first, switch=SWITCH)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sekisho.evidence"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["css_text"] = css_text
    environment.filters["marked"] = marked
    return environment


def _shown(value: Any) -> Any:
    """Return a value as it may be printed; the environment escapes it afterwards."""
    return value if isinstance(value, Markup) else printable(str(value), _LONGEST)


def marked(value: str) -> Markup:
    """Return text with what stands between backticks set as code, everything escaped."""
    parts = printable(value, _LONGEST).split("`")
    if len(parts) % 2 == 0:  # one backtick has no partner
        return escape("`".join(parts))
    code = Markup("<code>{}</code>")
    return Markup("").join(
        code.format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def css_text(value: str) -> Markup:
    """Return text for between the quotes of a CSS string: every odd character by its number."""
    text = printable(value, 300)
    safe = _PLAIN.sub(lambda found: f"\\{ord(found[0]):x} ", text)
    return Markup(safe)  # noqa: S704 - letters, digits, backslashes and spaces are left
