"""The document root acts on: read whole or refused with every problem, and written back."""

from __future__ import annotations

import ast
import copy
import json
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError
from sekisho.policy.forms import MOST_PROBLEMS
from sekisho.policy.host_policy import DEFAULTS, MAX_BYTES, SCHEMA, HostPolicy
from siteworld import SITE, lab_raw, policy, tunnelled

ROOT = Path(__file__).resolve().parents[3]
#: Policies that compilers of this repository wrote, oldest first; the last is today's form.
GOLDENS = sorted((ROOT / "tests/golden/policies").glob("*.json"))
#: One of them has rows of a column less, which is filled in (`host_policy.DEFAULTS`).
SHORT_ROWS = "4-declared-rows-of-eleven"
LAB = tuple(file.path.rpartition("/")[2][:-4] for file in lab_raw().host_vars)


def encrypted() -> dict[str, str]:
    """Return the lab with IPsec on the outside links and on one inside."""
    text = next(file.text for file in lab_raw().group_vars if file.path == SITE)
    for network in ("10.77.1.0/29", "10.77.6.0/29", "10.77.2.0/29"):
        text = text.replace(f"network: {network}", f"encryption: ipsec\n      network: {network}")
    return {SITE: text}


def refused(document: Any) -> tuple[str, ...]:
    with pytest.raises(SekishoError) as bad:
        HostPolicy.parse(document)
    assert bad.value.problems
    return tuple(problem.line() for problem in bad.value.problems)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield every place of a document but those below the packet filter, which is sealed."""
    yield path
    if path == ("nftables",):
        return
    if isinstance(value, (dict, list)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(one, (*path, key))


def put(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


# -- what is read, and written back --------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_a_policy_of_every_compiler_so_far_is_read(path: Path) -> None:
    data = path.read_bytes()
    told = HostPolicy.parse(data)
    assert HostPolicy.parse(told.as_json()) == told
    assert (told.as_bytes() == data) is (path.stem != SHORT_ROWS)
    absent = DEFAULTS[1].keys() - json.loads(data).keys()
    assert told.left_out == {key for key in absent if "." not in key}


def test_the_policies_at_hand_are_old_and_new() -> None:
    told = [HostPolicy.parse(path.read_bytes()) for path in GOLDENS]
    assert len(told) > 5
    assert {len(one.left_out) for one in told} >= {0, 2, len(DEFAULTS[1]) - 1}
    assert any(one.lines for one in told)
    assert any(one.tunnels for one in told)
    assert sum(len(way.lines) for way in told[3].declared.values())
    assert {line.ipsec for way in told[3].declared.values() for line in way.lines} == {""}


@pytest.mark.parametrize("host", LAB)
@pytest.mark.parametrize("edits", [{}, tunnelled(second=True), encrypted()], ids=str)
def test_what_is_compiled_is_read_as_it_was_meant(host: str, edits: dict[str, str]) -> None:
    from siteworld import host_policy as compiled  # noqa: PLC0415 - its name is a module's here

    made = compiled(host, edits)
    read = HostPolicy.parse(made.as_bytes(), form=True)
    assert read == made
    assert read.as_bytes() == made.as_bytes()
    assert not read.left_out


def test_a_new_key_takes_a_new_schema() -> None:
    """Else an agent of today would refuse a policy without saying that it is too old for it."""
    whole = json.loads(GOLDENS[-1].read_bytes())
    assert whole["schema"] == SCHEMA
    compiled = policy("gate-in", encrypted())
    now, then = ({_shape(path) for path in places(one)} for one in (compiled, whole))
    assert now == then, "raise SCHEMA, and put what older documents mean into DEFAULTS"


def _shape(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    return tuple(0 if isinstance(key, int) else key for key in path)


@pytest.mark.parametrize("key", [one.name for one in fields(HostPolicy) if one.name != "left_out"])
def test_a_key_is_there_or_has_a_default(key: str) -> None:
    document = policy("core-1")
    del document[key]
    if key not in DEFAULTS[1]:
        assert any(f"policy.json: {key}: " in line for line in refused(document))
        return
    told = HostPolicy.parse(document)
    assert not told.says(key)
    assert getattr(told, key) == DEFAULTS[1][key]
    assert told.as_json() == document  # an audit must not take a default for what a site said


# -- types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_every_value_is_of_the_type_its_field_names(path: Path) -> None:
    told = HostPolicy.parse(path.read_bytes())
    assert _mistyped(told, HostPolicy) == []


def _mistyped(value: Any, hint: Any, at: str = "") -> list[str]:
    """Return the places whose value is not exactly of the type that the annotation says."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    below: list[tuple[str, Any, Any]] = []
    if origin in (Union, types.UnionType):
        one = next((each for each in inner if type(value) is each), types.NoneType)
        return _mistyped(value, one, at)
    kind = types.MappingProxyType if origin is Mapping else origin
    if type(value) is not kind:
        return [f"{at}: {type(value)}, not {kind}"]
    if kind is tuple:
        below = [(f"{at}[{index}]", one, inner[0]) for index, one in enumerate(value)]
    elif origin is Mapping:
        below = [(f"{at}.{key}", one, inner[1]) for key, one in value.items()]
    elif is_dataclass(hint):
        hints = get_type_hints(hint)
        names = [one.name for one in fields(hint)]
        below = [(f"{at}.{name}", getattr(value, name), hints[name]) for name in names]
    return [bad for place, one, kind in below for bad in _mistyped(one, kind, place)]


