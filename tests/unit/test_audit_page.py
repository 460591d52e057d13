"""docs/audit.md is followed as it stands, on a bundle that `sekisho audit` made."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = "docs/audit.md"


def steps(page: str) -> list[str]:
    """Return the commands of the block that the page says is run here, one a line."""
    block = re.search(r"<!-- steps: [^>]*-->\n```sh\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return [line for line in block[1].split("\n") if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a folder with a bundle, its key, and ``sekisho`` on its own path."""
    room = tmp_path_factory.mktemp("auditor")
    command = room / "bin/sekisho"
    command.parent.mkdir()
    command.write_text(
        f"#!/bin/sh\nPYTHONPATH={repository / 'agent'} exec {sys.executable} -m sekisho.cli.main "
        '"$@"\n',
        encoding="utf-8",
    )
    command.chmod(0o755)
    for words in (
        ["keygen", "auditor.key"],
        [
            "--local",
            "--check",
            "6-iii-d.swap-off",
            "--out",
            "evidence",
            "--sign-key",
            "auditor.key",
        ],
    ):
        done = run(["sekisho", "audit", *words], room, repository)
        assert done.returncode < 3, done.stderr
    return room


def run(
    argv: list[str], room: Path, repository: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=room,
        env={
            "PATH": f"{room / 'bin'}:/usr/bin:/bin",
            "HOME": str(room),
            "LC_ALL": "C.UTF-8",
            "SEKISHO_CATALOGUE": str(repository / "hardening"),
            **more,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.process
def test_an_auditor_repeats_the_verdicts_with_this_page_alone(made: Path, repository: Path) -> None:
    for tool in ("openssl", "jq"):
        if shutil.which(tool) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{tool} is needed")
            pytest.skip(f"{tool} is not installed")
    bundle = next((made / "evidence").glob("evidence-*"))
    said = {}
    for command in steps((repository / PAGE).read_text(encoding="utf-8")):
        done = run(
            ["bash", "-c", command], made, repository, BUNDLE=str(bundle), KEY="auditor.key.pub.pem"
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout
    signature, files, digest, verified, report, finding, facts, _, forged = said.values()
    assert signature == "Verified OK\n"
    assert files == ""
    assert "verdict 判定: whole 完全" in verified
    assert digest.split()[0] in verified
    page = (made / "report.html").read_text(encoding="utf-8")
    assert digest.split()[0] in page
    assert "判定" in report
    assert '<html lang="ja">' in page
    assert '"6-iii-d.swap-off"' in finding
    assert "swap" in facts
    assert "CHANGED 改変  facts/" in forged


@pytest.mark.process
def test_the_law_text_of_the_page_is_read_and_a_bad_one_refused(
    made: Path, repository: Path
) -> None:
    bundle = str(next((made / "evidence").glob("evidence-*")))
    words = ["sekisho", "verify", bundle, "--key", "auditor.key.pub.pem"]
    page = (repository / PAGE).read_text(encoding="utf-8")
    block = re.search(r"```\n(\[第六条第三号ハ\].*?)```", page, re.DOTALL)
    assert block is not None
    text = block[1].replace("第六条第三号ハ", "第六条第三号ニ")  # the item this bundle has
    (made / "law.txt").write_text(text, encoding="utf-8")
    done = run([*words, "--report", "with-law.html", "--law-text", "law.txt"], made, repository)
    assert done.returncode == 0, done.stderr
    told = (made / "with-law.html").read_text(encoding="utf-8")
    assert "(the text of this item, one or more lines)" in told
    assert "law.txt, SHA-256" in told
    (made / "law.txt").write_text("[第七条]\nx\n", encoding="utf-8")
    done = run([*words, "--report", "none.html", "--law-text", "law.txt"], made, repository)
    assert done.returncode == 3
    assert "第七条" in done.stderr
    assert not (made / "none.html").exists()
    done = run([*words, "--lang", "ja"], made, repository)
    assert done.returncode == 3
    assert "--report" in done.stderr


@pytest.mark.process
def test_no_report_is_written_of_a_bundle_that_does_not_hold(made: Path, repository: Path) -> None:
    bundle = next((made / "evidence").glob("evidence-*"))
    forged = made / "forged-for-report"
    shutil.copytree(bundle, forged)
    (forged / "run.json").write_bytes((forged / "run.json").read_bytes() + b" ")
    words = ["sekisho", "verify", str(forged), "--key", "auditor.key.pub.pem"]
    done = run([*words, "--report", "forged.html"], made, repository)
    assert done.returncode == 1
    assert "no report is written" in done.stderr
    assert not (made / "forged.html").exists()
