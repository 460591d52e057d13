"""The compiled rules through one version of nft: loaded, listed, compared; the guard's load.

Run by `ownspace.scene` under this machine's root or another Debian's. Prints JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "tests"), str(ROOT / "tests/kernel")]

import guardsteps  # noqa: E402 - the path comes first

from sekisho.host.kernel.nft import Nft  # noqa: E402
from sekisho.nft.readback import differences, normalise  # noqa: E402
from siteworld import policy  # noqa: E402

HOSTS = ("inbound-1", "core-1", "outbound-1", "gate-in", "gate-out", "monitor-1", "terminal-1")


def nft(*words: str, stdin: str | None = None) -> str:
    """Return what the nft of this root says."""
    done = subprocess.run(["nft", *words], input=stdin, capture_output=True, text=True, check=True)
    return done.stdout


def versions() -> str:
    """Return the version of nft, and check that libnftables is the same Debian's."""
    return nft("--version").split()[1].removeprefix("v")


def rules() -> dict[str, Any]:
    """Load each host's rules in both ways, list them in both, and compare."""
    seen: dict[str, Any] = {"version": versions(), "hosts": {}}
    library = Nft()
    for host in HOSTS:
        document = policy(host)["nftables"]
        library.load(document)
        read = normalise({"nftables": library.read()})
        found = {
            "read back as expected": read == normalise({"nftables": library.expected(document)}),
            "read back as compiled": not differences(normalise(document), read),
        }
        nft("flush", "ruleset")
        nft("-j", "-f", "-", stdin=json.dumps(document))  # as the unit does
        listed = json.loads(nft("-j", "list", "table", "inet", "sekisho"))
        found["by the program as by the library"] = normalise(listed) == read
        seen["hosts"][host] = {
            "found": found,
            "text": nft("list", "table", "inet", "sekisho"),
            "form": read,
            "drift": _drift(library, document),
        }
        nft("flush", "ruleset")
    return seen


def _drift(library: Nft, document: Any) -> dict[str, bool]:
    """Change the loaded rules in one way after the other; tell whether each is a difference."""
    wanted = normalise({"nftables": library.expected(document)})
    loaded = json.loads(nft("-j", "-a", "list", "table", "inet", "sekisho"))["nftables"]
    rule = next(one["rule"] for one in loaded if "rule" in one)
    chain, at = rule["chain"], str(rule["handle"])
    told = {}
    for words in (
        ("delete", "rule", "inet", "sekisho", chain, "handle", at),
        ("insert", "rule", "inet", "sekisho", chain, "accept"),
        ("add", "chain", "inet", "sekisho", "stray"),
        ("add", "set", "inet", "sekisho", "stray", "{ type ipv4_addr; }"),
        ("add", "table", "inet", "stranger"),
    ):
        nft(*words)
        have = normalise({"nftables": library.ruleset()})
        told[" ".join(words[:2]) + (f" {words[3]}" if words[1] == "table" else "")] = bool(
            differences(wanted, have)
        )
        nft("flush", "ruleset")
        library.load(document)
    told["nothing"] = bool(differences(wanted, normalise({"nftables": library.ruleset()})))
    return told


def guard() -> dict[str, Any]:
    """Apply, keep, apply again, and let the timer take it back; what is loaded at each step."""
    with tempfile.TemporaryDirectory() as folder:
        return _guarded(Path(folder))


def _guarded(folder: Path) -> dict[str, Any]:
    os.environ["PATH"] = f"{guardsteps.tools(folder)}:{os.environ['PATH']}"
    for name in ("etc", "usb", "state"):
        (folder / name).mkdir()
    seen: dict[str, Any] = {"version": versions(), "before": guardsteps.tables()}
    guardsteps.act("apply", str(folder), "old")
    seen["applied"] = [guardsteps.loaded(), *guardsteps.tables()]
    guardsteps.act("confirm", str(folder))
    seen["kept"] = [guardsteps.loaded(), *guardsteps.tables()]
    guardsteps.act("apply", str(folder), "new")
    seen["applied again"] = guardsteps.loaded()
    guardsteps.act("rollback", str(folder))
    seen["taken back"] = [guardsteps.loaded(), *guardsteps.tables()]
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps({"rules": rules, "guard": guard}[sys.argv[1]]()))
