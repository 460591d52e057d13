"""The report as its readers get it: one whole language at a time, on paper, and never run."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import StrictUndefined, UndefinedError

from evidenceworld import KEY, PUBLIC_PEM, TOOL, whole, write
from examples import examples
from sekisho.catalogue.compiled import Sources
from sekisho.catalogue.edition import EDITION_NOTE, REGULATION
from sekisho.catalogue.model import Finding, Verdict
from sekisho.control.bundle.files import write_bundle
from sekisho.control.catalogue_files import load_sources, parse_sources
from sekisho.core.languages import LANGUAGES, cite
from sekisho.evidence import html
from sekisho.evidence.bundle import Bundle, evidence_digest, make_bundle
from sekisho.evidence.html import css_text, marked, render
from sekisho.evidence.law_text import LawText
from sekisho.evidence.page import BY_HAND
from sekisho.evidence.report import AuditRun, HostRecord, Judged, judge_run
from sekisho.evidence.summary import rows
from sekisho.evidence.verification import Stored, Trust, verify
from sekisho.evidence.words import VERDICT_WORDS, WORDS
from siteworld import host_policy

JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
EVIDENCE = "ab" * 32


class Shape(HTMLParser):
    """The elements and attributes of a page, and the text of each language's half."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.texts: dict[str, list[str]] = {name: [] for name in LANGUAGES}
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "main":
            self.inside = dict(attrs)["lang"]
        shown = [
            (key, "" if key in ("title", "data-label") or (tag, key) == ("dd", "lang") else value)
            for key, value in attrs
        ]
        self.tags.append((tag, tuple(shown)))

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[self.inside].append(data)

    def text(self, language: str) -> str:
        return " ".join(" ".join(self.texts[language]).split())


def shape(page: str) -> Shape:
    found = Shape()
    found.feed(page)
    found.close()
    return found


@pytest.fixture(scope="module")
def sources(repository: Path) -> Sources:
    return load_sources(repository / "hardening")


@pytest.fixture(scope="module")
def site(sources: Sources) -> tuple[AuditRun, Judged]:
    """Return a run of the whole catalogue: nothing could be read, and one host is silent."""
    policy = host_policy("core-1")
    raw = {"schema": 1, "milliseconds": 3, "probes": {}}
    run = AuditRun(
        mode="ssh",
        site="lab",
        profile="producer",
        started="2026-11-22T02:00:00Z",
        finished="2026-11-22T02:00:05Z",
        tool=TOOL,
        hosts=(
            HostRecord("core-1", raw, policy),
            HostRecord("gate-out", None, None, reason="no connection within 5 s"),
        ),
        flow_modes=("one-way-tcp",),
    )
    run = whole(run, sources)
    return run, judge_run(parse_sources(sources), run)


@pytest.fixture(scope="module")
def page(sources: Sources, site: tuple[AuditRun, Judged]) -> str:
    return render(parse_sources(sources), *site, evidence=EVIDENCE, first="ja")


# -- languages ----------------------------------------------------------------------------------


def test_each_half_is_whole_in_its_own_language(page: str, sources: Sources) -> None:
    found, catalogue = shape(page), parse_sources(sources)
    english, japanese = found.text("en"), found.text("ja")
    assert JAPANESE.findall(english.replace("関所 Sekisho", "")) == []
    for text, language in ((english, "en"), (japanese, "ja")):
        other = "ja" if language == "en" else "en"
        assert REGULATION[language] in text
        assert EDITION_NOTE[language] in text
        for item in catalogue.items:
            assert cite(item.id, language) in text
            assert item.title[language] in text
            assert (
                " ".join(item.reading[language].replace("`", " ").split()) in text.replace("`", " ")
                or "`" in item.reading[language]
            )
            for gap in item.gaps:
                assert "`" in gap[language] or gap[language] in text, gap[language]
                assert "`" in gap[other] or gap[other] not in text
        for key, both in WORDS.items():
            if both[language] and len(both[other]) > 12 and both[other] != both[language]:
                assert both[other] not in text, key
        assert VERDICT_WORDS[Verdict.ERROR][language] in text
        assert VERDICT_WORDS[Verdict.ERROR][other] not in text


def test_japanese_sentences_of_english_words_are_only_names(page: str) -> None:
    """Six English words in a row in the Japanese half are a sentence nobody translated."""
    text = re.sub(r"SHA256:\S+|[0-9a-f]{32,}", "", shape(page).text("ja"))
    text = text.replace(BY_HAND, "").replace("sekisho verify BUNDLE --key SIGNER.pub.pem", "")
    prose = re.findall(r"(?:\b[A-Za-z]{2,}\b[ ,]+){6,}", text)
    assert prose == []


