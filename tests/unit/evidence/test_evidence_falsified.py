"""Kinds of falsification: each is made by whoever holds the signer's key, and each is named.

The signer is the strongest forger of a bundle: manifest, digests and signature fit whatever he
writes. What he cannot do is make files of one audit out of files of two, or judge by a catalogue of
his own, or leave something out, without the reader being told.
"""

from __future__ import annotations

import copy
import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from evidenceworld import (
    HOST_KEY,
    HOST_PUBLIC_PEM,
    KEY,
    NONCE,
    PUBLIC_PEM,
    TOOL,
    answer,
    check,
    seal,
    whole,
    write,
)
from sekisho.catalogue.compiled import Sources, from_json
from sekisho.control.catalogue_files import parse_sources
from sekisho.core.canonical import canonical, digest
from sekisho.core.keys import make_key, sign
from sekisho.evidence.bundle import (
    MANIFEST,
    SIGNATURE,
    SIGNER,
    catalogue_digest,
    manifest_of,
    rejudge,
    run_from_json,
)
from sekisho.evidence.report import AuditRun, HostRecord
from sekisho.evidence.verification import Verdicts
from sekisho.facts.answer import host_nonce, sign_answer
from siteworld import host_policy

ITEM = {
    "id": "6-iv-a",
    "citation": "6(iv)(a)",
    "title": {"en": "Item", "ja": "項目"},
    "reading": {"en": "Reading", "ja": "解釈"},
    "evidence": ["machine"],
    "status": "partial",
    "gaps": [{"en": "one", "ja": "一"}],
}


def a_check(name: str, op: str, value: Any) -> dict[str, Any]:
    return {
        "id": name,
        "title": {"en": "Check", "ja": "確認"},
        "applies": ["all"],
        "rationale": "because",
        "asserts": [
            {
                "where": "runtime",
                "probe": "sysctl",
                "key": ["runtime", "kernel.kptr_restrict"],
                "op": op,
                "value": value,
            }
        ],
        "by_hand": "look",
        "remedy": "kernel",
        "scenario": "vm",
    }


CHECKS = {
    "6-iv-a.exact": a_check("6-iv-a.exact", "equals", "2"),
    "6-iv-a.pattern": a_check("6-iv-a.pattern", "matches", "[12]"),
}
SOURCES = Sources(
    items={"6-iv-a": lambda: ITEM},
    checks={name: (lambda one=one: one) for name, one in CHECKS.items()},  # type: ignore[misc]
)
STARTED, FINISHED = "2026-11-22T02:00:00Z", "2026-11-22T02:00:05Z"
NOW = dt.datetime(2026, 11, 22, 2, 1, tzinfo=dt.UTC)
HOSTS = ("core-1", "gate-in")
HOST_KEYS = dict.fromkeys(HOSTS, HOST_PUBLIC_PEM)


def raw(value: str) -> dict[str, Any]:
    path = "/proc/sys/kernel/kptr_restrict"
    entry = {"mode": 420, "uid": 0, "gid": 0, "kind": "file", "text": f"{value}\n"}
    return {
        "schema": 1,
        "milliseconds": 3,
        "probes": {"sysctl": {"live": {"files": {path: entry}}, "disk": {"files": {}}}},
    }


def run() -> AuditRun:
    return whole(
        AuditRun(
            mode="ssh",
            site="lab",
            profile="producer",
            started=STARTED,
            finished=FINISHED,
            tool=TOOL,
            hosts=(
                HostRecord("core-1", raw("2"), host_policy("core-1")),
                HostRecord("gate-in", raw("0"), host_policy("gate-in")),
            ),
        ),
        SOURCES,
    )


WHOLE = write(run(), SOURCES)


