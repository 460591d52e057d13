#!/bin/sh
# A program that reads every packet.
set -eu
systemd-run --quiet --unit=forged-sniffer python3 -c 'import socket, time
sniffing = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
time.sleep(86400)'
sleep 1
