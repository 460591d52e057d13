#!/bin/sh
# Everybody may read the key and the journal.
set -eu
chmod 0644 /etc/sekisho/host.key.pem
chmod 0755 /var/lib/sekisho/journal
