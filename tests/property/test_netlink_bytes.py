"""Netlink's bytes are input: whatever they hold, they parse or are refused, never anything else."""

from __future__ import annotations

import contextlib
import struct

from hypothesis import given
from hypothesis import strategies as st

from sekisho.network import netlink
from sekisho.network.netlink import (
    Message,
    NetlinkError,
    attribute,
    attributes,
    messages,
    request,
    route_change,
    xfrm_change,
)

KINDS = st.sampled_from([netlink.NEWLINK, netlink.DELLINK, netlink.NEWADDR, netlink.DELADDR,
                         netlink.NEWROUTE, netlink.DELROUTE, netlink.NEWRULE, netlink.DELRULE,
                         netlink.NEWNETCONF, netlink.NEWPOLICY, netlink.NEWSA])  # fmt: skip
ATTRIBUTES = st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=20)), max_size=6)


def parse(data: bytes) -> int:
    """Read a datagram as both families do; return how many facts it told of."""
    seen = 0
    with contextlib.suppress(NetlinkError):
        for message in messages(data):
            for read in (lambda one: route_change(one, {2: "eth0"}), xfrm_change):
                with contextlib.suppress(NetlinkError):
                    seen += len(read(message))
    return seen


@given(st.binary(max_size=400))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    parse(data)


@given(KINDS, st.binary(max_size=300))
def test_any_body_of_a_known_type_parses_or_is_refused(kind: int, body: bytes) -> None:
    parse(request(kind, 0, 1, body))


@given(KINDS, st.sampled_from([2, 10, 7]), st.integers(0, 255), ATTRIBUTES)
def test_well_formed_attributes_of_any_content_parse_or_are_refused(
    kind: int, family: int, length: int, held: list[tuple[int, bytes]]
) -> None:
    for head in (4, 8, 12, 16):
        body = struct.pack("=BB", family, length).ljust(head, b"\1")
        parse(request(kind, 0, 1, body + b"".join(attribute(*one) for one in held)))


@given(st.lists(st.tuples(KINDS, st.binary(max_size=50)), max_size=5))
def test_messages_come_apart_as_they_were_put_together(parts: list[tuple[int, bytes]]) -> None:
    datagram = b""
    for kind, body in parts:
        one = request(kind, 2, 7, body)
        datagram += one + b"\0" * (-len(one) % 4)
    assert [(one.kind, one.body) for one in messages(datagram)] == parts


@given(ATTRIBUTES)
def test_attributes_come_apart_as_they_were_put_together(held: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in held)
    assert attributes(data) == dict(held)


def route(target: bytes, length: int, via: bytes, index: int) -> bytes:
    body = struct.pack("=BBBBBBBBI", 2, length, 0, 0, 254, 4, 0, 1, 0)
    for kind, value in ((1, target), (5, via), (4, struct.pack("=I", index))):
        body += attribute(kind, value)
    return body


@given(st.binary(min_size=4, max_size=4), st.integers(0, 32), st.binary(min_size=4, max_size=4))
def test_a_route_reads_as_ip_writes_it_and_cut_short_it_is_refused(
    target: bytes, length: int, via: bytes
) -> None:
    body = route(target, length, via, 2)
    (change,) = route_change(Message(netlink.NEWROUTE, 0, body), {2: "eth0"})
    dotted = [".".join(str(byte) for byte in one) for one in (target, via)]
    assert change.there
    assert change.fact.text == f"{dotted[0]}/{length} via {dotted[1]} dev eth0"
    assert (change.fact.device, change.fact.body) == ("eth0", body)
    assert parse(request(netlink.NEWROUTE, 0, 1, body)[:-1]) == 0
    assert parse(request(netlink.NEWROUTE, 0, 1, body[:11])) == 0
