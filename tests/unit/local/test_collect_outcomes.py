"""The collector on this machine: bounded, quick, honest about what it could not read."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from sekisho.catalogue.facts import facts_from_raw
from sekisho.host.agent.parts.files import GROUPS, FilesPart
from sekisho.local import collect as edge
from sekisho.local.collect import collect, read, run
from sekisho.probes.model import Probe, Read, Run
from sekisho.probes.registry import registry


def as_nobody() -> bool:
    return os.geteuid() != 0


@pytest.mark.process
def test_a_command_gives_status_and_output() -> None:
    done = run(Run(("printf", "a\\377b")))
    assert done == {"rc": 0, "stdout": "a\\xffb", "stderr": "", "truncated": False}


@pytest.mark.process
def test_a_command_that_is_missing_or_hangs_is_an_error() -> None:
    assert run(Run(("sekisho-no-such-command",))) == {
        "error": "sekisho-no-such-command is not installed"
    }
    assert run(Run(("sleep", "30"), timeout_s=1)) == {"error": "sleep gave no answer within 1 s"}


@pytest.mark.process
def test_too_much_output_is_cut_and_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "MAX_BYTES", 1000)
    done = run(Run(("seq", "100000")))
    assert done["truncated"] is True
    assert len(done["stdout"]) == 1000


@pytest.mark.process
def test_a_command_sees_a_plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    monkeypatch.setenv("LD_PRELOAD", "")
    told = run(Run(("env",)))["stdout"].splitlines()
    assert not [line for line in told if line.startswith(("SECRET", "LD_PRELOAD"))]
    assert "LC_ALL=C" in told


def test_files_are_read_with_their_modes(tmp_path: Path) -> None:
    (tmp_path / "a.conf").write_text("x=1\n", encoding="utf-8")
    (tmp_path / "a.conf").chmod(0o640)
    (tmp_path / "b.conf").symlink_to(tmp_path / "a.conf")
    (tmp_path / "c.conf").mkdir()
    found = read(Read((f"{tmp_path}/*.conf",)))["files"]
    assert found[f"{tmp_path}/a.conf"]["text"] == "x=1\n"
    assert found[f"{tmp_path}/a.conf"]["mode"] == 0o640
    assert found[f"{tmp_path}/b.conf"]["kind"] == "link"
    assert found[f"{tmp_path}/b.conf"]["target"] == f"{tmp_path}/a.conf"
    assert found[f"{tmp_path}/c.conf"]["kind"] == "dir"
    assert read(Read((f"{tmp_path}/none",)))["files"] == {}


def test_a_pipe_does_not_hold_the_collector_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "text" not in read(Read((f"{tmp_path}/pipe",)))["files"][f"{tmp_path}/pipe"]


def test_a_file_that_is_too_large_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "MAX_FILE_BYTES", 10)
    (tmp_path / "big").write_bytes(b"x" * 11)
    entry = read(Read((f"{tmp_path}/big",)))["files"][f"{tmp_path}/big"]
    assert entry["error"] == "larger than 10 bytes"
    assert "text" not in entry


def test_what_systemd_lent_is_taken_where_the_sandbox_may_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "setting").write_text("2", encoding="utf-8")
    monkeypatch.setattr(edge.os, "read", denied)
    path = f"{tmp_path}/setting"
    assert read(Read((path,)))["files"][path]["error"] == "Operation not permitted"
    lent = tmp_path / "credentials"
    lent.mkdir()
    (lent / path.strip("/").replace("/", "-")).write_text("2\n", encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(lent))
    assert read(Read((path,)))["files"][path]["text"] == "2\n"


@pytest.mark.process
def test_equal_operations_are_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Run] = []

    def counted(operation: Run) -> dict[str, object]:
        calls.append(operation)
        return {"rc": 0, "stdout": "", "stderr": "", "truncated": False}

    monkeypatch.setattr(edge, "run", counted)
    same = [
        Probe(name, {"one": Run(("true",)), "two": Run(("true",))}, lambda raw: raw)
        for name in ("a", "b")
    ]
    raw = collect(same)
    assert len(calls) == 1
    assert set(raw["probes"]) == {"a", "b"}


@pytest.mark.process
def test_every_probe_gives_a_fact_or_a_reason_on_this_machine() -> None:
    facts = facts_from_raw(collect(registry().values()))
    assert set(facts) == set(registry())
    crashed = [
        f"{name}: {fact.error}"
        for name, fact in facts.items()
        if fact.error is not None and fact.error.startswith("the reader failed")
    ]
    assert crashed == []
    assert all(fact.error is None or fact.error.strip() for fact in facts.values())


def test_no_probe_can_be_told_what_to_run() -> None:
    for name, probe in registry().items():
        for operation in probe.operations.values():
            if isinstance(operation, Run):
                assert operation.argv, name
                assert all(isinstance(word, str) for word in operation.argv), name
                assert operation.argv[0] not in {"sh", "bash", "dash", "env", "sudo", "eval"}, name
            else:
                assert all(path.startswith("/") for path in operation.globs), name


def wildcards() -> list[tuple[str, str]]:
    """Return every wildcard any probe, and the guarded files, look through: its owner, itself."""
    read = [
        (name, pattern)
        for name, probe in registry().items()
        for operation in probe.operations.values()
        if isinstance(operation, Read)
        for pattern in operation.globs
    ]
    guarded = [(f"agent_files {name}", f"/{one}") for name, some in GROUPS.items() for one in some]
    return [(name, pattern) for name, pattern in (*read, *guarded) if glob.has_magic(pattern)]


def dotted(pattern: str) -> str:
    """Return a path that fits the pattern and has a dot before every name a wildcard stands for."""
    parts = [re.sub(r"\[([^]])[^]]*\]", r"\1", part) for part in pattern.split("/")]
    return "/".join(
        part.replace("*", ".hidden", 1).replace("*", "") if "*" in part else part for part in parts
    )


@pytest.mark.parametrize(("owner", "pattern"), wildcards())
def test_no_wildcard_passes_over_a_name_that_begins_with_a_dot(
    owner: str, pattern: str, tmp_path: Path
) -> None:
    there = tmp_path / dotted(pattern).lstrip("/")
    there.parent.mkdir(parents=True)
    there.write_text("x")
    if owner.startswith("agent_files"):
        part = FilesPart(Mock(), Mock(root=tmp_path, state=tmp_path / "state"))
        assert list(part._digests()) == [dotted(pattern)]
        return
    found = read(Read((f"{tmp_path}{pattern}",)))["files"]
    assert list(found) == [str(there)], owner
