#!/bin/sh
# A foreign key opens the administrator's account.
set -eu
work=$(mktemp -d)
ssh-keygen -q -t ed25519 -N '' -C nobody -f "$work/key"
cat "$work/key.pub" >>/etc/ssh/authorized_keys.d/aoki
rm -r "$work"
