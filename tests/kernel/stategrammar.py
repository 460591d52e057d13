"""Random stateful rule sets and packets: what changes along a packet's way, kinds mixed.

Nearly every rule notes in a bit of the packet's mark whether it matched: the mark with which a
packet leaves says what all of them read, so that a packet that passes tells as much as one dropped.
"""

# ruff: noqa: E501, PLR0917
# rules of nft are shown whole, as are the parts of a base chain

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable
from typing import Any

#: Interfaces of the world; ``port0`` is a port of the bridge ``br0``.
IFACES = ("eth0", "eth1", "wan0")
PORT, BRIDGE = "port0", "br0"
#: Address → the interface it lies behind; "" is this host.
PLACES = {
    "10.0.1.1": "eth0", "10.0.1.200": "eth0", "172.16.3.4": "eth1", "172.16.3.5": "eth1",
    "8.8.8.8": "wan0", "192.168.7.7": BRIDGE, "10.0.0.1": "", "10.0.0.2": "",
    "fd00:1::5": "eth0", "fd00:2::5": "eth1", "2001:db8::9": "wan0", "fd00::1": "",
}  # fmt: skip
LOCAL = tuple(one for one, place in PLACES.items() if not place)
REMOTE = tuple(one for one, place in PLACES.items() if place)
#: By this bit of its mark a packet is routed by another table: to ``wan0``, whatever its address.
REROUTE = 0x10000
TAG = b"state\0"
HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_BUSY = ("prerouting", "prerouting", "forward", "forward", "postrouting", "output", "input")


