"""A bundle is judged again from its own facts; any change to it is found and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evidenceworld import KEY, PUBLIC_PEM, TOOL, seal, whole, write
from examples import examples
from sekisho.catalogue.compiled import Sources, compile_catalogue
from sekisho.control.bundle import files as bundle_io
from sekisho.control.bundle.files import read_bundle, read_signing_key, write_bundle, write_keypair
from sekisho.control.catalogue_files import parse_sources
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.core.keys import (
    BadKeyError,
    fingerprint_of,
    load_private,
    make_key,
    public_pem,
    signature_is_good,
)
from sekisho.evidence.bundle import MANIFEST, SIGNATURE, make_bundle
from sekisho.evidence.report import AuditRun, HostRecord, judge_run
from sekisho.evidence.verification import Stored, Trust, Verdicts, verify
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
CHECK = {
    "id": "6-iv-a.example",
    "title": {"en": "Check", "ja": "確認"},
    "applies": ["all"],
    "rationale": "because",
    "asserts": [
        {
            "where": "runtime",
            "probe": "sysctl",
            "key": ["runtime", "kernel.kptr_restrict"],
            "op": "equals",
            "value": "2",
        }
    ],
    "by_hand": "look",
    "remedy": "kernel",
    "scenario": "vm",
}
SOURCES = Sources(items={"6-iv-a": lambda: ITEM}, checks={"6-iv-a.example": lambda: CHECK})
CATALOGUE = parse_sources(SOURCES)


def raw(value: str) -> dict[str, Any]:
    path = "/proc/sys/kernel/kptr_restrict"
    entry = {"mode": 420, "uid": 0, "gid": 0, "kind": "file", "text": value}
    return {
        "schema": 1,
        "milliseconds": 3,
        "probes": {"sysctl": {"live": {"files": {path: entry}}, "disk": {"files": {}}}},
    }


def run(**changes: Any) -> AuditRun:
    told: dict[str, Any] = {
        "mode": "ssh",
        "site": "lab",
        "profile": "producer",
        "started": "2026-11-22T02:00:00Z",
        "finished": "2026-11-22T02:00:05Z",
        "tool": TOOL,
        "hosts": (
            HostRecord("core-1", raw("2\n"), host_policy("core-1")),
            HostRecord("gate-in", raw("0\n"), host_policy("gate-in")),
            HostRecord("gate-out", None, None, reason="no connection within 5 s"),
        ),
        "flow_modes": ("one-way-tcp",),
    }
    return whole(AuditRun(**(told | changes)), SOURCES)


def files(*, signed: bool = True, a_run: AuditRun | None = None) -> dict[str, bytes]:
    return dict(_files(signed, run() if a_run is None else a_run))


_HELD: dict[tuple[bool, str], dict[str, bytes]] = {}


def _files(signed: bool, chosen: AuditRun) -> dict[str, bytes]:
    """Return a bundle's files, made once: an ECDSA signature differs every time."""
    key = (signed, repr(chosen))
    if key not in _HELD:
        _HELD[key] = write(chosen, SOURCES, signed=signed)
    return _HELD[key]


def check(held: dict[str, bytes], key: bytes | None = PUBLIC_PEM) -> Verdicts:
    return verify(Stored(held), trust=Trust(key=key, catalogue=SOURCES), tool=TOOL)


def manifest_again(held: dict[str, bytes], *, signed: bool = False) -> dict[str, bytes]:
    """Return the files with a manifest that fits them: what a forger of the folder would do."""
    return seal(held, signed=signed)


def test_a_whole_signed_bundle_is_whole() -> None:
    found = check(files())
    assert found.broken == []
    assert found.notes == []
    assert found.exit_code == 0
    assert found.signed_by == fingerprint_of(PUBLIC_PEM)
    assert found.judged is not None
    verdicts = {f.host: f.verdict.value for f in found.judged.findings}
    assert verdicts == {"core-1": "pass", "gate-in": "fail", "gate-out": "error"}


def test_an_unsigned_bundle_is_said_to_be_so() -> None:
    found = check(files(signed=False), key=None)
    assert found.exit_code == 2
    assert "unsigned" in found.unknown[0]
    assert check(files(signed=False)).exit_code == 1


def test_a_key_of_the_bundle_itself_is_said_to_be_so() -> None:
    found = check(files(), key=None)
    assert found.exit_code == 2
    assert "a key that comes with the bundle itself" in found.unknown[0]
    assert not found.vouched


