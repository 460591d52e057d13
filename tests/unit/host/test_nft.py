"""The policy's rules touch our own table only; loaded and read back in a real kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentworld import rules
from sekisho.core.errors import SekishoError
from sekisho.host.kernel.nft import own_objects

OTHER = {"family": "ip", "name": "filter"}


def test_objects_come_in_their_order_without_the_commands_that_empty_the_table() -> None:
    assert [kind for kind, _ in own_objects(rules())] == ["table", "table", "set", "chain", "rule"]


@pytest.mark.parametrize(
    "entry",
    [
        {"add": {"table": OTHER}},
        {"delete": {"table": OTHER}},
        {"flush": {"ruleset": None}},
        {"delete": {"chain": {"family": "inet", "table": "sekisho", "name": "in"}}},
        {"add": {"rule": {"family": "inet", "table": "nat", "chain": "x", "expr": []}}},
        {"add": {"chain": "in"}},
        {"chain": {"family": "inet", "table": "other", "name": "x"}},
        "flush ruleset",
    ],
)
def test_rules_that_reach_beyond_our_own_table_are_refused(entry: Any) -> None:
    with pytest.raises(SekishoError, match=r"refused|not libnftables"):
        list(own_objects({"nftables": [*rules()["nftables"], entry]}))


@pytest.mark.parametrize("value", [None, [], {"nftables": None}, {"rules": []}])
def test_what_is_no_libnftables_json_is_refused(value: Any) -> None:
    with pytest.raises(SekishoError, match="not libnftables"):
        list(own_objects(value))


SCENE = """
import json, subprocess, sys, time
sys.path[:0] = [{agent!r}, {tests!r}]
from agentworld import rules
from sekisho.host.kernel.nft import Nft, NftChanges
from sekisho.core.errors import SekishoError
from sekisho.nft.readback import normalise

nft, seen = Nft(), {{}}
def form(objects):
    return normalise({{"nftables": objects}})
seen["nothing"] = nft.read() is None
seen["expected before load"] = nft.expected(rules()) is not None
seen["nothing in force by asking"] = nft.read() is None and "twin" not in str(nft._tables())
changes = NftChanges()
def told(wanted):
    return any((changes.drain() > 0) is wanted or time.sleep(0.05) for _ in range(100))
nft.load(rules())
seen["told of the load"] = told(True)
seen["quiet"] = told(False)
wanted = form(nft.expected(rules()))
changes.drain()
seen["equal"] = form(nft.read()) == wanted
subprocess.run(["nft", "add", "rule", "inet", "sekisho", "in", "tcp dport 80 accept"], check=True)
seen["told of a stranger"] = told(True)
seen["an added rule is seen"] = form(nft.read()) != wanted
nft.load(rules())
seen["one load puts it right"] = form(nft.read()) == wanted
subprocess.run(["nft", "add", "element", "inet", "sekisho", "peers", "{{ 10.9.9.9 }}"], check=True)
seen["an added element is seen"] = form(nft.read()) != wanted
subprocess.run(["nft", "flush", "ruleset"], check=True)
seen["flushed"] = nft.read() is None
nft.load(rules())
bad = rules()
stray = {{"family": "inet", "table": "sekisho", "chain": "gone", "expr": []}}
bad["nftables"].append({{"add": {{"rule": stray}}}})
try:
    nft.load(bad)
    seen["bad rules refused"] = False
except SekishoError:
    seen["bad rules refused"] = True
seen["and nothing changed"] = form(nft.read()) == wanted
try:
    nft.expected(bad)
except SekishoError:
    pass
seen["no twin left"] = "sekisho_twin" not in nft._tables()
empty = {{"nftables": rules()["nftables"][:3]}}
try:
    nft.load(empty)
    seen["no rule at all refused"] = False
except SekishoError:
    seen["no rule at all refused"] = True
print(json.dumps(seen))
"""


@pytest.mark.kernel
def test_a_real_kernel_takes_the_rules_tells_of_changes_and_reads_back_the_same(
    repository: Path,
) -> None:
    scene = SCENE.format(agent=str(repository / "agent"), tests=str(repository / "tests"))
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", scene],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no namespaces here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert [name for name, good in seen.items() if not good] == []
    assert len(seen) == 15
