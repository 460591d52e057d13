"""All laws of a site or some of its hosts, or one way of one host, from its rules. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from sekisho.core.errors import SekishoError
from sekisho.policy.parts import Way
from sekisho.prover.findings import Finding
from sekisho.prover.laws import HOST_LAWS, host_laws, undeclared
from sekisho.prover.network import Network, unknown
from sekisho.prover.paths import path_laws
from sekisho.prover.rules import read_rules
from sekisho.prover.tables import Rules, UnknownConstructError
from sekisho.site.model import Site
from sekisho.site.tunnels import cards

#: Families a packet of these hosts passes that have no model here.
_UNMODELLED = ("bridge",)


def network_of(documents: Mapping[str, Any], site: Site) -> tuple[Network, list[Finding]]:
    """Return the hosts whose rules can be read, and an `error` for each law of the others.

    ``documents``: host → libnftables JSON as the kernel lists it (or as compiled).
    """
    rules: dict[str, Rules] = {}
    wrong: list[Finding] = []
    for host, document in documents.items():
        try:
            rules[host] = _known(read_rules(document, host))
        except SekishoError as bad:
            wrong += [unknown(law, host, (host,), bad) for law in HOST_LAWS]
    interfaces = {
        host: (*cards(site, site.machines[host]), "lo") for host in rules if host in site.machines
    }
    return Network(rules, interfaces), wrong


def _known(rules: Rules) -> Rules:
    for table in rules.tables:
        if table.family in _UNMODELLED and table.chains and not table.dormant:
            raise UnknownConstructError(
                f"{rules.host} {table.family} {table.name}", table.family,
                "tables of families ip, ip6, inet, arp, netdev",
            )  # fmt: skip
    return rules


def prove_way(document: Any, declared: Any) -> tuple[bool, str]:
    """Return whether rules pass nothing undeclared one way, else the rules that do.

    Args:
        document: libnftables JSON as the kernel lists it, or as it stands on disk.
        declared: the way and its lines, as `declared.declared` put them into the host's policy.

    Raises:
        SekishoError: it cannot be told. Any other exception comes from a garbled document.

    """
    network = Network({"": _known(read_rules(document))})
    told = Way.parse(declared)
    one = network.way("", told.way)
    found = network.openings(one, undeclared(one, told.lines))
    if found is None:
        return True, "proven"
    return False, f"undeclared packets pass by {', '.join(found) or 'no rule: none stops them'}"


def prove(
    documents: Mapping[str, Any],
    site: Site,
    *,
    known: tuple[Network, list[Finding]] | None = None,
    clock: Callable[[], float] = lambda: 0.0,
) -> Iterator[Finding]:
    """Yield a finding for every law of the hosts in ``documents``.

    ``known``: what `network_of` made of them, where it is needed elsewhere too.

    The laws between hosts are asked only when every machine of the site is there; a machine that is
    missing is an `error` for them, not a pass. ``clock`` gives seconds for `Finding.milliseconds`.
    """
    network, wrong = known or network_of(documents, site)
    yield from wrong
    start = clock()
    for host in network.rules:
        for found in host_laws(network, site, host):
            now = clock()
            yield replace(found, milliseconds=round(1000 * (now - start)))
            start = now
    missing = [name for name in site.machines if name not in network.rules]
    if missing and set(documents) != set(site.machines):
        return
    if missing:
        told = UnknownConstructError(
            ", ".join(missing), "no rules to read", "every machine's rules"
        )
        for law in ("6-iv-d-2.no-payload-leaves", "6-iv-d-3.no-payload-enters",
                    "6-iv-e.outside-reaches-no-core", "6-iv-e.only-core-joins"):  # fmt: skip
            yield unknown(law, "between hosts", tuple(missing), told)
        return
    for found in path_laws(network, site):
        now = clock()
        yield replace(found, milliseconds=round(1000 * (now - start)))
        start = now
