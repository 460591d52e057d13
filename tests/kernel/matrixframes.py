"""What else a wire carries: ARP, neighbour discovery, tags, broadcast, multicast, other EtherTypes.

One frame at a time, from every end of every wire to every other end and to all of them. Nothing of
it may come out at another interface; what is delivered is judged like any other packet.
"""

# ruff: noqa: C901, E501
# a catalogue reads best as a table

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from matrixcolumns import DELIVERED, Judge, Place
from matrixprobes import SYN, TCP, four, icmp, icmp6, port, tcp
from matrixprobes import six as packet6
from matrixworld import Map, Port, World, six

ALL = b"\xff" * 6
IP, ARP, IP6, VLAN, QINQ = b"\x08\x00", b"\x08\x06", b"\x86\xdd", b"\x81\x00", b"\x88\xa8"
#: Answered by whoever has the address on that very wire.
ASKS = "ARP request"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame and what may come of it.

    Attributes:
        label: what it is.
        data: the whole frame.
        packet: the IPv4 packet in it that the kernel would read; None: none it can.
        target: the address that packet is for (or the one an ARP request asks for).
        everyone: whether it goes to all ends of the wire.

    """

    label: str
    data: bytes
    packet: bytes | None
    target: IPv4Address
    everyone: bool


def arp(operation: int, sender: Port, source: IPv4Address, target: IPv4Address) -> bytes:
    """Return an ARP message."""
    head = b"\0\1\x08\0\6\4" + operation.to_bytes(2, "big")
    return head + sender.mac + source.packed + bytes(6) + target.packed


def frames(sender: Port, to: Port, number: int, ports: list[int]) -> list[Frame]:
    """Return the frames of one end to another; those with packets are numbered from ``number``."""
    return list(_frames(sender, to, number, ports))


def _frames(sender: Port, to: Port, number: int, ports: list[int]) -> Iterator[Frame]:
    network, here, there = to.network, sender.address, to.address
    head, wide = to.mac + sender.mac, ALL + sender.mac

    def syn(target: IPv4Address, service: int) -> bytes:
        nonlocal number
        number += 1
        return four(here, target, number, TCP, tcp(here, target, (port(number), service), SYN))

    def frame(label: str, data: bytes, packet: bytes | None = None, target: Any = there) -> Frame:
        return Frame(label, data.ljust(60, b"\0"), packet, target, bool(data[0] & 1))

    for label, operation, source, target in (
        (ASKS, 1, here, there), (f"{ASKS}, from no address", 1, IPv4Address(0), there),
        (f"{ASKS} for a free address", 1, here, network.broadcast_address - 1),
        ("ARP answer nobody asked for", 2, there, here), ("gratuitous ARP", 1, here, here), (f"{ASKS}, in the asked one's own name", 1, there, there),
        ("RARP", 3, here, there), ("InARP", 8, here, there), ("ARP, unknown", 99, here, there),
    ):  # fmt: skip
        for ends in (head, wide):
            found = frame(label, ends + ARP + arp(operation, sender, source, target),
                          target=target)  # fmt: skip
            yield found
    for service in ports:
        for label, tags, read in (
            ("broadcast frame", b"", True), ("tag of VLAN 0", VLAN + b"\0\0", True),
            ("tag of VLAN 5", VLAN + b"\0\5", False), ("tag of VLAN 4095", VLAN + b"\x0f\xff", False),
            ("two tags", QINQ + b"\0\5" + VLAN + b"\0\5", False),
        ):  # fmt: skip
            packet = syn(there, service)
            ends = wide if label == "broadcast frame" else head
            yield frame(f"SYN to {service}, {label}", ends + tags + IP + packet,
                        packet if read else None)  # fmt: skip
    group = IPv4Address("224.0.0.1")
    for target, mac in ((IPv4Address("255.255.255.255"), ALL), (network.broadcast_address, ALL),
                        (group, b"\1\0\x5e" + (int(group) & 0x7FFFFF).to_bytes(3, "big"))):  # fmt: skip
        number += 1
        for label, protocol, body in (
            ("echo request", 1, icmp(8, 0, number)), ("IGMP query", 2, b"\x11\x64\xee\x9b\0\0\0\0"),
            ("UDP", 17, bytes([0x30, 0x39, 0, 123, 0, 12, 0, 0]) + b"time"),
        ):  # fmt: skip
            number += 1
            packet = four(here, target, number, protocol, body)
            yield frame(f"{label} to {target}", mac + sender.mac + IP + packet, packet, target)
    for label, kind, end in (
        ("neighbour solicitation", 135, "ff02::1"), ("neighbour advertisement", 136, "ff02::1"),
        ("router solicitation", 133, "ff02::2"), ("router advertisement", 134, "ff02::1"),
        ("redirect", 137, "ff02::1"), ("MLD report", 143, "ff02::16"), ("echo", 128, "ff02::1"),
    ):  # fmt: skip
        number += 1
        group6 = type(six(here))(end)
        source = six(here)
        for target, mac in ((group6, b"\x33\x33" + group6.packed[12:]), (six(there), to.mac)):
            body = packet6(
                source, target, number, 58, icmp6(source, target, kind, number), hops=255
            )
            yield frame(f"IPv6 {label} to {target}", mac + sender.mac + IP6 + body)
    for kind in (0x0026, 0x0842, 0x22F0, 0x6003, 0x8035, 0x809B, 0x8137, 0x8847, 0x8863, 0x8864,
                 0x888E, 0x88A2, 0x88B5, 0x88CC, 0x88E5, 0x88F7, 0x8906, 0x9000, 0xFFFF):  # fmt: skip
        for ends in (head, wide):
            yield frame(f"EtherType {kind:#06x}", ends + kind.to_bytes(2, "big") + b"secret" * 8)


def expected(world: Map, sender: Port, to: Port, one: Frame, judge: Judge) -> set[Place]:
    """Return the places a frame may come to by a judge's word."""
    ends = [port for port in world.links[sender.link] if port is not sender]
    ends = ends if one.everyone else [to]
    if one.label.startswith(ASKS):
        return {(port.node, port.name) for port in ends if port.address == one.target}
    if one.packet is None:
        return set()
    several = one.target not in {port.address for port in world.links[sender.link]}
    return {
        (port.node, DELIVERED)
        for port in ends
        if (several or port.address == one.target)
        and judge(port.node, "input", port.name, "", one.packet)
    }


def seen(world: World, sender: Port, one: Frame) -> tuple[set[Place], set[str]]:
    """Send one frame; return where something went out because of it, and who got it."""
    for _ in world.frames():
        pass
    world.frame_socket(sender).send(one.data)
    time.sleep(0)  # an answer is made before `send` returns; let nothing be waited for twice
    out: set[Place] = set()
    got: set[str] = set()
    for node, name, outgoing, _ in world.frames():
        if not outgoing:
            got.add(node)
        elif (node, name) != (sender.node, sender.name):
            out.add((node, name))
    return out, got