def test_another_signer_is_found() -> None:
    _, other = make_key()
    found = check(files(), key=other)
    assert found.exit_code == 1
    assert any("not a signature" in line for line in found.broken)


@pytest.mark.parametrize("name", sorted(files()))
def test_a_missing_file_is_named(name: str) -> None:
    held = files()
    del held[name]
    found = check(held)
    assert found.exit_code == 1
    assert any(line.startswith(name) for line in found.broken), found.broken


@pytest.mark.parametrize("name", sorted(files()))
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flip_of_any_file_is_found(name: str, data: st.DataObject) -> None:
    held = files()
    broken = bytearray(held[name])
    broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
    assert check(held | {name: bytes(broken)}).exit_code != 0


def test_an_extra_file_is_named() -> None:
    found = check(files() | {"facts/core-2.json": b"{}"})
    assert "facts/core-2.json: not in the manifest" in found.broken


def test_swapped_facts_are_found_even_when_the_manifest_fits() -> None:
    held = files(signed=False)
    one, other = "facts/core-1.json", "facts/gate-in.json"
    held[one], held[other] = held[other], held[one]
    assert check(held, key=None).exit_code == 1
    found = check(manifest_again(held), key=None)
    assert any("are not the facts of core-1" in line for line in found.broken)


def test_facts_made_better_no_longer_give_the_findings() -> None:
    held = files(signed=False)
    held["facts/gate-in.json"] = held["facts/gate-in.json"].replace(b'"0\\n"', b'"2\\n"')
    found = check(manifest_again(held), key=None)
    assert any("gate-in: 6-iv-a.example: fail written, pass judged" in b for b in found.broken)


def test_findings_made_better_do_not_follow_from_the_facts() -> None:
    held = files(signed=False)
    told = json.loads(held["findings.json"])
    told["findings"][1]["verdict"] = "pass"
    held["findings.json"] = canonical(told)
    found = check(manifest_again(held), key=None)
    assert any("gate-in: 6-iv-a.example: pass written, fail judged" in b for b in found.broken)


def test_a_report_that_says_something_else_is_found() -> None:
    held = files(signed=False)
    held["report.html"] = held["report.html"].replace(b"breach", b"pass!!")
    assert any("report.html" in line for line in check(manifest_again(held), key=None).broken)


def test_a_weaker_catalogue_does_not_fit_the_findings() -> None:
    held = files(signed=False)
    held["catalogue.json"] = held["catalogue.json"].replace(b'"value":"2"', b'"value":"0"')
    assert check(manifest_again(held), key=None).exit_code == 1


def test_a_host_taken_out_is_found() -> None:
    held = files(signed=False)
    del held["facts/gate-in.json"]
    found = check(manifest_again(held), key=None)
    assert any("facts/gate-in.json is missing" in line for line in found.broken)


def test_a_forged_manifest_without_the_key_is_found() -> None:
    held = files()
    held["facts/gate-in.json"] = held["facts/gate-in.json"].replace(b'"0\\n"', b'"2\\n"')
    assert check(manifest_again(held)).exit_code == 1


def test_an_unknown_version_is_could_not_tell() -> None:
    held = files(signed=False)
    told = json.loads(held[MANIFEST]) | {"schema": 3}
    found = check(held | {MANIFEST: canonical(told)}, key=None)
    assert found.exit_code == 2
    assert "version 3" in found.unknown[0]


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{}", b"[]", b"\xff", b'{"kind":"sekisho-evidence","schema":1,"files":{}}', b"[" * 9999],
)
def test_a_garbled_manifest_is_broken(manifest: bytes) -> None:
    assert check(files() | {MANIFEST: manifest}).exit_code == 1