@dataclass
class Forger:
    """The files of a bundle as values; `bundle` judges and signs them again."""

    values: dict[str, Any]
    manifest: dict[str, Any]
    again: bool = True  # whether findings and report are made to fit

    @property
    def run(self) -> dict[str, Any]:
        return self.values["run.json"]

    def facts(self, host: str) -> dict[str, Any]:
        return self.values[f"facts/{host}.json"]

    def sign_facts(self, host: str, **changes: Any) -> None:
        """Sign facts as the host itself would, with some of what is signed changed."""
        said: dict[str, Any] = {
            "key": HOST_KEY,
            "nonce": host_nonce(self.run["nonce"], host),
            "at": int(NOW.timestamp() * 1000),
            "collector": TOOL,
            "digest": digest(self.facts(host)["raw"]),
        } | changes
        self.facts(host)["answer"] = sign_answer(**said).as_json()

    def bundle(self) -> dict[str, bytes]:
        files = {name: canonical(value) for name, value in self.values.items()}
        files[SIGNER] = PUBLIC_PEM
        files["report.html"] = WHOLE["report.html"]
        if self.again:
            held = {
                kind: {
                    name[len(kind) + 1 : -5]: value
                    for name, value in self.values.items()
                    if name.startswith(kind)
                }
                for kind in ("facts", "policies")
            }
            facts = {name: canonical(value) for name, value in held["facts"].items()}
            now = run_from_json(self.run, facts, held["policies"])
            _, findings, reports = rejudge(
                parse_sources(from_json(files["catalogue.json"], "")), now, files
            )
            files |= {"findings.json": findings, "report.html": reports[0]}
            fresh = json.loads(manifest_of(now, files)) | self.manifest
        else:
            fits = {"catalogue": catalogue_digest(files["catalogue.json"])}
            fresh = json.loads(WHOLE[MANIFEST]) | fits | self.manifest
        return seal(files | {MANIFEST: canonical(fresh)})


def forger() -> Forger:
    values = {name: json.loads(data) for name, data in WHOLE.items() if name.endswith(".json")}
    del values[MANIFEST]
    return Forger(values, {})


@dataclass(frozen=True)
class Falsification:
    """A change, the exit code it must have, and what must be said of it."""

    change: Callable[[Forger], None]
    code: int
    told: str


FALSIFIED: dict[str, Falsification] = {}


def falsification(code: int, told: str) -> Callable[[Callable[[Forger], None]], None]:
    def keep(change: Callable[[Forger], None]) -> None:
        FALSIFIED[change.__name__.replace("_", " ")] = Falsification(change, code, told)

    return keep


@falsification(2, "missing in the bundle: 6-iv-a.exact")
def the_failing_check_is_taken_out(one: Forger) -> None:
    del one.values["catalogue.json"]["checks"]["6-iv-a.exact"]


@falsification(2, "missing in the bundle: 6-iv-a.exact")
def it_is_taken_out_of_the_scope_as_well(one: Forger) -> None:
    del one.values["catalogue.json"]["checks"]["6-iv-a.exact"]
    one.run["scope"]["checks"] = ["6-iv-a.pattern"]


@falsification(2, "not the same: 6-iv-a.exact")
def a_check_is_made_milder(one: Forger) -> None:
    one.values["catalogue.json"]["checks"]["6-iv-a.exact"]["asserts"][0]["value"] = "0"


@falsification(2, "not the same: 6-iv-a.exact")
def a_checks_title_is_changed(one: Forger) -> None:
    one.values["catalogue.json"]["checks"]["6-iv-a.exact"]["title"]["en"] = "Another"


@falsification(2, "not the same: 6-iv-a")
def an_item_no_longer_asks_for_its_evidence(one: Forger) -> None:
    one.values["catalogue.json"]["items"]["6-iv-a"]["evidence"] = ["attested"]


@falsification(2, "only in the bundle: 6-iv-a.easy")
def an_easy_check_is_added(one: Forger) -> None:
    one.values["catalogue.json"]["checks"]["6-iv-a.easy"] = a_check("6-iv-a.easy", "present", None)
    del one.values["catalogue.json"]["checks"]["6-iv-a.easy"]["asserts"][0]["value"]
    one.run["scope"]["checks"].append("6-iv-a.easy")


