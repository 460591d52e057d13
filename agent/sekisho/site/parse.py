"""The inventory's texts into a `Site`. Pure: raises one `SekishoError` with every problem."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from sekisho.core.errors import Problem, SekishoError
from sekisho.core.names import HOST_NAME, IFNAME, NAME, PersonRole
from sekisho.core.text import is_number
from sekisho.core.yaml_nodes import Node, Reader
from sekisho.site.ansible_fields import only_ours
from sekisho.site.attached import attached_devices, boot_words, console, disks, functions, mode
from sekisho.site.fields import (
    address,
    addresses,
    day,
    mac,
    network,
    order_key,
    public_keys,
    title,
    wireguard_key,
)
from sekisho.site.identity import refuse_fillers
from sekisho.site.model import (
    GROUPS,
    MANAGEMENT,
    Encryption,
    Flow,
    Interface,
    Kind,
    Link,
    Machine,
    Management,
    Mode,
    Peer,
    Person,
    Purpose,
    RawFile,
    RawInventory,
    Role,
    Side,
    Site,
    WireGuard,
)
from sekisho.site.module_field import modules
from sekisho.site.wires import joins, wires

_SITE = dict.fromkeys(
    ("name", "title", "profile", "management", "links", "peers", "flows", "people"), True
)
_MANAGEMENT = {"network": True, "controllers": True, "auditors": True}
_LINK = {"kind": True, "purpose": False, "network": True, "between": True, "encryption": False}
_PEER = {"side": True, "title": True, "address": True, "router": False, "vpn": False}
_PEER["wireguard"] = False
_WIREGUARD = {"key": True, "port": True}
#: What a link is taken to be encrypted by when the site does not say.
_ENCRYPTION = {Kind.IP_VPN: Encryption.CARRIER, Kind.DEDICATED: Encryption.NONE}
_FLOW = {"from": True, "to": True, "via": False, "port": True, "mode": True}
_PERSON = {
    "name": True,
    "role": True,
    "uid": True,
    "keys": True,
    "authority_until": True,
    "trained": True,
    "approval_key": False,
}
_MACHINE = dict.fromkeys(("title", "identity", "console", "devices", "disks", "interfaces"), True)
_MACHINE["devices_mode"] = False
_MACHINE["modules"] = False
_MACHINE["pci"] = False
_MACHINE["boot"] = False
_IDENTITY = {"dmi_uuid": True, "serial": True}
_INTERFACE = {"link": True, "mac": True, "address": True}
_PERSON_ID = re.compile(r"[a-z][a-z0-9-]{0,30}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/:+-]{0,62}")


class _Parser:
    def __init__(self, raw: RawInventory) -> None:
        self.raw = raw
        self.problems: list[Problem] = []

    def reader(self, path: str) -> Reader:
        return Reader(f"{self.raw.where}/{path}", self.problems)

    # -- hosts.yml ----------------------------------------------------------------------------

    def roles(self) -> dict[str, tuple[Role, str]]:
        """Return host → (role, where), every host in exactly one group."""
        read = self.reader(self.raw.hosts.path)
        root = read.compose(self.raw.hosts.text)
        roles: dict[str, tuple[Role, str]] = {}
        if root is not None and root.pairs is not None and {"all", "ungrouped"} & set(root.pairs):
            read.wrong(
                root.line, "", "a tree below `all`", f"the roles at the top: {', '.join(GROUPS)}",
                hint="core: {hosts: {core-1: }} and so on; see inventory/example/hosts.yml",
            )  # fmt: skip
            return roles
        groups = read.mapping(root, "", dict.fromkeys(GROUPS, False)) or {}
        for group, node in groups.items():
            body = read.mapping(node, group, {"hosts": True})
            hosts = read.named((body or {}).get("hosts"), f"{group}.hosts", HOST_NAME, "hosts")
            for host, line, value in hosts:
                if value.text != "" or not value.plain:
                    read.wrong(
                        value.line,
                        f"{group}.hosts.{host}",
                        value.describe(),
                        f"nothing; a machine is described in host_vars/{host}.yml",
                    )
                if host in roles:
                    read.wrong(
                        line,
                        f"{group}.hosts.{host}",
                        f"a second role for {host}",
                        f"one role: it is {roles[host][0]} at {roles[host][1]}",
                        "6-iii-a",
                    )
                    continue
                roles[host] = (GROUPS[group], read.at(line))
        return roles

    # -- host_vars ----------------------------------------------------------------------------

    def machines(self, roles: Mapping[str, tuple[Role, str]]) -> dict[str, Machine]:
        files: dict[str, RawFile] = {}
        if not roles and self.problems:
            return {}  # hosts.yml is what is wrong, not each machine's description
        for file in self.raw.host_vars:
            name = file.path.removeprefix("host_vars/").rsplit(".", 1)[0]
            if name not in roles:
                self.reader(file.path).wrong(
                    1, "", f"a description of {name}", "a host of hosts.yml"
                )
            elif name in files:
                self.reader(file.path).wrong(1, "", f"{name} again", files[name].path)
            else:
                files[name] = file
        found: dict[str, Machine] = {}
        for name, (role, where) in roles.items():
            if name not in files:
                self.problems.append(
                    Problem(where, name, "no description", f"a file host_vars/{name}.yml")
                )
                continue
            machine = self.machine(name, role, files[name])
            if machine is not None:
                found[name] = machine
        return found

    def machine(self, name: str, role: Role, file: RawFile) -> Machine | None:
        read = self.reader(file.path)
        root = read.compose(file.text)
        if root is None:
            return None
        only_ours(read, root, {"sekisho_machine"})
        reach = (root.pairs or {}).get("ansible_host", (0, None))[1]
        node = (root.pairs or {}).get("sekisho_machine", (0, None))[1]
        if node is None:
            read.wrong(root.line, "sekisho_machine", "nothing", "the machine's description")
            return None
        top = read.mapping(node, "sekisho_machine", _MACHINE)
        if top is None:
            return None
        identity = read.mapping(top.get("identity"), "identity", _IDENTITY) or {}
        refuse_fillers(read, identity)
        kind, proof = console(read, top.get("console"))
        interfaces: dict[str, Interface] = {}
        for ifname, line, value in read.named(
            top.get("interfaces"), "interfaces", IFNAME, "interface names"
        ):
            key = f"interfaces.{ifname}"
            body = read.mapping(value, key, _INTERFACE) or {}
            interfaces[ifname] = Interface(
                name=ifname,
                link=read.text(body.get("link"), f"{key}.link", NAME, "a link's name"),
                mac=mac(read, body.get("mac"), f"{key}.mac"),
                address=address(read, body.get("address"), f"{key}.address"),
                at=read.at(line),
            )
        return Machine(
            name=name,
            role=role,
            title=title(read, top.get("title"), "title"),
            dmi_uuid=read.text(
                identity.get("dmi_uuid"), "identity.dmi_uuid", _UUID, "a UUID in lower case"
            ),
            serial=read.text(
                identity.get("serial"), "identity.serial", _SERIAL, "a serial number as text"
            ),
            console=kind,
            devices=attached_devices(read, top.get("devices")),
            disks=disks(read, top.get("disks")),
            pci=functions(read, top.get("pci")),
            boot=boot_words(read, top.get("boot")),
            interfaces=MappingProxyType(interfaces),
            ansible_host=(reach.text or "") if reach is not None else "",
            at=read.at(node.line),
            console_proof=proof,
            devices_mode=mode(read, top.get("devices_mode")),
            modules=modules(read, top.get("modules")),
        )

    # -- group_vars ---------------------------------------------------------------------------

    def site(self) -> Site | None:
        found: list[tuple[Reader, Node]] = []
        for file in self.raw.group_vars:
            read = self.reader(file.path)
            root = read.compose(file.text) if file.text.strip() else None
            if root is None:
                continue
            everywhere = file.path.startswith(("group_vars/all/", "group_vars/all."))
            only_ours(read, root, {"sekisho_site"} if everywhere else set())
            line, node = (root.pairs or {}).get("sekisho_site", (0, None))
            if node is None or not everywhere:
                continue
            if found:
                read.wrong(line, "sekisho_site", "a second site", f"one ({found[0][0].path})")
                continue
            found.append((read, node))
        roles = self.roles()
        machines = self.machines(roles)
        if not found:
            if not self.problems:
                self.problems.append(
                    Problem(f"{self.raw.where}/group_vars/all", "sekisho_site", "nothing", "a site")
                )
            return None
        read, node = found[0]
        top = read.mapping(node, "sekisho_site", _SITE)
        if top is None:
            return None
        links = self.links(read, top.get("links"))
        return Site(
            name=read.text(top.get("name"), "name", NAME, "a name in lower case"),
            title=title(read, top.get("title"), "title"),
            profile=read.one_of(top.get("profile"), "profile", ("producer", "entrusted")),
            management=self.management(read, top.get("management")),
            links=MappingProxyType(links),
            peers=MappingProxyType(self.peers(read, top.get("peers"))),
            flows=MappingProxyType(self.flows(read, top.get("flows"))),
            people=MappingProxyType(self.people(read, top.get("people"))),
            machines=MappingProxyType(machines),
            at=read.at(node.line),
            wires=MappingProxyType(wires(machines)),
            joins=MappingProxyType(joins(links, machines)),
        )

    def management(self, read: Reader, node: Node | None) -> Management:
        body = read.mapping(node, "management", _MANAGEMENT) or {}
        return Management(
            network=network(read, body.get("network"), "management.network"),
            controllers=addresses(read, body.get("controllers"), "management.controllers"),
            auditors=addresses(read, body.get("auditors"), "management.auditors"),
            at=read.at(node.line if node else 1),
        )

    def links(self, read: Reader, node: Node | None) -> dict[str, Link]:
        found: dict[str, Link] = {}
        for name, line, value in read.named(node, "links", NAME, "links"):
            key = f"links.{name}"
            if name == MANAGEMENT:
                read.wrong(line, key, "the management network", "it under management:", "6-iv-e")
                continue
            body = read.mapping(value, key, _LINK) or {}
            members = read.entries(body.get("between"), f"{key}.between", least=2)
            kind = Kind(read.one_of(body.get("kind"), f"{key}.kind", tuple(Kind)))
            said = body.get("encryption")
            found[name] = Link(
                name=name,
                kind=kind,
                purpose=Purpose(
                    read.one_of(body.get("purpose"), f"{key}.purpose", ("data", "terminal"))
                ),
                network=network(read, body.get("network"), f"{key}.network"),
                between=tuple(
                    read.text(one, f"{key}.between", HOST_NAME, "a machine or a peer")
                    for one in members
                ),
                at=read.at(line),
                encryption=Encryption(
                    read.one_of(said, f"{key}.encryption", tuple(Encryption))
                    if said
                    else _ENCRYPTION[kind]
                ),
            )
        return found

    def peers(self, read: Reader, node: Node | None) -> dict[str, Peer]:
        found: dict[str, Peer] = {}
        for name, line, value in read.named(node, "peers", HOST_NAME, "peers"):
            key = f"peers.{name}"
            body = read.mapping(value, key, _PEER) or {}
            router, vpn = body.get("router"), body.get("vpn")
            own = address(read, body.get("address"), f"{key}.address")
            found[name] = Peer(
                name=name,
                side=Side(read.one_of(body.get("side"), f"{key}.side", tuple(Side))),
                title=title(read, body.get("title"), f"{key}.title"),
                address=own,
                router=address(read, router, f"{key}.router") if router else None,
                at=read.at(line),
                vpn=address(read, vpn, f"{key}.vpn") if vpn else own,
                wireguard=self.wireguard(read, body.get("wireguard"), f"{key}.wireguard"),
            )
        return found

    @staticmethod
    def wireguard(read: Reader, node: Node | None, key: str) -> WireGuard | None:
        if node is None:
            return None
        body = read.mapping(node, key, _WIREGUARD) or {}
        return WireGuard(
            key=wireguard_key(read, body.get("key"), f"{key}.key"),
            port=read.number(body.get("port"), f"{key}.port", 1024, 65535),
        )

    def flows(self, read: Reader, node: Node | None) -> dict[str, Flow]:
        found: dict[str, Flow] = {}
        for name, line, value in read.named(node, "flows", NAME, "flows"):
            key = f"flows.{name}"
            body = read.mapping(value, key, _FLOW) or {}
            via = body.get("via")
            found[name] = Flow(
                name=name,
                sender=read.text(body.get("from"), f"{key}.from", HOST_NAME, "who pushes"),
                receiver=read.text(body.get("to"), f"{key}.to", HOST_NAME, "who receives"),
                via=read.text(via, f"{key}.via", HOST_NAME, "a gateway") if via else None,
                port=read.number(body.get("port"), f"{key}.port", 1024, 65535),
                mode=Mode(read.one_of(body.get("mode"), f"{key}.mode", tuple(Mode))),
                at=read.at(line),
            )
        return found

    def people(self, read: Reader, node: Node | None) -> dict[str, Person]:
        found: dict[str, Person] = {}
        for name, line, value in read.named(node, "people", _PERSON_ID, "account names"):
            key = f"people.{name}"
            body = read.mapping(value, key, _PERSON) or {}
            shown = title(read, body.get("name"), f"{key}.name")
            if set(f"{shown.en}{shown.ja}") & set(":,"):
                read.wrong(line, f"{key}.name", "a colon or a comma", "a name passwd(5) can hold")
            found[name] = Person(
                id=name,
                name=shown,
                role=PersonRole(read.one_of(body.get("role"), f"{key}.role", tuple(PersonRole))),
                uid=read.number(body.get("uid"), f"{key}.uid", 1000, 59999),
                keys=public_keys(read, body.get("keys"), f"{key}.keys", self.raw.keys),
                authority_until=day(read, body.get("authority_until"), f"{key}.authority_until"),
                trained=day(read, body.get("trained"), f"{key}.trained"),
                at=read.at(line),
                approval_key=order_key(
                    read, body.get("approval_key"), f"{key}.approval_key", self.raw.keys
                ),
            )
        return found


def parse_site(raw: RawInventory) -> Site:
    """Return the site of ``raw``; raise `SekishoError` with every problem of every file.

    What the values mean together is `sekisho.site.rules.invariants.check`'s business.
    """
    parser = _Parser(raw)
    site = parser.site()
    if parser.problems or site is None:
        raise SekishoError(f"{raw.where} is not a site", tuple(sorted(parser.problems, key=_place)))
    return site


def _place(problem: Problem) -> tuple[str, int]:
    path, _, line = problem.where.rpartition(":")
    return path, int(line) if is_number(line) else 0
