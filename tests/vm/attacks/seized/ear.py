"""Runs as root on a machine that is asked what it hears: counts what comes in with the token, by way.

Standard library only; argv: interface, token (hex), and a file where every frame, in and out, is kept
as pcap. Until SIGTERM; then prints JSON. tcpdump is not used because it gives its rights up, which a
user namespace refuses; a ring in shared memory is, because a plain socket loses what a busy machine has
no time for. What the ring lost is told.
"""

import json
import mmap
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter

# linux/if_packet.h
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION, TPACKET_V2 = 5, 6, 10, 1
FREE, OURS, TAGGED = 0, 1, 1 << 4
BLOCK, BLOCKS, PLACE = 1 << 16, 256, 2048
PLACES = BLOCK * BLOCKS // PLACE


class Ear:
    """A ring of frames that the kernel fills and we empty, in order."""

    def __init__(self, interface):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        ring = struct.pack("IIII", BLOCK, BLOCKS, PLACE, PLACES)
        self.socket.setsockopt(SOL_PACKET, PACKET_RX_RING, ring)
        self.ring = mmap.mmap(self.socket.fileno(), BLOCK * BLOCKS)
        self.place = 0
        self.socket.bind((interface, 3))
        # Every frame of the wire, whoever it is for: a card may filter VLANs and other addresses.
        member = struct.pack("iHH8x", socket.if_nametoindex(interface), PACKET_MR_PROMISC, 0)
        self.socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)

    def next(self, wait):
        """Return the next frame, its length on the wire and whether it came in; None: nothing yet."""
        begin = self.place * PLACE
        if not self._status(begin) & OURS:
            select.select([self.socket], [], [], wait)
        status = self._status(begin)
        if not status & OURS:
            return None
        whole, kept, at, _, _, _, tag, kind = struct.unpack_from("IIHHIIHH", self.ring, begin + 4)
        frame = self.ring[begin + at : begin + at + kept]
        incoming = self.ring[begin + 32 + 10] != socket.PACKET_OUTGOING
        struct.pack_into("I", self.ring, begin, FREE)
        self.place = (self.place + 1) % PLACES
        if status & TAGGED:  # the kernel takes a VLAN tag off and tells it beside the frame
            frame = frame[:12] + struct.pack("!HH", kind or 0x8100, tag) + frame[12:]
            whole += 4
        return frame, whole, incoming

    def _status(self, begin):
        return struct.unpack_from("I", self.ring, begin)[0]

    def dropped(self):
        return struct.unpack("II", self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]


def main():
    ear, token = Ear(sys.argv[1]), bytes.fromhex(sys.argv[2])
    keep = open(sys.argv[3], "wb") if len(sys.argv) > 3 else None  # noqa: SIM115 - until the end
    if keep:
        keep.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 1))
    heard, frames, over = Counter(), 0, []
    signal.signal(signal.SIGTERM, lambda *_: over.append(time.monotonic() + 3))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        found = ear.next(0.2)
        if over and (found is None or time.monotonic() > over[0]):
            break
        if found is None:
            continue
        frame, whole, incoming = found
        frames += 1
        if keep:
            keep.write(struct.pack("<IIII", 0, 0, len(frame), whole) + frame)
        at = frame.find(token) if incoming else -1
        if 0 <= at < len(frame) - len(token):
            heard[frame[at + len(token)]] += 1
    if keep:
        keep.close()
    told = {"frames": frames, "dropped": ear.dropped(), "heard": heard}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