@falsification(2, "regular expressions that this tool does not have, in 6-iv-a.pattern")
def a_pattern_never_ends(one: Forger) -> None:
    asserts = one.values["catalogue.json"]["checks"]["6-iv-a.pattern"]["asserts"]
    asserts[0]["value"] = "(?:a|a)*b"
    one.facts("gate-in")["raw"] = raw("a" * 20)
    one.sign_facts("gate-in")
    one.again = False


@falsification(1, "finished 2026-11-22T01:59:59Z before it started")
def it_finished_before_it_started(one: Forger) -> None:
    one.run["finished"] = "2026-11-22T01:59:59Z"


@falsification(2, "finished 2031-01-01T00:00:05Z, after this machine's clock")
def it_is_dated_ahead(one: Forger) -> None:
    one.run.update(started="2031-01-01T00:00:00Z", finished="2031-01-01T00:00:05Z")


@falsification(2, "the audit took from 2026-11-01")
def it_took_three_weeks(one: Forger) -> None:
    one.run["started"] = "2026-11-01T02:00:00Z"


@falsification(2, "core-1: the host signed these facts at 2026-11-22T02:00:05Z, outside")
def it_is_dated_back(one: Forger) -> None:
    one.run.update(started="2026-11-20T02:00:00Z", finished="2026-11-20T02:00:05Z")


@falsification(1, "started is yesterday, not a time")
def its_start_is_no_time(one: Forger) -> None:
    one.run["started"] = "yesterday"


@falsification(1, "finished is 2026-13-22T02:00:05Z, not a time")
def its_end_is_no_day(one: Forger) -> None:
    one.run["finished"] = "2026-13-22T02:00:05Z"


def no_host(one: Forger) -> None:
    one.run["hosts"] = []
    for host in HOSTS:
        del one.values[f"facts/{host}.json"], one.values[f"policies/{host}.json"]


@falsification(1, "run.json names no host")
def no_host_was_asked(one: Forger) -> None:
    no_host(one)


@falsification(1, "scope: hosts is empty")
def there_was_no_host_to_ask(one: Forger) -> None:
    no_host(one)
    one.run["scope"]["hosts"] = []
    one.again = False


@falsification(1, "hosts that were asked for are missing: gate-in")
def the_failing_host_is_taken_out(one: Forger) -> None:
    one.run["hosts"] = one.run["hosts"][:1]
    del one.values["facts/gate-in.json"], one.values["policies/gate-in.json"]


@falsification(1, "hosts that were not asked for: gate-in")
def a_host_is_there_that_was_not_asked_for(one: Forger) -> None:
    one.run["scope"]["only_hosts"] = ["core-1"]


@falsification(1, "hosts that were not asked for: gate-in")
def a_host_is_there_that_the_site_does_not_have(one: Forger) -> None:
    one.run["scope"]["hosts"] = ["core-1"]


@falsification(1, "run.json names a host twice")
def a_host_stands_there_twice(one: Forger) -> None:
    one.run["hosts"].append(one.run["hosts"][0])
    one.again = False


@falsification(1, "gate-in: these facts were not asked for by this audit")
def a_good_hosts_facts_stand_for_a_bad_one(one: Forger) -> None:
    one.facts("gate-in").update(copy.deepcopy(one.facts("core-1")), host="gate-in")


@falsification(1, "gate-in: the host's signature is not over these facts")
def they_are_given_the_other_hosts_nonce(one: Forger) -> None:
    nonce = one.facts("gate-in")["answer"]["nonce"]
    a_good = copy.deepcopy(one.facts("core-1"))
    a_good["answer"]["nonce"] = nonce
    one.facts("gate-in").update(a_good, host="gate-in")


