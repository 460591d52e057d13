"""Goldens of the rules as the real nft lists them. Written anew with SEKISHO_GOLDEN=1."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from siteworld import policy

pytestmark = pytest.mark.kernel

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "rules"
HOSTS = ["inbound-1", "core-1", "outbound-1", "gate-in", "gate-out", "monitor-1", "terminal-1"]


def listed(host: str) -> str:
    argv = ("unshare", "--user", "--map-root-user", "--net", "sh", "-c",
            "nft -j -f - && nft list table inet sekisho")  # fmt: skip
    done = subprocess.run(
        argv,
        input=json.dumps(policy(host)["nftables"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return one_spelling(done.stdout)


def one_spelling(text: str) -> str:
    """Return the text as nft 1.0 spells flags and fragments.

    1.1 writes ``tcp flags & (syn | ack) == syn`` for ``tcp flags syn / syn,ack``, and offsets in
    hexadecimal digits.
    """

    def flags(found: re.Match[str]) -> str:
        unlike = "!= " if found[2] == "!=" else ""
        return f"tcp flags {unlike}{found[3]} / {found[1].replace(' | ', ',')}"

    def decimal(found: re.Match[str]) -> str:
        return re.sub(r"0x[0-9a-f]+", lambda number: str(int(number[0], 16)), found[0])

    text = re.sub(r"tcp flags & \(([a-z |]+)\) (==|!=) ([a-z]+)", flags, text)
    return re.sub(r"ip frag-off (?:set|& 0x[0-9a-f]+ !=) 0x[0-9a-f]+", decimal, text)


@pytest.mark.parametrize("host", HOSTS)
def test_the_rules_are_listed_as_before(host: str) -> None:
    path = GOLDEN / f"{host}.nft"
    text = listed(host)
    if os.environ.get("SEKISHO_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text


def test_every_golden_has_its_host() -> None:
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(HOSTS)
