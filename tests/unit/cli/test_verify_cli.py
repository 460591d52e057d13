"""`sekisho verify` of an evidence bundle as a reader runs it, and readers of a bundle's facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from test_evidence_falsified import HOST_PUBLIC_PEM, HOSTS, SOURCES, forger, run

from evidenceworld import PUBLIC_PEM, TOOL, seal, write
from sekisho.cli.main import main
from sekisho.control.cli import flows_input, verify_bundle
from sekisho.control.cli.flows_input import Signed
from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.core.keys import make_key
from sekisho.evidence.bundle import MANIFEST, catalogue_digest

pytestmark = pytest.mark.process  # judging is a process of its own
FILES = write(run(), SOURCES)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the signer's key; this tool is the one the bundles are made by."""
    monkeypatch.setattr(verify_bundle, "load_sources", lambda: SOURCES)
    monkeypatch.setattr(verify_bundle, "tool_name", lambda: TOOL)
    (tmp_path / "key.pem").write_bytes(PUBLIC_PEM)
    (tmp_path / "hosts").mkdir()
    for host in HOSTS:
        (tmp_path / f"hosts/{host}.pub.pem").write_bytes(HOST_PUBLIC_PEM)
    return tmp_path


def put(place: Path, files: Mapping[str, bytes]) -> Path:
    for folder in ("facts", "policies"):
        (place / "b" / folder).mkdir(parents=True)
    for name, data in files.items():
        (place / "b" / name).write_bytes(data)
    return place / "b"


def verify(bundle: Path, *words: str, key: str = "key.pem") -> int:
    given = ("--key", str(bundle.parent / key)) if key else ()
    return main(["verify", str(bundle), *given, *words])


def weaker() -> dict[str, bytes]:
    """Return a bundle without its failing check, judged by the rest and signed by the key."""
    one = forger()
    del one.values["catalogue.json"]["checks"]["6-iv-a.exact"]
    return one.bundle()


def test_whole_by_the_key_and_by_the_hosts_keys(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = put(place, FILES)
    assert verify(bundle) == 0
    assert "whole 完全" in capsys.readouterr().out
    assert verify(bundle, "--host-keys", str(place / "hosts")) == 0
    (place / "hosts/gate-in.pub.pem").write_bytes(make_key()[1])
    assert verify(bundle, "--host-keys", str(place / "hosts")) == 1
    (place / "hosts/gate-in.pub.pem").unlink()
    assert verify(bundle, "--host-keys", str(place / "hosts")) == 2


@pytest.mark.parametrize("signed", [True, False])
def test_without_a_key_it_could_not_tell_and_says_so(
    place: Path, capsys: pytest.CaptureFixture[str], *, signed: bool
) -> None:
    files = FILES if signed else write(run(), SOURCES, signed=False)
    assert verify(put(place, files), key="") == 2
    out = capsys.readouterr().out
    assert "verdict 判定: could not tell" in out
    assert "whole" not in out.rpartition("verdict")[2]


def test_a_catalogue_with_a_check_taken_out_is_named_until_it_is_accepted(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = weaker()
    bundle = put(place, files)
    assert verify(bundle) == 2
    out = capsys.readouterr().out
    assert "missing in the bundle: 6-iv-a.exact" in out
    name = catalogue_digest(files["catalogue.json"])
    assert f"--catalogue {name[:32]}" in out
    assert verify(bundle, "--catalogue", name[:32]) == 0
    assert "missing in the bundle: 6-iv-a.exact" in capsys.readouterr().out
    assert verify(bundle, "--catalogue", "0" * 64) == 2
    assert verify(bundle, "--catalogue", name[:32], key="") == 2


def test_json_tells_scope_catalogue_and_who_signed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(put(place, weaker()), "--json") == 2
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert told["signed_by_given_key"] is True
    assert told["catalogue"]["difference"] == {
        "missing": ["6-iv-a.exact"], "added": [], "changed": [],
    }  # fmt: skip
    assert told["left_out"]["checks"] == ["6-iv-a.exact"]
    assert told["run"]["scope"]["hosts"] == list(HOSTS)
    assert [host["signed"] for host in told["run"]["hosts"]] == [True, True]
    assert told["exit_code"] == 2


def test_json_of_a_hostile_site_name_is_ascii(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = forger()
    one.run["site"] = "\ud800\x9b[2J\u202e"
    assert verify(put(place, one.bundle()), "--json") in (0, 1)
    assert capsys.readouterr().out.isascii()
    assert main(["verify", str(place / "b")]) in (1, 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--catalogue", "abc"), "no digest of a catalogue"),
        (("--catalogue", "A" * 64), "no digest of a catalogue"),
        (("--host-keys", "/nonexistent"), "no host keys"),
        (("--head", "/nonexistent"), "--head is a journal's"),
    ],
)
def test_wrong_usage_is_exit_three(
    place: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert verify(put(place, FILES), *words) == 3
    assert told in capsys.readouterr().err


def test_a_key_that_is_none_is_the_readers_mistake(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = put(place, FILES)
    (place / "no.pem").write_text("no key", encoding="utf-8")
    assert verify(bundle, key="no.pem") == 3
    assert verify(bundle, key="missing.pem") == 3
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--catalogue", "--host-keys"])
def test_a_bundles_options_are_not_for_journals(tmp_path: Path, option: str) -> None:
    assert main(["verify", str(tmp_path), option, "0" * 32]) == 3


def test_facts_of_a_bundle_are_read_only_when_its_signer_is_known(place: Path) -> None:
    bundle = put(place, FILES)
    held = flows_input._bundle(Signed(bundle, place / "key.pem"))
    assert set(held) == set(HOSTS)
    with pytest.raises(SekishoError, match="nobody vouches"):
        flows_input._bundle(Signed(bundle, None))
    (place / "other.pem").write_bytes(make_key()[1])
    with pytest.raises(SekishoError, match="cannot be relied on"):
        flows_input._bundle(Signed(bundle, place / "other.pem"))
    with pytest.raises(SekishoError, match="say --bundle"):
        flows_input.signed(None, place / "key.pem")


def test_facts_with_another_catalogue_are_still_facts(place: Path) -> None:
    bundle = put(place, weaker())
    assert set(flows_input._bundle(Signed(bundle, place / "key.pem"))) == set(HOSTS)


def test_replayed_facts_are_not_read_either(place: Path) -> None:
    one = forger()
    one.run["nonce"] = "0" * 64
    files = one.bundle()
    with pytest.raises(SekishoError, match="cannot be relied on"):
        flows_input._bundle(Signed(put(place, files), place / "key.pem"))


def test_a_manifest_too_large_is_not_parsed(place: Path) -> None:
    big = canonical({"kind": "sekisho-evidence", "schema": 2, "files": {}, "x": "a" * (17 << 20)})
    assert verify(put(place, seal(dict(FILES)) | {MANIFEST: big})) == 1