@pytest.mark.parametrize("first", LANGUAGES)
def test_the_language_asked_for_is_shown_first_and_the_other_by_a_switch(
    sources: Sources, site: tuple[AuditRun, Judged], first: str
) -> None:
    told = render(parse_sources(sources), *site, evidence=EVIDENCE, first=first)
    assert f'<html lang="{first}">' in told
    assert re.findall(r'id="show-(\w+)" checked', told) == [first]
    assert re.findall(r'id="show-(\w+)"', told) == ["ja", "en", "both"]
    assert re.findall(r'<main lang="(\w+)">', told)[0] == first
    for language in LANGUAGES:
        hidden = f"#show-{'en' if language == 'ja' else 'ja'}:checked ~ main[lang={language}]"
        assert hidden in told


def test_both_forms_of_the_page_verify_and_no_third(sources: Sources) -> None:
    own = Sources(items=sources.items, checks={})
    raw = {"schema": 1, "milliseconds": 3, "probes": {}}
    run = AuditRun(
        mode="local", site="", profile=None, started="2026-11-22T02:00:00Z",
        finished="2026-11-22T02:00:05Z", tool=TOOL, hosts=(HostRecord("core-1", raw),),
    )  # fmt: skip
    run = whole(run, own)
    files = write(run, own)
    catalogue, judged = parse_sources(own), judge_run(parse_sources(own), run)
    for first in LANGUAGES:
        bundle = make_bundle(
            catalogue, files["catalogue.json"], run, judged, signer=PUBLIC_PEM, language=first
        )
        held = _signed(bundle)
        trust = Trust(key=PUBLIC_PEM, catalogue=own)
        assert verify(Stored(held), trust=trust, tool=TOOL).broken == []
    told = held["report.html"].replace("不適合".encode(), "適合".encode(), 1)
    assert told != held["report.html"]


def _signed(bundle: Bundle) -> dict[str, bytes]:
    from sekisho.core.keys import sign  # noqa: PLC0415 - one use
    from sekisho.evidence.bundle import MANIFEST, SIGNATURE  # noqa: PLC0415

    files = dict(bundle.files) | {MANIFEST: bundle.manifest}
    return files | {SIGNATURE: sign(bundle.manifest, KEY)}


# -- hostile names ------------------------------------------------------------------------------

HOSTILE = (
    "<script>alert(1)</script>",
    "</style><script>x</script>",
    "</main></body><img src=x onerror=y>",
    '"><a href="javascript:x">',
    "' onmouseover='x",
    "\u202eexe.cod\u202c",
    "\u2066\u2069\u200f",
    "a\x00b\x1b[2J\r\n",
    "{{ 7*7 }}{% include 'x' %}{# x #}",
    "'; } @page { content: url(http://x) } \\27 \\22",
    "&lt;b&gt;&amp;",
    "x" * 100_000,
    "<" * 100_000,
    "\ud800",
    "",
)
_TEXTS = ("site", "profile", "started", "finished", "tool")


def _hostile(site: tuple[AuditRun, Judged], evil: str) -> tuple[AuditRun, Judged]:
    """Return the run with one text in every place a host, a site or a forger fills."""
    run, judged = site
    scope = dataclasses.replace(
        run.scope, hosts=(*run.scope.hosts, evil), options=(("user", evil), (evil, 1))
    )
    run = dataclasses.replace(
        run,
        scope=scope,
        flow_modes=(evil,),
        site_problems=(evil,),
        hosts=tuple(
            dataclasses.replace(
                host,
                name=evil,
                fingerprint=evil,
                collector=evil,
                reason=None if host.reason is None else evil,
            )
            for host in run.hosts
        ),
        **dict.fromkeys(_TEXTS, evil),
    )
    verdicts = (Verdict.FAIL, Verdict.ERROR)
    findings = tuple(
        Finding(
            check=evil, item=found.item, host=evil, verdict=verdict,
            title={"en": evil, "ja": evil}, expected=evil, observed=evil, where=evil,
            remedy=evil, by_hand=evil,
        )
        for found, verdict in zip(judged.findings[:2], verdicts, strict=True)
    )  # fmt: skip
    return run, dataclasses.replace(judged, findings=findings)


def _law(evil: str) -> LawText:
    return LawText(name=evil, digest=evil, items={"6-iii-c": evil})


def _rendered(sources: Sources, site: tuple[AuditRun, Judged], evil: str) -> str:
    checked = {"en": evil, "ja": evil}
    return render(
        parse_sources(sources),
        *_hostile(site, evil),
        evidence=evil,
        law=_law(evil),
        checked=checked,
    )


