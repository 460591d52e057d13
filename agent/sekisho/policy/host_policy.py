"""`HostPolicy`: the one signed document that root acts on, parsed once, frozen, and written back.

The site's compiler builds one and writes it (`HostPolicy.as_json`); whatever acts on a host reads
it (`HostPolicy.parse`). The dataclass is the document's only definition. Pure.

Versions. A document says its ``schema``. Its keys are exactly those of this class; what an older
compiler of the same schema did not write yet stands in `DEFAULTS`, and nothing else may be absent.
A key that is not known here is refused, whoever wrote it: root acts on the document, and a key that
an agent does not know may be the one that forbids something. So a compiler that gives a policy
another key raises `SCHEMA` and puts the key's value for older documents into `DEFAULTS`; an older
agent then refuses the document and says that it has to be updated, and the policy before stays in
force (`sekisho.host.policy_store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sekisho.core.canonical import canonical
from sekisho.core.errors import SekishoError, printable
from sekisho.core.names import IFNAME, Console, Role
from sekisho.core.strict_json import strict_json
from sekisho.devices.boot_line import WORD as BOOT_WORD
from sekisho.devices.disks import Disk, parse_disks
from sekisho.devices.pci import FUNCTION, MAX_FUNCTIONS, twice
from sekisho.devices.policy import Rule, parse_devices
from sekisho.policy.forms import (
    Defects,
    Many,
    Named,
    Null,
    Record,
    Ruleset,
    Sealed,
    Tagged,
    Text,
    Whole,
    Whose,
    Word,
    keys_of,
    of,
    record,
    unknown_keys,
)
from sekisho.policy.parts import (
    CARD,
    HOST,
    NAMED,
    PERSON,
    PHRASES,
    Account,
    AccountLists,
    ConsoleProof,
    DeclaredLine,
    Derived,
    Flow,
    Hop,
    Identity,
    Interface,
    Line,
    Listener,
    Management,
    Metrics,
    Modules,
    Orders,
    Passage,
    Route,
    Session,
    Time,
    Tunnel,
    Way,
    choice,
)

SCHEMA = 1
#: Bytes; a policy of a thousand peers has some 3 MB.
MAX_BYTES = 8 * 1024 * 1024
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
#: Serial numbers have at most 18 digits; 0 is a policy that nobody signed (an audit's own).
MAX_SERIAL = 10**18 - 1
ITEM = "6-iv-a"
_HOP = Record(Hop)


class _Functions(Many):
    """PCI functions, each place once."""

    def read(self, value: Any, at: str, defects: Defects) -> Any:
        """Return the functions."""
        found = super().read(value, at, defects)
        texts = [one for one in found if isinstance(one, str)]
        if (place := twice(texts)) is not None:
            defects.add(at, place, "each place once")
        return found


@record
class HostPolicy:
    """Everything the site says of one host; each part is described at its own class.

    Attributes:
        schema: the document's version.
        serial: larger is newer; 0: nobody signed it.
        issued: when it was issued, UTC, RFC 3339.
        flows: the declared one-way hops at this host.
        boot: the words its kernel's command line may hold.
        orders: who may sign orders.
        listeners: every socket that may wait on an address other than the loopback's.
        nftables: the packet filter, as libnftables JSON.
        nftables_digest: digest of the rules as they are read back.
        declared: way → what may pass there, for the prover.
        macs, addresses, networks, hops, ssh_from, sockets, everywhere, line_ends, line_flows,
            line_policies, line_hops, tunnel_cards, tunnel_peers, tunnel_ends, tunnel_sockets,
            desk_in, desk_out: the same facts as flat lists, for checks to compare with probes.
        left_out: keys that the document does not have; their values here are `DEFAULTS`.

    """

    schema: int = of(Whole(1, SCHEMA))
    site: str = of(NAMED)
    profile: str = of(choice("producer", "entrusted"))
    serial: int = of(Whole(0, MAX_SERIAL))
    issued: str = of(
        Text(
            r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
            r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z",
            "a time such as 2030-03-31T12:00:00Z",
        )
    )
    host: str = of(HOST)
    role: Role = of(Word(Role))
    identity: Identity = of(Record(Identity))
    management: Management = of(Record(Management))
    interfaces: Mapping[str, Interface] = of(Named(IFNAME, CARD.expected, Record(Interface)))
    routes: tuple[Route, ...] = of(Many(Record(Route)))
    flows: tuple[Flow, ...] = of(
        Many(Tagged("direction", {"in": _HOP, "out": _HOP, "forward": Record(Passage)}))
    )
    lines: tuple[Line, ...] = of(Many(Record(Line)))
    tunnels: tuple[Tunnel, ...] = of(Many(Record(Tunnel)))
    sessions: tuple[Session, ...] = of(Many(Record(Session)))
    accounts: Mapping[str, Account] = of(Named(PERSON, "a person of the site", Record(Account)))
    devices: tuple[Rule, ...] = of(Whose(parse_devices))
    devices_mode: str = of(choice("enforce", "dry-run"))
    disks: tuple[Disk, ...] = of(Whose(parse_disks))
    pci: tuple[str, ...] = of(
        _Functions(
            Text(FUNCTION, "a place and numbers such as 0000:00:1f.2 8086:a102"),
            most=MAX_FUNCTIONS,
        )
    )
    boot: tuple[str, ...] = of(Many(Text(BOOT_WORD, "a word of the kernel's command line")))
    console: Console = of(Word(Console))
    console_proof: ConsoleProof | None = of(Null(Record(ConsoleProof)))
    orders: Orders = of(Record(Orders))
    modules: Modules = of(Record(Modules))
    time: Time = of(Record(Time))
    metrics: Metrics = of(Record(Metrics))
    listeners: tuple[Listener, ...] = of(Many(Record(Listener)))
    macs: tuple[str, ...] = of(PHRASES)
    addresses: tuple[str, ...] = of(PHRASES)
    networks: tuple[str, ...] = of(PHRASES)
    hops: tuple[str, ...] = of(PHRASES)
    ssh_from: tuple[str, ...] = of(PHRASES)
    sockets: tuple[str, ...] = of(PHRASES)
    everywhere: tuple[str, ...] = of(PHRASES)
    line_ends: tuple[str, ...] = of(PHRASES)
    line_flows: tuple[str, ...] = of(PHRASES)
    line_policies: tuple[str, ...] = of(PHRASES)
    line_hops: tuple[str, ...] = of(PHRASES)
    tunnel_cards: tuple[str, ...] = of(PHRASES)
    tunnel_peers: tuple[str, ...] = of(PHRASES)
    tunnel_ends: tuple[str, ...] = of(PHRASES)
    tunnel_sockets: tuple[str, ...] = of(PHRASES)
    desk_in: tuple[str, ...] = of(PHRASES)
    desk_out: tuple[str, ...] = of(PHRASES)
    derived: Derived = of(Record(Derived))
    nftables: Sealed = of(Ruleset())
    nftables_digest: str = of(Text(r"[0-9a-f]{64}", "a SHA-256 digest in lower-case hex"))
    declared: Mapping[str, Way] = of(
        Named("input|output|forward", "input, output or forward", Record(Way))
    )
    left_out: frozenset[str] = frozenset()

    @classmethod
    def parse(
        cls, raw: bytes | Mapping[str, Any], where: str = "policy.json", *, form: bool = False
    ) -> HostPolicy:
        """Return the policy of a document; the same as `as_json` wrote it, or an older compiler.

        Who signed it, for which host, and whether it is the newest, are asked elsewhere
        (`sekisho.host.policy_store.prove`).

        Args:
            raw: the document's bytes, or its value.
            where: names it in errors.
            form: whether only the canonical form of JSON will do, the one that is signed.

        Raises:
            SekishoError: every problem of it, each with its path (the first `MOST_PROBLEMS`).

        """
        defects = Defects(where, ITEM)
        value = _document(raw, defects, form=form)
        policy = None if defects.found else _read(value, defects)
        if policy is None or defects.found:
            raise SekishoError("the policy was refused", defects.problems())
        return policy

    def as_json(self) -> dict[str, Any]:
        """Return the document as plain JSON values, the caller's own: `canonical` of it is signed.

        What the parsed document did not have is not in it either. Of a document of this compiler it
        is the same, byte for byte; of an older one it may differ in the order of a device's
        interfaces, and in the columns of `DEFAULTS`.
        """
        return {
            one.name: one.form.write(getattr(self, one.name))
            for one in _KEYS
            if one.name not in self.left_out
        }

    def as_bytes(self) -> bytes:
        """Return the document's canonical bytes."""
        return canonical(self.as_json())

    def says(self, key: str) -> bool:
        """Return whether the document itself holds a key; else its value here is a default."""
        return key not in self.left_out


