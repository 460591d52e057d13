"""Runs as the hospital's program: connects, says something, reads what comes back; again and again.

Standard library only; argv: address, port. Until SIGTERM; then prints how often a connection opened
and how many bytes were read.
"""

import contextlib
import signal
import socket
import sys
import time


def main():
    place, opened, read = (sys.argv[1], int(sys.argv[2])), 0, 0

    def finish(*_):
        sys.stdout.write(f"{opened} {read}\n")
        sys.stdout.flush()
        sys.exit(0)

    signal.signal(signal.SIGTERM, finish)
    while True:
        with contextlib.suppress(OSError), socket.create_connection(place, timeout=1) as link:
            link.settimeout(0.3)  # an answer comes at once or not at all
            link.sendall(b"x" * 100)
            opened += 1
            while piece := link.recv(65536):
                read += len(piece)
        time.sleep(0.05)  # a refusal comes at once: no flood of tries


if __name__ == "__main__":
    main()
