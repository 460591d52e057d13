#!/bin/sh
# A key that a group can read.
set -eu
chmod 0640 /etc/ssh/ssh_host_ed25519_key
