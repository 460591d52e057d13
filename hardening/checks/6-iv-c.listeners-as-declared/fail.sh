#!/bin/sh
# A listener nobody declared.
set -eu
own=$(ip -4 -o address show dev eth0 | awk '{print $4; exit}' | cut -d/ -f1)
systemd-run --quiet --unit=forged-listener python3 -c 'import socket, sys, time
listening = socket.create_server((sys.argv[1], 8099))
time.sleep(86400)' "$own"
sleep 1