class Draft:
    """A rule set in the making: tables, sets, chains and rules by name."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.sets: dict[tuple[str, str], list[str]] = {}
        self.chains: dict[tuple[str, str], dict[str, tuple[str, list[str]]]] = {}
        self.flags: dict[tuple[str, str], str] = {}
        self.used: set[tuple[str, int]] = set()
        self.bits: list[int] = []
        self.count = 0
        #: Connections whose packets a kind needs: (source, target, what).
        self.ends: list[tuple[str, str, str]] = []

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def table(self, family: str = "") -> tuple[str, str]:
        found = (family or self.pick(*["inet"] * 7, "ip"), self.pick("t", "t", "u"))
        self.chains.setdefault(found, {})
        return found

    def priority(self, hook: str, low: int, high: int) -> int:
        """Return a priority nobody has at this hook: equal ones are a kind of their own."""
        while True:
            found = self.rng.randint(low, high)
            if (hook, found) not in self.used and found not in {-400, -300, -200, -199, -100, 100}:
                self.used.add((hook, found))
                return found

    def base(
        self,
        hook: str,
        priority: int,
        kind: str = "filter",
        policy: str = "accept",
        family: str = "",
        table: tuple[str, str] | None = None,
        device: str = "",
    ) -> list[str]:
        """Return the rules of a new base chain, to fill."""
        table = table or self.table(family)
        self.count += 1
        head = f"type {kind} hook {hook} {device}priority {priority}; policy {policy};"
        rules: list[str] = []
        self.chains.setdefault(table, {})[f"b{self.count}"] = (head, rules)
        return rules

    def filter(
        self, hook: str, low: int = -150, high: int = 90, policy: str = "accept"
    ) -> list[str]:
        return self.base(hook, self.priority(hook, low, high), policy=policy)

    def anywhere(self) -> list[str]:
        return self.filter(self.pick(*_BUSY))

    def early(self) -> list[str]:
        """Return a chain before connection tracking."""
        hook = self.pick("prerouting", "prerouting", "output")
        return self.base(hook, self.pick(-300, self.priority(hook, -390, -201)))

    def bit(self) -> int:
        self.bits.append(1 << len(self.bits) % 16)
        return self.bits[-1]

    def note(self, condition: str, verdicts: float = 0.12) -> str:
        """Return a rule that notes that a condition held, or sometimes decides by it."""
        if self.rng.random() < verdicts:
            return f"{condition} {self.pick('accept', 'accept', 'drop')}"
        return f"{condition} meta mark set meta mark or {self.bit():#x}"

    def narrow(self) -> str:
        """Return a condition that some packets meet."""
        return str(self.pick(
            "", "", "", "", "udp dport 53", "tcp dport 22", "meta l4proto udp", "meta l4proto tcp",
            "meta length < 100", "ip ttl 64", "ip saddr 10.0.1.0/24"))  # fmt: skip

    def text(self) -> str:
        parts = []
        for table, chains in self.chains.items():
            body = [f"flags {self.flags[table]};"] if table in self.flags else []
            body += self.sets.get(table, [])
            # A chain that is jumped to stands before the one that jumps.
            for name, (head, rules) in sorted(chains.items(), key=lambda one: bool(one[1][0])):
                body.append("\n".join([f"chain {name} {{ {head}", *rules, "}"]))
            parts.append("\n".join([f"table {' '.join(table)} {{", *body, "}"]))
        return "\n".join(parts) + "\n"


def wildcard(draft: Draft) -> None:
    """Interfaces by wildcard; in sets nft lists their intervals wrongly."""
    rules = draft.anywhere()
    side = draft.pick("iifname", "oifname")
    sets = ('{ "eth0*", "eth1" }', '{ "eth*", "wan0" }', '{ "eth1*", "eth2*" }', '{ "e*", "w*" }')
    for _ in range(2):
        rules.append(draft.note(f"{side} {draft.pick('', '', '!= ')}{draft.pick(*sets)}"))


def name(draft: Draft) -> None:
    """Interfaces by name, one wildcard at most."""
    rules = draft.anywhere()
    for _ in range(2):
        one = draft.pick('"eth*"', '"wan*"', '"eth0"', '{ "eth0", "wan0" }', '"br*"')
        rules.append(draft.note(f"{draft.pick('iifname', 'oifname')} {draft.pick('', '!= ')}{one}"))


def missing(draft: Draft) -> None:
    """Options and headers that are there or not, of packets that can and cannot have them."""
    rules = draft.anywhere()
    for _ in range(draft.pick(2, 3)):
        rules.append(draft.note(draft.pick(
            "tcp option maxseg missing", "tcp option maxseg missing", "tcp option sack-perm missing",
            "tcp option timestamp missing", "tcp option window missing", "sctp chunk data missing",
            "tcp option maxseg exists", "tcp option maxseg size 1460", "tcp option maxseg size != 1460",
            "exthdr hbh missing", "exthdr dst missing", "exthdr dst exists", "exthdr frag missing",
            "ip option rr missing", "ip option ra missing", "ip option ra exists")))  # fmt: skip


_FIELDS = (
    ("ip ttl", 13, 64), ("ip dscp", "cs3", "cs0"), ("ip ecn", "ce", "not-ect"), ("ip length", 40, 60),
    ("ip daddr", "8.8.8.8", "172.16.3.4"), ("ip saddr", "10.0.0.2", "10.0.1.1"), ("tcp dport", 22, 80),
    ("udp dport", 99, 53), ("udp length", 8, 40), ("tcp doff", 5, 6), ("tcp window", 0, 1000),
    ("tcp flags", "ack", "syn"), ("udp sport", 7, 5000), ("ip6 hoplimit", 9, 64), ("icmp type", 0, 8),
    ("ip6 daddr", "2001:db8::9", "fd00:2::5"), ("icmp id", 9, 1), ("ip frag-off", 0x4000, 0),
)  # fmt: skip


def leaving(draft: Draft) -> None:
    """Header fields rewritten, most on the way out: a packet leaves as another than it came."""
    hook = draft.pick("postrouting", "postrouting", "output", "forward", "input", "prerouting")
    rules = draft.filter(hook)
    for _ in range(draft.pick(1, 2)):
        field, new, old = draft.pick(*_FIELDS)
        rules.append(f"{draft.pick('', '', f'{field} {old}', draft.narrow())} {field} set {new}")
        if draft.chance(0.6):
            rules.append(draft.note(f"{field} {draft.pick(new, old)}"))
    if draft.chance(0.3):
        rules.append(draft.note(f"meta length {draft.pick('<', '>')} {draft.pick(40, 60, 100)}"))


def equal(draft: Draft) -> None:
    """Base chains of one priority, in tables and families of whichever order."""
    hook = draft.pick("prerouting", "forward", "forward", "postrouting", "output")
    priority = draft.priority(hook, -150, 90)
    first, second = draft.bit(), draft.bit()
    chains = [draft.base(hook, priority, family=draft.pick("inet", "ip", "inet", "ip6" if draft.chance(0.2)
              else "ip"), policy=draft.pick("accept", "accept", "accept", "drop")
              if draft.chance(0.1) else "accept") for _ in range(draft.pick(2, 2, 3))]  # fmt: skip
    chains[0].append(f"meta mark set meta mark or {first:#x}")
    for other in chains[1:]:
        other.append(draft.pick(
            f"meta mark & {first:#x} == 0 meta mark set meta mark or {second:#x}",
            f"meta mark & {first:#x} != 0 meta mark set meta mark or {second:#x}",
            f"meta mark & {first:#x} == {draft.pick(0, first):#x} accept",
            f"meta mark & {second:#x} == 0 meta mark & {first:#x} == 0 meta mark set meta mark or {draft.bit():#x}",
        ))  # fmt: skip


def twice(draft: Draft) -> None:
    """A chain jumped to twice whose rules need not match each time."""
    table = draft.table()
    hook = draft.pick("forward", "forward", *HOOKS)
    rules = draft.base(hook, draft.priority(hook, -150, 90), table=table)
    name = f"s{draft.count}"
    one, two = draft.bit(), draft.bit()
    chancy = draft.pick(
        "limit rate over 1/hour burst 1 packets", "limit rate 1/hour burst 1 packets", "@dyn",
        "quota over 50 bytes", "numgen inc mod 2 0", "limit rate over 1/hour burst 1 packets", "@dyn",
        "quota 50 bytes", "add")  # fmt: skip
    fill = ""
    if chancy in ("@dyn", "add"):
        kept = f"dyn{draft.count}"
        draft.sets.setdefault(table, []).append(
            f"set {kept} {{ type ipv4_addr; size {draft.pick(1, 64)}; flags dynamic; }}")  # fmt: skip
        way = draft.pick("add", "update")
        fill = f"{way} @{kept} {{ ip saddr }}"
        chancy = f"ip saddr {draft.pick('', '!= ')}@{kept}"
    body = [f"{chancy} meta mark set meta mark or {one:#x} {draft.pick('return', '', 'return')}",
            f"meta mark set meta mark or {two:#x}"]  # fmt: skip
    draft.chains[table][name] = ("", [*body, fill] if fill else body)
    go = draft.pick(
        f"jump {name}", f"jump {name}", f"udp dport vmap {{ 53 : jump {name}, 99 : jump {name} }}"
    )
    rules += [go, *([draft.note(draft.narrow())] if draft.chance(0.3) else []), go]
    if draft.chance(0.3):
        rules.append(f"meta mark & {one | two:#x} == {draft.pick(one, two, one | two):#x} accept")


def notrack(draft: Draft) -> None:
    """``notrack`` before and behind connection tracking, and the state as it is then read."""
    state = ("ct state untracked", "ct state invalid", "ct state new", "ct state untracked",
             "ct state established,new", "ct state != untracked")  # fmt: skip
    for rules in draft.pick([draft.early()], [draft.anywhere()], [draft.early(), draft.anywhere()]):
        rules.append(f"{draft.narrow()} notrack")
        rules += [draft.note(draft.pick(*state)) for _ in range(2)]
    if draft.chance(0.6):
        draft.anywhere().append(draft.note(draft.pick(*state)))


def zone(draft: Draft) -> None:
    """``ct zone set`` before connection tracking."""
    rules = draft.early()
    rules.append(f"{draft.narrow()} ct zone set {draft.pick(1, 5)}")
    more = ["notrack", draft.note("ct state new"), draft.note("ct state invalid"),
            draft.note("ct state untracked"), draft.note("ct zone 5"), draft.note("ct direction original")]  # fmt: skip
    draft.rng.shuffle(more)
    rules += more[:3]
    if draft.chance(0.6):
        late = draft.anywhere()
        late += [
            draft.note(draft.pick("ct state untracked", "ct zone 5", "ct state new", "ct zone 0"))
        ]


def connection(draft: Draft) -> None:
    """What a connection carries, changed between two readings."""
    rules = draft.anywhere()
    more = draft.pick(
        ["ct mark 0", "SET ct mark set 2", "ct mark 2", "ct mark 0"],
        ["ct mark 2", "SET ct mark set 2", "ct mark 2", "ct mark != 2"],
        ["ct mark 0", "SET ct mark set meta mark", "ct mark 0"],
        ["ct label 3", "SET ct label set 3", "ct label 3"],
        ["ct mark != 0", "SET ct mark set ct mark or 1", "ct mark & 1 == 1"],
    )
    rules += [one[4:] if one.startswith("SET ") else draft.note(one, 0.05) for one in more]
    status = ("ct status dnat", "ct status snat", "ct status confirmed", "ct status seen-reply",
              "ct status assured", "ct state established", "ct direction reply")  # fmt: skip
    if draft.chance(0.6):
        one = draft.pick(*status)
        for _ in range(2):
            draft.anywhere().append(draft.note(one))
    if draft.chance(0.2):
        rules.append("ct mark vmap { 0 : continue, 1 : accept, 2 : continue }")
        rules.append(draft.note(""))


def nat(draft: Draft) -> None:
    """Chains of type nat at whatever priority, asked of a connection's first packet."""
    hook = draft.pick("prerouting", "prerouting", "output", "postrouting", "input")
    source = hook in ("postrouting", "input")
    for _ in range(draft.pick(1, 1, 2)):
        family = draft.pick("ip", "inet")
        priority = draft.pick(draft.priority(hook, -190, 190), draft.pick(-100, 100, 10, 0))
        rules = draft.base(hook, priority, kind="nat", family=family,
                           policy=draft.pick("accept", "accept", "accept", "drop"))  # fmt: skip
        ip = "" if family == "ip" else "ip "
        address = draft.pick("172.16.3.5", "8.8.8.8", "10.0.0.2", "10.0.1.200", "172.16.3.4")
        port = draft.pick("", "", ":99", ":22")
        if source:
            if port:
                port = ":7000"
            act = f"snat {ip}to {draft.pick('10.0.0.2', '9.9.9.9')}{port}"
            if hook == "postrouting":
                act = draft.pick(act, act, "masquerade")
        else:
            act = draft.pick(f"dnat {ip}to {address}{port}", f"dnat {ip}to {address}{port}",
                             "redirect to :99" if port else "redirect")  # fmt: skip
        if port or "redirect to" in act:
            act = f"meta l4proto {draft.pick('udp', 'tcp')} {act}"
        if draft.chance(0.7):
            rules.append(draft.note(draft.pick("", draft.narrow()), 0))
        if draft.chance(0.3):
            rules.append(f"meta length < {draft.pick(50, 100)} accept")
        rules.append(f"{draft.pick('', '', 'meta length < 60', 'udp dport 53')} {act}")
    if draft.bits:
        for _ in range(draft.pick(1, 2)):
            bit = draft.pick(*draft.bits[-2:])
            draft.filter(hook).append(
                draft.note(f"meta mark & {bit:#x} == {draft.pick(0, bit):#x}")
            )
    draft.anywhere().append(draft.note(draft.pick(
        "ct status dnat", "ip daddr 172.16.3.5", "ct status snat", "udp dport 99", "ip saddr 9.9.9.9")))  # fmt: skip


