"""A host's raw facts into what it routes by; what is not known is an error by name. Pure.

The facts are an evidence bundle's: ``ip -json`` listings, sysctls, ``ip xfrm`` as text. Every key
and word is either understood or refused: a multipath route, a rule by mark, a policy of a virtual
interface may change where a packet goes. Source: iproute2's ``iproute.c``, ``iprule.c``,
``ipxfrm.c``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

from sekisho.core.text import lines_of
from sekisho.probes.model import ProbeError, files, output
from sekisho.prover.constants import PROTOCOLS
from sekisho.prover.hostnet import (
    ANYWHERE,
    TABLES,
    Card,
    HostNet,
    Route,
    RoutingRule,
    XfrmPolicy,
)
from sekisho.prover.tables import UnknownConstructError

_ROUTE_KEYS = frozenset({"type", "dst", "gateway", "dev", "table", "protocol", "scope", "prefsrc",
                         "metric", "flags"})  # fmt: skip
_ROUTE_KINDS = ("unicast", "local", "broadcast", "blackhole", "unreachable", "prohibit", "throw",
                "multicast", "anycast")  # fmt: skip
_ROUTE_FLAGS = frozenset({"onlink", "dead", "linkdown"})
_RULE_KEYS = frozenset({"priority", "src", "srclen", "dst", "dstlen", "iif", "iif_detached",
                        "ipproto", "sport", "sport_start", "sport_end", "dport", "dport_start",
                        "dport_end", "table", "action", "not", "suppress_prefixlen",
                        "protocol"})  # fmt: skip
_RULE_ACTIONS = ("unreachable", "prohibit", "blackhole")
_CONF = "/proc/sys/net/ipv4/conf/"
_SELECTOR = re.compile(
    r"src (\S+) dst (\S+)(?: proto (\S+))?(?: sport (\d+))?(?: dport (\d+))?(?: dev (\S+))?\s*"
)
_DIRECTION = re.compile(
    r"\tdir (in|out|fwd)(?: action (block|allow))?(?: index \d+)? priority (\d+)(?: ptype main)?\s*"
)
_ENDS = re.compile(r"\ttmpl src (\S+) dst (\S+)\s*")
_TEMPLATE = re.compile(r"\t\tproto esp (?:spi \S+ )?reqid (\d+)(?:\(0x[0-9a-f]+\))? mode tunnel\s*")
_STATE = re.compile(r"src (\S+) dst (\S+)\s*")
_STATE_KIND = re.compile(r"\tproto (\S+) spi \S+ reqid (\d+)(?:\(0x[0-9a-f]+\))? mode (\S+)\s*")
#: What an association says besides that changes nothing about whom it serves.
_STATE_MORE = re.compile(
    r"\t(?:(?:replay-window|aead|auth-trunc|auth|enc|anti-replay|lastused|flag|dir|sel)\b|\s).*"
)


def read_net(probes: Mapping[str, Any], host: str) -> HostNet:
    """Return what a host routes by, from its raw facts by probe.

    Raises:
        UnknownConstructError: something is missing, garbled or not known; it names what.

    """
    reader = _Facts(probes, host)
    try:
        return HostNet(
            host=host,
            live=True,
            cards=reader.cards(),
            rules=reader.rules(),
            routes=reader.routes(),
            switches=reader.switches(),
            policies=reader.policies(),
            associations=reader.associations(),
            neighbours=reader.neighbours(),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as bad:
        raise UnknownConstructError(f"{host} {reader.at}", repr(bad), "facts as iproute2 prints "
                                    "them") from None  # fmt: skip


class _Facts:
    """The raw outcomes of one host, and which of them is being read."""

    def __init__(self, probes: Mapping[str, Any], host: str) -> None:
        self.probes, self.host, self.at = probes, host, "facts"

    def fail(self, got: object, expected: str) -> UnknownConstructError:
        return UnknownConstructError(f"{self.host} {self.at}", got, expected)

    def _raw(self, probe: str) -> Mapping[str, Any]:
        found = self.probes.get(probe)
        if not isinstance(found, Mapping):
            raise self.fail("nothing", f"the facts of probe {probe}")
        return found

    def _text(self, probe: str, label: str) -> str:
        try:
            return output(self._raw(probe), label)
        except ProbeError as bad:
            raise self.fail(str(bad), "what the command printed") from None

    def _list(self, probe: str, label: str) -> list[dict[str, Any]]:
        text = self._text(probe, label)
        try:
            value = json.loads(text) if text.strip() else []
        except (ValueError, RecursionError):
            raise self.fail(text[:80], "JSON") from None
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.fail(value, "a list of objects")
        return [one for one in value if one]

    def _keys(self, entry: Mapping[str, Any], known: frozenset[str]) -> None:
        strange = sorted(set(entry) - known)
        if strange:
            raise self.fail(entry, f"nothing but {', '.join(sorted(known))}; not {strange[0]}")

    def cards(self) -> dict[str, Card]:
        self.at = "addresses"
        found = {}
        for entry in self._list("links", "addresses"):
            name, flags = str(entry["ifname"]), list(entry["flags"])
            held = [one for one in entry.get("addr_info", ()) if one.get("family") == "inet"]
            strange = [one for one in held if "address" in one or one.get("tentative")]
            if strange or "master" in entry:
                raise self.fail(entry["ifname"], "no peer's address and no bridge above a card")
            found[name] = Card(
                name,
                up="UP" in flags,
                carrier="NO-CARRIER" not in flags and ("LOWER_UP" in flags or name == "lo"),
                mac=str(entry.get("address", "")),
                addresses=tuple(
                    IPv4Interface(f"{one['local']}/{int(one['prefixlen'])}") for one in held
                ),
            )
        if "lo" not in found:
            raise self.fail(sorted(found), "the loopback at least")
        return found

    def routes(self) -> tuple[Route, ...]:
        self.at = "routes"
        return tuple(self._route(one) for one in self._list("routes", "ipv4"))

    def _route(self, entry: Mapping[str, Any]) -> Route:
        self._keys(entry, _ROUTE_KEYS)
        kind, flags = str(entry.get("type", "unicast")), set(entry.get("flags", ()))
        if kind not in _ROUTE_KINDS or flags - _ROUTE_FLAGS:
            raise self.fail(entry, f"a route of {', '.join(_ROUTE_KINDS)}; no other flag")
        via, source = entry.get("gateway"), entry.get("prefsrc")
        return Route(
            table=_table(entry.get("table", "main")),
            kind=kind,
            network=_network(entry["dst"]),
            device=str(entry.get("dev", "")),
            via=None if via is None else IPv4Address(via),
            source=None if source is None else IPv4Address(source),
            metric=int(entry.get("metric", 0)),
            linkdown="linkdown" in flags,
            gone="dead" in flags,
        )

    def rules(self) -> tuple[RoutingRule, ...]:
        self.at = "routing rules"
        listed = self._list("routes", "rules")
        if not listed:
            raise self.fail("none", "at least one")
        return tuple(sorted((self._rule(one) for one in listed), key=lambda one: one.priority))

    def _rule(self, entry: Mapping[str, Any]) -> RoutingRule:
        self._keys(entry, _RULE_KEYS)
        action = entry.get("action", "")
        if action not in ("", *_RULE_ACTIONS) or (not action and "table" not in entry):
            raise self.fail(entry, f"a table, or {', '.join(_RULE_ACTIONS)}")
        return RoutingRule(
            priority=int(entry["priority"]),
            table=_table(entry.get("table", 0)),
            action=str(action),
            sources=_network(entry.get("src", "all"), entry.get("srclen")),
            targets=_network(entry.get("dst", "all"), entry.get("dstlen")),
            iif=str(entry.get("iif", "")),
            detached="iif_detached" in entry,
            protocol=_protocol(entry["ipproto"]) if "ipproto" in entry else 0,
            sports=_ports(entry, "sport"),
            dports=_ports(entry, "dport"),
            inverted="not" in entry,
            suppress=int(entry.get("suppress_prefixlen", -1)),
        )

    def switches(self) -> dict[str, str]:
        self.at = "sysctls"
        try:
            held = files(self._raw("sysctl"), "live")
        except ProbeError as bad:
            raise self.fail(str(bad), "the kernel's settings") from None
        found = {}
        for path, entry in held.items():
            if path.startswith(_CONF) and entry.text is not None and entry.error is None:
                _, _, rest = path.partition(_CONF)
                card, _, key = rest.rpartition("/")
                found[f"net.ipv4.conf.{card}.{key}"] = entry.text.strip()
        return found

    def policies(self) -> tuple[XfrmPolicy, ...]:
        self.at = "xfrm policies"
        found: list[XfrmPolicy] = []
        for head, *rest in _blocks(self._text("lines", "policies")):
            if len(rest) == 1 and re.fullmatch(r"\tsocket (?:in|out) priority 0.*", rest[0]):
                continue  # one socket's own: the IKE daemon's
            selector = _SELECTOR.fullmatch(head)
            way = _DIRECTION.fullmatch(rest[0]) if rest else None
            if selector is None or way is None:
                raise self.fail(" ".join([head, *rest[:1]]), "a selector and a direction alone")
            if ":" in selector[1]:
                continue  # IPv6, which no declared line is
            found.append(self._policy(selector, way, rest[1:]))
        return tuple(found)

    def _policy(self, selector: re.Match[str], way: re.Match[str], rest: list[str]) -> XfrmPolicy:
        ends, reqid = None, 0
        if rest:
            tunnel = _ENDS.fullmatch(rest[0])
            template = _TEMPLATE.fullmatch(rest[1]) if len(rest) == 2 else None
            if tunnel is None or template is None:
                raise self.fail(" ".join([selector[0], *rest]), "one template: ESP, tunnel mode")
            ends, reqid = (tunnel[1], tunnel[2]), int(template[1])
        return XfrmPolicy(
            direction=way[1],
            sources=IPv4Network(selector[1]),
            targets=IPv4Network(selector[2]),
            protocol=_protocol(selector[3]) if selector[3] else 0,
            sport=int(selector[4] or 0),
            dport=int(selector[5] or 0),
            priority=int(way[3]),
            block=way[2] == "block",
            ends=ends,
            reqid=reqid,
            device=selector[6] or "",
        )

    def associations(self) -> frozenset[tuple[str, str, int]]:
        self.at = "xfrm associations"
        found = set()
        for head, *rest in _blocks(self._text("lines", "associations")):
            ends = _STATE.fullmatch(head)
            kind = _STATE_KIND.fullmatch(rest[0]) if rest else None
            strange = [line for line in rest[1:] if _STATE_MORE.fullmatch(line) is None]
            if ends is None or kind is None or strange:
                raise self.fail(" ".join([head, *(strange or rest)[:1]]), "an association alone")
            # Without an SPI yet it is a question to the IKE daemon, not an association.
            if kind[1] == "esp" and kind[3] == "tunnel" and " spi 0x00000000 " not in rest[0]:
                found.add((ends[1], ends[2], int(kind[2])))
        return frozenset(found)

    def neighbours(self) -> dict[tuple[str, str], tuple[str, str]] | None:
        self.at = "neighbours"
        if "neighbours" not in self._raw("routes"):
            return None  # a bundle of before they were collected
        found = {}
        for entry in self._list("routes", "neighbours"):
            state = entry.get("state", ["NONE"])
            key = str(entry.get("dev", "")), str(entry["dst"])
            found[key] = (
                str(state[0] if isinstance(state, list) else state),
                str(entry.get("lladdr", "")),
            )
        return found


def _table(value: object) -> int:
    return TABLES[value] if value in TABLES else int(str(value))


def _network(value: object, length: object = None) -> IPv4Network:
    if value in ("default", "all"):
        return ANYWHERE
    return IPv4Network(str(value) if length is None else f"{value}/{length}")


def _protocol(value: object) -> int:
    text = str(value)
    return PROTOCOLS[text] if text in PROTOCOLS else int(text)


def _ports(entry: Mapping[str, Any], side: str) -> tuple[int, int] | None:
    if side in entry:
        low, _, high = str(entry[side]).partition("-")
        return int(low), int(high or low)
    if f"{side}_start" in entry:
        return int(entry[f"{side}_start"]), int(entry[f"{side}_end"])
    return None


def _blocks(text: str) -> list[list[str]]:
    """Return the entries of an ``ip xfrm`` listing, each with its indented lines."""
    found: list[list[str]] = []
    for line in lines_of(text):
        if not line.strip():
            continue
        if line[:1].isspace() and found:
            found[-1].append(line)
        else:
            found.append([line])
    return found