_KEYS = keys_of(HostPolicy)
_NAMES = frozenset(one.name for one in _KEYS)
_FLAT = (
    "macs addresses networks hops ssh_from sockets everywhere line_ends line_flows line_policies "
    "line_hops tunnel_cards tunnel_peers tunnel_ends tunnel_sockets desk_in desk_out"
)
_NO_LISTS = AccountLists(*((),) * len(keys_of(AccountLists)))

#: The last column of the declared lines' rows, as long as there was no encrypted line.
_ROW_END = "declared.*.lines[].ipsec"

#: Schema → key → what a document of an older compiler means that does not have it.
DEFAULTS: Mapping[int, Mapping[str, Any]] = {
    1: {
        **dict.fromkeys(_FLAT.split(), ()),
        "lines": (),
        "tunnels": (),
        "devices_mode": "enforce",
        "disks": (),
        "pci": (),
        "boot": (),
        "console_proof": None,
        "orders": Orders(MappingProxyType({})),
        "modules": Modules("off", (), "0"),
        "derived": Derived(_NO_LISTS),
        "declared": MappingProxyType({}),
        _ROW_END: "",
    }
}


def _document(raw: bytes | Mapping[str, Any], defects: Defects, *, form: bool) -> dict[str, Any]:
    """Return the document's value, bounded before it is parsed."""
    expected = "one JSON object in UTF-8"
    try:
        data = raw if isinstance(raw, bytes) else canonical(dict(raw))
        value = strict_json(data, size=MAX_BYTES, values=MAX_VALUES, depth=MAX_DEPTH, form=form)
    except (ValueError, TypeError, RecursionError) as bad:
        defects.said("", printable(str(bad)), expected)
        return {}
    if not isinstance(value, dict):
        defects.add("", value, expected)
        return {}
    schema = value.get("schema")
    if type(schema) is not int or schema not in DEFAULTS:
        words = ", ".join(map(str, DEFAULTS))
        defects.add("schema", schema, words, "update the agent: a newer compiler wrote this")
    return value


def _read(value: dict[str, Any], defects: Defects) -> HostPolicy:
    defaults = DEFAULTS[value["schema"]]
    unknown_keys(value, _NAMES, "", defects)
    if _ROW_END in defaults:
        _lengthen(value.get("declared"), defaults[_ROW_END])
    found: dict[str, Any] = {}
    for one in _KEYS:
        name = one.name
        if name in value:
            found[name] = one.form.read(value[name], name, defects)
        elif name in defaults:
            found[name] = defaults[name]
        else:
            defects.said(name, "nothing", "this key")
            found[name] = None
    return HostPolicy(**found, left_out=_NAMES.difference(value))


def _lengthen(declared: Any, end: str) -> None:
    """Give rows of before `_ROW_END` that column."""
    columns = len(keys_of(DeclaredLine))
    for way in declared.values() if isinstance(declared, dict) else ():
        rows = way.get("lines") if isinstance(way, dict) else None
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, list) and len(row) == columns - 1:
                row.append(end)
