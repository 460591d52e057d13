"""What passes on the management interface: administration, metrics and time. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sekisho.nft.ruleset import Ruleset
from sekisho.nft.statements import addresses, ct_reply, ct_state, equals, iif, oif, payload
from sekisho.policy.host_policy import HostPolicy

SSH, TIME, METRICS = 22, 123, 9723


def management_rules(rules: Ruleset, policy: HostPolicy) -> None:
    """Pass administration, metrics and time on the management interface only."""
    ours = policy.management
    own, network, where = ours.address, ours.network, ours.interface
    prefix, length = network.split("/")
    everyone = {"prefix": {"addr": prefix, "len": int(length)}}
    admins = rules.set("ssh_from", "ipv4_addr", addresses({*ours.controllers, *ours.auditors}))
    monitors = rules.set("monitors", "ipv4_addr", addresses(ours.monitors))
    servers = rules.set("time_servers", "ipv4_addr", addresses(policy.time.servers))
    ssh, metrics = "6-iv-a.ssh-from-controllers-only", "6-iv-b.metrics-to-monitors-only"
    serve = Served(rules, where, own)
    serve.incoming(ssh, "management-ssh", "tcp", SSH, admins)
    serve.incoming(metrics, "management-metrics", "tcp", METRICS, monitors)
    serve.echo(ssh, admins)
    if policy.role == "monitor":
        serve.outgoing(metrics, "management-scrape", "tcp", METRICS, everyone)
        serve.incoming("6-iv-b.time-from-monitors-only", "management-time", "udp", TIME, everyone)
    if policy.time.servers:
        serve.outgoing("6-iv-b.time-from-monitors-only", "management-time", "udp", TIME, servers)


class Served:
    """Pairs of rules for one service: the asking direction, and its replies."""

    def __init__(
        self, rules: Ruleset, interface: str, own: str, *, chains: Mapping[str, str] | None = None
    ) -> None:
        self.rules = rules
        self.interface = interface
        self.own = own
        #: Hook → the chain its rules go to, where that is not the hook's own.
        self.chains = chains or {}

    def _rule(self, hook: str, check: str, *statements: Any) -> None:
        self.rules.rule(self.chains.get(hook, hook), check, *statements)

    def incoming(self, check: str, name: str, protocol: str, port: int, who: Any) -> None:
        """Pass what ``who`` asks of this host, and the answers."""
        count = self.rules.count(name)
        self._rule(
            "input",
            check,
            ct_state("established", "new"),
            iif(self.interface),
            equals(payload("ip", "saddr"), who),
            equals(payload("ip", "daddr"), self.own),
            equals(payload(protocol, "dport"), port),
            count,
            {"accept": None},
        )
        self._rule(
            "output",
            check,
            ct_state("established"),
            ct_reply(),
            oif(self.interface),
            equals(payload("ip", "daddr"), who),
            equals(payload("ip", "saddr"), self.own),
            equals(payload(protocol, "sport"), port),
            count,
            {"accept": None},
        )

    def outgoing(self, check: str, name: str, protocol: str, port: int, who: Any) -> None:
        """Pass what this host asks of ``who``, and the answers."""
        count = self.rules.count(name)
        self._rule(
            "output",
            check,
            ct_state("established", "new"),
            oif(self.interface),
            equals(payload("ip", "daddr"), who),
            equals(payload("ip", "saddr"), self.own),
            equals(payload(protocol, "dport"), port),
            count,
            {"accept": None},
        )
        self._rule(
            "input",
            check,
            ct_state("established"),
            ct_reply(),
            iif(self.interface),
            equals(payload("ip", "saddr"), who),
            equals(payload("ip", "daddr"), self.own),
            equals(payload(protocol, "sport"), port),
            count,
            {"accept": None},
        )

    def echo(self, check: str, who: Any) -> None:
        """Pass echo requests of ``who``, and the replies."""
        count = self.rules.count("management-echo")
        self._rule(
            "input",
            check,
            ct_state("established", "new"),
            iif(self.interface),
            equals(payload("ip", "saddr"), who),
            equals(payload("icmp", "type"), "echo-request"),
            count,
            {"accept": None},
        )
        self._rule(
            "output",
            check,
            ct_state("established"),
            oif(self.interface),
            equals(payload("ip", "daddr"), who),
            equals(payload("icmp", "type"), "echo-reply"),
            count,
            {"accept": None},
        )