def beside(draft: Draft) -> None:
    """Fields that a rewriting changes besides the one it names."""
    hook = draft.pick("forward", "forward", "postrouting", "output", "prerouting")
    rules = draft.filter(hook)
    before, write, after = draft.pick(
        ("udp checksum & 0x8000 == 0", "udp dport set 99", "udp checksum & 0x8000 == 0"),
        ("udp checksum & 0x1 == 0", "ip saddr set 10.0.0.2", "udp checksum & 0x1 == 0"),
        ("tcp checksum & 0x8000 != 0", "tcp dport set 80", "tcp checksum & 0x8000 != 0"),
        ("ip checksum > 0x7fff", "ip dscp set cs7", "ip checksum > 0x7fff"),
        ("ip checksum & 1 == 0", "ip ttl set 77", "ip checksum & 1 == 0"),
        (
            "tcp option maxseg size 1460",
            "tcp option maxseg size set 1360",
            "tcp option maxseg size 1360",
        ),
        (
            "tcp option maxseg size 1460",
            "tcp option maxseg size set 1000",
            "tcp option maxseg size 1460",
        ),
        ("icmp checksum & 0x8000 == 0", "icmp id set 77", "icmp checksum & 0x8000 == 0"),
    )
    rules += [draft.note(before), write, draft.note(after)]
    if draft.chance(0.5):
        later = draft.filter(hook, 91, 99)
        later.append(draft.note(after))