@pytest.mark.parametrize(
    "name", ["../run.json", "/etc/passwd", "facts/../x.json", "facts/a\n.json", "a" * 4096, "x\0"]
)
def test_a_hostile_name_in_the_manifest_is_refused(name: str) -> None:
    held = files(signed=False)
    told = json.loads(held[MANIFEST])
    told["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    found = check(held | {MANIFEST: canonical(told)}, key=None)
    assert any("a bundle holds no such file" in line for line in found.broken)
    assert all(line.isprintable() for line in found.broken)


@settings(max_examples=examples(150))
@given(st.dictionaries(st.sampled_from(sorted(set(files()) - {MANIFEST})), st.binary(max_size=80)))
def test_any_bytes_in_a_bundle_raise_nothing(changes: dict[str, bytes]) -> None:
    held = manifest_again(files() | changes, signed=SIGNATURE not in changes)
    assert check(held | changes).exit_code in ((1, 2) if changes else (0,))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@settings(max_examples=examples(150))
@given(st.sampled_from(sorted(json.loads(files()["run.json"]))), VALUES)
def test_any_value_in_the_run_raises_nothing(key: str, value: Any) -> None:
    held = files(signed=False)
    told = json.loads(held["run.json"]) | {key: value}
    if canonical(told) != held["run.json"]:
        held["run.json"] = canonical(told)
        assert check(manifest_again(held), key=None).exit_code in (1, 2)


def test_a_bundle_on_disk_is_the_same(tmp_path: Path) -> None:
    bundle = make_bundle(
        CATALOGUE, compile_catalogue(SOURCES), run(), judge_run(CATALOGUE, run()), signer=PUBLIC_PEM
    )
    where = write_bundle(bundle, tmp_path / "out", KEY)
    assert where.name == "evidence-lab-20261122T020005Z"
    stored = read_bundle(where)
    assert stored.refused == ()
    assert check(dict(stored.files)).exit_code == 0
    with pytest.raises(SekishoError, match="cannot be written"):
        write_bundle(bundle, tmp_path / "out", KEY)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] != "."] == [
        where.name
    ]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    bundle = make_bundle(CATALOGUE, compile_catalogue(SOURCES), run(), judge_run(CATALOGUE, run()))
    return write_bundle(bundle, tmp_path, None)


def _link(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / "run.json").symlink_to(folder / "findings.json")


def _fifo(folder: Path) -> None:
    (folder / "run.json").unlink()
    os.mkfifo(folder / "run.json")


def _stray(folder: Path) -> None:
    (folder / "facts" / "core-1.json.bak").write_text("x", encoding="utf-8")


def _folder_is_a_link(folder: Path) -> None:
    shutil.rmtree(folder / "facts")
    (folder / "facts").symlink_to(folder / "policies")


@pytest.mark.parametrize("harm", [_link, _fifo, _stray, _folder_is_a_link])
def test_links_devices_and_strays_are_refused(written: Path, harm: Callable[[Path], None]) -> None:
    harm(written)
    stored = read_bundle(written)
    assert stored.refused
    assert verify(stored, tool=TOOL).exit_code == 1


def test_a_bundle_larger_than_any_of_ours_is_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_io, "MAX_FILE_BYTES", 100)
    assert any("more than 100 bytes" in line for line in read_bundle(written).refused)
    monkeypatch.setattr(bundle_io, "MAX_FILE_BYTES", 1 << 20)
    monkeypatch.setattr(bundle_io, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(SekishoError):
        read_bundle(written)
    monkeypatch.setattr(bundle_io, "MAX_FILES", 2)
    with pytest.raises(SekishoError):
        read_bundle(written)


def test_a_sparse_giant_is_not_read(written: Path) -> None:
    with (written / "run.json").open("r+b") as stream:
        stream.truncate(1 << 40)
    assert any("run.json: more than" in line for line in read_bundle(written).refused)


def test_a_key_pair_is_private_and_never_overwritten(tmp_path: Path) -> None:
    public = write_keypair(tmp_path / "auditor")
    assert (tmp_path / "auditor").stat().st_mode & 0o777 == 0o600
    key = read_signing_key(tmp_path / "auditor")
    assert public_pem(key) == public.read_bytes()
    with pytest.raises(SekishoError, match="cannot be written"):
        write_keypair(tmp_path / "auditor")


@pytest.mark.parametrize("pem", [b"", b"x", PUBLIC_PEM, b"-----BEGIN PRIVATE KEY-----\n"])
def test_a_bad_key_is_named(pem: bytes) -> None:
    with pytest.raises(BadKeyError):
        load_private(pem)
    if pem != PUBLIC_PEM:
        with pytest.raises(BadKeyError):
            signature_is_good(b"", b"", pem)


def test_the_report_escapes_whatever_a_host_said() -> None:
    evil = '<script>alert("1")</script>\u202e'
    a_run = run(
        hosts=(
            HostRecord("core-1", raw(evil), host_policy("core-1")),
            HostRecord("gate-in", None, None, reason=evil, collector=evil),
        ),
        site=evil,
        site_problems=(evil,),
    )
    page = files(signed=False, a_run=a_run)["report.html"].decode()
    assert "<script" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "src=" not in page