def test_nothing_of_it_can_be_changed() -> None:
    told = HostPolicy.parse(policy("core-1"))
    with pytest.raises(FrozenInstanceError):
        told.host = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        told.management.address = "10.0.0.1"  # type: ignore[misc]
    with pytest.raises(TypeError):
        told.accounts["x"] = told.accounts["aoki"]  # type: ignore[index]
    told.nftables.value()["nftables"].clear()
    told.as_json()["flows"].clear()
    assert told == HostPolicy.parse(policy("core-1"))


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("serial",), True, "serial: got true; expected a whole number"),
        (("serial",), -1, "serial: got -1; expected a whole number"),
        (("serial",), 10**18, "serial: got 1000000000000000000; expected a whole number"),
        (("issued",), "2026-13-01T00:00:00Z", "issued: got str 2026-13-01T00:00:00Z"),
        (("host",), "Core-1", "host: got str Core-1; expected a machine's name"),
        (("host",), "core-1\n", "host: got str core-1\\n"),
        (("role",), "boss", "role: got str boss; expected one of inbound, core"),
        (("management", "address"), "10.0.0.256", "management.address: got str 10.0.0.256"),
        (("management", "address"), "010.0.0.1", "management.address: got str 010.0.0.1"),
        (("management", "auditors", 0), 5, "management.auditors[0]: got 5; expected an IPv4"),
        (("interfaces", "lo"), {}, "interfaces.lo: got str lo; expected an interface's name"),
        (("flows", 1, "direction"), "up", "flows[1].direction: got str up; expected one of in"),
        (("flows", 0, "peer_address"), None, "flows[0].peer_address: got null; expected an IPv4"),
        (("flows", 0), [], "flows[0]: got a list of 0; expected a mapping whose direction"),
        (("accounts", "aoki", "uid"), 0, "accounts.aoki.uid: got 0; expected a whole number from"),
        (("accounts", "aoki", "trained"), "2026-02-30", "aoki.trained: got str 2026-02-30"),
        (("orders", "people", "aoki", "key"), "QUI", "orders.people.aoki.key: got str QUI"),
        (("devices", 0, "interfaces", 0), "08:06:50", "devices[0].interfaces: got 08:06:50"),
        (("devices", 0, "vendor"), "xyz", "devices[0].vendor: got xyz; expected four lower-case"),
        (("disks",), [], "disks: got []; expected a list of 1 to 64 disks"),
        (("disks", 0, "path"), "x", "disks[0].path: got x"),
        (("pci", 1), "0000:00:00.0 8086:1237", "got str 0000:00:00.0; expected each place"),
        (("modules", "lock"), "shut", "modules.lock: got str shut; expected one of off"),
        (("console",), "none", "console: got str none; expected one of listed-keyboard"),
        (("console_proof",), {"reference": "x"}, "console_proof.tested: got"),
        (("nftables",), [], "nftables: got a list of 0; expected a mapping with exactly nftables"),
        (("nftables",), {"nftables": []}, "nftables: got a mapping of 1"),
        (("nftables", "nftables", 0), "x", "nftables.nftables[0]: got str x; expected an object"),
        (("declared", "input", "lines", 0), ["x"], "declared.input.lines[0]: got a list of 1"),
        (("declared", "input", "lines", 0, 4, 0), "10.0.0.1/24", "[0].senders[0]: got str 10.0"),
        (("declared", "up"), {}, "declared.up: got str up; expected input, output or forward"),
        (("macs", 0), "a\x1b[2J", "macs[0]: got str a\\x1b[2J"),
        (("macs",), {}, "macs: got a mapping of 0; expected a list"),
        (("color",), 1, "color: got a key that this version does not know; expected no such key"),
        (("management", "color"), 1, "management.color: got a key that this"),
        (("flows", 0, "color"), 1, "flows[0].color: got a key that this version does not know"),
        (("devices", 0, "color"), 1, "devices[0]: got "),
        (("disks", 0, "color"), 1, "disks[0]: got "),
    ],
)  # fmt: skip
def test_a_refusal_says_where_and_what(path: tuple[str | int, ...], value: Any, said: str) -> None:
    lines = refused(put(policy("core-1"), path, value))
    assert any(said in line for line in lines), lines
    assert len(lines) < 6