@falsification(1, "gate-in: these facts were not asked for by this audit")
def an_answer_of_another_audit_is_played_again(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")
    one.sign_facts("gate-in", nonce=host_nonce("0a" * 32, "gate-in"))


@falsification(1, "gate-in: the host's signature is not over these facts")
def an_old_answer_is_given_this_audits_nonce(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")
    one.sign_facts("gate-in", nonce=host_nonce("0a" * 32, "gate-in"))
    one.facts("gate-in")["answer"]["nonce"] = host_nonce(NONCE, "gate-in")


@falsification(2, "gate-in: the host signed these facts at 2026-11-01T00:00:00Z, outside")
def the_whole_audit_takes_an_old_audits_nonce(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")
    then = int(dt.datetime(2026, 11, 1, tzinfo=dt.UTC).timestamp() * 1000)
    one.sign_facts("gate-in", at=then)


@falsification(1, "gate-in: the host's signature is not over these facts")
def an_old_answers_time_is_moved(one: Forger) -> None:
    one.sign_facts("gate-in", at=0)
    one.facts("gate-in")["answer"]["at"] = int(NOW.timestamp() * 1000)


@falsification(1, "gate-in: the host's signature is not over these facts")
def the_signer_mends_a_hosts_facts(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")


@falsification(1, "gate-in: facts signed by another key than the host's")
def the_signer_signs_for_the_host(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")
    one.sign_facts("gate-in", key=KEY)


@falsification(2, "facts without a signature of the host: gate-in")
def the_hosts_signature_is_taken_off(one: Forger) -> None:
    one.facts("gate-in")["raw"] = raw("2")
    one.facts("gate-in")["answer"] |= {"at": None, "key": None, "signature": None}


@falsification(1, "gate-in: these facts were not asked for by this audit")
def the_whole_answer_is_taken_off(one: Forger) -> None:
    one.facts("gate-in")["answer"] = None


@falsification(1, "nonce is not 64 hex digits")
def the_audit_has_no_nonce(one: Forger) -> None:
    one.run["nonce"] = ""


@falsification(1, "gate-in: the host's signature is not over these facts")
def a_hosts_collector_is_renamed(one: Forger) -> None:
    one.run["hosts"][1]["collector"] = "sekisho 9"


@falsification(1, "MANIFEST.json: site is another")
def the_manifest_speaks_of_another_site(one: Forger) -> None:
    one.manifest["site"] = "another"


@falsification(1, "MANIFEST.json: created is 2026-11-22T03:00:00Z")
def the_manifest_speaks_of_another_time(one: Forger) -> None:
    one.manifest["created"] = "2026-11-22T03:00:00Z"


@falsification(1, "MANIFEST.json: tool is sekisho 9")
def the_manifest_speaks_of_another_tool(one: Forger) -> None:
    one.manifest["tool"] = "sekisho 9"


@falsification(1, "MANIFEST.json: nonce is")
def the_manifest_speaks_of_another_nonce(one: Forger) -> None:
    one.manifest["nonce"] = "0" * 64


@falsification(1, "MANIFEST.json: catalogue is")
def the_manifest_speaks_of_another_catalogue(one: Forger) -> None:
    one.manifest["catalogue"] = catalogue_digest(b"{}")


@falsification(1, "MANIFEST.json: missing or unknown: extra")
def the_manifest_says_more(one: Forger) -> None:
    one.manifest["extra"] = 1


@falsification(1, "policies/gate-in.json is of site other")
def a_policy_is_another_sites(one: Forger) -> None:
    one.values["policies/gate-in.json"]["site"] = "other"


@falsification(1, "policies/gate-in.json is the policy of 'core-1'")
def a_policy_is_another_hosts(one: Forger) -> None:
    one.values["policies/gate-in.json"]["host"] = "core-1"
    one.again = False


@falsification(1, "gate-in: facts and a reason")
def a_failing_host_is_said_not_to_have_answered(one: Forger) -> None:
    one.run["hosts"][1]["reason"] = "no connection"


@falsification(1, "gate-in: 6-iv-a.exact: pass written, fail judged")
def a_verdict_is_made_better(one: Forger) -> None:
    one.values["findings.json"]["findings"][2]["verdict"] = "pass"
    one.again = False


@falsification(1, "gate-in: 6-iv-a.exact: nothing written, fail judged")
def a_finding_is_taken_out(one: Forger) -> None:
    del one.values["findings.json"]["findings"][2]
    one.again = False


@falsification(1, "finding 5: core-1 and 6-iv-a.exact stand twice")
def a_finding_stands_twice(one: Forger) -> None:
    listed = one.values["findings.json"]["findings"]
    listed.append(listed[0])
    one.again = False


@falsification(1, "finding 1: host is int, not text")
def a_findings_host_is_a_number(one: Forger) -> None:
    one.values["findings.json"]["findings"][0]["host"] = 5
    one.again = False


@falsification(1, "differing: left_out")
def what_was_left_out_is_not_told(one: Forger) -> None:
    one.values["findings.json"]["left_out"]["hosts"] = ["gate-out"]
    one.again = False


@falsification(1, "differing: exit_code")
def the_exit_code_is_made_better(one: Forger) -> None:
    one.values["findings.json"]["exit_code"] = 0
    one.again = False


@falsification(1, "kinds are not known")
def a_kind_of_evidence_is_invented(one: Forger) -> None:
    one.run["kinds"] = ["machine", "hearsay"]
    one.again = False


def judged(files: dict[str, bytes], **trust: Any) -> Verdicts:
    return check(files, SOURCES, **({"now": NOW, "host_keys": HOST_KEYS} | trust))


def test_the_untouched_bundle_is_whole() -> None:
    found = judged(dict(WHOLE))
    assert (found.exit_code, found.broken, found.unknown, found.notes) == (0, [], [], [])
    assert judged(forger().bundle()).exit_code == 0, "what the forger does by himself is no change"


def test_there_are_enough_kinds() -> None:
    assert len(FALSIFIED) >= 40


@pytest.mark.parametrize("name", FALSIFIED)
def test_a_falsification_is_found_and_named(name: str) -> None:
    kind, one = FALSIFIED[name], forger()
    kind.change(one)
    found = judged(one.bundle())
    said = (found.broken, found.unknown)[kind.code - 1]
    assert any(kind.told in line for line in said), (found.broken, found.unknown)
    assert found.exit_code == kind.code
    assert all(line.isprintable() for line in (*found.broken, *found.unknown, *found.notes))


@pytest.mark.parametrize("name", FALSIFIED)
def test_without_the_signers_key_nothing_is_whole(name: str) -> None:
    one = forger()
    FALSIFIED[name].change(one)
    assert judged(one.bundle(), key=None).exit_code in (1, 2)


@pytest.mark.parametrize(("told", "code"), [("", 2), ("all", 0), (32, 0), (31, 2), ("f" * 64, 2)])
def test_another_catalogue_is_accepted_by_its_digest_only(told: str | int, code: int) -> None:
    one = forger()
    a_check_is_milder = one.values["catalogue.json"]["checks"]["6-iv-a.exact"]
    a_check_is_milder["asserts"][0]["value"] = "0"
    files = one.bundle()
    name = catalogue_digest(files["catalogue.json"])
    accept = name if told == "all" else name[:told] if isinstance(told, int) else told
    found = judged(files, accept=accept)
    assert found.exit_code == code
    said = found.notes if code == 0 else found.unknown
    assert any("not the same: 6-iv-a.exact" in line for line in said), "it is shown in any case"


def test_without_a_catalogue_of_its_own_a_tool_could_not_tell() -> None:
    found = judged(dict(WHOLE), catalogue=None)
    assert found.exit_code == 2
    assert "no catalogue of its own" in found.unknown[0]


def test_a_part_of_the_catalogue_is_whole_and_says_what_it_left_out() -> None:
    part = SOURCES.only((), ("6-iv-a.pattern",))
    partial = run()
    partial = replace(partial, scope=replace(partial.scope, only_checks=("6-iv-a.pattern",)))
    found = judged(write(partial, part))
    assert found.exit_code == 0
    assert found.left_out is not None
    assert found.left_out.as_json() == {
        "hosts": [],
        "items": [],
        "checks": ["6-iv-a.exact"],
        "evidence": [],
    }


def test_evidence_that_was_not_asked_for_is_left_out_with_its_items() -> None:
    attested = ITEM | {"id": "6-v-a", "evidence": ["attested"]}
    both = Sources(items={**SOURCES.items, "6-v-a": lambda: attested}, checks=SOURCES.checks)
    partial = replace(whole(run(), both), kinds=("machine",))
    found = check(write(partial, both), both, now=NOW)
    assert found.exit_code == 0
    assert found.left_out is not None
    assert found.left_out.items == ("6-v-a",)
    assert found.left_out.evidence == ("exercise", "attested")


def test_a_host_that_was_not_asked_for_is_left_out_on_the_first_page() -> None:
    full = run()
    scope = replace(full.scope, only_hosts=("core-1",))
    files = write(replace(full, hosts=full.hosts[:1], scope=scope), SOURCES)
    found = judged(files)
    assert found.exit_code == 0
    assert found.left_out is not None
    assert found.left_out.hosts == ("gate-in",)
    header = files["report.html"].decode().partition("</header>")[0]
    assert "Part of the whole" in header
    assert "1 / 2 · " in header
    assert "gate-in" in header
    assert "Part of the whole" not in WHOLE["report.html"].decode()


@pytest.mark.parametrize("key", ["missing", "stranger", "other host"])
def test_the_hosts_keys_are_the_readers(key: str) -> None:
    _, stranger = make_key()
    keys = dict(HOST_KEYS)
    if key == "missing":
        del keys["gate-in"]
    else:
        keys["gate-in"] = stranger
    found = judged(dict(WHOLE), host_keys=keys)
    assert found.exit_code == (2 if key == "missing" else 1)


def test_without_host_keys_unsigned_facts_are_said_to_rest_on_the_signer() -> None:
    one = forger()
    one.facts("gate-in")["answer"] |= {"at": None, "key": None, "signature": None}
    found = judged(one.bundle(), host_keys=None)
    assert found.exit_code == 0
    assert any("only the signer of the bundle says" in line for line in found.notes)


def test_a_report_of_another_build_is_not_compared_and_not_believed() -> None:
    files = dict(WHOLE)
    files["report.html"] = files["report.html"].replace(b"breach", b"pass!!")
    assert judged(seal(files)).exit_code == 1
    other = replace(run(), tool="sekisho of last year")
    files = write(whole(other, SOURCES), SOURCES)
    assert judged(files).exit_code == 0
    files["report.html"] = files["report.html"].replace(b"breach", b"pass!!")
    found = judged(seal(files))
    assert found.exit_code == 2
    assert any("cannot be compared" in line for line in found.unknown)


def test_a_signer_of_another_name_in_the_bundle_is_found() -> None:
    _, stranger = make_key()
    files = seal(dict(WHOLE) | {SIGNER: stranger})
    assert sign(files[MANIFEST], KEY) != files[SIGNATURE]
    found = judged(files)
    assert found.exit_code == 1
    assert any("names another key than the one that signed" in line for line in found.broken)


def test_a_host_of_this_audit_signs_what_it_is_asked() -> None:
    held = answer(FINISHED, "core-1", TOOL, digest(raw("2")))
    assert held.nonce == host_nonce(NONCE, "core-1") != host_nonce(NONCE, "gate-in")
