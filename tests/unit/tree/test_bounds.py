"""Every way in has a bound, and what is one more than it is refused at once, unread."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from sekisho.activity import records as audit_records
from sekisho.catalogue.compiled import MAX_CATALOGUE_BYTES, from_json
from sekisho.catalogue.judge import Unknown, compare
from sekisho.catalogue.model import Op
from sekisho.catalogue.parse import parse_check
from sekisho.catalogue.patterns import MAX_PATTERN, MAX_TEXT, bounded
from sekisho.control import catalogue_files
from sekisho.control.bundle import files as bundle_io
from sekisho.control.inventory import read as inventory
from sekisho.control.pki import certificates as sign
from sekisho.control.ssh import pinned_keys
from sekisho.core.bounds import MAX_DEPTH, MAX_VALUES, json_within
from sekisho.core.errors import SekishoError, printable
from sekisho.core.strict_json import strict_json
from sekisho.devices import descriptors, disks, export_db, pci, policy, policy_file
from sekisho.facts import wire
from sekisho.host.kernel.nft import MAX_READ, _parsed
from sekisho.host.policy_store import MAX_POLICY, Floor, prove
from sekisho.journal import intake, seals
from sekisho.journal import records as journal_records
from sekisho.orders import model as orders
from sekisho.orders.parse import parse_order
from sekisho.transfer import header

KEY = ec.generate_private_key(ec.SECP384R1()).public_key()
ASKED = wire.Request("ab" * 24, ("sysctl",))
HARDENING = Path(__file__).resolve().parents[3] / "hardening"
REFUSED = (SekishoError, ValueError, wire.WireError, Unknown)


def _answer(raw: bytes) -> Any:
    return wire.decode_response(zlib.compress(b'{"raw":%s}' % raw, 1), ASKED)


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


#: What comes in from outside; docs/audit.md has the same table.
WAYS_IN: dict[str, Callable[[], Any]] = {
    "an auditor's request": lambda: wire.decode_request(b" " * (wire.MAX_REQUEST_BYTES + 1), ()),
    "an answer, announced": lambda: wire.body_length(
        wire.MAGIC + (wire.MAX_RESPONSE_BYTES + 1).to_bytes(4, "big")
    ),
    "an answer, unpacked": lambda: _answer(b'"' + bytes(range(35, 91)) * 700_000 + b'"'),
    "an answer's values": lambda: _answer(b"[" + b"0," * wire.MAX_RAW_VALUES + b"0]"),
    "an answer's nesting": lambda: _answer(_nested(MAX_DEPTH)),
    "an order": lambda: parse_order(b" " * (orders.MAX_BYTES + 1), "x"),
    "an event for the journal": lambda: intake.parse_submission(b" " * (intake.MAX_MESSAGE + 1)),
    "a journal's head": lambda: seals.parse_head(b" " * (seals.MAX_HEAD + 1), KEY),
    "a journal's line": lambda: journal_records.parse_line(
        b" " * journal_records.MAX_LINE + b"\n"
    ),
    "an audit record": lambda: audit_records.parse_line(b" " * (audit_records.MAX_LINE + 1)),
    "an object's header": lambda: header.parse_header(b" " * header.MAX_HEADER + b"\n"),
    "pinned host keys": lambda: pinned_keys.parse_pinned(
        b" " * (pinned_keys._MAX_BYTES + 1), "x"
    ),
    "a certificate request": lambda: sign.read_request(b" " * (sign.MAX_REQUEST + 1), host="a"),
    "a host's policy": lambda: prove(
        b" " * (MAX_POLICY + 1), b"", b"", host="a", floor=Floor(0, "")
    ),
    "a USB device's descriptors": lambda: descriptors.parse_descriptors(
        b"\x12\x01" + b"\0" * descriptors.MAX_BYTES
    ),
    "a udev database": lambda: export_db.parse_export_db(b" " * (export_db.MAX_BYTES + 1), "x"),
    "a list of devices": lambda: policy_file.parse_values(
        b" " * (policy_file.MAX_BYTES + 1), "x"
    ),
    "a policy's devices": lambda: policy.parse_devices([{}] * (policy.MAX_RULES + 1)),
    "a policy's disks": lambda: disks.parse_disks([{}] * (disks.MAX_DISKS + 1)),
    "a policy's PCI functions": lambda: pci.parse_functions([""] * (pci.MAX_FUNCTIONS + 1)),
    "the kernel's rules": lambda: _parsed(" " * (MAX_READ + 1)),
    "a compiled catalogue": lambda: from_json(b" " * (MAX_CATALOGUE_BYTES + 1), "x"),
    "a compiled catalogue's values": lambda: from_json(b"[" + b"0," * MAX_VALUES + b"0]", "x"),
    "any JSON's values": lambda: strict_json(b"[" + b"0," * MAX_VALUES + b"0]", size=1 << 30),
    "any JSON's nesting": lambda: strict_json(_nested(MAX_DEPTH + 1), size=1 << 30),
    "a check's pattern": lambda: bounded("a" * (MAX_PATTERN + 1)),
    "a text that is matched": lambda: compare(Op.MATCHES, "a" * (MAX_TEXT + 1), "a+"),
}  # fmt: skip


@pytest.mark.parametrize("way", sorted(WAYS_IN))
def test_one_more_than_the_bound_is_refused_at_once(way: str) -> None:
    before = time.process_time()
    with pytest.raises(REFUSED):
        WAYS_IN[way]()
    assert time.process_time() - before < 2


@pytest.mark.parametrize("way", sorted(WAYS_IN))
def test_the_documentation_names_each_way_in(way: str, repository: Path) -> None:
    assert f"| {way} |" in (repository / "docs/audit.md").read_text(encoding="utf-8")


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as out:
        out.truncate(size)
    return path


def test_files_are_read_no_further_than_their_bound(tmp_path: Path) -> None:
    gigabytes = 8 << 30
    with pytest.raises(SekishoError, match="not in order"):
        catalogue_files.read_yaml(_sparse(tmp_path / "check.yml", gigabytes))
    _sparse(tmp_path / "hosts.yml", gigabytes)
    with pytest.raises(SekishoError, match="inventory"):
        inventory.read_inventory(tmp_path)
    with pytest.raises(SekishoError, match="pinned"):
        pinned_keys.read_pinned(tmp_path / "hosts.yml")
    bundle = tmp_path / "b"
    bundle.mkdir()
    _sparse(bundle / "MANIFEST.json", gigabytes)
    assert "more than" in bundle_io.read_bundle(bundle).refused[0]


def test_aliases_of_a_catalogue_do_not_unfold(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    for text in ("\n".join(lines), "a: &a [x]\nb: [" + "*a, " * 100 + "x]"):
        (tmp_path / "check.yml").write_text(text)
        before = time.process_time()
        with pytest.raises(SekishoError, match="not in order"):
            catalogue_files.read_yaml(tmp_path / "check.yml")
        assert time.process_time() - before < 1
    (tmp_path / "check.yml").write_text("a: &a [x]\nb: *a\n")
    assert catalogue_files.read_yaml(tmp_path / "check.yml") == {"a": ["x"], "b": ["x"]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('"\\[]{},:a\u2028é', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text('"\\[{a', max_size=4), inner, max_size=4)
    ),
    max_leaves=30,
)


def _counted(value: Any) -> tuple[int, int]:
    """Return the separators and openings of a value's JSON, and its depth, the slow way."""
    if isinstance(value, dict):
        inner = [_counted(one) for one in value.values()]
        signs = 1 + len(inner) + max(len(inner) - 1, 0)
    elif isinstance(value, list):
        inner = [_counted(one) for one in value]
        signs = 1 + max(len(inner) - 1, 0)
    else:
        return 0, 0
    deepest = max((depth for _, depth in inner), default=0)
    return signs + sum(count for count, _ in inner), 1 + deepest