def test_all_problems_are_told_at_once_and_no_more_than_a_page() -> None:
    document = policy("core-1") | {"serial": "x", "role": 1, "color": 2, "routes": [{}]}
    del document["identity"]
    lines = refused(document)
    for key in ("serial", "role", "color", "routes[0].to", "routes[0].via", "identity"):
        assert any(f"policy.json: {key}: " in line for line in lines), (key, lines)
    many = refused(policy("core-1") | {"macs": [1] * 100_000})
    assert len(many) == MOST_PROBLEMS + 1
    assert "99950 more problems" in many[-1]


@pytest.mark.parametrize("schema", [0, 2, True, "1", None, 1.5, [1]])
def test_another_schema_is_refused_and_says_what_to_do(schema: Any) -> None:
    data = json.dumps(policy("core-1") | {"schema": schema, "news": 1}).encode()
    (line,) = refused(data)
    assert "schema" in line or "no canonical form" in line
    assert "update the agent" in line or schema == 1.5


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe{\x00}\x00", "no UTF-8"),
        (b"\xef\xbb\xbf{}", "no JSON"),
        (b"[]", "a list of 0"),
        (b"null", "null"),
        (b'{"schema":1,"schema":1}', "the key 'schema' twice"),
        (b'{"schema":1.0}', "1.0, which has no canonical form"),
        (b'{"schema":NaN}', "NaN"),
        (b'{"site":"\\ud800"}', "half a character"),
        (b'{"schema":' + b"1" * 5000 + b"}", ""),
        (b'{"a":' * 100_000, "nested deeper"),
        (b'{"a":[' + b"0," * 1_000_001, "more than 1000000 values"),
        (b'"' + b"x" * MAX_BYTES + b'"', f"more than {MAX_BYTES} bytes"),
    ],
)  # fmt: skip
def test_what_is_no_document_is_refused(data: bytes, said: str) -> None:
    (line,) = refused(data)
    assert said in line


def test_a_document_is_bounded_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda *_args, **_more: pytest.fail("it was parsed"))
    for data in (b" " * (MAX_BYTES + 1), b"[" * 40, b"[" + b"0," * 1_000_001):
        refused(data)


def test_only_the_canonical_form_will_do_where_it_was_signed() -> None:
    document = policy("core-1")
    assert HostPolicy.parse(json.dumps(document, indent=1).encode())
    with pytest.raises(SekishoError, match="refused") as bad:
        HostPolicy.parse(json.dumps(document).encode(), form=True)
    assert "canonical" in bad.value.diagnostics()
    assert HostPolicy.parse(canonical(document), form=True)


def test_a_value_that_is_no_json_is_refused_too() -> None:
    loop: dict[str, Any] = {}
    loop["a"] = loop
    for value in ({"a": {1, 2}}, {1: 2}, {"a": float("nan")}, {"a": object()}, loop):
        refused(value)


# -- the house -------------------------------------------------------------------------------------


def _reads_by_key(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that read something called a policy by key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            base: ast.expr = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr not in {"get", "items", "keys", "pop", "setdefault"}:
                continue
            base = node.func.value
        else:
            continue
        if isinstance(base, ast.Call):
            base = base.func
        name = base.id if isinstance(base, ast.Name) else getattr(base, "attr", "")
        if name in {"policy", "host_policy", "expectations"} or name.endswith("_policy"):
            yield node.lineno


def test_nobody_reads_a_policy_by_key() -> None:
    found, seen = [], 0
    for path in sorted((ROOT / "agent/sekisho").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        seen += "policy" in path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}:{line}" for line in _reads_by_key(tree)]
    assert seen > 30
    assert found == []
    bad = "policy['a']\nself.policy.get('b')\nhost_policy()['c']\nx.their_policy['d']\npolicy.host"
    assert list(_reads_by_key(ast.parse(bad))) == [1, 2, 3, 4]


@pytest.mark.process
@pytest.mark.parametrize(
    "module",
    ["devices.admit", "devices.exception", "devices.modules_boot", "guard.main"],
)
def test_what_runs_at_boot_loads_no_library_it_does_not_need(module: str) -> None:
    heavy = ["cryptography", "yaml", "typer", "sekisho.site.model", "sekisho.nft.filter"]
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, sekisho.host.{module}; print(*sys.modules)"],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT / "agent")},
    ).stdout.split()  # fmt: skip
    assert [name for name in heavy if name in told] == []