def protocol(draft: Draft) -> None:
    """The protocol or header length rewritten: the chain goes on by what it had found before."""
    hook = draft.pick("forward", "forward", "postrouting", "output", "prerouting", "input")
    rules = draft.filter(
        hook,
        *draft.pick((-390, -201), (-150, 90)) if hook in ("prerouting", "output") else (-150, 90),
    )
    conditions = ("meta l4proto tcp", "meta l4proto udp", "udp dport 53", "tcp dport 22", "udp dport 22",
                  "tcp dport 53", "udp length > 20", "@th,16,16 53")  # fmt: skip
    rules.append(draft.pick("ip protocol set 17", "ip protocol set 6", "ip protocol 6 ip protocol set 17",
                            "ip hdrlength set 6", "ip protocol set 17", "ip protocol 17 ip protocol set 6"))  # fmt: skip
    rules += [draft.note(draft.pick(*conditions)) for _ in range(2)]
    draft.filter(hook, 91, 99).append(draft.note(draft.pick(*conditions)))


def shift(draft: Draft) -> None:
    """Marks computed by shifts."""
    rules = draft.anywhere()
    rules.append(draft.pick(
        "meta mark set ip dscp << 2", "meta mark set ip dscp << 4", "meta mark set meta mark << 1",
        "meta mark set meta mark >> 1", "meta mark set meta mark << 4", "ct mark set ip dscp << 2",
        "meta mark set ct mark << 1"))  # fmt: skip
    rules.append(
        draft.note(
            draft.pick("meta mark & 0xfc == 0xfc", "meta mark & 0xc0 == 0", "meta mark > 0xff")
        )
    )