@given(JSON)
def test_values_and_depth_are_counted_exactly(value: Any) -> None:
    count, depth = _counted(value)
    data = (json.dumps(value, ensure_ascii=False) + " " * 64).encode()
    json_within(data, values=count, depth=depth)
    if count:
        with pytest.raises(ValueError, match="values"):
            json_within(data, values=count - 1, depth=depth)
        with pytest.raises(ValueError, match="nested"):
            json_within(data, values=count, depth=depth - 1)


@pytest.mark.parametrize(
    "pattern",
    [
        *("(?:a|a)*b", "(a+)+b", "(a*)*", "(?:a?){30}b", "x*y*z*", "(?:[a-z]+ )+x", "(a|ab)*c"),
        *("(?=a)b", r"(a+)\1", "(?:a{0,20}){0,20}", ".*.*.*=", "(", "a{2,1}"),
        *("(?:ab?)*c", "((((a*)*)*)*)*", "(?!a)*", "[a-z", "a**", "(?P<x>a+)(?P=x)"),
    ],
)
def test_a_pattern_that_could_backtrack_without_end_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|regular expression|look-around"):
        bounded(pattern)
    check = catalogue_files.read_yaml(HARDENING / "checks/6-iv-b.journal-protected/check.yml")
    check["asserts"][0] |= {"op": "matches", "value": pattern}
    found, problems = parse_check("6-iv-b.journal-protected", check, frozenset({"agent"}))
    assert found is None
    assert any("regular expression" in problem.line() for problem in problems)
    with pytest.raises(Unknown):
        compare(Op.MATCHES, "a" * 40, pattern)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("0:[0-9]+", "0:42"),
        ("[a-z]+-[0-9]+", "core-1"),
        ("(?:yes|no)( .*)?", "yes, it is"[:3]),
        (r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", "10.77.0.1"),
        (".*x.*", "aaxaa"),
        ("(?:(?:a|b)|c)*d", "abcd"),  # one class of letters, as it is read
    ],
)
def test_a_plain_pattern_matches_and_costs_little(pattern: str, text: str) -> None:
    assert compare(Op.MATCHES, text, pattern)[0]
    for unit in ("a", "0", "x", "0:", "1.", "-"):
        before = time.process_time()
        compare(Op.MATCHES, (unit * MAX_TEXT)[: MAX_TEXT - 1] + "\n", pattern)
        assert time.process_time() - before < 0.5


@given(st.text(max_size=300), st.integers(1, 200))
def test_what_is_printed_is_printable_and_short(text: str, limit: int) -> None:
    told = printable(text, limit)
    assert told.isprintable()
    assert len(told) <= limit + 30
    if text.isprintable() and len(text) <= limit:
        assert told == text


def test_a_huge_value_is_printed_as_fast_as_a_small_one() -> None:
    huge = "\n" * (64 << 20)
    before = time.process_time()
    told = printable(huge)
    assert time.process_time() - before < 0.2
    assert told.endswith(f"({64 << 20} characters)")
