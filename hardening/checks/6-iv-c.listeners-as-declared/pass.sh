#!/bin/sh
# A program may listen for its own machine.
set -eu
systemd-run --quiet --unit=own-loopback python3 -c 'import socket, time
listening = socket.create_server(("127.0.0.1", 8097))
time.sleep(900)'
sleep 1