def _same_shape(page: str, plain: str) -> None:
    mine, other = shape(page), shape(plain)
    # As many lines as a text has: the only thing in the page's structure that a text decides.
    drop = {"br", "code"}
    assert [one for one in mine.tags if one[0] not in drop] == [
        one for one in other.tags if one[0] not in drop
    ]
    assert {tag for tag, _ in mine.tags} <= {tag for tag, _ in other.tags} | drop


@pytest.mark.parametrize("evil", HOSTILE, ids=lambda text: repr(text[:24]))
def test_no_text_of_a_host_becomes_anything_but_text(
    sources: Sources, site: tuple[AuditRun, Judged], evil: str
) -> None:
    told = _rendered(sources, site, evil)
    _same_shape(told, _rendered(sources, site, "plain"))
    for odd in ("\u202e", "\u2066", "\u200f", "\x00", "\x1b", "<script"):
        assert odd not in told, odd
    if "7*7" in evil:  # a template's own signs are text, too
        assert "{{ 7*7 }}{% include 'x' %}{# x #}" in shape(told).text("ja")
    assert len(told) < 1_500_000
    told.encode()  # a lone surrogate would not pass


@settings(max_examples=examples(30), deadline=None)
@given(evil=st.text(max_size=40) | st.text("<>&\"'`{}%#\\;:@/ \n", max_size=20))
def test_any_text_is_only_text(evil: str) -> None:
    sources = Sources(items={"6-iii-c": lambda: _ITEM}, checks={})
    run, judged = _SMALL
    _same_shape(_rendered(sources, (run, judged), evil), _rendered(sources, (run, judged), "plain"))


_ITEM: dict[str, Any] = {
    "id": "6-iii-c", "citation": "6(iii)(c)", "title": {"en": "Item", "ja": "項目"},
    "reading": {"en": "Reading", "ja": "解釈"}, "evidence": ["machine"], "status": "partial",
    "gaps": [{"en": "one", "ja": "一"}],
}  # fmt: skip


def _small() -> tuple[AuditRun, Judged]:
    catalogue = parse_sources(Sources(items={"6-iii-c": lambda: _ITEM}, checks={}))
    run = AuditRun(
        mode="ssh", site="x", profile=None, started="x", finished="x", tool="x",
        hosts=(HostRecord("a", None, None, reason="x"),),
    )  # fmt: skip
    findings = tuple(
        Finding(
            check="6-iii-c.x", item="6-iii-c", host="a", verdict=verdict,
            title={"en": "", "ja": ""}, expected="", observed="", where="", remedy="", by_hand="",
        )
        for verdict in (Verdict.FAIL, Verdict.ERROR)
    )  # fmt: skip
    return run, Judged(tuple(rows(catalogue, findings)), findings, 1)


_SMALL = _small()


def test_nothing_leads_outside_and_nothing_runs(page: str) -> None:
    found = shape(page)
    for tag, attrs in found.tags:
        assert tag not in {"script", "img", "iframe", "object", "embed", "link", "base", "form"}
        for key, value in attrs:
            assert not key.startswith("on"), (tag, key)
            assert key != "src"
            assert key != "href" or str(value).startswith("#")
            assert key != "style"
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|@font-face|https?:", style)
    assert "default-src 'none'" in page


def test_every_link_of_the_page_has_its_place(page: str) -> None:
    tags = shape(page).tags
    ids = [value for _, attrs in tags for key, value in attrs if key == "id"]
    assert len(ids) == len(set(ids))
    links = {str(value)[1:] for _, attrs in tags for key, value in attrs if key == "href"}
    assert len(links) > 60
    assert links <= set(ids)


def test_a_name_that_a_template_misspells_is_an_error() -> None:
    environment = html._environment()
    assert environment.undefined is StrictUndefined
    with pytest.raises(UndefinedError):
        environment.from_string("{{ nothing }}").render()
    assert environment.from_string("{{ x }}").render(x="<\u202e") == "&lt;\\u202e"


@given(st.text(max_size=60))
def test_a_css_string_holds_letters_digits_and_escapes_only(text: str) -> None:
    assert re.fullmatch(r"(?:[A-Za-z0-9]|\\[0-9a-f]+ )*", str(css_text(text)))


@given(st.text("`<>&\"'a ", max_size=30))
def test_what_stands_between_backticks_is_code_and_escaped(text: str) -> None:
    told = str(marked(text))
    assert set(re.findall(r"<[^>]*>", told)) <= {"<code>", "</code>"}
    assert told.count("<code>") == told.count("</code>")


