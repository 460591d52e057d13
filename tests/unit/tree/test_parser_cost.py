"""What a host, a peer or a file says costs its reader in proportion: processor time, not seconds.

For every byte value and each separator 256 KiB take at most six times what 64 KiB take, and 1 MiB
of a separator no more than that again. Every probe is in the table by itself, and every function
that parses bytes or text is in the other one or is named with the reason why not.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from hostiletexts import (
    BIG,
    HUGE,
    SEPARATORS,
    SMALL,
    everything,
    outcomes,
    repeated,
    seconds,
    texts,
    too_much,
    whole,
)
from sekisho.activity.arguments import parse_argv
from sekisho.activity.events import keys_of, parse_path, parse_syscall
from sekisho.activity.join import Joiner
from sekisho.activity.quick import ORDINARY, RECORDS
from sekisho.activity.records import decode, parse_fields
from sekisho.activity.records import parse_line as parse_audit_line
from sekisho.catalogue.compiled import from_json
from sekisho.control.pki.certificates import read_request
from sekisho.control.ssh.pinned_keys import parse_pinned
from sekisho.core.bounds import json_within
from sekisho.core.errors import printable
from sekisho.core.strict_json import strict_json
from sekisho.core.yaml_nodes import Reader
from sekisho.devices.descriptors import parse_descriptors
from sekisho.devices.export_db import parse_export_db
from sekisho.devices.module_list import parse_loaded
from sekisho.devices.policy_file import parse_listed, parse_values
from sekisho.devices.udev_rules import _HEAD, _TAIL
from sekisho.devices.udev_rules import parse as parse_udev_rules
from sekisho.devices.uevent import parse_uevent
from sekisho.evidence.bundle import MANIFEST
from sekisho.evidence.verification import Stored, verify
from sekisho.facts.wire import Request, decode_request, decode_response
from sekisho.host.kernel.audit_tail import parse_status
from sekisho.host.listeners import parse as parse_listeners
from sekisho.journal.intake import parse_answer, parse_submission
from sekisho.journal.records import parse_line as parse_journal_line
from sekisho.journal.records import skim_line
from sekisho.journal.seals import parse_head
from sekisho.network.netlink import attributes, messages
from sekisho.nft.readback import normalise
from sekisho.orders.parse import parse_order
from sekisho.orders.register import register
from sekisho.policy.host_policy import HostPolicy
from sekisho.probes.registry import registry
from sekisho.prover.hostfacts import _Facts
from sekisho.transfer.header import parse_header
from sekisho.transfer.manifest import parse_manifest
from sekisho.transfer.sequence import parse_sequence

ROOT = Path(__file__).resolve().parents[3] / "agent/sekisho"
SEEDS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "golden/outcomes.json").read_text(encoding="utf-8")
)
KEY = ec.generate_private_key(ec.SECP384R1()).public_key()
ASKED = Request("ab" * 24, ("sysctl",))
_AUDIT = (
    "type=SYSCALL msg=audit(1700000000.000:7): arch=c000003e syscall=59 success=yes exit=0 a0=1 "
    'items=2 ppid=1 pid=2 auid=1000 uid=0 euid=0 tty=pts0 ses=1 comm="sh" exe="/bin/sh" key="x"'
)
_ARGUMENTS = 'argc=2 a0="sh" a1=2D63 a2[0]=61 a2[1]="b"'
_RECORD = (
    '{"boot":"b1","data":{"i":1},"hash":"' + "0" * 64 + '","host":"core-1","kind":"login","n":1,'
    '"prev":"' + "0" * 64 + '","t":1}'
)
_ORDER = '{"order":{"id":"20260101-0123456789abcdef","kind":"exception"},"signatures":[{"by":"a"}]}'
_RULES = '{"nftables":[{"rule":{"family":"inet","table":"sekisho","chain":"input","expr":[]}}]}'
_XFRM = (
    "src 10.0.0.1/32 dst 10.0.0.2/32 proto tcp dport 7601\n\tdir out priority 1 ptype main\n"
    "\ttmpl src 10.0.0.3 dst 10.0.0.4\n\t\tproto esp spi 0x1 reqid 17 mode tunnel"
)
_TCP = (
    "   0: 0100007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 9 1"
)


def _encoded(reader: Callable[[bytes], Any]) -> Callable[[str], Any]:
    return lambda text: reader(text.encode("utf-8", "surrogatepass"))


def _each_line(reader: Callable[[bytes], Any]) -> Callable[[str], Any]:
    def read(text: str) -> None:
        # Each line by itself, and no line knows of another: some of them tell what all take.
        for line in text.encode().split(b"\n")[:2000]:
            with contextlib.suppress(ValueError):
                reader(line + b"\n")

    return read


def _answered(text: str) -> Any:
    """Read an answer as a host would frame it; it packs badly enough to be unpacked."""
    plain = b'{"collector":%s,"schema":1}' % json.dumps(text).encode()
    return decode_response(zlib.compress(plain, 0), ASKED)


def _xfrm(label: str, text: str) -> Any:
    facts = _Facts({"lines": {label: {"rc": 0, "stdout": text, "truncated": False}}}, "gate-in")
    return facts.policies() if label == "policies" else facts.associations()


#: Every reader that is no probe: what it is given (text; most take its bytes), and a seed.
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "activity.records.decode": (_encoded(decode), _AUDIT),
    "activity.records.parse_line": (_each_line(parse_audit_line), _AUDIT),
    "activity.records.parse_fields": (_encoded(parse_fields), _AUDIT),
    "activity.arguments.parse_argv": (_encoded(lambda b: parse_argv([b])), _ARGUMENTS),
    "activity.events.parse_syscall": (_encoded(parse_syscall), _AUDIT.partition(": ")[2]),
    "activity.events.parse_path": (_encoded(parse_path), 'item=0 name="/x" inode=1 mode=0100644'),
    "activity.events.keys_of": (_encoded(keys_of), _AUDIT),
    "activity.join": (
        _encoded(lambda b: list(Joiner(ordinary=(ORDINARY, RECORDS)).feed(b.split(b"\n")))),
        _AUDIT,
    ),
    "journal.records.parse_line": (_each_line(parse_journal_line), _RECORD),
    "journal.records.skim_line": (_each_line(skim_line), _RECORD),
    "journal.intake.parse_submission": (_encoded(parse_submission), '{"data":{},"kind":"a"}'),
    "journal.intake.parse_answer": (_encoded(parse_answer), '{"n":1}'),
    "journal.seals.parse_head": (_encoded(lambda b: parse_head(b, KEY)), '{"v":1,"host":"a"}'),
    "orders.parse.parse_order": (_encoded(lambda b: parse_order(b, "x")), _ORDER),
    "orders.register": (_encoded(lambda b: register(b.split(b"\n"))), _RECORD),
    "transfer.header.parse_header": (_encoded(parse_header), '{"delivery":"a","v":1}\n'),
    "transfer.sequence.parse_sequence": (_encoded(parse_sequence), '{"numbers":{"a":1}}'),
    "transfer.manifest.parse_manifest": (_encoded(parse_manifest), '{"files":[{"path":"a"}]}'),
    "nft.readback": (lambda text: normalise(json.loads(text)), _RULES),
    "flows.prover.hostfacts policies": (partial(_xfrm, "policies"), _XFRM),
    "flows.prover.hostfacts associations": (
        partial(_xfrm, "associations"),
        "src 10.0.0.1 dst 10.0.0.2\n\tproto esp spi 0x1 reqid 17 mode tunnel\n\tlastused 1",
    ),
    "network.netlink.messages": (_encoded(lambda b: list(messages(b))), "\x14\0\0\0\x10\0\0\0"),
    "network.netlink.attributes": (_encoded(attributes), "\x08\0\x01\0abcd"),
    "devices.descriptors.parse_descriptors": (_encoded(parse_descriptors), "\x12\x01\0\x02"),
    "devices.export_db.parse_export_db": (
        _encoded(lambda b: parse_export_db(b, "x")),
        "P: /devices/a\nE: DEVPATH=/devices/a\nA: serial=a\\n\\n\nH: descriptors=12 01",
    ),
    "devices.policy_file.parse_listed": (
        _encoded(lambda b: parse_listed(b, "x")),
        '{"devices":[{"name":"a"}]}',
    ),
    "devices.policy_file.parse_values": (_encoded(lambda b: parse_values(b, "x")), "a: [b]\n"),
    "devices.module_list.parse_loaded": (parse_loaded, "usbhid 65536 0 - Live 0x0"),
    "devices.uevent.parse_uevent": (
        _encoded(parse_uevent),
        "add@/devices/a\0ACTION=add\0DEVPATH=/devices/a\0SUBSYSTEM=usb\0",
    ),
    "devices.udev_rules.parse": (
        lambda text: parse_udev_rules(_HEAD + text + _TAIL),
        '# a: 03:01:01\nATTR{idVendor}=="1234", ATTR{idProduct}=="1234"',
    ),
    "control.ssh.pinned_keys.parse_pinned": (
        _encoded(lambda b: parse_pinned(b, "x")),
        "a,b ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n|1|YWE=|YWE= ssh-rsa AAAA",
    ),
    "policy.host_policy.HostPolicy.parse": (
        _encoded(HostPolicy.parse),
        '{"schema":1,"host":"a","serial":1,"flows":[{"direction":"in"}]}',
    ),
    "core.strict_json.strict_json": (
        _encoded(partial(strict_json, size=1 << 30)),
        '{"host":"\\u00e9","serial":[1]}',
    ),
    "host.listeners.parse": (lambda text: parse_listeners("tcp", text), _TCP),
    "host.kernel.audit_tail.parse_status": (_encoded(parse_status), "\x34\0\0\0"),
    "core.yaml_nodes.Reader": (
        lambda text: Reader("x", []).compose(text),
        "all:\n  hosts:\n    core-1: {role: core}\n  vars: [a, 'b', \"c\"]",
    ),
    "control.pki.certificates.read_request": (
        _encoded(lambda b: read_request(b, host="a")),
        "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----",
    ),
    "catalogue.compiled.from_json": (_encoded(lambda b: from_json(b, "x")), '{"checks":{}}'),
    "facts.wire.decode_request": (
        _encoded(lambda b: decode_request(b, {"sysctl"})),
        '{"nonce":"ab","probes":["sysctl"],"schema":1}',
    ),
    "facts.wire.decode_response": (_answered, "sekisho 0.1.0"),
    "evidence.verification": (
        _encoded(lambda b: verify(Stored({MANIFEST: b}))),
        '{"files":{"a":{"bytes":1,"sha256":"0"}},"kind":"sekisho-evidence","schema":1}',
    ),
    "bounds.json_within": (_encoded(json_within), '{"a\\"b":[1,"\\\\"]}'),
    "errors.printable": (printable, "a"),
}
#: Parsers of one value or one line that their module's own reader above hands on, bounded.
WITHIN = {
    "probes": "each is reached through its probe's parse, which is in the other table",
}
_spent = {"s": 0.0}


def _parsers() -> set[str]:
    """Return every public function of the tree that is named a parser and takes text or bytes."""
    found = set()
    for path in sorted(ROOT.rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if (
                isinstance(node, ast.FunctionDef)
                and re.match(r"(parse|decode|skim|strict|read_request)", node.name)
                and node.args.args
                and node.args.args[0].arg not in {"name", "where"}  # of values parsed before
                and node.args.args[0].annotation is not None
                and ast.unparse(node.args.args[0].annotation) in {"bytes", "str"}
            ):
                found.add(f"{module}.{node.name}")
    return found


def test_every_parser_of_the_tree_is_in_a_table() -> None:
    parsers = _parsers()
    assert len(parsers) > 20, "the parsers of the tree were not found"
    assert {
        name for name in parsers - set(READERS) if name.partition(".")[0] not in WITHIN
    } == set()


@pytest.mark.parametrize("name", sorted(READERS))
def test_a_reader_reads_in_proportion(name: str) -> None:
    reader, seed = READERS[name]
    began = time.process_time()
    slow: dict[str, str] = {}
    for (what, big), (_, small) in zip(texts(seed, BIG), texts(seed, SMALL), strict=True):
        if told := too_much(partial(reader, small), partial(reader, big)):
            slow[what] = told
    for unit in SEPARATORS:
        big, huge = partial(reader, repeated(unit, BIG)), partial(reader, repeated(unit, HUGE))
        if too_much(big, huge):
            slow[f"1 MiB of {unit!r}"] = "more than six times 256 KiB"
    _spent["s"] += time.process_time() - began
    assert slow == {}


def test_every_probe_has_a_well_formed_outcome_to_begin_with() -> None:
    missing = set(registry()) - set(SEEDS)
    assert missing == set(), "record an outcome: pytest -p recordoutcomes (tests/recordoutcomes.py)"
    for name, probe in registry().items():
        assert set(SEEDS[name]) >= set(probe.operations), f"{name}: record its outcome again"
        probe.parse(SEEDS[name])


@pytest.mark.parametrize("name", sorted(registry()))
def test_a_probe_reads_in_proportion(name: str) -> None:
    probe, seed = registry()[name], SEEDS[name]
    began = time.process_time()
    slow: dict[str, str] = {}
    for label in probe.operations:
        for (what, big), (_, small) in zip(
            outcomes(probe, seed, label, BIG), outcomes(probe, seed, label, SMALL), strict=True
        ):
            told = too_much(
                lambda small=small: probe.parse(small), lambda big=big: probe.parse(big)
            )
            if told:
                slow[f"{label}: {what}"] = told
        for unit in SEPARATORS[:9]:
            big = partial(probe.parse, whole(probe, seed, label, unit, BIG))
            huge = partial(probe.parse, whole(probe, seed, label, unit, HUGE))
            if too_much(big, huge):
                slow[f"{label}: 1 MiB of {unit!r}"] = "more than six times 256 KiB"
    small, big = everything(seed, SMALL), everything(seed, BIG)
    if told := too_much(lambda: probe.parse(small), lambda: probe.parse(big)):
        slow["all at once"] = told
    _spent["s"] += time.process_time() - began
    assert slow == {}


TWICE = 'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX a $GRUB_CMDLINE_LINUX"\n'


def _with(name: str, label: str, **texts: str) -> dict[str, Any]:
    seed = json.loads(json.dumps(SEEDS[name]))
    entry = {"mode": 0o644, "uid": 0, "gid": 0, "kind": "file"}
    for path, text in texts.items():
        seed[label]["files"]["/" + path.replace("__", ".").replace("_", "/")] = entry | {
            "text": text
        }
    return seed


@pytest.mark.parametrize(
    ("name", "label", "texts"),
    [
        # a value that names itself twice on each line: two to the thirtieth
        (
            "kernel-command-line",
            "cmdline",
            {"etc_default_grub": TWICE * 30},
        ),
        # each word of one line looked for among all of another
        (
            "kernel-command-line",
            "cmdline",
            {"boot_grub_grub__cfg": ("linux /vmlinuz " + "a b " * 60_000 + "\n") * 2},
        ),
        # each line reads another file once more
        (
            "shells",
            "files",
            {
                "etc_profile": "for i in /etc/profile.d/*.sh; do . $i; done\n" * 3000,
                "etc_bash__bashrc": "a\n" * 60_000,
            },
        ),
    ],
)
def test_what_grows_by_itself_is_bounded(name: str, label: str, texts: dict[str, str]) -> None:
    whole_outcome = _with(name, label, **texts)
    assert seconds(lambda: registry()[name].parse(whole_outcome)) < 2


def test_the_whole_table_has_a_bound() -> None:
    """A minute on a quiet machine; beside other work a second of processor time does less."""
    assert _spent["s"] < 240, _spent