def route(draft: Draft) -> None:
    """The way out changes behind the first routing: by a mark, or by another destination."""
    if draft.chance(0.6):
        rules = draft.base("output", draft.priority("output", -190, 90), kind="route")
        rules.append(f"{draft.narrow()} meta mark set meta mark or {REROUTE:#x}")
    elif draft.chance(0.5):
        rules = draft.base("output", draft.pick(-100, 10), kind="nat", family="ip")
        rules.append(
            f"{draft.narrow()} dnat to {draft.pick('8.8.8.8', '172.16.3.5', '10.0.1.200')}"
        )
    else:
        draft.filter("prerouting").append(
            f"{draft.narrow()} meta mark set meta mark or {REROUTE:#x}"
        )
    for hook in ("output", "postrouting"):
        rules = draft.filter(hook)
        rules.append(
            draft.note(f"oifname {draft.pick('', '!= ')}{draft.pick('eth0', 'eth1', 'wan0')}")
        )


def bridge(draft: Draft) -> None:
    """The way in is a port at ingress and its bridge behind it."""
    device = draft.pick(PORT, PORT, "eth0", BRIDGE)
    family = draft.pick("netdev", "inet")
    rules = draft.base("ingress", draft.priority("ingress", -150, 90), device=f'device "{device}" ',
                       table=(family, "dev"))  # fmt: skip
    rules.append(draft.note(f'iifname "{draft.pick(PORT, BRIDGE)}"'))
    rules.append(
        draft.note(draft.pick('iifname "eth0"', f'iifname "{PORT}"', "meta mark 0", "ip ttl 64"))
    )
    if draft.chance(0.4):
        rules.append(f"ip ttl set {draft.pick(50, 64)}")
    later = draft.filter(draft.pick("prerouting", "forward", "input"))
    later.append(draft.note(f'iifname "{draft.pick(PORT, BRIDGE, BRIDGE)}"'))


def dormant(draft: Draft) -> None:
    """Tables that filter nothing while they are dormant."""
    table = (draft.pick("inet", "ip"), "z")
    draft.flags[table] = "dormant"
    for hook in draft.rng.sample(HOOKS, 2):
        rules = draft.base(hook, draft.priority(hook, -150, 90), table=table,
                           policy=draft.pick("drop", "accept"))  # fmt: skip
        rules.append(draft.note(draft.narrow(), 0.4))


def loop(draft: Draft) -> None:
    """What a packet keeps when it comes back by the loopback: its mark and its connection."""
    draft.filter(draft.pick("output", "postrouting")).append(draft.note(draft.narrow(), 0))
    rules = draft.base("prerouting", draft.priority("prerouting", -390, -201))
    rules.append(draft.note(draft.pick("ct state new", "ct state invalid", "ct state established")))
    rules.append(draft.note(f"meta mark {draft.pick('', '!= ')}0"))
    rules.append(draft.note("iifname lo"))