# -- paper and telephone ------------------------------------------------------------------------


def test_paper_is_a4_with_title_digest_and_pages_and_telephones_are_screens(page: str) -> None:
    style = page.partition("<style>")[2].partition("</style>")[0]
    assert "size: A4" in style
    assert re.findall(r"@page (\w+) \{", style) == ["ja", "en"]
    assert style.count('counter(page) " / " counter(pages)') == len(LANGUAGES)
    assert style.count(f"{EVIDENCE}") == len(LANGUAGES)
    widths = re.findall(r"@media ([^{]*)\{", style)
    assert [one for one in widths if "width" in one] == ["screen and (max-width: 44rem) "]
    for language in LANGUAGES:
        assert WORDS["signatures"][language] in page


@pytest.mark.process
def test_the_digest_on_each_sheet_is_made_by_hand_as_the_page_says(tmp_path: Path) -> None:
    sources = Sources(items={"6-iii-c": lambda: _ITEM}, checks={})
    raw = {"schema": 1, "milliseconds": 3, "probes": {}}
    run = AuditRun(
        mode="ssh", site="lab", profile=None, started="2026-11-22T02:00:00Z",
        finished="2026-11-22T02:00:05Z", tool=TOOL,
        hosts=tuple(
            HostRecord(name, raw, host_policy("core-1")) for name in ("b-1", "A-1", "a.b")
        ),
    )  # fmt: skip
    run = whole(run, sources)
    catalogue = parse_sources(sources)
    bundle = make_bundle(catalogue, b"{}", run, judge_run(catalogue, run), signer=PUBLIC_PEM)
    folder = write_bundle(bundle, tmp_path, KEY)
    done = subprocess.run(
        ["sh", "-c", BY_HAND], cwd=folder, capture_output=True, text=True, check=True
    )
    digest = done.stdout.split()[0]
    assert digest == evidence_digest(bundle.files)
    assert digest in bundle.files["report.html"].decode()


def test_the_digest_covers_every_file_of_the_evidence() -> None:
    files = {"run.json": b"a", "facts/a.json": b"b", "report.html": b"c", "signer.pub.pem": b"d"}
    seen = {evidence_digest(files)}
    for name in ("run.json", "facts/a.json"):
        seen.add(evidence_digest(files | {name: b"x"}))
        seen.add(evidence_digest({key: data for key, data in files.items() if key != name}))
    seen.add(evidence_digest(files | {"policies/a.json": b""}))
    assert len(seen) == 6
    assert evidence_digest(files | {"report.html": b"x"}) in seen


# -- the law's text -----------------------------------------------------------------------------


def test_the_official_text_stands_beside_our_reading(
    sources: Sources, site: tuple[AuditRun, Judged]
) -> None:
    law = LawText("law.txt", "cd" * 32, {"6-iii-c": "端末装置は\n第二行"})
    told = render(parse_sources(sources), *site, evidence=EVIDENCE, law=law)
    articles = re.findall(
        r'<article class="item" id="ja-item-6-iii-c">.*?</article>', told, re.DOTALL
    )
    assert len(articles) == 1
    official, reading = (
        articles[0].index("端末装置は<br>第二行"),
        articles[0].index("二つの面がある"),
    )
    assert official < reading
    assert 'lang="ja">端末装置は' in articles[0]
    for language in LANGUAGES:
        assert WORDS["not_brought"][language] in told
    assert "law.txt, SHA-256 " + "cd" * 32 in told


def test_without_it_no_text_of_the_law_is_claimed(page: str) -> None:
    assert 'class="official"' not in page
    assert WORDS["official_from"]["ja"] not in page


def test_many_hosts_stand_in_tables_a_sheet_can_carry(
    sources: Sources, site: tuple[AuditRun, Judged]
) -> None:
    run, judged = site
    hosts = tuple(dataclasses.replace(run.hosts[1], name=f"host-{n}") for n in range(30))
    findings = tuple(dataclasses.replace(judged.findings[0], host=host.name) for host in hosts)
    run, judged = (
        dataclasses.replace(run, hosts=hosts),
        dataclasses.replace(judged, findings=findings),
    )
    told = render(parse_sources(sources), run, judged, evidence=EVIDENCE)
    starts = [found.start() for found in re.finditer('<table class="matrix">', told)]
    assert len(starts) == 2 * 4
    for start, end in pairwise([*starts, len(told)]):
        table = told[start:end].partition("</table>")[0]
        assert 0 < table.partition("</thead>")[0].count('scope="col"') <= 8
