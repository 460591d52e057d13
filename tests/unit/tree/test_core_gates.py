"""One reader of JSON and one durable writer: whoever has its own says why, and nobody else may."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sekisho.core.strict_json import strict_json

ROOT = Path(__file__).resolve().parents[3]
_TOOL = "what a program of Debian's printed: its form is the program's, bounded where it is run"
_FACTS = "a program's output or a file inside facts that were bounded and proven before"
_OWN = "a file that only root writes, checked key by key afterwards"
_CONTROL = "a file of the person who runs it, on the controller"
#: Module → why it reads JSON by itself.
READERS = {
    "catalogue/compiled.py": "bytes whose form is held against canonical JSON there",
    "catalogue/wording.py": "a fact's own text, made by us",
    "host/cli/agent.py": _OWN,
    "control/cli/flows_input.py": f"{_FACTS}; {_CONTROL}",
    "host/kernel/audit_cursor.py": _OWN,
    "control/catalogue_files.py": "a value written the line before",
    "control/inventory/enrolment.py": _CONTROL,
    "host/devices/exception_state.py": _OWN,
    "control/replay/namespaces.py": _TOOL,
    "host/guard/live.py": f"{_TOOL}; {_OWN}",
    "host/guard/store.py": _OWN,
    "host/devices/module_wall.py": _OWN,
    "host/kernel/nft.py": _TOOL,
    "host/spent_orders.py": _OWN,
    "control/pki/authority.py": _CONTROL,
    "control/pki/lines.py": _CONTROL,
    "host/kernel/quarantine.py": "rules that root loads the next moment, as nft will read them",
    "host/swanctl.py": _OWN,
    "host/transfer/outbox.py": _OWN,
    "host/transfer/shelf.py": _OWN,
    "evidence/bundle.py": "the catalogue that this process compiled",
    "prover/hostfacts.py": _FACTS,
    "journal/records.py": "a line of at most 64 KiB, held against its canonical form and its hash",
    "orders/register.py": "a line of the journal, whose proof is another's business",
    "policy/forms.py": "canonical bytes that this process wrote",
    "probes/agent.py": _FACTS,
    "probes/exceptions.py": _FACTS,
    "probes/network.py": _FACTS,
    "probes/nftables.py": _FACTS,
    "probes/sudo.py": _FACTS,
    "probes/wireguard.py": _FACTS,
    "host/agent/parts/files.py": _OWN,
    "host/agent/parts/modules.py": _OWN,
    "host/agent/parts/rules.py": _OWN,
    "host/guard/main.py": "the request of root's own play, checked key by key afterwards",
}


def _calls(path: Path, *names: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in names:
            yield name


def _callers(*names: str) -> set[str]:
    tree = ROOT / "agent/sekisho"
    return {str(p.relative_to(tree)) for p in tree.rglob("*.py") if list(_calls(p, *names))}


def test_json_of_others_has_one_reader() -> None:
    found = _callers("json.loads", "json.load") - {"core/strict_json.py"}
    assert found - READERS.keys() == set(), "read it by sekisho.core.strict_json"
    assert READERS.keys() - found == set(), "it reads none any more: take it off the list"


def test_files_have_one_durable_writer() -> None:
    assert _callers("tempfile.mkstemp", "mkstemp", "tempfile.NamedTemporaryFile") == {
        "core/files.py"
    }


@pytest.mark.parametrize(
    ("data", "more", "said"),
    [
        (b'{"a":1}', {"size": 6}, "more than 6 bytes"),
        (b"[1,2,3]" + b" " * 64, {"values": 2}, "more than 2 values"),
        (b"[" * 9 + b"]" * 9, {"depth": 8}, "nested deeper than 8"),
        (b"[1.5]", {}, "no canonical form"),
        (b"[NaN]", {"floats": True}, "no canonical form"),
        (b"[-Infinity]", {"floats": True}, "no canonical form"),
        (b'{"a":1,"b":2,"a":1}', {}, "the key 'a' twice"),
        (b'{"a":{"b":1,"b":1}}', {}, "the key 'b' twice"),
        (b'\xef\xbb\xbf{"a":1}', {}, "no JSON"),
        ('{"a":1}'.encode("utf-16"), {}, "no UTF-8"),
        (b'["\xff"]', {"surrogates": True}, "no UTF-8"),
        (b'["\\ud800"]', {}, "lone surrogate"),
        (b'["\xed\xa0\x80"]', {}, "no UTF-8"),
        (b"[1] [2]", {}, "no JSON"),
        (b"", {}, "no JSON"),
        (b'{"b":1,"a":2}', {"form": True}, "another form"),
        (b'{"a": 2}', {"form": True}, "another form"),
        (b"[" + b"1" * 5000 + b"]", {}, ""),
    ],
)
def test_one_reading_or_none(data: bytes, more: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"(?s).*") as bad:
        strict_json(data, **({"size": 1 << 20} | more))
    assert said in str(bad.value)
    assert type(bad.value) is ValueError or "limit" in str(bad.value)


def test_what_is_allowed_by_name_passes() -> None:
    assert strict_json(b"[1.5,1e3]", size=99, floats=True) == [1.5, 1000.0]
    assert strict_json(b'["\\ud800"]', size=99, surrogates=True) == ["\ud800"]
    assert strict_json(b'["\xed\xa0\x80"]', size=99, surrogates=True, form=True) == ["\ud800"]
    assert strict_json(b' {"a" : [] } ', size=99) == {"a": []}
    assert strict_json(json.dumps({"病": "院"}).encode(), size=99) == {"病": "院"}