def renamed(draft: Draft) -> None:
    """Packets rewritten before tracking, which then knows them by another connection's name."""
    source, was, now = draft.pick(
        ("10.0.1.1", "172.16.3.4", "172.16.3.5"), ("172.16.3.4", "10.0.1.1", "8.8.8.8")
    )
    kind, bit = draft.pick("udp", "udp", "tcp"), draft.bit()
    early = draft.base("prerouting", draft.pick(-300, -250, -210), family="inet")
    early += [
        f"ip daddr {was} meta mark set meta mark or {bit:#x}",
        f"ip daddr {was} ip daddr set {now}",
    ]
    draft.filter("forward").append(f"ct state new meta mark & {bit:#x} != 0 drop")
    # Routing is open to the model: no first packet by that name may come by any other way.
    for hook, condition in (
        ("prerouting", f"ct state new meta mark & {bit:#x} != 0"),
        ("output", f"ip saddr {source}"),
    ):
        draft.base(hook, -195, table=("inet", "t")).append(f"{condition} drop")
    draft.ends += [(source, now, kind), (source, now, kind), (source, was, kind)]


#: Section 1's kinds by name (those that hide behind one listing fault are chosen less often).
KINDS: dict[str, tuple[Callable[[Draft], None], float]] = {
    "wildcard set": (wildcard, 0.5), "interface name": (name, 0.7), "missing": (missing, 1),
    "leaving": (leaving, 1.2), "equal priority": (equal, 1), "visited twice": (twice, 1),
    "notrack": (notrack, 1), "zone": (zone, 1), "connection": (connection, 1), "nat": (nat, 1.5),
    "changed besides": (beside, 1), "protocol": (protocol, 1), "shift": (shift, 0.7),
    "route": (route, 1), "bridge": (bridge, 0.7), "dormant": (dormant, 0.6), "loopback": (loop, 0.6), "renamed": (renamed, 0.6),
}  # fmt: skip


def made(seed: int, count: int) -> dict[str, Any]:
    """Return rule set number ``seed`` with ``count`` packets: text, kinds and packets."""
    draft = Draft(seed)
    names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
    kinds: list[str] = []
    wanted = draft.pick(1, 2, 2, 3, 3, 4)
    while len(kinds) < wanted:
        (one,) = draft.rng.choices(names, weights)
        if one not in kinds:
            kinds.append(one)
    for one in kinds:
        KINDS[one][0](draft)
    if draft.chance(0.5) and draft.bits:
        for hook in draft.rng.sample(HOOKS, 2):
            bits = draft.pick(*draft.bits) | (draft.pick(*draft.bits) if draft.chance(0.3) else 0)
            gate = draft.filter(hook, 150, 190, policy="drop")
            gate += [f"meta mark & {bits:#x} == {draft.pick(0, bits):#x} accept",
                     *([f"meta length {draft.pick('<', '>')} 70 accept"] if draft.chance(0.5) else [])]  # fmt: skip
    return {
        "seed": seed,
        "kinds": kinds,
        "text": draft.text(),
        "packets": Packets(draft).listed(count),
    }


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


