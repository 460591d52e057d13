"""A host's policy into systemd-networkd's files and the kernel's forwarding settings. Pure.

Every interface is named by its MAC address and its name together: a card in another slot, or
another card, gets no address. Nothing is learnt from the wire: no DHCP, no router advertisement,
no link-local address, no LLMNR, mDNS or LLDP.
"""

from __future__ import annotations

from sekisho.policy.host_policy import HostPolicy
from sekisho.policy.parts import Interface, Tunnel

_HEAD = "# Written by Sekisho from the site model; changes are overwritten.\n"
FOLDER = "/etc/systemd/network"
SYSCTL = "/etc/sysctl.d/61-sekisho-network.conf"
#: A gateway's private key for all its tunnels; systemd-networkd.service imports this name.
TUNNEL_KEY = "/etc/credstore/network.wireguard.sekisho"
TUNNEL_CREDENTIAL = f"@{TUNNEL_KEY.rpartition('/')[2]}"
_NOTHING_LEARNT = (
    "DHCP=no",
    "LinkLocalAddressing=no",
    "IPv6AcceptRA=no",
    "LLMNR=no",
    "MulticastDNS=no",
    "LLDP=no",
    "EmitLLDP=no",
    "ConfigureWithoutCarrier=yes",
)


def network_files(policy: HostPolicy) -> dict[str, str]:
    """Return path → text of every file for the host's network.

    The files sort before a box's own ``10-…`` files, so that they win.
    """
    found = {
        f"{FOLDER}/05-sekisho-{name}.network": _network(name, entry, policy)
        for name, entry in sorted(policy.interfaces.items())
    }
    for one in policy.tunnels:
        found |= tunnel_files(one)
    found[SYSCTL] = _sysctl(policy)
    return found


def tunnel_files(one: Tunnel) -> dict[str, str]:
    """Return path → text of a WireGuard tunnel's files; the private key is in neither.

    networkd gets it as a credential, which systemd reads for it: the file stays root's alone
    (systemd.netdev(5), PrivateKey=). What the tunnel lets in and out are the peer's own addresses.
    """
    made = [
        "[NetDev]",
        f"Name={one.interface}",
        "Kind=wireguard",
        f"Description=Sekisho {one.link} ({one.peer})",
        "",
        "[WireGuard]",
        f"PrivateKey={TUNNEL_CREDENTIAL}",
        f"ListenPort={one.port}",
        "",
        "[WireGuardPeer]",
        f"PublicKey={one.peer_key}",
        f"AllowedIPs={one.allowed}",
        f"Endpoint={one.peer_address}:{one.port}",
    ]
    # Without an address: a gateway passes packets on, and nothing reaches it there.
    lines = [
        "[Match]",
        f"Name={one.interface}",
        "Kind=wireguard",
        "",
        "[Link]",
        "RequiredForOnline=no",
        "",
        "[Network]",
        f"Description=Sekisho {one.link} ({one.peer})",
        *_NOTHING_LEARNT,
        "",
        "[Route]",
        f"Destination={one.allowed}",
        "Scope=link",
    ]
    path = f"{FOLDER}/05-sekisho-{one.interface}"
    return {
        f"{path}.netdev": _HEAD + "\n".join(made) + "\n",
        f"{path}.network": _HEAD + "\n".join(lines) + "\n",
    }


def _network(name: str, entry: Interface, policy: HostPolicy) -> str:
    lines = [
        "[Match]",
        f"MACAddress={entry.mac}",
        f"Name={name}",
        "",
        "[Link]",
        "Multicast=no",
        "RequiredForOnline=no",
        "",
        "[Network]",
        f"Description=Sekisho {entry.link} ({entry.purpose})",
        f"Address={entry.address}",
        *_NOTHING_LEARNT,
    ]
    for route in policy.routes:
        if route.interface == name:
            lines += ["", "[Route]", f"Destination={route.to}", f"Gateway={route.via}"]
    return _HEAD + "\n".join(lines) + "\n"


def sysctl_values(policy: HostPolicy) -> dict[str, str]:
    """Return the kernel settings that follow from the host's links.

    Forwarding and the checks on ARP and on sources are the role kernel's.
    """
    left = any(flow.direction == "out" for flow in policy.flows)
    # ICMP does not pass, so a smaller MTU on the carrier's line is found by probing.
    return {"net.ipv4.tcp_mtu_probing": "1" if left else "0"}


def _sysctl(policy: HostPolicy) -> str:
    return _HEAD + "".join(f"{key} = {value}\n" for key, value in sysctl_values(policy).items())
