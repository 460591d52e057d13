#!/bin/sh
# A service on all addresses.
set -eu
systemd-run --quiet --unit=forged-everywhere python3 -c 'import socket, time
listening = socket.create_server(("", 8098))
time.sleep(86400)'
sleep 1