class Packets:
    """Packets of few connections, so that second packets and replies are among them."""

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.short = False

    def listed(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        ends = list(self.draft.ends)
        for number in range(1, count + 1):
            if ends and self.draft.chance(0.55):
                source, target, kind = self.draft.pick(*ends)
                if self.draft.chance(0.4):
                    source, target = target, source
                    kind = {"udp": "udp back", "tcp": "tcp back", "echo": "echo back"}.get(
                        kind, kind
                    )
            else:
                source, target, kind = self.ends()
                ends.append((source, target, kind))
            found.append(self.packet(source, target, kind, number))
        return found

    def ends(self) -> tuple[str, str, str]:
        pick = self.draft.pick
        six = self.draft.chance(0.12)
        near = [one for one in LOCAL if (":" in one) == six]
        far = [one for one in REMOTE if (":" in one) == six]
        way = pick(*["forward"] * 6, "output", "output", "input", "input", "loop")
        source = pick(*(near if way in ("output", "loop") else far))
        target = pick(
            *(near if way in ("input", "loop") else [one for one in far if one != source])
        )
        kind = pick("udp", "udp", "udp", "tcp", "tcp", "tcp", "echo", "sctp", "short")
        return source, target, kind

    def packet(self, source: str, target: str, kind: str, number: int) -> dict[str, Any]:
        tag = TAG + bytes([number])
        six = ":" in source
        if kind == "short" and self.short:
            kind = "udp"
        number6, body = self.body(kind, tag, six=six)
        self.short = self.short or kind == "short"
        head = (self.six if six else self.four)(source, target, number6, body, number)
        mark = 0
        if not PLACES.get(source, "") and self.draft.chance(0.2):
            mark = self.draft.pick(0x1, 0x2, REROUTE)
        return {"number": number, "from": PLACES.get(source, ""), "to": PLACES.get(target, ""),
                "bytes": head.hex(), "mark": mark, "short": kind == "short"}  # fmt: skip

    def body(self, kind: str, tag: bytes, *, six: bool) -> tuple[int, bytes]:
        pick = self.draft.pick
        back = kind.endswith(" back")
        payload = b"p" * (12 + pick(0, 0, 1, 20, 100)) + tag
        if kind.startswith("udp"):
            ports = (53, 5000) if back else (5000, pick(53, 53, 53, 99))
            return 17, struct.pack("!HHHH", *ports, 8 + len(payload), pick(0, 1)) + payload
        if kind.startswith("echo"):
            first = (129 if back else 128) if six else (0 if back else 8)
            return 58 if six else 1, struct.pack("!BBHHH", first, 0, 0, 1, 1) + payload
        if kind == "sctp":
            return 132, struct.pack("!HHII", 5000, 22, 0, 0) + bytes(
                [pick(0, 1), 0, 0, 16]) + payload + b"\0" * (-len(payload) % 4)  # fmt: skip
        options = pick(b"", b"\x02\x04\x05\xb4", b"\x02\x04\x05\xb4\x01\x01\x04\x02", b"\x01" * 4)
        ports = (22, 5000) if back else (5000, pick(22, 22, 22, 80))
        flags = pick(0x12, 0x10) if back else pick(2, 2, 0x10, 0x18, 4)
        head = struct.pack("!HHIIBBHHH", *ports, pick(1, 2000), 1, (5 + len(options) // 4) << 4, flags,
                           pick(1000, 65535), 0, 0)  # fmt: skip
        if kind == "short":
            return 6, head[: pick(8, 12, 16)]
        return 6, head + options + payload

    def four(self, source: str, target: str, protocol: int, body: bytes, number: int) -> bytes:
        options = b"\x94\x04\0\0" if self.draft.chance(0.06) else b""
        addresses = socket.inet_aton(source) + socket.inet_aton(target)
        body = summed(body, protocol, addresses)
        head = struct.pack(
            "!BBHHHBBH", 0x45 + len(options) // 4, self.draft.pick(0, 0, 0x20, 0xFC),
            20 + len(options) + len(body), number, self.draft.pick(0, 0x4000),
            self.draft.pick(64, 64, 64, 20), protocol, 0) + addresses + options  # fmt: skip
        return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + body

    def six(self, source: str, target: str, protocol: int, body: bytes, number: int) -> bytes:
        addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
            socket.AF_INET6, target
        )
        body, following = summed(body, protocol, addresses), protocol
        if self.draft.chance(0.15):
            body, following = bytes([protocol, 0, 1, 4, 0, 0, 0, 0]) + body, 60
        return (
            struct.pack("!IHBB", 0x60000000 | number, len(body), following, 64) + addresses + body
        )


def summed(body: bytes, protocol: int, addresses: bytes) -> bytes:
    """Return a transport header and payload with its checksum (UDP's may be left at none)."""
    place = {6: 16, 17: 6, 1: 2, 58: 2}.get(protocol)
    if place is None or len(body) < place + 2 or (protocol == 17 and not body[7]):
        return body
    body = body[:place] + b"\0\0" + body[place + 2 :]
    pseudo = b"" if protocol == 1 else addresses + struct.pack("!HH", protocol, len(body))
    return body[:place] + (checksum(pseudo + body) or 0xFFFF).to_bytes(2, "big") + body[place + 2 :]
