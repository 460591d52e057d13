"""Replay a refutation: its packet, host by host, through the very rules, in namespaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sekisho.control.replay.namespaces import replay
from sekisho.core.errors import SekishoError


class Stepped(Protocol):
    """What a step has: the host, the way, the packet."""

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def way(self) -> str: ...  # noqa: D102
    @property
    def packet(self) -> dict[str, Any]: ...  # noqa: D102


def confirm(rules: Mapping[str, Any], finding: Any) -> dict[str, Any]:
    """Return whether the kernel does with a refutation's packet what the solver says.

    ``told`` is for a reader; ``confirmed`` is None when the packet could not be sent as it is.
    A packet of an open connection is sent after the connection's first packet (and, for the
    opening direction, an answer).
    """
    passes = "does not pass" not in finding.reason
    told, sure = [], True
    for step in finding.steps:
        if step.host not in rules or not step.rules:
            told.append(f"{step.host} has no rules, anything passes")
            continue
        firsts = [one for one in finding.before if one.host == step.host]
        packets = [_sent(one, number + 1) for number, one in enumerate(firsts)]
        if not packets and step.packet["ct"] == "established":
            packets = _opened(step)
        if packets and step.packet["direction"] == "original":
            packets.append(_answer(packets[0]))
        packets.append(_sent(step, 900))
        try:
            answer = replay({"rules": rules[step.host], "packets": packets})[-1]
        except SekishoError as bad:
            return {"confirmed": None, "told": bad.diagnostics()}
        same = answer["passed"] is passes and answer["entered"]
        sure = sure and same
        did = "passed" if answer["passed"] else "did not pass"
        state = answer["ct"] or "unknown"
        told.append(f"{step.host} {step.way}: sent, the kernel's state {state}, "
                    f"it {did}{'' if same else ', not as the solver said'}"
                    f"{' (' + answer['trouble'] + ')' if answer['trouble'] else ''}")  # fmt: skip
    return {"confirmed": sure, "told": "; ".join(told)}


def _sent(step: Stepped, number: int) -> dict[str, Any]:
    data = bytearray.fromhex(step.packet["bytes"])
    if data[0] >> 4 == 4:
        data[4:6] = number.to_bytes(2, "big")
        data[8] = max(data[8], 2)
    else:
        data[1:4] = bytes([data[1] & 0xF0 | 0]) + number.to_bytes(2, "big")
        data[7] = max(data[7], 2)
    return {
        "way": step.way, "iif": step.packet["iif"], "oif": step.packet["oif"],
        "bytes": bytes(data).hex(), "mark": step.packet.get("mark", 0),
    }  # fmt: skip


def _turned(data: bytes) -> bytearray:
    """Return a packet with its ends exchanged."""
    turned = bytearray(data)
    if data[0] >> 4 == 4:
        turned[12:16], turned[16:20] = data[16:20], data[12:16]
        at, protocol = (data[0] & 15) * 4, data[9]
    else:
        turned[8:24], turned[24:40] = data[24:40], data[8:24]
        at, protocol = 40, data[6]
    if protocol in (6, 17, 132, 136):
        turned[at : at + 2], turned[at + 2 : at + 4] = data[at + 2 : at + 4], data[at : at + 2]
    if protocol == 6:
        turned[at + 13] = 0x12
    if protocol in (1, 58):
        turned[at] = {8: 0, 0: 8, 13: 14, 128: 129, 129: 128}.get(data[at], data[at])
    return turned


def _answer(packet: Mapping[str, Any]) -> dict[str, Any]:
    way = {"input": "output", "output": "input"}.get(packet["way"], "forward")
    data = _turned(bytes.fromhex(packet["bytes"]))
    if data[0] >> 4 == 4:
        data[4:6] = (800).to_bytes(2, "big")
    return {"way": way, "iif": packet["oif"], "oif": packet["iif"], "bytes": bytes(data).hex()}


def _opened(step: Stepped) -> list[dict[str, Any]]:
    """Return a first packet that would open the step's connection, when the solver gave none."""
    packet = _sent(step, 1)
    data = bytearray.fromhex(packet["bytes"])
    if step.packet["direction"] == "reply":
        packet = _answer(packet)
        data = bytearray.fromhex(packet["bytes"])
        data[4:6] = (1).to_bytes(2, "big")
    at = (data[0] & 15) * 4
    if data[0] >> 4 == 4 and data[9] == 6:
        data[at + 13] = 2
    return [packet | {"bytes": bytes(data).hex()}]
